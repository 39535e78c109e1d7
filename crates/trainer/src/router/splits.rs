//! Which prompts a router learns from and which it is measured on. Prompts of one group never stand on both sides.

use super::outcomes::Split;
use super::prepared::Prompt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use std::collections::{BTreeSet, HashSet};

/// How prompts are parted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Learns from the rows marked `train`, measured on those marked `dev`.
    Dev,
    /// Learns from a draw, measured on all other rows.
    Rest,
    /// As many folds, each measured with what the others taught.
    Folds(usize),
    /// Each category measured with what the others taught.
    Categories,
}

/// Rows to learn from and rows to be measured on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub train: Vec<usize>,
    pub test: Vec<usize>,
}

/// Parts the prompts; `labels` draws so many rows to learn from.
pub(crate) fn parts(prompts: &[Prompt], protocol: Protocol, labels: Option<usize>, seed: u64) -> Vec<Part> {
    let mut random = StdRng::seed_from_u64(seed);
    let rows = |keep: &dyn Fn(&Prompt) -> bool| -> Vec<usize> {
        (0..prompts.len()).filter(|at| keep(&prompts[*at])).collect()
    };
    let draw = |mut train: Vec<usize>, random: &mut StdRng| -> Vec<usize> {
        train.shuffle(random);
        train.truncate(labels.unwrap_or(usize::MAX));
        train
    };
    let parted: Vec<(Vec<usize>, Vec<usize>)> = match protocol {
        Protocol::Dev => {
            let of = |split: Split| rows(&|prompt: &Prompt| prompt.row.split == split);
            vec![(of(Split::Train), of(Split::Dev))]
        }
        Protocol::Rest => vec![(rows(&|_| true), rows(&|_| true))],
        Protocol::Folds(count) => {
            let mut groups: Vec<&str> =
                prompts.iter().map(|prompt| prompt.row.group.as_str()).collect::<BTreeSet<_>>().into_iter().collect();
            groups.shuffle(&mut random);
            let fold = |at: usize| -> HashSet<&str> { groups.iter().skip(at).step_by(count).copied().collect() };
            let parted = (0..count).map(|at| {
                let fold = fold(at);
                let is_in = |prompt: &Prompt| fold.contains(prompt.row.group.as_str());
                (rows(&|prompt| !is_in(prompt)), rows(&is_in))
            });
            parted.collect()
        }
        Protocol::Categories => {
            let categories: BTreeSet<&str> = prompts.iter().map(|prompt| prompt.row.category.as_str()).collect();
            let parted = categories.into_iter().map(|category| {
                (rows(&|prompt| prompt.row.category != category), rows(&|prompt| prompt.row.category == category))
            });
            parted.collect()
        }
    };
    parted
        .into_iter()
        .map(|(train, test)| {
            let train = draw(train, &mut random);
            let learned: HashSet<&str> = train.iter().map(|at| prompts[*at].row.group.as_str()).collect();
            let test = test.into_iter().filter(|at| !learned.contains(prompts[*at].row.group.as_str())).collect();
            Part { train, test }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::outcomes::OutcomeRow;
    use ::router::Features;

    fn prompts() -> Vec<Prompt> {
        let row = |at: usize| OutcomeRow {
            source: "x".into(),
            category: format!("c{}", at % 4),
            split: if at.is_multiple_of(5) { Split::Dev } else { Split::Train },
            group: format!("g{}", at / 3),
            prompt: String::new(),
            outcomes: Default::default(),
        };
        (0..60).map(|at| Prompt { row: row(at), features: Features::of(""), vector: Vec::new() }).collect()
    }

    #[test]
    fn no_group_is_on_both_sides_and_folds_measure_every_prompt_once() {
        let prompts = prompts();
        for protocol in [Protocol::Dev, Protocol::Rest, Protocol::Folds(5), Protocol::Categories] {
            let parts = parts(&prompts, protocol, Some(20), 1);
            for part in &parts {
                let groups = |rows: &[usize]| -> HashSet<String> {
                    rows.iter().map(|at| prompts[*at].row.group.clone()).collect()
                };
                assert!(groups(&part.train).is_disjoint(&groups(&part.test)), "{protocol:?}");
                assert!(part.train.len() <= 20);
            }
            let mut tested: Vec<usize> = parts.iter().flat_map(|part| part.test.clone()).collect();
            let all = tested.len();
            tested.sort_unstable();
            tested.dedup();
            assert_eq!(tested.len(), all, "{protocol:?}: twice");
            if protocol == Protocol::Folds(5) {
                assert_eq!(all, 60);
            }
        }
    }

    #[test]
    fn another_seed_draws_other_labels() {
        let prompts = prompts();
        let of = |seed| parts(&prompts, Protocol::Rest, Some(10), seed).remove(0).train;
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }
}
