//! Vector stores: what each does alike, and what the cache makes of one that fails. With `TEST_QDRANT_URL` the suite runs
//! against a real server, too.

mod cache;
mod suite;

use ::cache::{EmbeddedStore, QdrantStore, SemanticConfig, StoreKind, VectorStore};
use std::sync::atomic::{AtomicUsize, Ordering};
use tests::qdrant::Server;

/// An empty store that holds so many rows.
type Make<'a> = &'a dyn Fn(usize) -> Box<dyn VectorStore>;

fn qdrant(url: &str) -> impl Fn(usize) -> Box<dyn VectorStore> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    move |rows_max| {
        let config = SemanticConfig {
            store: StoreKind::Qdrant,
            url: Some(url.to_owned()),
            entries_max: rows_max,
            ..SemanticConfig::default()
        };
        let installation = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Box::new(QdrantStore::new(&config, &installation, "embedder").expect("an address"))
    }
}

fn embedded(rows_max: usize) -> Box<dyn VectorStore> {
    Box::new(EmbeddedStore::new(rows_max))
}

#[tokio::test]
async fn the_embedded_store_conforms() {
    suite::run(&embedded).await;
}

#[tokio::test]
async fn the_qdrant_store_conforms() {
    let server = Server::start(0).await;
    suite::run(&qdrant(&server.url)).await;
}

#[tokio::test]
async fn a_real_qdrant_server_conforms_where_one_is_named() {
    if let Ok(url) = std::env::var("TEST_QDRANT_URL") {
        suite::run(&qdrant(&url)).await;
        suite::decide_alike(&embedded, &qdrant(&url)).await;
    }
}

#[tokio::test]
async fn both_stores_find_the_same_with_the_same_scores() {
    let server = Server::start(0).await;
    suite::decide_alike(&embedded, &qdrant(&server.url)).await;
}
