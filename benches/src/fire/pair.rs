//! Two gateways on one PostgreSQL, and a simulator, as processes of their own.

use crate::rig::{NO_CACHE, SIMULATOR, model, provider};
use benches::{ADMIN, Running, start, wait_for};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use tests::postgres::Server;

pub(crate) const GATEWAYS: [&str; 2] = ["127.0.0.1:39042", "127.0.0.1:39043"];

/// The processes, and the database that both use.
pub(crate) struct Pair {
    binary: PathBuf,
    pub server: Server,
    pub database: String,
    simulated: TempDir,
    _simulator: Running,
    folders: [TempDir; 2],
    gateways: [Option<Running>; 2],
    pub key: String,
}

/// One row of the books, as PostgreSQL's own client reads it.
pub(crate) struct Booked {
    pub state: String,
    pub charged: i64,
    pub reserved: i64,
}

impl Pair {
    /// Starts everything; `latency_ms` is the simulator's time to the first token, `more` goes into the [database] table. The
    /// key has a limit, so that what it spends is leased.
    pub(crate) async fn start(binary: &Path, latency_ms: u64, more: &str) -> Self {
        let server = Server::start();
        let database = server.database();
        let simulated = tempfile::tempdir().expect("a folder");
        let latency = latency_ms.to_string();
        let simulate = ["simulate", "--listen", SIMULATOR, "--latency-ms", &latency, "--log", "calls.jsonl"];
        let simulator = start(binary, &simulate, simulated.path(), "simulator.log");
        wait_for(&format!("http://{SIMULATOR}/v1/models")).await;
        let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
        let config = format!("[server]\nstop_delay_ms = 2000\n[database]\nurl = \"{database}\"\n{more}\n")
            + &provider("first", "")
            + NO_CACHE
            + &model("fire/one", &[("first", "sim/small", 1.0)]);
        for folder in &folders {
            std::fs::write(folder.path().join("sluice.toml"), &config).expect("a configuration");
        }
        let mut pair = Self {
            binary: binary.to_owned(),
            server,
            database,
            simulated,
            _simulator: simulator,
            folders,
            gateways: [None, None],
            key: String::new(),
        };
        for at in 0..2 {
            pair.start_gateway(at).await;
        }
        pair.key = pair.make_key().await;
        pair
    }

    async fn make_key(&self) -> String {
        let body = json!({"name": "fire", "limit": 100}).to_string();
        let request = benches::client().post(url(0, "/v1/keys")).bearer_auth(ADMIN).body(body);
        let made = request.send().await.expect("an answer").text().await.expect("a body");
        let made: Value = serde_json::from_str(&made).expect("JSON");
        made["key"].as_str().unwrap_or_else(|| panic!("no key: {made}")).to_owned()
    }

    pub(crate) async fn start_gateway(&mut self, at: usize) {
        let arguments = ["serve", "--config", "sluice.toml", "--listen", GATEWAYS[at]];
        self.gateways[at] = Some(start(&self.binary, &arguments, self.folders[at].path(), "gateway.log"));
        wait_for(&url(at, "/health")).await;
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, at: usize) {
        drop(self.gateways[at].take());
    }

    /// SIGTERM; waits until it has ended by itself.
    pub(crate) async fn stop(&mut self, at: usize) {
        let Some(mut gateway) = self.gateways[at].take() else { return };
        let process = gateway.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &process]).status().expect("kill runs").success());
        tokio::task::spawn_blocking(move || gateway.0.wait().expect("it ends")).await.expect("no panic");
    }

    /// Runs another command of `sluice` on the same database.
    pub(crate) fn command(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(&self.binary);
        let output = command.args(arguments).current_dir(self.folders[0].path()).output().expect("it runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The simulator's log by user.
    pub(crate) fn calls(&self) -> HashMap<String, Value> {
        let text = std::fs::read_to_string(self.simulated.path().join("calls.jsonl")).expect("the simulator's log");
        let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of the log"));
        rows.map(|row| (row["user"].as_str().unwrap_or_default().to_owned(), row)).collect()
    }

    /// Every record by user.
    pub(crate) fn booked(&self) -> HashMap<String, Vec<Booked>> {
        let mut booked: HashMap<String, Vec<Booked>> = HashMap::new();
        for row in self.rows("SELECT end_user, state, charged_nano, reserved_nano FROM generations") {
            let number = |at: usize| row[at].parse().expect("a number");
            let record = Booked { state: row[1].clone(), charged: number(2), reserved: number(3) };
            booked.entry(row[0].clone()).or_default().push(record);
        }
        booked
    }

    /// What is wrong with the books: every sum held against every other.
    pub(crate) fn audit(&self) -> Vec<String> {
        let charged = "(SELECT COALESCE(SUM(charged_nano), 0) FROM generations)";
        let checks = [
            ("open reservations", "SELECT COUNT(*) FROM reservations".to_owned()),
            ("keys", format!("SELECT SUM(usage_nano) - {charged} FROM keys")),
            ("budgets of keys", format!("SELECT SUM(spent_nano) - {charged} FROM budgets WHERE id LIKE 'key:%'")),
            ("budgets of tenants", format!("SELECT SUM(spent_nano) - {charged} FROM budgets WHERE id LIKE 'tenant:%'")),
            ("sums by day", format!("SELECT COALESCE(SUM(charged_nano), 0) - {charged} FROM usage_days")),
            (
                "ledger",
                format!(
                    "SELECT COALESCE(SUM(nano), 0) - {charged} FROM transfers WHERE kind IN ('charge', 'charge_correction')"
                ),
            ),
            ("what gateways that are gone hold", "SELECT COALESCE(SUM(ABS(nano)), 0) FROM leases".to_owned()),
            ("budgets exceeded", "SELECT COUNT(*) FROM budgets WHERE spent_nano > limit_nano".to_owned()),
        ];
        let wrong = checks.iter().filter_map(|(name, query)| {
            let rows = self.rows(query);
            (rows[0][0] != "0").then(|| format!("{name}: {}", rows[0][0]))
        });
        wrong.collect()
    }

    pub(crate) fn rows(&self, query: &str) -> Vec<Vec<String>> {
        self.server.query(&self.database, query).expect("an answer")
    }
}

pub(crate) fn url(gateway: usize, path: &str) -> String {
    format!("http://{}{path}", GATEWAYS[gateway])
}
