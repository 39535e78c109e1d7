//! Turns text into vectors: all-MiniLM-L6-v2 on one thread of its own, with a bounded queue before it.

mod embedder;
mod library;
mod model;

pub use embedder::{Embedded, Embedder, EmbeddingError};
pub use library::find as find_library;
pub use model::EmbeddingConfig;
