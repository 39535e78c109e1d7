//! Why an upstream call failed, and what follows from it.

use crate::breaker::Outcome;
use protocol::Usage;
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
    /// What the provider said that the failed answer used.
    pub usage: Option<Box<Usage>>,
}

impl Failure {
    pub(crate) fn new(provider: &str, kind: Kind, message: impl Into<String>) -> Self {
        let provider = provider.to_owned();
        Self { kind, provider, status: None, message: message.into(), retry_after: None, usage: None }
    }

    /// What follows for the endpoint's health; `None` says nothing about it. Some providers answer 402, 403 and 404 to
    /// what is in one request, so only a 401 settles it.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        match self.kind {
            Kind::Refused | Kind::RateLimited | Kind::Failing | Kind::Deadline | Kind::Inexpressible => None,
            Kind::Credential if self.status == Some(401) => Some(Outcome::Hopeless),
            _ => Some(Outcome::Bad),
        }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No connection: refused, DNS, TLS.
    Unreachable,
    /// A deadline of the endpoint passed: first token, idle or total.
    Timeout,
    /// The request's own deadline passed, which says nothing about the endpoint.
    Deadline,
    /// 429.
    RateLimited,
    /// 503 and 529: the provider has too much to do.
    Overloaded,
    /// Any other status of 500 and above, or a redirect.
    Broken,
    /// 401, 402 or 403: our credential, not the client's.
    Credential,
    /// 404: the provider does not know the model.
    NoSuchModel,
    /// 400, 413, 422: the provider found fault with the request itself.
    Refused,
    /// The answer is not of the dialect, has no choice, or holds an error.
    Malformed,
    /// A complete answer with nothing in it.
    Empty,
    /// The stream ended without a terminal event.
    Cut,
    /// The answer, one event or the headers are larger than our limits.
    TooLarge,
    /// Not called, because it has been failing.
    Failing,
    /// Not called, because its dialect has no words for something in the request.
    Inexpressible,
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// The request itself is at fault: nobody else can help.
    Stop,
    /// Another endpoint can help; trying this one again soon cannot.
    TryNext,
    /// Another endpoint can help, and so can a second try here.
    TryNextOrAgain,
}

impl Kind {
    /// What follows for the request.
    pub(crate) fn action(self) -> Action {
        match self {
            Self::Refused => Action::Stop,
            Self::Timeout
            | Self::Deadline
            | Self::Credential
            | Self::NoSuchModel
            | Self::TooLarge
            | Self::Failing
            | Self::Inexpressible => Action::TryNext,
            Self::Unreachable
            | Self::RateLimited
            | Self::Overloaded
            | Self::Broken
            | Self::Malformed
            | Self::Empty
            | Self::Cut => Action::TryNextOrAgain,
        }
    }

    /// True where the provider was at work before the failure, so that it may bill for it.
    pub(crate) fn may_be_billed(self) -> bool {
        matches!(self, Self::Timeout | Self::Deadline | Self::Malformed | Self::Empty | Self::Cut | Self::TooLarge)
    }

    /// A short name for metrics and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Deadline => "deadline",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::Broken => "broken",
            Self::Credential => "credential",
            Self::NoSuchModel => "no_such_model",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
            Self::Empty => "empty",
            Self::Cut => "cut",
            Self::TooLarge => "too_large",
            Self::Failing => "failing",
            Self::Inexpressible => "inexpressible",
        }
    }

    pub(crate) fn of_status(status: u16) -> Self {
        match status {
            400 | 405..=407 | 409..=428 => Self::Refused,
            401..=403 => Self::Credential,
            404 => Self::NoSuchModel,
            408 => Self::Timeout,
            429 => Self::RateLimited,
            503 | 529 => Self::Overloaded,
            _ => Self::Broken,
        }
    }
}
