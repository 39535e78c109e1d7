//! The embedding thread and the handle to it.

use crate::library;
use crate::model;
use fastembed::TextEmbedding;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// Texts waiting at the most; beyond it a request goes on without a vector.
const QUEUE_MAX: usize = 256;
/// Texts computed together at the most.
const BATCH_MAX: usize = 16;

/// Seconds a byte: a first guess, and how much of it each batch replaces.
const PACE_START: f64 = 2e-5;
const PACE_SHARE: f64 = 0.1;
/// A short text costs as much as one that is so many bytes longer.
const TEXT_OVERHEAD: f64 = 40.0;
/// About what 256 tokens are.
const READ_BYTES_MAX: usize = 1_200;

/// Words with how much each says, 0 to 1.
type Words = foldhash::HashMap<String, f32>;

/// The vector of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    /// Unit length.
    pub vector: Vec<f32>,
    /// The text was longer than the model reads: its vector does not stand for all of it.
    pub truncated: bool,
}

/// Why there is no vector.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum EmbeddingError {
    #[error("ONNX Runtime was not found; `make run` fetches it, or point ORT_DYLIB_PATH to the library")]
    NoLibrary,
    #[error("{0}")]
    Model(String),
    #[error("the embedding queue is full")]
    Busy,
    #[error("no vector within {0:?}")]
    Late(Duration),
}

struct Job {
    text: String,
    /// Afterwards nobody waits for it.
    deadline: Instant,
    done: oneshot::Sender<Result<Embedded, EmbeddingError>>,
}

/// A loaded model; clones share its thread.
#[derive(Debug, Clone)]
pub struct Embedder {
    jobs: mpsc::Sender<Job>,
    identity: Arc<str>,
    words: Arc<Words>,
}

impl Embedder {
    /// Loads a model and starts its thread. Takes about 0.2 s.
    ///
    /// # Errors
    /// When the library or the model's files are missing, or the model maps different texts to one vector.
    pub fn start(model: &str) -> Result<Self, EmbeddingError> {
        let environment = library::environment()?;
        let (mut embedding, identity) = model::load(model, environment).map_err(EmbeddingError::Model)?;
        check_not_degenerate(&mut embedding)?;
        let words = weigh(embedding.tokenizer.get_vocab(false));
        let (jobs, receiver) = mpsc::channel(QUEUE_MAX);
        std::thread::Builder::new()
            .name("embedder".to_owned())
            .spawn(move || work(&mut embedding, receiver))
            .map_err(|error| EmbeddingError::Model(format!("the embedding thread cannot start: {error}")))?;
        Ok(Self { jobs, identity: identity.into(), words: Arc::new(words) })
    }

    /// Names the model and how it is used; vectors of two identities must not be compared.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// The words that the model knows as one piece, lower-case, each with how much it says: near 0 for the commonest, 1
    /// for the rarest.
    pub fn words(&self) -> Arc<Words> {
        Arc::clone(&self.words)
    }

    /// Computes the vector of a text.
    ///
    /// # Errors
    /// When the queue is full, the budget passes or the model fails.
    pub async fn embed(&self, text: String, budget: Duration) -> Result<Embedded, EmbeddingError> {
        let (done, result) = oneshot::channel();
        let deadline = Instant::now() + budget;
        self.jobs.try_send(Job { text, deadline, done }).map_err(|_| EmbeddingError::Busy)?;
        match tokio::time::timeout(budget, result).await {
            Err(_) => Err(EmbeddingError::Late(budget)),
            Ok(Err(_)) => Err(EmbeddingError::Model("the embedding thread has ended".to_owned())),
            Ok(Ok(outcome)) => outcome,
        }
    }
}

fn work(embedding: &mut TextEmbedding, mut jobs: mpsc::Receiver<Job>) {
    let (mut waiting, mut pace) = (Vec::new(), PACE_START);
    loop {
        if waiting.is_empty() {
            match jobs.blocking_recv() {
                Some(job) => waiting.push(job),
                None => return,
            }
        }
        while let Ok(job) = jobs.try_recv() {
            waiting.push(job);
        }
        let surplus = waiting.len().saturating_sub(QUEUE_MAX);
        for job in waiting.drain(..surplus) {
            let _gone = job.done.send(Err(EmbeddingError::Busy));
        }
        let begun = Instant::now();
        let batch = next_batch(&mut waiting, begun, pace);
        if batch.is_empty() {
            continue;
        }
        let texts: Vec<&str> = batch.iter().map(|job| job.text.as_str()).collect();
        match compute(embedding, &texts) {
            Ok(vectors) => {
                pace += PACE_SHARE * (begun.elapsed().as_secs_f64() / size(&batch) - pace);
                for (job, embedded) in batch.into_iter().zip(vectors) {
                    let _gone = job.done.send(Ok(embedded));
                }
            }
            Err(error) => {
                for job in batch {
                    let _gone = job.done.send(Err(error.clone()));
                }
            }
        }
    }
}

/// What texts cost together, in bytes: each is filled up to the length of the longest, and the model reads no more than 256
/// tokens of it.
fn size(jobs: &[Job]) -> f64 {
    let longest = jobs.iter().map(|job| job.text.len()).max().unwrap_or(0).min(READ_BYTES_MAX);
    jobs.len() as f64 * (longest as f64 + TEXT_OVERHEAD)
}

/// Takes the jobs to compute together: the newest first, as many as are in time for all of them at this pace (seconds a
/// byte). Under overload the oldest would be late whatever is done, and the others behind them.
fn next_batch(waiting: &mut Vec<Job>, now: Instant, pace: f64) -> Vec<Job> {
    waiting.retain(|job| !job.done.is_closed() && job.deadline > now); // the others' requests have gone on without
    let mut batch: Vec<Job> = waiting.pop().into_iter().collect();
    while batch.len() < BATCH_MAX
        && let Some(job) = waiting.pop()
    {
        batch.push(job);
        let soonest = batch.iter().map(|job| job.deadline).min().unwrap_or(now);
        if batch.len() > 1 && soonest.duration_since(now).as_secs_f64() < pace * size(&batch) {
            waiting.extend(batch.pop());
            break;
        }
    }
    batch
}

fn compute(embedding: &mut TextEmbedding, texts: &[&str]) -> Result<Vec<Embedded>, EmbeddingError> {
    if texts.is_empty() {
        return Ok(Vec::new());
    }
    let failed = |error: String| EmbeddingError::Model(format!("the embedding failed: {error}"));
    let mut truncated = Vec::with_capacity(texts.len());
    for text in texts {
        let encoding = embedding.tokenizer.encode(*text, true).map_err(|error| failed(error.to_string()))?;
        truncated.push(!encoding.get_overflowing().is_empty());
    }
    let vectors = embedding.embed(texts, None).map_err(|error| failed(error.to_string()))?;
    let embedded = vectors.into_iter().zip(truncated);
    Ok(embedded.map(|(vector, truncated)| Embedded { vector: unit(vector), truncated }).collect())
}

/// Vocabularies list words by falling frequency, and by Zipf's law the logarithm of the rank goes with the information.
fn weigh(vocabulary: HashMap<String, u32>) -> Words {
    /// The commonest words differ less than their ranks.
    const FLAT: f32 = 6.0;
    let is_word = |text: &str| text.chars().count() > 1 && text.chars().all(char::is_alphabetic);
    let mut words: Vec<(String, u32)> = vocabulary.into_iter().filter(|(text, _)| is_word(text)).collect();
    words.sort_by_key(|(_, id)| *id);
    let all = (words.len() as f32 + FLAT).ln();
    words.into_iter().enumerate().map(|(rank, (text, _))| (text, (rank as f32 + FLAT).ln() / all)).collect()
}

fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
    vector.iter_mut().for_each(|x| *x /= length);
    vector
}

/// A broken export or tokenizer maps everything to nearly one vector, and then every prompt would hit every answer.
fn check_not_degenerate(embedding: &mut TextEmbedding) -> Result<(), EmbeddingError> {
    let texts = ["How do I reset my password?", "The kettle boils at noon.", "def add(a, b): return a + b"];
    let vectors = compute(embedding, &texts)?;
    let cosine = |a: &Embedded, b: &Embedded| a.vector.iter().zip(&b.vector).map(|(x, y)| x * y).sum::<f32>();
    let closest =
        cosine(&vectors[0], &vectors[1]).max(cosine(&vectors[0], &vectors[2])).max(cosine(&vectors[1], &vectors[2]));
    if closest.is_nan() || closest > 0.6 {
        let problem = format!("the embedding model gives unrelated texts a cosine of {closest:.2}; it is not usable");
        return Err(EmbeddingError::Model(problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn under_overload_the_newest_are_in_time_and_the_oldest_wait() {
        let now = Instant::now();
        let mut receivers = Vec::new();
        let mut job = |left_ms: u64| {
            let (done, receiver) = oneshot::channel();
            receivers.push(receiver);
            Job { text: "x".repeat(60), deadline: now + Duration::from_millis(left_ms), done }
        };
        // 100 bytes each, 2 ms at this pace: six of them take 12 ms.
        let mut waiting: Vec<Job> = [3, 6, 9, 12, 15, 18, 21, 24].map(&mut job).into();
        let left = |jobs: &[Job]| -> Vec<u128> { jobs.iter().map(|j| (j.deadline - now).as_millis()).collect() };
        assert_eq!(left(&next_batch(&mut waiting, now, 2e-5)), [24, 21, 18, 15, 12]);
        assert_eq!(left(&waiting), [3, 6, 9], "with a sixth all would be late for the one of 9 ms");
        let later = now + Duration::from_millis(8);
        assert_eq!(left(&next_batch(&mut waiting, later, 2e-5)), [9], "alone it is tried, though it may be late");
        assert!(waiting.is_empty() && next_batch(&mut waiting, later, 2e-5).is_empty());
        let mut given_up = vec![job(50)];
        receivers.clear();
        assert!(next_batch(&mut given_up, now, 2e-5).is_empty(), "nobody waits for it any more");
    }
}
