//! What the simulator saw: counters, the latest requests, and a line in a file for each call.

use crate::fault::Fault;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Requests remembered at the most.
const SEEN_MAX: usize = 10_000;

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub model: String,
    pub body: Value,
    pub authorization: Option<String>,
    /// Since the simulator started.
    pub at: Duration,
}

/// One call as it ended: a line of the log file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Call {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    pub model: String,
    /// The request's `user` field, by which a test finds its own calls.
    pub user: String,
    pub stream: bool,
    /// The fault it met; empty where all was well.
    pub fault: String,
    /// `ended`, `failed` as told, or `cancelled` by the client.
    pub outcome: String,
    pub prompt_tokens: u64,
    /// What a provider would bill for output: all of it where the answer ended.
    pub completion_tokens: u64,
    pub ms: u64,
}

/// Totals since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub arrived: u64,
    pub ended: u64,
    pub failed: u64,
    pub cancelled: u64,
    /// Under way now.
    pub open: u64,
    pub by_model: BTreeMap<String, u64>,
}

/// All that was seen.
pub(crate) struct Log {
    pub started: Instant,
    pub arrived: AtomicU64,
    seen: Mutex<VecDeque<Seen>>,
    counters: Mutex<Counters>,
    file: Option<Mutex<BufWriter<File>>>,
}

impl Log {
    pub(crate) fn new(file: Option<File>) -> Self {
        Self {
            started: Instant::now(),
            arrived: AtomicU64::new(0),
            seen: Mutex::default(),
            counters: Mutex::default(),
            file: file.map(|file| Mutex::new(BufWriter::new(file))),
        }
    }

    /// Notes an arrival; returns how many of this model came before.
    pub(crate) fn arrived(&self, model: &str, body: &Value, authorization: Option<String>) -> u64 {
        self.arrived.fetch_add(1, Ordering::AcqRel);
        let seen = Seen { model: model.to_owned(), body: body.clone(), authorization, at: self.started.elapsed() };
        let mut all = lock(&self.seen);
        if all.len() == SEEN_MAX {
            all.pop_front();
        }
        all.push_back(seen);
        let mut counters = lock(&self.counters);
        counters.arrived += 1;
        counters.open += 1;
        let before = counters.by_model.entry(model.to_owned()).or_default();
        *before += 1;
        *before - 1
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        lock(&self.seen).iter().cloned().collect()
    }

    pub(crate) fn counters(&self) -> Counters {
        lock(&self.counters).clone()
    }

    fn ended(&self, call: &Call) {
        {
            let mut counters = lock(&self.counters);
            counters.open -= 1;
            match call.outcome.as_str() {
                "ended" => counters.ended += 1,
                "cancelled" => counters.cancelled += 1,
                _ => counters.failed += 1,
            }
        }
        let Some(file) = &self.file else { return };
        let mut file = lock(file);
        let line = serde_json::to_string(call).unwrap_or_default();
        if let Err(error) = writeln!(file, "{line}").and_then(|()| file.flush()) {
            eprintln!("the simulator's log could not be written: {error}");
        }
    }
}

/// A call under way; dropped before its end it was cancelled by the client.
pub(crate) struct Watched {
    log: Arc<Log>,
    call: Call,
    started: Instant,
}

impl Watched {
    pub(crate) fn new(log: Arc<Log>, model: &str, body: &Value) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let call = Call {
            at_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            model: model.to_owned(),
            user: body["user"].as_str().unwrap_or_default().to_owned(),
            stream: body["stream"].as_bool().unwrap_or(false),
            fault: String::new(),
            outcome: "cancelled".to_owned(),
            prompt_tokens: 0,
            completion_tokens: 0,
            ms: 0,
        };
        Self { log, call, started: Instant::now() }
    }

    pub(crate) fn meets(&mut self, fault: Option<Fault>) {
        self.call.fault = fault.map(Fault::name).unwrap_or_default();
    }

    /// The answer was sent to its end.
    pub(crate) fn end(&mut self, prompt_tokens: u64, completion_tokens: u64) {
        self.call.outcome = "ended".to_owned();
        self.call.prompt_tokens = prompt_tokens;
        self.call.completion_tokens = completion_tokens;
    }

    /// The call failed as it was told to.
    pub(crate) fn fail(&mut self) {
        self.call.outcome = "failed".to_owned();
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.call.ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.log.ended(&self.call);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
