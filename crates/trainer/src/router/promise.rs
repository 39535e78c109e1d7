//! Is what is promised of the quality kept? Promises are made on one half of the prompts and measured on the other.

use super::prepared::Prompt;
use super::splits::Protocol;
use ::router::{Guarantee, LabelledPrompt};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::Serialize;
use std::collections::BTreeSet;

/// How often prompts are parted anew.
const RESPLITS: u64 = 100;

/// What became of one promise.
#[derive(Debug, Clone, Serialize)]
pub struct Kept {
    /// Share of the baseline's quality that was promised, and how often that is to hold.
    pub quality_min: f64,
    pub confidence: f64,
    /// Times that it was made, with prompts of the same kind; in how many of them a margin was found, and in how many less
    /// was kept.
    pub promises: usize,
    pub with_margin: usize,
    pub broken: usize,
    /// Means over all of them: prompts that went to other models, dollars and quality as shares of the baseline's.
    pub routed: f64,
    pub cost: f64,
    pub quality: f64,
    /// The least that was kept.
    pub quality_least: f64,
}

/// What a margin brings on prompts: quality, dollars and routed share, of the baseline's.
fn served(prompts: &[&LabelledPrompt], baseline: usize, margin: Option<f64>) -> (f64, f64, f64) {
    let (mut quality, mut best, mut cost, mut all, mut routed) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for prompt in prompts {
        let model = prompt.serve(baseline, margin);
        quality += prompt.scores[model];
        best += prompt.scores[baseline];
        cost += prompt.costs[model];
        all += prompt.costs[baseline];
        routed += f64::from(u8::from(model != baseline));
    }
    (quality / f64::max(best, 1e-9), cost / f64::max(all, 1e-12), routed / prompts.len().max(1) as f64)
}

/// Makes a promise many times and looks what became of it.
pub(crate) fn promise(
    prompts: &[(&Prompt, LabelledPrompt)],
    baseline: usize,
    quality_min: f64,
    confidence: f64,
    protocol: Protocol,
) -> Kept {
    let parted = if protocol == Protocol::Categories { categories(prompts) } else { halves(prompts) };
    let mut kept = Kept {
        quality_min,
        confidence,
        promises: parted.len(),
        with_margin: 0,
        broken: 0,
        routed: 0.0,
        cost: 0.0,
        quality: 0.0,
        quality_least: f64::INFINITY,
    };
    for (learned, measured) in &parted {
        let learned: Vec<LabelledPrompt> = learned.iter().map(|at| prompts[*at].1.clone()).collect();
        let measured: Vec<&LabelledPrompt> = measured.iter().map(|at| &prompts[*at].1).collect();
        let guarantee = Guarantee::choose(&learned, baseline, quality_min, confidence);
        let (quality, cost, routed) = served(&measured, baseline, guarantee.margin);
        kept.with_margin += usize::from(guarantee.margin.is_some());
        kept.broken += usize::from(quality < quality_min);
        kept.quality_least = kept.quality_least.min(quality);
        let share = 1.0 / parted.len() as f64;
        (kept.quality, kept.cost, kept.routed) =
            (kept.quality + share * quality, kept.cost + share * cost, kept.routed + share * routed);
    }
    kept
}

/// Prompts to promise on and prompts to measure with, by their places.
type Parted = Vec<(Vec<usize>, Vec<usize>)>;

/// Question groups by halves, drawn anew each time.
fn halves(prompts: &[(&Prompt, LabelledPrompt)]) -> Parted {
    let groups: BTreeSet<&str> = prompts.iter().map(|(prompt, _)| prompt.row.group.as_str()).collect();
    let parted = |seed: u64| {
        let mut groups: Vec<&str> = groups.iter().copied().collect();
        groups.shuffle(&mut StdRng::seed_from_u64(seed));
        let first: BTreeSet<&str> = groups[..groups.len() / 2].iter().copied().collect();
        (0..prompts.len()).partition(|at| first.contains(prompts[*at].0.row.group.as_str()))
    };
    (0..RESPLITS).map(parted).collect()
}

/// Each category measured with what is promised on the others.
fn categories(prompts: &[(&Prompt, LabelledPrompt)]) -> Parted {
    let names: BTreeSet<&str> = prompts.iter().map(|(prompt, _)| prompt.row.category.as_str()).collect();
    let parted = |name: &&str| (0..prompts.len()).partition(|at| prompts[*at].0.row.category != *name);
    names.iter().map(parted).collect()
}
