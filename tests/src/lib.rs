//! Behaviour of the whole gateway over TCP; the tests live in `tests/it` and `tests/vectors`. Here: servers that they need,
//! and patience.

pub mod postgres;
pub mod qdrant;

use std::time::{Duration, Instant};

/// Waits for something that another task does, without a fixed pause; a machine may stall for seconds.
pub async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !done().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
