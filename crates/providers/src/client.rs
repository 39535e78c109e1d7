//! The one outbound client: one call to one endpoint, with its deadlines and limits.

use crate::address::address;
use crate::body::Body;
use crate::credential::Credential;
use crate::deadlines::Deadlines;
use crate::error::{Failure, Kind};
use crate::provider::Provider;
use crate::stream::{ReplyStream, Source, Times};
use bytes::Bytes;
use catalog::Endpoint;
use protocol::dialect::{DecodeError, Dialect, status_message};
use protocol::{Reply, Usage};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// What an upstream may send at the most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub header_bytes_max: usize,
    pub reply_bytes_max: usize,
    pub event_bytes_max: usize,
    pub error_bytes_max: usize,
    /// Events in a row that say nothing.
    pub empty_events_max: usize,
}

pub(crate) const LIMITS: Limits = Limits {
    header_bytes_max: 64 * 1024,
    reply_bytes_max: 16 * 1024 * 1024,
    event_bytes_max: 1024 * 1024,
    error_bytes_max: 64 * 1024,
    empty_events_max: 10_000,
};

/// An error's status says enough; its message is worth no more waiting.
const ERROR_BODY_WAIT: Duration = Duration::from_secs(1);

/// An answer whose beginning is good.
pub enum Answer {
    Whole(Box<Reply>),
    Stream(Box<ReplyStream>),
}

/// One call, ready to be sent.
pub(crate) struct Outgoing<'a> {
    pub provider: &'a Arc<Provider>,
    pub endpoint: &'a Endpoint,
    pub credential: &'a Credential,
    /// The endpoint's own.
    pub deadlines: Deadlines,
    /// The same, or tighter where the request asks for it.
    pub tightened: Deadlines,
    /// Sent one after the other.
    pub body: Vec<Bytes>,
    pub streamed: bool,
    /// Alternatives asked for.
    pub choices: u64,
    /// Ends everything.
    pub by: Instant,
}

/// The outbound connections; clients of one connect deadline share a pool.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clients {
    by_connect_timeout: Arc<Mutex<HashMap<Duration, reqwest::Client>>>,
}

impl Clients {
    /// The client of a connect deadline.
    pub(crate) fn get(&self, connect_timeout: Duration) -> reqwest::Result<reqwest::Client> {
        let mut known = self.by_connect_timeout.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = known.get(&connect_timeout) {
            return Ok(client.clone());
        }
        let client = builder(connect_timeout).build()?;
        known.insert(connect_timeout, client.clone());
        Ok(client)
    }
}

/// Makes one call; returns once its answer is known to be good, a stream with its first content.
pub(crate) async fn call(client: &reqwest::Client, call: Outgoing<'_>) -> Result<Answer, Failure> {
    let provider = call.provider;
    let name = provider.name.as_str();
    let now = Instant::now();
    let (own, tightened) = (call.deadlines, call.tightened);
    let deadline = call.by.min(now + tightened.total);
    // A whole answer has no first token to wait for: only the total deadline can tell that it hangs.
    let first = |deadlines: Deadlines| now + if call.streamed { deadlines.first_token } else { deadlines.total };
    let first_by = deadline.min(first(tightened));
    let first_late = late(first_by - now, first(own) - now);
    let whole_late = late(deadline - now, own.total);
    let blame = |failure: Failure, late: Kind| match failure.kind {
        Kind::Timeout => Failure { kind: late, ..failure },
        _ => failure,
    };
    let dialect = call.endpoint.dialect;
    let url = address(provider, call.endpoint, call.streamed)
        .ok_or_else(|| Failure::new(name, Kind::Unreachable, "the model's name makes no address"))?;
    let headers = call.credential.headers_for(&url, provider.kind, &call.body, client);
    let headers =
        timeout_at(first_by, headers).await.map_err(|_| Failure::new(name, first_late, "no token in time"))?;
    let headers = headers.map_err(|failure| Failure { provider: name.to_owned(), ..failure })?;
    let request = client.post(url).header(CONTENT_TYPE, "application/json").headers(headers);
    let response = timeout_at(first_by, with_body(request, call.body.clone()).send())
        .await
        .map_err(|_| Failure::new(name, first_late, "no answer within the deadline"))?
        .map_err(|error| send_failure(name, &error))?;
    if header_bytes(response.headers()) > LIMITS.header_bytes_max {
        let message = format!("the answer's headers are over {} bytes", LIMITS.header_bytes_max);
        return Err(Failure::new(name, Kind::TooLarge, message));
    }
    if !response.status().is_success() {
        return Err(error_reply(name, response, first_by.min(Instant::now() + ERROR_BODY_WAIT)).await);
    }
    let body = Body::open(name, response)?;
    if call.streamed {
        let times = Times { first_by, deadline, idle: own.idle, late: whole_late };
        let stream = ReplyStream::open(name, Source { body, dialect }, call.choices, times).await;
        return stream.map(|stream| Answer::Stream(Box::new(stream))).map_err(|failure| blame(failure, first_late));
    }
    let body = body.read_all(LIMITS.reply_bytes_max, deadline).await.map_err(|failure| blame(failure, whole_late))?;
    whole(name, dialect, &body)
}

/// Whose patience ends when a call gets only so much of the endpoint's own time: an endpoint's health must not depend on
/// what a client asks for, or on how long a request waited before.
fn late(given: Duration, own: Duration) -> Kind {
    if given < own.mul_f64(0.9) { Kind::Deadline } else { Kind::Timeout }
}

/// One piece is sent as it is, more as a stream of the stated length: joining them would hold a large prompt again.
fn with_body(request: reqwest::RequestBuilder, pieces: Vec<Bytes>) -> reqwest::RequestBuilder {
    if let [whole] = pieces.as_slice() {
        return request.body(whole.clone());
    }
    let bytes: usize = pieces.iter().map(Bytes::len).sum();
    let pieces = futures_util::stream::iter(pieces.into_iter().map(Ok::<_, Infallible>));
    request.header(CONTENT_LENGTH, bytes).body(reqwest::Body::wrap_stream(pieces))
}

/// Reads a whole answer. One with nothing in it is a failure: nobody asked for that.
fn whole(provider: &str, dialect: Dialect, body: &[u8]) -> Result<Answer, Failure> {
    let reply = dialect.decode_reply(body).map_err(|error| {
        let kind = if matches!(error, DecodeError::Said(_)) { Kind::Broken } else { Kind::Malformed };
        Failure::new(provider, kind, error.to_string())
    })?;
    let broken = reply.choices.iter().any(|choice| choice.finish_reason.as_deref() == Some("error"));
    if broken || reply.is_empty() {
        let (kind, message) = if broken {
            (Kind::Broken, "the answer ended with an error")
        } else {
            (Kind::Empty, "the answer is empty")
        };
        let usage = reply.usage.as_ref().and_then(Usage::from_openai).map(Box::new);
        return Err(Failure { usage, ..Failure::new(provider, kind, message) });
    }
    Ok(Answer::Whole(Box::new(reply)))
}

/// The rules of every outbound client.
pub(crate) fn builder(connect_timeout: Duration) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none()) // a redirect could carry the credential elsewhere
        .retry(reqwest::retry::never()) // retries are ours to count
        .no_proxy()
        .http1_max_headers(100)
        .http2_max_header_list_size(LIMITS.header_bytes_max as u32)
        .connect_timeout(connect_timeout)
        .pool_idle_timeout(Duration::from_secs(60))
        .tcp_nodelay(true)
        .user_agent(concat!("sluice/", env!("CARGO_PKG_VERSION")))
}

fn header_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

pub(crate) fn send_failure(provider: &str, error: &reqwest::Error) -> Failure {
    if error.is_connect() && !error.is_timeout() {
        return Failure::new(provider, Kind::Unreachable, "cannot be reached");
    }
    if error.is_timeout() {
        return Failure::new(provider, Kind::Unreachable, "no connection within the deadline");
    }
    Failure::new(provider, Kind::Cut, "the connection broke before the answer")
}

/// Turns an error status into a failure, quoting the provider's message where it is in the dialect's shape.
async fn error_reply(provider: &str, response: reqwest::Response, by: Instant) -> Failure {
    let status = response.status().as_u16();
    let retry_after = retry_after(&response);
    let body = match Body::open(provider, response) {
        Ok(body) => body.read_all(LIMITS.error_bytes_max, by).await.unwrap_or_default(),
        Err(_) => Bytes::new(), // the status says enough
    };
    let message = match status_message(&body) {
        Some(said) => said,
        None if (300..400).contains(&status) => format!("answered {status}; redirects are not followed"),
        None => format!("answered {status}"),
    };
    let kind = Kind::of_answer(status, &body);
    Failure { status: Some(status), retry_after, ..Failure::new(provider, kind, message) }
}

/// `Retry-After` in seconds, at most a day; the date form is not used by providers.
fn retry_after(response: &reqwest::Response) -> Option<Duration> {
    let seconds: u64 = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(86_400)))
}
