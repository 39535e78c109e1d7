//! What accounting costs a request before its first byte, by the gateway's own clock, and what surviving the loss of power costs.

use benches::{ADMIN, client, make_key, paced, quantile_ms, question, start, wait_for};
use clap::Parser;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Measures `sluice serve` against `sluice simulate` on loopback ports, with each durability.
#[derive(Parser)]
struct Arguments {
    /// The folder with the built binary; by default that of this one.
    #[arg(long)]
    bin: Option<PathBuf>,
    #[arg(long, default_value_t = 1_000)]
    rate: u64,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Where the money file lies: the disk that is measured; by default the system's temporary folder.
    #[arg(long)]
    folder: Option<PathBuf>,
}

const SIMULATOR: &str = "127.0.0.1:39021";
const GATEWAY: &str = "127.0.0.1:39022";

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("a crypto provider was installed already");
    }
    let binary = benches::binary(arguments.bin.as_deref());
    println!("{} requests/s for {} s each", arguments.rate, arguments.seconds);
    println!(
        "| upstream's first byte | durability | accounting p50 µs | p99 µs | whole answer p50 ms | p99 ms | errors |"
    );
    println!("|---|---|---|---|---|---|---|");
    for latency_ms in [0, 20] {
        for durability in ["process", "power", "process", "power"] {
            measure(&binary, &arguments, latency_ms, durability).await;
        }
    }
}

async fn measure(binary: &Path, arguments: &Arguments, latency_ms: u64, durability: &str) {
    let base = arguments.folder.clone().unwrap_or_else(std::env::temp_dir);
    let folder = tempfile::tempdir_in(base).expect("a folder");
    let latency = latency_ms.to_string();
    let simulate = ["simulate", "--listen", SIMULATOR, "--latency-ms", &latency];
    let _simulator = start(binary, &simulate, folder.path(), "simulator.log");
    wait_for(&format!("http://{SIMULATOR}/v1/models")).await;
    let config = format!(
        "[server]\nlisten = \"{GATEWAY}\"\n[database]\ndurability = \"{durability}\"\n[cache.semantic]\nenabled = false\n\
         [cache.exact]\nenabled = false\n[providers.simulated]\nkind = \"simulated\"\nbase_url = \"http://{SIMULATOR}/v1\"\n"
    );
    std::fs::write(folder.path().join("sluice.toml"), config).expect("a configuration");
    let _gateway = start(binary, &["serve"], folder.path(), "gateway.log");
    wait_for(&format!("http://{GATEWAY}/health")).await;
    let key = make_key(&format!("http://{GATEWAY}"), "accounting", "default").await;
    let (client, url) = (client(), format!("http://{GATEWAY}/v1/chat/completions"));
    let ended = paced(arguments.rate, arguments.seconds, |at, due| {
        let request = client.post(&url).bearer_auth(&key).header("content-type", "application/json");
        let request = request.body(question("sim/small", &format!("fact number {at}")).to_string());
        async move {
            let response = request.send().await.ok().filter(|response| response.status().is_success())?;
            response.bytes().await.ok().map(|_| due.elapsed())
        }
    })
    .await;
    let times: Vec<Duration> = ended.iter().copied().flatten().collect();
    let metrics = client.get(format!("http://{GATEWAY}/metrics")).bearer_auth(ADMIN).send().await.expect("an answer");
    let metrics = metrics.text().await.expect("a body");
    let [p50, p99] = [0.5, 0.99].map(|share| quantile_us(&metrics, share));
    let [whole_p50, whole_p99] = [0.5, 0.99].map(|share| quantile_ms(&times, share));
    let errors = ended.len() - times.len();
    println!("| {latency_ms} ms | {durability} | {p50:.0} | {p99:.0} | {whole_p50:.2} | {whole_p99:.2} | {errors} |");
}

/// A quantile of the histogram of accounting, in microseconds; between the bounds of its bucket as if evenly spread.
fn quantile_us(metrics: &str, share: f64) -> f64 {
    let buckets: Vec<(f64, f64)> = metrics
        .lines()
        .filter_map(|line| {
            let (label, count) = line.strip_prefix("sluice_accounting_seconds_bucket{le=\"")?.split_once("\"} ")?;
            Some((label.parse::<f64>().unwrap_or(f64::INFINITY), count.parse::<f64>().ok()?))
        })
        .collect();
    let wanted = buckets.last().map_or(0.0, |(_, all)| all * share);
    let (mut low, mut below) = (0.0, 0.0);
    for (bound, count) in buckets {
        if count >= wanted {
            return (low + (bound - low) * (wanted - below) / (count - below).max(1.0)) * 1e6;
        }
        (low, below) = (bound, count);
    }
    f64::NAN
}
