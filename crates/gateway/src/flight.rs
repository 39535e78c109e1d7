//! Single flight: identical concurrent misses share one upstream call. A flight is a log that its followers read at
//! their own pace, so a slow one neither delays the others nor loses anything; its size is bounded by the size of an
//! answer. The upstream is cancelled when the last follower has left.

use crate::error::Error;
use crate::served::{Head, Served};
use protocol::{CacheMode, Chunk, Digest};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What makes requests identical. The virtual key is part of it: a flight is paid for by its leader's key, and another
/// key must not fail with it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct FlightKey {
    pub fingerprint: Digest,
    pub key_hash: String,
    /// What one mode may be answered with another may not.
    pub mode: CacheMode,
}

/// All flights that can be joined.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flights {
    joinable: Arc<Mutex<HashMap<FlightKey, Arc<Flight>>>>,
}

#[derive(Debug)]
struct Flight {
    key: Option<FlightKey>,
    log: Mutex<Log>,
    /// Counts what was appended; wakes the followers.
    news: watch::Sender<u64>,
    cancel: CancellationToken,
}

#[derive(Debug, Default)]
struct Log {
    leader_id: String,
    head: Option<Arc<Head>>,
    chunks: Vec<Arc<Chunk>>,
    outcome: Option<Result<Arc<Served>, Arc<Error>>>,
    followers: usize,
}

/// The writing end of a flight.
pub(crate) struct Leader {
    flights: Flights,
    flight: Arc<Flight>,
}

/// A reading end of a flight.
pub(crate) struct Follower {
    flights: Flights,
    flight: Arc<Flight>,
    news: watch::Receiver<u64>,
    read: usize,
}

/// What a follower reads next.
pub(crate) enum Next {
    Chunk(Arc<Chunk>),
    Ended(Result<Arc<Served>, Arc<Error>>),
}

impl Flights {
    /// Joins the flight of this key, or begins it: then there is a leader too. Without a key a flight is nobody
    /// else's.
    pub(crate) fn join(&self, key: Option<FlightKey>, id: &str) -> (Follower, Option<Leader>) {
        let mut joinable = lock(&self.joinable);
        if let Some(flight) = key.as_ref().and_then(|key| joinable.get(key)) {
            lock(&flight.log).followers += 1;
            return (self.follower(Arc::clone(flight)), None);
        }
        let log = Log { leader_id: id.to_owned(), followers: 1, ..Log::default() };
        let flight = Arc::new(Flight {
            key: key.clone(),
            log: Mutex::new(log),
            news: watch::Sender::new(0),
            cancel: CancellationToken::new(),
        });
        if let Some(key) = key {
            joinable.insert(key, Arc::clone(&flight));
        }
        let leader = Leader { flights: self.clone(), flight: Arc::clone(&flight) };
        (self.follower(flight), Some(leader))
    }

    fn follower(&self, flight: Arc<Flight>) -> Follower {
        let news = flight.news.subscribe();
        Follower { flights: self.clone(), flight, news, read: 0 }
    }

    /// Takes the flight out, so that nobody joins it any more.
    fn close(&self, joinable: &mut HashMap<FlightKey, Arc<Flight>>, flight: &Arc<Flight>) {
        if let Some(key) = &flight.key
            && joinable.get(key).is_some_and(|known| Arc::ptr_eq(known, flight))
        {
            joinable.remove(key);
        }
    }
}

impl Leader {
    /// Ends when the last follower has left.
    pub(crate) fn cancelled(&self) -> CancellationToken {
        self.flight.cancel.clone()
    }

    pub(crate) fn set_head(&self, head: Arc<Head>) {
        self.append(|log| log.head = Some(head));
    }

    pub(crate) fn push(&self, chunk: Arc<Chunk>) {
        self.append(|log| log.chunks.push(chunk));
    }

    /// Ends the flight.
    pub(crate) fn finish(self, outcome: Result<Arc<Served>, Arc<Error>>) {
        self.end(outcome);
    }

    fn end(&self, outcome: Result<Arc<Served>, Arc<Error>>) {
        self.flights.close(&mut lock(&self.flights.joinable), &self.flight);
        self.append(|log| {
            if log.outcome.is_none() {
                log.outcome = Some(outcome);
            }
        });
    }

    fn append(&self, change: impl FnOnce(&mut Log)) {
        change(&mut lock(&self.flight.log));
        self.flight.news.send_modify(|count| *count += 1);
    }
}

impl Drop for Leader {
    /// A leader that ends without an outcome has panicked; its followers must not wait for ever.
    fn drop(&mut self) {
        let id = lock(&self.flight.log).leader_id.clone();
        self.end(Err(Arc::new(Error::Internal { id })));
    }
}

impl Follower {
    /// The generation that leads this flight.
    pub(crate) fn leader_id(&self) -> String {
        lock(&self.flight.log).leader_id.clone()
    }

    /// Waits until the head is known or the flight has failed without one.
    pub(crate) async fn head(&mut self) -> Result<Arc<Head>, Arc<Error>> {
        loop {
            {
                let log = lock(&self.flight.log);
                match (&log.head, &log.outcome) {
                    (_, Some(Ok(served))) => return Ok(Arc::clone(&served.head)),
                    (Some(head), _) => return Ok(Arc::clone(head)),
                    (None, Some(Err(error))) => return Err(Arc::clone(error)),
                    (None, None) => {}
                }
            }
            self.wait().await;
        }
    }

    /// Waits for the next chunk or the end.
    pub(crate) async fn next(&mut self) -> Next {
        loop {
            {
                let log = lock(&self.flight.log);
                if let Some(chunk) = log.chunks.get(self.read) {
                    self.read += 1;
                    return Next::Chunk(Arc::clone(chunk));
                }
                if let Some(outcome) = &log.outcome {
                    return Next::Ended(outcome.clone());
                }
            }
            self.wait().await;
        }
    }

    /// Waits for the end.
    pub(crate) async fn outcome(&mut self) -> Result<Arc<Served>, Arc<Error>> {
        loop {
            if let Some(outcome) = &lock(&self.flight.log).outcome {
                return outcome.clone();
            }
            self.wait().await;
        }
    }

    async fn wait(&mut self) {
        let _closed = self.news.changed().await; // the sender lives in the flight that we hold
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut joinable = lock(&self.flights.joinable);
        let mut log = lock(&self.flight.log);
        log.followers -= 1;
        if log.followers == 0 && log.outcome.is_none() {
            drop(log);
            self.flights.close(&mut joinable, &self.flight);
            self.flight.cancel.cancel();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Both maps are whole between any two statements, so a panic elsewhere cannot have torn them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
