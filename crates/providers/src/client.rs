//! The one outbound client: a call, its deadlines and limits, and falling back to the next candidate.

use crate::config::Provider;
use crate::error::{Action, Failure, Kind};
use crate::stream::ReplyStream;
use catalog::Endpoint;
use futures_util::StreamExt;
use protocol::dialect::openai_chat::{self, Target};
use protocol::{ChatRequest, Reply};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant as Clock};
use tokio::time::{Instant, timeout_at};

/// What an upstream may send at the most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub reply_bytes_max: usize,
    pub event_bytes_max: usize,
    pub error_bytes_max: usize,
}

pub(crate) const LIMITS: Limits =
    Limits { reply_bytes_max: 16 * 1024 * 1024, event_bytes_max: 1024 * 1024, error_bytes_max: 64 * 1024 };

/// One candidate of a request, ready to be tried.
#[derive(Debug, Clone)]
pub struct Call {
    pub endpoint: Arc<Endpoint>,
    /// The cap on output tokens to send upstream.
    pub max_tokens: Option<u64>,
}

/// What one try came to.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub endpoint: String,
    pub provider: String,
    /// `None` when it answered.
    pub failure: Option<Kind>,
    pub latency: Duration,
}

/// An answer whose beginning is good.
pub enum Answer {
    Whole(Box<Reply>),
    Stream(Box<ReplyStream>),
}

/// The first candidate that answered.
pub struct Success {
    pub answer: Answer,
    pub call: Call,
}

/// All providers and the connections to them.
#[derive(Debug, Clone)]
pub struct Upstreams {
    client: reqwest::Client,
    providers: HashMap<String, Arc<Provider>>,
}

impl Upstreams {
    /// Opens the outbound client; the process-wide crypto provider must be installed.
    ///
    /// # Errors
    /// When the TLS set-up fails.
    pub fn new(providers: impl IntoIterator<Item = Provider>) -> reqwest::Result<Self> {
        let providers: HashMap<String, Arc<Provider>> =
            providers.into_iter().map(|provider| (provider.name.clone(), Arc::new(provider))).collect();
        let connect = providers.values().map(|provider| provider.connect_timeout).max();
        let client = builder(connect.unwrap_or(Duration::from_secs(3))).build()?;
        Ok(Self { client, providers })
    }

    /// True where a provider of this name can be called.
    pub fn has(&self, provider: &str) -> bool {
        self.providers.contains_key(provider)
    }

    /// Names of all providers, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.providers.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Tries the candidates in order until one answers; for a stream, until its first content has arrived. Every try
    /// is written to `attempts`.
    ///
    /// # Errors
    /// With the last failure when all failed, or at once when the request itself is refused. `None` when there was no
    /// candidate.
    pub async fn first_success(
        &self,
        request: &ChatRequest,
        calls: Vec<Call>,
        attempts: &mut Vec<Attempt>,
    ) -> Result<Success, Option<Failure>> {
        let mut last = None;
        for call in calls {
            let started = Clock::now();
            let outcome = self.call(request, &call).await;
            attempts.push(Attempt {
                endpoint: call.endpoint.id.clone(),
                provider: call.endpoint.provider.clone(),
                failure: outcome.as_ref().err().map(|failure| failure.kind),
                latency: started.elapsed(),
            });
            match outcome {
                Ok(answer) => return Ok(Success { answer, call }),
                Err(failure) => {
                    tracing::info!(endpoint = %call.endpoint.id, kind = failure.kind.as_str(), "attempt failed");
                    let action = failure.kind.action();
                    last = Some(failure);
                    if action == Action::Stop {
                        break;
                    }
                }
            }
        }
        Err(last)
    }

    async fn call(&self, request: &ChatRequest, call: &Call) -> Result<Answer, Failure> {
        let endpoint = &call.endpoint;
        let Some(provider) = self.providers.get(&endpoint.provider).cloned() else {
            return Err(failure(&endpoint.provider, Kind::Unreachable, "not configured"));
        };
        let target = Target {
            model: &endpoint.name,
            max_tokens: call.max_tokens,
            max_tokens_field: &endpoint.max_tokens_field,
            omit: &endpoint.rejects,
        };
        let body = openai_chat::encode_request(request, target)
            .map_err(|error| failure(&provider.name, Kind::Refused, format!("stream_options: {error}")))?;
        let now = Instant::now();
        let (first_by, deadline) = (now + provider.first_token_timeout, now + provider.total_timeout);
        // A whole answer has no first token to wait for: only the total deadline can tell that it hangs.
        let headers_by = if request.stream { first_by.min(deadline) } else { deadline };
        let response = timeout_at(headers_by, self.post(&provider, body).send())
            .await
            .map_err(|_| failure(&provider.name, Kind::Timeout, "no answer within the deadline"))?
            .map_err(|error| send_failure(&provider.name, &error))?;
        if !response.status().is_success() {
            return Err(error_reply(&provider.name, response, headers_by).await);
        }
        if request.stream {
            let stream = ReplyStream::open(provider, response, request.n, (first_by.min(deadline), deadline)).await?;
            return Ok(Answer::Stream(Box::new(stream)));
        }
        let body = read_capped(&provider.name, response, LIMITS.reply_bytes_max, deadline).await?;
        let reply = openai_chat::decode_reply(&body)
            .map_err(|error| failure(&provider.name, Kind::Malformed, error.to_string()))?;
        Ok(Answer::Whole(Box::new(reply)))
    }

    fn post(&self, provider: &Provider, body: Vec<u8>) -> reqwest::RequestBuilder {
        let mut builder =
            self.client.post(provider.chat_url.clone()).header(CONTENT_TYPE, "application/json").body(body);
        if let Some(credential) = &provider.credential
            && let Ok(mut value) = HeaderValue::try_from(format!("Bearer {}", credential.expose()))
        {
            value.set_sensitive(true);
            builder = builder.header(AUTHORIZATION, value);
        }
        builder
    }
}

/// The rules of every outbound client.
pub(crate) fn builder(connect_timeout: Duration) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none()) // a redirect could carry the credential elsewhere
        .no_proxy()
        .connect_timeout(connect_timeout)
        .pool_idle_timeout(Duration::from_secs(60))
        .tcp_nodelay(true)
        .user_agent(concat!("sluice/", env!("CARGO_PKG_VERSION")))
}

fn failure(provider: &str, kind: Kind, message: impl Into<String>) -> Failure {
    Failure { kind, provider: provider.to_owned(), status: None, message: message.into(), retry_after: None }
}

pub(crate) fn send_failure(provider: &str, error: &reqwest::Error) -> Failure {
    if error.is_timeout() {
        return failure(provider, Kind::Timeout, "no connection within the deadline");
    }
    if error.is_connect() {
        return failure(provider, Kind::Unreachable, "cannot be reached");
    }
    failure(provider, Kind::Cut, "the connection broke before the answer")
}

/// Reads a body up to `bytes_max`.
pub(crate) async fn read_capped(
    provider: &str,
    response: reqwest::Response,
    bytes_max: usize,
    by: Instant,
) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    let mut chunks = response.bytes_stream();
    loop {
        let chunk = timeout_at(by, chunks.next())
            .await
            .map_err(|_| failure(provider, Kind::Timeout, "the answer did not end within the deadline"))?;
        let Some(chunk) = chunk else { return Ok(body) };
        let chunk = chunk.map_err(|_| failure(provider, Kind::Cut, "the connection broke inside the answer"))?;
        if body.len() + chunk.len() > bytes_max {
            return Err(failure(provider, Kind::TooLarge, format!("the answer is over {bytes_max} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
}

/// Turns an error status into a failure, quoting the provider's message where it is in the dialect's shape.
async fn error_reply(provider: &str, response: reqwest::Response, by: Instant) -> Failure {
    let status = response.status().as_u16();
    let retry_after = retry_after(&response);
    let kind = Kind::of_status(status);
    let body = read_capped(provider, response, LIMITS.error_bytes_max, by).await.unwrap_or_default();
    let quoted = serde_json::from_slice::<Value>(&body).ok().and_then(|body| openai_chat::error_message(&body));
    let message = quoted.unwrap_or_else(|| format!("answered {status}"));
    Failure { status: Some(status), retry_after, ..failure(provider, kind, message) }
}

/// `Retry-After` in seconds, at most a day; the date form is not used by providers.
fn retry_after(response: &reqwest::Response) -> Option<Duration> {
    let seconds: u64 = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(86_400)))
}
