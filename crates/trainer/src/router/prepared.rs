//! Outcome rows with what a head sees of their prompts.

use super::outcomes::OutcomeRow;
use crate::embed::embed_all;
use ::router::{Artefact, DENSE_COUNT, Features};
use embedding::{Embedder, EmbeddingError};
use std::collections::{BTreeMap, HashMap};

/// A row with features and vector.
#[derive(Debug, Clone)]
pub struct Prompt {
    pub row: OutcomeRow,
    pub features: Features,
    /// Empty where there is no embedder.
    pub vector: Vec<f32>,
}

/// Prepares rows, without vectors where there is no embedder; `told` is called with how many texts are embedded.
///
/// # Errors
/// When the embedder fails.
pub async fn prepare_prompts(
    rows: Vec<OutcomeRow>,
    embedder: Option<&Embedder>,
    told: impl Fn(usize),
) -> Result<Vec<Prompt>, EmbeddingError> {
    let vectors = match embedder {
        None => HashMap::new(),
        Some(embedder) => embed_all(rows.iter().map(|row| row.prompt.clone()).collect(), embedder, told).await?,
    };
    let prepare = |row: OutcomeRow| Prompt {
        features: Features::of(&row.prompt),
        vector: vectors.get(&row.prompt).cloned().unwrap_or_default(),
        row,
    };
    Ok(rows.into_iter().map(prepare).collect())
}

/// The models with so many scored answers at least.
pub fn models_with_labels(prompts: &[Prompt], least: usize) -> Vec<String> {
    let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
    prompts.iter().flat_map(|prompt| prompt.row.outcomes.keys()).for_each(|name| *counts.entry(name).or_default() += 1);
    counts.into_iter().filter(|(_, count)| *count >= least).map(|(name, _)| name.clone()).collect()
}

/// What brings the dense features to mean 0 and deviation 1.
#[derive(Debug, Clone)]
pub(super) struct Scale {
    pub mean: [f32; DENSE_COUNT],
    pub deviation: [f32; DENSE_COUNT],
}

impl Scale {
    /// Measures features.
    pub(super) fn of<'a>(all: impl Iterator<Item = &'a Features> + Clone) -> Self {
        let count = all.clone().count().max(1) as f32;
        let (mut mean, mut deviation) = ([0.0; DENSE_COUNT], [0.0; DENSE_COUNT]);
        for at in 0..DENSE_COUNT {
            let values = || all.clone().map(|features| features.dense[at]);
            mean[at] = values().sum::<f32>() / count;
            deviation[at] = (values().map(|x| (x - mean[at]).powi(2)).sum::<f32>() / count).sqrt().max(1e-3);
        }
        Self { mean, deviation }
    }

    /// The scale of an artefact.
    pub(super) fn from_artefact(artefact: &Artefact) -> Self {
        let array = |values: &[f32]| std::array::from_fn(|at| values.get(at).copied().unwrap_or(1.0));
        Self { mean: array(&artefact.dense_mean), deviation: array(&artefact.dense_deviation) }
    }

    /// Standardises as the predictor does.
    pub(super) fn apply(&self, features: &Features) -> [f32; DENSE_COUNT] {
        let mut standardised = features.standardised(&self.mean, &self.deviation);
        std::array::from_fn(|_| standardised.next().unwrap_or(0.0))
    }
}
