//! The cost head: how many output tokens a prompt draws, as a ridge on their logarithm.

use super::outcomes::OutcomeRow;
use ::router::DENSE_COUNT;
use linfa::Dataset;
use linfa::traits::Fit;
use linfa_elasticnet::ElasticNet;
use ndarray::{Array1, Array2};

/// Answers shorter than this are single letters of multiple-choice tests, which say nothing of free text.
const TOKENS_MIN: f64 = 8.0;
const PENALTY: f64 = 1e-3;
/// Used where no row tells: the logarithm of 200 tokens.
const UNKNOWN: f32 = 5.3;

/// Intercept, and weights of the standardised dense features.
pub(crate) struct Length {
    pub bias: f32,
    pub weights: Vec<f32>,
}

/// Fits intercept and weights of the standardised dense features to the mean logarithm of each prompt's lengths.
pub(crate) fn fit(rows: &[&OutcomeRow], standardised: &[[f32; DENSE_COUNT]]) -> Length {
    let mut inputs = Vec::new();
    let mut targets = Vec::new();
    for (row, features) in rows.iter().zip(standardised) {
        let lengths = row.outcomes.values().filter_map(|outcome| outcome.1).filter(|tokens| *tokens >= TOKENS_MIN);
        let logarithms: Vec<f64> = lengths.map(f64::ln).collect();
        if !logarithms.is_empty() {
            inputs.push(*features);
            targets.push(logarithms.iter().sum::<f64>() / logarithms.len() as f64);
        }
    }
    let unknown = Length { bias: UNKNOWN, weights: vec![0.0; DENSE_COUNT] };
    fit_logarithm(&inputs, &targets).map_or(unknown, |(bias, weights)| Length {
        bias: bias as f32,
        weights: weights.map(|weight| weight as f32).to_vec(),
    })
}

/// A ridge of logarithms on standardised dense features: intercept and weights. `None` for fewer rows than weights.
pub(crate) fn fit_logarithm(inputs: &[[f32; DENSE_COUNT]], logarithms: &[f64]) -> Option<(f64, [f64; DENSE_COUNT])> {
    if logarithms.len() <= DENSE_COUNT {
        return None;
    }
    let flat = inputs.iter().flatten().map(|x| f64::from(*x)).collect();
    let data = Dataset::new(
        Array2::from_shape_vec((logarithms.len(), DENSE_COUNT), flat).ok()?,
        Array1::from(logarithms.to_vec()),
    );
    let model = ElasticNet::params().penalty(PENALTY).l1_ratio(0.0).fit(&data).ok()?;
    let mut weights = [0.0; DENSE_COUNT];
    weights.iter_mut().zip(model.hyperplane()).for_each(|(weight, fitted)| *weight = *fitted);
    Some((model.intercept(), weights))
}
