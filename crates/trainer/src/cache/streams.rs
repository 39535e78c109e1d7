//! Labelled streams of prompts and labelled pairs, with their vectors.

use crate::data::{DataError, find, read_rows};
use crate::embed::embed_all;
use ::cache::{AnswerId, Earlier, EmbeddedStore, Neighbour, Query, Question, Row};
use embedding::{Embedder, EmbeddingError};
use protocol::{Digest, digest_of};
use serde::Deserialize;
use std::path::Path;
use std::sync::Arc;

/// One row of a stream: a prompt, or a conversation, and the class of its right answer.
#[derive(Debug, Clone, Deserialize)]
pub struct Arrival {
    #[serde(default)]
    pub prompt: String,
    #[serde(default)]
    pub messages: Vec<Turn>,
    /// Two rows share it if and only if one answer is right for both.
    pub cls: u64,
    #[serde(default)]
    pub src: String,
}

/// One message of a conversation.
#[derive(Debug, Clone, Deserialize)]
pub struct Turn {
    pub role: String,
    pub content: String,
}

/// One labelled pair.
#[derive(Debug, Clone, Deserialize)]
pub struct Pair {
    pub a: String,
    pub b: String,
    /// 1 where one answer is right for both.
    pub label: u8,
    #[serde(default)]
    pub kind: String,
    /// The template that made it, where there is one.
    #[serde(default)]
    pub test: Option<String>,
}

/// A row with its vectors.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The last user turn.
    pub prompt: String,
    pub vector: Vec<f32>,
    /// The user turns before.
    pub earlier: Option<Earlier>,
    /// Stands for what must be exactly equal: the assistant's turns.
    pub scope: Digest,
    pub class: u64,
}

impl Prepared {
    /// Finds the stored rows of its scope.
    pub(crate) fn neighbours(&self, store: &EmbeddedStore) -> Vec<Neighbour> {
        let earlier = self.earlier.as_ref().map(|earlier| &*earlier.vector);
        store.nearest(&Query { tenant: "", scope: &self.scope, vector: &self.vector, earlier, now_ms: 0 })
    }

    /// Itself as a request of this number.
    pub(crate) fn question(&self, link: u64) -> Question {
        Question {
            prompt: self.prompt.clone(),
            vector: self.vector.clone(),
            earlier: self.earlier.clone(),
            principal: 0,
            link,
        }
    }

    /// Itself as a stored row that leads to an answer.
    pub(crate) fn row(&self, id: AnswerId, answer: AnswerId) -> Arc<Row> {
        Arc::new(Row {
            tenant: "".into(),
            scope: self.scope,
            id,
            answer,
            prompt: self.prompt.as_str().into(),
            vector: self.vector.as_slice().into(),
            earlier: self.earlier.clone(),
            principal: 0,
            expires_ms: i64::MAX,
        })
    }
}

/// A stream with its vectors.
#[derive(Debug, Clone)]
pub struct Stream {
    pub name: String,
    pub rows: Vec<Prepared>,
}

/// A labelled pair with its vectors.
#[derive(Debug, Clone)]
pub struct PreparedPair {
    pub pair: Pair,
    /// Its two prompts, as rows that share nothing with any other.
    pub a: Prepared,
    pub b: Prepared,
}

/// Reads `cache/stream_NAME.jsonl.gz` under `folder`.
///
/// # Errors
/// When it is not there or malformed.
pub fn read_stream(folder: &Path, name: &str) -> Result<Vec<Arrival>, DataError> {
    let file = format!("stream_{name}");
    match find(folder, "cache", &file) {
        Some(path) => read_rows(&path),
        None => Err(DataError::None { folder: folder.to_owned(), kind: "cache", wanted: file }),
    }
}

/// Reads a file of pairs: a path, or a NAME for `cache/pairs_NAME.jsonl.gz` under `folder`.
///
/// # Errors
/// When it is not there or malformed.
pub fn read_pairs(folder: &Path, name: &str) -> Result<Vec<Pair>, DataError> {
    let file = format!("pairs_{name}");
    match find(folder, "cache", &file) {
        Some(path) => read_rows(&path),
        None if Path::new(name).is_file() => read_rows(Path::new(name)),
        None => Err(DataError::None { folder: folder.to_owned(), kind: "cache", wanted: file }),
    }
}

/// Computes the vectors of a stream; `progress` is told how many texts are done.
///
/// # Errors
/// When the embedder fails.
pub async fn prepare(
    name: &str,
    arrivals: Vec<Arrival>,
    embedder: &Embedder,
    progress: impl Fn(usize),
) -> Result<Stream, EmbeddingError> {
    let split: Vec<(String, Option<String>, Digest, u64)> = arrivals.into_iter().map(Arrival::split).collect();
    let texts = split.iter().flat_map(|(last, earlier, ..)| std::iter::once(last).chain(earlier));
    let vectors = embed_all(texts.cloned().collect(), embedder, progress).await?;
    let rows = split.into_iter().map(|(prompt, earlier, scope, class)| Prepared {
        vector: vectors[&prompt].clone(),
        earlier: earlier.map(|earlier| Earlier { vector: vectors[&earlier].as_slice().into(), text: earlier.into() }),
        prompt,
        scope,
        class,
    });
    Ok(Stream { name: name.to_owned(), rows: rows.collect() })
}

/// Computes the vectors of pairs.
///
/// # Errors
/// When the embedder fails.
pub async fn prepare_pairs(
    pairs: Vec<Pair>,
    embedder: &Embedder,
    progress: impl Fn(usize),
) -> Result<Vec<PreparedPair>, EmbeddingError> {
    let texts = pairs.iter().flat_map(|pair| [pair.a.clone(), pair.b.clone()]).collect();
    let vectors = embed_all(texts, embedder, progress).await?;
    let prepare = |prompt: &String| Prepared {
        prompt: prompt.clone(),
        vector: vectors[prompt].clone(),
        earlier: None,
        scope: digest_of(b""),
        class: 0,
    };
    Ok(pairs.into_iter().map(|pair| PreparedPair { a: prepare(&pair.a), b: prepare(&pair.b), pair }).collect())
}

impl Arrival {
    /// The same with a class that no row of another stream has.
    #[must_use]
    pub fn of_other_classes(self) -> Self {
        Self { cls: !self.cls, ..self }
    }

    /// Last user turn, earlier user turns, scope, class.
    fn split(self) -> (String, Option<String>, Digest, u64) {
        if self.messages.is_empty() {
            return (self.prompt, None, digest_of(b""), self.cls);
        }
        let of = |role: &str| -> Vec<&str> {
            let turns = self.messages.iter().filter(|turn| turn.role == role);
            turns.map(|turn| turn.content.as_str()).collect()
        };
        let asked = of("user");
        let (last, before) = asked.split_last().map_or(("", &[][..]), |(last, before)| (*last, before));
        let earlier = (!before.is_empty()).then(|| before.join("\n"));
        (last.to_owned(), earlier, digest_of(of("assistant").join("\u{1}").as_bytes()), self.cls)
    }
}
