//! A month of a million requests in the books: their size, and how long it takes to read them over HTTP.

use benches::{ADMIN, client, make_key, quantile_ms, start, wait_for};
use clap::Parser;
use database::{Database, DatabaseConfig, DatabaseUrl, Generation, Settled};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tests::postgres::Server;

/// Fills SQLite and PostgreSQL with the same requests, and asks a gateway on each.
#[derive(Parser)]
struct Arguments {
    /// The folder with the built binary; by default that of this one.
    #[arg(long)]
    bin: Option<PathBuf>,
    #[arg(long, default_value_t = 1_000_000)]
    generations: usize,
}

const GATEWAY: &str = "127.0.0.1:39032";
const DAY_MS: i64 = 86_400_000;
const BATCH: usize = 512;
/// How often each path is asked.
const ASKED: usize = 200;

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("a crypto provider was installed already");
    }
    let binary = benches::binary(arguments.bin.as_deref());
    println!(
        "{} requests of 30 days, 8 keys, 12 models, 3 apps, 4 steps; times in ms over HTTP, {ASKED} each",
        arguments.generations
    );
    println!(
        "| store | bytes a request | written/s | `/generation` p50, max | `/activity` p50, max | `/activity?group_by=step` p50, max |"
    );
    println!("|---|---|---|---|---|---|");
    for store in ["SQLite", "PostgreSQL"] {
        let folder = tempfile::tempdir().expect("a folder");
        let url = match store {
            "SQLite" => "sqlite://data/sluice.db".to_owned(),
            _ => Server::shared().database(),
        };
        measure(&binary, folder.path(), store, &url, arguments.generations).await;
    }
}

async fn measure(binary: &Path, folder: &Path, store: &str, url: &str, count: usize) {
    let config =
        format!("[server]\nlisten = \"{GATEWAY}\"\n[database]\nurl = \"{url}\"\n[cache.semantic]\nenabled = false\n");
    std::fs::write(folder.join("sluice.toml"), config).expect("a configuration");
    // The first start makes the schema, the tenant and its budgets.
    let serve = || start(binary, &["serve"], folder, "gateway.log");
    let ready = format!("http://{GATEWAY}/health");
    let first = serve();
    wait_for(&ready).await;
    let key = make_key(&format!("http://{GATEWAY}"), "reader", "default").await;
    drop(first);
    let file = folder.join("data/sluice.db");
    let url_here = if url.starts_with("sqlite") { format!("sqlite://{}", file.display()) } else { url.to_owned() };
    let config = DatabaseConfig { url: DatabaseUrl::new(url_here), ..DatabaseConfig::default() };
    let database = Database::open_with(&config).await.expect("the store");
    let begun = Instant::now();
    let ids = fill(&database, count).await;
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    drop(database);
    let gateway = serve();
    wait_for(&ready).await;
    let mut random = StdRng::seed_from_u64(1);
    let generation = times(&key, || format!("/v1/generation?id={}", ids[random.random_range(0..ids.len())])).await;
    let activity = times(ADMIN, || "/v1/activity?workspace_id=default".to_owned()).await;
    let split = times(ADMIN, || "/v1/activity?workspace_id=default&group_by=step".to_owned()).await;
    drop(gateway);
    let bytes = match store {
        "SQLite" => std::fs::metadata(&file).expect("the file").len(),
        _ => {
            let rows = Server::shared().query(url, "SELECT pg_database_size(current_database())").expect("a size");
            rows[0][0].parse().expect("a number")
        }
    };
    println!("| {store} | {} | {rate:.0} | {generation} | {activity} | {split} |", bytes as usize / count);
}

/// Asks a path again and again; shows the median and the slowest.
async fn times(key: &str, mut path: impl FnMut() -> String) -> String {
    let client = client();
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..ASKED {
        let url = format!("http://{GATEWAY}{}", path());
        let begun = Instant::now();
        let answer = client.get(&url).bearer_auth(key).send().await.expect("an answer");
        assert!(answer.status().is_success(), "{url}: {}", answer.text().await.unwrap_or_default());
        drop(answer.bytes().await.expect("a body"));
        times.push(begun.elapsed());
    }
    format!("{:.1}, {:.1}", quantile_ms(&times, 0.5), quantile_ms(&times, 1.0))
}

/// Settles requests as the gateway would, in batches; returns their ids.
async fn fill(database: &Database, count: usize) -> Vec<String> {
    let replica = "the-filler";
    database.register_replica(replica).await.expect("a gateway");
    let mut random = StdRng::seed_from_u64(0);
    let now = database.now_ms().await.expect("a time");
    let mut ids = Vec::with_capacity(count);
    while ids.len() < count {
        let created_ms = |at: usize| now - 30 * DAY_MS + 30 * DAY_MS * at as i64 / count as i64;
        let batch: Vec<Settled> = (ids.len()..count.min(ids.len() + BATCH))
            .map(|at| Settled { generation: generation(&mut random, created_ms(at)), drawn: Vec::new() })
            .collect();
        ids.extend(batch.iter().map(|settled| settled.generation.id.clone()));
        database.commit(replica, &[], &batch).await.expect("settled");
    }
    database.end_replica(replica).await.expect("ended");
    ids
}

/// A record as long as real ones are.
fn generation(random: &mut StdRng, created_ms: i64) -> Generation {
    let model = format!("author/model-{}", random.random_range(0..12));
    let provider = format!("provider-{}", random.random_range(0..2));
    let is_hit = random.random_bool(0.3);
    let charged = if is_hit { 0 } else { random.random_range(1_000..5_000_000) };
    let endpoint = format!("{model}@{provider}");
    let attempts = format!(r#"[{{"endpoint":"{endpoint}","outcome":"served","ms":812,"status":200}}]"#);
    Generation {
        id: format!("gen-{created_ms:x}-{:016x}", random.random::<u64>()),
        tenant_id: "default".to_owned(),
        key_hash: format!("{:064x}", random.random_range(0..8)),
        created_ms,
        state: "served".to_owned(),
        model_asked: "auto".to_owned(),
        endpoint,
        provider,
        model,
        policy: "default".to_owned(),
        cache: if is_hit { "exact" } else { "miss" }.to_owned(),
        input_tokens: random.random_range(50..4_000),
        output_tokens: random.random_range(5..900),
        reserved_nano: charged * 2,
        upstream_nano: charged,
        charged_nano: charged,
        latency_ms: 900,
        finish_reason: "stop".to_owned(),
        end_user: format!("user-{}", random.random_range(0..5_000)),
        app: format!("app-{}", random.random_range(0..3)),
        step: format!("step-{}", random.random_range(0..4)),
        user_agent: "openai-python/2.8.1".to_owned(),
        attempts,
        reasons: r#"{"route":{"policy":"default","difficulty":0.31,"chosen":"author/model-3","margin":0.02},"cache":{"level":"none"}}"#
            .to_owned(),
        ..Generation::default()
    }
}
