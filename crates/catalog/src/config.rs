//! The `[[models]]` tables: in an operator's file and in the built-in pages.

use serde::Deserialize;
use thiserror::Error;
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
    pub context_tokens: u64,
    pub output_tokens_max: u64,
    /// Reserved when a request names no cap.
    #[serde(default = "output_tokens_reserved_max")]
    pub output_tokens_reserved_max: u64,
    /// The request field under which the endpoint takes the output cap.
    #[serde(default = "max_tokens_field")]
    pub max_tokens_field: String,
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
}

/// What a request may need of an endpoint beyond text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AbilityName {
    Tools,
    JsonSchema,
    Images,
}

impl AbilityName {
    /// The name as configured.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::JsonSchema => "json_schema",
            Self::Images => "images",
        }
    }
}

fn output_tokens_reserved_max() -> u64 {
    4_096
}

fn max_tokens_field() -> String {
    "max_tokens".to_owned()
}

/// An operator's own endpoint is trusted to do what it is asked, unless told otherwise.
fn all_abilities() -> Vec<AbilityName> {
    vec![AbilityName::Tools, AbilityName::JsonSchema, AbilityName::Images]
}

/// A built-in catalogue file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    pub source: String,
    /// Day of the prices, `YYYY-MM-DD`.
    pub as_of: String,
    pub models: Vec<ModelConfig>,
}

/// Says that a built-in page does not parse; a test keeps it from happening.
#[derive(Debug, Error)]
#[error("catalogue page {name}: {source}")]
pub struct PageError {
    pub name: &'static str,
    pub source: toml::de::Error,
}

/// Reads the pages compiled into the binary.
///
/// # Errors
/// When a page is malformed.
pub fn builtin_pages() -> Result<Vec<Page>, PageError> {
    let pages = [
        ("openai", include_str!("../../../config/catalog/openai.toml")),
        ("simulated", include_str!("../../../config/catalog/simulated.toml")),
    ];
    pages.into_iter().map(|(name, text)| toml::from_str(text).map_err(|source| PageError { name, source })).collect()
}
