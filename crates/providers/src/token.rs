//! Access tokens that are bought with a longer-lived secret: Google's for a service account, Microsoft's for an
//! application. One is fetched when it is needed and kept until shortly before its end.

use crate::body::Body;
use crate::client::LIMITS;
use crate::error::{Failure, Kind};
use crate::secret::Secret;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Url;
use reqwest::header::CONTENT_TYPE;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::{Value, json};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

/// What every call to Google Cloud may do.
const GOOGLE_SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// What a call to Azure's models may do.
const AZURE_SCOPE: &str = "https://cognitiveservices.azure.com/.default";
/// A token is renewed so long before its end.
const RENEWED_BEFORE: Duration = Duration::from_secs(60);
/// A failed purchase is answered for so long without another.
const FAILURE_KEPT: Duration = Duration::from_secs(3);
/// Buying a token may take so long.
const WAIT: Duration = Duration::from_secs(10);

/// Where tokens come from.
#[derive(Clone)]
pub(crate) struct TokenSource {
    buyer: Arc<Buyer>,
    bought: Arc<Mutex<Bought>>,
    /// What was bought last, for keeping it out of messages.
    shown: Arc<std::sync::Mutex<Option<Secret>>>,
}

#[derive(Default)]
struct Bought {
    token: Option<Token>,
    /// The latest purchase failed: who waits gets the same answer instead of trying one after the other.
    failed: Option<(Instant, Failure)>,
}

enum Buyer {
    /// A signed assertion (RFC 7523, developers.google.com/identity/protocols/oauth2/service-account).
    ServiceAccount { email: String, key_id: String, key: Box<RsaKeyPair>, url: Url },
    /// A client's id and secret (RFC 6749, section 4.4).
    Client { id: String, secret: Secret, url: Url },
}

struct Token {
    text: Secret,
    until: Instant,
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TokenSource(***)")
    }
}

#[derive(Deserialize)]
struct KeyFile {
    client_email: String,
    private_key: String,
    #[serde(default)]
    private_key_id: String,
    token_uri: String,
}

impl TokenSource {
    /// Reads a service account's key file.
    ///
    /// # Errors
    /// When it is none, or its key is not RSA.
    pub(crate) fn service_account(file: &str) -> Result<Self, String> {
        let file: KeyFile = serde_json::from_str(file).map_err(|error| format!("no service account key: {error}"))?;
        let der = PrivateKeyDer::from_pem_slice(file.private_key.as_bytes())
            .map_err(|_| "private_key is no PEM".to_owned())?;
        let key = match &der {
            PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
            _ => return Err("private_key is not RSA".to_owned()),
        };
        let key = key.map_err(|error| format!("private_key cannot be used: {error}"))?;
        let key = Box::new(key);
        let url = web_url(&file.token_uri).ok_or_else(|| format!("token_uri `{}` is no URL", file.token_uri))?;
        Ok(Self::of(Buyer::ServiceAccount { email: file.client_email, key_id: file.private_key_id, key, url }))
    }

    /// An application of a Microsoft Entra tenant.
    ///
    /// # Errors
    /// When `authority` is not a URL.
    pub(crate) fn entra(authority: &str, tenant: &str, id: &str, secret: Secret) -> Result<Self, String> {
        let address = format!("{}/{tenant}/oauth2/v2.0/token", authority.trim_end_matches('/'));
        let url = web_url(&address).ok_or_else(|| format!("`{address}` is no URL"))?;
        Ok(Self::of(Buyer::Client { id: id.to_owned(), secret, url }))
    }

    fn of(buyer: Buyer) -> Self {
        Self { buyer: Arc::new(buyer), bought: Arc::default(), shown: Arc::default() }
    }

    /// A token that is good now. Calls that need a new one at once buy it once.
    pub(crate) async fn token(&self, client: &reqwest::Client, provider: &str) -> Result<Secret, Failure> {
        let mut bought = self.bought.lock().await;
        if let Some(token) = bought.token.as_ref().filter(|token| Instant::now() + RENEWED_BEFORE < token.until) {
            return Ok(token.text.clone());
        }
        if let Some((_, failure)) = bought.failed.as_ref().filter(|(at, _)| at.elapsed() < FAILURE_KEPT) {
            return Err(failure.clone());
        }
        match self.buyer.buy(client, provider).await {
            Ok(token) => {
                let text = token.text.clone();
                *self.shown() = Some(text.clone());
                *bought = Bought { token: Some(token), failed: None };
                Ok(text)
            }
            Err(failure) => {
                bought.failed = Some((Instant::now(), failure.clone()));
                Err(failure)
            }
        }
    }

    /// The token is not accepted any more; the next call buys another.
    pub(crate) fn forget(&self) {
        if let Ok(mut bought) = self.bought.try_lock() {
            bought.token = None; // while another call buys one there is nothing to forget
        }
    }

    /// What must not stand in a message.
    pub(crate) fn secrets(&self) -> Vec<Secret> {
        let own = match &*self.buyer {
            Buyer::Client { secret, .. } => Some(secret.clone()),
            Buyer::ServiceAccount { .. } => None,
        };
        own.into_iter().chain(self.shown().clone()).collect()
    }

    fn shown(&self) -> std::sync::MutexGuard<'_, Option<Secret>> {
        self.shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Buyer {
    async fn buy(&self, client: &reqwest::Client, provider: &str) -> Result<Token, Failure> {
        let fail = |kind, message: &str| Failure::new(provider, kind, format!("no access token: {message}"));
        let by = Instant::now() + WAIT;
        let (url, form) = match self {
            Self::ServiceAccount { url, .. } => {
                let assertion =
                    self.assertion(SystemTime::now()).ok_or_else(|| fail(Kind::Credential, "the key cannot sign"))?;
                let grant = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer";
                (url, format!("grant_type={grant}&assertion={assertion}"))
            }
            Self::Client { id, secret, url } => {
                let fields = [("client_id", id.as_str()), ("client_secret", secret.expose()), ("scope", AZURE_SCOPE)];
                let fields = fields.map(|(name, value)| format!("{name}={}", form_escaped(value)));
                (url, format!("grant_type=client_credentials&{}", fields.join("&")))
            }
        };
        let request = client.post(url.clone()).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form);
        let response =
            timeout_at(by, request.send()).await.map_err(|_| fail(Kind::Unreachable, "no answer in time"))?;
        let response = response.map_err(|_| fail(Kind::Unreachable, "its issuer cannot be reached"))?;
        let status = response.status();
        let body = Body::open(provider, response)?.read_all(LIMITS.error_bytes_max, by).await?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        if !status.is_success() {
            let said = body["error_description"].as_str().or(body["error"].as_str()).unwrap_or("it was refused");
            let kind = if status.is_server_error() { Kind::Overloaded } else { Kind::Credential };
            return Err(fail(kind, said));
        }
        let text = body["access_token"].as_str().and_then(Secret::new);
        let text = text.ok_or_else(|| fail(Kind::Malformed, "its issuer sent none"))?;
        let lives = Duration::from_secs(body["expires_in"].as_u64().unwrap_or(300).min(86_400));
        Ok(Token { text, until: Instant::now() + lives })
    }

    /// The signed statement that a service account asks with.
    fn assertion(&self, now: SystemTime) -> Option<String> {
        let Self::ServiceAccount { email, key_id, key, url } = self else { return None };
        let now = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": key_id});
        let claims = json!({"iss": email, "scope": GOOGLE_SCOPE, "aud": url.as_str(), "iat": now, "exp": now + 3_600});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let mut signature = vec![0; key.public().modulus_len()];
        let random = ring::rand::SystemRandom::new();
        key.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).ok()?;
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

fn web_url(text: &str) -> Option<Url> {
    Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

fn form_escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
