//! What the measurements share: the built programs as child processes, and load on a fixed schedule.

use serde_json::{Value, json};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// The operator's key of every measured gateway.
pub const ADMIN: &str = "sk-operator-of-the-measurements";

/// A child that does not outlive the measurement.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.kill().is_ok() {
            let _status = self.0.wait(); // reaps it; how it ended does not matter
        }
    }
}

impl Running {
    /// Resident memory in KiB from the process's status on Linux; 0 elsewhere.
    pub fn resident_kib(&self) -> u64 {
        status_kib(self.0.id(), "VmRSS:")
    }

    /// The most it has been since [`Running::forget_peak`].
    pub fn peak_kib(&self) -> u64 {
        status_kib(self.0.id(), "VmHWM:")
    }

    /// Begins a new peak (proc(5), clear_refs).
    pub fn forget_peak(&self) {
        let path = format!("/proc/{}/clear_refs", self.0.id());
        std::fs::write(&path, "5").unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

fn status_kib(process: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

/// The built `sluice`, beside this program unless `folder` says otherwise.
pub fn binary(folder: Option<&Path>) -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned));
    folder.map(Path::to_owned).or(beside).unwrap_or_default().join("sluice")
}

/// Starts `sluice` with these arguments; its output goes to `log` in `folder`.
pub fn start(binary: &Path, arguments: &[&str], folder: &Path, log: &str) -> Running {
    let log = std::fs::File::create(folder.join(log)).expect("a log");
    let mut command = Command::new(binary);
    command.args(arguments).current_dir(folder).env("SLUICE_ADMIN_KEY", ADMIN);
    command.stdout(log.try_clone().expect("a log")).stderr(log).stdin(Stdio::null());
    Running(command.spawn().unwrap_or_else(|error| panic!("{} cannot be started: {error}", binary.display())))
}

/// Waits until a URL answers.
pub async fn wait_for(url: &str) {
    let client = client();
    for _ in 0..2_000 {
        if client.get(url).send().await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{url} does not answer");
}

/// A client with room for many connections.
pub fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().pool_max_idle_per_host(1_024).tcp_nodelay(true).build().expect("a client")
}

/// Makes a virtual key with the operator's.
pub async fn make_key(base: &str, name: &str, tenant: &str) -> String {
    let body = json!({"name": name, "workspace_id": tenant}).to_string();
    let made = client().post(format!("{base}/v1/keys")).bearer_auth(ADMIN).body(body).send().await.expect("an answer");
    let made: Value = serde_json::from_str(&made.text().await.expect("a body")).expect("JSON");
    made["key"].as_str().unwrap_or_else(|| panic!("no key: {made}")).to_owned()
}

/// A question of 64 tokens at the most.
pub fn question(model: &str, text: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 64, "temperature": 0})
}

/// Runs `make(n)` for n = 0.. on schedule, whether or not earlier ones have ended, and collects what they return. `make`
/// gets the moment at which it was due, so that a stall is not hidden.
pub async fn paced<F>(rate: u64, seconds: u64, mut make: impl FnMut(u64, Instant) -> F) -> Vec<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let mut tick = tokio::time::interval(Duration::from_nanos(1_000_000_000 / rate));
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut sent = JoinSet::new();
    for at in 0..rate * seconds {
        let due = tick.tick().await;
        sent.spawn(make(at, due.into_std()));
    }
    sent.join_all().await
}

/// A quantile of times, in milliseconds.
pub fn quantile_ms(times: &[Duration], share: f64) -> f64 {
    let mut times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    let at = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
    times.get(at).copied().unwrap_or(f64::NAN)
}
