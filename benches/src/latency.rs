//! Added latency of the built gateway over calling the simulator directly, in one run; its memory and start-up.

use clap::Parser;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::time::MissedTickBehavior;

/// Measures `sluice serve` against `sluice simulate` on loopback ports.
#[derive(Parser)]
struct Arguments {
    /// The folder with the built binary; by default that of this one.
    #[arg(long)]
    bin: Option<PathBuf>,
    /// Requests a second, sent on a fixed schedule whether or not earlier ones have ended.
    #[arg(long, default_value_t = 500)]
    rate: u64,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

const SIMULATOR: &str = "127.0.0.1:39001";
const GATEWAY: &str = "127.0.0.1:39002";

/// A child that does not outlive the measurement.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.kill().is_ok() {
            let _status = self.0.wait(); // reaps it; how it ended does not matter
        }
    }
}

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("a crypto provider was installed already");
    }
    let beside = std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned));
    let binary = arguments.bin.clone().or(beside).unwrap_or_default().join("sluice");
    let folder = tempfile::tempdir().expect("a folder for the measurement's database");
    let _simulator = start(&binary, &["simulate", "--listen", SIMULATOR, "--latency-ms", "0"], folder.path());
    wait_for(&format!("http://{SIMULATOR}/v1/models")).await;
    println!("{} requests/s for {} s each, times in ms", arguments.rate, arguments.seconds);
    println!("{:<34} {:>8} {:>8} {:>8} {:>8} {:>8}", "", "p50", "p90", "p99", "max", "errors");
    let direct = Target { url: format!("http://{SIMULATOR}/v1/chat/completions"), key: String::new() };
    let fresh = |at: u64| question(&format!("Tell me fact number {at} about item {}", at * 7_919));
    measure("direct", &arguments, &direct, fresh).await;
    let (gateway, key, started) = serve(&binary, folder.path(), false).await;
    let through = Target { url: format!("http://{GATEWAY}/v1/chat/completions"), key };
    println!("(semantic level off: answers HTTP {:.0} ms after start)", started.as_secs_f64() * 1e3);
    measure("gateway, miss, no embedding", &arguments, &through, fresh).await;
    measure("gateway, exact hit", &arguments, &through, |_| question("Tell me fact number 0 about item 0")).await;
    println!("memory: {} MiB", resident_mib(&gateway.0));
    drop(gateway);
    let (gateway, key, started) = serve(&binary, folder.path(), true).await;
    let through = Target { url: through.url, key: if key.is_empty() { through.key } else { key } };
    println!("(semantic level on: answers HTTP {:.0} ms after start)", started.as_secs_f64() * 1e3);
    let other = |at: u64| question(&format!("Describe thing number {at} of shelf {}", at * 104_729));
    measure("gateway, miss, embedding", &arguments, &through, other).await;
    // More than one embedding thread can do: requests over the budget went on without a vector. Below, what it can do.
    let embedded = Arguments { rate: arguments.rate.min(100), ..arguments };
    println!("{} requests/s", embedded.rate);
    let third = |at: u64| question(&format!("Compare thing number {at} with box {}", at * 15_485_863));
    measure("gateway, miss, embedding", &embedded, &through, third).await;
    warm(&through, &question("How do I reset my password?")).await;
    let polite = ["please", "thanks", "kindly", "hello", "hi", "hey"];
    let reworded = move |at: u64| {
        let words: Vec<&str> = (0..8).map(|bit| polite[(at as usize >> bit) % polite.len()]).collect();
        question(&format!("{} how can I reset my password?", words.join(" ")))
    };
    measure("gateway, reworded (similar or exact)", &embedded, &through, reworded).await;
    println!("memory: {} MiB", resident_mib(&gateway.0));
}

struct Target {
    url: String,
    key: String,
}

fn question(text: &str) -> Value {
    json!({"model": "sim/small", "messages": [{"role": "user", "content": text}], "max_tokens": 64, "temperature": 0})
}

fn start(binary: &Path, arguments: &[&str], folder: &Path) -> Running {
    let mut command = Command::new(binary);
    command.args(arguments).current_dir(folder).stdout(Stdio::null());
    Running(command.spawn().unwrap_or_else(|error| panic!("{} cannot be started: {error}", binary.display())))
}

/// Starts the gateway; returns its first virtual key, empty on a second start, and the time until it answered.
async fn serve(binary: &Path, folder: &Path, semantic: bool) -> (Running, String, Duration) {
    let config = format!(
        "[server]\nlisten = \"{GATEWAY}\"\n[cache.semantic]\nenabled = {semantic}\n[providers.simulated]\n\
         kind = \"simulated\"\nbase_url = \"http://{SIMULATOR}/v1\"\n"
    );
    std::fs::write(folder.join("sluice.toml"), config).expect("a configuration");
    let log = std::fs::File::create(folder.join("log")).expect("a log");
    let begun = Instant::now();
    let child = Command::new(binary).arg("serve").current_dir(folder).stdout(log).spawn().expect("the gateway starts");
    let running = Running(child);
    wait_for(&format!("http://{GATEWAY}/health")).await;
    let started = begun.elapsed();
    let said = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
    let key = said.lines().find_map(|line| line.trim().strip_prefix("virtual key")).unwrap_or("").trim().to_owned();
    (running, key, started)
}

async fn wait_for(url: &str) {
    let client = client();
    for _ in 0..2_000 {
        if client.get(url).send().await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{url} does not answer");
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().pool_max_idle_per_host(256).tcp_nodelay(true).build().expect("a client")
}

async fn warm(target: &Target, body: &Value) {
    let sent = client().post(&target.url).bearer_auth(&target.key).body(body.to_string()).send().await;
    assert!(sent.is_ok_and(|response| response.status().is_success()), "the first request is answered");
}

/// Sends on schedule; latency counts from the time a request was due, so that a stall is not hidden.
async fn measure(name: &str, arguments: &Arguments, target: &Target, body: impl Fn(u64) -> Value) {
    let client = client();
    let mut tick = tokio::time::interval(Duration::from_nanos(1_000_000_000 / arguments.rate));
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut sent = tokio::task::JoinSet::new();
    for at in 0..arguments.rate * arguments.seconds {
        let due = tick.tick().await;
        let mut request = client.post(&target.url).header("content-type", "application/json");
        if !target.key.is_empty() {
            request = request.bearer_auth(&target.key);
        }
        let request = request.body(body(at).to_string());
        sent.spawn(async move {
            let ended = match request.send().await {
                Ok(response) if response.status().is_success() => response.bytes().await.is_ok(),
                _ => false,
            };
            (due.elapsed(), ended)
        });
    }
    let (mut times, mut errors) = (Vec::new(), 0);
    while let Some(done) = sent.join_next().await {
        match done {
            Ok((time, true)) => times.push(time.as_secs_f64() * 1e3),
            _ => errors += 1,
        }
    }
    times.sort_by(f64::total_cmp);
    let quantile = |share: f64| {
        times
            .get(((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1)))
            .copied()
            .unwrap_or(f64::NAN)
    };
    let (p50, p90, p99, max) = (quantile(0.5), quantile(0.9), quantile(0.99), quantile(1.0));
    println!("{name:<34} {p50:>8.2} {p90:>8.2} {p99:>8.2} {max:>8.2} {errors:>8}");
}

/// Resident memory from the process's status on Linux; 0 elsewhere.
fn resident_mib(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1_024
}
