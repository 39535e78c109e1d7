//! Why an upstream call failed, and what follows from it.

use std::time::Duration;
use thiserror::Error;

/// A failed upstream call.
#[derive(Debug, Clone, Error)]
#[error("{provider}: {message}")]
pub struct Failure {
    pub kind: Kind,
    pub provider: String,
    /// The status the provider answered with, where it answered.
    pub status: Option<u16>,
    /// A sentence for the operator and, for refused requests, the client; never holds a credential or an address.
    pub message: String,
    pub retry_after: Option<Duration>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No connection: refused, DNS, TLS.
    Unreachable,
    /// A deadline passed: connect, first token, idle or total.
    Timeout,
    /// 429.
    RateLimited,
    /// 500 and above.
    Broken,
    /// 401, 402 or 403: our credential, not the client's.
    Credential,
    /// 404: the provider does not know the model.
    NoSuchModel,
    /// 400, 413, 422: the provider found fault with the request itself.
    Refused,
    /// The answer is not of the dialect, has no choice, or holds an error.
    Malformed,
    /// The stream ended without a terminal event.
    Cut,
    /// The answer, one event or the headers are larger than our limits.
    TooLarge,
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    TryNext,
    Stop,
}

impl Kind {
    /// Another endpoint can help unless the request itself is at fault.
    pub fn action(self) -> Action {
        match self {
            Self::Refused => Action::Stop,
            _ => Action::TryNext,
        }
    }

    /// A short name for metrics and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::RateLimited => "rate_limited",
            Self::Broken => "broken",
            Self::Credential => "credential",
            Self::NoSuchModel => "no_such_model",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
            Self::Cut => "cut",
            Self::TooLarge => "too_large",
        }
    }

    pub(crate) fn of_status(status: u16) -> Self {
        match status {
            400 | 405..=407 | 409..=428 => Self::Refused,
            401..=403 => Self::Credential,
            404 => Self::NoSuchModel,
            408 => Self::Timeout,
            429 => Self::RateLimited,
            _ => Self::Broken,
        }
    }
}
