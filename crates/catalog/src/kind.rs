//! What a provider speaks and how it is paid for.

use protocol::dialect::Dialect;
use serde::{Deserialize, Serialize};

/// The dialect, the authentication and the form of the addresses of a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// OpenAI's chat completions (and Responses) with a bearer credential.
    Openai,
    Anthropic,
    /// Google AI Studio.
    Gemini,
    /// Google Vertex with a service account; Anthropic's and open models too.
    Vertex,
    /// AWS Bedrock with signed requests or its own bearer credential.
    Bedrock,
    /// Azure OpenAI with a key or an Entra token.
    Azure,
    Cohere,
    /// The simulator, which speaks as OpenAI does; said at every start.
    Simulated,
}

impl Kind {
    /// What its endpoints speak unless they say otherwise.
    pub fn dialect(self) -> Dialect {
        match self {
            Self::Openai | Self::Azure | Self::Simulated => Dialect::OpenaiChat,
            Self::Anthropic => Dialect::Anthropic,
            Self::Gemini | Self::Vertex => Dialect::Gemini,
            Self::Bedrock => Dialect::Bedrock,
            Self::Cohere => Dialect::Cohere,
        }
    }
}

/// What using an endpoint costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Billing {
    #[default]
    PerToken,
    /// Nothing, and its provider says so.
    Free,
    /// A plan or a trial: tokens cost nothing more, but they are not free. Never chosen by `auto`, never a saving.
    FlatRate,
}

/// What is known of how an endpoint treats prompts; what is not known satisfies no demand.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// Where prompts are processed, as the provider or the operator names it: `eu`, `us`, `de`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// `fp8`, `int4` and so on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<String>,
    /// Prompts are kept beyond the call, for whatever time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stores_prompts: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trains_on_prompts: Option<bool>,
}

impl Facts {
    /// These, or where they are silent the others.
    pub fn or(&self, others: &Self) -> Self {
        Self {
            region: self.region.clone().or_else(|| others.region.clone()),
            quantization: self.quantization.clone().or_else(|| others.quantization.clone()),
            stores_prompts: self.stores_prompts.or(others.stores_prompts),
            trains_on_prompts: self.trains_on_prompts.or(others.trains_on_prompts),
        }
    }
}
