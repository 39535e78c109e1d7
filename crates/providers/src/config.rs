//! The `[providers.<name>]` tables.

use crate::credential::{Credential, Limits, Proof};
use crate::deadlines::Deadlines;
use crate::provider::{Login, Provider, filled};
use catalog::{Billing, Kind, Negotiated, Prices, ProviderRow};
use protocol::dialect::ReasoningForm;
use serde::Deserialize;
use std::time::Duration;
use thiserror::Error;
use toml::Spanned;

pub(crate) const CONNECT_TIMEOUT_MS: u64 = 3_000;
pub(crate) const FIRST_TOKEN_TIMEOUT_MS: u64 = 60_000;
pub(crate) const IDLE_TIMEOUT_MS: u64 = 60_000;
pub(crate) const TOTAL_TIMEOUT_MS: u64 = 600_000;

/// One `[providers.<name>]` table. Of a known provider only what differs is needed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderConfig {
    #[serde(default)]
    pub kind: Option<Kind>,
    #[serde(default)]
    pub base_url: Option<Spanned<String>>,
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
    /// Azure: the dated version; deployments then have addresses of their own.
    #[serde(default)]
    pub api_version: Option<String>,
    /// Azure with Entra: `api_key_env` is the client's secret.
    #[serde(default)]
    pub entra_tenant: Option<String>,
    #[serde(default)]
    pub entra_client_id: Option<String>,
    #[serde(default)]
    pub entra_authority: Option<String>,
    /// Bedrock with access keys: `api_key_env` is the key's id.
    #[serde(default)]
    pub secret_key_env: Option<String>,
    #[serde(default)]
    pub session_token_env: Option<String>,
    #[serde(default)]
    pub aws_region: Option<String>,
    /// It passes requests on to others: ranked after direct endpoints.
    #[serde(default)]
    pub aggregator: Option<bool>,
    /// What it takes on top of its prices, as a share.
    #[serde(default)]
    pub fee: Option<Spanned<f64>>,
    #[serde(default)]
    pub billing: Option<Billing>,
    /// Facts about prompts; what is left out is unknown, and satisfies no demand.
    #[serde(default)]
    pub region: Option<String>,
    #[serde(default)]
    pub stores_prompts: Option<bool>,
    #[serde(default)]
    pub trains_on_prompts: Option<bool>,
    #[serde(default)]
    pub max_tokens_field: Option<String>,
    #[serde(default)]
    pub rejects: Vec<String>,
    #[serde(default)]
    pub reasoning: Option<ReasoningForm>,
    #[serde(default)]
    pub developer_role: Option<bool>,
    #[serde(default)]
    pub stream_options: Option<bool>,
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
    /// Taken off every price, as a share.
    #[serde(default)]
    pub discount: Option<Spanned<f64>>,
    /// What this credential pays for single models.
    #[serde(default)]
    pub prices: Vec<PriceConfig>,
}

/// One `[[providers.<name>.credentials.prices]]` table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceConfig {
    /// The canonical name.
    pub model: String,
    pub input_usd_per_mtok: Spanned<f64>,
    pub output_usd_per_mtok: Spanned<f64>,
    #[serde(default)]
    pub cache_read_usd_per_mtok: Option<Spanned<f64>>,
    #[serde(default)]
    pub cache_write_usd_per_mtok: Option<Spanned<f64>>,
}

fn weight() -> u32 {
    1
}
fn connect_timeout_ms() -> u64 {
    CONNECT_TIMEOUT_MS
}
fn first_token_timeout_ms() -> u64 {
    FIRST_TOKEN_TIMEOUT_MS
}
fn idle_timeout_ms() -> u64 {
    IDLE_TIMEOUT_MS
}
fn total_timeout_ms() -> u64 {
    TOTAL_TIMEOUT_MS
}

/// What is wrong with a provider's table.
#[derive(Debug, Clone, Error, PartialEq)]
#[error("{field}: {problem}")]
pub struct ProviderError {
    pub span: std::ops::Range<usize>,
    pub field: String,
    pub problem: String,
}

/// Collects what is wrong with one table.
struct Complaints {
    place: String,
    errors: Vec<ProviderError>,
}

impl Complaints {
    fn add(&mut self, span: std::ops::Range<usize>, field: &str, problem: impl Into<String>) {
        let field = format!("{}.{field}", self.place);
        self.errors.push(ProviderError { span, field, problem: problem.into() });
    }
}

impl ProviderConfig {
    /// Credentials with prices of their own.
    pub(crate) fn negotiated(&self) -> Vec<Negotiated> {
        let with_prices = self.credentials.iter().filter(|own| own.discount.is_some() || !own.prices.is_empty());
        let negotiated = with_prices.map(|own| Negotiated {
            credential: own.api_key_env.get_ref().clone(),
            discount: own.discount.as_ref().map_or(0.0, |discount| *discount.get_ref()),
            prices: own.prices.iter().map(|price| (price.model.clone(), price.prices().rates(|_, _, _| {}))).collect(), // `check` has complained,
        });
        negotiated.collect()
    }

    fn check(&self, span: &std::ops::Range<usize>, complaints: &mut Complaints) {
        let deadlines = [
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("first_token_timeout_ms", self.first_token_timeout_ms),
            ("idle_timeout_ms", self.idle_timeout_ms),
            ("total_timeout_ms", self.total_timeout_ms),
        ];
        for (field, _) in deadlines.iter().filter(|(_, milliseconds)| *milliseconds == 0) {
            complaints.add(span.clone(), field, "0; a deadline needs at least 1 millisecond");
        }
        if let Some(fee) = self.fee.as_ref().filter(|fee| !(0.0..=1.0).contains(fee.get_ref())) {
            complaints.add(fee.span(), "fee", format!("{}; use a share from 0 to 1", fee.get_ref()));
        }
        for own in &self.credentials {
            if let Some(discount) = own.discount.as_ref().filter(|discount| !(0.0..=1.0).contains(discount.get_ref())) {
                let problem = format!("{}; use a share from 0 to 1", discount.get_ref());
                complaints.add(discount.span(), "credentials.discount", problem);
            }
            for price in &own.prices {
                price.prices().rates(|span, option, problem| {
                    complaints.add(span, &format!("credentials.prices.{option}"), problem);
                });
            }
        }
    }
}

impl PriceConfig {
    fn prices(&self) -> Prices<'_> {
        Prices {
            input: &self.input_usd_per_mtok,
            output: &self.output_usd_per_mtok,
            cache_read: self.cache_read_usd_per_mtok.as_ref(),
            cache_write: self.cache_write_usd_per_mtok.as_ref(),
        }
    }
}

impl Provider {
    /// Reads a table; `known` is what the list has under its name, `environment` looks a variable up.
    ///
    /// # Errors
    /// Every mistake: an unusable URL, a deadline or limit of zero, a variable that is not set.
    pub fn from_config(
        name: &str,
        config: &ProviderConfig,
        known: Option<&ProviderRow>,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Vec<ProviderError>> {
        let mut complaints = Complaints { place: format!("providers.{name}"), errors: Vec::new() };
        let variable = config.api_key_env.as_ref().map(Spanned::span);
        let span = config.base_url.as_ref().map(Spanned::span).or(variable).unwrap_or(0..0);
        config.check(&span, &mut complaints);
        let kind = config.kind.or(known.map(|row| row.kind));
        if kind.is_none() {
            complaints.add(span.clone(), "kind", "missing; say what the provider speaks, as \"openai\"");
        }
        let url = match (&config.base_url, known) {
            (Some(url), _) => Some(url.get_ref().clone()),
            (None, Some(row)) => filled(&row.base_url, environment)
                .map_err(|problem| complaints.add(span.clone(), "base_url", format!("{problem}: {}", row.base_url)))
                .ok(),
            (None, None) => {
                complaints.add(span.clone(), "base_url", "missing; only known providers have one without saying it");
                None
            }
        };
        let provider = url.as_ref().zip(kind).and_then(|(url, kind)| Self::new(name, kind, url, None));
        if let (None, Some(url), Some(_)) = (&provider, &url, kind) {
            complaints.add(span.clone(), "base_url", format!("`{url}` is not an http:// or https:// URL"));
        }
        let wanted = wanted_credentials(config, known, environment);
        let proofs = provider.as_ref().map(|provider| proofs(provider, config, &wanted, environment, &mut complaints));
        let (Some(provider), Some(proofs), true) = (provider, proofs, complaints.errors.is_empty()) else {
            return Err(complaints.errors);
        };
        let made = wanted.iter().zip(proofs).map(|(wanted, proof)| {
            let limit = |value: &Option<Spanned<u32>>| value.as_ref().map(|value| *value.get_ref());
            let limits = Limits {
                concurrent_max: limit(&wanted.concurrent_max),
                requests_per_minute_max: limit(&wanted.requests_per_minute_max),
            };
            let label = wanted.variable.as_ref().map_or("", |variable| variable.get_ref());
            Credential::new(label, proof, &provider.base, wanted.weight, limits)
        });
        let credentials = made.collect();
        let deadlines = Deadlines {
            connect: Duration::from_millis(config.connect_timeout_ms),
            first_token: Duration::from_millis(config.first_token_timeout_ms),
            idle: Duration::from_millis(config.idle_timeout_ms),
            total: Duration::from_millis(config.total_timeout_ms),
        };
        let provider = known.map_or(provider.clone(), |row| provider.described_by(row)).configured_by(config);
        Ok(Self { credentials, deadlines, ..provider })
    }
}

/// A credential as configured, the provider's own limits filled in.
struct Wanted {
    variable: Option<Spanned<String>>,
    weight: u32,
    concurrent_max: Option<Spanned<u32>>,
    requests_per_minute_max: Option<Spanned<u32>>,
}

fn wanted_credentials(
    config: &ProviderConfig,
    known: Option<&ProviderRow>,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Vec<Wanted> {
    let own = |variable: Option<Spanned<String>>| Wanted {
        variable,
        weight: weight(),
        concurrent_max: config.concurrent_max.clone(),
        requests_per_minute_max: config.requests_per_minute_max.clone(),
    };
    if config.credentials.is_empty() {
        let usual = || {
            let row = known.filter(|_| config.base_url.is_none())?; // at another address its usual credential has no business
            let set = row.env.iter().find(|name| environment(name).is_some_and(|value| !value.trim().is_empty()));
            set.or(row.env.first()).map(|name| Spanned::new(0..0, name.clone()))
        };
        return vec![own(config.api_key_env.clone().or_else(usual))];
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

fn proofs(
    provider: &Provider,
    config: &ProviderConfig,
    wanted: &[Wanted],
    environment: &dyn Fn(&str) -> Option<String>,
    complaints: &mut Complaints,
) -> Vec<Proof> {
    let mut proofs = Vec::new();
    for wanted in wanted {
        let limits =
            [("concurrent_max", &wanted.concurrent_max), ("requests_per_minute_max", &wanted.requests_per_minute_max)];
        for (limit, value) in limits {
            if let Some(value) = value.as_ref().filter(|value| *value.get_ref() == 0) {
                complaints.add(value.span(), limit, "0; allow at least 1, or leave the limit out");
            }
        }
        let Some(variable) = &wanted.variable else {
            proofs.push(Proof::None);
            continue;
        };
        let login =
            Login { variable: variable.get_ref(), kind: provider.kind, base: &provider.base, config: Some(config) };
        match login.proof(environment) {
            Ok(proof) => proofs.push(proof),
            Err(problem) => complaints.add(variable.span(), "api_key_env", problem),
        }
    }
    proofs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(price: &str) -> ProviderConfig {
        let text = format!("credentials = [{{ api_key_env = \"KEY\", prices = [{{ model = \"a/b\", {price} }}] }}]");
        toml::from_str(&text).expect("a table")
    }

    #[test]
    fn a_negotiated_price_of_writing_to_the_cache_is_also_one_of_keeping_it_for_an_hour() {
        let config = read("input_usd_per_mtok = 3.0, output_usd_per_mtok = 15.0, cache_write_usd_per_mtok = 3.75");
        let rates = config.negotiated()[0].prices["a/b"];
        assert_eq!((rates.cache_read, rates.cache_write, rates.cache_write_1h), (3 * USD, 3_750_000_000, 6 * USD));
    }

    #[test]
    fn a_negotiated_price_that_is_none_is_named() {
        let mut complaints = Complaints { place: "providers.up".to_owned(), errors: Vec::new() };
        read("input_usd_per_mtok = -1.0, output_usd_per_mtok = 1.0").check(&(0..0), &mut complaints);
        let found: Vec<&str> = complaints.errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(found, ["providers.up.credentials.prices.input_usd_per_mtok"]);
    }

    const USD: u64 = 1_000_000_000;
}
