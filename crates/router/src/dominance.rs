//! Candidates that another one makes superfluous: on the same labelled prompts it is no worse, and it costs less.

use crate::guarantee::{LabelledPrompt, keeps_all};
use std::fmt;

/// A model that is dominated, by whom, and what shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Dominated {
    pub model: String,
    pub by: String,
    /// Labelled prompts with a score of both.
    pub prompts: usize,
    /// Mean scores of the two.
    pub score: f64,
    pub by_score: f64,
    /// What the other costs, as a share.
    pub cost_share: f64,
}

/// Fewer prompts show nothing.
const PROMPTS_MIN: usize = 100;

impl Dominated {
    /// Looks at prompts with a score of two models; `Some` where the second dominates the first.
    pub(crate) fn of((model, by): (&str, &str), prompts: &[LabelledPrompt]) -> Option<Self> {
        let mean = |of: &dyn Fn(&LabelledPrompt) -> f64| prompts.iter().map(of).sum::<f64>() / prompts.len() as f64;
        if prompts.len() < PROMPTS_MIN || !keeps_all(prompts, 0, 1) {
            return None;
        }
        let cost_share = mean(&|prompt| prompt.costs[1]) / mean(&|prompt| prompt.costs[0]);
        (cost_share < 1.0).then(|| Self {
            model: model.to_owned(),
            by: by.to_owned(),
            prompts: prompts.len(),
            score: mean(&|prompt| prompt.scores[0]),
            by_score: mean(&|prompt| prompt.scores[1]),
            cost_share,
        })
    }
}

impl fmt::Display for Dominated {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let Self { model, by, prompts, score, by_score, cost_share } = self;
        let percent = 100.0 * cost_share;
        write!(
            formatter,
            "`{model}` scores {score:.3} and `{by}` {by_score:.3} at {percent:.0} % of its cost (n = {prompts}): it can be left out"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_cheaper_model_that_is_shown_to_be_no_worse_dominates() {
        let prompts = |count: usize, wins: usize, cost: f64| -> Vec<LabelledPrompt> {
            let one = |at: usize| LabelledPrompt {
                expected: vec![0.5; 2],
                scores: vec![0.0, f64::from(u8::from(at < wins))],
                costs: vec![2.0, cost],
            };
            (0..count).map(one).collect()
        };
        let found = Dominated::of(("a", "b"), &prompts(200, 40, 1.0)).expect("fewer scores for twice the price");
        assert_eq!((found.prompts, found.by_score, found.cost_share), (200, 0.2, 0.5));
        assert_eq!(
            found.to_string(),
            "`a` scores 0.000 and `b` 0.200 at 50 % of its cost (n = 200): it can be left out"
        );
        assert_eq!(Dominated::of(("a", "b"), &prompts(99, 40, 1.0)), None, "too few prompts");
        assert_eq!(Dominated::of(("a", "b"), &prompts(200, 40, 2.0)), None, "not cheaper");
        assert_eq!(Dominated::of(("a", "b"), &prompts(200, 1, 1.0)), None, "one prompt shows nothing");
    }
}
