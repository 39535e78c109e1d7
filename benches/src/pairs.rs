//! The semantic level's decision on labelled pairs of questions: how many wrong ones it would serve, how many right ones.

use cache::{Guard, Verdict, decide};
use clap::Parser;
use embedding::Embedder;
use flate2::read::GzDecoder;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::Duration;

/// Judges pairs `{"a", "b", "label": 1 same answer | 0 not}`, one a line, gzipped.
#[derive(Parser)]
struct Arguments {
    /// The file of pairs.
    pairs: PathBuf,
    /// Pairs read at the most.
    #[arg(long, default_value_t = 3_900)]
    take: usize,
}

/// Pairs embedded at once.
const AT_ONCE: usize = 40;
const BANDS: [(f32, f32); 5] = [(0.6, 0.7), (0.7, 0.8), (0.8, 0.88), (0.88, 0.94), (0.94, 1.01)];

struct Judged {
    right: bool,
    cosine: f32,
    verdict: Verdict,
}

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    let embedder = Embedder::start("all-MiniLM-L6-v2").expect("`make runtime` fetches ONNX Runtime");
    let guard = Guard::new(embedder.vocabulary());
    let file = File::open(&arguments.pairs).expect("the file of pairs");
    let lines = BufReader::new(GzDecoder::new(file)).lines().take(arguments.take);
    let rows: Vec<Value> =
        lines.map(|line| serde_json::from_str(&line.expect("text")).expect("a pair a line")).collect();
    let mut judged = Vec::with_capacity(rows.len());
    for chunk in rows.chunks(AT_ONCE) {
        let texts: Vec<&str> = chunk.iter().flat_map(|row| [&row["a"], &row["b"]]).filter_map(Value::as_str).collect();
        let waiting: Vec<_> = texts
            .iter()
            .map(|text| {
                let (embedder, text) = (embedder.clone(), (*text).to_owned());
                tokio::spawn(async move { embedder.embed(text, Duration::from_secs(60)).await })
            })
            .collect();
        let mut vectors = Vec::with_capacity(waiting.len());
        for task in waiting {
            vectors.push(task.await.expect("no panic").expect("a vector").vector);
        }
        for ((row, texts), vectors) in chunk.iter().zip(texts.chunks(2)).zip(vectors.chunks(2)) {
            let cosine = vectors[0].iter().zip(&vectors[1]).map(|(x, y)| x * y).sum();
            judged.push(Judged { right: row["label"] == 1, cosine, verdict: guard.compare(texts[1], texts[0]) });
        }
    }
    report(&judged);
}

fn report(judged: &[Judged]) {
    for (right, name) in [(false, "other answer"), (true, "same answer")] {
        let of: Vec<&Judged> = judged.iter().filter(|pair| pair.right == right).collect();
        let count = |test: &dyn Fn(&Judged) -> bool| of.iter().filter(|pair| test(pair)).count();
        let served = count(&|pair| decide(pair.cosine, pair.verdict).admissible);
        let (cosine_80, cosine_95) = (count(&|pair| pair.cosine >= 0.80), count(&|pair| pair.cosine >= 0.95));
        println!("{name}: served {served} of {}; a cosine of .80 alone {cosine_80}, of .95 {cosine_95}", of.len());
    }
    for verdict in [Verdict::SameWords, Verdict::Reworded] {
        for (from, to) in BANDS {
            let band = |pair: &&Judged| pair.verdict == verdict && (from..to).contains(&pair.cosine);
            let pairs: Vec<&Judged> = judged.iter().filter(band).collect();
            let right = pairs.iter().filter(|pair| pair.right).count();
            println!("{verdict:?}, cosine {from} to {to}: {right} right of {}", pairs.len());
        }
    }
}
