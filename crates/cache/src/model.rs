//! The fitted part of the decision: how alike two prompts are, and where learning starts.

use crate::decision::CASE_COUNT;
use crate::pair::{FEATURE_COUNT, FEATURES_VERSION, Features};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A model that was fitted by `sluice train cache`; see models/cache/CARD.md.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheModel {
    pub features_version: u32,
    /// What each feature is multiplied with.
    pub pair_weights: [f64; FEATURE_COUNT],
    pub pair_intercept: f64,
    /// Where the decision's weights start.
    pub prior: [f64; CASE_COUNT],
    /// Names of the files it was fitted on.
    pub fitted_on: Vec<String>,
}

/// A model that cannot be used.
#[derive(Debug, Error)]
pub enum CacheModelError {
    #[error("the cache's model cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    #[error(
        "the cache's model is for version {found} of the features; this binary has {FEATURES_VERSION}: fit it again"
    )]
    Version { found: u32 },
    #[error("the cache's model has a weight that is no number")]
    NotFinite,
}

const SHIPPED: &[u8] = include_bytes!("../../../models/cache/decision.json");
/// One pair of prompts says so much at the most.
const SCORE_MAX: f64 = 6.0;

impl CacheModel {
    /// The model in this binary.
    ///
    /// # Errors
    /// When it was fitted for other features.
    pub fn shipped() -> Result<Self, CacheModelError> {
        Self::from_json(SHIPPED)
    }

    /// Reads a model.
    ///
    /// # Errors
    /// When it is no model, or one for other features.
    pub fn from_json(json: &[u8]) -> Result<Self, CacheModelError> {
        let model: Self = serde_json::from_slice(json)?;
        if model.features_version != FEATURES_VERSION {
            return Err(CacheModelError::Version { found: model.features_version });
        }
        let weights = model.pair_weights.iter().chain(&model.prior).chain([&model.pair_intercept]);
        if !weights.copied().all(f64::is_finite) {
            return Err(CacheModelError::NotFinite);
        }
        Ok(model)
    }

    /// The log-odds that two prompts with these features have the same answer, −6 to 6.
    pub(crate) fn score(&self, features: &Features) -> f64 {
        let sum: f64 = features.iter().zip(&self.pair_weights).map(|(x, w)| f64::from(*x) * w).sum();
        (self.pair_intercept + sum).clamp(-SCORE_MAX, SCORE_MAX)
    }
}
