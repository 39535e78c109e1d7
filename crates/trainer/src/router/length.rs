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
            inputs.extend(features.iter().map(|x| f64::from(*x)));
            targets.push(logarithms.iter().sum::<f64>() / logarithms.len() as f64);
        }
    }
    let unknown = Length { bias: UNKNOWN, weights: vec![0.0; DENSE_COUNT] };
    let Ok(inputs) = Array2::from_shape_vec((targets.len(), DENSE_COUNT), inputs) else { return unknown };
    if targets.len() <= DENSE_COUNT {
        return unknown;
    }
    let data = Dataset::new(inputs, Array1::from(targets));
    match ElasticNet::params().penalty(PENALTY).l1_ratio(0.0).fit(&data) {
        Ok(model) => Length {
            bias: model.intercept() as f32,
            weights: model.hyperplane().iter().map(|weight| *weight as f32).collect(),
        },
        Err(_) => unknown,
    }
}
