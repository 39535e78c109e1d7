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

/// Threshold and logistic curve of one verdict. The curves go through the shares of pairs with the same answer that were
/// measured on 3,900 Quora question pairs by bands of cosine (docs/semantic-cache.md); labels missing there count as
/// wrong, so they are on the low side.
struct Curve {
    cosine_min: f32,
    even_odds: f64,
    slope: f64,
}

const SAME_WORDS: Curve = Curve { cosine_min: 0.90, even_odds: 0.867, slope: 23.0 };
const REWORDED: Curve = Curve { cosine_min: 0.88, even_odds: 0.785, slope: 16.0 };

/// Decides on a neighbour with this cosine and verdict.
pub fn decide(cosine: f32, verdict: Verdict) -> Decision {
    let curve = match verdict {
        Verdict::Vetoed(veto) => return Decision { probability: 0.0, admissible: false, veto: Some(veto) },
        Verdict::SameWords => SAME_WORDS,
        Verdict::Reworded => REWORDED,
    };
    let probability = 1.0 / (1.0 + (-curve.slope * (f64::from(cosine) - curve.even_odds)).exp());
    Decision { probability, admissible: cosine >= curve.cosine_min, veto: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_closer_neighbour_is_never_less_likely_and_a_veto_always_counts(a in -1.0f32..1.0, b in -1.0f32..1.0) {
            let (low, high) = (a.min(b), a.max(b));
            for verdict in [Verdict::SameWords, Verdict::Reworded] {
                let (far, near) = (decide(low, verdict), decide(high, verdict));
                prop_assert!(far.probability <= near.probability && far.admissible <= near.admissible);
            }
            prop_assert!(!decide(1.0, Verdict::Vetoed(Veto::Numbers)).admissible);
        }
    }
}
