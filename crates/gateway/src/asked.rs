//! A request with everything in it resolved, and what can be told from that.

use crate::app::App;
use crate::grants::Sold;
use crate::limits::Counted;
use crate::origin::Origin;
use crate::served::{Head, Hit};
use cache::{Entry, Owner};
use catalog::{Billing, NanoUsd};
use ledger::{Caller, now_ms};
use protocol::{CacheMode, ChatRequest, Digest, Usage};
use providers::{Attempt, FailureKind, Outcome};
use rand::Rng;
use router::{Applied, Policy, Suffixes, Wanted};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

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
    /// What it is sold as.
    pub sold: Sold,
    /// Where it comes from.
    pub origin: Origin,
    /// What it was counted towards.
    pub counted: Counted,
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

impl Asked {
    /// What its client asked for, by the names that it used.
    pub(crate) fn name_asked(&self) -> String {
        if self.sold.name.is_empty() { self.request.named_models().join(" ") } else { self.sold.name.clone() }
    }

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
            let may_answer = |id: &str| !self.sold.name.is_empty() || self.caller.account.rules.allow_model(id);
            let successor = successor.map(|(_, successor)| Arc::clone(successor)).filter(|other| may_answer(&other.id));
            Some(Wanted { model, suffixes: named.suffixes, successor })
        };
        self.models.iter().filter_map(wanted).collect()
    }

    /// What the baseline would have cost with these tokens.
    pub(crate) fn baseline_cost(&self, app: &App, usage: Usage) -> NanoUsd {
        let Ok(resolved) = app.config.catalog.resolve(&self.baseline) else { return NanoUsd::ZERO };
        // What a plan or a trial gives away is no measure of a saving.
        let paid = resolved.model.endpoints.iter().filter(|endpoint| endpoint.billing == Billing::PerToken);
        let cost = |endpoint: &Arc<catalog::Endpoint>| match self.sold.hides_source {
            true => self.sold.answer_cost(endpoint, usage), // what others take is not shown, also not as a saving
            false => endpoint.price.cost(usage),
        };
        paid.map(cost).min().unwrap_or_default()
    }
}

/// `gen-`, the time and 64 random bits: sorts by time and cannot be guessed.
pub(crate) fn generation_id() -> String {
    let random: u64 = rand::rng().random();
    format!("gen-{:x}-{random:016x}", now_ms())
}
