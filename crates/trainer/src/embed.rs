//! The vectors of many texts.

use embedding::{Embedder, EmbeddingError};
use std::collections::HashMap;
use std::time::Duration;

/// Texts that wait for the embedder together.
const AT_ONCE: usize = 128;
const PATIENCE: Duration = Duration::from_secs(120);

/// Computes the vectors of texts, shortest first, so that texts of one length are computed together.
pub(crate) async fn embed_all(
    mut texts: Vec<String>,
    embedder: &Embedder,
    progress: impl Fn(usize),
) -> Result<HashMap<String, Vec<f32>>, EmbeddingError> {
    texts.sort_by_key(|text| (text.len(), text.clone()));
    texts.dedup();
    let mut vectors = HashMap::with_capacity(texts.len());
    for chunk in texts.chunks(AT_ONCE) {
        let waiting: Vec<_> = chunk
            .iter()
            .map(|text| {
                let (embedder, text) = (embedder.clone(), text.clone());
                tokio::spawn(async move { embedder.embed(text, PATIENCE).await })
            })
            .collect();
        for (text, task) in chunk.iter().zip(waiting) {
            let embedded = task.await.map_err(|error| EmbeddingError::Model(error.to_string()))??;
            vectors.insert(text.clone(), embedded.vector);
        }
        progress(vectors.len());
    }
    Ok(vectors)
}
