//! A credential that belongs to one origin, with its share of the traffic and its limits.

use crate::error::Failure;
use crate::secret::Secret;
use reqwest::Url;
use reqwest::header::HeaderValue;

/// Characters of a provider's message that are quoted.
const QUOTED_CHARS_MAX: usize = 500;

/// What a provider is called with. Its secret leaves for the origin it was made for and no other.
#[derive(Debug, Clone)]
pub(crate) struct Credential {
    /// The variable of the environment it came from: tells credentials apart without showing them.
    pub label: String,
    secret: Option<Secret>,
    origin: reqwest::Url,
    /// Share of the traffic beside the provider's other credentials.
    pub weight: u32,
    pub limits: Limits,
}

/// What may be sent with one credential.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Calls under way at once.
    pub concurrent_max: Option<u32>,
    pub requests_per_minute_max: Option<u32>,
}

impl Credential {
    pub(crate) fn new(label: &str, secret: Option<Secret>, origin: &Url, weight: u32, limits: Limits) -> Self {
        Self { label: label.to_owned(), secret, origin: origin.clone(), weight, limits }
    }

    /// The value of `Authorization` for a call to `url`; `None` where there is no secret, or `url` is of another origin.
    pub(crate) fn bearer_for(&self, url: &Url) -> Option<HeaderValue> {
        let secret = self.secret.as_ref().filter(|_| self.origin.origin() == url.origin())?;
        let mut value = HeaderValue::try_from(format!("Bearer {}", secret.expose())).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// A failure whose message may quote the upstream, fit to be shown: without the secret, and short.
    pub(crate) fn redacted(&self, failure: Failure) -> Failure {
        let message = match &self.secret {
            Some(secret) => failure.message.replace(secret.expose(), "***"),
            None => failure.message,
        };
        Failure { message: message.chars().take(QUOTED_CHARS_MAX).collect(), ..failure }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn a_secret_leaves_for_its_own_origin_only() {
        let url = |text: &str| Url::parse(text).expect("a URL");
        let credential =
            Credential::new("KEY", Secret::new("sk-1"), &url("https://api.example.org/v1"), 1, Limits::default());
        assert!(credential.bearer_for(&url("https://api.example.org/v1/chat/completions")).is_some());
        for other in ["http://api.example.org/v1", "https://api.example.org:444/v1", "https://example.org/v1"] {
            assert_eq!(credential.bearer_for(&url(other)), None, "{other}");
        }
        let failure = Failure::new("p", Kind::Refused, format!("bad key sk-1 {}", "x".repeat(9_999)));
        let message = credential.redacted(failure).message;
        assert!(message.starts_with("bad key *** x") && message.len() == QUOTED_CHARS_MAX, "{message}");
    }
}
