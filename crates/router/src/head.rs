//! What labels say of one model: a logistic regression on form, words and meaning of the prompt, and how much it writes.

use crate::features::Features;
use serde::{Deserialize, Serialize};

/// The weights of one model. `p = σ(bias + dense · d + sparse · s + vector · v)`, with the dense features standardised.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    pub bias: f32,
    pub dense: Vec<f32>,
    /// Bucket and weight, ascending.
    pub sparse: Vec<(u32, f32)>,
    /// Weights of the prompt's vector; empty where it was fitted without.
    pub vector: Vec<f32>,
}

/// What labels say of one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heads {
    /// Scored answers of the model that it was fitted to.
    pub labels: usize,
    /// For prompts with a vector, where the labelled ones had one.
    pub with_vector: Option<Head>,
    pub without_vector: Head,
    /// Logarithm of the output tokens, where lengths were known: intercept and weights of the standardised dense features.
    pub length: Option<(f32, Vec<f32>)>,
}

/// With fewer labels a head says less than price and age do.
pub const LABELS_MIN: usize = 100;

impl Heads {
    /// How likely the model handles a prompt.
    pub fn quality(&self, dense: &[f32], features: &Features, vector: Option<&[f32]>) -> f32 {
        match (&self.with_vector, vector) {
            (Some(head), Some(vector)) if head.vector.len() == vector.len() => {
                head.quality(dense, features, Some(vector))
            }
            _ => self.without_vector.quality(dense, features, None),
        }
    }

    /// Output tokens to expect, at least 1.
    pub fn output_tokens(&self, dense: &[f32]) -> Option<u64> {
        let (bias, weights) = self.length.as_ref()?;
        let logarithm = bias + dense.iter().zip(weights).map(|(x, w)| x * w).sum::<f32>();
        Some(logarithm.clamp(0.0, 11.0).exp().round() as u64)
    }
}

impl Head {
    /// How likely the model handles a prompt. A missing vector says nothing: it counts as zero.
    pub fn quality(&self, dense: &[f32], features: &Features, vector: Option<&[f32]>) -> f32 {
        let form: f32 = dense.iter().zip(&self.dense).map(|(x, w)| x * w).sum();
        let words: f32 = features.sparse.iter().map(|(bucket, x)| x * self.word(*bucket)).sum();
        let meaning: f32 = vector.map_or(0.0, |vector| vector.iter().zip(&self.vector).map(|(x, w)| x * w).sum());
        1.0 / (1.0 + (-(self.bias + form + words + meaning)).exp())
    }

    fn word(&self, bucket: u32) -> f32 {
        self.sparse.binary_search_by_key(&bucket, |(bucket, _)| *bucket).map_or(0.0, |at| self.sparse[at].1)
    }
}
