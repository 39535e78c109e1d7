//! Who keeps the share of wrong answers under `error_max`: the threshold of the moment, audits, and the estimate.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Requests that the threshold looks back on.
const WINDOW: usize = 3_000;
/// The threshold is set anew after so many.
const EVERY: u64 = 100;
/// No hit under this probability, and while little is known none under the second.
pub(crate) const PROBABILITY_MIN: f64 = 0.5;
const CAUTIOUS: f64 = 0.93;
const CAUTIOUS_REQUESTS: u64 = 500;
/// From here on the estimate steers.
const STEERED_FROM: u64 = 300;
/// Share of hits that are audited.
const AUDIT_MIN: f64 = 0.01;
const AUDIT_MAX: f64 = 0.25;
/// Expected error that is planned for, as a share of the allowed one.
const AMBITION_START: f64 = 0.6;
const AMBITION_MIN: f64 = 0.1;
const GAIN: f64 = 0.35;

/// The controller of one tenant and policy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Controller {
    /// Probabilities of the latest requests; 0 where there was nothing to serve.
    window: VecDeque<f32>,
    /// The window's probabilities, falling, with the expected wrong answers if all down to here were served.
    #[serde(skip)]
    plan: Vec<(f64, f64)>,
    ambition: f64,
    requests: u64,
    hits: u64,
    audits: u64,
    expected_wrong: f64,
    /// What audits found beyond the expectation, each weighed by its chance.
    correction: f64,
    correction_variance: f64,
}

/// What is known of the share of wrong answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// Requests that the semantic level could have answered.
    pub requests: u64,
    pub hits: u64,
    pub audits: u64,
    /// Wrong answers / requests.
    pub error: f64,
    /// Upper end of the 95 % interval (normal approximation).
    pub error_high: f64,
}

impl Default for Controller {
    fn default() -> Self {
        Self {
            window: VecDeque::new(),
            plan: Vec::new(),
            ambition: AMBITION_START,
            requests: 0,
            hits: 0,
            audits: 0,
            expected_wrong: 0.0,
            correction: 0.0,
            correction_variance: 0.0,
        }
    }
}

impl Controller {
    /// The least probability that may be served where at most `error_max` of the requests may be answered wrongly.
    pub(crate) fn threshold(&self, error_max: f64) -> f64 {
        let allowed = self.ambition * error_max * self.window.len() as f64;
        let served = self.plan.partition_point(|(p, wrong)| *wrong <= allowed && *p >= PROBABILITY_MIN);
        let least = match served.checked_sub(1) {
            Some(last) => self.plan[last].0,
            None => 1.1, // nothing that was seen lately could be served
        };
        // Before the first plan there is only caution.
        let least = if self.plan.is_empty() { CAUTIOUS } else { least };
        let floor = if self.requests < CAUTIOUS_REQUESTS { CAUTIOUS } else { PROBABILITY_MIN };
        least.max(floor)
    }

    /// Takes in a request's probability, and sets the plan anew when it is time.
    pub(crate) fn saw(&mut self, probability: f64, error_max: f64) {
        self.window.push_back(probability as f32);
        if self.window.len() > WINDOW {
            self.window.pop_front();
        }
        self.requests += 1;
        if self.requests.is_multiple_of(EVERY) {
            self.plan();
            self.steer(error_max);
        }
    }

    /// Makes a stored controller ready: its plan was not stored.
    pub(crate) fn resume(&mut self) {
        if self.requests >= EVERY {
            self.plan();
        }
    }

    /// Sorts the window into a plan.
    fn plan(&mut self) {
        let mut sorted: Vec<f64> = self.window.iter().map(|p| f64::from(*p)).collect();
        sorted.sort_unstable_by(|a, b| b.total_cmp(a));
        let mut wrong = 0.0;
        self.plan.clear();
        self.plan.extend(sorted.into_iter().take_while(|p| *p >= PROBABILITY_MIN).map(|p| {
            wrong += 1.0 - p;
            (p, wrong)
        }));
    }

    fn steer(&mut self, error_max: f64) {
        if self.requests < STEERED_FROM || error_max <= 0.0 {
            return;
        }
        let cautious = self.error() + 0.5 * self.deviation();
        let room = ((error_max - cautious) / error_max).clamp(-1.5, 1.0);
        self.ambition = (self.ambition * (GAIN * room).exp()).clamp(AMBITION_MIN, 1.0);
    }

    /// Takes in a hit of this probability.
    pub(crate) fn hit(&mut self, probability: f64) {
        self.hits += 1;
        self.expected_wrong += 1.0 - probability;
    }

    /// The chance that a hit of this probability is audited.
    pub(crate) fn audit_chance(probability: f64) -> f64 {
        (1.0 - probability).clamp(AUDIT_MIN, AUDIT_MAX)
    }

    /// Takes in what an audit found.
    pub(crate) fn audited(&mut self, probability: f64, is_right: bool) {
        let chance = Self::audit_chance(probability);
        let wrong = f64::from(u8::from(!is_right));
        let beyond = (wrong - (1.0 - probability)) / chance;
        self.audits += 1;
        self.correction += beyond;
        self.correction_variance += beyond * beyond * (1.0 - chance);
    }

    /// Doubly robust: the expectation over all hits, corrected by the audited ones.
    fn error(&self) -> f64 {
        (self.expected_wrong + self.correction) / self.requests.max(1) as f64
    }

    fn deviation(&self) -> f64 {
        self.correction_variance.sqrt() / self.requests.max(1) as f64
    }

    pub(crate) fn estimate(&self) -> Estimate {
        Estimate {
            requests: self.requests,
            hits: self.hits,
            audits: self.audits,
            error: self.error().max(0.0),
            error_high: (self.error() + 1.96 * self.deviation()).max(0.0),
        }
    }
}
