//! What a cascade on a pair of models is worth when its check errs: the weak model answers first, and the strong one where the
//! check says no. Exact expectations over the errors, no draws.

use serde::Serialize;

/// One prompt: what the strong and the weak model scored and cost, and the gain that a router expects of the strong one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub strong: (f64, f64),
    pub weak: (f64, f64),
    pub gain: f64,
}

/// A cascade at one error of its check, beside a router that sees the prompt only and may spend as much.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cascaded {
    /// Share of right answers that the check refuses, and of wrong ones that it lets pass.
    pub error: f64,
    pub quality: f64,
    /// As a share of the strong model's, checks included.
    pub cost: f64,
    pub routed_quality: f64,
}

/// `check_cost` is what a check costs, in weak answers: 1 where it is a second sample.
pub(crate) fn cascaded(cases: &[Case], error: f64, check_cost: f64) -> Cascaded {
    let count = cases.len().max(1) as f64;
    let (mut quality, mut cost) = (0.0, 0.0);
    for case in cases {
        let (right, wrong) = (case.weak.0, 1.0 - case.weak.0);
        let passes_right = right * (1.0 - error);
        let passes = passes_right + wrong * error;
        quality += passes_right + (1.0 - passes) * case.strong.0;
        cost += case.weak.1 * (1.0 + check_cost) + (1.0 - passes) * case.strong.1;
    }
    let strong_cost = cases.iter().map(|case| case.strong.1).sum::<f64>().max(1e-12);
    Cascaded { error, quality: quality / count, cost: cost / strong_cost, routed_quality: routed(cases, cost) / count }
}

/// The score that a router reaches for so much money: those prompts go to the strong model of which it expects the most.
fn routed(cases: &[Case], money: f64) -> f64 {
    let mut by_gain: Vec<&Case> = cases.iter().collect();
    by_gain.sort_by(|a, b| b.gain.total_cmp(&a.gain));
    let mut left = money - cases.iter().map(|case| case.weak.1).sum::<f64>();
    let mut score: f64 = cases.iter().map(|case| case.weak.0).sum();
    for case in by_gain {
        let dearer = (case.strong.1 - case.weak.1).max(1e-12);
        let share = (left / dearer).clamp(0.0, 1.0); // of the last one a part
        score += share * (case.strong.0 - case.weak.0);
        left -= share * dearer;
        if left <= 0.0 {
            break;
        }
    }
    score
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quality_and_cost_agree_with_values_worked_by_hand() {
        let case = |weak: f64, gain: f64| Case { strong: (1.0, 10.0), weak: (weak, 1.0), gain };
        // Two of four are right with the weak model; a check of no error and no cost: 4 + 2 · 10 of 40.
        let cases = [case(1.0, 0.1), case(1.0, 0.4), case(0.0, 0.9), case(0.0, 0.2)];
        let exact = cascaded(&cases, 0.0, 0.0);
        assert_eq!((exact.quality, exact.cost), (1.0, 24.0 / 40.0));
        // For the same 24 the router sends 20/9 prompts to the strong model: those of gain .9, .4 and 2/9 of that of .2.
        assert!((exact.routed_quality - (3.0 + 2.0 / 9.0) / 4.0).abs() < 1e-9, "{exact:?}");
        // A quarter wrong: right ones pass in .75, wrong ones in .25; each check costs one weak answer.
        let worse = cascaded(&cases, 0.25, 1.0);
        assert!((worse.quality - (2.0 + 2.0 * 0.75) / 4.0).abs() < 1e-9, "{worse:?}");
        assert!((worse.cost - (8.0 + (0.25 * 2.0 + 0.75 * 2.0) * 10.0) / 40.0).abs() < 1e-9, "{worse:?}");
    }
}
