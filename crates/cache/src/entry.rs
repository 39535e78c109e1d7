//! What is kept, what is asked to be kept or forgotten, and how much it is.

use crate::decision::AnswerId;
use crate::semantic::Question;
use protocol::{Digest, Reply};
use std::sync::Arc;

/// A stored answer.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The generation that made it.
    pub id: String,
    pub tenant: String,
    pub reply: Arc<Reply>,
    pub model: String,
    pub provider: String,
    pub tags: Vec<String>,
    pub created_ms: i64,
    pub expires_ms: i64,
    /// About the memory it takes.
    pub bytes: u32,
}

/// An answer to keep.
#[derive(Debug, Clone)]
pub struct Put {
    pub id: String,
    pub tenant: String,
    pub fingerprint: Digest,
    pub reply: Arc<Reply>,
    pub model: String,
    pub provider: String,
    pub tags: Vec<String>,
    /// A shorter life than configured, where the caller asked for it.
    pub ttl_s: Option<u64>,
}

/// A question's place among the others of its scope.
#[derive(Debug, Clone)]
pub struct Placed {
    pub scope: Digest,
    pub question: Question,
    /// Stored answers that say the same as this one.
    pub same: Vec<AnswerId>,
}

/// Which stored answers are meant; every condition that is there must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    pub id: Option<String>,
    pub tag: Option<String>,
    pub model: Option<String>,
    /// Made before this time.
    pub before_ms: Option<i64>,
}

/// How much the levels hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    pub answers: u64,
    /// `None` where the vector store does not say.
    pub prompts: Option<u64>,
    pub scopes: Option<u64>,
}
