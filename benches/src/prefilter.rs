//! Would a cheap vector save most embeddings? A static one, the weighted mean of its words' own vectors, asked first: only a
//! prompt with a likely neighbour would be embedded.
//!
//! Measured on labelled streams: of the prompts whose nearest earlier one has the same answer, how many would be lost, and
//! how many of all would never be embedded. At its best: every word has its vector, nothing is compressed.

use cache::cosine_of;
use clap::Parser;
use embedding::Embedder;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use trainer::cache::{Stream, prepare, read_stream};

/// Measures what a static embedding before the real one would save and lose.
#[derive(Parser)]
struct Arguments {
    /// The folder of labelled streams.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Streams.
    #[arg(long, value_delimiter = ',', default_value = "qqp,banking77,overnight,mix")]
    streams: Vec<String>,
}

const PATIENCE: Duration = Duration::from_secs(60);
/// Shares of useful neighbours that may be lost.
const LOST: [f64; 3] = [0.001, 0.01, 0.05];

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    let embedder = Embedder::start("all-MiniLM-L6-v2").expect("the embedder");
    println!("never embedded, in % of all prompts, where so many of the useful neighbours are lost:");
    println!("{:<12} {:>8} {:>8} {:>8} {:>16}", "", "0.1 %", "1 %", "5 %", "µs a vector");
    for name in &arguments.streams {
        let rows = read_stream(&arguments.data, name).unwrap_or_else(|error| panic!("{error}"));
        let stream = prepare(name, rows, &embedder, |_| ()).await.expect("vectors");
        let words = word_vectors(&stream, &embedder).await;
        let weights = embedder.words();
        let begun = Instant::now();
        let cheap: Vec<Vec<f32>> = stream.rows.iter().map(|row| static_vector(&row.prompt, &words, &weights)).collect();
        let each_us = begun.elapsed().as_secs_f64() * 1e6 / cheap.len() as f64;
        let shares = tokio::task::spawn_blocking(move || measure(&stream, &cheap)).await.expect("measured");
        let [a, b, c] = shares.map(|share| 100.0 * share);
        println!("{name:<12} {a:>8.1} {b:>8.1} {c:>8.1} {each_us:>16.0}");
    }
}

fn split(prompt: &str) -> impl Iterator<Item = String> {
    prompt.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

async fn word_vectors(stream: &Stream, embedder: &Embedder) -> HashMap<String, Vec<f32>> {
    let mut vectors = HashMap::new();
    for word in stream.rows.iter().flat_map(|row| split(&row.prompt)) {
        if let Entry::Vacant(unknown) = vectors.entry(word) {
            let embedded = embedder.embed(unknown.key().clone(), PATIENCE).await.expect("a vector");
            unknown.insert(embedded.vector);
        }
    }
    vectors
}

fn static_vector(prompt: &str, vectors: &HashMap<String, Vec<f32>>, weights: &cache::Words) -> Vec<f32> {
    let mut sum = vec![0.0f32; 384];
    for word in split(prompt) {
        let weight = weights.get(&word).copied().unwrap_or(1.0);
        sum.iter_mut().zip(&vectors[&word]).for_each(|(sum, x)| *sum += weight * x);
    }
    let length = sum.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-9);
    sum.iter().map(|x| x / length).collect()
}

/// For each share that may be lost, the share that would never be embedded.
fn measure(stream: &Stream, cheap: &[Vec<f32>]) -> [f64; LOST.len()] {
    let (mut all, mut useful) = (Vec::new(), Vec::new());
    for (at, row) in stream.rows.iter().enumerate().skip(1) {
        let (mut best, mut nearest, mut likely) = (f32::MIN, 0, f32::MIN);
        for (other, earlier) in stream.rows[..at].iter().enumerate() {
            let cosine = cosine_of(&row.vector, &earlier.vector);
            if cosine > best {
                (best, nearest) = (cosine, other);
            }
            likely = likely.max(cosine_of(&cheap[at], &cheap[other]));
        }
        all.push(likely);
        if stream.rows[nearest].class == row.class {
            useful.push(likely);
        }
    }
    useful.sort_by(f32::total_cmp);
    LOST.map(|lost| {
        let threshold = useful[(lost * useful.len() as f64) as usize];
        all.iter().filter(|likely| **likely < threshold).count() as f64 / all.len() as f64
    })
}
