//! The `[[models]]` tables of an operator's file.

use crate::kind::{Billing, Facts};
use crate::money::NanoUsd;
use crate::price::Rates;
use protocol::dialect::{Dialect, ReasoningForm};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use toml::Spanned;

/// One `[[models]]` table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The canonical `author/slug`.
    pub id: Spanned<String>,
    /// Other spellings that mean this model.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Day of release, `YYYY-MM-DD`; the router's prior uses it.
    #[serde(default)]
    pub released: Option<String>,
    /// Ability on the router's logit scale where it is known better than price and age tell; 0 = the median model of
    /// the training data.
    #[serde(default)]
    pub ability: Option<f64>,
    /// Who answers in its place once it is withdrawn, or where it has no endpoints.
    #[serde(default)]
    pub successor: Option<String>,
    /// Its author allows to train other models on its answers.
    #[serde(default)]
    pub distillable: Option<bool>,
    #[serde(default)]
    pub endpoints: Vec<EndpointConfig>,
}

/// One `[[models.endpoints]]` table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointConfig {
    pub provider: Spanned<String>,
    /// The provider's own name of the model.
    pub name: String,
    pub input_usd_per_mtok: Spanned<f64>,
    pub output_usd_per_mtok: Spanned<f64>,
    /// Price of tokens read from the provider's prompt cache; without it they cost what input costs.
    #[serde(default)]
    pub cache_read_usd_per_mtok: Option<Spanned<f64>>,
    /// Price of tokens written to it; without it they cost what input costs.
    #[serde(default)]
    pub cache_write_usd_per_mtok: Option<Spanned<f64>>,
    /// Dearer prices of long prompts.
    #[serde(default)]
    pub tiers: Vec<TierConfig>,
    #[serde(default)]
    pub billing: Option<Billing>,
    /// Tells several endpoints of one model at one provider apart.
    #[serde(default)]
    pub tag: Option<String>,
    /// The wire format, where it is not the provider's usual one.
    #[serde(default)]
    pub dialect: Option<Dialect>,
    /// How the endpoint is asked to think.
    #[serde(default)]
    pub reasoning: Option<ReasoningForm>,
    pub context_tokens: u64,
    pub output_tokens_max: u64,
    /// Reserved when a request names no cap.
    #[serde(default = "output_tokens_reserved_max")]
    pub output_tokens_reserved_max: u64,
    /// The request field under which the endpoint takes the output cap; by default the provider's.
    #[serde(default)]
    pub max_tokens_field: Option<String>,
    #[serde(default = "all_abilities")]
    pub abilities: Vec<AbilityName>,
    /// Request fields that the endpoint refuses; they are not sent.
    #[serde(default)]
    pub rejects: Vec<String>,
    /// The endpoint's own deadlines, where they differ from its provider's.
    #[serde(default)]
    pub first_token_timeout_ms: Option<u64>,
    #[serde(default)]
    pub idle_timeout_ms: Option<u64>,
    #[serde(default)]
    pub total_timeout_ms: Option<u64>,
    #[serde(default)]
    pub region: Option<String>,
    #[serde(default)]
    pub quantization: Option<String>,
    #[serde(default)]
    pub stores_prompts: Option<bool>,
    #[serde(default)]
    pub trains_on_prompts: Option<bool>,
}

/// One `[[models.endpoints.tiers]]` table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TierConfig {
    /// The prices are of prompts with more input tokens than this.
    pub over_tokens: u64,
    pub input_usd_per_mtok: Spanned<f64>,
    pub output_usd_per_mtok: Spanned<f64>,
    #[serde(default)]
    pub cache_read_usd_per_mtok: Option<Spanned<f64>>,
    #[serde(default)]
    pub cache_write_usd_per_mtok: Option<Spanned<f64>>,
}

/// The price options of a table, in dollars per million tokens.
#[derive(Debug, Clone, Copy)]
pub struct Prices<'a> {
    pub input: &'a Spanned<f64>,
    pub output: &'a Spanned<f64>,
    pub cache_read: Option<&'a Spanned<f64>>,
    pub cache_write: Option<&'a Spanned<f64>>,
}

impl Prices<'_> {
    /// Reads them. `complain` is told place, option and problem of what is no price, which is then 0.
    pub fn rates(self, mut complain: impl FnMut(Range<usize>, &str, String)) -> Rates {
        let mut read = |value: &Spanned<f64>, option: &str| {
            let usd = *value.get_ref();
            NanoUsd::from_usd(usd).and_then(|nano| u64::try_from(nano.0).ok()).unwrap_or_else(|| {
                let problem = format!("{usd} is no price; write USD per million tokens, 0 or more");
                complain(value.span(), option, problem);
                0
            })
        };
        let basic = Rates::of(read(self.input, "input_usd_per_mtok"), read(self.output, "output_usd_per_mtok"));
        let cache_read = self.cache_read.map_or(basic.input, |price| read(price, "cache_read_usd_per_mtok"));
        let cache_write = self.cache_write.map(|price| read(price, "cache_write_usd_per_mtok"));
        let written = cache_write.map_or(basic, |price| basic.with_cache_write(price));
        Rates { cache_read, ..written }
    }
}

impl TierConfig {
    pub(crate) fn prices(&self) -> Prices<'_> {
        Prices {
            input: &self.input_usd_per_mtok,
            output: &self.output_usd_per_mtok,
            cache_read: self.cache_read_usd_per_mtok.as_ref(),
            cache_write: self.cache_write_usd_per_mtok.as_ref(),
        }
    }
}

impl EndpointConfig {
    pub(crate) fn prices(&self) -> Prices<'_> {
        Prices {
            input: &self.input_usd_per_mtok,
            output: &self.output_usd_per_mtok,
            cache_read: self.cache_read_usd_per_mtok.as_ref(),
            cache_write: self.cache_write_usd_per_mtok.as_ref(),
        }
    }

    /// What the table says about prompts.
    pub fn facts(&self) -> Facts {
        Facts {
            region: self.region.clone(),
            quantization: self.quantization.clone(),
            stores_prompts: self.stores_prompts,
            trains_on_prompts: self.trains_on_prompts,
        }
    }
}

/// What a request may need of an endpoint beyond text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AbilityName {
    Tools,
    JsonSchema,
    Images,
    Pdf,
    Audio,
    Reasoning,
}

impl AbilityName {
    /// The name as configured.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::JsonSchema => "json_schema",
            Self::Images => "images",
            Self::Pdf => "pdf",
            Self::Audio => "audio",
            Self::Reasoning => "reasoning",
        }
    }
}

fn output_tokens_reserved_max() -> u64 {
    4_096
}

/// An operator's own endpoint is trusted to do what it is asked, unless told otherwise.
fn all_abilities() -> Vec<AbilityName> {
    use AbilityName::{Audio, Images, JsonSchema, Pdf, Reasoning, Tools};
    vec![Tools, JsonSchema, Images, Pdf, Audio, Reasoning]
}
