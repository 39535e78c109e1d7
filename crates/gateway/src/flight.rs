//! Single flight: identical concurrent misses share one upstream call. A flight keeps the latest events for its
//! followers; the fastest of them sets the pace, and a slower one that falls out of what is kept gets the rest of the
//! finished answer. The upstream is cancelled when the last follower has left.

use crate::error::Error;
use crate::served::{Head, Served};
use protocol::{CacheMode, Chunk, Digest};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Events kept for the followers of one flight, in bytes.
const KEPT_BYTES_MAX: usize = 256 * 1024;

/// What makes requests identical. The virtual key is part of it: a flight is paid for by its leader's key, and another
/// key must not fail with it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct FlightKey {
    pub fingerprint: Digest,
    pub key_hash: String,
    /// Where end users have limits: one must not be refused, or cut short, for another's.
    pub user: String,
    /// What one mode may be answered with another may not.
    pub mode: CacheMode,
    /// An answer found by meaning that one caller allows may be too unsure for a stricter one.
    pub error_max_bits: u64,
    /// One request must not end at another's deadline.
    pub timeouts_ms: [Option<u64>; 2],
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
    /// A follower has read or left; wakes a leader that waits for room.
    room: Notify,
    cancel: CancellationToken,
}

#[derive(Debug, Default)]
struct Log {
    leader_id: String,
    head: Option<Arc<Head>>,
    /// The latest chunks with their sizes.
    kept: VecDeque<(Arc<Chunk>, usize)>,
    kept_bytes: usize,
    /// Chunks that have left `kept`.
    gone: usize,
    outcome: Option<Result<Arc<Served>, Arc<Error>>>,
    /// How many chunks each follower has read.
    followers: HashMap<u64, usize>,
    follower_numbers: u64,
}

impl Log {
    /// Bytes that not even the fastest follower has read.
    fn unread_bytes(&self) -> usize {
        let fastest = self.followers.values().copied().max().unwrap_or(0);
        self.kept.iter().skip(fastest.saturating_sub(self.gone)).map(|(_, bytes)| bytes).sum()
    }
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
    number: u64,
}

/// What a follower reads next.
pub(crate) enum Next {
    Chunk(Arc<Chunk>),
    Ended(Result<Arc<Served>, Arc<Error>>),
}

/// Nobody has read for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stalled;

impl Flights {
    /// Joins the flight of this key, or begins it: then there is a leader too. Without a key a flight is nobody
    /// else's.
    pub(crate) fn join(&self, key: Option<FlightKey>, id: &str) -> (Follower, Option<Leader>) {
        let mut joinable = lock(&self.joinable);
        if let Some(flight) = key.as_ref().and_then(|key| joinable.get(key)) {
            return (self.follower(Arc::clone(flight)), None);
        }
        let flight = Arc::new(Flight {
            key: key.clone(),
            log: Mutex::new(Log { leader_id: id.to_owned(), ..Log::default() }),
            news: watch::Sender::new(0),
            room: Notify::new(),
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
        let number = {
            let mut log = lock(&flight.log);
            log.follower_numbers += 1;
            let number = log.follower_numbers;
            log.followers.insert(number, 0);
            number
        };
        Follower { flights: self.clone(), flight, news, number }
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

    /// Appends a chunk; waits while even the fastest follower is far behind.
    ///
    /// # Errors
    /// When none of them has read anything for `patience`.
    pub(crate) async fn push(&self, chunk: Arc<Chunk>, patience: Duration) -> Result<(), Stalled> {
        let bytes = chunk.bytes();
        loop {
            let room = self.flight.room.notified();
            let mut room = std::pin::pin!(room);
            room.as_mut().enable(); // a read between the look and the wait must not be missed
            let unread = lock(&self.flight.log).unread_bytes();
            if unread == 0 || unread + bytes <= KEPT_BYTES_MAX {
                break;
            }
            tokio::time::timeout(patience, room).await.map_err(|_| Stalled)?;
        }
        self.append(|log| {
            log.kept.push_back((chunk, bytes));
            log.kept_bytes += bytes;
            while log.kept_bytes > KEPT_BYTES_MAX && log.kept.len() > 1 {
                let Some((_, bytes)) = log.kept.pop_front() else { break };
                log.kept_bytes -= bytes;
                log.gone += 1;
            }
        });
        Ok(())
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

    /// Waits for the next chunk, or the end. A follower that has fallen behind gets no more chunks, only the end with
    /// the whole answer.
    pub(crate) async fn next(&mut self) -> Next {
        loop {
            {
                let mut log = lock(&self.flight.log);
                let read = log.followers.get(&self.number).copied().unwrap_or(0);
                if read < log.gone {
                    // Fallen behind for good: it must not hold the stream back any more.
                    log.followers.insert(self.number, usize::MAX);
                    self.flight.room.notify_waiters();
                }
                let next =
                    read.checked_sub(log.gone).and_then(|at| log.kept.get(at)).map(|(chunk, _)| Arc::clone(chunk));
                if let Some(chunk) = next {
                    log.followers.insert(self.number, read + 1);
                    drop(log);
                    self.flight.room.notify_waiters();
                    return Next::Chunk(chunk);
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
        // Somebody who waits for the whole answer must not hold the stream back.
        lock(&self.flight.log).followers.insert(self.number, usize::MAX);
        self.flight.room.notify_waiters();
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
        log.followers.remove(&self.number);
        if log.followers.is_empty() && log.outcome.is_none() {
            drop(log);
            self.flights.close(&mut joinable, &self.flight);
            self.flight.cancel.cancel();
        } else {
            drop(log);
            self.flight.room.notify_waiters();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Both maps are whole between any two statements, so a panic elsewhere cannot have torn them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{Reply, Usage};

    const PATIENCE: Duration = Duration::from_millis(50);

    fn chunk(bytes: usize) -> Arc<Chunk> {
        let body = serde_json::json!({"choices": [{"index": 0, "delta": {"content": "x".repeat(bytes)}}]});
        Arc::new(serde_json::from_value(body).expect("a chunk"))
    }

    fn key() -> Option<FlightKey> {
        Some(FlightKey {
            fingerprint: Digest([0; 32]),
            key_hash: "k".into(),
            user: String::new(),
            mode: CacheMode::On,
            error_max_bits: 0,
            timeouts_ms: [None; 2],
        })
    }

    fn served() -> Arc<Served> {
        let reply: Reply = serde_json::from_value(serde_json::json!({"choices": []})).expect("a reply");
        Arc::new(Served {
            head: Arc::new(Head::default()),
            reply: Arc::new(reply),
            usage: Usage::default(),
            cost: catalog::NanoUsd::ZERO,
            upstream: catalog::NanoUsd::ZERO,
            parts: <_>::default(),
            saved: catalog::NanoUsd::ZERO,
            trace: Arc::new(serde_json::Value::Null),
        })
    }

    #[tokio::test]
    async fn a_reader_that_stops_holds_the_leader_back_and_then_ends_it() {
        let (follower, leader) = Flights::default().join(None, "a");
        let leader = leader.expect("the first leads");
        assert_eq!(leader.push(chunk(200_000), PATIENCE).await, Ok(()));
        assert_eq!(leader.push(chunk(200_000), PATIENCE).await, Err(Stalled));
        drop(follower);
    }

    #[tokio::test]
    async fn the_fastest_reader_sets_the_pace_and_the_slow_one_gets_the_whole_answer() {
        let flights = Flights::default();
        let (mut fast, leader) = flights.join(key(), "a");
        let (mut slow, none) = flights.join(key(), "b");
        assert!(none.is_none(), "the second follows");
        let leader = leader.expect("the first leads");
        for _ in 0..5 {
            assert_eq!(leader.push(chunk(200_000), PATIENCE).await, Ok(()));
            assert!(matches!(fast.next().await, Next::Chunk(_)));
        }
        leader.finish(Ok(served()));
        assert!(matches!(slow.next().await, Next::Ended(Ok(_))));
        assert!(matches!(fast.next().await, Next::Ended(Ok(_))));
    }

    #[tokio::test]
    async fn the_upstream_is_cancelled_with_the_last_follower() {
        let flights = Flights::default();
        let (first, leader) = flights.join(key(), "a");
        let (second, _) = flights.join(key(), "b");
        let cancelled = leader.as_ref().expect("the first leads").cancelled();
        drop(first);
        assert!(!cancelled.is_cancelled());
        drop(second);
        assert!(cancelled.is_cancelled());
        assert!(flights.join(key(), "c").1.is_some(), "a cancelled flight is not joined");
    }
}
