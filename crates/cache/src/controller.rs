//! Who keeps the share of wrong answers under `error_max`: the threshold of the moment, audits, and the estimate.
//!
//! The learner's probabilities, corrected by what labels say of them ([`Calibration`]), add up to the wrong answers that a
//! threshold would let through. Steering by that sum, not by the few wrong ones that audits find, is what keeps both the
//! bound and the hits: see docs/research/cache.md.

use crate::calibration::{Calibration, log_odds, logistic};
use crate::learner::Label;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

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
/// Share of hits that are audited.
const AUDIT_MIN: f64 = 0.01;
const AUDIT_MAX: f64 = 0.25;
/// The expected number of wrong answers stays under what is allowed by what chance may add over so many requests: what is
/// right on average is over the limit every other time.
const MARGIN_REQUESTS: f64 = 6_000.0;
const TARGET_MIN: f64 = 0.1;
/// Hits are counted by log-odds, in tenths.
const BINS: f64 = 10.0;

/// The controller of one tenant and policy.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Controller {
    /// Probabilities of the latest requests, 0 where there was nothing to serve, and whether they were served.
    window: VecDeque<(f32, bool)>,
    /// The window's probabilities, falling, with the expected wrong answers if all down to here were served.
    #[serde(skip)]
    plan: Vec<(f64, f64)>,
    /// Wrong answers expected among those served in the window.
    #[serde(skip)]
    spent: f64,
    calibration: Calibration,
    requests: u64,
    audits: u64,
    /// All hits by their log-odds.
    hits: BTreeMap<i32, u64>,
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
    /// Upper end of its one-sided interval.
    pub error_high: f64,
    /// How often such an interval holds the truth.
    pub confidence: f64,
}

/// How often the bound and the statement are to hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Confidence {
    level: f64,
    /// As standard deviations of a one-sided interval.
    deviations: f64,
}

impl Confidence {
    /// Takes a level from 0.5 to under 1. The quantile of the normal distribution is Hastings' approximation
    /// (Abramowitz and Stegun, 26.2.23), within 4.5e-4.
    pub(crate) fn new(level: f64) -> Self {
        let level = level.clamp(0.5, 0.999_9);
        let t = (-2.0 * (1.0 - level).ln()).sqrt();
        let above = 2.515_517 + t * (0.802_853 + t * 0.010_328);
        let below = 1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308));
        Self { level, deviations: t - above / below }
    }
}

impl Default for Confidence {
    fn default() -> Self {
        Self::new(0.95)
    }
}

impl Controller {
    /// The least probability that may be served where at most `error_max` of the requests may be answered wrongly.
    pub(crate) fn threshold(&self, error_max: f64, confidence: Confidence) -> f64 {
        if error_max <= 0.0 {
            return NEVER;
        }
        let target = target(error_max, confidence) * self.window.len() as f64;
        let allowed = target - (self.spent - target).max(0.0);
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
    pub(crate) fn saw(&mut self, probability: f64) {
        self.window.push_back((probability as f32, false));
        if self.window.len() > WINDOW {
            self.window.pop_front();
        }
        self.requests += 1;
        if self.requests.is_multiple_of(EVERY) {
            self.plan();
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
        let mut sorted: Vec<f64> = self.window.iter().map(|(p, _)| f64::from(*p)).collect();
        sorted.sort_unstable_by(|a, b| b.total_cmp(a));
        let (mut wrong, calibration) = (0.0, &self.calibration);
        self.plan.clear();
        self.plan.extend(sorted.into_iter().take_while(|p| *p >= PROBABILITY_MIN).map(|p| {
            wrong += calibration.wrong_with_caution(p);
            (p, wrong)
        }));
        let served = self.window.iter().filter(|(_, is_served)| *is_served);
        self.spent = served.map(|(p, _)| calibration.wrong(f64::from(*p))).sum();
    }

    /// Takes in that the request seen last was a hit, of this probability.
    pub(crate) fn hit(&mut self, probability: f64) {
        if let Some((_, is_served)) = self.window.back_mut() {
            *is_served = true;
        }
        *self.hits.entry(bin(probability)).or_default() += 1;
    }

    /// The chance that a hit of this probability is audited.
    pub(crate) fn audit_chance(probability: f64) -> f64 {
        (1.0 - probability).clamp(AUDIT_MIN, AUDIT_MAX)
    }

    /// Takes in what an audit found.
    pub(crate) fn audited(&mut self, probability: f64, label: Label) {
        self.audits += 1;
        self.calibration.audited(probability, label);
    }

    /// Takes in what a miss found of the answer that was not given.
    pub(crate) fn missed(&mut self, probability: f64, label: Label) {
        if probability >= PROBABILITY_MIN {
            self.calibration.missed(probability, label);
        }
    }

    /// The expectation over all hits, by what is known now, with the chance of the draw and the calibration's own doubt.
    pub(crate) fn estimate(&self, confidence: Confidence) -> Estimate {
        let (mut wrong, mut gradient, mut hits) = (0.0, [0.0; 2], 0);
        for (bin, count) in &self.hits {
            let probability = logistic(f64::from(*bin) / BINS);
            let [offset, slope] = self.calibration.gradient(probability);
            let count_f = *count as f64;
            wrong += count_f * self.calibration.wrong(probability);
            gradient = [gradient[0] + count_f * offset, gradient[1] + count_f * slope];
            hits += count;
        }
        let deviation = (self.calibration.variance(gradient) + wrong).sqrt();
        let requests = self.requests.max(1) as f64;
        Estimate {
            requests: self.requests,
            hits,
            audits: self.audits,
            error: wrong / requests,
            error_high: (wrong + confidence.deviations * deviation) / requests,
            confidence: confidence.level,
        }
    }
}

/// The share of wrong answers to plan for, so that chance does not carry it over `error_max`.
fn target(error_max: f64, confidence: Confidence) -> f64 {
    error_max * (1.0 - confidence.deviations / (error_max * MARGIN_REQUESTS).sqrt()).max(TARGET_MIN)
}

fn bin(probability: f64) -> i32 {
    (log_odds(probability) * BINS).round() as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn label(is_right: bool) -> Label {
        Label { is_right, weight: 1.0, error: 0.0 }
    }

    /// Traffic that is right as often as `truth` says of a probability: returns the controller, and how many were served
    /// and wrong.
    fn run(
        error_max: f64,
        requests: usize,
        truth: impl Fn(f64) -> f64,
        mut draw: impl FnMut() -> f64,
    ) -> (Controller, usize, usize) {
        let mut controller = Controller::default();
        let (mut hits, mut wrong) = (0, 0);
        for _ in 0..requests {
            let p = 1.0 - draw().powi(3);
            let is_hit = p >= controller.threshold(error_max, Confidence::default());
            let is_right = draw() < truth(p);
            controller.saw(p);
            if is_hit {
                controller.hit(p);
                hits += 1;
                wrong += usize::from(!is_right);
                if draw() < Controller::audit_chance(p) {
                    controller.audited(p, label(is_right));
                }
            } else {
                controller.missed(p, label(is_right));
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

    /// Of 64 runs: how many were over, the worst as a share of what is allowed, how many statements were true, hits.
    fn outcomes(error_max: f64, truth: impl Fn(f64) -> f64 + Copy) -> (usize, f64, usize, usize) {
        let (mut over, mut worst, mut stated, mut least) = (0, 0.0f64, 0, usize::MAX);
        for seed in 0..64 {
            let (controller, hits, wrong) = run(error_max, 10_000, truth, lcg(seed << 32));
            let error = wrong as f64 / 10_000.0;
            over += usize::from(error > error_max);
            worst = worst.max(error / error_max);
            stated += usize::from(error <= controller.estimate(Confidence::default()).error_high);
            least = least.min(hits);
        }
        (over, worst, stated, least)
    }

    #[test]
    fn calibrated_traffic_stays_under_what_is_allowed_and_is_served() {
        for error_max in [0.005, 0.01, 0.05] {
            let (over, worst, stated, hits) = outcomes(error_max, |p| p);
            assert!(over <= 3 && worst < 1.2, "{over} of 64 over {error_max}, by {worst} at the most");
            assert!(stated >= 61, "{stated} of 64 statements are true");
            assert!(hits > 1_000, "{hits} hits");
        }
    }

    #[test]
    fn traffic_that_is_wrong_twice_as_often_as_expected_is_noticed() {
        for error_max in [0.01, 0.05] {
            let (_, worst, _, hits) = outcomes(error_max, |p| 1.0 - 2.0 * (1.0 - p).min(0.5));
            assert!(worst < 1.6 && hits > 500, "by {worst} at the most, {hits} hits");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn a_stricter_share_never_lowers_the_threshold(ps in proptest::collection::vec(0.0f64..1.0, 600..900)) {
            let mut controller = Controller::default();
            ps.iter().for_each(|p| controller.saw(*p));
            let shares = [0.0, 0.0001, 0.001, 0.01, 0.05, 0.5];
            prop_assert!(shares.windows(2).all(|two| controller.threshold(two[0], Confidence::default()) >= controller.threshold(two[1], Confidence::default())));
            prop_assert!(controller.threshold(0.0, Confidence::default()) > 1.0, "a share of nothing serves nothing");
        }
    }

    #[test]
    fn confidence_widens_what_is_said_and_narrows_what_is_served() {
        for (level, deviations) in
            [(0.5, 0.0), (0.8, 0.8416), (0.9, 1.2816), (0.95, 1.6449), (0.99, 2.3263), (0.999, 3.0902)]
        {
            let got = Confidence::new(level).deviations;
            assert!((got - deviations).abs() < 6e-4, "{level}: {got}");
        }
        let (controller, ..) = run(0.02, 4_000, |p| p, lcg(7));
        let [low, high] = [0.8, 0.99].map(Confidence::new);
        assert!(controller.threshold(0.02, low) < controller.threshold(0.02, high));
        let [low, high] = [low, high].map(|confidence| controller.estimate(confidence));
        assert!(low.error == high.error && low.error_high < high.error_high);
    }

    #[test]
    fn audits_that_find_more_wrong_than_expected_make_it_stricter() {
        let mut controller = Controller::default();
        let saw_many = |controller: &mut Controller| {
            (0..1_000).for_each(|at| controller.saw(0.9 + 0.0001 * f64::from(at)));
        };
        saw_many(&mut controller);
        let before = controller.threshold(0.02, Confidence::default());
        for _ in 0..200 {
            controller.hit(0.97);
            controller.audited(0.97, label(false));
        }
        saw_many(&mut controller);
        assert!(
            controller.threshold(0.02, Confidence::default()) > before
                && controller.estimate(Confidence::default()).error > 0.02
        );
    }

    #[test]
    fn what_was_spent_over_the_target_is_saved_again() {
        let mut controller = Controller::default();
        let saw_many = |controller: &mut Controller, served: bool| {
            for at in 0..1_000 {
                let p = 0.9 + 0.0001 * f64::from(at);
                controller.saw(p);
                if served {
                    controller.hit(p);
                }
            }
        };
        saw_many(&mut controller, false);
        let before = controller.threshold(0.02, Confidence::default());
        saw_many(&mut controller, true);
        assert!(
            controller.threshold(0.02, Confidence::default()) > before,
            "50 wrong ones are expected in 2,000 requests, 34 are planned for"
        );
    }

    #[test]
    fn of_equal_probabilities_all_are_served_or_none() {
        let mut controller = Controller::default();
        (0..1_000).for_each(|_| controller.saw(0.97));
        assert_eq!(
            controller.threshold(0.02, Confidence::default()),
            NEVER,
            "over 30 wrong ones are expected, 17 are planned for"
        );
        assert!(controller.threshold(0.06, Confidence::default()) < 0.971);
    }

    #[test]
    fn nothing_uncertain_is_served_while_little_is_known() {
        let mut controller = Controller::default();
        assert_eq!(controller.threshold(1.0, Confidence::default()), CAUTIOUS);
        (0..400).for_each(|_| controller.saw(0.9));
        assert!(controller.threshold(1.0, Confidence::default()) >= CAUTIOUS);
        (0..400).for_each(|_| controller.saw(0.9));
        assert!(controller.threshold(1.0, Confidence::default()) <= 0.9);
    }
}
