//! The guard and the threshold on pairs written for this purpose: paraphrases and traps.

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

/// Pairs served, and all pairs, by kind.
async fn served(pairs: &str) -> BTreeMap<String, (usize, usize)> {
    let embedder = embedder();
    let guard = Guard::new(embedder.vocabulary());
    let mut served: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for line in pairs.lines() {
        let pair: Pair = serde_json::from_str(line).expect("a pair");
        assert_eq!(pair.label == 1, pair.kind == "paraphrase");
        let budget = Duration::from_secs(10);
        let a = embedder.embed(pair.a.clone(), budget).await.expect("a vector");
        let b = embedder.embed(pair.b.clone(), budget).await.expect("a vector");
        let decision = decide(cosine(&a.vector, &b.vector), guard.compare(&pair.b, &pair.a));
        let count = served.entry(pair.kind.clone()).or_default();
        *count = (count.0 + usize::from(decision.admissible), count.1 + 1);
        if decision.admissible && pair.label == 0 {
            println!("served a trap ({}): {} | {}", pair.kind, pair.a, pair.b);
        }
    }
    println!("{served:?}");
    served
}

fn traps(served: &BTreeMap<String, (usize, usize)>) -> (usize, usize) {
    let traps = served.iter().filter(|(kind, _)| *kind != "paraphrase");
    traps.fold((0, 0), |sum, (_, count)| (sum.0 + count.0, sum.1 + count.1))
}

#[tokio::test]
async fn no_trap_is_served_and_enough_paraphrases_are() {
    let served = served(PAIRS).await;
    assert_eq!(traps(&served), (0, 84));
    let (hits, paraphrases) = served["paraphrase"];
    assert!(paraphrases >= 50 && hits * 100 >= paraphrases * 40, "{hits} of {paraphrases}");
}

/// Written independently after the rules were; figures in docs/semantic-cache.md. At most one trap in a hundred may pass.
#[tokio::test]
async fn pairs_the_rules_have_not_seen_are_judged_nearly_as_safely() {
    let served = served(HELD_OUT).await;
    let (wrong, all) = traps(&served);
    assert!(all >= 70 && wrong <= 1, "{wrong} of {all} traps");
    let (hits, paraphrases) = served["paraphrase"];
    assert!(hits * 100 >= paraphrases * 20, "{hits} of {paraphrases}");
}
