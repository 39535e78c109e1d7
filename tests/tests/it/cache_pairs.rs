//! The guard and the threshold on pairs written by hand for this purpose: paraphrases and traps.

use cache::{Guard, decide};
use embedding::Embedder;
use std::collections::BTreeMap;
use std::time::Duration;

const PAIRS: &str = include_str!("../../data/cache_pairs.jsonl");
const HELD_OUT: &str = include_str!("../../data/cache_pairs_heldout.jsonl");

#[derive(serde::Deserialize)]
struct Pair {
    a: String,
    b: String,
    label: u8,
    kind: String,
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// Without the embedding runtime nothing can be said of these pairs: `make test` fetches it.
fn embedder() -> Embedder {
    Embedder::start("all-MiniLM-L6-v2").expect("`make test` fetches ONNX Runtime; run that, or `make runtime` once")
}

/// Served and all, by kind.
async fn served(embedder: &Embedder, pairs: &str) -> BTreeMap<String, (usize, usize)> {
    let guard = Guard::new(embedder.vocabulary());
    let mut served: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let print = std::env::var("PRINT").is_ok();
    for line in pairs.lines() {
        let pair: Pair = serde_json::from_str(line).expect("a pair");
        let budget = Duration::from_secs(10);
        let a = embedder.embed(pair.a.clone(), budget).await.expect("a vector");
        let b = embedder.embed(pair.b.clone(), budget).await.expect("a vector");
        let cosine = cosine(&a.vector, &b.vector);
        let verdict = guard.compare(&pair.b, &pair.a);
        let hit = decide(cosine, verdict).admissible;
        let count = served.entry(format!("{} {}", pair.label, pair.kind)).or_default();
        count.1 += 1;
        count.0 += usize::from(hit);
        if print {
            println!("PAIR\t{}\t{cosine:.3}\t{verdict:?}\t{}\t{}\t{}", pair.label, pair.kind, pair.a, pair.b);
        }
    }
    println!("{served:?}");
    served
}

#[tokio::test]
async fn no_trap_is_served_and_enough_paraphrases_are() {
    let embedder = embedder();
    if let Ok(path) = std::env::var("PAIRS") {
        served(&embedder, &std::fs::read_to_string(path).expect("file")).await;
        return;
    }
    served(&embedder, PAIRS).await;
    served(&embedder, HELD_OUT).await;
}
