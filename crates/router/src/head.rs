//! What labels say of one model: a logistic regression on form, words and meaning of the prompt, and how much it writes.

use crate::features::{Features, SPARSE_COUNT};
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
        let head = self.head(vector.map(<[f32]>::len));
        head.quality(dense, head.words(features), vector)
    }

    /// The head for prompts with a vector of this length, or without one.
    pub(crate) fn head(&self, vector: Option<usize>) -> &Head {
        let fits = |head: &&Head| vector == Some(head.vector.len());
        self.with_vector.as_ref().filter(fits).unwrap_or(&self.without_vector)
    }

    /// Output tokens to expect, at least 1.
    pub fn output_tokens(&self, dense: &[f32]) -> Option<u64> {
        let (bias, weights) = self.length.as_ref()?;
        let logarithm = bias + dense.iter().zip(weights).map(|(x, w)| x * w).sum::<f32>();
        Some(logarithm.clamp(0.0, 11.0).exp().round() as u64)
    }
}

impl Head {
    /// How likely the model handles a prompt, given what its words say. A missing vector says nothing: it counts as zero.
    pub(crate) fn quality(&self, dense: &[f32], words: f32, vector: Option<&[f32]>) -> f32 {
        let form: f32 = dense.iter().zip(&self.dense).map(|(x, w)| x * w).sum();
        let meaning: f32 = vector.map_or(0.0, |vector| vector.iter().zip(&self.vector).map(|(x, w)| x * w).sum());
        1.0 / (1.0 + (-(self.bias + form + words + meaning)).exp())
    }

    /// What a prompt's words say.
    fn words(&self, features: &Features) -> f32 {
        let weight = |bucket: u32| {
            self.sparse.binary_search_by_key(&bucket, |(bucket, _)| *bucket).map_or(0.0, |at| self.sparse[at].1)
        };
        features.sparse.iter().map(|(bucket, x)| x * weight(*bucket)).sum()
    }

    /// How likely the model handles a prompt.
    pub fn asked(&self, dense: &[f32], features: &Features, vector: Option<&[f32]>) -> f32 {
        self.quality(dense, self.words(features), vector)
    }
}

/// The words' weights of many heads, by bucket: a decision asks for the same buckets of all of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct WordTable {
    /// The row of each bucket, from 1; 0 where no head knows it.
    rows: Vec<u32>,
    weights: Vec<f32>,
    columns: usize,
}

impl WordTable {
    /// Lays out heads, one a column.
    pub(crate) fn of<'a>(heads: impl Iterator<Item = &'a Head> + Clone) -> Self {
        let columns = heads.clone().count();
        let mut table = Self { rows: vec![0; SPARSE_COUNT], weights: Vec::new(), columns };
        for (column, head) in heads.enumerate() {
            for (bucket, weight) in &head.sparse {
                let Some(row) = table.rows.get_mut(*bucket as usize) else { continue };
                if *row == 0 {
                    table.weights.resize(table.weights.len() + columns, 0.0);
                    *row = (table.weights.len() / columns) as u32;
                }
                table.weights[(*row as usize - 1) * columns + column] = *weight;
            }
        }
        table
    }

    /// What a prompt's words say to each head.
    pub(crate) fn say(&self, features: &Features) -> Vec<f32> {
        let mut said = vec![0.0; self.columns];
        for (bucket, x) in &features.sparse {
            let row = self.rows.get(*bucket as usize).copied().unwrap_or(0) as usize;
            if let Some(start) = row.checked_sub(1).map(|row| row * self.columns) {
                let weights = &self.weights[start..start + self.columns];
                said.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += x * weight);
            }
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::DENSE_COUNT;

    #[test]
    fn the_table_says_what_each_head_says() {
        let head = |seed: u32| Head {
            bias: 0.0,
            dense: vec![0.0; DENSE_COUNT],
            sparse: (seed..SPARSE_COUNT as u32).step_by(3).map(|at| (at, (at % 17) as f32 - 8.0)).collect(),
            vector: Vec::new(),
        };
        let heads = [head(0), head(1), head(2), head(30_000)];
        let features = Features::of("The words of this prompt fall on rows that some heads know and others do not.");
        let said = WordTable::of(heads.iter()).say(&features);
        for (head, said) in heads.iter().zip(said) {
            assert!((head.words(&features) - said).abs() < 1e-4);
        }
    }
}
