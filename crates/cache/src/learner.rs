//! What labels teach: the weights of a case, and an effect of each answer, updated one label at a time.
//!
//! The weights follow an extended Kalman filter on the logistic loss, so that a label costs about a hundred
//! multiplications; an answer's effect is a random effect with a shrinking step.

use crate::calibration::logistic;
use crate::decision::{AnswerId, CASE_COUNT, CASE_FORM, Case};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Prior variance of a weight, and of an answer's effect. How likely answers are right at all, and how much an exchanged or
/// additional word matters, differs most from one kind of traffic to the other: there learning starts with caution, and a
/// few labels undo it.
const WEIGHT_VARIANCE: f64 = 0.2;
const TRAFFIC_VARIANCE: f64 = 1.0;
const EFFECT_VARIANCE: f64 = 0.49;
const EFFECT_MIN: f64 = -6.0;
const EFFECT_MAX: f64 = 3.0;
/// One label counts as so many at the most, for the weights and for an effect.
const LABEL_WEIGHT_MAX: f64 = 10.0;
const EFFECT_WEIGHT_MAX: f64 = 4.0;
/// Answers whose effect is remembered.
const EFFECTS_MAX: usize = 100_000;

/// Weights and effects of one tenant and policy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Learner {
    weights: [f64; CASE_COUNT],
    covariance: [[f64; CASE_COUNT]; CASE_COUNT],
    effects: HashMap<AnswerId, Effect>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Effect {
    value: f64,
    variance: f64,
}

/// Whether the answer of a case was right, as far as is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Label {
    pub is_right: bool,
    /// How many cases it stands for.
    pub weight: f64,
    /// How often such labels say the opposite of what is true.
    pub error: f64,
}

impl Label {
    /// The gradient of its log-likelihood with respect to the log-odds, where the answer is right with this probability,
    /// and Fisher's information: `y − p` and `p (1 − p)` for a label that is never wrong.
    pub(crate) fn says(self, p: f64) -> (f64, f64) {
        let sharpness = 1.0 - 2.0 * self.error;
        let said = self.error + sharpness * p;
        let spread = (said * (1.0 - said)).max(1e-12);
        let slope = sharpness * p * (1.0 - p);
        let y = f64::from(u8::from(self.is_right));
        ((y - said) / spread * slope, slope * slope / spread)
    }
}

impl Learner {
    pub(crate) fn new(prior: &[f64; CASE_COUNT]) -> Self {
        let mut covariance = [[0.0; CASE_COUNT]; CASE_COUNT];
        (0..CASE_COUNT).for_each(|at| covariance[at][at] = WEIGHT_VARIANCE);
        covariance[0][0] = TRAFFIC_VARIANCE;
        CASE_FORM.for_each(|at| covariance[at][at] = TRAFFIC_VARIANCE);
        Self { weights: *prior, covariance, effects: HashMap::new() }
    }

    /// What labels have taught of an answer, as log-odds.
    pub(crate) fn effect(&self, answer: &AnswerId) -> f64 {
        self.effects.get(answer).map_or(0.0, |effect| effect.value)
    }

    /// How likely the answer of a case is right.
    pub(crate) fn probability(&self, case: &Case) -> f64 {
        let sum: f64 = case.numbers.iter().zip(&self.weights).map(|(x, w)| x * w).sum();
        logistic((sum + self.effect(&case.answer)).clamp(-30.0, 30.0))
    }

    /// Takes in a label.
    pub(crate) fn learn(&mut self, case: &Case, label: Label) {
        let (x, p) = (&case.numbers, self.probability(case));
        let (surprise, per_case) = label.says(p);
        let Label { weight, .. } = label;
        let for_weights = weight.min(LABEL_WEIGHT_MAX);
        let information = per_case.max(1e-4) * for_weights;
        let px: [f64; CASE_COUNT] = std::array::from_fn(|row| dot(&self.covariance[row], x));
        let spread = 1.0 / information + dot(&px, x);
        for row in 0..CASE_COUNT {
            for column in 0..CASE_COUNT {
                self.covariance[row][column] -= px[row] * px[column] / spread;
            }
        }
        let step: [f64; CASE_COUNT] = std::array::from_fn(|row| dot(&self.covariance[row], x));
        self.weights.iter_mut().zip(step).for_each(|(w, step)| *w += step * for_weights * surprise);
        if self.effects.len() < EFFECTS_MAX || self.effects.contains_key(&case.answer) {
            let fresh = Effect { value: 0.0, variance: EFFECT_VARIANCE };
            let effect = self.effects.entry(case.answer.clone()).or_insert(fresh);
            let weight = weight.min(EFFECT_WEIGHT_MAX);
            effect.variance = 1.0 / (1.0 / effect.variance + per_case.max(1e-3) * weight);
            effect.value = (effect.value + effect.variance * weight * surprise).clamp(EFFECT_MIN, EFFECT_MAX);
        }
    }

    /// Forgets answers that are gone.
    pub(crate) fn retain(&mut self, is_there: impl Fn(&AnswerId) -> bool) {
        self.effects.retain(|answer, _| is_there(answer));
    }
}

fn dot(a: &[f64; CASE_COUNT], b: &[f64; CASE_COUNT]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(answer: &str, cosine: f64, score: f64) -> Case {
        let mut numbers = [0.0; CASE_COUNT];
        (numbers[0], numbers[1], numbers[2]) = (1.0, 10.0 * (cosine - 0.85), score);
        Case { answer: answer.into(), cosine: cosine as f32, numbers, answers: vec![answer.into()] }
    }

    const PRIOR: [f64; CASE_COUNT] = [0.5, 0.5, 0.3, 0.3, 1.0, 1.0, 0.0, -4.0, -4.0];

    #[test]
    fn labels_move_the_answer_and_then_its_like() {
        let mut learner = Learner::new(&PRIOR);
        let (this, like) = (case("a", 0.9, 1.0), case("b", 0.9, 1.0));
        let before = learner.probability(&this);
        assert_eq!(before, learner.probability(&like));
        learner.learn(&this, Label { is_right: false, weight: 1.0, error: 0.0 });
        assert!(learner.probability(&this) < learner.probability(&like), "the answer's own effect");
        assert!(learner.probability(&like) < before, "what such cases have in common");
        (0..50).for_each(|_| learner.learn(&this, Label { is_right: true, weight: 1.0, error: 0.0 }));
        assert!(learner.probability(&this) > 0.9);
        learner.retain(|answer| &**answer != "a");
        assert_eq!(learner.effect(&"a".into()), 0.0);
    }

    #[test]
    fn caution_about_an_exchanged_word_gives_way_to_labels() {
        let mut learner = Learner::new(&PRIOR);
        let mut slot = case("a", 0.95, 4.0);
        slot.numbers[CASE_FORM.start] = 1.0;
        assert!(learner.probability(&slot) < 0.5);
        for at in 0..40 {
            slot.answer = format!("{at}").into();
            learner.learn(&slot, Label { is_right: true, weight: 1.0, error: 0.0 });
        }
        slot.answer = "new".into();
        assert!(learner.probability(&slot) > 0.85, "{}", learner.probability(&slot));
    }

    #[test]
    fn what_was_learned_is_the_same_after_storing() {
        let mut learner = Learner::new(&PRIOR);
        learner.learn(&case("a", 0.9, 1.0), Label { is_right: true, weight: 20.0, error: 0.0 });
        let stored = serde_json::to_string(&learner).expect("JSON");
        let back: Learner = serde_json::from_str(&stored).expect("a learner");
        assert_eq!(back.probability(&case("a", 0.8, 2.0)), learner.probability(&case("a", 0.8, 2.0)));
    }
}
