//! Whether the checks of cascades are to be trusted: what comparisons made of answers that had passed.

use crate::asked::Asked;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How answers that passed a check have done beside those of other models, by tenant and policy.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trials(Arc<Mutex<HashMap<(String, String), Passed>>>);

/// Answers that passed, and how many of them were wrong where another one was right.
#[derive(Debug, Clone, Copy, Default)]
struct Passed {
    all: f64,
    wrong: f64,
}

impl Trials {
    /// From here on the share of wrong ones counts, and what is older counts half.
    const TELLING: f64 = 20.0;
    const MANY: f64 = 200.0;
    /// A cascade is worth its trials up to an error of .2 to .35 (docs/research/router.md).
    const ERROR_MAX: f64 = 0.15;

    pub(crate) fn are_trusted(&self, asked: &Asked) -> bool {
        let passed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = passed.get(&Self::owner(asked)).copied().unwrap_or_default();
        passed.all < Self::TELLING || passed.wrong <= Self::ERROR_MAX * passed.all
    }

    /// Takes the scores of a comparison whose own answer had passed.
    pub(crate) fn learn(&self, asked: &Asked, scores: &[(String, f64)]) {
        let is_right = |score: &f64| *score >= 0.5;
        let own = scores.iter().find(|(id, _)| *id == asked.id).map_or(0.0, |(_, score)| *score);
        let is_wrong = !is_right(&own) && scores.iter().any(|(_, score)| is_right(score));
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = all.entry(Self::owner(asked)).or_default();
        if passed.all >= Self::MANY {
            *passed = Passed { all: passed.all / 2.0, wrong: passed.wrong / 2.0 };
        }
        passed.all += 1.0;
        passed.wrong += f64::from(u8::from(is_wrong));
    }

    fn owner(asked: &Asked) -> (String, String) {
        let policy = asked.policy.as_ref().map(|policy| policy.name.clone()).unwrap_or_default();
        (asked.caller.tenant().to_owned(), policy)
    }
}
