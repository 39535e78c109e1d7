//! Who keeps the share of wrong answers under `error_max`: the threshold of the moment, audits, and the estimate.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// More than any probability.
const NEVER: f64 = 1.1;
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
    /// What the hits' probabilities say that this variance should be: audits that all went well must not hide it.
    #[serde(default)]
    expected_variance: f64,
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
            expected_variance: 0.0,
        }
    }
}

impl Controller {
    /// The least probability that may be served where at most `error_max` of the requests may be answered wrongly.
    pub(crate) fn threshold(&self, error_max: f64) -> f64 {
        if error_max <= 0.0 {
            return NEVER;
        }
        let allowed = self.ambition * error_max * self.window.len() as f64;
        let mut served = self.plan.partition_point(|(p, wrong)| *wrong <= allowed && *p >= PROBABILITY_MIN);
        if let Some((next, _)) = self.plan.get(served) {
            // Of equal probabilities all are served or none.
            served = served.min(self.plan.partition_point(|(p, _)| p > next));
        }
        let least = match served.checked_sub(1) {
            _ if self.plan.is_empty() && self.requests < EVERY => CAUTIOUS, // there is no plan yet
            Some(last) => self.plan[last].0,
            None => NEVER, // nothing that was seen lately could be served
        };
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
        let chance = Self::audit_chance(probability);
        self.expected_variance += probability * (1.0 - probability) * (1.0 - chance) / chance;
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
        let deviation = self.correction_variance.max(self.expected_variance).sqrt() / self.requests.max(1) as f64;
        Estimate {
            requests: self.requests,
            hits: self.hits,
            audits: self.audits,
            error: self.error().max(0.0),
            error_high: (self.error() + 1.96 * deviation).max(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Traffic whose probabilities are right: returns the controller, and how many were served and wrong.
    fn run(error_max: f64, requests: usize, mut draw: impl FnMut() -> f64) -> (Controller, usize, usize) {
        let mut controller = Controller::default();
        let (mut hits, mut wrong) = (0, 0);
        for _ in 0..requests {
            let p = 1.0 - draw().powi(3);
            let is_hit = p >= controller.threshold(error_max);
            controller.saw(p, error_max);
            if is_hit {
                let is_right = draw() < p;
                controller.hit(p);
                hits += 1;
                wrong += usize::from(!is_right);
                if draw() < Controller::audit_chance(p) {
                    controller.audited(p, is_right);
                }
            }
        }
        (controller, hits, wrong)
    }

    fn lcg(seed: u64) -> impl FnMut() -> f64 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    #[test]
    fn calibrated_traffic_stays_near_what_is_allowed_and_is_served() {
        for error_max in [0.01, 0.05] {
            let (mut bias, mut covered) = (0.0, 0);
            for seed in 0..64 {
                let (controller, hits, wrong) = run(error_max, 10_000, lcg(seed << 32));
                let error = wrong as f64 / 10_000.0;
                assert!(error < 1.5 * error_max, "{error} of {error_max}");
                assert!(hits > 1_000, "{hits} hits");
                let estimate = controller.estimate();
                bias += (controller.error() - error) / 64.0;
                covered += usize::from(error <= estimate.error_high);
            }
            assert!(bias.abs() < 0.25 * error_max, "the estimate is off by {bias} on average");
            assert!(covered >= 61, "{covered} of 64 intervals hold the truth");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn a_stricter_share_never_lowers_the_threshold(ps in proptest::collection::vec(0.0f64..1.0, 600..900)) {
            let mut controller = Controller::default();
            ps.iter().for_each(|p| controller.saw(*p, 0.01));
            let shares = [0.0, 0.001, 0.01, 0.05, 0.5];
            prop_assert!(shares.windows(2).all(|two| controller.threshold(two[0]) >= controller.threshold(two[1])));
            prop_assert!(controller.threshold(0.0) > 1.0, "a share of nothing serves nothing");
        }
    }

    #[test]
    fn audits_that_find_more_wrong_than_expected_make_it_stricter() {
        let mut controller = Controller::default();
        let saw_many = |controller: &mut Controller| {
            (0..1_000).for_each(|at| controller.saw(0.9 + 0.0001 * f64::from(at), 0.02));
        };
        saw_many(&mut controller);
        let before = controller.threshold(0.02);
        for _ in 0..200 {
            controller.hit(0.97);
            controller.audited(0.97, false);
        }
        saw_many(&mut controller);
        assert!(controller.threshold(0.02) > before && controller.estimate().error > 0.02);
    }

    #[test]
    fn of_equal_probabilities_all_are_served_or_none() {
        let mut controller = Controller::default();
        (0..1_000).for_each(|_| controller.saw(0.97, 0.02));
        assert_eq!(controller.threshold(0.02), NEVER, "30 wrong ones are expected, 12 are planned for");
        assert!(controller.threshold(0.06) < 0.971);
    }

    #[test]
    fn nothing_uncertain_is_served_while_little_is_known() {
        let mut controller = Controller::default();
        assert_eq!(controller.threshold(1.0), CAUTIOUS);
        (0..400).for_each(|_| controller.saw(0.9, 1.0));
        assert!(controller.threshold(1.0) >= CAUTIOUS);
        (0..400).for_each(|_| controller.saw(0.9, 1.0));
        assert!(controller.threshold(1.0) <= 0.9);
    }
}
