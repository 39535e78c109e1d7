//! Fitting ability × difficulty: a Rasch model whose difficulties come from the prompt's features, by full-batch
//! AdaGrad (Duchi, Hazan, Singer 2011) on the logistic loss with fractional targets.

use super::length::{self, Length};
use super::outcomes::OutcomeRow;
use super::prepared::Scale;
use ::router::{Artefact, DENSE_COUNT, FEATURES_VERSION, Features, SPARSE_COUNT, probability};
use std::collections::BTreeMap;

/// Passes over the data; the loss on held-out groups is flat from about 150.
const STEPS: usize = 200;
const RATE: f32 = 0.15;
/// L2 penalties, chosen by group folds inside the training rows.
const PENALTY_SPARSE: f32 = 2e-4;
const PENALTY_DENSE: f32 = 1e-4;
const PENALTY_ABILITY: f32 = 1e-5;

/// A fitted artefact and how it fits.
pub struct Fitted {
    pub artefact: Artefact,
    pub prompts: usize,
    pub outcomes: usize,
    /// Mean logistic loss over the training prompts, without the penalties.
    pub loss: f64,
}

struct Prompt {
    features: Features,
    /// Model and score.
    scores: Vec<(usize, f32)>,
}

/// Fits a predictor to `rows`, each prompt weighing the same; `progress` is told the share that is done.
pub fn fit(rows: &[&OutcomeRow], progress: impl Fn(f64)) -> Fitted {
    let mut models: BTreeMap<&str, usize> = BTreeMap::new();
    for name in rows.iter().flat_map(|row| row.outcomes.keys()) {
        models.entry(name).or_insert(0);
    }
    models.values_mut().enumerate().for_each(|(at, index)| *index = at);
    let mut prompts: Vec<Prompt> = rows
        .iter()
        .map(|row| Prompt {
            features: Features::of(&row.prompt),
            scores: row.outcomes.iter().map(|(name, outcome)| (models[name.as_str()], outcome.0 as f32)).collect(),
        })
        .collect();
    let scale = standardise(&mut prompts);
    let mut weights = Weights::new(models.len());
    let mut loss = 0.0;
    for step in 0..STEPS {
        loss = weights.step(&prompts);
        progress((step + 1) as f64 / STEPS as f64);
    }
    let outcomes = prompts.iter().map(|prompt| prompt.scores.len()).sum();
    let standardised: Vec<[f32; DENSE_COUNT]> = prompts.iter().map(|prompt| prompt.features.dense).collect();
    let length = length::fit(rows, &standardised);
    let artefact = weights.into_artefact(&models, scale, length);
    Fitted { artefact, prompts: prompts.len(), outcomes, loss }
}

/// Brings the dense features to mean 0 and deviation 1, cut at three deviations as the predictor does.
fn standardise(prompts: &mut [Prompt]) -> Scale {
    let scale = Scale::of(prompts.iter().map(|prompt| &prompt.features));
    prompts.iter_mut().for_each(|prompt| prompt.features.dense = scale.apply(&prompt.features));
    scale
}

/// All parameters in one vector: sparse, dense, bias, abilities.
struct Weights {
    values: Vec<f32>,
    /// Sums of squared gradients.
    history: Vec<f32>,
}

const DENSE_AT: usize = SPARSE_COUNT;
const BIAS_AT: usize = SPARSE_COUNT + DENSE_COUNT;
const ABILITIES_AT: usize = BIAS_AT + 1;

impl Weights {
    fn new(models: usize) -> Self {
        let length = ABILITIES_AT + models;
        Self { values: vec![0.0; length], history: vec![1e-8; length] }
    }

    fn difficulty(&self, features: &Features) -> f32 {
        let sparse: f32 = features.sparse.iter().map(|(bucket, x)| self.values[*bucket as usize] * x).sum();
        let dense: f32 = features.dense.iter().zip(&self.values[DENSE_AT..BIAS_AT]).map(|(x, w)| x * w).sum();
        self.values[BIAS_AT] + sparse + dense
    }

    fn step(&mut self, prompts: &[Prompt]) -> f64 {
        let mut gradient = vec![0.0f32; self.values.len()];
        let mut loss = 0.0f64;
        let prompt_weight = 1.0 / prompts.len().max(1) as f32;
        for prompt in prompts {
            let difficulty = self.difficulty(&prompt.features);
            let weight = prompt_weight / prompt.scores.len().max(1) as f32;
            let mut toward_harder = 0.0;
            for (model, score) in &prompt.scores {
                let p = probability(self.values[ABILITIES_AT + model], difficulty);
                let error = (p - score) * weight;
                gradient[ABILITIES_AT + model] += error;
                toward_harder -= error;
                let (p, score) = (f64::from(p.clamp(1e-6, 1.0 - 1e-6)), f64::from(*score));
                loss -= (score * p.ln() + (1.0 - score) * (1.0 - p).ln()) * f64::from(weight);
            }
            for (bucket, x) in &prompt.features.sparse {
                gradient[*bucket as usize] += toward_harder * x;
            }
            for (at, x) in prompt.features.dense.iter().enumerate() {
                gradient[DENSE_AT + at] += toward_harder * x;
            }
            gradient[BIAS_AT] += toward_harder;
        }
        for (at, gradient) in gradient.iter().enumerate() {
            let penalty = match at {
                _ if at < DENSE_AT => PENALTY_SPARSE,
                _ if at < BIAS_AT => PENALTY_DENSE,
                BIAS_AT => 0.0,
                _ => PENALTY_ABILITY,
            };
            let slope = gradient + penalty * self.values[at];
            self.history[at] += slope * slope;
            self.values[at] -= RATE * slope / self.history[at].sqrt();
        }
        loss
    }

    fn into_artefact(self, models: &BTreeMap<&str, usize>, scale: Scale, length: Length) -> Artefact {
        let rounded = |x: f32| (x * 1e4).round() / 1e4;
        let mut sorted: Vec<f32> = self.values[ABILITIES_AT..].to_vec();
        sorted.sort_by(f32::total_cmp);
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
        let sparse = self.values[..DENSE_AT].iter().enumerate();
        Artefact {
            features_version: FEATURES_VERSION,
            dense_mean: scale.mean.to_vec(),
            dense_deviation: scale.deviation.to_vec(),
            difficulty_bias: rounded(self.values[BIAS_AT] - median),
            difficulty_dense: self.values[DENSE_AT..BIAS_AT].iter().copied().map(rounded).collect(),
            difficulty_sparse: sparse
                .map(|(at, w)| (at as u32, rounded(*w)))
                .filter(|(_, w)| w.abs() >= 0.01)
                .collect(),
            abilities: models
                .iter()
                .map(|(name, at)| ((*name).to_owned(), rounded(self.values[ABILITIES_AT + at] - median)))
                .collect(),
            heads: BTreeMap::new(),
            calibration: Vec::new(),
            length_bias: rounded(length.bias),
            embedder: None,
            length_dense: length.weights.into_iter().map(rounded).collect(),
        }
    }
}
