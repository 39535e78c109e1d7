//! Added latency of the built gateway over calling the simulator directly, in one run; its memory and start-up.

use benches::{Running, client, make_key, paced, quantile_ms, question, start, wait_for};
use clap::Parser;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("a crypto provider was installed already");
    }
    let binary = benches::binary(arguments.bin.as_deref());
    let folder = tempfile::tempdir().expect("a folder for the measurement's database");
    let simulate = ["simulate", "--listen", SIMULATOR, "--latency-ms", "0"];
    let _simulator = start(&binary, &simulate, folder.path(), "simulator.log");
    wait_for(&format!("http://{SIMULATOR}/v1/models")).await;
    println!("{} requests/s for {} s each, times in ms", arguments.rate, arguments.seconds);
    println!("{:<34} {:>8} {:>8} {:>8} {:>8} {:>8}", "", "p50", "p90", "p99", "max", "errors");
    let direct = Target { url: format!("http://{SIMULATOR}/v1/chat/completions"), key: String::new() };
    let fresh = |at: u64| ask(&format!("Tell me fact number {at} about item {}", at * 7_919));
    measure("direct", &arguments, &direct, fresh).await;
    let (gateway, key, started) = serve(&binary, folder.path(), false).await;
    let through = Target { url: format!("http://{GATEWAY}/v1/chat/completions"), key };
    println!("(semantic level off: answers HTTP {:.0} ms after start)", started.as_secs_f64() * 1e3);
    measure("gateway, miss, no embedding", &arguments, &through, fresh).await;
    measure("gateway, exact hit", &arguments, &through, |_| ask("Tell me fact number 0 about item 0")).await;
    println!("memory: {} MiB", gateway.resident_kib() / 1_024);
    drop(gateway);
    let (gateway, key, started) = serve(&binary, folder.path(), true).await;
    let through = Target { url: through.url, key };
    println!("(semantic level on: answers HTTP {:.0} ms after start)", started.as_secs_f64() * 1e3);
    let other = |at: u64| ask(&format!("Describe thing number {at} of shelf {}", at * 104_729));
    measure("gateway, miss, embedding", &arguments, &through, other).await;
    // More than one embedding thread can do: requests over the budget went on without a vector. Below, what it can do.
    let embedded = Arguments { rate: arguments.rate.min(100), ..arguments };
    println!("{} requests/s", embedded.rate);
    let third = |at: u64| ask(&format!("Compare thing number {at} with box {}", at * 15_485_863));
    measure("gateway, miss, embedding", &embedded, &through, third).await;
    warm(&through, &ask("How do I reset my password?")).await;
    let polite = ["please", "thanks", "kindly", "hello", "hi", "hey"];
    let reworded = move |at: u64| {
        let words: Vec<&str> = (0..8).map(|bit| polite[(at as usize >> bit) % polite.len()]).collect();
        ask(&format!("{} how can I reset my password?", words.join(" ")))
    };
    measure("gateway, reworded (similar or exact)", &embedded, &through, reworded).await;
    println!("memory: {} MiB", gateway.resident_kib() / 1_024);
}

struct Target {
    url: String,
    key: String,
}

fn ask(text: &str) -> Value {
    question("sim/small", text)
}

/// Starts the gateway; returns a virtual key and the time until it answered.
async fn serve(binary: &Path, folder: &Path, semantic: bool) -> (Running, String, Duration) {
    let config = format!(
        "[server]\nlisten = \"{GATEWAY}\"\n[cache.semantic]\nenabled = {semantic}\n[providers.simulated]\n\
         kind = \"simulated\"\nbase_url = \"http://{SIMULATOR}/v1\"\n"
    );
    std::fs::write(folder.join("sluice.toml"), config).expect("a configuration");
    let begun = Instant::now();
    let running = start(binary, &["serve"], folder, "gateway.log");
    wait_for(&format!("http://{GATEWAY}/health")).await;
    let started = begun.elapsed();
    let key = make_key(&format!("http://{GATEWAY}"), "latency", "default").await;
    (running, key, started)
}

async fn warm(target: &Target, body: &Value) {
    let sent = client().post(&target.url).bearer_auth(&target.key).body(body.to_string()).send().await;
    assert!(sent.is_ok_and(|response| response.status().is_success()), "the first request is answered");
}

/// Sends on schedule; latency counts from the time a request was due, so that a stall is not hidden.
async fn measure(name: &str, arguments: &Arguments, target: &Target, body: impl Fn(u64) -> Value) {
    let client = client();
    let ended = paced(arguments.rate, arguments.seconds, |at, due| {
        let mut request = client.post(&target.url).header("content-type", "application/json");
        if !target.key.is_empty() {
            request = request.bearer_auth(&target.key);
        }
        let request = request.body(body(at).to_string());
        async move {
            let ended = match request.send().await {
                Ok(response) if response.status().is_success() => response.bytes().await.is_ok(),
                _ => false,
            };
            ended.then(|| due.elapsed())
        }
    })
    .await;
    let times: Vec<Duration> = ended.iter().copied().flatten().collect();
    let errors = ended.len() - times.len();
    let [p50, p90, p99, max] = [0.5, 0.9, 0.99, 1.0].map(|share| quantile_ms(&times, share));
    println!("{name:<34} {p50:>8.2} {p90:>8.2} {p99:>8.2} {max:>8.2} {errors:>8}");
}
