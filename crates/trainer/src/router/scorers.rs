//! Ways to tell how likely each model handles each prompt: Sluice's, and those it has to be better than.

use super::head::Design;
use super::length::fit_logarithm;
use super::prepared::{Prompt, Scale};
use super::splits::Part;
use ::router::{DENSE_COUNT, Predictor, probability};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use std::collections::HashMap;

/// A way to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scorer {
    Random,
    /// The mean of the prompt's category, which no request names: what recognising the benchmark is worth.
    CategoryLookup,
    /// The mean of the nearest labelled prompts.
    Neighbours,
    /// The shipped predictor, without any label of this data.
    Shipped,
    /// A head for each model, fitted to the labels.
    Heads,
    /// The truth.
    Oracle,
}

impl Scorer {
    pub const ALL: [Self; 6] =
        [Self::Random, Self::CategoryLookup, Self::Neighbours, Self::Shipped, Self::Heads, Self::Oracle];

    /// How a table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::CategoryLookup => "category lookup",
            Self::Neighbours => "kNN",
            Self::Shipped => "shipped, no labels",
            Self::Heads => "Sluice",
            Self::Oracle => "oracle",
        }
    }
}

/// Nearest prompts asked, and how fast their say falls with the cosine.
const NEIGHBOURS: usize = 40;
const SOFTNESS: f32 = 0.05;
/// Labels that the mean of all counts as, beside those of a category or a neighbourhood.
const SHRINKAGE: f64 = 5.0;

/// Of each model a value for each tested prompt.
pub(crate) type Table = Vec<Vec<f64>>;

/// The quality that a scorer expects of `models` on the tested prompts. `None` where it cannot tell.
pub(crate) fn qualities(
    scorer: Scorer,
    (prompts, part): (&[Prompt], &Part),
    models: &[String],
    shipped: &Predictor,
    seed: u64,
) -> Option<Table> {
    let score = |at: usize, model: &String| prompts[at].row.outcomes.get(model).map(|outcome| outcome.0);
    let tested = || part.test.iter().copied();
    match scorer {
        Scorer::Oracle => {
            Some(models.iter().map(|model| tested().map(|at| score(at, model).unwrap_or(0.0)).collect()).collect())
        }
        Scorer::Random => {
            let mut random = StdRng::seed_from_u64(seed);
            Some(models.iter().map(|_| tested().map(|_| random.random::<f64>()).collect()).collect())
        }
        Scorer::Shipped => {
            let difficulties: Vec<f32> = tested().map(|at| shipped.difficulty(&prompts[at].features)).collect();
            let of = |model: &String| -> Option<Vec<f64>> {
                let ability = shipped.ability(model)?;
                Some(difficulties.iter().map(|difficulty| f64::from(probability(ability, *difficulty))).collect())
            };
            models.iter().map(of).collect()
        }
        Scorer::CategoryLookup => Some(models.iter().map(|model| by_category(prompts, part, model)).collect()),
        Scorer::Neighbours => prompts
            .first()
            .is_some_and(|prompt| !prompt.vector.is_empty())
            .then(|| by_neighbours(prompts, part, models)),
        Scorer::Heads => Some(by_heads(prompts, part, models)),
    }
}

fn mean(scores: &[f64]) -> f64 {
    scores.iter().sum::<f64>() / scores.len().max(1) as f64
}

fn by_category(prompts: &[Prompt], part: &Part, model: &String) -> Vec<f64> {
    let mut sums: HashMap<&str, (f64, f64)> = HashMap::new();
    let mut all = Vec::new();
    for at in &part.train {
        let row = &prompts[*at].row;
        if let Some(outcome) = row.outcomes.get(model) {
            let sum = sums.entry(&row.category).or_default();
            *sum = (sum.0 + 1.0, sum.1 + outcome.0);
            all.push(outcome.0);
        }
    }
    let mean = mean(&all);
    let of = |at: &usize| {
        let (count, sum) = sums.get(prompts[*at].row.category.as_str()).copied().unwrap_or_default();
        (sum + SHRINKAGE * mean) / (count + SHRINKAGE)
    };
    part.test.iter().map(of).collect()
}

fn by_neighbours(prompts: &[Prompt], part: &Part, models: &[String]) -> Table {
    let means: Vec<f64> = models
        .iter()
        .map(|model| {
            let of = part.train.iter().filter_map(|at| prompts[*at].row.outcomes.get(model).map(|outcome| outcome.0));
            mean(&of.collect::<Vec<f64>>())
        })
        .collect();
    let mut table: Table = vec![Vec::with_capacity(part.test.len()); models.len()];
    for at in &part.test {
        let cosine = |other: &usize| -> f32 {
            prompts[*at].vector.iter().zip(&prompts[*other].vector).map(|(a, b)| a * b).sum()
        };
        let mut near: Vec<(f32, usize)> = part.train.iter().map(|other| (cosine(other), *other)).collect();
        near.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        near.truncate(NEIGHBOURS);
        let nearest = near.first().map_or(0.0, |(cosine, _)| *cosine);
        for (model, mean, values) in
            models.iter().zip(&means).zip(&mut table).map(|((model, mean), values)| (model, mean, values))
        {
            let (mut weights, mut sum) = (0.5, 0.5 * mean);
            for (cosine, other) in &near {
                if let Some(outcome) = prompts[*other].row.outcomes.get(model) {
                    let weight = f64::from(((cosine - nearest) / SOFTNESS).exp());
                    weights += weight;
                    sum += weight * outcome.0;
                }
            }
            values.push(sum / weights);
        }
    }
    table
}

fn by_heads(prompts: &[Prompt], part: &Part, models: &[String]) -> Table {
    let scale = Scale::of(part.train.iter().map(|at| &prompts[*at].features));
    let learned: Vec<&Prompt> = part.train.iter().map(|at| &prompts[*at]).collect();
    let design = Design::of(&learned, &scale);
    let of = |model: &String| -> Vec<f64> {
        let scores: Vec<Option<f64>> =
            learned.iter().map(|prompt| prompt.row.outcomes.get(model).map(|outcome| outcome.0)).collect();
        let head = design.fit(&scores);
        let asked = part.test.iter().map(|at| {
            let Prompt { features, vector, .. } = &prompts[*at];
            f64::from(head.asked(&scale.apply(features), features, Some(vector.as_slice())))
        });
        asked.collect()
    };
    let half = models.len().div_ceil(2);
    std::thread::scope(|scope| {
        let beside = scope.spawn(|| models[half..].iter().map(of).collect::<Table>());
        let own: Table = models[..half].iter().map(of).collect();
        let theirs = beside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        own.into_iter().chain(theirs).collect()
    })
}

/// The dollars that each model is expected to take for each tested prompt, from the lengths of its answers so far.
pub(crate) fn costs(prompts: &[Prompt], part: &Part, models: &[String]) -> Table {
    let scale = Scale::of(part.train.iter().map(|at| &prompts[*at].features));
    let of = |model: &String| -> Vec<f64> {
        let learned = part.train.iter().filter_map(|at| {
            let cost = prompts[*at].row.outcomes.get(model)?.2?;
            (cost > 0.0).then(|| (scale.apply(&prompts[*at].features), cost.ln()))
        });
        let (inputs, targets): (Vec<[f32; DENSE_COUNT]>, Vec<f64>) = learned.unzip();
        let (bias, weights) = fit_logarithm(&inputs, &targets).unwrap_or_else(|| (mean(&targets), [0.0; DENSE_COUNT]));
        // The mean of what is log-normal is higher than its median by half of the variance.
        let predicted =
            |input: &[f32; DENSE_COUNT]| bias + input.iter().zip(&weights).map(|(x, w)| f64::from(*x) * w).sum::<f64>();
        let squares: Vec<f64> = inputs.iter().zip(&targets).map(|(x, y)| (y - predicted(x)).powi(2)).collect();
        let spread = mean(&squares);
        part.test.iter().map(|at| (predicted(&scale.apply(&prompts[*at].features)) + spread / 2.0).exp()).collect()
    };
    models.iter().map(of).collect()
}
