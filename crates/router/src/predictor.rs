//! Ability × difficulty: how likely a model is to handle a prompt (a Rasch model; Rasch 1960, with the difficulty
//! predicted from the prompt), and how long its answer will be.

use crate::features::{DENSE_COUNT, FEATURES_VERSION, Features, SPARSE_COUNT};
use crate::guarantee::LabelledPrompt;
use crate::head::{Heads, LABELS_MIN, WordTable};
use catalog::{Billing, Model};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use thiserror::Error;

/// What training yields and `models/router/predictor.json` holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artefact {
    pub features_version: u32,
    /// Means and deviations that standardise the dense features.
    pub dense_mean: Vec<f32>,
    pub dense_deviation: Vec<f32>,
    pub difficulty_bias: f32,
    pub difficulty_dense: Vec<f32>,
    /// Bucket and weight, ascending; buckets not listed weigh nothing.
    pub difficulty_sparse: Vec<(u32, f32)>,
    /// Abilities of the models in the training data, by their name there; the median is 0.
    pub abilities: BTreeMap<String, f32>,
    /// Ridge on the logarithm of the output tokens: intercept and weights of the standardised dense features.
    pub length_bias: f32,
    pub length_dense: Vec<f32>,
    /// The embedder whose vectors the heads read, where they read any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedder: Option<String>,
    /// What labels say of single models, by their canonical names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub heads: BTreeMap<String, Heads>,
    /// The labelled prompts, for promises of quality.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calibration: Vec<Calibrated>,
}

/// A labelled prompt, and what of each model was expected by heads that had not seen its label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibrated {
    pub input_tokens: u64,
    /// By canonical name: expected quality, score, expected output tokens.
    pub models: BTreeMap<String, (f32, f32, u64)>,
}

impl Artefact {
    /// How long each list of dense weights is.
    fn dense_lengths(&self) -> impl Iterator<Item = usize> {
        let heads = self.heads.values().flat_map(|heads| heads.with_vector.iter().chain([&heads.without_vector]));
        let own = [&self.dense_mean, &self.dense_deviation, &self.difficulty_dense, &self.length_dense];
        own.into_iter().chain(heads.map(|head| &head.dense)).map(Vec::len)
    }
}

/// A prompt as a predictor sees it.
pub(crate) struct Seen<'a> {
    features: &'a Features,
    standardised: Vec<f32>,
    vector: Option<&'a [f32]>,
    /// What the words say to each head.
    words: Vec<f32>,
    difficulty: f32,
}

/// What is expected of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Expected {
    /// Probability that it handles the prompt, from price and age.
    pub prior: f64,
    /// The same from labels, and how many there are.
    pub labelled: Option<(f64, usize)>,
    /// The prompt was seen as the labelled ones were: with a vector, where they had one.
    pub as_labelled: bool,
    pub output_tokens: u64,
}

/// A fitted artefact ready to be asked: `logit p(model, prompt) = ability(model) − difficulty(prompt)`.
#[derive(Debug, Clone)]
pub struct Predictor {
    artefact: Artefact,
    /// The sparse weights by bucket.
    table: Vec<f32>,
    /// The words of the heads, in the order of their models: for prompts with a vector, and for those without.
    with_vector: WordTable,
    without_vector: WordTable,
    columns: HashMap<String, usize>,
}

/// An artefact that cannot be used.
#[derive(Debug, Error)]
pub enum PredictorError {
    #[error("the router's artefact is not readable: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the router's artefact was made for features {found}, this binary computes {FEATURES_VERSION}; retrain it")]
    Version { found: u32 },
    #[error("the router's artefact has {found} dense weights instead of {DENSE_COUNT}")]
    Shape { found: usize },
}

const SHIPPED: &[u8] = include_bytes!("../../../models/router/predictor.json");

impl Seen<'_> {
    pub(crate) fn difficulty(&self) -> f32 {
        self.difficulty
    }
}

impl Predictor {
    /// The artefact compiled into the binary.
    ///
    /// # Errors
    /// When it was made for other features.
    pub fn shipped() -> Result<Self, PredictorError> {
        Self::from_json(SHIPPED)
    }

    /// Reads an artefact.
    ///
    /// # Errors
    /// When it is malformed or made for other features.
    pub fn from_json(json: &[u8]) -> Result<Self, PredictorError> {
        Self::new(serde_json::from_slice(json)?)
    }

    /// Prepares an artefact.
    ///
    /// # Errors
    /// When it was made for other features.
    pub fn new(artefact: Artefact) -> Result<Self, PredictorError> {
        if artefact.features_version != FEATURES_VERSION {
            return Err(PredictorError::Version { found: artefact.features_version });
        }
        if let Some(found) = artefact.dense_lengths().find(|length| *length != DENSE_COUNT) {
            return Err(PredictorError::Shape { found });
        }
        let mut table = vec![0.0; SPARSE_COUNT];
        for (bucket, weight) in &artefact.difficulty_sparse {
            if let Some(slot) = table.get_mut(*bucket as usize) {
                *slot = *weight;
            }
        }
        let heads = || artefact.heads.values();
        let with_vector =
            WordTable::of(heads().map(|heads| heads.with_vector.as_ref().unwrap_or(&heads.without_vector)));
        let without_vector = WordTable::of(heads().map(|heads| &heads.without_vector));
        let columns = artefact.heads.keys().enumerate().map(|(column, model)| (model.clone(), column)).collect();
        Ok(Self { with_vector, without_vector, columns, table, artefact })
    }

    /// The ability of a model of the training data, by its name there.
    pub fn ability(&self, name: &str) -> Option<f32> {
        self.artefact.abilities.get(name).copied()
    }

    /// How hard the prompt is, on the scale of the abilities (logits).
    pub fn difficulty(&self, features: &Features) -> f32 {
        let sparse: f32 = features.sparse.iter().map(|(bucket, weight)| self.table[*bucket as usize] * weight).sum();
        let dense = self.standardised(features).zip(&self.artefact.difficulty_dense).map(|(x, w)| x * w).sum::<f32>();
        self.artefact.difficulty_bias + sparse + dense
    }

    /// The labelled prompts that have a score of each of these models; `cost` tells dollars from a model's place and the
    /// tokens that go in and come out.
    pub fn labelled(&self, models: &[String], cost: impl Fn(usize, u64, u64) -> f64) -> Vec<LabelledPrompt> {
        let of = |calibrated: &Calibrated| -> Option<LabelledPrompt> {
            let of = models.iter().map(|model| calibrated.models.get(model).copied());
            let of: Vec<(f32, f32, u64)> = of.collect::<Option<_>>()?;
            let price = |(at, (_, _, output)): (usize, &(f32, f32, u64))| cost(at, calibrated.input_tokens, *output);
            Some(LabelledPrompt {
                expected: of.iter().map(|(expected, ..)| f64::from(*expected)).collect(),
                scores: of.iter().map(|(_, score, _)| f64::from(*score)).collect(),
                costs: of.iter().enumerate().map(price).collect(),
            })
        };
        self.artefact.calibration.iter().filter_map(of).collect()
    }

    /// True where a model has enough labels for a head.
    pub fn knows(&self, model: &str) -> bool {
        self.artefact.heads.get(model).is_some_and(|heads| heads.labels >= LABELS_MIN)
    }

    /// The embedder whose vectors labels were learned from with: without one of its vectors, or with another's, what is
    /// promised says nothing.
    pub fn embedder(&self) -> Option<&str> {
        self.artefact.embedder.as_deref()
    }

    /// The artefact that it was made from.
    pub fn artefact(&self) -> &Artefact {
        &self.artefact
    }

    pub(crate) fn see<'a>(&self, features: &'a Features, vector: Option<&'a [f32]>) -> Seen<'a> {
        let standardised = self.standardised(features).collect();
        let with_vector = self.artefact.heads.values().find_map(|heads| heads.with_vector.as_ref());
        let vector = vector.filter(|vector| with_vector.is_some_and(|head| head.vector.len() == vector.len()));
        let words = if vector.is_some() { &self.with_vector } else { &self.without_vector }.say(features);
        Seen { features, standardised, vector, words, difficulty: self.difficulty(features) }
    }

    pub(crate) fn expect(&self, model: &Model, seen: &Seen) -> Expected {
        let heads = self.artefact.heads.get(&model.id).filter(|heads| heads.labels >= LABELS_MIN);
        let labelled = heads.and_then(|heads| {
            let words = *seen.words.get(*self.columns.get(&model.id)?)?;
            let head = heads.head(seen.vector.map(<[f32]>::len));
            Some((f64::from(head.quality(&seen.standardised, words, seen.vector)), heads.labels))
        });
        let length = heads.and_then(|heads| heads.output_tokens(&seen.standardised));
        Expected {
            prior: f64::from(probability(prior_ability(model), seen.difficulty)),
            labelled,
            as_labelled: heads.is_some_and(|heads| heads.with_vector.is_some() == seen.vector.is_some()),
            output_tokens: length.unwrap_or_else(|| self.output_tokens(seen.features)),
        }
    }

    /// Output tokens to expect, at least 1.
    pub fn output_tokens(&self, features: &Features) -> u64 {
        let logarithm = self.artefact.length_bias
            + self.standardised(features).zip(&self.artefact.length_dense).map(|(x, w)| x * w).sum::<f32>();
        logarithm.clamp(0.0, 11.0).exp().round() as u64
    }

    /// The dense features as the weights expect them.
    pub fn standardised<'a>(&'a self, features: &'a Features) -> impl Iterator<Item = f32> + 'a {
        features.standardised(&self.artefact.dense_mean, &self.artefact.dense_deviation)
    }
}

/// The probability that a model of this ability handles a prompt of this difficulty.
pub fn probability(ability: f32, difficulty: f32) -> f32 {
    1.0 / (1.0 + (difficulty - ability).exp())
}

/// What is assumed of a model without labels: as configured, or from its price and age. The line is a least-squares fit
/// to the abilities of the 41 models of the training data whose price and day of release are known (R² 0.67, residual
/// deviation 0.44 logits). Days after the last of them count as that day: the trend is not extrapolated, so models of
/// today differ by price only.
pub fn prior_ability(model: &Model) -> f32 {
    const AT_ONE_USD_IN_2024: f32 = -0.41;
    const PER_TENFOLD_PRICE: f32 = 0.48;
    const PER_YEAR: f32 = 1.53;
    const LAST_YEAR: f32 = 2024.8;
    const NANO_PER_USD: f32 = 1e9;
    if let Some(ability) = model.ability {
        return ability as f32;
    }
    let paid = model.endpoints.iter().filter(|endpoint| endpoint.billing == Billing::PerToken);
    let price = paid.map(|endpoint| endpoint.price.base.output).min().unwrap_or(0).max(1);
    let year = model.released.as_deref().and_then(year_of).unwrap_or(LAST_YEAR).min(LAST_YEAR);
    AT_ONE_USD_IN_2024 + PER_TENFOLD_PRICE * (price as f32 / NANO_PER_USD).log10() + PER_YEAR * (year - 2024.0)
}

/// `2025-07-01` → 2025.5
fn year_of(date: &str) -> Option<f32> {
    let mut parts = date.split('-');
    let year: f32 = parts.next()?.parse().ok()?;
    let month: f32 = parts.next()?.parse().ok()?;
    Some(year + (month - 1.0) / 12.0)
}
