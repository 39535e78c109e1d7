//! The only place where a failure becomes HTTP.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use catalog::UnknownModel;
use ledger::{NotEnough, RateExceeded};
use protocol::FieldError;
use providers::{Failure, FailureKind, Refusal};
use router::Rejected;
use serde_json::{Value, json};
use std::time::Duration;

/// Everything that can go wrong with a request, as its client sees it.
#[derive(Debug, Clone)]
pub(crate) enum Error {
    BadRequest(FieldError),
    Unauthenticated(&'static str),
    Forbidden(String),
    /// A limit of the key is used up.
    RateExceeded(RateExceeded),
    TooManyStreams {
        limit: u32,
    },
    NotEnoughMoney(NotEnough),
    UnknownModel(UnknownModel),
    UnknownPolicy {
        name: String,
        known: Vec<String>,
    },
    NotFound(String),
    Conflict(String),
    /// Every endpoint was rejected before any was called.
    NoCapableEndpoint(Vec<Rejected>),
    BodyTooLarge {
        bytes_max: usize,
    },
    /// The cache alone was asked and has no answer.
    NotCached,
    Upstream {
        failure: Failure,
        attempts: usize,
    },
    /// Nobody may be called now: limits, or failures.
    Refused(Refusal),
    /// The gateway itself has too much to do.
    Overloaded,
    /// A body came too slowly.
    SlowBody,
    /// A packed body.
    Encoded(String),
    /// Nobody read the answer; nobody reads this either, but the record.
    ClientStalled,
    /// The grace time after a stop signal is over.
    Stopping,
    StorageFull,
    /// A store of ours does not answer.
    Unavailable,
    /// Our own fault; the id finds the cause in the log.
    Internal {
        id: String,
    },
}

/// How a failure looks outside.
#[derive(Debug, Clone)]
pub(crate) struct Rendered {
    pub status: StatusCode,
    pub error_type: &'static str,
    pub message: String,
    pub metadata: Vec<(&'static str, Value)>,
    pub retry_after_s: Option<u64>,
}

impl Error {
    /// A store that did not answer: the cause is for the log, not for clients.
    pub(crate) fn unreadable(cause: database::DatabaseError) -> Self {
        tracing::error!(%cause, "a store could not be used");
        Self::Unavailable
    }

    pub(crate) fn render(&self) -> Rendered {
        let (status, error_type, message) = self.summary();
        let (mut metadata, mut retry_after_s) = (Vec::new(), None);
        match self {
            Self::BadRequest(error) => metadata.push(("field", json!(error.field))),
            Self::UnknownModel(unknown) if !unknown.needs.is_empty() => {
                metadata.push(("credentials", json!(unknown.needs)));
            }
            Self::UnknownModel(unknown) => metadata.push(("nearest", json!(unknown.nearest))),
            Self::NotEnoughMoney(short) => {
                metadata.push(("budget", json!(short.budget)));
                metadata.push(("available_usd", json!(short.available.as_usd())));
                metadata.push(("needed_usd", json!(short.needed.as_usd())));
            }
            Self::NoCapableEndpoint(rejected) => metadata.push(("rejected", json!(rejected))),
            Self::Upstream { failure, attempts } => {
                metadata.push(("provider_name", json!(failure.provider)));
                metadata.push(("kind", json!(failure.kind.as_str())));
                metadata.push(("attempts", json!(attempts)));
                retry_after_s = failure.retry_after.map(|wait| wait.as_secs());
            }
            Self::Refused(refusal) => {
                if let Refusal::AtLimit { limit, waited, .. } = refusal {
                    metadata.push(("limit", json!(limit.as_str())));
                    metadata.push(("queue_ms", json!(waited.as_millis() as u64)));
                }
                retry_after_s = Some(retry_after(refusal).as_millis().div_ceil(1_000).max(1) as u64);
            }
            Self::RateExceeded(exceeded) => {
                metadata.push(("limit", json!(exceeded.rule)));
                metadata.push(("limit_value", json!(exceeded.limit)));
                metadata.push(("window", json!(exceeded.window)));
                retry_after_s = Some(exceeded.retry_after_ms.unsigned_abs().div_ceil(1_000).max(1));
            }
            Self::TooManyStreams { limit } => {
                metadata.push(("limit", json!("rules.streams_max")));
                metadata.push(("limit_value", json!(limit)));
                retry_after_s = Some(1);
            }
            Self::Overloaded | Self::StorageFull | Self::Unavailable | Self::Stopping => retry_after_s = Some(1),
            _ => {}
        }
        Rendered { status, error_type, message, metadata, retry_after_s }
    }

    fn summary(&self) -> (StatusCode, &'static str, String) {
        match self {
            Self::BadRequest(error) => (StatusCode::BAD_REQUEST, "invalid_request", error.to_string()),
            Self::Unauthenticated(problem) => (StatusCode::UNAUTHORIZED, "authentication", (*problem).to_owned()),
            Self::Forbidden(problem) => (StatusCode::FORBIDDEN, "permission_denied", problem.clone()),
            Self::RateExceeded(_) | Self::TooManyStreams { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", self.limit_message())
            }
            Self::NotEnoughMoney(short) => (
                StatusCode::PAYMENT_REQUIRED,
                "payment_required",
                format!("{short}; {}, or ask for fewer tokens with max_tokens", more_money(short)),
            ),
            Self::UnknownModel(unknown) => (StatusCode::NOT_FOUND, "not_found", unknown_model(unknown)),
            Self::UnknownPolicy { name, known } => {
                (StatusCode::NOT_FOUND, "not_found", format!("no policy `{name}`; configured: {}", known.join(", ")))
            }
            Self::NotFound(what) => (StatusCode::NOT_FOUND, "not_found", what.clone()),
            Self::Conflict(what) => (StatusCode::CONFLICT, "invalid_request", what.clone()),
            Self::NoCapableEndpoint(rejected) => (StatusCode::NOT_FOUND, "not_found", none_capable(rejected)),
            Self::BodyTooLarge { bytes_max } => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "payload_too_large",
                format!("the body is over {bytes_max} bytes; send less, or raise server.body_bytes_max"),
            ),
            Self::NotCached => (
                StatusCode::PRECONDITION_FAILED,
                "precondition_failed",
                "only the cache was asked and it has no answer".to_owned(),
            ),
            Self::Upstream { failure, attempts } => upstream(failure, *attempts),
            Self::Refused(refusal) => refused(refusal),
            Self::Overloaded => (
                StatusCode::SERVICE_UNAVAILABLE,
                "server",
                "too many requests are under way; try again in a second".to_owned(),
            ),
            Self::SlowBody => (
                StatusCode::REQUEST_TIMEOUT,
                "timeout",
                "the body came too slowly; send it at once, or lower server.body_bytes_per_second_min".to_owned(),
            ),
            Self::Encoded(encoding) => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "invalid_request",
                format!("content-encoding: `{encoding}` is not read; send the body as it is"),
            ),
            Self::ClientStalled => {
                (StatusCode::REQUEST_TIMEOUT, "timeout", "the client stopped reading its answer".to_owned())
            }
            Self::Stopping => (
                StatusCode::SERVICE_UNAVAILABLE,
                "server",
                "the gateway was stopped before the answer was complete; send the request again".to_owned(),
            ),
            Self::StorageFull => (
                StatusCode::SERVICE_UNAVAILABLE,
                "server",
                "storage_full: nothing that costs money is served until the gateway's disk has room".to_owned(),
            ),
            Self::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "server",
                "a store of the gateway does not answer; try again".to_owned(),
            ),
            Self::Internal { id } => {
                (StatusCode::INTERNAL_SERVER_ERROR, "server", format!("internal error; request {id}"))
            }
        }
    }

    /// Which limit of the key it is and when to come back.
    fn limit_message(&self) -> String {
        match self {
            Self::RateExceeded(exceeded) => {
                format!("{exceeded}; try again in {} s", exceeded.retry_after_ms.unsigned_abs().div_ceil(1_000))
            }
            Self::TooManyStreams { limit } => {
                format!("rules.streams_max is {limit}, and that many are open; close one first")
            }
            _ => String::new(),
        }
    }

    /// The same without who is behind a model.
    pub(crate) fn without_source(self, name: &str) -> Self {
        match self {
            Self::UnknownModel(_) | Self::UnknownPolicy { .. } => Self::NotFound(format!("`{name}` is not served now")),
            Self::Upstream { failure, attempts } => {
                let message = "it did not answer".to_owned();
                Self::Upstream { failure: Failure { provider: "the model".to_owned(), message, ..failure }, attempts }
            }
            Self::NoCapableEndpoint(_) => Self::NoCapableEndpoint(Vec::new()),
            other => other,
        }
    }

    /// The error body, alone or inside a stream.
    pub(crate) fn body(&self) -> Value {
        let rendered = self.render();
        let mut metadata = serde_json::Map::new();
        metadata.insert("error_type".to_owned(), json!(rendered.error_type));
        metadata.extend(rendered.metadata.into_iter().map(|(name, value)| (name.to_owned(), value)));
        json!({"error": {"code": rendered.status.as_u16(), "message": rendered.message, "metadata": metadata}})
    }
}

fn retry_after(refusal: &Refusal) -> Duration {
    match refusal {
        Refusal::AtLimit { retry_after, .. }
        | Refusal::QueueFull { retry_after }
        | Refusal::Failing { retry_after } => *retry_after,
    }
}

fn refused(refusal: &Refusal) -> (StatusCode, &'static str, String) {
    match refusal {
        Refusal::AtLimit { limit, waited, .. } => (
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limit_exceeded",
            format!(
                "every capable endpoint is at its limit ({}); waited {} ms; try again later or allow another provider",
                limit.as_str(),
                waited.as_millis()
            ),
        ),
        Refusal::QueueFull { .. } => (
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limit_exceeded",
            "every capable endpoint is at its limit and the queue is full (execution.queue_requests_max)".to_owned(),
        ),
        Refusal::Failing { retry_after } => (
            StatusCode::SERVICE_UNAVAILABLE,
            "provider_unavailable",
            format!(
                "every capable endpoint has been failing; the next is tried in {} s",
                retry_after.as_millis().div_ceil(1_000)
            ),
        ),
    }
}

fn unknown_model(unknown: &UnknownModel) -> String {
    if !unknown.needs.is_empty() {
        let needs = unknown.needs.join(", ");
        return format!("`{}` is known, but no provider of it has a credential; export one of {needs}", unknown.name);
    }
    match unknown.nearest.as_slice() {
        [] => format!("{unknown}; GET /v1/models lists all"),
        nearest => format!("{unknown}; did you mean {}?", nearest.join(", ")),
    }
}

fn more_money(short: &NotEnough) -> &'static str {
    if short.budget.starts_with("the credits") { "top them up" } else { "raise that limit" }
}

fn none_capable(rejected: &[Rejected]) -> String {
    if rejected.is_empty() {
        return "no endpoint can serve this request: ask for fewer tokens, or with fewer demands".to_owned();
    }
    let reasons: Vec<String> =
        rejected.iter().take(5).map(|rejected| format!("{}: {}", rejected.endpoint, rejected.reason)).collect();
    format!("no endpoint can serve this request ({})", reasons.join("; "))
}

/// An upstream's refusal of the request is the client's to mend; everything else is ours and never 401 or 403.
fn upstream(failure: &Failure, attempts: usize) -> (StatusCode, &'static str, String) {
    let provider = &failure.provider;
    let tried = if attempts > 1 { format!(" ({attempts} attempts)") } else { String::new() };
    match failure.kind {
        FailureKind::Inexpressible => (
            StatusCode::BAD_REQUEST,
            "invalid_request",
            format!("{provider} has no words for this request: {}{tried}", failure.message),
        ),
        FailureKind::Refused => {
            (StatusCode::BAD_REQUEST, "invalid_request", format!("{provider} refused the request: {}", failure.message))
        }
        FailureKind::RateLimited => (
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limit_exceeded",
            format!("{provider} limits our requests{tried}; try again later or allow another provider"),
        ),
        FailureKind::Timeout | FailureKind::Deadline => {
            (StatusCode::REQUEST_TIMEOUT, "timeout", format!("{provider}: {}{tried}", failure.message))
        }
        FailureKind::Overloaded => (
            StatusCode::SERVICE_UNAVAILABLE,
            "provider_overloaded",
            format!("{provider} has too much to do{tried}; try again later or allow another provider"),
        ),
        FailureKind::NoSuchModel => {
            (StatusCode::BAD_GATEWAY, "provider_unavailable", format!("{provider} does not serve this model{tried}"))
        }
        FailureKind::Credential => (
            StatusCode::BAD_GATEWAY,
            "provider_unavailable",
            format!("{provider} did not accept our credential{tried}"),
        ),
        _ => (StatusCode::BAD_GATEWAY, "provider_unavailable", format!("{provider}: {}{tried}", failure.message)),
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let rendered = self.render();
        let mut response = (rendered.status, axum::Json(self.body())).into_response();
        if let Some(seconds) = rendered.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Self::Refused(Refusal::AtLimit { waited, .. }) = self {
            response.headers_mut().insert("x-sluice-queue-ms", HeaderValue::from(waited.as_millis() as u64));
        }
        response
    }
}

impl From<RateExceeded> for Error {
    fn from(exceeded: RateExceeded) -> Self {
        Self::RateExceeded(exceeded)
    }
}

impl From<FieldError> for Error {
    fn from(error: FieldError) -> Self {
        Self::BadRequest(error)
    }
}
