//! The semantic level's index at size: memory of an entry, start-up from its file, search, sweep.

use cache::{Cache, CacheConfig, CacheModel, Owner, Question, Words};
use clap::Parser;
use database::{CacheFile, CacheWrite, StoredPrompt};
use protocol::Digest;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Measures the index of the semantic level.
#[derive(Parser)]
struct Arguments {
    /// Prompts.
    #[arg(long, default_value_t = 1_000_000)]
    entries: usize,
    /// Scopes that they are spread over.
    #[arg(long, default_value_t = 1_000)]
    scopes: usize,
    /// Searches.
    #[arg(long, default_value_t = 2_000)]
    searches: usize,
}

const DIMENSIONS: usize = 384;
/// Prompts of one topic have vectors near each other, as real ones do.
const TOPICS: usize = 500;
const EMBEDDER: &str = "bench";
const LIFE_MS: i64 = 86_400_000;

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cache.db");
    let begun = Instant::now();
    write(&path, &arguments).await;
    let bytes = std::fs::metadata(&path).map_or(0, |file| file.len());
    println!(
        "{} prompts in {} scopes: written in {:.1} s, {:.0} bytes each in the file",
        arguments.entries,
        arguments.scopes,
        begun.elapsed().as_secs_f64(),
        bytes as f64 / arguments.entries as f64
    );
    let before = resident_bytes();
    let mut config = CacheConfig::default();
    config.semantic.entries_max = arguments.entries * 2;
    config.semantic.store_budget_ms = 1_000; // so that what is measured is not cut
    let begun = Instant::now();
    let file = CacheFile::open(&path).await.expect("a file");
    let words = Arc::new(Words::default());
    let model = CacheModel::shipped().expect("a model");
    let cache = Cache::open(&config, Some(file), Some((EMBEDDER, words)), model).await.expect("a cache");
    let opened = begun.elapsed();
    while cache.sizes().await.prompts < Some(arguments.entries as u64) {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    println!(
        "start-up: {:.2} s until it answers, {:.2} s until all are in memory; memory: {:.0} bytes an entry",
        opened.as_secs_f64(),
        begun.elapsed().as_secs_f64(),
        (resident_bytes() - before) as f64 / arguments.entries as f64
    );
    search(&cache, &arguments).await;
}

async fn search(cache: &Cache, arguments: &Arguments) {
    let owner = Owner { tenant: "bench".to_owned(), policy: String::new() };
    let mut times: Vec<f64> = Vec::with_capacity(arguments.searches);
    for at in 0..arguments.searches {
        let vector = vector(at * 7 + 3, arguments.entries + at);
        let question = Question { prompt: prompt(at * 7 + 3), vector, earlier: None, principal: 0, link: at as u64 };
        let begun = Instant::now();
        let look = cache.look(&owner, &scope(at % arguments.scopes), &question, 0.01).await;
        assert!(look.expect("in time").is_some(), "every scope has prompts");
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_unstable_by(f64::total_cmp);
    let percentile = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("search and decision: p50 {:.0} µs, p99 {:.0} µs", percentile(0.5), percentile(0.99));
    let begun = Instant::now();
    let removed = cache.sweep_prompts(i64::MAX / 2).await.expect("swept");
    println!("sweep of all {removed}: {:.2} s", begun.elapsed().as_secs_f64());
}

async fn write(path: &Path, arguments: &Arguments) {
    let file = CacheFile::open(path).await.expect("a file");
    let now_ms =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_millis() as i64;
    for chunk in (0..arguments.entries).collect::<Vec<_>>().chunks(2_000) {
        let writes: Vec<CacheWrite> = chunk
            .iter()
            .map(|at| {
                CacheWrite::Prompt(StoredPrompt {
                    id: format!("gen-{at:016x}"),
                    tenant_id: "bench".to_owned(),
                    scope: scope(at % arguments.scopes).0.to_vec(),
                    embedder: EMBEDDER.to_owned(),
                    prompt: prompt(*at),
                    vector: vector(*at, *at).iter().flat_map(|x| x.to_le_bytes()).collect(),
                    earlier_prompt: String::new(),
                    earlier_vector: None,
                    principal: 0,
                    answer_id: format!("gen-{at:016x}"),
                    created_ms: now_ms,
                    expires_ms: now_ms + LIFE_MS,
                })
            })
            .collect();
        file.apply(&writes).await.expect("written");
    }
    file.close().await;
}

fn scope(at: usize) -> Digest {
    let mut scope = [0; 32];
    scope[..8].copy_from_slice(&(at as u64).to_le_bytes());
    Digest(scope)
}

fn prompt(at: usize) -> String {
    format!("how do I change the setting of topic{} in my account for case {at}", at % TOPICS)
}

/// A vector near its topic's, the same for the same numbers.
fn vector(topic: usize, at: usize) -> Vec<f32> {
    let mut state = [(topic % TOPICS) as u64 + 1, at as u64 + 0x9e37];
    let mut draw = |which: usize| {
        // SplitMix64 (Steele, Lea, Flood 2014)
        state[which] = state[which].wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state[which];
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let mut vector: Vec<f32> = (0..DIMENSIONS).map(|_| draw(0) + 0.7 * draw(1)).collect();
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|x| *x /= length);
    vector
}

/// Memory of this process, from `/proc`; 0 where there is none.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = status.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4_096
}
