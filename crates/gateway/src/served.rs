//! The one decision record of a request: what headers, bodies, ledger and metrics are made of.

use catalog::NanoUsd;
use protocol::{Reply, Usage};
use providers::{Attempt, Outcome};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// How the cache took part.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) enum Hit {
    Exact,
    Similar {
        probability: f64,
    },
    Coalesced,
    /// The cache was asked and had nothing.
    #[default]
    Miss,
    /// The cache was not asked.
    Bypass,
    /// The gateway asked for itself, to check or to renew a stored answer.
    Shadow,
}

impl Hit {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Similar { .. } => "similar",
            Self::Coalesced => "coalesced",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
            Self::Shadow => "shadow",
        }
    }

    /// True where no upstream call was made for this request.
    pub(crate) fn is_free(self) -> bool {
        matches!(self, Self::Exact | Self::Similar { .. } | Self::Coalesced)
    }
}

/// What is known when the first byte leaves.
#[derive(Debug, Clone, Default)]
pub(crate) struct Head {
    pub hit: Hit,
    /// The generation whose answer is given again.
    pub source: Option<String>,
    pub model: String,
    pub provider: String,
    /// The model answered in the place of a withdrawn one.
    pub is_stand_in: bool,
    pub policy: String,
    pub attempts: Vec<Attempt>,
    /// Time spent waiting for providers.
    pub upstream_wait: Duration,
    /// Time spent waiting for an endpoint at its limit.
    pub queued: Duration,
    /// What an asker should know about the model's name.
    pub notice: Option<String>,
    /// The output cap that was sent instead of the client's, to fit the budget.
    pub max_tokens: Option<u64>,
}

/// What is known when a request has ended well.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub head: Arc<Head>,
    pub reply: Arc<Reply>,
    pub usage: Usage,
    /// What the key pays.
    pub cost: NanoUsd,
    /// What providers take, for calls that brought nothing too.
    pub upstream: NanoUsd,
    /// What of it the prompt of the answering call took, and what the rest of that call.
    pub parts: (NanoUsd, NanoUsd),
    /// What the policy's baseline would have cost more.
    pub saved: NanoUsd,
    pub trace: Arc<Value>,
}

impl Served {
    /// The same answer for another request, which pays `cost`.
    pub(crate) fn again(
        &self,
        hit: Hit,
        source: &str,
        notice: Option<String>,
        (cost, baseline_cost): (NanoUsd, NanoUsd),
    ) -> Self {
        let head = Head { hit, source: Some(source.to_owned()), notice, ..(*self.head).clone() };
        Self {
            head: Arc::new(head),
            cost,
            upstream: NanoUsd::ZERO,
            parts: <_>::default(),
            saved: baseline_cost,
            ..self.clone()
        }
    }
}

/// The calls of a request, as they are recorded.
pub(crate) fn attempts_json(attempts: &[Attempt]) -> Value {
    let row = |attempt: &Attempt| {
        let mut row = json!({
            "endpoint": attempt.endpoint.id,
            "provider": attempt.endpoint.provider,
            "outcome": outcome(attempt),
            "latency_ms": attempt.latency.as_millis() as u64,
        });
        if !attempt.credential.is_empty() {
            row["credential"] = json!(attempt.credential);
        }
        if let Some(status) = attempt.status {
            row["status"] = json!(status);
        }
        if attempt.hedge {
            row["hedge"] = json!(true);
        }
        if let Some(usage) = attempt.wasted {
            row["wasted_usd"] = json!(attempt.wasted_cost().as_usd());
            row["estimated"] = json!(usage.estimated);
        }
        row
    };
    Value::Array(attempts.iter().map(row).collect())
}

/// A short name for records and metrics.
pub(crate) fn outcome(attempt: &Attempt) -> &'static str {
    match attempt.outcome {
        Outcome::Answered => "answered",
        Outcome::Failed(kind) => kind.as_str(),
        Outcome::Cancelled => "cancelled",
    }
}
