//! A credential that belongs to one origin: how it proves itself, its share of the traffic and its limits.

use crate::error::{Failure, Kind as FailureKind};
use crate::secret::Secret;
use crate::token::TokenSource;
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use bytes::Bytes;
use catalog::Kind;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use std::time::SystemTime;

/// Characters of a provider's message that are quoted.
const QUOTED_CHARS_MAX: usize = 500;
/// The version of Anthropic's API that the dialect is written for.
const ANTHROPIC_VERSION: &str = "2023-06-01";

/// What a provider is called with. Its secret leaves for the origin it was made for and no other.
#[derive(Debug, Clone)]
pub(crate) struct Credential {
    /// The variable of the environment it came from: tells credentials apart without showing them.
    pub label: String,
    proof: Proof,
    origin: Url,
    /// Share of the traffic beside the provider's other credentials.
    pub weight: u32,
    pub limits: Limits,
}

/// How a call shows that it may be made.
#[derive(Debug, Clone)]
pub(crate) enum Proof {
    None,
    /// `Authorization: Bearer`.
    Bearer(Secret),
    /// A header of the provider's own.
    Header(&'static str, Secret),
    /// A token bought with the secret.
    Token(TokenSource),
    /// The call is signed (docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html).
    Aws(AwsKeys),
}

/// AWS's access key.
#[derive(Debug, Clone)]
pub(crate) struct AwsKeys {
    pub id: Secret,
    pub secret: Secret,
    pub session: Option<Secret>,
    pub region: String,
}

/// What may be sent with one credential.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Calls under way at once.
    pub concurrent_max: Option<u32>,
    pub requests_per_minute_max: Option<u32>,
}

impl Proof {
    /// How a plain secret is shown to a provider of this kind.
    pub(crate) fn of_secret(kind: Kind, secret: Option<Secret>) -> Self {
        match (kind, secret) {
            (_, None) => Self::None,
            (Kind::Anthropic, Some(secret)) => Self::Header("x-api-key", secret),
            (Kind::Gemini, Some(secret)) => Self::Header("x-goog-api-key", secret),
            (Kind::Azure, Some(secret)) => Self::Header("api-key", secret),
            (_, Some(secret)) => Self::Bearer(secret),
        }
    }

    /// The secrets in it, so that a message can be searched for them.
    fn secrets(&self) -> Vec<Secret> {
        match self {
            Self::None => Vec::new(),
            Self::Token(source) => source.secrets(),
            Self::Bearer(secret) | Self::Header(_, secret) => vec![secret.clone()],
            Self::Aws(keys) => {
                [Some(keys.id.clone()), Some(keys.secret.clone()), keys.session.clone()].into_iter().flatten().collect()
            }
        }
    }
}

impl Credential {
    pub(crate) fn new(label: &str, proof: Proof, origin: &Url, weight: u32, limits: Limits) -> Self {
        Self { label: label.to_owned(), proof, origin: origin.clone(), weight, limits }
    }

    /// The headers of a call to `url`; none for another origin than its own.
    pub(crate) async fn headers_for(
        &self,
        url: &Url,
        kind: Kind,
        body: &[Bytes],
        client: &reqwest::Client,
    ) -> Result<HeaderMap, Failure> {
        let mut headers = HeaderMap::new();
        if kind == Kind::Anthropic {
            headers.insert("anthropic-version", HeaderValue::from_static(ANTHROPIC_VERSION));
        }
        if self.origin.origin() != url.origin() {
            return Ok(headers);
        }
        match &self.proof {
            Proof::None => {}
            Proof::Bearer(secret) => drop(headers.insert(AUTHORIZATION, bearer(secret)?)),
            Proof::Header(name, secret) => {
                drop(headers.insert(HeaderName::from_static(name), sensitive(secret.expose())?))
            }
            Proof::Token(source) => {
                let token = source.token(client, &self.label).await?;
                headers.insert(AUTHORIZATION, bearer(&token)?);
            }
            Proof::Aws(keys) => {
                for (name, value) in signature(keys, url, &body.concat(), SystemTime::now())? {
                    headers.insert(name, value);
                }
            }
        }
        Ok(headers)
    }

    /// A call with it failed with this status: a token that is not accepted is bought anew.
    pub(crate) fn failed(&self, status: Option<u16>) {
        if let (Proof::Token(source), Some(401)) = (&self.proof, status) {
            source.forget();
        }
    }

    /// A failure whose message may quote the upstream, fit to be shown: without the secrets, and short.
    pub(crate) fn redacted(&self, failure: Failure) -> Failure {
        let mut message = failure.message;
        for secret in self.proof.secrets() {
            message = message.replace(secret.expose(), "***");
        }
        Failure { message: message.chars().take(QUOTED_CHARS_MAX).collect(), ..failure }
    }
}

fn unusable() -> Failure {
    Failure::new("", FailureKind::Credential, "the credential cannot stand in a header")
}

fn sensitive(text: &str) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::try_from(text).map_err(|_| unusable())?;
    value.set_sensitive(true);
    Ok(value)
}

fn bearer(secret: &Secret) -> Result<HeaderValue, Failure> {
    sensitive(&format!("Bearer {}", secret.expose()))
}

/// The headers of AWS's signature, version 4.
fn signature(
    keys: &AwsKeys,
    url: &Url,
    body: &[u8],
    now: SystemTime,
) -> Result<Vec<(HeaderName, HeaderValue)>, Failure> {
    let fail = |error: &dyn std::fmt::Display| {
        Failure::new("", FailureKind::Credential, format!("the call cannot be signed: {error}"))
    };
    let session = keys.session.as_ref().map(|session| session.expose().to_owned());
    let identity = Credentials::new(keys.id.expose(), keys.secret.expose(), session, None, "sluice").into();
    let parameters = SigningParams::builder()
        .identity(&identity)
        .region(&keys.region)
        .name("bedrock")
        .time(now)
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| fail(&error))?;
    let headers = [("content-type", "application/json")].into_iter();
    let request =
        SignableRequest::new("POST", url.as_str(), headers, SignableBody::Bytes(body)).map_err(|error| fail(&error))?;
    let (made, _) = sign(request, &parameters.into()).map_err(|error| fail(&error))?.into_parts();
    let header =
        |(name, value): (&str, &str)| Ok((HeaderName::try_from(name).map_err(|_| unusable())?, sensitive(value)?));
    made.headers().map(header).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a URL")
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text).expect("fits")
    }

    #[tokio::test]
    async fn a_secret_leaves_for_its_own_origin_only() {
        let origin = url("https://api.example.org/v1");
        let keys =
            || AwsKeys { id: secret("sk-1"), secret: secret("sk-1"), session: None, region: "eu-west-1".to_owned() };
        let proofs = [Proof::Bearer(secret("sk-1")), Proof::Header("x-api-key", secret("sk-1")), Proof::Aws(keys())];
        let _installed_before = rustls::crypto::ring::default_provider().install_default();
        let client = crate::client::builder(std::time::Duration::from_secs(1)).build().expect("a client");
        for proof in proofs {
            let credential = Credential::new("KEY", proof, &origin, 1, Limits::default());
            let headers = |text: &'static str| {
                let (credential, client) = (&credential, &client);
                async move { credential.headers_for(&url(text), Kind::Openai, &[], client).await.expect("headers") }
            };
            assert!(!headers("https://api.example.org/v1/chat/completions").await.is_empty());
            for other in ["http://api.example.org/v1", "https://api.example.org:444/v1", "https://example.org/v1"] {
                assert!(headers(other).await.is_empty(), "{other}");
            }
            let failure = Failure::new("p", FailureKind::Refused, format!("bad key sk-1 {}", "x".repeat(9_999)));
            let message = credential.redacted(failure).message;
            assert!(message.starts_with("bad key *** x") && message.len() == QUOTED_CHARS_MAX, "{message}");
        }
    }

    /// The example of docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html cannot be used:
    /// it signs for another service. What is checked here is what the reference says of any: scope, headers, 64 hex digits,
    /// and that every part of the call is in the signature.
    #[test]
    fn a_signature_is_of_the_whole_call() {
        let keys = AwsKeys {
            id: secret("AKIDEXAMPLE"),
            secret: secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
            session: Some(secret("token")),
            region: "eu-central-1".to_owned(),
        };
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_440_938_160);
        let signed = |address: &str, body: &[u8]| {
            let headers = signature(&keys, &url(address), body, now).expect("signs");
            let find = |wanted: &str| {
                let found = headers.iter().find(|(name, _)| name.as_str() == wanted);
                found.map(|(_, value)| value.to_str().expect("text").to_owned()).unwrap_or_default()
            };
            assert_eq!(
                (find("x-amz-date").as_str(), find("x-amz-security-token").as_str()),
                ("20150830T123600Z", "token")
            );
            find("authorization")
        };
        let address = "https://bedrock-runtime.eu-central-1.amazonaws.com/model/a%3A0/converse";
        let first = signed(address, b"{}");
        let scope =
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/eu-central-1/bedrock/aws4_request, SignedHeaders=";
        assert!(
            first.starts_with(scope) && first.contains("content-type;host;x-amz-date;x-amz-security-token"),
            "{first}"
        );
        assert_eq!(first.rsplit("Signature=").next().map(str::len), Some(64));
        assert_ne!(first, signed(address, b"{ }"));
        assert_ne!(first, signed(&address.replace("converse", "converse-stream"), b"{}"));
    }
}
