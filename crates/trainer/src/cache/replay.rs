//! A stream in its order of arrival through the cache's own decision, from an empty cache.
//!
//! The class of a row stands for its answer: a fresh answer is compared with stored ones without error.

use super::streams::{Prepared, Stream};
use ::cache::{AnswerId, CASE_COUNT, CacheModel, EmbeddedStore, Estimate, Evidence, Neighbour, Owner, Semantic};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// When a replay serves a stored answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// As the gateway does, given the share that may be wrong.
    ErrorMax(f64),
    /// At this probability: what a sweep to equal error needs.
    Probability(f64),
}

/// What came of a replay.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Replayed {
    pub requests: usize,
    pub hits: usize,
    pub wrong: usize,
    /// Hits whose answer was asked for again, in the shadow.
    pub audits: usize,
    /// Of the first arrivals.
    pub first: Part,
    /// The gateway's own estimate at the end.
    pub estimate: Option<Estimate>,
    /// Wrong answers of the thousand requests in a row that have most.
    pub worst_thousand: usize,
    /// When wrong answers were given, rising.
    #[serde(skip)]
    wrong_at: Vec<usize>,
    /// Search and decision without the embedding: median and 99th percentile.
    pub decision_us_p50: f64,
    pub decision_us_p99: f64,
    #[serde(skip)]
    pub cases: Vec<([f64; CASE_COUNT], bool)>,
}

/// A part of a stream.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Part {
    pub requests: usize,
    pub hits: usize,
    pub wrong: usize,
    pub audits: usize,
}

/// How many arrivals are reported separately.
pub(crate) const FIRST: usize = 6_000;

impl Replayed {
    /// Wrong answers / requests.
    pub fn error(&self) -> f64 {
        self.wrong as f64 / self.requests.max(1) as f64
    }

    /// Calls saved, audits taken off / requests.
    pub fn net(&self) -> f64 {
        (self.hits as f64 - self.audits as f64) / self.requests.max(1) as f64
    }

    pub(crate) fn serve(&mut self, at: usize, is_right: bool) {
        self.hits += 1;
        self.wrong += usize::from(!is_right);
        if !is_right {
            self.wrong_at.push(at);
            let before = self.wrong_at.partition_point(|wrong| wrong + 1_000 <= at);
            self.worst_thousand = self.worst_thousand.max(self.wrong_at.len() - before);
        }
        if at < FIRST {
            self.first.hits += 1;
            self.first.wrong += usize::from(!is_right);
        }
    }

    /// Requests after `start` until of some 500 in a row no more than this share is answered wrongly.
    pub fn back_under(&self, error_max: f64, start: usize) -> Option<usize> {
        let last = self.requests.checked_sub(start + 500)?;
        let wrong_from = |at: usize| self.wrong_at.partition_point(|wrong| *wrong < at);
        (0..=last).find(|after| {
            let begin = start + after;
            (wrong_from(begin + 500) - wrong_from(begin)) as f64 <= error_max * 500.0
        })
    }

    /// Takes in how many microseconds each decision took.
    pub(crate) fn timed(&mut self, mut times: Vec<f64>) {
        times.sort_unstable_by(f64::total_cmp);
        let percentile = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or(0.0);
        (self.decision_us_p50, self.decision_us_p99) = (percentile(0.5), percentile(0.99));
    }

    pub(crate) fn arrived(&mut self, at: usize) {
        self.requests += 1;
        self.first.requests += usize::from(at < FIRST);
    }
}

/// How good the evidence is: comparing a fresh answer with a stored one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparing {
    /// How often it says the opposite of what is true, and is known to.
    pub error: f64,
    /// Share of misses and audits in which it says anything.
    pub available: f64,
}

impl Comparing {
    /// Always there and always right.
    pub const PERFECT: Self = Self { error: 0.0, available: 1.0 };
}

/// Replays rows of a stream; the seed draws the audits and the errors of the evidence.
pub fn replay(
    (stream, rows): (&Stream, Range<usize>),
    (model, words): (&CacheModel, &Words),
    rule: Rule,
    (seed, comparing): (u64, Comparing),
) -> Replayed {
    let mut run = Run {
        semantic: Semantic::new(Arc::clone(words), model.clone()).with_evidence_error(comparing.error),
        comparing,
        store: EmbeddedStore::new(usize::MAX),
        owner: Owner { tenant: "replay".to_owned(), policy: String::new() },
        classes: HashMap::new(),
        chance: StdRng::seed_from_u64(seed),
        rule,
        replayed: Replayed::default(),
    };
    let times = stream.rows[rows].iter().enumerate().map(|(at, row)| run.arrive(at, row)).collect();
    let mut replayed = run.replayed;
    replayed.timed(times);
    replayed.estimate = Some(run.semantic.estimate(&run.owner));
    replayed
}

/// The embedder's words.
pub type Words = Arc<::cache::Words>;

struct Run {
    semantic: Semantic,
    store: EmbeddedStore,
    owner: Owner,
    /// The class of each stored answer.
    classes: HashMap<AnswerId, u64>,
    chance: StdRng,
    comparing: Comparing,
    rule: Rule,
    replayed: Replayed,
}

impl Run {
    /// Returns the microseconds of search and decision.
    fn arrive(&mut self, at: usize, row: &Prepared) -> f64 {
        let error_max = match self.rule {
            Rule::ErrorMax(error_max) => error_max,
            Rule::Probability(_) => 0.01,
        };
        let begun = Instant::now();
        let neighbours = row.neighbours(&self.store);
        let look = self.semantic.look(&self.owner, &row.question(at as u64), &neighbours, error_max);
        let elapsed = begun.elapsed().as_secs_f64() * 1e6;
        self.replayed.arrived(at);
        let is_hit = look.as_ref().is_some_and(|look| match self.rule {
            Rule::ErrorMax(_) => look.is_admissible(),
            Rule::Probability(least) => look.case.is_some() && look.probability >= least,
        });
        self.semantic.count(&self.owner, look.as_ref(), is_hit);
        let Some(look) = look else {
            self.keep(at, row, &[]);
            return elapsed;
        };
        let answer = look.case.as_ref().map(|case| Arc::clone(&case.answer));
        let is_right = answer.as_ref().is_some_and(|answer| self.classes.get(answer) == Some(&row.class));
        if let Some(case) = &look.case {
            self.replayed.cases.push((case.numbers, is_right));
        }
        if !is_hit {
            let said = self.compare(is_right);
            if let Some(said) = said {
                self.semantic.learn(&self.owner, &look, said, Evidence::Miss);
            }
            self.keep(at, row, if said.is_some() { &neighbours } else { &[] });
            return elapsed;
        }
        self.replayed.serve(at, is_right);
        if self.chance.random::<f64>() < look.audit_chance {
            self.replayed.audits += 1;
            self.replayed.first.audits += usize::from(at < FIRST);
            if let Some(said) = self.compare(is_right) {
                self.semantic.learn(&self.owner, &look, said, Evidence::Audit);
                if !said {
                    self.keep(at, row, &neighbours);
                }
            }
        }
        elapsed
    }

    /// What comparing the answers says of whether the stored one is right, where it says anything.
    fn compare(&mut self, is_right: bool) -> Option<bool> {
        let is_available = self.comparing.available >= 1.0 || self.chance.random::<f64>() < self.comparing.available;
        let errs = self.comparing.error > 0.0 && self.chance.random::<f64>() < self.comparing.error;
        is_available.then_some(is_right != errs)
    }

    /// Stores a fresh answer: as one of the neighbours' where it is the same, which makes all of the same answer one.
    fn keep(&mut self, at: usize, row: &Prepared, neighbours: &[Neighbour]) {
        let roots = neighbours.iter().map(|neighbour| self.semantic.root(&neighbour.row.answer));
        let same: Vec<AnswerId> = roots.filter(|answer| self.classes.get(answer) == Some(&row.class)).collect();
        let id: AnswerId = format!("{at:08}").into();
        let answer = self.semantic.join(&same).unwrap_or_else(|| {
            self.classes.insert(Arc::clone(&id), row.class);
            Arc::clone(&id)
        });
        self.store.add(row.row(id, answer));
    }
}
