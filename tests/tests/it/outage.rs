//! The database away, the disk full, the process dead: what is served, and that the books balance.

use crate::stack::{Stack, endpoints, question};
use database::Database;
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tests::eventually;

const NO_SEMANTIC: &str = "[cache.semantic]\nenabled = false\n";

/// Another process that holds the money file.
struct Holder(Child);

impl Holder {
    fn lock(path: &Path) -> Self {
        let script = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)\n\
                      c.execute('BEGIN EXCLUSIVE')\nprint('held', flush=True)\nsys.stdin.readline()\nc.execute('ROLLBACK')\n";
        let mut command = Command::new("python3");
        command.args(["-c", script]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3 runs");
        let mut said = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut said).expect("it says so");
        assert_eq!(said, "held\n");
        Self(child)
    }

    fn release(mut self) {
        self.0.stdin.take().expect("piped").write_all(b"\n").expect("it listens");
        self.0.wait().expect("it ends");
    }
}

/// The database is away, and a request finds that out: it is served, because a file has its reservation.
async fn noticed(stack: &Stack) {
    assert_eq!(stack.chat(&question("acme/good", "nobody knows yet")).await.status, 200);
    tokio::time::sleep(Duration::from_millis(1_500)).await; // SQLite waits for a second before it says so
}

async fn balance(database: &Database) -> (i64, i64, i64) {
    let key = database.keys(None).await.expect("keys").remove(0);
    let (count, charged) = database.charged_to_key(&key.hash).await.expect("sums");
    assert_eq!(charged, key.usage_nano, "the key's sum is the sum of its records");
    (count, charged, database.open_reservations().await.expect("a count"))
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_known_keys_spend_up_to_the_limit_and_the_books_balance_afterwards() {
    // One request reserves about 530 millionths of a dollar.
    let config = endpoints("acme/good", &["sim/small"]) + "[database]\noutage_spend_max_usd = 0.0012\n" + NO_SEMANTIC;
    let stack = Stack::start(&config).await;
    let first = stack.chat(&question("acme/good", "before")).await;
    assert_eq!(first.status, 200, "{}", first.text);
    stack.generation(&first).await; // waits until it is stored
    let holder = Holder::lock(&stack.database());
    noticed(&stack).await;
    let mut statuses = Vec::new();
    stack.simulator.hold();
    let mut open = tokio::task::JoinSet::new();
    for at in 0..4 {
        open.spawn(
            stack.post_as(&stack.key, "/v1/chat/completions", &question("acme/good", &format!("during {at}"))).send(),
        );
    }
    eventually("two go upstream", async || stack.simulator.arrived() == 4).await;
    let refused = [open.join_next().await, open.join_next().await]
        .map(|done| done.expect("two are refused").expect("no panic").expect("an answer"));
    for response in refused {
        assert_eq!(response.status(), 503);
        assert!(response.headers().contains_key("retry-after"));
    }
    stack.simulator.release();
    while let Some(done) = open.join_next().await {
        statuses.push(done.expect("no panic").expect("an answer").status().as_u16());
    }
    assert_eq!(statuses, [200, 200], "what was journaled is served");
    let hit = stack.chat(&question("acme/good", "before")).await;
    assert_eq!((hit.status, hit.header("x-sluice-cache")), (200, "exact"), "hits go on");
    // The image of a crash at this moment: another gateway on a copy books the journal.
    let crashed = tempfile::tempdir().expect("a folder");
    // By another process: closing a copy of the file here would drop the gateway's locks on it (sqlite.org/howtocorrupt.html).
    let script = "cp \"$0\"/sluice.db \"$0\"/sluice.db-wal \"$0\"/sluice-journal*.jsonl \"$1\"";
    let copied = Command::new("sh").args(["-c", script]).args([stack.folder.path(), crashed.path()]).status();
    assert!(copied.expect("cp runs").success());
    holder.release();
    let database = Database::open(&stack.database()).await.expect("the same file");
    eventually("all is booked", async || balance(&database).await.0 == 7).await;
    let (count, charged, open) = balance(&database).await;
    assert_eq!((count, open), (7, 0), "two served and a hit, two refused, one before, one that noticed it");
    let journal = stack.folder.path().join("sluice-journal.jsonl");
    eventually("the journal is empty", async || std::fs::metadata(&journal).expect("a journal").len() == 0).await;
    let path = crashed.path().join("sluice.db");
    let image = Database::open(&path).await.expect("the image");
    let mut lines = ledger::Journal::open(&crashed.path().join("sluice-journal.jsonl"), false).expect("its journal");
    lines.book(&image).await.expect("booked");
    image.end_all_replicas().await.expect("settled");
    let (_, charged_in_image, open_in_image) = balance(&image).await;
    assert_eq!((charged_in_image, open_in_image), (charged, 0), "a crash in the outage loses nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_allowance_nothing_that_costs_money_is_served_while_the_database_is_away() {
    let stack = Stack::start(&(endpoints("acme/good", &["sim/small"]) + NO_SEMANTIC)).await;
    let first = stack.chat(&question("acme/good", "before")).await;
    stack.generation(&first).await;
    let holder = Holder::lock(&stack.database());
    noticed(&stack).await;
    let refused = stack.chat(&question("acme/good", "during")).await;
    assert_eq!((refused.status, stack.simulator.arrived()), (503, 2), "{}", refused.text);
    assert_eq!(stack.chat(&question("acme/good", "before")).await.header("x-sluice-cache"), "exact");
    holder.release();
    eventually("it recovers", async || stack.chat(&question("acme/good", "after")).await.status == 200).await;
}

#[tokio::test]
async fn a_full_store_refuses_what_costs_money_and_nothing_else() {
    let mut stack = Stack::start(&(endpoints("acme/good", &["sim/small"]) + NO_SEMANTIC)).await;
    let known = question("acme/good", "known");
    stack.chat(&known).await;
    stack.gateway.take().expect("a gateway runs").stop().await;
    let size = std::fs::metadata(stack.database()).expect("the money file").len();
    let mut full = Stack::on(
        stack.simulator,
        stack.folder,
        &stack.key,
        &(endpoints("acme/good", &["sim/small"]) + &format!("[database]\nbytes_max = {size}\n") + NO_SEMANTIC),
    )
    .await;
    let mut refused = None;
    for at in 0..200 {
        let answered = full.chat(&question("acme/good", &format!("{at} {}", "long ".repeat(50)))).await;
        if answered.status != 200 {
            refused = Some(answered);
            break;
        }
    }
    let refused = refused.expect("the file is full");
    assert_eq!(refused.status, 503);
    assert!(refused.text.contains("storage_full"), "{}", refused.text);
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(full.get("/health").await.status, 200);
    assert_eq!(full.chat(&known).await.header("x-sluice-cache"), "exact", "hits go on");
    full.gateway.take().expect("a gateway runs").stop().await;
    let roomy =
        Stack::on(full.simulator, full.folder, &full.key, &(endpoints("acme/good", &["sim/small"]) + NO_SEMANTIC))
            .await;
    assert_eq!(roomy.chat(&question("acme/good", "there is room again")).await.status, 200);
    let database = Database::open(&roomy.database()).await.expect("the same file");
    crate::stack::eventually_settled(&database).await;
    balance(&database).await;
}

#[tokio::test]
async fn unconfirmed_requests_are_closed_at_their_cost_and_a_running_gateway_takes_it_over() {
    let stack = Stack::start(&(endpoints("acme/good", &["sim/small"]) + NO_SEMANTIC)).await;
    stack.chat(&question("acme/good", "x")).await;
    let database = Database::open(&stack.database()).await.expect("the same file");
    let key = database.keys(None).await.expect("keys").remove(0);
    let open = |id: &str, nano| database::Reservation {
        generation_id: id.to_owned(),
        tenant_id: key.tenant_id.clone(),
        key_hash: key.hash.clone(),
        model: "acme/good".to_owned(),
        nano,
        upstream_nano: nano,
        created_ms: 1,
        replica_id: "dead".to_owned(),
        ..database::Reservation::default()
    };
    crate::stack::eventually_settled(&database).await;
    database.register_replica("dead").await.expect("a gateway");
    let reserved = [open("gen-a", 1_000_000_000), open("gen-b", 2_000_000_000)];
    database.commit("dead", &reserved, &[]).await.expect("stored");
    assert_eq!(database.end_replica("dead").await.expect("settled"), 2);
    let listed: Vec<String> = database.unconfirmed().await.expect("a list").into_iter().map(|g| g.id).collect();
    assert_eq!(listed, ["gen-a", "gen-b"]);
    let before = stack.get("/v1/key").await.json()["data"]["usage"].as_f64().expect("dollars");
    let confirmed = [("gen-a".to_owned(), 250_000_000), ("gen-b".to_owned(), 2_000_000_000)];
    assert_eq!(database.reconcile(&confirmed).await.expect("closed"), 2);
    assert_eq!(database.reconcile(&confirmed).await.expect("nothing"), 0, "closed once");
    assert!(database.unconfirmed().await.expect("a list").is_empty());
    balance(&database).await;
    let usage = async || stack.get("/v1/key").await.json()["data"]["usage"].as_f64().expect("dollars");
    eventually("the correction arrives", async || (before - usage().await - 0.75).abs() < 1e-9).await;
    let record = stack.get("/v1/generation?id=gen-a").await.json();
    assert_eq!(record["data"]["sluice"]["state"], json!("reconciled"));
}

#[tokio::test]
async fn with_durability_power_an_answer_waits_for_the_disk_and_comes() {
    let config = endpoints("acme/good", &["sim/small"]) + "[database]\ndurability = \"power\"\n" + NO_SEMANTIC;
    let stack = Stack::start(&config).await;
    for at in 0..5 {
        let answered = stack.chat(&question("acme/good", &format!("{at}"))).await;
        assert_eq!(answered.status, 200, "{}", answered.text);
    }
    let database = Database::open(&stack.database()).await.expect("the same file");
    crate::stack::eventually_settled(&database).await;
    assert_eq!(balance(&database).await.0, 5);
}
