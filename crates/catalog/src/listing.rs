//! The list of everything that is known: providers, models and endpoints as rows, shipped with the program and changed by
//! a refresh.

use crate::config::AbilityName;
use crate::kind::{Billing, Facts, Kind};
use protocol::dialect::{Dialect, HistoryForm, ReasoningForm};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use thiserror::Error;

/// A provider that needs no table in the configuration: its credential in the environment is enough.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderRow {
    pub id: String,
    pub name: String,
    /// What else it is called, as OpenRouter's slug of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    pub kind: Kind,
    /// May hold variables of the environment as `${NAME}`.
    pub base_url: String,
    /// Variables that may hold its credential; the first that is set counts.
    pub env: Vec<String>,
    /// It passes requests on to others: ranked after direct endpoints.
    #[serde(default, skip_serializing_if = "is_default")]
    pub aggregator: bool,
    /// What it takes on top of its prices, as a share.
    #[serde(default, skip_serializing_if = "is_default")]
    pub fee: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub billing: Option<Billing>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens_field: Option<String>,
    /// Request fields that it refuses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejects: Vec<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub reasoning: ReasoningForm,
    /// How thoughts of earlier turns are sent back.
    #[serde(default, skip_serializing_if = "is_default")]
    pub history: HistoryForm,
    /// It does not know the role `developer`, or the field `stream_options`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub no_developer_role: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub no_stream_options: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headquarters: Option<String>,
    #[serde(flatten)]
    pub facts: Facts,
    /// Where the facts about prompts are from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_source: Option<String>,
}

/// What a model makes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Makes {
    #[default]
    Chat,
    Embeddings,
    Images,
    Audio,
    /// Judgements of texts, as guards make: served when named, never chosen by `auto`.
    Other,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRow {
    pub id: String,
    pub name: String,
    /// `YYYY-MM-DD`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<String>,
    #[serde(default, rename = "kind", skip_serializing_if = "is_default")]
    pub makes: Makes,
    #[serde(default, skip_serializing_if = "is_default")]
    pub open_weights: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub knowledge: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
}

/// One model at one provider; prices in USD per million tokens.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointRow {
    pub model: String,
    pub provider: String,
    /// The provider's own name of the model.
    pub name: String,
    /// Tells several endpoints of one model at one provider apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    #[serde(flatten)]
    pub rates: RateRow,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tiers: Vec<TierRow>,
    pub context: u64,
    pub output_max: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_max: Option<u64>,
    #[serde(default)]
    pub abilities: Vec<AbilityName>,
    /// It refuses temperature and its like.
    #[serde(default, skip_serializing_if = "is_default")]
    pub no_sampling: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub status: Status,
    #[serde(default, skip_serializing_if = "is_default")]
    pub billing: Billing,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialect: Option<Dialect>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<ReasoningForm>,
    /// The efforts of thinking it knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub efforts: Vec<String>,
    /// The least and the most tokens of thinking it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking_tokens: Option<[u64; 2]>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub always_thinks: bool,
    /// Request fields that it refuses, beside its provider's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejects: Vec<String>,
    /// A fee for each request, which is in no price.
    #[serde(default, skip_serializing_if = "is_default")]
    pub request_fee: bool,
    #[serde(flatten)]
    pub facts: Facts,
}

/// Whether an endpoint has a future.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    #[default]
    Active,
    /// Its provider has announced its end.
    Deprecated,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct RateRow {
    pub input: f64,
    pub output: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<f64>,
    /// Of output that was thought about, where it is dearer.
    #[serde(default, rename = "reasoning_price", skip_serializing_if = "Option::is_none")]
    pub thinking: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TierRow {
    pub over: u64,
    #[serde(flatten)]
    pub rates: RateRow,
}

/// All rows, by their names, and how old they are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Listing {
    /// Where the prices are from.
    pub source: String,
    /// The day of the prices, `YYYY-MM-DD`.
    pub as_of: String,
    #[serde(skip)]
    pub providers: BTreeMap<String, ProviderRow>,
    pub models: BTreeMap<String, ModelRow>,
    pub endpoints: Vec<EndpointRow>,
    /// What providers' own lists lack, as `provider/name`: other lists do not bring it back.
    #[serde(default)]
    pub gone: BTreeSet<String>,
    /// What is offered without a price, as `provider/name`: said once.
    #[serde(default)]
    pub unpriced: BTreeSet<String>,
    #[serde(skip)]
    pub names: Names,
}

/// The reviewed names of `aliases.toml`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// Another spelling, and the model it means.
    pub aliases: BTreeMap<String, String>,
    /// A withdrawn model, and the one that answers in its place.
    pub successors: BTreeMap<String, String>,
    /// What a fine-tuned model costs at OpenAI, by its base model.
    pub fine_tuned: BTreeMap<String, RateRow>,
}

/// Says that a file of the catalogue does not read; a test keeps it from happening to a shipped one.
#[derive(Debug, Clone, Error)]
#[error("catalogue: {file}, line {line}: {problem}")]
pub struct ListingError {
    pub file: String,
    pub line: usize,
    pub problem: String,
}

const SOURCE: &str = "models.dev f3fc692 (MIT)";
const AS_OF: &str = "2026-07-02";

impl Listing {
    /// The list compiled into the program, read once.
    ///
    /// # Errors
    /// When one of its files is malformed.
    pub fn shipped() -> Result<Arc<Self>, ListingError> {
        static SHIPPED: OnceLock<Result<Arc<Listing>, ListingError>> = OnceLock::new();
        SHIPPED.get_or_init(|| Self::read_shipped().map(Arc::new)).clone()
    }

    fn read_shipped() -> Result<Self, ListingError> {
        let providers: Vec<ProviderRow> =
            rows("providers.jsonl", include_str!("../../../config/catalog/providers.jsonl"))?;
        let models: Vec<ModelRow> = rows("models.jsonl", include_str!("../../../config/catalog/models.jsonl"))?;
        let endpoints = rows("endpoints.jsonl", include_str!("../../../config/catalog/endpoints.jsonl"))?;
        let names = toml::from_str(include_str!("../../../config/catalog/aliases.toml"));
        let names = names.map_err(|error: toml::de::Error| ListingError {
            file: "aliases.toml".to_owned(),
            line: 0,
            problem: error.to_string(),
        })?;
        Ok(Self {
            source: SOURCE.to_owned(),
            as_of: AS_OF.to_owned(),
            providers: providers.into_iter().map(|row| (row.id.clone(), row)).collect(),
            models: models.into_iter().map(|row| (row.id.clone(), row)).collect(),
            endpoints,
            gone: BTreeSet::new(),
            unpriced: BTreeSet::new(),
            names,
        })
    }

    /// The same with providers and names of the shipped list, which no refresh changes.
    pub fn completed(mut self, shipped: &Self) -> Self {
        self.providers.clone_from(&shipped.providers);
        self.names.clone_from(&shipped.names);
        self
    }

    /// The endpoints of one model.
    pub fn endpoints_of<'a>(&'a self, model: &'a str) -> impl Iterator<Item = &'a EndpointRow> {
        self.endpoints.iter().filter(move |row| row.model == model)
    }
}

impl EndpointRow {
    /// `model@provider`, with the tag where there is one.
    pub fn id(&self) -> String {
        match &self.tag {
            Some(tag) => format!("{}@{}/{tag}", self.model, self.provider),
            None => format!("{}@{}", self.model, self.provider),
        }
    }
}

fn rows<T: for<'de> Deserialize<'de>>(file: &str, text: &str) -> Result<Vec<T>, ListingError> {
    let row = |(at, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| ListingError {
            file: file.to_owned(),
            line: at + 1,
            problem: error.to_string(),
        })
    };
    text.lines().enumerate().filter(|(_, line)| !line.is_empty()).map(row).collect()
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
