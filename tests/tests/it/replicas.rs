//! Several gateways on one PostgreSQL: one budget, one set of keys, and what happens when one of them or the database dies.

use crate::stack::{ADMIN, endpoints, question, simulator};
use crate::stores::{reservation, statement};
use database::{Database, DatabaseConfig, DatabaseUrl};
use gateway::{App, ConfigFile, Gateway, serve};
use serde_json::{Value, json};
use simulator::Simulator;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tests::eventually;
use tests::postgres::Server;
use tokio::net::TcpListener;

/// Gateways that share a database and a provider.
struct Fleet {
    gateways: Vec<Gateway>,
    simulator: Simulator,
    url: String,
    key: String,
    client: reqwest::Client,
    _folder: TempDir,
}

impl Fleet {
    async fn start(url: String, count: usize, more: &str) -> Self {
        let _installed_before = rustls::crypto::ring::default_provider().install_default();
        let (folder, simulator) = (tempfile::tempdir().expect("a folder"), simulator(vec![]).await);
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let mut fleet = Self { gateways: Vec::new(), simulator, url, key: String::new(), client, _folder: folder };
        for at in 0..count {
            fleet.add(at, more).await;
        }
        fleet
    }

    async fn add(&mut self, at: usize, more: &str) {
        let folder = self._folder.path().join(at.to_string());
        let text = format!(
            "[database]\nurl = \"{}\"\nfolder = \"{}\"\n{more}\n[server]\nstop_delay_ms = 1\nlag_max_ms = 10000\n[cache.semantic]\nenabled = false\n\
             [cache.exact]\nenabled = false\n[providers.p0]\nkind = \"simulated\"\nbase_url = \"{}\"\n{}",
            self.url,
            folder.display(),
            self.simulator.base_url(),
            endpoints("acme/paid", &["sim/small"]),
        );
        let config = ConfigFile::parse("test.toml", text).expect("it parses").check(|_| None, None);
        let started =
            App::start(config.unwrap_or_else(|error| panic!("{error}")), Some(ADMIN)).await.expect("a gateway");
        if let Some(key) = started.keys.as_ref().and_then(|keys| keys.virtual_key.clone()) {
            self.key = key;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        self.gateways.push(serve(started, listener).expect("serving"));
    }

    fn post(&self, at: usize, key: &str, path: &str, body: &Value) -> reqwest::RequestBuilder {
        let url = format!("http://{}{path}", self.gateways[at].address);
        self.client.post(url).bearer_auth(key).body(body.to_string())
    }

    async fn made(&self, path: &str, body: Value) -> Value {
        let response = self.post(0, ADMIN, path, &body).send().await.expect("an answer");
        let text = response.text().await.expect("a body");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    async fn stop(self) {
        for gateway in self.gateways {
            gateway.stop().await;
        }
    }

    fn config(&self) -> DatabaseConfig {
        DatabaseConfig { url: DatabaseUrl::new(&self.url), ..DatabaseConfig::default() }
    }
}

async fn shared_database() -> String {
    tokio::task::spawn_blocking(|| Server::shared().database()).await.expect("a server")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_gateway_is_told_of_a_key_reaches_the_other_within_two_seconds() {
    let fleet = Fleet::start(shared_database().await, 2, "").await;
    let made = fleet.made("/v1/keys", json!({"name": "shared"})).await;
    let key = made["key"].as_str().expect("a key").to_owned();
    for at in 0..2 {
        let answered = fleet.post(at, &key, "/v1/chat/completions", &question("acme/paid", "x")).send().await;
        assert_eq!(answered.expect("an answer").status(), 200, "a key of one is a key of all");
    }
    let url =
        format!("http://{}/v1/keys/{}", fleet.gateways[0].address, made["data"]["hash"].as_str().expect("a hash"));
    let deleted = fleet.client.delete(url).bearer_auth(ADMIN).send().await.expect("an answer");
    assert_eq!(deleted.status(), 200);
    let begun = Instant::now();
    loop {
        let asked = fleet.post(1, &key, "/v1/chat/completions", &question("acme/paid", "x")).send().await;
        if asked.expect("an answer").status() == 401 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "it still works at the other");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_settles_what_a_dead_one_left_and_takes_its_money_back() {
    let fleet = Fleet::start(shared_database().await, 1, "").await;
    let made = fleet.made("/v1/keys", json!({"name": "limited", "limit": 0.01})).await;
    let (key, hash) = (made["key"].as_str().expect("a key"), made["data"]["hash"].as_str().expect("a hash"));
    let database = Database::open_with(&fleet.config()).await.expect("the same store");
    database.register_replica("dead").await.expect("a gateway");
    let id = database::budget_id("key", hash);
    let wanted = database::WantedLease { budget_id: &id, replica_id: "dead", nano: 10_000_000 };
    assert_eq!(database.lease(wanted).await.expect("an answer").granted_nano, 10_000_000);
    let open = database::Reservation {
        key_hash: hash.to_owned(),
        tenant_id: "default".to_owned(),
        end_user: String::new(),
        ..reservation("gen-open", "dead", 4_000_000)
    };
    database.commit("dead", &[open], &[]).await.expect("reserved");
    let refused = fleet.post(0, key, "/v1/chat/completions", &question("acme/paid", "x")).send().await;
    assert_eq!(refused.expect("an answer").status(), 402, "another one holds all of it");
    statement(&fleet.config(), "UPDATE replicas SET expires_ms = 1 WHERE id = 'dead'");
    let begun = Instant::now();
    loop {
        let asked = fleet.post(0, key, "/v1/chat/completions", &question("acme/paid", "x")).send().await;
        if asked.expect("an answer").status() == 200 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "its money does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let open = database.generation("default", "gen-open").await.expect("a query").expect("it is settled");
    assert_eq!((open.state.as_str(), open.charged_nano), ("unconfirmed", 4_000_000));
    fleet.stop().await;
    assert_eq!(database.leased(&id).await.expect("a sum"), 0, "who leaves gives everything back");
    assert_eq!(database.replicas_alive().await.expect("a count"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_was_taken_for_dead_goes_on_with_books_that_balance() {
    let fleet = Fleet::start(shared_database().await, 1, "").await;
    let made = fleet.made("/v1/keys", json!({"name": "limited", "limit": 1.0})).await;
    let (key, hash) = (made["key"].as_str().expect("a key").to_owned(), made["data"]["hash"].as_str().expect("a hash"));
    fleet.simulator.hold();
    let asked = fleet.post(0, &key, "/v1/chat/completions", &question("acme/paid", "x"));
    let asked = tokio::spawn(async move { asked.send().await.expect("an answer").status() });
    eventually("it is under way", async || fleet.simulator.arrived() == 1).await;
    let database = Database::open_with(&fleet.config()).await.expect("the same store");
    statement(&fleet.config(), "UPDATE replicas SET expires_ms = 1");
    assert_eq!(database.reap_dead().await.expect("reaped"), 1);
    fleet.simulator.release();
    assert_eq!(asked.await.expect("no panic"), 200, "its answer is paid for already");
    let mut statuses = Vec::new();
    for _ in 0..3 {
        let again = fleet.post(0, &key, "/v1/chat/completions", &question("acme/paid", "y")).send().await;
        statuses.push(again.expect("an answer").status().as_u16());
    }
    assert_eq!(statuses.last(), Some(&200), "{statuses:?}");
    fleet.stop().await;
    let (_, charged) = database.charged_to_key(hash).await.expect("a sum");
    let row = database.budget(&database::budget_id("key", hash)).await.expect("a query").expect("the budget");
    assert_eq!(row.spent_nano, charged);
    assert!(database.unconfirmed().await.expect("a list").is_empty(), "the real record replaced the other");
    assert_eq!(database.leased(&row.id).await.expect("a sum"), 0);
}

/// Requests that arrive at once, over gateways and keys of one tenant; the keys, the tenant and its users have limits of their
/// own.
struct Rush {
    fleet: Fleet,
    /// Each with its hash and its limit in nano-dollars.
    keys: Vec<(String, String, i64)>,
    charged: i64,
    served: u64,
}

/// So many at once; `REQUESTS=10000` asks for more than a test needs.
fn requests() -> usize {
    std::env::var("REQUESTS").map_or(2_000, |text| text.parse().expect("a number"))
}

impl Rush {
    async fn start(url: String, gateways: usize) -> Self {
        let fleet = Fleet::start(url, gateways, "").await;
        let terms = json!({"user_limit": {"usd": 0.02}});
        fleet.made("/admin/tenants", json!({"id": "team", "limit": 0.05, "terms": terms})).await;
        let mut keys = Vec::new();
        for at in 0..4 {
            let limit = 0.01 + 0.005 * f64::from(at);
            let wanted = json!({"name": format!("k{at}"), "workspace_id": "team", "limit": limit});
            let made = fleet.made("/v1/keys", wanted).await;
            let hash = made["data"]["hash"].as_str().expect("a hash").to_owned();
            keys.push((made["key"].as_str().expect("a key").to_owned(), hash, (limit * 1e9_f64).round() as i64));
        }
        Self { fleet, keys, charged: 0, served: 0 }
    }

    fn request(&self, at: usize, text: &str, max_tokens: Option<usize>) -> reqwest::RequestBuilder {
        let mut body = question("acme/paid", text);
        body["max_tokens"] = json!(max_tokens);
        body["user"] = json!(format!("user-{}", at % 5));
        let key = &self.keys[at % self.keys.len()].0;
        self.fleet.post(at % self.fleet.gateways.len(), key, "/v1/chat/completions", &body)
    }

    /// Counts an answer; says whether it was the tenant's budget that refused.
    fn count(&mut self, status: u16, text: &str) -> bool {
        assert!([200, 402].contains(&status), "{status} {text}");
        if status == 200 {
            let body: Value = serde_json::from_str(text).expect("JSON");
            self.charged += (body["usage"]["cost"].as_f64().expect("a cost") * 1e9).round() as i64;
            self.served += 1;
        }
        status == 402 && text.contains("\"the tenant\"")
    }

    async fn ask_at_once(&mut self) {
        let mut waiting = tokio::task::JoinSet::new();
        let permits = std::sync::Arc::new(tokio::sync::Semaphore::new(200));
        for at in 0..requests() {
            // Prompts and caps of all sizes, so that prices differ.
            let text = format!("question {at} {}", "more ".repeat(at * 7 % 40));
            let request = self.request(at, &text, Some(20 + at * 13 % 300));
            let permits = std::sync::Arc::clone(&permits);
            waiting.spawn(async move {
                let _permit = permits.acquire().await;
                let response = request.send().await.expect("an answer");
                (response.status().as_u16(), response.text().await.expect("a body"))
            });
        }
        while let Some(done) = waiting.join_next().await {
            let (status, text) = done.expect("no panic");
            self.count(status, &text);
        }
    }

    /// What was set aside for requests under way kept others out; one by one, everything that is left is spent.
    async fn ask_one_by_one(&mut self) {
        for at in 0..4_000 {
            let response = self.request(at, &format!("late {at}"), None).send().await.expect("an answer");
            let (status, text) = (response.status().as_u16(), response.text().await.expect("a body"));
            if self.count(status, &text) {
                return;
            }
        }
    }

    /// Holds every book against every other, and against what the provider counted.
    async fn audit(self) {
        let Self { fleet, keys, charged, served } = self;
        let (config, simulated, gateways) = (fleet.config(), fleet.simulator.arrived(), fleet.gateways.len());
        fleet.stop().await;
        let database = Database::open_with(&config).await.expect("the same store");
        let mut of_keys = 0;
        for (_, hash, limit) in &keys {
            let (_, sum) = database.charged_to_key(hash).await.expect("a sum");
            assert!(sum <= *limit, "a key spent {sum} of {limit}");
            let row = database.budget(&database::budget_id("key", hash)).await.expect("a query").expect("it");
            assert_eq!(row.spent_nano, sum);
            of_keys += sum;
        }
        for budget in database.budgets_of("team").await.expect("budgets") {
            assert!(budget.limit_nano.is_none_or(|limit| budget.spent_nano <= limit), "{budget:?}");
            assert_eq!(database.leased(&budget.id).await.expect("a sum"), 0, "{budget:?}");
        }
        let balances = database.balances().await.expect("balances");
        let balance = |name| balances.iter().find(|balance| balance.account == name).map_or(0, |balance| balance.nano);
        assert_eq!(balances.iter().map(|balance| balance.nano).sum::<i64>(), 0);
        assert_eq!([of_keys, balance("revenue"), balance("provider:p0")], [charged; 3]);
        assert_eq!(simulated, served, "what the provider answered was paid for, and nothing else");
        assert_eq!(database.open_reservations().await.expect("a count"), 0);
        let spent = database.budget("tenant:team").await.expect("a query").expect("it").spent_nano;
        println!("{gateways} gateways: {served} answers of {} and more; the tenant spent {spent}", requests());
        assert!(spent > 49_900_000, "of 50 millions {spent}: money that is there is spent");
    }
}

/// Spends until the budgets are used up, and audits.
async fn rush(url: String, gateways: usize) {
    let mut rush = Rush::start(url, gateways).await;
    rush.ask_at_once().await;
    rush.ask_one_by_one().await;
    rush.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_budget_is_exceeded_on_sqlite() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}", folder.path().join("sluice.db").display());
    rush(url, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_budget_is_exceeded_on_postgres() {
    rush(shared_database().await, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_budget_is_exceeded_over_two_gateways_on_postgres() {
    rush(shared_database().await, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_known_keys_spend_their_allowance_and_no_more() {
    let (server, url) = tokio::task::spawn_blocking(|| {
        let server = Server::start();
        let url = server.database();
        (std::sync::Arc::new(server), url)
    })
    .await
    .expect("a server");
    let fleet = Fleet::start(url, 1, "outage_spend_max_usd = 0.002").await;
    let ask = async |text: &str| {
        let asked = fleet.post(0, &fleet.key, "/v1/chat/completions", &question("acme/paid", text)).send().await;
        asked.expect("an answer").status().as_u16()
    };
    assert_eq!(ask("before").await, 200);
    let stopped = std::sync::Arc::clone(&server);
    tokio::task::spawn_blocking(move || stopped.stop()).await.expect("stopped");
    // Until a commit fails nobody knows, and requests go on: their reservations are in a file.
    assert_eq!(ask("nobody knows yet").await, 200);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    fleet.simulator.hold();
    let mut open = tokio::task::JoinSet::new();
    for at in 0..8 {
        let request =
            fleet.post(0, &fleet.key, "/v1/chat/completions", &question("acme/paid", &format!("during {at}")));
        open.spawn(async move { request.send().await.expect("an answer").status().as_u16() });
    }
    let mut statuses = Vec::new();
    for _ in 0..5 {
        let refused = tokio::time::timeout(Duration::from_secs(20), open.join_next()).await.expect("not held upstream");
        statuses.push(refused.expect("some are refused").expect("no panic"));
    }
    assert_eq!(statuses, [503; 5], "beyond the allowance nothing that costs money is served");
    let away = fleet.made("/v1/keys", json!({"name": "x"})).await;
    assert_eq!(away["error"]["code"], 503, "keys are not made while they cannot be kept: {away}");
    fleet.simulator.release();
    statuses = open.join_all().await;
    assert_eq!(statuses, [200; 3], "the allowance covers three reservations of about half a thousandth");
    let started = std::sync::Arc::clone(&server); // the server ends with the last of these
    tokio::task::spawn_blocking(move || started.start_again()).await.expect("started");
    let begun = Instant::now();
    while ask("after").await != 200 || fleet.made("/v1/keys", json!({"name": "x"})).await["key"].is_null() {
        let (asked, made) = (ask("again").await, fleet.made("/v1/keys", json!({"name": "x"})).await);
        assert!(begun.elapsed() < Duration::from_secs(10), "it does not recover: {asked} {made}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let config = fleet.config();
    fleet.stop().await;
    let database = Database::open_with(&config).await.expect("the same store");
    let key = database.keys(None).await.expect("keys").remove(0);
    let (count, charged) = database.charged_to_key(&key.hash).await.expect("sums");
    assert_eq!((key.usage_nano, database.open_reservations().await.expect("a count")), (charged, 0));
    assert!(count >= 11, "each request has one record, also those of the outage: {count}");
    let revenue = database.balances().await.expect("balances");
    assert_eq!(revenue.iter().find(|balance| balance.account == "revenue").map(|balance| balance.nano), Some(charged));
    drop(server);
}
