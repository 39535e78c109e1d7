//! How often a decision changes when a prompt is written a little differently.

use super::evaluate::{Plan, models_of};
use super::outcomes::OutcomeRow;
use super::prepared::Prompt;
use super::scorers::{Scorer, Table, costs, qualities};
use super::splits::{Part, parts};
use ::router::Predictor;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

/// A change that leaves the question as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Noise {
    /// Two neighbouring letters are swapped in one of twenty words, and in one at least.
    Typos,
    /// All letters are small.
    Case,
    /// Double spaces, and empty lines around it.
    Whitespace,
    /// A greeting, a please and a thank you.
    Politeness,
}

impl Noise {
    pub const ALL: [Self; 4] = [Self::Typos, Self::Case, Self::Whitespace, Self::Politeness];

    fn apply(self, text: &str, random: &mut StdRng) -> String {
        match self {
            Self::Case => text.to_lowercase(),
            Self::Whitespace => format!("\n\n  {}\n\n", text.replace(' ', "  ")),
            Self::Politeness => format!("Hello! Could you please help me with this? {text} Thank you very much!"),
            Self::Typos => {
                let mut chars: Vec<char> = text.chars().collect();
                let swappable: Vec<usize> = (1..chars.len().saturating_sub(2))
                    .filter(|at| (at - 1..at + 3).all(|near| chars[near].is_alphabetic()))
                    .collect();
                let words = text.split_whitespace().count();
                for _ in 0..(words / 20).max(1).min(swappable.len()) {
                    let at = swappable[random.random_range(0..swappable.len())];
                    chars.swap(at, at + 1);
                }
                chars.into_iter().collect()
            }
        }
    }
}

/// A row with each noise.
pub fn noisy(row: &OutcomeRow, seed: u64) -> Vec<(Noise, OutcomeRow)> {
    let mut random = StdRng::seed_from_u64(seed);
    let of = |noise: Noise| (noise, OutcomeRow { prompt: noise.apply(&row.prompt, &mut random), ..row.clone() });
    Noise::ALL.map(of).to_vec()
}

/// How many decisions a noise changed.
#[derive(Debug, Clone, Serialize)]
pub struct Flipped {
    pub noise: Noise,
    pub prompts: usize,
    /// Without noise they went elsewhere than to the best model.
    pub elsewhere: usize,
    pub flipped: usize,
}

/// Decides measured prompts with and without noise by heads of the plan's first draw: the cheapest model goes that is
/// expected to keep a share of the best model's quality. `noisy` has, by the place of its prompt, what noise made of it.
pub fn flips(
    prompts: &[Prompt],
    noisy: &[(usize, Noise, Prompt)],
    plan: &Plan,
    shipped: &Predictor,
    quality_min: f64,
) -> Vec<Flipped> {
    let Some((models, best)) = models_of(prompts, plan) else { return Vec::new() };
    let seed = plan.seeds.first().copied().unwrap_or(1);
    let mut flipped = Noise::ALL.map(|noise| Flipped { noise, prompts: 0, elsewhere: 0, flipped: 0 });
    let all: Vec<Prompt> = prompts.iter().chain(noisy.iter().map(|(_, _, prompt)| prompt)).cloned().collect();
    for part in parts(prompts, plan.protocol, plan.labels, seed) {
        let written: Vec<usize> = (0..noisy.len()).filter(|at| part.test.contains(&noisy[*at].0)).collect();
        let plain = written.iter().map(|at| noisy[*at].0);
        let test: Vec<usize> = plain.chain(written.iter().map(|at| prompts.len() + at)).collect();
        let part = Part { train: part.train, test };
        let Some(expected) = qualities(Scorer::Heads, (&all, &part), &models, shipped, seed) else { continue };
        let picks = picks(&expected, &costs(&all, &part, &models), best, quality_min);
        for (place, at) in written.iter().enumerate() {
            let count = &mut flipped[noisy[*at].1 as usize];
            count.prompts += 1;
            count.elsewhere += usize::from(picks[place] != best);
            count.flipped += usize::from(picks[place] != picks[written.len() + place]);
        }
    }
    flipped.to_vec()
}

fn picks(expected: &Table, costs: &Table, best: usize, quality_min: f64) -> Vec<usize> {
    let mean = |of: &Vec<f64>| of.iter().sum::<f64>() / of.len().max(1) as f64;
    let mut by_cost: Vec<usize> = (0..costs.len()).collect();
    by_cost.sort_by(|a, b| mean(&costs[*a]).total_cmp(&mean(&costs[*b])));
    let pick = |case: usize| {
        let keeps = |model: &usize| expected[*model][case] >= quality_min * expected[best][case];
        by_cost.iter().copied().find(keeps).unwrap_or(best)
    };
    (0..expected.first().map_or(0, Vec::len)).map(pick).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_changes_the_writing_and_little_else() {
        let text = "What is the capital of the country whose flag has two red stripes and a white one?";
        let mut random = StdRng::seed_from_u64(1);
        let letters = |text: &str| {
            let mut letters: Vec<char> = text.chars().filter(|c| c.is_alphabetic()).collect();
            letters.sort_unstable();
            letters
        };
        for noise in Noise::ALL {
            let written = noise.apply(text, &mut random);
            assert_ne!(written, text, "{noise:?}");
            let contains = written.to_lowercase().contains(&text.to_lowercase());
            match noise {
                Noise::Politeness | Noise::Case => assert!(contains, "{written}"),
                Noise::Whitespace | Noise::Typos => assert_eq!(letters(&written), letters(text), "{written}"),
            }
        }
        assert_eq!(Noise::Typos.apply("1+1", &mut random), "1+1", "nothing to swap");
    }

    #[test]
    fn the_cheapest_that_keeps_the_quality_is_picked() {
        let expected = vec![vec![0.9, 0.9, 0.5], vec![0.88, 0.5, 0.5]];
        let costs = vec![vec![2.0; 3], vec![1.0; 3]];
        assert_eq!(picks(&expected, &costs, 0, 0.95), [1, 0, 1]);
    }
}
