//! The one decision of the semantic level: how likely a stored answer is right, and whether it may be served.

use crate::guard::{Verdict, Veto};

/// The decision on one neighbour.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decision {
    /// Probability that the stored answer is right.
    pub probability: f64,
    pub admissible: bool,
    pub veto: Option<Veto>,
}

/// The least cosine at which an answer is served when both prompts say the same words.
const COSINE_MIN_SAME_WORDS: f32 = 0.80;
/// The least cosine when each says words that the other lacks.
const COSINE_MIN_REWORDED: f32 = 0.88;

/// Decides on a neighbour with this cosine and verdict.
pub fn decide(cosine: f32, verdict: Verdict) -> Decision {
    let (cosine_min, even_odds) = match verdict {
        Verdict::Vetoed(veto) => return Decision { probability: 0.0, admissible: false, veto: Some(veto) },
        Verdict::SameWords => (COSINE_MIN_SAME_WORDS, EVEN_ODDS_SAME_WORDS),
        Verdict::Reworded => (COSINE_MIN_REWORDED, EVEN_ODDS_REWORDED),
    };
    let probability = 1.0 / (1.0 + (-SLOPE * (f64::from(cosine) - even_odds)).exp());
    Decision { probability, admissible: cosine >= cosine_min, veto: None }
}

const SLOPE: f64 = 14.0;
const EVEN_ODDS_SAME_WORDS: f64 = 0.62;
const EVEN_ODDS_REWORDED: f64 = 0.62;
