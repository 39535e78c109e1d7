//! The `[providers.<name>]` tables, and the providers known without one.

use crate::credential::{Credential, Limits};
use crate::secret::Secret;
use catalog::Endpoint;
use protocol::SluiceOptions;
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
    /// Calls under way at once with one credential.
    #[serde(default)]
    pub concurrent_max: Option<Spanned<u32>>,
    /// Of one credential.
    #[serde(default)]
    pub requests_per_minute_max: Option<Spanned<u32>>,
    /// Several credentials instead of one.
    #[serde(default)]
    pub credentials: Vec<CredentialConfig>,
    #[serde(default = "connect_timeout_ms")]
    pub connect_timeout_ms: u64,
    #[serde(default = "first_token_timeout_ms")]
    pub first_token_timeout_ms: u64,
    #[serde(default = "idle_timeout_ms")]
    pub idle_timeout_ms: u64,
    #[serde(default = "total_timeout_ms")]
    pub total_timeout_ms: u64,
}

/// One `[[providers.<name>.credentials]]` table; what it leaves out is as in the provider's.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialConfig {
    pub api_key_env: Spanned<String>,
    /// Share of the traffic beside the others.
    #[serde(default = "weight")]
    pub weight: u32,
    #[serde(default)]
    pub concurrent_max: Option<Spanned<u32>>,
    #[serde(default)]
    pub requests_per_minute_max: Option<Spanned<u32>>,
}

fn weight() -> u32 {
    1
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

/// How long each part of a call may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deadlines {
    pub connect: Duration,
    /// Until the first content of a stream.
    pub first_token: Duration,
    /// Between two events of a stream.
    pub idle: Duration,
    pub total: Duration,
}

impl Deadlines {
    /// The provider's, but where the endpoint has its own.
    pub(crate) fn of(provider: &Provider, endpoint: &Endpoint) -> Self {
        let own = |ms: Option<u64>, else_: Duration| ms.map_or(else_, Duration::from_millis);
        let general = provider.deadlines;
        Self {
            connect: general.connect,
            first_token: own(endpoint.first_token_timeout_ms, general.first_token),
            idle: own(endpoint.idle_timeout_ms, general.idle),
            total: own(endpoint.total_timeout_ms, general.total),
        }
    }

    /// The same, or less where the request asks for less.
    pub(crate) fn tightened(self, options: &SluiceOptions) -> Self {
        let least = |ms: Option<u64>, known: Duration| ms.map_or(known, |ms| known.min(Duration::from_millis(ms)));
        Self {
            first_token: least(options.first_token_timeout_ms, self.first_token),
            total: least(options.timeout_ms, self.total),
            ..self
        }
    }
}

/// A provider ready to be called; its credentials go to its own origin and nowhere else.
#[derive(Debug, Clone)]
pub struct Provider {
    pub name: String,
    pub kind: Kind,
    pub(crate) chat_url: Url,
    /// At least one; one without a secret where none is sent.
    pub(crate) credentials: Vec<Credential>,
    pub(crate) deadlines: Deadlines,
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
    /// A provider with the default deadlines and no limits; `None` when `base_url` is not an http or https URL.
    pub fn new(name: &str, kind: Kind, base_url: &str, secret: Option<Secret>) -> Option<Self> {
        let chat_url = chat_url(base_url)?;
        let deadlines = Deadlines {
            connect: Duration::from_millis(connect_timeout_ms()),
            first_token: Duration::from_millis(first_token_timeout_ms()),
            idle: Duration::from_millis(idle_timeout_ms()),
            total: Duration::from_millis(total_timeout_ms()),
        };
        let credentials = vec![Credential::new("", secret, &chat_url, 1, Limits::default())];
        Some(Self { name: name.to_owned(), kind, chat_url, credentials, deadlines })
    }

    /// Reads a table; `environment` looks a variable up.
    ///
    /// # Errors
    /// Every mistake: an unusable URL, a deadline or limit of zero, a variable that is not set.
    pub fn from_config(
        name: &str,
        config: &ProviderConfig,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Vec<ProviderError>> {
        let place = format!("providers.{name}");
        let url = config.base_url.get_ref();
        let mut errors = Vec::new();
        let mut complain = |span: std::ops::Range<usize>, field: &str, problem: String| {
            errors.push(ProviderError { span, field: format!("{place}.{field}"), problem });
        };
        let provider = Self::new(name, config.kind, url, None);
        if provider.is_none() {
            complain(config.base_url.span(), "base_url", format!("`{url}` is not an http:// or https:// URL"));
        }
        let deadlines = [
            ("connect_timeout_ms", config.connect_timeout_ms),
            ("first_token_timeout_ms", config.first_token_timeout_ms),
            ("idle_timeout_ms", config.idle_timeout_ms),
            ("total_timeout_ms", config.total_timeout_ms),
        ];
        for (field, _) in deadlines.iter().filter(|(_, milliseconds)| *milliseconds == 0) {
            complain(config.base_url.span(), field, "0; a deadline needs at least 1 millisecond".to_owned());
        }
        let wanted = wanted_credentials(config);
        let mut secrets = Vec::new();
        for wanted in &wanted {
            for (limit, value) in [
                ("concurrent_max", &wanted.concurrent_max),
                ("requests_per_minute_max", &wanted.requests_per_minute_max),
            ] {
                if let Some(value) = value.as_ref().filter(|value| *value.get_ref() == 0) {
                    complain(value.span(), limit, "0; allow at least 1, or leave the limit out".to_owned());
                }
            }
            let Some(variable) = &wanted.variable else {
                secrets.push(None);
                continue;
            };
            let secret = environment(variable.get_ref()).and_then(|text| Secret::new(&text));
            if secret.is_none() {
                let problem = format!(
                    "the environment has no usable `{}`; export the credential before starting",
                    variable.get_ref()
                );
                complain(variable.span(), "api_key_env", problem);
            }
            secrets.push(secret);
        }
        let (Some(provider), true) = (provider, errors.is_empty()) else { return Err(errors) };
        let made = wanted.iter().zip(secrets).map(|(wanted, secret)| {
            let limit = |value: &Option<Spanned<u32>>| value.as_ref().map(|value| *value.get_ref());
            let limits = Limits {
                concurrent_max: limit(&wanted.concurrent_max),
                requests_per_minute_max: limit(&wanted.requests_per_minute_max),
            };
            let label = wanted.variable.as_ref().map_or("", |variable| variable.get_ref());
            Credential::new(label, secret, &provider.chat_url, wanted.weight, limits)
        });
        let deadlines = Deadlines {
            connect: Duration::from_millis(config.connect_timeout_ms),
            first_token: Duration::from_millis(config.first_token_timeout_ms),
            idle: Duration::from_millis(config.idle_timeout_ms),
            total: Duration::from_millis(config.total_timeout_ms),
        };
        Ok(Self { credentials: made.collect(), deadlines, ..provider })
    }
}

/// A credential as configured, the provider's own limits filled in.
struct Wanted {
    variable: Option<Spanned<String>>,
    weight: u32,
    concurrent_max: Option<Spanned<u32>>,
    requests_per_minute_max: Option<Spanned<u32>>,
}

fn wanted_credentials(config: &ProviderConfig) -> Vec<Wanted> {
    let own = |variable: Option<Spanned<String>>| Wanted {
        variable,
        weight: weight(),
        concurrent_max: config.concurrent_max.clone(),
        requests_per_minute_max: config.requests_per_minute_max.clone(),
    };
    if config.credentials.is_empty() {
        return vec![own(config.api_key_env.clone())];
    }
    let listed = config.credentials.iter().map(|listed| Wanted {
        variable: Some(listed.api_key_env.clone()),
        weight: listed.weight,
        concurrent_max: listed.concurrent_max.clone().or_else(|| config.concurrent_max.clone()),
        requests_per_minute_max: listed
            .requests_per_minute_max
            .clone()
            .or_else(|| config.requests_per_minute_max.clone()),
    });
    config.api_key_env.clone().map(|variable| own(Some(variable))).into_iter().chain(listed).collect()
}

fn chat_url(base_url: &str) -> Option<Url> {
    let url = Url::parse(&format!("{}/chat/completions", base_url.trim_end_matches('/'))).ok()?;
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
}
