//! Where prompts are kept to be found by meaning: what every vector store does, and how it ranks.

mod embedded;
mod qdrant;

pub use embedded::EmbeddedStore;
pub use qdrant::QdrantStore;

use crate::config::{SemanticConfig, StoreKind};
use crate::decision::AnswerId;
use async_trait::async_trait;
use database::{CacheFile, DatabaseError};
use protocol::Digest;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// The configured vector store. Without a file there is nothing to fill a foreign one from, and no name for what is ours there.
pub(crate) async fn open(
    config: &SemanticConfig,
    file: Option<&CacheFile>,
    embedder: &str,
) -> Result<Result<Box<dyn VectorStore>, StoreError>, DatabaseError> {
    match (config.store, file) {
        (StoreKind::Qdrant, Some(file)) => {
            let installation = file.installation(&uuid::Uuid::new_v4().simple().to_string()).await?;
            let store = QdrantStore::new(config, &installation, embedder);
            Ok(store.map(|store| Box::new(store) as Box<dyn VectorStore>))
        }
        _ => Ok(Ok(Box::new(EmbeddedStore::new(config.entries_max)))),
    }
}

/// Neighbours looked at of one prompt.
pub(crate) const NEIGHBOURS: usize = 6;

/// One stored prompt. It never changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub tenant: Arc<str>,
    /// The context tag that it shares with all it may be compared with.
    pub scope: Digest,
    /// The generation that asked it.
    pub id: AnswerId,
    /// The stored answer that it points to.
    pub answer: AnswerId,
    pub prompt: Box<str>,
    /// Of the last user turn, unit length.
    pub vector: Box<[f32]>,
    /// The user turns before, where there are any.
    pub earlier: Option<Earlier>,
    /// Stands for who asked.
    pub principal: i64,
    pub expires_ms: i64,
}

/// The user turns before the last one, joined.
#[derive(Debug, Clone, PartialEq)]
pub struct Earlier {
    pub text: Box<str>,
    pub vector: Box<[f32]>,
}

/// A row and its likeness to the asked prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Neighbour {
    pub row: Arc<Row>,
    /// Cosine of the last turns or of the earlier ones, whichever is less, −1 to 1.
    pub cosine: f32,
}

/// What is looked for, and where.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    pub tenant: &'a str,
    pub scope: &'a Digest,
    /// Of the last user turn, unit length.
    pub vector: &'a [f32],
    /// Of the user turns before; rows that have none are no neighbours, and the other way round.
    pub earlier: Option<&'a [f32]>,
    /// Rows that have expired by then are no neighbours.
    pub now_ms: i64,
}

/// The rows of a tenant that lead to these answers; all of its rows where no answers are named.
#[derive(Debug, Clone)]
pub struct Which<'a> {
    pub tenant: &'a str,
    pub answers: Option<&'a HashSet<AnswerId>>,
}

/// What a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreStats {
    pub rows: u64,
    /// `None` where counting them would be dear.
    pub scopes: Option<u64>,
}

/// Why a store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    #[error("no answer within {0:?}")]
    Late(Duration),
    #[error("left alone until it answers again")]
    Down,
    #[error("the space for vectors is missing")]
    Missing,
    #[error("{0}")]
    Failed(String),
}

impl StoreError {
    /// The kind, as metrics and traces name it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Late(_) => "store late",
            Self::Down => "store down",
            Self::Missing | Self::Failed(_) => "store failed",
        }
    }
}

/// Keeps rows and finds the nearest. Deadlines, and what follows from failures, are its caller's; scores are computed from the
/// vectors by [`cosine_of`] and ties ordered by id, so that every store decides alike.
#[async_trait]
pub trait VectorStore: std::fmt::Debug + Send + Sync {
    /// Makes the store ready for vectors of this length; true where it was made anew, and holds nothing.
    async fn ensure_space(&self, dimensions: usize) -> Result<bool, StoreError>;

    /// Puts rows in; a row whose id is there already takes its place. They can be found when this returns.
    async fn upsert(&self, rows: &[Arc<Row>]) -> Result<(), StoreError>;

    /// The nearest living rows of a scope, at most [`NEIGHBOURS`], nearest first; of equally near ones the one with the
    /// greater id.
    async fn search(&self, query: Query<'_>) -> Result<Vec<Neighbour>, StoreError>;

    /// Removes rows.
    async fn delete(&self, which: Which<'_>) -> Result<(), StoreError>;

    /// Removes what has expired by then, and what is too much where [`VectorStore::upsert`] has not; returns how many.
    async fn sweep(&self, now_ms: i64) -> Result<u64, StoreError>;

    /// What it holds.
    async fn stats(&self) -> Result<StoreStats, StoreError>;

    /// Answers where it works.
    async fn health(&self) -> Result<(), StoreError>;
}

/// The best rows so far, in order.
#[derive(Debug, Default)]
pub(crate) struct Nearest(Vec<Neighbour>);

impl Nearest {
    /// Takes a row in where it is among the best; rows of other tenants and scopes and expired ones never are.
    fn consider(&mut self, row: &Arc<Row>, query: &Query<'_>) {
        if row.expires_ms <= query.now_ms || row.scope != *query.scope || *row.tenant != *query.tenant {
            return;
        }
        if row.vector.len() != query.vector.len() {
            return;
        }
        let cosine = match (query.earlier, &row.earlier) {
            (None, None) => cosine_of(&row.vector, query.vector),
            (Some(asked), Some(stored)) if asked.len() == stored.vector.len() => {
                cosine_of(&row.vector, query.vector).min(cosine_of(&stored.vector, asked))
            }
            _ => return,
        };
        if self.0.len() < NEIGHBOURS || self.0.last().is_some_and(|least| cosine >= least.cosine) {
            self.insert(Neighbour { row: Arc::clone(row), cosine });
        }
    }

    fn insert(&mut self, neighbour: Neighbour) {
        let before = |known: &Neighbour| {
            known.cosine > neighbour.cosine || (known.cosine == neighbour.cosine && known.row.id > neighbour.row.id)
        };
        let at = self.0.partition_point(before);
        if self.0.get(at).is_none_or(|known| known.row.id != neighbour.row.id) {
            self.0.insert(at, neighbour);
            self.0.truncate(NEIGHBOURS);
        }
    }

    /// The best of two rankings; a row that is in both counts once.
    pub(crate) fn merge(mut a: Vec<Neighbour>, b: Vec<Neighbour>) -> Vec<Neighbour> {
        if a.is_empty() {
            return b;
        }
        let mut nearest = Self(Vec::with_capacity(NEIGHBOURS + 1));
        a.extend(b);
        a.into_iter().for_each(|neighbour| nearest.insert(neighbour));
        nearest.0
    }
}

/// The cosine of two vectors of unit length, in sixteen lanes, which the compiler turns into vector instructions.
pub fn cosine_of(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0f32; LANES];
    let (whole_a, whole_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = whole_a.remainder().iter().zip(whole_b.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in whole_a.zip(whole_b) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}
