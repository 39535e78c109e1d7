//! Money: limits hold under concurrency, short budgets shorten answers, and a crash loses nothing.

use crate::stack::{Stack, endpoints, eventually_settled, question};
use catalog::NanoUsd;
use database::{Database, Reservation};
use ledger::{Journal, Ledger, Replica, Writer, now_ms};
use serde_json::json;
use std::sync::Arc;
use tests::eventually;

/// One dollar a million tokens, 500 output tokens reserved: the bound of a request is its input plus 500 tokens.
async fn stack(upstream: &str) -> Stack {
    Stack::start(&endpoints("acme/paid", &[upstream])).await
}

/// What one request reserves, in nano-dollars, read from the record of a real one.
async fn reserved_nano(stack: &Stack, text: &str) -> i64 {
    let answered = stack.chat(&question("acme/paid", text)).await;
    let reserved = stack.generation(&answered).await["sluice"]["reserved_usd"].as_f64().expect("a reservation");
    (reserved * 1e9).round() as i64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_limited_to_100_reservations_lets_exactly_100_of_200_pass() {
    let stack = stack("sim/small").await;
    let one = reserved_nano(&stack, "distinct question number 1000").await;
    let key = stack.limited_key(100.0 * one as f64 / 1e9).await;
    let before = stack.simulator.arrived();
    stack.simulator.hold();
    let mut waiting = tokio::task::JoinSet::new();
    for at in 0..200 {
        let mut body = question("acme/paid", &format!("distinct question number {}", 2_000 + at));
        body["sluice"] = json!({"cache": {"mode": "off"}});
        let request = stack.post_as(&key, "/v1/chat/completions", &body);
        waiting.spawn(async move {
            let response = request.send().await.expect("an answer");
            (response.status().as_u16(), response.text().await.expect("a body"))
        });
    }
    let mut refused = 0;
    while refused < 100 {
        let (status, body) = waiting.join_next().await.expect("100 are refused").expect("no panic");
        assert_eq!(status, 402, "{body}");
        refused += 1;
    }
    eventually("100 arrive upstream", async || stack.simulator.arrived() - before == 100).await;
    stack.simulator.release();
    let mut charged = 0;
    while let Some(done) = waiting.join_next().await {
        let (status, body) = done.expect("no panic");
        assert_eq!(status, 200, "{body}");
        let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        charged += (body["usage"]["cost"].as_f64().expect("a cost") * 1e9).round() as i64;
    }
    assert_eq!(stack.simulator.arrived() - before, 100);
    let database = Database::open(&stack.database()).await.expect("the same file");
    let row = database.keys(None).await.expect("keys").pop().expect("the limited key is the last");
    eventually_settled(&database).await;
    let (count, sum) = database.charged_to_key(&row.hash).await.expect("sums");
    assert_eq!((count, sum), (200, charged), "each request has one record, and they add up to the nano-dollar");
    assert_eq!(database.key(&row.hash).await.expect("a row").expect("the key").usage_nano, charged);
}

#[tokio::test]
async fn short_money_shortens_the_answer_and_less_is_refused() {
    let stack = stack("sim/small").await;
    let text = "a question of moderate length, to be answered shortly";
    let full = reserved_nano(&stack, text).await;
    let key = stack.limited_key((full - 400_000) as f64 / 1e9).await; // 400 tokens short of 500
    let mut body = question("acme/paid", text);
    body["sluice"] = json!({"cache": {"mode": "off"}});
    let answered = stack.send(stack.post_as(&key, "/v1/chat/completions", &body)).await;
    assert_eq!(answered.status, 200, "{}", answered.text);
    assert_eq!(answered.header("x-sluice-max-tokens"), "100");
    assert_eq!(stack.simulator.seen().last().expect("a request").body["max_tokens"], 100);
    let poor = stack.limited_key(0.000_001).await;
    let refused = stack.send(stack.post_as(&poor, "/v1/chat/completions", &body)).await;
    assert_eq!(refused.status, 402);
    let metadata = &refused.json()["error"]["metadata"];
    assert_eq!(metadata["error_type"], "payment_required");
    assert!(metadata["needed_usd"].as_f64() > metadata["available_usd"].as_f64(), "{metadata}");
}

#[tokio::test]
async fn an_overrun_is_booked_and_blocks_the_next_request() {
    let stack = stack("sim/fault-overruns").await;
    let key = stack.limited_key(0.000_6).await;
    let mut body = question("acme/paid", "x");
    body["sluice"] = json!({"cache": {"mode": "off"}});
    let answered = stack.send(stack.post_as(&key, "/v1/chat/completions", &body)).await;
    assert_eq!(answered.status, 200, "{}", answered.text);
    let id = answered.header("x-generation-id");
    let record = stack.get(&format!("/v1/generation?id={id}")).await.json();
    assert!(record["data"]["sluice"]["overrun_usd"].as_f64().expect("a number") > 0.0, "{record}");
    let refused = stack.send(stack.post_as(&key, "/v1/chat/completions", &body)).await;
    assert_eq!(refused.status, 402, "{}", refused.text);
}

#[tokio::test]
async fn what_a_crash_left_open_is_settled_as_unconfirmed_at_its_reservation() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sluice.db");
    let database = Database::open(&path).await.expect("a database");
    let (replica, writer) = join(&database, &path).await;
    let (ledger, keys) = Ledger::open(Arc::clone(&replica), writer.clone(), Some("a")).await.expect("a ledger");
    let key = keys.and_then(|keys| keys.virtual_key).expect("the first start");
    let hash = ledger.authenticate(&key).await.expect("a caller").account.hash.clone();
    let open = Reservation {
        generation_id: "gen-open".into(),
        tenant_id: "default".into(),
        key_hash: hash.clone(),
        model: "m".into(),
        nano: 777,
        upstream_nano: 500,
        created_ms: 1,
        replica_id: replica.id(),
        ..Reservation::default()
    };
    let own = |id: &str| Reservation {
        is_free: true,
        source: "gen-open".into(),
        generation_id: id.into(),
        nano: 550,
        created_ms: now_ms(),
        ..open.clone()
    };
    writer.reserve(own("gen-own")).await.expect("stored");
    writer.reserve(open).await.expect("stored");
    writer.barrier().await;
    drop((ledger, writer)); // no settlement: as after kill -9
    let (replica, writer) = join(&database, &path).await;
    let (ledger, keys) = Ledger::open(replica, writer, Some("a")).await.expect("a ledger");
    assert_eq!(keys, None, "keys are shown once");
    let record = ledger.generation("default", "gen-open").await.expect("a query").expect("a record");
    assert_eq!((record.state.as_str(), record.charged_nano), ("unconfirmed", 777));
    assert_eq!(database.open_reservations().await.expect("a count"), 0);
    assert_eq!(ledger.key(None, &hash).await.expect("a query").expect("the key").row.usage_nano, 777);
    // What the gateway asked for itself is booked as cost of its own, and no key pays for it, also not when it is closed.
    let own = ledger.generation("default", "gen-own").await.expect("a query").expect("a record");
    assert_eq!((own.upstream_nano, own.charged_nano, own.cache.as_str()), (500, 0, "shadow"));
    assert_eq!(database.compared_since(0).await.expect("a sum"), 500);
    database.reconcile(&[("gen-own".to_owned(), 400)]).await.expect("closed");
    assert_eq!(database.compared_since(0).await.expect("a sum"), 400);
    assert_eq!(database.charged_to_key(&hash).await.expect("sums"), (2, 777));
}

async fn join(database: &Database, path: &std::path::Path) -> (Arc<Replica>, Writer) {
    let journal = Journal::open(&path.with_extension("journal"), false).expect("a journal");
    let replica = Replica::join(database.clone(), None).await.expect("joined");
    let (writer, _writing) = Writer::start(Arc::clone(&replica), journal, NanoUsd::ZERO);
    (replica, writer)
}

#[tokio::test]
async fn a_tenant_cannot_read_anothers_generation() {
    let stack = stack("sim/small").await;
    let answered = stack.chat(&question("acme/paid", "x")).await;
    let operator = crate::stack::ADMIN;
    let made = stack.send(stack.post_as(operator, "/admin/tenants", &json!({"id": "other"}))).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let body = json!({"name": "k", "workspace_id": "other"});
    let foreign = stack.send(stack.post_as(operator, "/v1/keys", &body)).await.json()["key"].clone();
    let foreign = foreign.as_str().expect("a key");
    let url = stack.url(&format!("/v1/generation?id={}", answered.header("x-generation-id")));
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let read = client.get(url).bearer_auth(foreign).send().await.expect("an answer");
    assert_eq!(read.status().as_u16(), 404);
    let same = stack.send(stack.post_as(foreign, "/v1/chat/completions", &question("acme/paid", "x"))).await;
    assert_eq!(same.header("x-sluice-cache"), "miss", "answers never cross tenants");
}
