//! What a request's neighbours say together: which stored answer is the likeliest, and the case for it in numbers.

use crate::pair::{Features, NARROWER, SLOT, WEIGHTIEST_UNMATCHED};
use std::sync::Arc;

/// How many numbers a case has.
pub const CASE_COUNT: usize = 9;

/// What each number of a case is.
pub const CASE_NAMES: [&str; CASE_COUNT] = [
    "constant",
    "cosine",
    "pair score",
    "margin to another answer",
    "share of neighbours with the answer",
    "weight of neighbours with the answer",
    "weightiest unmatched word",
    "slot",
    "narrower",
];

/// The numbers of a case that say how the prompts differ in form.
pub const CASE_FORM: std::ops::Range<usize> = 7..9;

/// Names a stored answer: the generation that made it.
pub type AnswerId = Arc<str>;

/// A stored prompt near the asked one that no rule objects to.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    /// The answer that it points to.
    pub answer: AnswerId,
    pub cosine: f32,
    pub features: Features,
    /// The pair model's score.
    pub score: f64,
    /// What labels have taught of the answer.
    pub effect: f64,
}

/// The case for one stored answer.
#[derive(Debug, Clone)]
pub struct Case {
    pub answer: AnswerId,
    /// Of the nearest prompt with this answer.
    pub cosine: f32,
    pub numbers: [f64; CASE_COUNT],
    /// Every answer among the neighbours that no rule objects to, this one first.
    pub answers: Vec<AnswerId>,
}

/// A margin to no other answer, and the most that counts.
const MARGIN_MAX: f64 = 4.0;

impl Candidate {
    fn rank(&self) -> f64 {
        10.0 * (f64::from(self.cosine) - 0.85) + 0.5 * self.score + self.effect
    }
}

/// Makes the case for the best answer among candidates. `None` where there is none.
pub(crate) fn make_case(candidates: &[Candidate]) -> Option<Case> {
    let best = candidates.iter().reduce(|best, other| if other.rank() > best.rank() { other } else { best })?;
    let agrees = |candidate: &&Candidate| candidate.answer == best.answer;
    let others = || candidates.iter().filter(|candidate| candidate.answer != best.answer);
    let margin = others().map(|other| best.rank() - other.rank()).fold(MARGIN_MAX, f64::min);
    let share = candidates.iter().filter(agrees).count() as f64 / candidates.len() as f64;
    let pull = |candidate: &Candidate| (candidate.rank() - best.rank()).exp();
    let (with, against): (f64, f64) = (candidates.iter().filter(agrees).map(pull).sum(), others().map(pull).sum());
    let mut answers = vec![Arc::clone(&best.answer)];
    for candidate in candidates {
        if !answers.contains(&candidate.answer) {
            answers.push(Arc::clone(&candidate.answer));
        }
    }
    let feature = |at: usize| f64::from(best.features[at]);
    Some(Case {
        answer: Arc::clone(&best.answer),
        cosine: best.cosine,
        numbers: [
            1.0,
            10.0 * (f64::from(best.cosine) - 0.85),
            best.score,
            margin,
            share,
            (with / (against + 0.3)).ln(),
            feature(WEIGHTIEST_UNMATCHED),
            feature(SLOT),
            feature(NARROWER),
        ],
        answers,
    })
}
