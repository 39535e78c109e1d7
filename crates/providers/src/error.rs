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
            Kind::Refused
            | Kind::RateLimited
            | Kind::Failing
            | Kind::Deadline
            | Kind::Inexpressible
            | Kind::Unverified => None,
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
    /// An answer on trial that did not pass its check.
    Unverified,
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
            | Self::Unverified
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
            Self::Unverified => "unverified",
            Self::Failing => "failing",
            Self::Inexpressible => "inexpressible",
        }
    }

    /// What an error answer means: its status, but where the provider's body says something else in a fixed place.
    pub(crate) fn of_answer(status: u16, body: &[u8]) -> Self {
        if status != 400 {
            return Self::of_status(status);
        }
        let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let body = body.as_array().and_then(|list| list.first()).unwrap_or(&body);
        let details = body.pointer("/error/details").and_then(serde_json::Value::as_array);
        // Google answers 400 to a bad credential.
        if details.into_iter().flatten().any(|detail| detail["reason"] == "API_KEY_INVALID") {
            return Self::Credential;
        }
        // These say 400 to a model that they do not have, and only in words.
        let said = protocol::dialect::status_message(body.to_string().as_bytes()).unwrap_or_default();
        let gone = ["The provided model identifier is invalid", "Model Not Exist", "Invalid model: "];
        if gone.iter().any(|words| said.starts_with(words)) || said.ends_with(" is not a valid model ID") {
            return Self::NoSuchModel; // Bedrock, DeepSeek, Mistral; OpenRouter
        }
        Self::of_status(status)
    }

    fn of_status(status: u16) -> Self {
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::path::Path;

    #[test]
    fn every_error_on_file_is_of_the_kind_that_it_states() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/golden");
        let mut seen = 0;
        for dialect in std::fs::read_dir(golden).expect("a folder") {
            for file in std::fs::read_dir(dialect.expect("an entry").path()).expect("a folder") {
                let path = file.expect("an entry").path();
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                if !name.starts_with("error_") {
                    continue;
                }
                let case: Value = serde_json::from_slice(&std::fs::read(&path).expect("a file")).expect("JSON");
                let status = u16::try_from(case["status"].as_u64().expect("a status")).expect("a status");
                let kind = Kind::of_answer(status, case["wire"].to_string().as_bytes());
                assert_eq!(Some(kind.as_str()), case["kind"].as_str(), "{}", path.display());
                seen += 1;
            }
        }
        assert!(seen > 50, "{seen} cases");
    }

    #[test]
    fn a_model_that_is_gone_is_told_from_a_bad_request() {
        for message in
            ["The provided model identifier is invalid.", "Model Not Exist", "acme/x is not a valid model ID"]
        {
            let body = serde_json::json!({"error": {"message": message}}).to_string();
            assert_eq!(Kind::of_answer(400, body.as_bytes()), Kind::NoSuchModel, "{message}");
        }
        assert_eq!(Kind::of_answer(400, br#"{"error":{"message":"max_tokens is too large"}}"#), Kind::Refused);
    }
}
