//! Fitting the pair model and the prior of the decision: two logistic regressions.

use super::replay::{Comparing, Rule, Words, replay};
use super::streams::{PreparedPair, Stream};
use super::verdicts::{Kind, kinds};
use ::cache::{CASE_COUNT, CASE_FORM, CacheModel, FEATURE_COUNT, FEATURES_VERSION, Features, Semantic, cosine_of};
use linfa::Dataset;
use linfa::traits::Fit;
use linfa_logistic::LogisticRegression;
use ndarray::{Array1, Array2};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;
use std::sync::Arc;
use thiserror::Error;

/// Streams and pairs whose licences allow what is fitted on them to be shipped; see models/cache/CARD.md.
pub const SHIPPABLE: [&str; 3] = ["stream_banking77", "stream_multiturn", "pairs_checklist"];

/// A template of CheckList's suite whose label contradicts its name: "order does matter", but labelled as duplicates.
pub(crate) const MISLABELLED: &str = "Order does matter for asymmetric relations";

/// A fitted model and how it fits.
pub struct CacheFitted {
    pub model: CacheModel,
    pub pairs: usize,
    pub cases: usize,
}

/// Why there is no fit.
#[derive(Debug, Error)]
pub enum FitError {
    #[error("there is nothing to fit on")]
    Empty,
    #[error("the fit did not converge: {0}")]
    Diverged(String),
}

/// L2 penalty: 1 / 0.3, as in the prototype behind the published figures.
const PENALTY: f64 = 3.33;
/// Pairs of a file weigh so much of a stream.
const PAIRS_SHARE: f64 = 0.35;
/// A stream's first rows have hardly any neighbours.
const WARM_UP: usize = 50;
/// Where the weights of a slot and of an additional condition start at the most, in log-odds.
const CAUTION: f64 = -4.0;
/// How much less likely than on the fitted streams an answer is taken to be right in traffic that nothing is known of, in
/// log-odds: on Quora's pairs, which no stream here is like, 305 of 8,409 wrong ones pass with it, and 1,592 without.
const DOUBT: f64 = 1.0;

/// Fits to labelled streams and pairs.
///
/// # Errors
/// When there is nothing to fit on, or no fit.
pub fn fit(streams: &[Stream], pairs: &[PreparedPair], words: &Words) -> Result<CacheFitted, FitError> {
    Fitter::new(streams, words).fit(&pairs.iter().collect::<Vec<_>>())
}

/// Judges the pairs of each template with a model fitted without that template; `done` is told of each.
///
/// # Errors
/// As [`fit`].
pub fn kinds_held_out(
    streams: &[Stream],
    pairs: &[PreparedPair],
    words: &Words,
    error_max: f64,
    done: impl Fn(),
) -> Result<Vec<Kind>, FitError> {
    let fitter = Fitter::new(streams, words);
    let templates: BTreeSet<_> = pairs.iter().map(|pair| (&pair.pair.kind, &pair.pair.test)).collect();
    let mut found = Vec::new();
    for template in templates {
        let (of_it, others): (Vec<&PreparedPair>, Vec<&PreparedPair>) =
            pairs.iter().partition(|pair| (&pair.pair.kind, &pair.pair.test) == template);
        found.append(&mut kinds(of_it, &fitter.fit(&others)?.model, words, error_max));
        done();
    }
    Ok(found)
}

/// What is the same in every fit to the same streams.
struct Fitter<'a> {
    streams: &'a [Stream],
    words: &'a Words,
    semantic: Semantic,
    /// Pairs of neighbours in the streams.
    rows: Vec<([f64; FEATURE_COUNT], bool)>,
}

impl<'a> Fitter<'a> {
    fn new(streams: &'a [Stream], words: &'a Words) -> Self {
        let semantic = Semantic::new(Arc::clone(words), blank());
        let rows = streams.iter().flat_map(|stream| neighbours_of(stream, &semantic)).collect();
        Self { streams, words, semantic, rows }
    }

    fn fit(&self, pairs: &[&PreparedPair]) -> Result<CacheFitted, FitError> {
        let mut rows = self.rows.clone();
        let labelled: Vec<&&PreparedPair> =
            pairs.iter().filter(|pair| pair.pair.test.as_deref() != Some(MISLABELLED)).collect();
        let from_pairs =
            labelled.iter().filter_map(|pair| Some((wide(&features_of(pair, &self.semantic)?), pair.pair.label == 1)));
        let largest = self.streams.iter().map(|stream| stream.rows.len()).max().unwrap_or(labelled.len());
        extend(&mut rows, from_pairs.collect(), PAIRS_SHARE * 4.0 * largest as f64);
        let (pair_weights, pair_intercept) = regress(&rows)?;
        let mut model = CacheModel { pair_weights, pair_intercept, ..blank() };
        let mut cases = 0;
        // What is stored depends on what is served, so the prior is fitted on the decisions of the prior before.
        for _ in 0..2 {
            let mut decided: Vec<([f64; CASE_COUNT], bool)> = Vec::new();
            for stream in self.streams {
                let all = (stream, 0..stream.rows.len());
                decided.append(
                    &mut replay(all, (&model, self.words), Rule::Probability(0.93), (0, Comparing::PERFECT)).cases,
                );
            }
            cases = decided.len();
            let (mut prior, intercept) = regress(&decided)?;
            prior[0] += intercept - DOUBT;
            // A stream of one kind says little of what an exchanged word means elsewhere: start by refusing.
            CASE_FORM.for_each(|at| prior[at] = prior[at].min(CAUTION));
            model.prior = prior;
        }
        Ok(CacheFitted { model, pairs: rows.len(), cases })
    }
}

fn blank() -> CacheModel {
    CacheModel {
        features_version: FEATURES_VERSION,
        pair_weights: [0.0; FEATURE_COUNT],
        pair_intercept: 0.0,
        prior: [-1.0, 0.5, 0.5, 0.3, 1.0, 0.0, 0.0, 0.0, 0.0],
        fitted_on: Vec::new(),
    }
}

/// Repeats rows until they weigh as much as `wanted`, for a regression without weights.
fn extend<const N: usize>(rows: &mut Vec<([f64; N], bool)>, more: Vec<([f64; N], bool)>, wanted: f64) {
    let times = (wanted / more.len().max(1) as f64).round().max(1.0) as usize;
    (0..times).for_each(|_| rows.extend_from_slice(&more));
}

/// The two nearest earlier prompts of each, and two random ones of the next fourteen.
fn neighbours_of(stream: &Stream, semantic: &Semantic) -> Vec<([f64; FEATURE_COUNT], bool)> {
    const DEEP: usize = 16;
    let mut chance = StdRng::seed_from_u64(1);
    let sketches: Vec<_> = stream.rows.iter().map(|row| semantic.sketch(&row.prompt)).collect();
    let mut rows = Vec::new();
    for (at, row) in stream.rows.iter().enumerate().skip(WARM_UP) {
        let mut near: Vec<(f32, usize)> = stream.rows[..at]
            .iter()
            .enumerate()
            .filter(|(_, other)| other.scope == row.scope)
            .map(|(other, earlier)| (cosine_of(&row.vector, &earlier.vector), other))
            .collect();
        if near.len() > DEEP {
            near.select_nth_unstable_by(DEEP, |a, b| b.0.total_cmp(&a.0));
            near.truncate(DEEP);
        }
        near.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        let mut ranks = vec![0, 1];
        ranks.extend((0..2).map(|_| chance.random_range(2..DEEP)));
        for (cosine, other) in ranks.into_iter().filter_map(|rank| near.get(rank)) {
            // What the rules refuse never reaches the model.
            if let Ok(features) = semantic.compare(&sketches[at], &sketches[*other], *cosine) {
                rows.push((wide(&features), stream.rows[*other].class == row.class));
            }
        }
    }
    rows
}

/// `None` where a rule objects.
fn features_of(pair: &PreparedPair, semantic: &Semantic) -> Option<Features> {
    let (a, b) = (semantic.sketch(&pair.pair.a), semantic.sketch(&pair.pair.b));
    semantic.compare(&b, &a, cosine_of(&pair.a.vector, &pair.b.vector)).ok()
}

fn wide(features: &Features) -> [f64; FEATURE_COUNT] {
    features.map(f64::from)
}

/// Logistic regression on standardised columns; returns the weights for the columns as they are, and the intercept.
fn regress<const N: usize>(rows: &[([f64; N], bool)]) -> Result<([f64; N], f64), FitError> {
    let count = rows.len() as f64;
    if rows.is_empty() || rows.iter().all(|(_, label)| *label) || rows.iter().all(|(_, label)| !*label) {
        return Err(FitError::Empty);
    }
    let mean: [f64; N] = std::array::from_fn(|at| rows.iter().map(|(x, _)| x[at]).sum::<f64>() / count);
    let deviation: [f64; N] = std::array::from_fn(|at| {
        let spread = rows.iter().map(|(x, _)| (x[at] - mean[at]).powi(2)).sum::<f64>() / count;
        spread.sqrt().max(1e-3)
    });
    let records = Array2::from_shape_fn((rows.len(), N), |(row, at)| (rows[row].0[at] - mean[at]) / deviation[at]);
    let labels = Array1::from_iter(rows.iter().map(|(_, label)| *label));
    let regression = LogisticRegression::default().alpha(PENALTY).max_iterations(300);
    let fitted =
        regression.fit(&Dataset::new(records, labels)).map_err(|error| FitError::Diverged(error.to_string()))?;
    // linfa takes the first label that it meets as the positive one.
    let sign = if fitted.labels().pos.class { 1.0 } else { -1.0 };
    let weights: [f64; N] = std::array::from_fn(|at| sign * fitted.params()[at] / deviation[at]);
    let shift: f64 = weights.iter().zip(mean).map(|(w, mean)| w * mean).sum();
    Ok((weights, sign * fitted.intercept() - shift))
}
