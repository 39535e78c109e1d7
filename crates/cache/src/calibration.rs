//! How far the learner's probabilities are off in this traffic: a line over their log-odds, which labels of misses and audits
//! move. Whether a hit is audited depends on its probability alone, so that what audits find at a probability is true of all
//! hits there; no weighting is needed, and a few dozen labels say something.

use crate::learner::Label;
use serde::{Deserialize, Serialize};

/// Log-odds at which the line is anchored: about .95.
const ANCHOR: f64 = 3.0;
/// Standard deviations that offset and slope start with.
const OFFSET: f64 = 0.5;
const SLOPE: f64 = 0.2;
/// Share of them that comes back with every unit of information, so that old labels are forgotten.
const FORGETTING: f64 = 0.002;
/// Standard deviations by which the line is taken to be worse than it looks.
const CAUTION: f64 = 0.5;
/// The share of what the latest labels said that is left after another one, and the standard deviations, over one wrong
/// answer, by which they must say that more is wrong until the traffic is taken to be another.
const REMEMBERED: f64 = 0.98;
const CHANGED: f64 = 3.0;
/// A miss says half as much of the hits as an audited one of them.
const MISS_WEIGHT: f64 = 0.5;

/// Offset and slope, with their covariance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Calibration {
    line: [f64; 2],
    covariance: [[f64; 2]; 2],
    #[serde(default)]
    lately: Lately,
}

/// What the latest labels said against the line: the sum of their surprises and of their information, older ones fading.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Lately {
    surprise: f64,
    information: f64,
}

impl Default for Calibration {
    fn default() -> Self {
        Self { line: [0.0, 1.0], covariance: [[OFFSET * OFFSET, 0.0], [0.0, SLOPE * SLOPE]], lately: Lately::default() }
    }
}

impl Calibration {
    /// How likely an answer of this probability is wrong.
    pub(crate) fn wrong(&self, probability: f64) -> f64 {
        1.0 - logistic(self.corrected(at(probability)))
    }

    /// The same, taken to be worse than it looks by what is not known.
    pub(crate) fn wrong_with_caution(&self, probability: f64) -> f64 {
        let x = at(probability);
        1.0 - logistic(self.corrected(x) - CAUTION * self.variance(x).sqrt())
    }

    /// The variance of the expected number of wrong ones among answers, given the sum of the gradient over them.
    pub(crate) fn variance(&self, x: [f64; 2]) -> f64 {
        let [[aa, ab], [_, bb]] = self.covariance;
        (x[0] * x[0] * aa + 2.0 * x[0] * x[1] * ab + x[1] * x[1] * bb).max(0.0)
    }

    /// How the expected number of wrong ones changes with offset and slope, for one answer.
    pub(crate) fn gradient(&self, probability: f64) -> [f64; 2] {
        let (x, wrong) = (at(probability), self.wrong(probability));
        x.map(|x| wrong * (1.0 - wrong) * x)
    }

    /// Takes in the label of an audited hit of this probability.
    pub(crate) fn audited(&mut self, probability: f64, label: Label) {
        self.learn(probability, Label { weight: 1.0, ..label });
    }

    /// Takes in the label of a miss of this probability.
    pub(crate) fn missed(&mut self, probability: f64, label: Label) {
        self.learn(probability, Label { weight: MISS_WEIGHT, ..label });
    }

    fn learn(&mut self, probability: f64, label: Label) {
        let x = at(probability);
        let (surprise, information) = label.says(logistic(self.corrected(x)));
        let information = information.max(1e-4) * label.weight;
        let product = |covariance: &[[f64; 2]; 2]| -> [f64; 2] { covariance.map(|row| row[0] * x[0] + row[1] * x[1]) };
        let spread = product(&self.covariance);
        let all = 1.0 / information + self.variance(x);
        for row in 0..2 {
            for column in 0..2 {
                self.covariance[row][column] -= spread[row] * spread[column] / all;
            }
        }
        let step = product(&self.covariance);
        self.line.iter_mut().zip(step).for_each(|(value, step)| *value += step * surprise * label.weight);
        self.forget(FORGETTING * information.min(1.0));
        if self.lately.tell_a_change(surprise * label.weight, information * label.weight) {
            self.forget(1.0);
        }
    }

    /// Takes so much of the first uncertainty back in.
    fn forget(&mut self, share: f64) {
        self.covariance[0][0] += share * OFFSET * OFFSET;
        self.covariance[1][1] += share * SLOPE * SLOPE;
    }

    fn corrected(&self, x: [f64; 2]) -> f64 {
        ANCHOR + self.line[0] + self.line[1] * x[1]
    }
}

impl Lately {
    /// Takes in a label; true where the traffic has changed for the worse, and begins anew.
    fn tell_a_change(&mut self, surprise: f64, information: f64) -> bool {
        self.surprise = REMEMBERED * self.surprise + surprise;
        self.information = REMEMBERED * REMEMBERED * self.information + information;
        let is_change = self.surprise < -1.0 - CHANGED * self.information.sqrt();
        if is_change {
            *self = Self::default();
        }
        is_change
    }
}

fn at(probability: f64) -> [f64; 2] {
    [1.0, log_odds(probability) - ANCHOR]
}

/// The log-odds of a probability, within what labels can tell from certainty.
pub(crate) fn log_odds(probability: f64) -> f64 {
    let probability = probability.clamp(1e-4, 1.0 - 1e-4);
    (probability / (1.0 - probability)).ln()
}

/// The probability of log-odds.
pub(crate) fn logistic(log_odds: f64) -> f64 {
    1.0 / (1.0 + (-log_odds).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(is_right: bool, error: f64) -> Label {
        Label { is_right, weight: 1.0, error }
    }

    #[test]
    fn it_starts_with_the_probabilities_as_they_are() {
        let calibration = Calibration::default();
        for p in [0.5, 0.9, 0.95, 0.999] {
            assert!((calibration.wrong(p) - (1.0 - p)).abs() < 1e-9);
            assert!(calibration.wrong_with_caution(p) > 1.0 - p);
        }
    }

    #[test]
    fn labels_move_it_to_the_share_that_is_wrong_and_make_it_surer() {
        let mut calibration = Calibration::default();
        let before = calibration.variance([1.0, 0.0]);
        for at in 0..2_000 {
            calibration.audited(0.95, label(at % 10 != 0, 0.0));
        }
        assert!((calibration.wrong(0.95) - 0.1).abs() < 0.02, "{}", calibration.wrong(0.95));
        assert!(calibration.variance([1.0, 0.0]) < before / 4.0);
    }

    #[test]
    fn what_was_learned_is_doubted_once_the_traffic_is_another() {
        let learned = || {
            let mut calibration = Calibration::default();
            (0..4_000).for_each(|at| calibration.audited(0.95, label(at % 50 != 0, 0.0)));
            calibration
        };
        let (mut same, mut other) = (learned(), learned());
        let settled = same.variance([1.0, 0.0]);
        (0..60).for_each(|at| same.audited(0.95, label(at % 50 != 25, 0.0)));
        assert!(same.variance([1.0, 0.0]) < 1.2 * settled, "the same traffic goes on");
        // A fifth is wrong from now on: 60 labels bring it well on the way.
        (0..60).for_each(|at| other.audited(0.95, label(at % 5 != 0, 0.0)));
        assert!(other.wrong(0.95) > 0.07 && same.wrong(0.95) < 0.04, "{} {}", other.wrong(0.95), same.wrong(0.95));
    }

    #[test]
    fn labels_that_are_known_to_err_say_less_and_nothing_wrong() {
        let mut calibration = Calibration::default();
        // A twentieth is wrong, a tenth of the labels says the opposite: .05 · .9 + .95 · .1 = .14 are called wrong.
        for at in 0..4_000 {
            calibration.audited(0.95, label(at % 100 >= 14, 0.1));
        }
        assert!((calibration.wrong(0.95) - 0.05).abs() < 0.02, "{}", calibration.wrong(0.95));
    }
}
