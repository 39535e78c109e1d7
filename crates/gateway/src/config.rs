//! The configuration: one file composed of each crate's table, checked as a whole before anything starts.

mod examples;
mod learning;
mod policies;
mod reach;
mod report;

pub use examples::Tried;
pub use report::{ConfigError, Mistake};

use crate::contents::ContentConfig;
use crate::limits::LimitsConfig;
use crate::webhook::{Webhook, WebhookConfig};
use cache::CacheConfig;
use catalog::{Billing, Catalog, Listing, Makes, Model, ModelConfig};
use database::DatabaseConfig;
use embedding::EmbeddingConfig;
use ipnet::IpNet;
pub use learning::Learning;
use learning::{RouterConfig, ShadowConfig};
use ledger::CreditTerms;
use policies::answerers;
use providers::{ExecutionConfig, Provider, ProviderConfig, Providers, Secret};
use router::{Example, Policy, PolicyConfig, Predictor};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The policy that `auto` means.
pub const AUTO: &str = "auto";
/// The provider of the built-in simulator.
pub const SIMULATED: &str = "simulated";

/// The `[server]` table.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    pub listen: String,
    /// The environment variable that holds the operator's key; unset, a key is generated at the first start.
    pub admin_key_env: String,
    /// Whose `X-Forwarded-For` says who the client is.
    pub trusted_proxies: Vec<IpNet>,
    pub body_bytes_max: usize,
    /// A body that comes more slowly, after the first `header_timeout_ms`, is given up.
    pub body_bytes_per_second_min: u64,
    /// At most half of the descriptors that the process may open.
    pub connections_max: usize,
    /// Requests under way at once; more are shed.
    pub requests_max: usize,
    /// Requests are shed while the gateway's own timers are later than this.
    pub lag_max_ms: u64,
    /// A client must have sent its request's headers by then.
    pub header_timeout_ms: u64,
    /// A client that takes no byte of its answer for this long is left.
    pub client_stall_timeout_ms: u64,
    /// After a stop signal `/ready` says no at once, and connections are still accepted for this long.
    pub stop_delay_ms: u64,
    /// Streams may finish for this long after that.
    pub shutdown_grace_ms: u64,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            admin_key_env: "SLUICE_ADMIN_KEY".to_owned(),
            trusted_proxies: Vec::new(),
            body_bytes_max: 32 * 1024 * 1024,
            body_bytes_per_second_min: 1_024,
            connections_max: 10_000,
            requests_max: 5_000,
            lag_max_ms: 200,
            header_timeout_ms: 10_000,
            client_stall_timeout_ms: 60_000,
            stop_delay_ms: 5_000,
            shutdown_grace_ms: 30_000,
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tables {
    #[serde(default)]
    server: ServerConfig,
    #[serde(default)]
    database: DatabaseConfig,
    #[serde(default)]
    credits: CreditTerms,
    #[serde(default)]
    limits: LimitsConfig,
    #[serde(default)]
    webhook: WebhookConfig,
    #[serde(default)]
    embedding: EmbeddingConfig,
    #[serde(default)]
    execution: ExecutionConfig,
    #[serde(default)]
    providers: BTreeMap<String, ProviderConfig>,
    #[serde(default)]
    models: Vec<ModelConfig>,
    #[serde(default)]
    cache: CacheConfig,
    #[serde(default)]
    content: ContentConfig,
    #[serde(default)]
    router: RouterConfig,
    #[serde(default)]
    policies: BTreeMap<String, PolicyConfig>,
}

/// A configuration file that parsed, not yet checked.
#[derive(Debug, Clone, Default)]
pub struct ConfigFile {
    name: String,
    text: String,
    tables: Tables,
    listing: Option<Arc<Listing>>,
    /// The file of each policy that has one of its own.
    policy_files: BTreeMap<String, String>,
    /// The folder of those files, whether or not it is there.
    policy_folder: Option<PathBuf>,
}

/// What is wrong with a configuration, and what its operator should know.
#[derive(Debug, Default)]
struct Findings {
    mistakes: Vec<Mistake>,
    notices: Vec<String>,
}

/// A configuration that can be served: every name in it resolves.
#[derive(Debug, Clone)]
pub struct Config {
    pub server: ServerConfig,
    pub database: DatabaseConfig,
    pub credits: CreditTerms,
    /// What Stripe signs its webhooks with; without it there are none.
    pub(crate) stripe_secret: Option<Secret>,
    pub limits: LimitsConfig,
    /// Who is told of soft limits.
    pub(crate) webhook: Option<Webhook>,
    pub embedding: EmbeddingConfig,
    pub cache: CacheConfig,
    pub content: ContentConfig,
    pub catalog: Catalog,
    pub execution: ExecutionConfig,
    pub providers: Providers,
    pub predictor: Arc<Predictor>,
    pub shadow: ShadowConfig,
    /// The router is trained beside the gateway.
    pub(crate) trains: bool,
    pub policies: BTreeMap<String, Arc<Policy>>,
    /// What the policies are to decide, with their names.
    pub examples: Vec<(String, Example)>,
    /// Model names to which a policy is attached.
    pub attached: HashMap<String, String>,
    /// For each policy, what makes its answers interchangeable: it, and who may answer.
    pub(crate) answerers: HashMap<String, String>,
    /// What an operator should know at the start.
    pub notices: Vec<String>,
}

impl Config {
    /// Takes over from a running configuration what is bound to sockets, files and memory, and returns the tables where
    /// this one wanted something else.
    pub(crate) fn keep_fixed(&mut self, running: &Self) -> Vec<&'static str> {
        fn keep<T: PartialEq + Clone>(new: &mut T, running: &T) -> bool {
            let differs = new != running;
            new.clone_from(running);
            differs
        }
        let kept = [
            ("server", keep(&mut self.server, &running.server)),
            ("database", keep(&mut self.database, &running.database)),
            ("embedding", keep(&mut self.embedding, &running.embedding)),
            ("cache", keep(&mut self.cache, &running.cache)),
            ("webhook", keep(&mut self.webhook, &running.webhook)),
            (
                "content",
                keep(&mut self.content.days, &running.content.days)
                    | keep(&mut self.content.bytes_max, &running.content.bytes_max),
            ),
        ];
        kept.into_iter().filter(|(_, differs)| *differs).map(|(table, _)| table).collect()
    }
}

/// Descriptors that the process may open; a guess where the system does not say.
fn descriptors() -> usize {
    const USUAL: usize = 1_024;
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|soft| soft.parse().ok()).unwrap_or(USUAL)
}

impl ConfigFile {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read or is not TOML of the known tables.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let read = |path: &Path| {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(path)
                .map_err(|error| ConfigError::Unreadable { name: name.clone(), problem: error.to_string() })?;
            Ok((name, text))
        };
        let (name, text) = read(path)?;
        let mut file = Self::parse(&name, text)?;
        let folder = path.parent().unwrap_or(Path::new("")).join("policies");
        for path in policies::files(&folder)? {
            let (name, text) = read(&path)?;
            file.add_policy(&path, &name, &text)?;
        }
        file.policy_folder = Some(folder);
        Ok(file)
    }

    /// What else decides what this configuration says: files and folders whose change is a reason to read it again.
    pub fn rests_on(&self) -> Vec<PathBuf> {
        let files = self.policy_files.values().map(PathBuf::from);
        files.chain(self.policy_folder.clone()).chain(self.tables.router.artefact.clone()).collect()
    }

    /// Parses the text of a file called `name`.
    ///
    /// # Errors
    /// With the parser's first complaint.
    pub fn parse(name: &str, text: String) -> Result<Self, ConfigError> {
        match toml::from_str(&text) {
            Ok(tables) => Ok(Self { name: name.to_owned(), text, tables, ..Self::default() }),
            Err(error) => {
                let mistake = Mistake::new(error.span().unwrap_or_default(), "", error.message());
                Err(ConfigError::mistakes(name, &text, vec![mistake]))
            }
        }
    }

    /// True where neither the file nor the environment names a provider, so that only the simulator can answer.
    pub fn needs_simulator(&self, environment: impl Fn(&str) -> Option<String>) -> bool {
        let environment: &dyn Fn(&str) -> Option<String> = &environment;
        let listing = self.listing(&mut Findings::default());
        let found = |row: &catalog::ProviderRow| matches!(Provider::known(row, environment), Some(Ok(_)));
        self.tables.providers.is_empty() && !listing.providers.values().any(found)
    }

    /// The same with newer prices than the shipped ones.
    pub fn with_listing(self, listing: Arc<Listing>) -> Self {
        Self { listing: Some(listing), ..self }
    }

    /// Where to listen.
    pub fn listen(&self) -> &str {
        &self.tables.server.listen
    }

    /// The `[database]` table, for commands that need nothing else.
    pub fn database(&self) -> &DatabaseConfig {
        &self.tables.database
    }

    /// Checks everything and resolves every name. `simulator` is the URL of a running one, where it is to be a
    /// provider.
    ///
    /// # Errors
    /// Every mistake at once, each with its line.
    pub fn check(
        self,
        environment: impl Fn(&str) -> Option<String>,
        simulator: Option<&str>,
    ) -> Result<Config, ConfigError> {
        let mut findings = Findings::default();
        let listing = self.listing(&mut findings);
        let providers = self.providers(&listing, &environment, simulator, &mut findings);
        let catalog = self.catalog(&listing, &providers, &mut findings);
        let Findings { mut mistakes, mut notices } = findings;
        let predictor = self.predictor(&mut mistakes);
        let (policies, attached) = self.policies(&catalog, predictor.as_ref(), &mut mistakes, &mut notices);
        let limits = [
            ("server.connections_max", self.tables.server.connections_max),
            ("server.requests_max", self.tables.server.requests_max),
        ];
        for (field, _) in limits.iter().filter(|(_, limit)| *limit == 0) {
            mistakes.push(Mistake::new(0..0, *field, "0; allow at least 1"));
        }
        for (field, problem) in self.tables.execution.mistakes() {
            mistakes.push(Mistake::new(0..0, field, problem));
        }
        for (field, problem) in self.tables.cache.mistakes() {
            mistakes.push(Mistake::new(0..0, field, problem));
        }
        for name in self.tables.cache.policies.keys().filter(|name| !policies.contains_key(*name) && *name != AUTO) {
            let known: Vec<&str> = policies.keys().map(String::as_str).collect();
            let problem = format!("no policy `{name}`; configured: {}", listed(&known));
            mistakes.push(Mistake::new(0..0, format!("cache.policies.{name}"), problem));
        }
        mistakes.extend(self.tables.router.mistakes(&catalog, !self.tables.content.tenants.is_empty()));
        mistakes.extend(self.money_mistakes());
        if mistakes.is_empty() && catalog.is_empty() {
            let problem = "no model can be reached; add [[models]] for your providers";
            mistakes.push(Mistake::new(0..0, "models", problem));
        }
        let Some(predictor) = predictor.filter(|_| mistakes.is_empty()) else {
            return Err(ConfigError::mistakes(&self.name, &self.text, mistakes));
        };
        let answerers = policies.values().map(|policy| (policy.name.clone(), answerers(policy, &catalog))).collect();
        let examples = self
            .tables
            .policies
            .iter()
            .flat_map(|(name, config)| config.examples.iter().map(|example| (name.clone(), example.clone())));
        let examples = examples.collect();
        let stripe_secret = self.stripe_secret(&environment, &mut notices);
        let webhook = self.webhook(&environment, &mut notices);
        let Tables { mut server, database, credits, limits, embedding, cache, content, router, execution, .. } =
            self.tables;
        server.connections_max = server.connections_max.min(descriptors() / 2);
        let providers = providers.into_iter().map(|provider| (provider.name.clone(), Arc::new(provider))).collect();
        Ok(Config {
            server,
            database,
            credits,
            stripe_secret,
            limits,
            webhook,
            embedding,
            cache,
            content,
            catalog,
            execution,
            providers,
            predictor: Arc::new(predictor),
            trains: router.train_after_scores > 0,
            shadow: router.shadow,
            policies,
            examples,
            attached,
            answerers,
            notices,
        })
    }

    fn stripe_secret(&self, environment: impl Fn(&str) -> Option<String>, notices: &mut Vec<String>) -> Option<Secret> {
        let name = self.tables.credits.stripe_secret_env.as_ref()?;
        let secret = environment(name).and_then(|text| Secret::new(&text));
        if secret.is_none() {
            notices.push(format!("webhooks of Stripe are OFF: {name} is not set ([credits] stripe_secret_env)"));
        }
        secret
    }

    fn webhook(&self, environment: impl Fn(&str) -> Option<String>, notices: &mut Vec<String>) -> Option<Webhook> {
        let WebhookConfig { url: Some(url), secret_env: Some(name) } = &self.tables.webhook else { return None };
        let secret = environment(name).filter(|text| crate::webhook::is_key(text)).and_then(|text| Secret::new(&text));
        if secret.is_none() {
            let problem = "is not set, or not base64 after `whsec_`";
            notices.push(format!("the webhook is OFF: {name} {problem} ([webhook] secret_env)"));
        }
        Some(Webhook { url: url.clone(), secret: secret? })
    }

    fn money_mistakes(&self) -> Vec<Mistake> {
        let database = &self.tables.database;
        let outage = database.outage_spend_max_usd;
        let outage = (!(0.0..1e9).contains(&outage)).then(|| format!("{outage}; use dollars, 0 or more"));
        let free = self.tables.limits.free_credits_usd;
        let free = (!(0.0..1e9).contains(&free)).then(|| format!("{free}; use dollars, 0 or more"));
        let variable = |name: &Option<String>| {
            let is_one = |name: &String| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            // Not shown: it may be the secret itself.
            name.as_ref().filter(|name| !is_one(name)).map(|_| "not the name of an environment variable".to_owned())
        };
        let problems = [
            ("database.outage_spend_max_usd", outage),
            ("database.url", database.url.problem()),
            ("limits.free_credits_usd", free),
            ("credits.stripe_secret_env", variable(&self.tables.credits.stripe_secret_env)),
            ("webhook.secret_env", variable(&self.tables.webhook.secret_env)),
        ];
        let problems = problems.into_iter().filter_map(|(field, problem)| Some((field, problem?)));
        let problems = problems.chain(self.tables.credits.problem()).chain(self.tables.webhook.problem());
        problems.map(|(field, problem)| Mistake::new(0..0, field, problem)).collect()
    }

    fn predictor(&self, mistakes: &mut Vec<Mistake>) -> Option<Predictor> {
        let read = match &self.tables.router.artefact {
            None => Predictor::shipped().map_err(|error| error.to_string()),
            // The first training has yet to write it.
            Some(path) if self.tables.router.train_after_scores > 0 && !path.exists() => {
                Predictor::shipped().map_err(|error| error.to_string())
            }
            Some(path) => match std::fs::read(path) {
                Err(error) => Err(format!("cannot read {}: {error}", path.display())),
                Ok(json) => Predictor::from_json(&json).map_err(|error| format!("{}: {error}", path.display())),
            },
        };
        read.map_err(|problem| mistakes.push(Mistake::new(0..0, "router.artefact", problem))).ok()
    }
}

/// True where `auto` may choose a model: it writes, has a future, and is paid by the token.
fn is_for_auto(model: &Model) -> bool {
    let lasting = |endpoint: &&Arc<catalog::Endpoint>| !endpoint.deprecated && endpoint.billing == Billing::PerToken;
    model.makes == Makes::Chat && model.endpoints.iter().any(|endpoint| lasting(&endpoint))
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
