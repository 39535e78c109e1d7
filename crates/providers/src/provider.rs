//! A provider ready to be called, and the providers that are known without a table.

use crate::config::{FIRST_TOKEN_TIMEOUT_MS, ProviderConfig};
use crate::credential::{AwsKeys, Credential, Limits, Proof};
use crate::deadlines::Deadlines;
use crate::secret::Secret;
use crate::token::TokenSource;
use catalog::{Facts, Kind, ProviderRow, Reach};
use protocol::dialect::Quirks;
use reqwest::Url;
use std::sync::Arc;
use std::time::Duration;

/// Where Microsoft Entra issues tokens.
pub(crate) const ENTRA_AUTHORITY: &str = "https://login.microsoftonline.com";

/// A provider ready to be called; its credentials go to its own origin and nowhere else.
#[derive(Debug, Clone)]
pub struct Provider {
    pub name: String,
    pub kind: Kind,
    /// What all its addresses begin with.
    pub(crate) base: Url,
    /// The version of Azure's API, where deployments have addresses of their own.
    pub(crate) api_version: Option<String>,
    /// At least one; one without a secret where none is sent.
    pub(crate) credentials: Vec<Credential>,
    pub(crate) deadlines: Deadlines,
    pub(crate) reach: Reach,
}

impl Provider {
    /// A provider with the default deadlines and no limits; `None` when `base_url` is not an http or https URL.
    pub fn new(name: &str, kind: Kind, base_url: &str, secret: Option<Secret>) -> Option<Self> {
        let base = web_url(base_url)?;
        let credentials = vec![Credential::new("", Proof::of_secret(kind, secret), &base, 1, Limits::default())];
        let reach = Reach {
            provider: name.to_owned(),
            kind,
            facts: Facts::default(),
            aggregator: false,
            fee: 0.0,
            billing: None,
            quirks: Quirks::default(),
            names: Arc::default(),
            elsewhere: false,
            negotiated: Vec::new(),
            all_negotiated: false,
            aws_region: if kind == Kind::Bedrock { aws_region(&base) } else { None },
        };
        let deadlines = Deadlines {
            connect: Duration::from_millis(crate::config::CONNECT_TIMEOUT_MS),
            first_token: Duration::from_millis(FIRST_TOKEN_TIMEOUT_MS),
            idle: Duration::from_millis(crate::config::IDLE_TIMEOUT_MS),
            total: Duration::from_millis(crate::config::TOTAL_TIMEOUT_MS),
        };
        Some(Self { name: name.to_owned(), kind, base, api_version: None, credentials, deadlines, reach })
    }

    /// A known provider whose credential is in the environment; `None` where it is not, or something else is missing.
    ///
    /// # Errors
    /// When the credential is there and cannot be used.
    pub fn known(row: &ProviderRow, environment: &dyn Fn(&str) -> Option<String>) -> Option<Result<Self, String>> {
        let set = |name: &&String| environment(name).is_some_and(|value| !value.trim().is_empty());
        let variable = row.env.iter().find(set)?;
        let base_url = filled(&row.base_url, environment).ok()?;
        let provider = Self::new(&row.id, row.kind, &base_url, None)?.described_by(row);
        let login = Login { variable, kind: row.kind, base: &provider.base, config: None };
        Some(login.proof(environment).map(|proof| {
            let credential = Credential::new(variable, proof, &provider.base, 1, Limits::default());
            Self { credentials: vec![credential], ..provider }
        }))
    }

    /// The same with what the list knows about it. At another address than the listed one nothing is known of what becomes
    /// of prompts.
    pub(crate) fn described_by(mut self, row: &ProviderRow) -> Self {
        let listed_host =
            row.base_url.contains("${") || web_url(&row.base_url).is_some_and(|url| url.origin() == self.base.origin());
        self.reach = Reach {
            names: row.also.iter().cloned().chain([row.name.clone()]).collect(),
            facts: if listed_host { row.facts.clone() } else { Facts::default() },
            elsewhere: !listed_host,
            aggregator: row.aggregator,
            fee: row.fee,
            billing: row.billing,
            quirks: Quirks {
                max_tokens_field: row.max_tokens_field.clone().unwrap_or_else(|| Quirks::default().max_tokens_field),
                rejects: row.rejects.clone(),
                reasoning: row.reasoning,
                history: row.history,
                developer_role: !row.no_developer_role,
                stream_options: !row.no_stream_options,
                ..Quirks::default()
            },
            ..self.reach
        };
        self
    }

    /// The same as its table says.
    pub(crate) fn configured_by(mut self, config: &ProviderConfig) -> Self {
        let reach = &mut self.reach;
        let facts = Facts {
            region: config.region.clone(),
            quantization: None,
            stores_prompts: config.stores_prompts,
            trains_on_prompts: config.trains_on_prompts,
        };
        reach.facts = facts.or(&reach.facts);
        reach.aggregator = config.aggregator.unwrap_or(reach.aggregator);
        reach.fee = config.fee.as_ref().map_or(reach.fee, |fee| *fee.get_ref());
        reach.billing = config.billing.or(reach.billing);
        reach.quirks.rejects.extend(config.rejects.iter().cloned());
        reach.quirks.reasoning = config.reasoning.unwrap_or(reach.quirks.reasoning);
        reach.quirks.developer_role = config.developer_role.unwrap_or(reach.quirks.developer_role);
        reach.quirks.stream_options = config.stream_options.unwrap_or(reach.quirks.stream_options);
        if let Some(field) = &config.max_tokens_field {
            reach.quirks.max_tokens_field.clone_from(field);
        }
        let negotiated = config.negotiated();
        reach.all_negotiated =
            !negotiated.is_empty() && negotiated.len() == config.credentials.len() && config.api_key_env.is_none();
        reach.negotiated = negotiated;
        self.api_version.clone_from(&config.api_version);
        self
    }

    /// The variable that its first credential came from.
    pub fn credential_name(&self) -> &str {
        self.credentials.first().map_or("", |credential| &credential.label)
    }

    /// The credentials that an endpoint may be called with, by place and name: one with prices of its own serves the
    /// endpoints that state them, and no others.
    pub(crate) fn usable<'a>(&'a self, endpoint: &'a catalog::Endpoint) -> impl Iterator<Item = (usize, &'a str)> {
        let own = endpoint.credential.as_deref();
        let negotiated = |label: &str| self.reach.negotiated.iter().any(|known| known.credential == label);
        let labels = self.credentials.iter().enumerate().map(|(at, credential)| (at, credential.label.as_str()));
        labels.filter(move |(_, label)| own.map_or(!negotiated(label), |own| own == *label))
    }

    /// What the catalogue needs to know of it.
    pub fn reach(&self) -> &Reach {
        &self.reach
    }
}

/// A credential of the environment on its way to a proof.
pub(crate) struct Login<'a> {
    pub variable: &'a str,
    pub kind: Kind,
    pub base: &'a Url,
    pub config: Option<&'a ProviderConfig>,
}

impl Login<'_> {
    /// How the credential proves itself at a provider of its kind.
    pub(crate) fn proof(&self, environment: &dyn Fn(&str) -> Option<String>) -> Result<Proof, String> {
        let read = |name: &str| environment(name).and_then(|text| Secret::new(&text));
        let missing =
            |name: &str| format!("the environment has no usable `{name}`; export the credential before starting");
        let config = self.config;
        match self.kind {
            Kind::Vertex => {
                let text = environment(self.variable).ok_or_else(|| missing(self.variable))?;
                let file = if text.trim_start().starts_with('{') {
                    text
                } else {
                    let path = text.trim().to_owned();
                    std::fs::read_to_string(&path).map_err(|error| format!("`{path}` cannot be read: {error}"))?
                };
                TokenSource::service_account(&file).map(Proof::Token)
            }
            Kind::Bedrock => {
                let secret = config.and_then(|config| config.secret_key_env.as_deref());
                let usual = (self.variable == "AWS_ACCESS_KEY_ID").then_some("AWS_SECRET_ACCESS_KEY");
                let id = read(self.variable).ok_or_else(|| missing(self.variable))?;
                let Some(secret_name) = secret.or(usual) else { return Ok(Proof::Bearer(id)) };
                let secret = read(secret_name).ok_or_else(|| missing(secret_name))?;
                let usual = (self.variable == "AWS_ACCESS_KEY_ID").then_some("AWS_SESSION_TOKEN");
                let session = config.and_then(|config| config.session_token_env.as_deref()).or(usual);
                let region = config.and_then(|config| config.aws_region.clone()).or_else(|| aws_region(self.base));
                let region = region
                    .or_else(|| environment("AWS_REGION"))
                    .ok_or("set `aws_region`: the address names no region")?;
                Ok(Proof::Aws(AwsKeys { id, secret, session: session.and_then(read), region }))
            }
            Kind::Azure => {
                let own = |text: Option<&String>, name: &str| text.cloned().or_else(|| environment(name));
                let tenant = own(config.and_then(|config| config.entra_tenant.as_ref()), "AZURE_TENANT_ID");
                let client = own(config.and_then(|config| config.entra_client_id.as_ref()), "AZURE_CLIENT_ID");
                let secret = read(self.variable).ok_or_else(|| missing(self.variable))?;
                let wants_token =
                    self.variable == "AZURE_CLIENT_SECRET" || config.is_some_and(|c| c.entra_client_id.is_some());
                match (tenant, client) {
                    (Some(tenant), Some(client)) if wants_token => {
                        let authority =
                            config.and_then(|config| config.entra_authority.as_deref()).unwrap_or(ENTRA_AUTHORITY);
                        TokenSource::entra(authority, &tenant, &client, secret).map(Proof::Token)
                    }
                    _ if wants_token => Err("an Entra client needs `entra_tenant` and `entra_client_id`".to_owned()),
                    _ => Ok(Proof::of_secret(Kind::Azure, Some(secret))),
                }
            }
            kind => read(self.variable)
                .map(|secret| Proof::of_secret(kind, Some(secret)))
                .ok_or_else(|| missing(self.variable)),
        }
    }
}

/// `eu-west-1` of `bedrock-runtime.eu-west-1.amazonaws.com`.
fn aws_region(base: &Url) -> Option<String> {
    let host = base.host_str()?.strip_suffix(".amazonaws.com")?;
    host.split_once('.').map(|(_, region)| region.to_owned())
}

pub(crate) fn web_url(text: &str) -> Option<Url> {
    let url = Url::parse(text.trim_end_matches('/')).ok()?;
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
}

/// Puts variables of the environment in the place of `${NAME}`.
pub(crate) fn filled(template: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let (mut text, mut rest) = (String::new(), template);
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after.split_once('}').ok_or("a `${` without its `}`")?;
        let value = environment(name)
            .map(|value| value.trim().trim_end_matches('/').to_owned())
            .filter(|value| !value.is_empty());
        text.push_str(before);
        text.push_str(&value.ok_or_else(|| format!("the environment has no `{name}`"))?);
        rest = after;
    }
    text.push_str(rest);
    // Vertex's worldwide location has no prefix.
    Ok(text.replace("https://global-aiplatform.", "https://aiplatform."))
}
