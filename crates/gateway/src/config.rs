//! The configuration: one file composed of each crate's table, checked as a whole before anything starts.

mod reach;
mod report;

pub use report::{ConfigError, Mistake};

use cache::CacheConfig;
use catalog::{Billing, Catalog, Listing, Makes, Model, ModelConfig};
use database::DatabaseConfig;
use embedding::EmbeddingConfig;
use protocol::Usage;
use providers::{ExecutionConfig, Provider, ProviderConfig, Providers};
use reach::baseline_of;
use router::{Policy, PolicyConfig, Predictor, RouterConfig};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
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
    pub embedding: EmbeddingConfig,
    pub cache: CacheConfig,
    pub catalog: Catalog,
    pub execution: ExecutionConfig,
    pub providers: Providers,
    pub predictor: Arc<Predictor>,
    pub policies: BTreeMap<String, Arc<Policy>>,
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
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Unreadable { name: name.clone(), problem: error.to_string() })?;
        Self::parse(&name, text)
    }

    /// Parses the text of a file called `name`.
    ///
    /// # Errors
    /// With the parser's first complaint.
    pub fn parse(name: &str, text: String) -> Result<Self, ConfigError> {
        match toml::from_str(&text) {
            Ok(tables) => Ok(Self { name: name.to_owned(), text, tables, listing: None }),
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
        let outage = self.tables.database.outage_spend_max_usd;
        if !(0.0..1e9).contains(&outage) {
            let problem = format!("{outage}; use dollars, 0 or more");
            mistakes.push(Mistake::new(0..0, "database.outage_spend_max_usd", problem));
        }
        if database::sqlite_path(&self.tables.database.url).is_none() {
            let problem = format!("`{}` is not of the form sqlite://PATH", self.tables.database.url);
            mistakes.push(Mistake::new(0..0, "database.url", problem));
        }
        if mistakes.is_empty() && catalog.is_empty() {
            let problem = "no model can be reached; add [[models]] for your providers";
            mistakes.push(Mistake::new(0..0, "models", problem));
        }
        let Some(predictor) = predictor.filter(|_| mistakes.is_empty()) else {
            return Err(ConfigError::mistakes(&self.name, &self.text, mistakes));
        };
        let answerers = policies.values().map(|policy| (policy.name.clone(), answerers(policy, &catalog))).collect();
        let Tables { mut server, database, embedding, cache, execution, .. } = self.tables;
        server.connections_max = server.connections_max.min(descriptors() / 2);
        let providers = providers.into_iter().map(|provider| (provider.name.clone(), Arc::new(provider))).collect();
        Ok(Config {
            server,
            database,
            embedding,
            cache,
            catalog,
            execution,
            providers,
            predictor: Arc::new(predictor),
            policies,
            attached,
            answerers,
            notices,
        })
    }

    fn predictor(&self, mistakes: &mut Vec<Mistake>) -> Option<Predictor> {
        let read = match &self.tables.router.artefact {
            None => Predictor::shipped().map_err(|error| error.to_string()),
            Some(path) => match std::fs::read(path) {
                Err(error) => Err(format!("cannot read {}: {error}", path.display())),
                Ok(json) => Predictor::from_json(&json).map_err(|error| format!("{}: {error}", path.display())),
            },
        };
        read.map_err(|problem| mistakes.push(Mistake::new(0..0, "router.artefact", problem))).ok()
    }

    fn policies(
        &self,
        catalog: &Catalog,
        predictor: Option<&Predictor>,
        mistakes: &mut Vec<Mistake>,
        notices: &mut Vec<String>,
    ) -> (BTreeMap<String, Arc<Policy>>, HashMap<String, String>) {
        let resolve = |name: &str| match catalog.resolve(name) {
            Ok(resolved) => Ok(resolved.model.id.clone()),
            Err(unknown) if unknown.nearest.is_empty() => Err(format!("no model `{name}`")),
            Err(unknown) => Err(format!("no model `{name}`; did you mean {}?", unknown.nearest.join(", "))),
        };
        let mut policies = BTreeMap::new();
        let mut attached: HashMap<String, String> = HashMap::new();
        for (name, config) in &self.tables.policies {
            let config = &without_withdrawn(name, config, catalog, notices);
            match Policy::from_config(name, config, resolve, |ids| baseline_of(catalog, ids)) {
                Ok(policy) => {
                    let policy = match predictor.filter(|_| config.guarantee) {
                        None => policy,
                        Some(predictor) => promising(policy, predictor, catalog, notices),
                    };
                    policies.insert(name.clone(), Arc::new(policy));
                }
                Err(errors) => mistakes.extend(errors.into_iter().map(|e| Mistake::new(e.span, e.field, e.problem))),
            }
            for (at, model) in config.applies_to.iter().enumerate() {
                let field = format!("policies.{name}.applies_to[{at}]");
                match resolve(model.get_ref()) {
                    Ok(_) if catalog.find(model.get_ref()).is_some_and(|found| found.in_place_of.is_some()) => {
                        let problem = format!("`{}` is withdrawn; name its successor", model.get_ref());
                        mistakes.push(Mistake::new(model.span(), field, problem));
                    }
                    Err(problem) => mistakes.push(Mistake::new(model.span(), field, problem)),
                    Ok(id) => {
                        if let Some(other) = attached.insert(id, name.clone()) {
                            let problem = format!("the policy `{other}` is attached to `{}` already", model.get_ref());
                            mistakes.push(Mistake::new(model.span(), field, problem));
                        }
                    }
                }
            }
        }
        if !policies.contains_key(AUTO) && mistakes.is_empty() && !catalog.is_empty() {
            let candidates: Vec<String> =
                catalog.models().filter(|model| is_for_auto(model)).map(|model| model.id.clone()).collect();
            if let Some(baseline) = baseline_of(catalog, &candidates) {
                notices.push(format!(
                    "auto: {} candidates, baseline {baseline} (the dearest of the newest generation); quality is a \
                     prior, unverified",
                    candidates.len()
                ));
                let policy = Policy { name: AUTO.to_owned(), candidates, baseline, quality_min: 0.95, guarantee: None };
                policies.insert(AUTO.to_owned(), Arc::new(policy));
            }
        }
        (policies, attached)
    }
}

/// A policy with what can be promised of it, at the prices of the moment.
fn promising(policy: Policy, predictor: &Predictor, catalog: &Catalog, notices: &mut Vec<String>) -> Policy {
    let cost = |model: &str, input: u64, output: u64| {
        let usage = Usage { input_tokens: input, output_tokens: output, ..Usage::default() };
        let found = catalog.find(model);
        let costs = found.iter().flat_map(|found| &found.model.endpoints).map(|endpoint| endpoint.price.cost(usage));
        costs.min().map_or(f64::INFINITY, |cost| cost.as_usd())
    };
    let policy = policy.with_guarantee(predictor, cost);
    let said = policy.guarantee.map(|guarantee| guarantee.statement()).unwrap_or_default();
    notices.push(format!("policy `{}`: {said}", policy.name));
    policy
}

/// A policy without candidates that a provider has withdrawn since it was written, as long as another is left: a refresh of
/// prices must not be refused for them.
fn without_withdrawn(name: &str, config: &PolicyConfig, catalog: &Catalog, notices: &mut Vec<String>) -> PolicyConfig {
    let mut config = config.clone();
    let was_listed = |id: &str| {
        Listing::shipped().is_ok_and(|shipped| shipped.models.contains_key(id)) || {
            let listing = catalog.listing();
            listing
                .is_some_and(|listing| listing.gone.iter().any(|gone| gone == id || gone.ends_with(&format!("/{id}"))))
        }
    };
    let is_gone = |id: &str| catalog.find(id).is_none() && was_listed(id);
    if config.candidates.iter().all(|candidate| is_gone(candidate.get_ref())) {
        return config; // all gone is a mistake, and is named as one
    }
    config.candidates.retain(|candidate| {
        let gone = is_gone(candidate.get_ref());
        if gone {
            notices
                .push(format!("policy `{name}`: `{}` cannot be reached any more and is left out", candidate.get_ref()));
        }
        !gone
    });
    config
}

/// A policy and all endpoints behind it, in a digest: hundreds of names would be hashed for each request.
fn answerers(policy: &Policy, catalog: &Catalog) -> String {
    let promise = policy.guarantee.and_then(|guarantee| guarantee.margin);
    let mut text = format!("policy {} {} {} {promise:?}", policy.name, policy.baseline, policy.quality_min);
    for resolved in policy.candidates.iter().filter_map(|id| catalog.find(id)) {
        for endpoint in &resolved.model.endpoints {
            text.push_str(&format!("|{}={}", endpoint.id, endpoint.name));
        }
    }
    protocol::digest_of(text.as_bytes()).to_string()
}

/// True where `auto` may choose a model: it writes, has a future, and is paid by the token.
fn is_for_auto(model: &Model) -> bool {
    let lasting = |endpoint: &&Arc<catalog::Endpoint>| !endpoint.deprecated && endpoint.billing == Billing::PerToken;
    model.makes == Makes::Chat && model.endpoints.iter().any(|endpoint| lasting(&endpoint))
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
