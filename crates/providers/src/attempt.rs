//! The record of every call made for a request, whole also when the request is given up in the middle of one.

use crate::error::Kind;
use catalog::{Endpoint, NanoUsd};
use protocol::Usage;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One call and what it came to.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub endpoint: Arc<Endpoint>,
    /// The variable of the environment that the credential came from; empty without one.
    pub credential: String,
    pub outcome: Outcome,
    /// The status of an error answer.
    pub status: Option<u16>,
    /// Until its answer had begun, or it had failed.
    pub latency: Duration,
    /// A second request beside a slow first.
    pub hedge: bool,
    /// What its provider may bill although it brought nothing: an estimate unless the provider said so.
    pub wasted: Option<Usage>,
    /// What the call is expected to cost if it is billed in full.
    expected: Usage,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Answered,
    Failed(Kind),
    /// Given up: another call of the request was faster, or its client left.
    Cancelled,
}

impl Attempt {
    /// What was paid for nothing.
    pub fn wasted_cost(&self) -> NanoUsd {
        self.wasted.map_or(NanoUsd::ZERO, |usage| self.endpoint.price.cost(usage))
    }
}

/// The calls of one request, in the order in which they began.
#[derive(Debug, Clone, Default)]
pub struct Attempts(Arc<Mutex<Vec<Attempt>>>);

impl Attempts {
    /// All calls so far; those under way count as cancelled.
    pub fn list(&self) -> Vec<Attempt> {
        self.lock().clone()
    }

    /// An answer that was on trial is shown after all.
    pub(crate) fn accept(&self, at: usize) {
        let attempt = &mut self.lock()[at];
        attempt.outcome = Outcome::Answered;
        attempt.wasted = None;
    }

    /// An answer came, or began to, and is not shown: it is billed, and brought nothing.
    pub(crate) fn reject(&self, at: usize, kind: Kind, usage: Usage) {
        let attempt = &mut self.lock()[at];
        attempt.outcome = Outcome::Failed(kind);
        attempt.wasted = Some(usage);
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// A call begins. `given_up` and `expected` are what its provider may bill when it is cancelled, and when it fails
    /// after the work was done.
    pub(crate) fn begin(&self, endpoint: Arc<Endpoint>, credential: &str, bill: Bills, hedge: bool) -> UnderWay {
        let mut all = self.lock();
        all.push(Attempt {
            endpoint,
            credential: credential.to_owned(),
            outcome: Outcome::Cancelled,
            status: None,
            latency: Duration::ZERO,
            hedge,
            wasted: Some(bill.given_up),
            expected: bill.expected,
        });
        UnderWay { attempts: self.clone(), at: all.len() - 1, began: Instant::now() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Attempt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a provider may bill for a call that brings nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bills {
    pub given_up: Usage,
    pub expected: Usage,
}

/// A call under way; dropped without an end it was cancelled.
pub(crate) struct UnderWay {
    attempts: Attempts,
    at: usize,
    began: Instant,
}

impl UnderWay {
    pub(crate) fn answered(&self) {
        let latency = self.began.elapsed();
        let attempt = &mut self.attempts.lock()[self.at];
        attempt.outcome = Outcome::Answered;
        attempt.latency = latency;
        attempt.wasted = None;
    }

    /// The answer had begun, and is billed as far as it came.
    pub(crate) fn broke(&self, kind: Kind) {
        self.attempts.lock()[self.at].outcome = Outcome::Failed(kind);
    }

    pub(crate) fn failed(&self, failure: &crate::error::Failure) {
        let latency = self.began.elapsed();
        let attempt = &mut self.attempts.lock()[self.at];
        attempt.outcome = Outcome::Failed(failure.kind);
        attempt.latency = latency;
        attempt.status = failure.status;
        let billed = failure.kind.may_be_billed();
        attempt.wasted = failure.usage.as_deref().copied().or(billed.then_some(attempt.expected));
    }

    /// Its place among the attempts.
    pub(crate) fn place(&self) -> usize {
        self.at
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let attempt = &mut self.attempts.lock()[self.at];
        if attempt.outcome == Outcome::Cancelled {
            attempt.latency = self.began.elapsed();
        }
    }
}
