//! The `[providers.<name>]` tables, and the providers known without one.

use crate::secret::Secret;
use reqwest::Url;
use serde::Deserialize;
use std::time::Duration;
use thiserror::Error;
use toml::Spanned;

/// One `[providers.<name>]` table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderConfig {
    pub kind: Kind,
    pub base_url: Spanned<String>,
    /// Name of the environment variable that holds the credential; none is sent without it.
    #[serde(default)]
    pub api_key_env: Option<Spanned<String>>,
    #[serde(default = "connect_timeout_ms")]
    pub connect_timeout_ms: u64,
    #[serde(default = "first_token_timeout_ms")]
    pub first_token_timeout_ms: u64,
    #[serde(default = "idle_timeout_ms")]
    pub idle_timeout_ms: u64,
    #[serde(default = "total_timeout_ms")]
    pub total_timeout_ms: u64,
}

/// The dialect and authentication a provider speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// OpenAI's chat completions with a bearer credential.
    Openai,
    /// The simulator, which speaks the same; said at every start.
    Simulated,
}

fn connect_timeout_ms() -> u64 {
    3_000
}
fn first_token_timeout_ms() -> u64 {
    60_000
}
fn idle_timeout_ms() -> u64 {
    60_000
}
fn total_timeout_ms() -> u64 {
    600_000
}

/// A provider ready to be called; its credential goes to its own origin and nowhere else.
#[derive(Debug, Clone)]
pub struct Provider {
    pub name: String,
    pub kind: Kind,
    pub(crate) chat_url: Url,
    pub(crate) credential: Option<Secret>,
    pub(crate) connect_timeout: Duration,
    pub(crate) first_token_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) total_timeout: Duration,
}

/// What is wrong with a provider's table.
#[derive(Debug, Clone, Error, PartialEq)]
#[error("{field}: {problem}")]
pub struct ProviderError {
    pub span: std::ops::Range<usize>,
    pub field: String,
    pub problem: String,
}

/// A provider that needs no table: its credential in the environment is enough.
#[derive(Debug, Clone, Copy)]
pub struct KnownProvider {
    pub name: &'static str,
    pub base_url: &'static str,
    pub api_key_env: &'static str,
}

/// The providers of the built-in catalogue pages.
pub fn known_providers() -> &'static [KnownProvider] {
    &[KnownProvider { name: "openai", base_url: "https://api.openai.com/v1", api_key_env: "OPENAI_API_KEY" }]
}

impl KnownProvider {
    /// The provider with this credential.
    pub fn with(&self, credential: Secret) -> Option<Provider> {
        Provider::new(self.name, Kind::Openai, self.base_url, Some(credential))
    }
}

impl Provider {
    /// A provider with the default deadlines; `None` when `base_url` is not an http or https URL.
    pub fn new(name: &str, kind: Kind, base_url: &str, credential: Option<Secret>) -> Option<Self> {
        Some(Self {
            name: name.to_owned(),
            kind,
            chat_url: chat_url(base_url)?,
            credential,
            connect_timeout: Duration::from_millis(connect_timeout_ms()),
            first_token_timeout: Duration::from_millis(first_token_timeout_ms()),
            idle_timeout: Duration::from_millis(idle_timeout_ms()),
            total_timeout: Duration::from_millis(total_timeout_ms()),
        })
    }

    /// Reads a table; `credential` looks a variable of the environment up.
    ///
    /// # Errors
    /// When the URL is unusable, a deadline is zero or the named variable is not set.
    pub fn from_config(
        name: &str,
        config: &ProviderConfig,
        credential: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ProviderError> {
        let place = format!("providers.{name}");
        let url = config.base_url.get_ref();
        let secret = match &config.api_key_env {
            None => None,
            Some(variable) => {
                Some(credential(variable.get_ref()).and_then(|text| Secret::new(&text)).ok_or_else(|| {
                    let name = variable.get_ref();
                    let problem =
                        format!("the environment has no usable `{name}`; export the credential before starting");
                    ProviderError { span: variable.span(), field: format!("{place}.api_key_env"), problem }
                })?)
            }
        };
        let provider = Self::new(name, config.kind, url, secret).ok_or_else(|| ProviderError {
            span: config.base_url.span(),
            field: format!("{place}.base_url"),
            problem: format!("`{url}` is not an http:// or https:// URL"),
        })?;
        let deadlines = [
            ("connect_timeout_ms", config.connect_timeout_ms),
            ("first_token_timeout_ms", config.first_token_timeout_ms),
            ("idle_timeout_ms", config.idle_timeout_ms),
            ("total_timeout_ms", config.total_timeout_ms),
        ];
        if let Some((field, _)) = deadlines.iter().find(|(_, milliseconds)| *milliseconds == 0) {
            let problem = "0; a deadline needs at least 1 millisecond".to_owned();
            return Err(ProviderError { span: config.base_url.span(), field: format!("{place}.{field}"), problem });
        }
        Ok(Self {
            connect_timeout: Duration::from_millis(config.connect_timeout_ms),
            first_token_timeout: Duration::from_millis(config.first_token_timeout_ms),
            idle_timeout: Duration::from_millis(config.idle_timeout_ms),
            total_timeout: Duration::from_millis(config.total_timeout_ms),
            ..provider
        })
    }
}

fn chat_url(base_url: &str) -> Option<Url> {
    let url = Url::parse(&format!("{}/chat/completions", base_url.trim_end_matches('/'))).ok()?;
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
}
