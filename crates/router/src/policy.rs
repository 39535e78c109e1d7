//! Policies: which models a request may go to, what they are measured against and how much quality must stay.

use crate::guarantee::Guarantee;
use crate::predictor::Predictor;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use toml::Spanned;

/// One `[policies.<name>]` table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    pub candidates: Vec<Spanned<String>>,
    /// The model that quality and savings are measured against; by default the dearest candidate.
    #[serde(default)]
    pub baseline: Option<Spanned<String>>,
    /// Share of the baseline's expected quality that must stay, 0 to 1.
    #[serde(default)]
    pub quality_min: Option<Spanned<f64>>,
    /// The quality is promised: without labels that show it, the baseline serves.
    #[serde(default)]
    pub guarantee: bool,
    /// Model names to which the policy is attached.
    #[serde(default)]
    pub applies_to: Vec<Spanned<String>>,
}

/// A validated policy; its models exist.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub name: String,
    /// Canonical names, at least one.
    pub candidates: Vec<String>,
    pub baseline: String,
    pub quality_min: f64,
    /// What is promised, where a promise was asked for.
    pub guarantee: Option<Guarantee>,
}

/// What supports a quality estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Evidence {
    /// The client named the model: nothing was estimated.
    #[serde(rename = "named")]
    Named,
    /// Price and age of the model, and a difficulty learnt from other models' outcomes.
    #[serde(rename = "prior, unverified")]
    Prior,
    /// Scores of the models' own answers: of the one that serves and of the baseline.
    #[serde(rename = "labels")]
    Labels,
}

/// What is wrong with a policy's table.
#[derive(Debug, Clone, Error, PartialEq)]
#[error("{field}: {problem}")]
pub struct PolicyError {
    pub span: std::ops::Range<usize>,
    pub field: String,
    pub problem: String,
}

/// Share of the baseline's quality that a policy keeps unless told otherwise.
const QUALITY_MIN: f64 = 0.95;

/// How often a promise of quality is to hold.
const CONFIDENCE: f64 = 0.9;

impl Policy {
    /// The same with what the predictor's labels allow to promise; `cost` tells dollars from a model and the tokens that go
    /// in and come out.
    #[must_use]
    pub fn with_guarantee(self, predictor: &Predictor, cost: impl Fn(&str, u64, u64) -> f64) -> Self {
        let others = self.candidates.iter().filter(|id| **id != self.baseline && predictor.knows(id));
        let models: Vec<String> = std::iter::once(&self.baseline).chain(others).cloned().collect();
        let labelled = predictor.labelled(&models, |at, input, output| cost(&models[at], input, output));
        let guarantee = Guarantee::choose(&labelled, 0, self.quality_min, CONFIDENCE);
        Self { guarantee: Some(guarantee), ..self }
    }

    /// Reads a table; `resolve` finds a model's canonical name, `dearest` picks the baseline of a policy without one.
    ///
    /// # Errors
    /// Every mistake in the table.
    pub fn from_config(
        name: &str,
        config: &PolicyConfig,
        resolve: impl Fn(&str) -> Result<String, String>,
        dearest: impl Fn(&[String]) -> Option<String>,
    ) -> Result<Self, Vec<PolicyError>> {
        let place = format!("policies.{name}");
        let mut errors = Vec::new();
        let mut find = |value: &Spanned<String>, field: String| match resolve(value.get_ref()) {
            Ok(id) => Some(id),
            Err(problem) => {
                errors.push(PolicyError { span: value.span(), field, problem });
                None
            }
        };
        let mut candidates = Vec::new();
        for (at, candidate) in config.candidates.iter().enumerate() {
            candidates.extend(find(candidate, format!("{place}.candidates[{at}]")));
        }
        let baseline = config.baseline.as_ref().map(|value| find(value, format!("{place}.baseline")));
        let baseline = baseline.unwrap_or_else(|| dearest(&candidates));
        if config.candidates.is_empty() {
            let problem = "empty; name at least one model".to_owned();
            errors.push(PolicyError { span: 0..0, field: format!("{place}.candidates"), problem });
        }
        let quality_min = config.quality_min.as_ref().map_or(QUALITY_MIN, |value| *value.get_ref());
        if !(0.0..=1.0).contains(&quality_min) {
            let span = config.quality_min.as_ref().map_or(0..0, Spanned::span);
            let problem = format!("{quality_min}; use a share from 0 to 1");
            errors.push(PolicyError { span, field: format!("{place}.quality_min"), problem });
        }
        match baseline {
            Some(baseline) if errors.is_empty() => {
                Ok(Self { name: name.to_owned(), candidates, baseline, quality_min, guarantee: None })
            }
            _ => Err(errors),
        }
    }
}
