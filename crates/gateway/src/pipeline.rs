//! The spine: admit → exact → (one flight:) neighbours → decide → first_success → settle.

use crate::app::App;
use crate::config::AUTO;
use crate::error::Error;
use crate::flight::{FlightKey, Follower};
use crate::relay::{self, Job};
use crate::served::{Head, Hit, Served};
use crate::telemetry;
use cache::{Entry, Fold, Owner};
use catalog::{Billing, Catalog, NanoUsd, Resolved};
use database::Generation;
use ledger::{Bill, Caller, Settlement, now_ms};
use protocol::{CacheMode, ChatRequest, Digest, FieldError, Usage, context_tag, fingerprint};
use providers::{Attempt, FailureKind, Outcome};
use rand::Rng;
use router::{Applied, Asker, Policy, Suffixes, Wanted};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// A request with everything in it resolved.
#[derive(Clone)]
pub(crate) struct Asked {
    pub id: String,
    pub caller: Caller,
    pub request: ChatRequest,
    /// The policy that chooses the model; `None` where the client named it.
    pub policy: Option<Arc<Policy>>,
    /// Which of its rules apply.
    pub applied: Applied,
    /// The models that may serve.
    pub models: Vec<Named>,
    /// What the asker should know about the name that was used.
    pub notice: Option<String>,
    /// The client does not want to see the model's thoughts.
    pub hides_thoughts: bool,
    /// What savings are measured against.
    pub baseline: String,
    pub mode: CacheMode,
    pub fingerprint: Digest,
    /// Where the semantic level may look, or why it may not.
    pub scope: Result<Digest, &'static str>,
    /// Whose traffic teaches the semantic level what to serve.
    pub owner: Owner,
    /// Share of requests that may be answered wrongly: what the policy allows, or less where this caller says so.
    pub error_max: f64,
    /// How long its answer may be kept.
    pub ttl_s: u64,
    /// Where the gateway itself asks.
    pub shadow: Option<Shadow>,
    pub started: Instant,
}

/// Why the gateway itself asks, and for the sake of which generation.
#[derive(Debug, Clone)]
pub(crate) struct Shadow {
    pub source: String,
    pub purpose: Purpose,
    /// What providers took for it in nano-dollars, once it has ended, well or not.
    pub cost_nano: Arc<AtomicI64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To check a hit.
    Audit,
    /// To renew a stored answer.
    Renewal,
    /// To hear what another model says.
    Comparison,
    /// To have answers scored.
    Judgement,
}

impl Purpose {
    /// True where it is paid for out of the budget of comparisons.
    pub(crate) fn is_compared(self) -> bool {
        matches!(self, Self::Comparison | Self::Judgement)
    }
}

/// A model by its canonical name, and what its suffixes ask for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Named {
    pub id: String,
    pub suffixes: Suffixes,
}

/// An answer on its way to the client.
pub(crate) enum Delivery {
    /// An exact hit, settled already.
    Ready(Arc<Served>),
    /// A flight that this request leads.
    Leading(Follower),
    /// A flight that another request leads; ours is settled at its end.
    Following(Follower, Box<Settlement>),
}

/// Runs one request up to the point where its answer can be delivered.
pub(crate) async fn run(app: &App, asked: Asked) -> Result<(Arc<Asked>, Delivery), Error> {
    let asked = Arc::new(asked);
    let settlement = admit(app, &asked)?;
    let stale = Duration::from_secs(app.cache.config().stale_while_revalidate_s);
    if asked.reads_cache()
        && let Some(entry) = app.cache.exact(&asked.fingerprint, stale)
        && asked.fits(&entry)
    {
        let served = exact_hit(app, &asked, &entry);
        settle_hit(settlement, &asked, &served, "served");
        if entry.expires_ms <= now_ms() && app.cache.renews(&asked.fingerprint) {
            let (app, asked) = (app.clone(), Arc::clone(&asked));
            tokio::spawn(async move { relay::shadow(&app, asked.in_the_shadow(Purpose::Renewal)).await });
        }
        return Ok((asked, Delivery::Ready(Arc::new(served))));
    }
    if asked.mode == CacheMode::Only && asked.scope.is_err() {
        drop_unserved(settlement, &asked, "not cached");
        return Err(Error::NotCached);
    }
    let key_hash = || asked.caller.account.hash.clone();
    let key = asked.reads_cache().then(|| FlightKey {
        fingerprint: asked.fingerprint,
        key_hash: key_hash(),
        mode: asked.mode,
        error_max_bits: asked.error_max.to_bits(),
        timeouts_ms: [asked.request.sluice.timeout_ms, asked.request.sluice.first_token_timeout_ms],
    });
    let (follower, leader) = app.flights.join(key, &asked.id);
    match leader {
        None => Ok((asked, Delivery::Following(follower, Box::new(settlement)))),
        Some(leader) => {
            let job = Job { app: app.clone(), asked: Arc::clone(&asked), settlement, leader };
            tokio::spawn(relay::run(job));
            Ok((asked, Delivery::Leading(follower)))
        }
    }
}

/// Resolves models, policy and cache rules of a request.
pub(crate) fn resolve(app: &App, caller: Caller, mut request: ChatRequest, started: Instant) -> Result<Asked, Error> {
    let policy = policy_of(app, &request)?;
    let (models, notice) = match &policy {
        Some(policy) => {
            let named = |id: &String| Named { id: id.clone(), suffixes: Suffixes::default() };
            (policy.candidates.iter().map(named).collect(), None)
        }
        None => named_models(app, &request)?,
    };
    if models.iter().any(|named| named.suffixes.thinking) {
        request.think();
    }
    let baseline = policy.as_ref().map_or_else(|| models[0].id.clone(), |policy| policy.baseline.clone());
    let quality = request.sluice.quality_min.map_or(String::new(), |quality| quality.to_string());
    let cache = app.cache.config();
    let rules = cache.policy(policy.as_ref().map(|policy| policy.name.as_str()));
    let epoch = app.cache.epoch(caller.tenant()).to_string();
    let personal = if rules.personal { request.user.clone().unwrap_or_default() } else { String::new() };
    // Who may answer depends on the rules that apply, so what was answered under others is no answer here.
    let asker = Asker { tenant: caller.tenant(), key: &caller.account.name };
    let applied = policy.as_ref().map(|policy| Applied::of(&policy.rules, &request, asker)).unwrap_or_default();
    let answerers = answerers(app, policy.as_deref(), &models);
    let identity = [caller.tenant(), &answerers, &quality, &epoch, &personal, &applied.identity()];
    let wanted = &request.sluice.cache;
    let least = |limits: [Option<u64>; 2]| limits.into_iter().flatten().fold(cache.exact.ttl_s, u64::min);
    let ttl_s = least([wanted.ttl_s, rules.ttl_s]);
    let policy_error_max = rules.error_max.map_or(cache.semantic.error_max, |own| own.min(cache.semantic.error_max));
    let scope = match cache.semantic.eligible(&request, ttl_s) {
        Err(reason) => Err(reason.as_str()),
        Ok(()) if !app.cache.has_semantic() => Err("no embedder"),
        Ok(()) => {
            let fold = Fold::new(&rules.volatile);
            context_tag(&request, &identity, &|text| fold.fold(text)).ok_or("no_question")
        }
    };
    // What must leave no trace is neither looked for nor kept.
    let mode = match (request.provider.zdr, wanted.mode) {
        (Some(true), CacheMode::Only) => return Err(Error::NotCached),
        (Some(true), _) => CacheMode::Off,
        (_, mode) => mode,
    };
    Ok(Asked {
        id: generation_id(),
        fingerprint: fingerprint(&request, &identity),
        mode,
        owner: Owner {
            tenant: caller.tenant().to_owned(),
            policy: policy.as_ref().map(|policy| policy.name.clone()).unwrap_or_default(),
        },
        error_max: wanted.error_max.map_or(policy_error_max, |own| own.min(policy_error_max)),
        ttl_s,
        shadow: None,
        caller,
        policy,
        applied,
        models,
        notice,
        hides_thoughts: request.hides_thoughts(),
        baseline,
        scope,
        request,
        started,
    })
}

/// Who may answer, as part of what makes answers interchangeable: policy, models, and where each is served. When the
/// configuration changes them, answers stored before are not found any more.
fn answerers(app: &App, policy: Option<&Policy>, models: &[Named]) -> String {
    if let Some(policy) = policy {
        return app.config.answerers.get(&policy.name).cloned().unwrap_or_default();
    }
    let mut text = "named".to_owned();
    for named in models {
        let Ok(resolved) = app.config.catalog.resolve(&named.id) else { continue };
        for endpoint in &resolved.model.endpoints {
            text.push_str(&format!("|{}={}", endpoint.id, endpoint.name));
        }
        if named.suffixes != Suffixes::default() {
            text.push_str(&format!("|{:?}", named.suffixes));
        }
    }
    text
}

/// The policy that the model string, the request or an attachment names.
fn policy_of(app: &App, request: &ChatRequest) -> Result<Option<Arc<Policy>>, Error> {
    let policies = &app.config.policies;
    let find = |name: &str| {
        let known = || policies.keys().cloned().collect();
        policies.get(name).cloned().ok_or_else(|| Error::UnknownPolicy { name: name.to_owned(), known: known() })
    };
    let model = app.config.catalog.meant(request.named_models().first().copied().unwrap_or_default());
    match (request.sluice.policy.as_deref(), model) {
        (Some("as-asked"), AUTO | "openrouter/auto" | "sluice/auto") => {
            let problem = "`as-asked` needs a named model, not `auto`";
            Err(Error::BadRequest(FieldError::new("sluice.policy", problem)))
        }
        (Some("as-asked"), _) => Ok(None),
        (Some(name), _) => find(name).map(Some),
        (None, AUTO | "openrouter/auto" | "sluice/auto") => find(AUTO).map(Some),
        (None, name) => match name.strip_prefix("policy/") {
            Some(policy) => find(policy).map(Some),
            None => {
                let catalog = &app.config.catalog;
                let found = catalog.find(name).or_else(|| Some(found_without_suffixes(catalog, name)?.0));
                let id = found.map(|resolved| resolved.model.id.clone()).unwrap_or_default();
                app.config.attached.get(&id).map(|policy| find(policy)).transpose()
            }
        },
    }
}

/// The models that the request names, and what its asker should know about the first.
fn named_models(app: &App, request: &ChatRequest) -> Result<(Vec<Named>, Option<String>), Error> {
    let catalog = &app.config.catalog;
    let (mut models, mut notices) = (Vec::new(), Vec::new());
    for name in request.named_models() {
        // A name with its suffix can be a model of its own, as OpenRouter's `:free` ones are.
        let (resolved, suffixes) = match catalog.find(name) {
            Some(resolved) => (resolved, Suffixes::default()),
            None => found_without_suffixes(catalog, name).ok_or_else(|| unknown(catalog, name))?,
        };
        notices.extend(resolved.in_place_of.map(|withdrawn| stands_in(&withdrawn, &resolved.model.id)));
        models.push(Named { id: resolved.model.id.clone(), suffixes });
    }
    Ok((models, notices.into_iter().next()))
}

/// The model of a name whose suffixes are taken off one after the other, since with some of them it can be a model of its
/// own.
fn found_without_suffixes(catalog: &Catalog, name: &str) -> Option<(Resolved, Suffixes)> {
    let (base, _) = Suffixes::of(name);
    let ends = name.match_indices(':').map(|(at, _)| at).filter(|at| *at >= base.len());
    ends.rev().find_map(|end| {
        let resolved = catalog.find(&name[..end])?;
        let (_, suffixes) = Suffixes::of(&name[end..]);
        Some((resolved, suffixes))
    })
}

fn unknown(catalog: &Catalog, name: &str) -> Error {
    let (base, _) = Suffixes::of(name);
    match catalog.resolve(base) {
        Err(unknown) => Error::UnknownModel(unknown),
        Ok(_) => Error::Internal { id: "a model that is there was not found".to_owned() },
    }
}

/// What an asker is told when another model answers.
pub(crate) fn stands_in(withdrawn: &str, model: &str) -> String {
    format!("{withdrawn} is withdrawn; {model} answers in its place")
}

/// Takes the slot that the request's record will need.
pub(crate) fn admit(app: &App, asked: &Asked) -> Result<Settlement, Error> {
    let account = Arc::clone(&asked.caller.account);
    let generation = Generation {
        id: asked.id.clone(),
        tenant_id: asked.caller.tenant().to_owned(),
        key_hash: account.hash.clone(),
        created_ms: now_ms(),
        state: "failed".to_owned(),
        model_asked: asked.request.named_models().join(" "),
        policy: asked.policy.as_ref().map(|policy| policy.name.clone()).unwrap_or_default(),
        streamed: asked.request.stream,
        cache: Hit::Bypass.as_str().to_owned(),
        cache_source: asked.compared_with().unwrap_or_default().to_owned(),
        end_user: asked.request.user.clone().unwrap_or_default(),
        attempts: "[]".to_owned(),
        reasons: "{}".to_owned(),
        ..Generation::default()
    };
    Settlement::admit(&app.ledger, account, asked.is_free(), generation).map_err(|_| Error::Overloaded)
}

impl Asked {
    /// The same request as the gateway itself asks it.
    pub(crate) fn in_the_shadow(&self, purpose: Purpose) -> Self {
        self.clone().for_the_sake_of(self, purpose)
    }

    /// A request that the gateway itself asks because of another; only what renews a stored answer may be stored.
    pub(crate) fn for_the_sake_of(self, other: &Self, purpose: Purpose) -> Self {
        let mode = if purpose == Purpose::Renewal { CacheMode::Refresh } else { CacheMode::Off };
        let shadow = Some(Shadow { source: other.id.clone(), purpose, cost_nano: Arc::default() });
        Self { id: generation_id(), mode, shadow, started: Instant::now(), ..self }
    }

    /// True where nobody's key pays. What renews a stored answer is paid for by the key that asked for the answer.
    pub(crate) fn is_free(&self) -> bool {
        self.shadow.as_ref().is_some_and(|shadow| shadow.purpose != Purpose::Renewal)
    }

    /// Notes what a shadow has cost.
    pub(crate) fn note_cost(&self, upstream: NanoUsd) {
        if let Some(shadow) = &self.shadow {
            shadow.cost_nano.store(upstream.0, Ordering::Release);
        }
    }

    /// The generation that a comparison is made for.
    pub(crate) fn compared_with(&self) -> Option<&str> {
        self.shadow.as_ref().filter(|shadow| shadow.purpose.is_compared()).map(|shadow| shadow.source.as_str())
    }

    /// What its record says where no stored answer was given.
    pub(crate) fn without_hit(&self) -> Hit {
        match (self.shadow.is_some(), self.reads_cache()) {
            (true, _) => Hit::Shadow,
            (false, true) => Hit::Miss,
            (false, false) => Hit::Bypass,
        }
    }

    /// What this asker should know about an answer that was made for another: its own name of the model counts.
    pub(crate) fn notice_of(&self, head: &Head) -> Option<String> {
        let is_named = self.policy.is_some() || self.models.iter().any(|named| named.id == head.model);
        if is_named { self.notice.clone() } else { head.notice.clone() }
    }

    /// True where a stored or concurrent answer may be given.
    pub(crate) fn reads_cache(&self) -> bool {
        matches!(self.mode, CacheMode::On | CacheMode::Exact | CacheMode::Only)
    }

    /// True where the fresh answer may be kept.
    pub(crate) fn writes_cache(&self) -> bool {
        self.mode != CacheMode::Off
    }

    /// True where a call of this request ended because it asked for less time than the gateway gives; a hedge was not
    /// its idea.
    pub(crate) fn gave_up(&self, attempt: &Attempt, request_timeout_ms: u64) -> bool {
        let options = &self.request.sluice;
        let own_first_token = attempt.endpoint.first_token_timeout_ms.unwrap_or(request_timeout_ms);
        let is_hurried = options.timeout_ms.is_some_and(|ms| ms < request_timeout_ms)
            || self.request.stream && options.first_token_timeout_ms.is_some_and(|ms| ms < own_first_token);
        is_hurried && !attempt.hedge && attempt.outcome == Outcome::Failed(FailureKind::Deadline)
    }

    /// True where the semantic level may be asked.
    pub(crate) fn reads_semantic(&self) -> bool {
        matches!(self.mode, CacheMode::On | CacheMode::Only)
    }

    /// True where a stored answer is no longer than the client allows.
    pub(crate) fn fits(&self, entry: &Entry) -> bool {
        let usage = entry.reply.usage.as_ref().and_then(Usage::from_openai).unwrap_or_default();
        self.request.max_tokens.is_none_or(|cap| usage.completion_tokens() <= cap)
    }

    /// The models that may serve, in order.
    pub(crate) fn models(&self, app: &App) -> Vec<Wanted> {
        let catalog = &app.config.catalog;
        let wanted = |named: &Named| {
            let model = catalog.resolve(&named.id).ok()?.model;
            // What is compared stays with the models that were looked at: a rule may keep it from their successors.
            let successor = catalog.successor_of(&model.id).filter(|_| self.compared_with().is_none());
            let successor = successor.map(|(_, successor)| Arc::clone(successor));
            Some(Wanted { model, suffixes: named.suffixes, successor })
        };
        self.models.iter().filter_map(wanted).collect()
    }

    /// What the baseline would have cost with these tokens.
    pub(crate) fn baseline_cost(&self, app: &App, usage: Usage) -> NanoUsd {
        let Ok(resolved) = app.config.catalog.resolve(&self.baseline) else { return NanoUsd::ZERO };
        // What a plan or a trial gives away is no measure of a saving.
        let paid = resolved.model.endpoints.iter().filter(|endpoint| endpoint.billing == Billing::PerToken);
        paid.map(|endpoint| endpoint.price.cost(usage)).min().unwrap_or_default()
    }
}

/// The record of an answer that was stored for this very request.
pub(crate) fn exact_hit(app: &App, asked: &Asked, entry: &Entry) -> Served {
    let is_stale = entry.expires_ms <= now_ms();
    hit(app, asked, entry, Hit::Exact, json!({"cache": {"level": "exact", "id": entry.id, "stale": is_stale}}))
}

/// The record of an answer that was stored.
pub(crate) fn hit(app: &App, asked: &Asked, entry: &Entry, hit: Hit, trace: serde_json::Value) -> Served {
    let usage = entry.reply.usage.as_ref().and_then(Usage::from_openai).unwrap_or_default();
    let head = Head {
        hit,
        source: Some(entry.id.clone()),
        model: entry.model.clone(),
        provider: entry.provider.clone(),
        policy: asked.policy.as_ref().map(|policy| policy.name.clone()).unwrap_or_default(),
        notice: asked.notice.clone(),
        ..Head::default()
    };
    Served {
        head: Arc::new(head),
        reply: Arc::clone(&entry.reply),
        usage,
        cost: NanoUsd::ZERO,
        upstream: NanoUsd::ZERO,
        saved: asked.baseline_cost(app, usage),
        trace: Arc::new(trace),
    }
}

/// Settles a request whose key pays nothing.
pub(crate) fn settle_hit(mut settlement: Settlement, asked: &Asked, served: &Served, state: &'static str) {
    fill(&mut settlement.generation, asked, served);
    settlement.generation.state = state.to_owned();
    telemetry::request_ended(served.head.hit, state, asked.started.elapsed());
    telemetry::money(served);
    settlement.finish(Bill { upstream: served.upstream, charged: NanoUsd::ZERO });
}

/// Settles a request that was not served and cost nothing.
pub(crate) fn drop_unserved(mut settlement: Settlement, asked: &Asked, failure: &str) {
    settlement.generation.latency_ms = elapsed_ms(asked.started);
    settlement.generation.failure = failure.to_owned();
    telemetry::request_ended(Hit::Bypass, "failed", asked.started.elapsed());
    settlement.finish(Bill::default());
}

/// Writes what is known of an answer into its record.
pub(crate) fn fill(generation: &mut Generation, asked: &Asked, served: &Served) {
    let count = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
    let head = &served.head;
    generation.model.clone_from(&head.model);
    generation.provider.clone_from(&head.provider);
    generation.cache = head.hit.as_str().to_owned();
    if let Some(source) = &head.source {
        generation.cache_source.clone_from(source);
    }
    generation.input_tokens = count(served.usage.input_tokens);
    generation.cache_read_tokens = count(served.usage.cache_read_tokens);
    generation.cache_write_tokens = count(served.usage.cache_write_tokens + served.usage.cache_write_1h_tokens);
    generation.output_tokens = count(served.usage.output_tokens);
    generation.reasoning_tokens = count(served.usage.reasoning_tokens);
    generation.estimated = served.usage.estimated;
    generation.saved_nano = served.saved.0;
    generation.latency_ms = elapsed_ms(asked.started);
    generation.queue_ms = head.queued.as_millis() as i64;
    let finish = served.reply.choices.first().and_then(|choice| choice.finish_reason.clone());
    generation.finish_reason = finish.unwrap_or_default();
    generation.attempts = crate::served::attempts_json(&head.attempts).to_string();
    generation.reasons = served.trace.to_string();
}

pub(crate) fn elapsed_ms(started: Instant) -> i64 {
    i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX)
}

/// `gen-`, the time and 64 random bits: sorts by time and cannot be guessed.
fn generation_id() -> String {
    let random: u64 = rand::rng().random();
    format!("gen-{:x}-{random:016x}", now_ms())
}
