//! Fitting a head: logistic regression with fractional targets on form, words and meaning, under one Gaussian prior.

use super::lbfgs::minimise;
use super::prepared::{Prompt, Scale};
use ::router::{DENSE_COUNT, Head};
use std::collections::HashMap;

/// How much a number of each kind may say: what its values are multiplied with before the common prior.
const WORDS: f64 = 3.0;
const MEANING: f64 = 6.0;
/// Prior precisions of a weight, in labels: the usual one, and those tried by folds where labels are few, since kinds of
/// traffic differ most in how much a prompt says at all.
const PRECISION: f64 = 200.0;
const PRECISIONS: [f64; 4] = [10.0, 50.0, 200.0, 800.0];
const FEW: usize = 2_000;
const FOLDS: usize = 3;
/// Another precision than the usual one must leave this share of its loss: folds of a few labels are a matter of chance.
const CLEARLY: f64 = 0.95;
const STEPS: usize = 100;
/// Words that say less are left out of an artefact.
const WORD_MIN: f32 = 1e-3;

/// The training prompts in one matrix; heads of several models are fitted to it.
pub(super) struct Design {
    /// Dense features and vector, a row each.
    wide: Vec<f64>,
    width: usize,
    /// Column and value of the words that occur at least twice.
    words: Vec<Vec<(u32, f64)>>,
    /// The bucket of each column of words.
    buckets: Vec<u32>,
}

impl Design {
    /// Lays out prompts; without vectors where they have none.
    pub(super) fn of(prompts: &[&Prompt], scale: &Scale) -> Self {
        let mut seen: HashMap<u32, usize> = HashMap::new();
        prompts.iter().flat_map(|prompt| &prompt.features.sparse).for_each(|(bucket, _)| {
            *seen.entry(*bucket).or_default() += 1;
        });
        let mut buckets: Vec<u32> =
            seen.into_iter().filter(|(_, count)| *count > 1).map(|(bucket, _)| bucket).collect();
        buckets.sort_unstable();
        let column = |bucket: u32| buckets.binary_search(&bucket).ok().map(|at| at as u32);
        let words = prompts.iter().map(|prompt| {
            let of = prompt.features.sparse.iter();
            of.filter_map(|(bucket, x)| Some((column(*bucket)?, WORDS * f64::from(*x)))).collect()
        });
        let words = words.collect();
        let width = DENSE_COUNT + prompts.first().map_or(0, |prompt| prompt.vector.len());
        let mut wide = Vec::with_capacity(width * prompts.len());
        for prompt in prompts {
            wide.extend(scale.apply(&prompt.features).map(f64::from));
            wide.extend(prompt.vector.iter().map(|x| MEANING * f64::from(*x)));
        }
        Self { wide, width, words, buckets }
    }

    /// Fits a model's head to its scores on those rows where it has one, 0 to 1.
    pub(super) fn fit(&self, scores: &[Option<f64>]) -> Head {
        let rows: Vec<(usize, f64)> =
            scores.iter().enumerate().filter_map(|(row, score)| Some((row, (*score)?))).collect();
        let columns = self.width + self.buckets.len();
        let weights = self.weights(&rows, self.precision(&rows));
        let kept = |range: std::ops::Range<usize>, factor: f64| -> Vec<f32> {
            weights[range].iter().map(|weight| (weight * factor) as f32).collect()
        };
        let words = self.buckets.iter().zip(&weights[self.width..columns]);
        Head {
            bias: weights[columns] as f32,
            dense: kept(0..DENSE_COUNT, 1.0),
            sparse: words
                .map(|(bucket, weight)| (*bucket, (weight * WORDS) as f32))
                .filter(|(_, w)| w.abs() >= WORD_MIN)
                .collect(),
            vector: kept(DENSE_COUNT..self.width, MEANING),
        }
    }

    fn weights(&self, rows: &[(usize, f64)], precision: f64) -> Vec<f64> {
        let penalty = precision / rows.len().max(1) as f64;
        let start = vec![0.0; self.width + self.buckets.len() + 1];
        minimise(|weights, gradient| self.loss(rows, penalty, weights, gradient), start, STEPS)
    }

    /// The precision that leaves the least loss on folds that were not learned from.
    fn precision(&self, rows: &[(usize, f64)]) -> f64 {
        if rows.len() > FEW || rows.len() < 10 * FOLDS {
            return PRECISION;
        }
        let left_out = |precision: f64| -> f64 {
            let fold = |fold: usize| {
                let (test, train): (Vec<_>, Vec<_>) = rows.iter().partition(|(row, _)| row % FOLDS == fold);
                let weights = self.weights(&train, precision);
                self.loss(&test, 0.0, &weights, &mut vec![0.0; weights.len()]) * test.len() as f64
            };
            (0..FOLDS).map(fold).sum()
        };
        let handicap = |precision: f64| if precision == PRECISION { CLEARLY } else { 1.0 };
        let losses = PRECISIONS.map(|precision| (handicap(precision) * left_out(precision), precision));
        losses.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).map_or(PRECISION, |(_, precision)| precision)
    }

    /// The mean logistic loss with its penalty; the last weight is the bias, which is not penalised.
    fn loss(&self, rows: &[(usize, f64)], penalty: f64, weights: &[f64], gradient: &mut [f64]) -> f64 {
        let columns = weights.len() - 1;
        let (wide_weights, word_weights) = weights[..columns].split_at(self.width);
        let mut loss = 0.0;
        gradient.iter_mut().zip(weights).for_each(|(slope, weight)| *slope = penalty * weight);
        gradient[columns] = 0.0;
        let share = 1.0 / rows.len().max(1) as f64;
        for (row, score) in rows {
            let wide = &self.wide[row * self.width..(row + 1) * self.width];
            let words = &self.words[*row];
            let sum: f64 = wide.iter().zip(wide_weights).map(|(x, w)| x * w).sum::<f64>()
                + words.iter().map(|(column, x)| x * word_weights[*column as usize]).sum::<f64>()
                + weights[columns];
            loss += share * (sum.max(0.0) + (-sum.abs()).exp().ln_1p() - score * sum);
            let surprise = share * (1.0 / (1.0 + (-sum).exp()) - score);
            gradient.iter_mut().zip(wide).for_each(|(slope, x)| *slope += surprise * x);
            words.iter().for_each(|(column, x)| gradient[self.width + *column as usize] += surprise * x);
            gradient[columns] += surprise;
        }
        loss + 0.5 * penalty * weights[..columns].iter().map(|weight| weight * weight).sum::<f64>()
    }
}
