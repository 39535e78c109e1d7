//! What both stores of money and access promise, held against each: SQLite and PostgreSQL.

use database::{
    Changed, Content, ContentFile, Database, DatabaseConfig, DatabaseError, DatabaseUrl, Drawn, Generation, KeyRow,
    Reservation, Score, Settled, SplitBy, TenantLimits, TenantRow, UsageFilter, UsageRow, WantedLease, budget_id,
};
use tempfile::TempDir;
use tests::postgres::Server;

/// One store that is empty but for a tenant `acme` with a key `k`.
pub(crate) struct Store {
    pub name: &'static str,
    pub config: DatabaseConfig,
    pub database: Database,
    _folder: TempDir,
}

/// Each kind of store.
pub(crate) async fn stores() -> Vec<Store> {
    let mut stores = Vec::new();
    for name in ["sqlite", "postgres"] {
        let folder = tempfile::tempdir().expect("a folder");
        let url = match name {
            "sqlite" => format!("sqlite://{}", folder.path().join("sluice.db").display()),
            _ => tokio::task::spawn_blocking(|| Server::shared().database()).await.expect("a server"),
        };
        let config = DatabaseConfig {
            url: DatabaseUrl::new(url),
            folder: folder.path().to_owned(),
            ..DatabaseConfig::default()
        };
        let database = Database::open_with(&config).await.expect("a store");
        let tenant =
            TenantRow { id: "acme".into(), name: "Acme".into(), weight: 1, terms: "{}".into(), ..TenantRow::default() };
        assert!(database.insert_tenant(&tenant, &tenant_limits(None, "")).await.expect("a tenant"));
        add_key(&database, "k", None).await;
        stores.push(Store { name, config, database, _folder: folder });
    }
    stores
}

/// The tenant spends as it likes, each of its users up to a limit.
pub(crate) fn tenant_limits(user_nano: Option<i64>, user_reset: &str) -> TenantLimits {
    let (id, tenant_id) = (budget_id("tenant", "acme"), "acme".into());
    let budget = database::BudgetRow { id, tenant_id, ..database::BudgetRow::default() };
    TenantLimits { budget, user_nano, user_reset: user_reset.into(), is_prepaid: false }
}

pub(crate) async fn add_key(database: &Database, hash: &str, limit: Option<i64>) {
    let key = KeyRow {
        hash: hash.into(),
        tenant_id: "acme".into(),
        name: hash.into(),
        label: "sk…".into(),
        role: "member".into(),
        rules: "{}".into(),
        created_ms: 1,
        ..KeyRow::default()
    };
    let budget = database::BudgetRow {
        id: budget_id("key", hash),
        tenant_id: "acme".into(),
        limit_nano: limit,
        ..database::BudgetRow::default()
    };
    database.insert_key(&key, &budget).await.expect("a key");
}

pub(crate) fn reservation(id: &str, replica: &str, nano: i64) -> Reservation {
    Reservation {
        generation_id: id.into(),
        tenant_id: "acme".into(),
        key_hash: "k".into(),
        model: "m".into(),
        nano,
        upstream_nano: nano,
        created_ms: 5,
        end_user: "ann".into(),
        replica_id: replica.into(),
        ..Reservation::default()
    }
}

pub(crate) fn generation(id: &str, charged: i64) -> Generation {
    Generation {
        id: id.into(),
        tenant_id: "acme".into(),
        key_hash: "k".into(),
        created_ms: 86_400_000 * 20_000 + 7,
        state: "served".into(),
        model: "acme/one".into(),
        endpoint: "acme/one@p".into(),
        provider: "p".into(),
        cache: "miss".into(),
        input_tokens: 10,
        output_tokens: 4,
        reasoning_tokens: 1,
        upstream_nano: charged / 2,
        charged_nano: charged,
        end_user: "ann".into(),
        attempts: "[]".into(),
        reasons: "{}".into(),
        ..Generation::default()
    }
}

pub(crate) fn settled(id: &str, charged: i64) -> Settled {
    Settled { generation: generation(id, charged), drawn: Vec::new() }
}

/// What every book says of what the tenant was charged: they agree.
pub(crate) async fn charged(store: &Database) -> i64 {
    let (_, of_key) = store.charged_to_key("k").await.expect("a sum");
    let key = store.key("k").await.expect("a query").expect("the key").usage_nano;
    let spent = |id: String| async move { store.budget(&id).await.expect("a query").map(|row| row.spent_nano) };
    let usage = store.usage(UsageFilter { days: (0, 40_000), ..UsageFilter::default() }, &[]).await.expect("sums");
    let ledger: i64 = store
        .balances()
        .await
        .expect("balances")
        .iter()
        .filter(|balance| balance.account == "revenue")
        .map(|balance| balance.nano)
        .sum();
    assert_eq!(key, of_key, "the key and its generations");
    assert_eq!(spent(budget_id("key", "k")).await, Some(of_key), "the key's budget");
    assert_eq!(spent(budget_id("tenant", "acme")).await, Some(of_key), "the tenant's budget");
    assert_eq!(usage.iter().map(|row| row.charged_nano).sum::<i64>(), of_key, "the sums by day");
    for split in [[SplitBy::Key].as_slice(), &[SplitBy::App], &[SplitBy::Step], &[SplitBy::Key, SplitBy::Cache]] {
        let rows = store.usage(UsageFilter { days: (0, 40_000), ..UsageFilter::default() }, split).await.expect("sums");
        assert_eq!(rows.iter().map(|row| row.charged_nano).sum::<i64>(), of_key, "the sums by day and {split:?}");
        let requests = |rows: &[UsageRow]| rows.iter().map(|row| row.requests).sum::<i64>();
        assert_eq!(requests(&rows), requests(&usage));
    }
    assert_eq!(ledger, of_key, "the ledger");
    let all: i64 = store.balances().await.expect("balances").iter().map(|balance| balance.nano).sum();
    assert_eq!(all, 0, "what one account gives another takes");
    of_key
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_stored_whole_and_every_book_agrees() {
    for Store { name, database, .. } in stores().await {
        database.register_replica("r").await.expect("a gateway");
        let ids: Vec<String> = (0..700).map(|at| format!("gen-{at}")).collect();
        let open: Vec<Reservation> = ids.iter().map(|id| reservation(id, "r", 100)).collect();
        database.commit("r", &open, &[]).await.expect("reserved");
        assert_eq!(database.open_reservations().await.expect("a count"), 700, "{name}");
        let done: Vec<Settled> = ids.iter().enumerate().map(|(at, id)| settled(id, at as i64)).collect();
        database.commit("r", &[], &done).await.expect("settled");
        assert_eq!(database.open_reservations().await.expect("a count"), 0, "{name}");
        assert_eq!(charged(&database).await, 699 * 700 / 2, "{name}");
        let read = database.generation("acme", "gen-5").await.expect("a query");
        assert_eq!(read, Some(generation("gen-5", 5)), "{name}");
        assert_eq!(database.generation("other", "gen-5").await.expect("a query"), None, "{name}");
        let twice = database.commit("r", &[], &[settled("gen-800", 1), settled("gen-5", 9)]).await;
        assert!(twice.expect_err("it is there").is_duplicate(), "{name}");
        assert_eq!(database.generation("acme", "gen-800").await.expect("a query"), None, "{name}: all or nothing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_settled_for_a_dead_gateway_is_replaced_by_the_real_record() {
    for Store { name, database, .. } in stores().await {
        database.register_replica("r").await.expect("a gateway");
        let open = [reservation("gen-1", "r", 100), reservation("gen-2", "r", 50)];
        database.commit("r", &open, &[]).await.expect("reserved");
        assert_eq!(database.end_replica("r").await.expect("ended"), 2, "{name}");
        assert_eq!(charged(&database).await, 150, "{name}: at their reservations");
        let late = database.commit("r", &[], &[settled("gen-1", 70)]).await;
        assert!(matches!(late, Err(DatabaseError::Fenced)), "{name}: {late:?}");
        for _ in 0..2 {
            database.replay(&[reservation("gen-1", "r", 100)], &[settled("gen-1", 70)]).await.expect("booked");
        }
        assert_eq!(charged(&database).await, 120, "{name}");
        assert_eq!(database.open_reservations().await.expect("a count"), 0, "{name}: it is settled");
        assert_eq!(
            database.reconcile(&[("gen-2".into(), 20), ("gen-1".into(), 1)]).await.expect("closed"),
            1,
            "{name}"
        );
        assert_eq!(charged(&database).await, 90, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_of_all_gateways_never_exceed_the_budget_and_return_with_the_dead() {
    for Store { name, database, .. } in stores().await {
        add_key(&database, "l", Some(1_000)).await;
        let id = budget_id("key", "l");
        for replica in ["a", "b"] {
            database.register_replica(replica).await.expect("a gateway");
        }
        let lease = async |replica: &str, nano: i64| {
            let wanted = WantedLease { budget_id: &id, replica_id: replica, nano };
            database.lease(wanted).await.expect("an answer")
        };
        let first = lease("a", 100).await;
        let second = lease("b", 900).await;
        let leased = first.granted_nano + second.granted_nano;
        assert!(first.granted_nano >= 100 && leased <= 1_000, "{name}: {first:?} {second:?}");
        assert_eq!(database.leased(&id).await.expect("a sum"), leased, "{name}");
        if database.is_shared() {
            assert!(first.granted_nano < 1_000, "{name}: something is left for others");
            assert!(second.others_hold, "{name}");
            assert_eq!(database.budgets_wanted(60_000).await.expect("ids"), std::slice::from_ref(&id), "{name}");
            database.give_back(&id, "a", first.granted_nano).await.expect("given back");
            assert_eq!(lease("b", 900).await.granted_nano, 1_000 - second.granted_nano.min(1_000), "{name}");
        }
        let holder = if database.is_shared() { "b" } else { "a" };
        let mut open = reservation("gen-l", holder, 300);
        open.key_hash = "l".into();
        database.commit(holder, &[open], &[]).await.expect("reserved");
        let mut done = settled("gen-m", 200);
        done.generation.key_hash = "l".into();
        done.drawn = vec![Drawn { budget_id: id.clone(), replica_id: holder.into(), nano: 200 }];
        database.commit(holder, &[], &[done]).await.expect("settled");
        assert_eq!(database.leased(&id).await.expect("a sum"), 800, "{name}: what was spent is not leased any more");
        database.end_replica(holder).await.expect("ended");
        assert_eq!(database.leased(&id).await.expect("a sum"), 0, "{name}");
        let row = database.budget(&id).await.expect("a query").expect("the budget");
        assert_eq!(row.spent_nano, 500, "{name}: spent, and reserved by the dead");
        database.register_replica("c").await.expect("a gateway");
        let rest = lease("c", 1_000).await;
        assert_eq!(rest.granted_nano, 500, "{name}");
        let gone = database.lease(WantedLease { budget_id: &id, replica_id: holder, nano: 1 }).await;
        assert!(matches!(gone, Err(DatabaseError::Fenced)), "{name}: {gone:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stays_silent_is_taken_for_dead_and_one_that_speaks_is_not() {
    for Store { name, database, config, .. } in stores().await {
        for replica in ["silent", "alive"] {
            database.register_replica(replica).await.expect("a gateway");
        }
        database.commit("silent", &[reservation("gen-1", "silent", 30)], &[]).await.expect("reserved");
        database.commit("alive", &[reservation("gen-2", "alive", 40)], &[]).await.expect("reserved");
        assert_eq!(database.reap_dead().await.expect("nobody"), 0, "{name}");
        age(&config, "silent");
        assert_eq!(database.reap_dead().await.expect("one"), 1, "{name}");
        assert_eq!(charged(&database).await, 30, "{name}");
        assert_eq!(database.open_reservations().await.expect("a count"), 1, "{name}");
        database.renew_replica("alive").await.expect("alive");
        assert!(matches!(database.renew_replica("silent").await, Err(DatabaseError::Fenced)), "{name}");
        assert_eq!(database.replicas_alive().await.expect("a count"), 1, "{name}");
    }
}

/// Lets a gateway have been silent for a long time.
fn age(config: &DatabaseConfig, replica: &str) {
    statement(config, &format!("UPDATE replicas SET expires_ms = 1 WHERE id = '{replica}'"));
}

/// Runs a statement in a store by another program than ours.
pub(crate) fn statement(config: &DatabaseConfig, text: &str) {
    match config.url.sqlite_path() {
        None => drop(Server::shared().query(&url_of(config), text).expect("done")),
        Some(path) => {
            let script = "import sqlite3, sys\nwith sqlite3.connect(sys.argv[1]) as c: c.execute(sys.argv[2])";
            let done = std::process::Command::new("python3").args(["-c", script]).arg(path).arg(text).status();
            assert!(done.expect("python3 runs").success(), "{text}");
        }
    }
}

/// The tests' server takes everybody, so that what a URL shows of itself is all there is.
pub(crate) fn url_of(config: &DatabaseConfig) -> String {
    config.url.to_string().replace("://…@", "://postgres@")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_what_somebody_else_changed_meanwhile_is_a_conflict() {
    for Store { name, database, .. } in stores().await {
        let read = database.key("k").await.expect("a query").expect("the key");
        let budget = database.budget(&budget_id("key", "k")).await.expect("a query").expect("its budget");
        let renamed = KeyRow { name: "one".into(), ..read.clone() };
        let limited = database::BudgetRow { limit_nano: Some(7), reset: "daily".into(), ..budget.clone() };
        assert_eq!(database.update_key(&renamed, &limited).await.expect("changed"), Changed::Done, "{name}");
        let late = KeyRow { name: "two".into(), ..read };
        assert_eq!(database.update_key(&late, &budget).await.expect("an answer"), Changed::Conflict, "{name}");
        let key = database.key("k").await.expect("a query").expect("the key");
        let budget = database.budget(&budget_id("key", "k")).await.expect("a query").expect("its budget");
        assert_eq!((key.name.as_str(), budget.limit_nano, budget.reset.as_str()), ("one", Some(7), "daily"), "{name}");
        let deleted = KeyRow { deleted: true, ..key };
        assert_eq!(database.update_key(&deleted, &budget).await.expect("changed"), Changed::Done, "{name}");
        assert!(database.keys(Some("acme")).await.expect("keys").is_empty(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_begins_with_what_was_spent_in_it_and_a_new_one_with_nothing() {
    for Store { name, database, config, .. } in stores().await {
        database.register_replica("r").await.expect("a gateway");
        let now = database.now_ms().await.expect("a time");
        let mut today = settled("gen-today", 30);
        today.generation.created_ms = now;
        database.commit("r", &[], &[settled("gen-old", 100), today]).await.expect("settled");
        let id = budget_id("key", "k");
        let spent = async || database.budget(&id).await.expect("a query").expect("the budget").spent_nano;
        assert_eq!(spent().await, 130, "{name}: without a reset everything counts");
        for (reset, expected) in [("daily", 30), ("monthly", 30), ("weekly", 30), ("", 130)] {
            let key = database.key("k").await.expect("a query").expect("the key");
            let budget = database.budget(&id).await.expect("a query").expect("the budget");
            let budget = database::BudgetRow { reset: reset.into(), limit_nano: Some(1_000), ..budget };
            database.update_key(&key, &budget).await.expect("changed");
            assert_eq!(spent().await, expected, "{name} {reset}");
        }
        let key = database.key("k").await.expect("a query").expect("the key");
        let budget = database.budget(&id).await.expect("a query").expect("the budget");
        database.update_key(&key, &database::BudgetRow { reset: "daily".into(), ..budget }).await.expect("changed");
        statement(&config, "UPDATE budgets SET window_ms = window_ms - 86400000 WHERE id = 'key:k'");
        assert_eq!(spent().await, 0, "{name}: a day later");
        let leased = database.lease(WantedLease { budget_id: &id, replica_id: "r", nano: 1_000 }).await;
        assert_eq!(leased.expect("an answer").granted_nano, 1_000, "{name}");
        statement(&config, "UPDATE budgets SET window_ms = window_ms + 86400000 WHERE id = 'key:k'");
        database.commit("r", &[], &[settled("gen-back", 5)]).await.expect("settled");
        statement(&config, "UPDATE budgets SET window_ms = window_ms - 86400000 WHERE id = 'key:k'");
        assert_eq!(spent().await, 5, "{name}: a clock that goes back begins no window again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sums_by_day_are_split_as_asked_and_stay_within_the_tenant() {
    for Store { name, database, .. } in stores().await {
        database.register_replica("r").await.expect("a gateway");
        let mut hit = settled("gen-1", 0);
        (hit.generation.cache, hit.generation.saved_nano, hit.generation.step) = ("exact".into(), 9, "plan".into());
        let mut failed = settled("gen-2", 2);
        failed.generation.state = "failed".into();
        database.commit("r", &[], &[hit, failed, settled("gen-3", 3)]).await.expect("settled");
        let of = |tenant| UsageFilter { tenant_id: Some(tenant), days: (20_000, 20_000), ..UsageFilter::default() };
        let rows = database.usage(of("acme"), &[SplitBy::Cache, SplitBy::Step]).await.expect("sums");
        let shown: Vec<_> = rows
            .iter()
            .map(|row| {
                (row.cache.as_str(), row.step.as_str(), row.requests, row.failed, row.charged_nano, row.saved_nano)
            })
            .collect();
        assert_eq!(shown, [("miss", "", 2, 1, 5, 0), ("exact", "plan", 1, 0, 0, 9)], "{name}");
        assert_eq!((rows[0].input_tokens, rows[0].output_tokens, rows[0].reasoning_tokens), (20, 10, 2), "{name}");
        assert!(database.usage(of("other"), &[]).await.expect("sums").is_empty(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_are_kept_whatever_is_in_them() {
    for Store { name, config, .. } in stores().await {
        let file = ContentFile::beside(&config, None).await.expect("a store");
        let content = |id: &str, at: i64| Content {
            generation_id: id.into(),
            tenant_id: "acme".into(),
            created_ms: at,
            question: "a NUL \0 and an emoji 🦀".into(),
            ..Content::default()
        };
        file.keep(&[content("gen-1", 1), content("gen-2", 2), content("gen-1", 3)]).await.expect("kept");
        let read = file.content("acme", "gen-1").await.expect("a query").expect("it is kept");
        assert!(read.created_ms == 1 && read.question.contains('🦀'), "{name}: {read:?}");
        assert!(file.content("other", "gen-1").await.expect("a query").is_none(), "{name}");
        let score = |score| Score {
            tenant_id: "acme".into(),
            generation_id: "gen-1".into(),
            rater: "client".into(),
            score,
            created_ms: 5,
        };
        file.rate(&[score(0.2), score(0.75)]).await.expect("rated");
        assert_eq!(file.scores("acme", "gen-1").await.expect("scores"), [score(0.75)], "{name}");
        assert_eq!(file.scored_since(&["acme".into()], 5).await.expect("a count"), 1, "{name}");
        let page = file.page(None, Some(&(1, "gen-1".into())), 10).await.expect("a page");
        assert_eq!(page.len(), 1, "{name}");
        assert_eq!(file.sweep(2).await.expect("swept"), 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_of_the_future_and_a_wrong_address_are_refused_and_left_alone() {
    for Store { name, database, config, .. } in stores().await {
        let later = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'of the future', TRUE, 'x', 0)";
        let later = if name == "sqlite" { later.to_owned() } else { later.replace("'x'", "'x'::bytea") };
        statement(&config, &later);
        drop(database);
        let refused = Database::open_with(&config).await.expect_err("newer").to_string();
        assert!(refused.contains("newer version") && refused.contains("9999"), "{name}: {refused}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "these are notes, not a database, and they are long enough to have a header").expect("notes");
    let refused = Database::open(&text).await.expect_err("no database").to_string();
    assert!(refused.contains("notes.txt"), "{refused}");
    assert!(std::fs::read_to_string(&text).expect("still there").starts_with("these are notes"));
    // /proc takes no file from anybody, like a disk that is read-only.
    let refused =
        Database::open(std::path::Path::new("/proc/sluice/sluice.db")).await.expect_err("read-only").to_string();
    assert!(refused.contains("/proc/sluice"), "{refused}");
    let url = DatabaseUrl::new("postgres://sluice:secret@127.0.0.1:1/none?password=hidden");
    let refused = Database::open_with(&DatabaseConfig { url, ..DatabaseConfig::default() }).await;
    let refused = refused.expect_err("nobody is there").to_string();
    assert!(
        refused.contains("127.0.0.1:1/none") && !refused.contains("secret") && !refused.contains("hidden"),
        "{refused}"
    );
}

/// Applies the first four steps of the schema as an earlier version did, with a tenant, a key and two requests in it.
const EARLIER: &str = r"
import hashlib, pathlib, sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute('CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, installed_on TIMESTAMP '
           'NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL, checksum BLOB NOT NULL, execution_time BIGINT NOT NULL)')
for path in sorted(pathlib.Path(sys.argv[2]).glob('000[1-4]_*.sql')):
    db.executescript(path.read_text())
    version, description = path.stem.split('_', 1)
    db.execute('INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (?, ?, TRUE, ?, 0)',
               (int(version), description.replace('_', ' '), hashlib.sha384(path.read_bytes()).digest()))
db.execute('INSERT INTO tenants (id, name, created_ms) VALUES (?, ?, 1)', ('acme', 'Acme'))
db.execute('INSERT INTO keys (hash, tenant_id, name, label, limit_nano, usage_nano, created_ms, updated_ms) '
           'VALUES (?, ?, ?, ?, 1000, 300, 1, 1)', ('k', 'acme', 'k', 'sk'))
columns = [row[1] for row in db.execute('PRAGMA table_info(generations)')]
for id, charged in (('gen-1', 100), ('gen-2', 200)):
    values = dict.fromkeys(columns, '') | {'id': id, 'tenant_id': 'acme', 'key_hash': 'k', 'state': 'served', 'provider': 'p'}
    for column in columns:
        if column.endswith(('_nano', '_ms', '_tokens')) or column in ('streamed', 'estimated'):
            values[column] = 0
    values |= {'charged_nano': charged, 'upstream_nano': charged, 'created_ms': 86400000 * 20000}
    names, places = ', '.join(values), ', '.join('?' * len(values))
    db.execute(f'INSERT INTO generations ({names}) VALUES ({places})', tuple(values.values()))
db.execute('INSERT INTO reservations (generation_id, tenant_id, key_hash, model, nano, created_ms) '
           'VALUES (?, ?, ?, ?, 50, 1)', ('gen-3', 'acme', 'k', 'm'))
db.commit()
";

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_an_earlier_version_keeps_every_nano_dollar() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sluice.db");
    let steps = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/database/migrations/money");
    let made = std::process::Command::new("python3").args(["-c", EARLIER]).arg(&path).arg(steps).output();
    let made = made.expect("python3 runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let database = Database::open(&path).await.expect("brought up to date");
    assert_eq!(charged(&database).await, 300, "keys, budgets, sums by day and ledger agree with the records");
    let budget = database.budget(&budget_id("key", "k")).await.expect("a query").expect("the key's");
    assert_eq!((budget.limit_nano, budget.spent_nano), (Some(1_000), 300));
    assert_eq!(database.end_all_replicas().await.expect("settled"), 1, "what was open when it ended");
    assert_eq!(charged(&database).await, 350);
    // A copy that was made while it ran is a backup.
    let backup = folder.path().join("backup.db");
    let script = "import sqlite3, sys\nsqlite3.connect(sys.argv[1]).backup(sqlite3.connect(sys.argv[2]))";
    let copied = std::process::Command::new("python3").args(["-c", script]).arg(&path).arg(&backup).status();
    assert!(copied.expect("python3 runs").success());
    database.register_replica("r").await.expect("a gateway");
    database.commit("r", &[], &[settled("gen-4", 7)]).await.expect("settled");
    drop(database);
    let restored = Database::open(&backup).await.expect("restored");
    assert_eq!(charged(&restored).await, 350, "what came after the backup is not in it, and what is in it agrees");
}
