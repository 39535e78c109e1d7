//! `POST /chat/completions`: one answer, whole or streamed, in OpenRouter's shape.

use crate::app::App;
use crate::asked::Asked;
use crate::auth;
use crate::error::Error;
use crate::flight::{Follower, Next};
use crate::http::read_body;
use crate::http::said::{account, describe, describe_limits, hide_thoughts, insert, stamp, usage};
use crate::limits::{self, OpenStream};
use crate::origin::Origin;
use crate::pipeline::{self, Delivery, drop_unserved, settle_hit};
use crate::pressure::UnderWay;
use crate::resolve;
use crate::served::{Head, Hit, Served};
use crate::telemetry;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use ledger::Settlement;
use protocol::dialect::openai_chat::{DONE, encode_event};
use protocol::{CacheMode, ChatRequest, Chunk, FieldError, Told};
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A comment is sent this often while a stream is silent, so that proxies keep it open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A longer name of a conversation is not kept.
const SESSION_BYTES_MAX: usize = 256;

pub(super) async fn complete(State(app): State<App>, headers: HeaderMap, body: Body) -> Response {
    let started = Instant::now();
    match answer(&app, &headers, body, started).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn answer(app: &App, headers: &HeaderMap, body: Body, started: Instant) -> Result<Response, Error> {
    let server = &app.config.server;
    if app.ledger.is_behind() {
        telemetry::shed("books");
        return Err(Error::Overloaded);
    }
    let under_way =
        app.pressure.admit(server.requests_max, Duration::from_millis(server.lag_max_ms)).ok_or_else(|| {
            telemetry::shed("pressure");
            Error::Overloaded
        })?;
    let mut asked = asked(app, headers, body, started).await?;
    asked.counted = limits::count(app, &mut asked).await?;
    let streamed = asked.request.stream;
    let open = if streamed { Some(app.streams.open(app, &asked)?) } else { None };
    let (asked, delivery) = pipeline::run(app, asked).await?;
    let id = asked.id.clone();
    let delivered = async {
        if let Some(open) = open {
            return stream_out(app.clone(), Arc::clone(&asked), delivery, (under_way, open)).await;
        }
        whole_out(app, &asked, delivery).await
    };
    let response = tokio::select! {
        response = delivered => response,
        () = app.closing.cancelled() => Err(Arc::new(Error::Stopping)),
    };
    // From here on there is a record, so even an error carries its id.
    let shown = |error: Arc<Error>| {
        let error = (*error).clone();
        if asked.sold.hides_source { error.without_source(&asked.sold.name) } else { error }
    };
    let mut response = response.unwrap_or_else(|error| shown(error).into_response());
    describe_limits(response.headers_mut(), &asked);
    insert(response.headers_mut(), "x-generation-id", &id);
    Ok(response)
}

/// Finds out who asks what.
pub(super) async fn asked(app: &App, headers: &HeaderMap, body: Body, started: Instant) -> Result<Asked, Error> {
    let caller = auth::caller(app, headers).await?;
    let body = read_body(app, headers, body, usize::MAX).await?;
    let request = read_request(&body, headers)?;
    let origin = Origin::of(headers);
    resolve::resolve(app, caller, request, origin, started)
}

/// The same for who wants it explained, which a tenant that hides its sources does not; it counts as a request.
pub(super) async fn asked_openly(app: &App, headers: &HeaderMap, body: Body, started: Instant) -> Result<Asked, Error> {
    let mut asked = asked(app, headers, body, started).await?;
    if asked.sold.hides_source {
        return Err(Error::NotFound(format!("what answers `{}` is not shown", asked.sold.name)));
    }
    limits::count(app, &mut asked).await?;
    Ok(asked)
}

/// Reads the body, lets the headers make its cache rules stricter, and takes the conversation's name from them.
fn read_request(body: &Bytes, headers: &HeaderMap) -> Result<ChatRequest, Error> {
    let mut request = ChatRequest::parse(body)?;
    let control = headers.get(header::CACHE_CONTROL).and_then(|value| value.to_str().ok()).unwrap_or("");
    let mode = &mut request.sluice.cache.mode;
    for directive in control.split(',').map(|directive| directive.trim().to_ascii_lowercase()) {
        match directive.as_str() {
            "no-store" => *mode = CacheMode::Off,
            "no-cache" if *mode != CacheMode::Off => *mode = CacheMode::Refresh,
            "only-if-cached" if matches!(*mode, CacheMode::On | CacheMode::Exact) => *mode = CacheMode::Only,
            _ => {}
        }
    }
    if request.session.is_none() {
        let session = headers.get("x-session-id").and_then(|value| value.to_str().ok());
        request.session = session.filter(|session| session.len() <= SESSION_BYTES_MAX).map(str::to_owned);
    }
    let says = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    if says("x-openrouter-cache-clear").is_some_and(|value| value.eq_ignore_ascii_case("true"))
        && *mode != CacheMode::Off
    {
        *mode = CacheMode::Refresh;
    }
    if let Some(ttl) = says("x-openrouter-cache-ttl") {
        let problem = || FieldError::new("X-OpenRouter-Cache-TTL", format!("`{ttl}`; use whole seconds"));
        let ttl_s: u64 = ttl.parse().map_err(|_| problem())?;
        let own = request.sluice.cache.ttl_s.unwrap_or(u64::MAX);
        request.sluice.cache.ttl_s = Some(own.min(ttl_s));
    }
    if headers.get("x-openrouter-cache").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"false")) {
        request.sluice.cache.mode = CacheMode::Off;
    }
    Ok(request)
}

async fn whole_out(app: &App, asked: &Arc<Asked>, delivery: Delivery) -> Result<Response, Arc<Error>> {
    let served = match delivery {
        Delivery::Ready(served) => served,
        Delivery::Leading(mut follower) => follower.outcome().await?,
        Delivery::Following(mut follower, settlement) => {
            let guard = Waiting::new(asked, settlement);
            let outcome = follower.outcome().await;
            guard.settle(app, asked, &follower.leader_id(), outcome)?
        }
    };
    let mut body = serde_json::to_value(&*served.reply).unwrap_or_default();
    if let Value::Object(body) = &mut body {
        stamp(body, asked, &served.head, served.reply.created);
        hide_thoughts(body, asked, "message");
        body.entry("system_fingerprint").or_insert(Value::Null);
        body.insert("usage".to_owned(), usage(&served, asked));
        if asked.request.sluice.trace {
            body.insert("sluice".to_owned(), account(&served, !asked.sold.hides_source));
        }
    }
    let mut response = axum::Json(body).into_response();
    let headers = response.headers_mut();
    describe(headers, asked, &served.head);
    insert(headers, "x-sluice-cost-usd", &served.cost.to_string());
    insert(headers, "x-sluice-saved-usd", &served.saved.to_string());
    Ok(response)
}

/// The record of a follower: settled as cancelled when its client leaves before the end.
struct Waiting {
    asked: Arc<Asked>,
    settlement: Option<Box<Settlement>>,
}

impl Waiting {
    fn new(asked: &Arc<Asked>, settlement: Box<Settlement>) -> Self {
        Self { asked: Arc::clone(asked), settlement: Some(settlement) }
    }

    fn settle(
        mut self,
        app: &App,
        asked: &Asked,
        leader_id: &str,
        outcome: Result<Arc<Served>, Arc<Error>>,
    ) -> Result<Arc<Served>, Arc<Error>> {
        let Some(settlement) = self.settlement.take() else { return outcome };
        match outcome {
            Ok(served) => {
                let coalesced = {
                    let notice = asked.notice_of(&served.head);
                    let money = (asked.sold.hit_cost(), asked.baseline_cost(app, served.usage));
                    served.again(Hit::Coalesced, leader_id, notice, money)
                };
                settle_hit(*settlement, asked, &coalesced, "served");
                Ok(Arc::new(coalesced))
            }
            Err(error) => {
                drop_unserved(*settlement, asked, &error.render().message);
                Err(error)
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(mut settlement) = self.settlement.take() {
            settlement.generation.state = "cancelled".to_owned();
            settlement.generation.cache = Hit::Coalesced.as_str().to_owned();
            drop_unserved(*settlement, &self.asked, "the client left");
        }
    }
}

/// A stream on its way out.
struct Outgoing {
    app: App,
    asked: Arc<Asked>,
    head: Arc<Head>,
    follower: Option<Follower>,
    waiting: Option<Waiting>,
    /// Events that are ready to leave.
    ready: VecDeque<String>,
    /// What the client has been sent of the answer.
    told: Told,
    ended: bool,
    _held: (UnderWay, OpenStream),
}

async fn stream_out(
    app: App,
    asked: Arc<Asked>,
    delivery: Delivery,
    held: (UnderWay, OpenStream),
) -> Result<Response, Arc<Error>> {
    let (head, follower, waiting, served) = match delivery {
        Delivery::Ready(served) => (Arc::clone(&served.head), None, None, Some(served)),
        Delivery::Leading(mut follower) => (follower.head().await?, Some(follower), None, None),
        Delivery::Following(mut follower, settlement) => {
            let waiting = Waiting::new(&asked, settlement);
            let head = match follower.head().await {
                Ok(head) => head,
                Err(error) => {
                    return Err(match waiting.settle(&app, &asked, "", Err(error)) {
                        Err(error) => error,
                        Ok(_) => Arc::new(Error::Internal { id: asked.id.clone() }),
                    });
                }
            };
            let source = Some(follower.leader_id());
            let notice = asked.notice_of(&head);
            let head = Arc::new(Head { hit: Hit::Coalesced, source, notice, ..(*head).clone() });
            (head, Some(follower), Some(waiting), None)
        }
    };
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    describe(headers, &asked, &head);
    let mut outgoing = Outgoing {
        app,
        asked,
        head,
        follower,
        waiting,
        ready: VecDeque::new(),
        told: Told::default(),
        ended: false,
        _held: held,
    };
    if let Some(served) = served {
        outgoing.end_well(&served);
    }
    *response.body_mut() = Body::from_stream(events(outgoing));
    Ok(response)
}

fn events(outgoing: Outgoing) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold(outgoing, |mut outgoing| async move {
        let event = outgoing.next().await?;
        Some((Ok(Bytes::from(event)), outgoing))
    })
}

impl Outgoing {
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            let follower = self.follower.as_mut()?;
            let closing = self.app.closing.clone();
            tokio::select! {
                next = follower.next() => match next {
                    Next::Chunk(chunk) => self.push(&chunk),
                    Next::Ended(outcome) => self.end(outcome),
                },
                () = tokio::time::sleep(KEEP_ALIVE) => return Some(": waiting for the provider\n\n".to_owned()),
                () = closing.cancelled() => self.end_badly(&Error::Stopping),
            }
        }
    }

    /// Sends a chunk on; its usage is kept back for the last one, so that it is counted once.
    fn push(&mut self, chunk: &Chunk) {
        self.told.push(chunk);
        if chunk.choices.is_empty() && chunk.usage.is_some() {
            return;
        }
        let mut body = serde_json::to_value(chunk).unwrap_or_default();
        if let Value::Object(body) = &mut body {
            body.remove("usage");
            stamp(body, &self.asked, &self.head, chunk.created);
            hide_thoughts(body, &self.asked, "delta");
        }
        self.emit(&body);
    }

    fn end(&mut self, outcome: Result<Arc<Served>, Arc<Error>>) {
        let leader_id = self.follower.as_ref().map(Follower::leader_id).unwrap_or_default();
        let outcome = match self.waiting.take() {
            Some(waiting) => waiting.settle(&self.app, &self.asked, &leader_id, outcome),
            None => outcome,
        };
        match outcome {
            Ok(served) => self.end_well(&served),
            Err(error) => self.end_badly(&error),
        }
    }

    /// Sends what is left, the usage, and the terminal event.
    fn end_well(&mut self, served: &Served) {
        self.told.clone().rest(&served.reply).iter().for_each(|chunk| self.push(chunk));
        let mut body = Map::new();
        body.insert("choices".to_owned(), json!([]));
        stamp(&mut body, &self.asked, &self.head, served.reply.created);
        body.insert("object".to_owned(), json!("chat.completion.chunk"));
        body.insert("usage".to_owned(), usage(served, &self.asked));
        let with_trace = self.asked.request.sluice.trace && !self.asked.sold.hides_source;
        body.insert("sluice".to_owned(), account(served, with_trace));
        self.emit(&Value::Object(body));
        self.ready.push_back(DONE.to_owned());
        self.ended = true;
    }

    /// Sends the error inside the stream; there is no terminal event after it, so that nobody takes it for an end.
    fn end_badly(&mut self, error: &Error) {
        let error = if self.asked.sold.hides_source {
            error.clone().without_source(&self.asked.sold.name)
        } else {
            error.clone()
        };
        let mut body = match error.body() {
            Value::Object(body) => body,
            _ => Map::new(),
        };
        body.insert("choices".to_owned(), json!([{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]));
        body.insert("object".to_owned(), json!("chat.completion.chunk"));
        stamp(&mut body, &self.asked, &self.head, 0);
        self.emit(&Value::Object(body));
        self.ended = true;
    }

    fn emit(&mut self, body: &Value) {
        match encode_event(body) {
            Ok(event) => self.ready.push_back(event),
            Err(error) => tracing::error!(%error, "an event could not be written"),
        }
    }
}
