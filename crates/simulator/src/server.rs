//! The HTTP server of the simulator.

use crate::answers::Answers;
use crate::model::{Fault, SimulatedModel};
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use protocol::dialect::openai_chat::{DONE, encode_event};
use protocol::{Reply, replay};
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

const BODY_BYTES_MAX: usize = 32 * 1024 * 1024;
const FLUSH: std::time::Duration = std::time::Duration::from_millis(20);
/// Requests remembered at the most.
const SEEN_MAX: usize = 10_000;

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub model: String,
    pub body: Value,
    pub authorization: Option<String>,
}

/// A running simulator; dropping it stops it.
pub struct Simulator {
    pub address: SocketAddr,
    state: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    models: HashMap<String, SimulatedModel>,
    answers: Answers,
    seen: Mutex<VecDeque<Seen>>,
    arrived: AtomicU64,
    cancelled: AtomicU64,
    open: watch::Sender<bool>,
}

impl Simulator {
    /// Starts on `listener`.
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn start(listener: TcpListener, models: Vec<SimulatedModel>, answers: Answers) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let state = Arc::new(Shared {
            models: models.into_iter().map(|model| (model.name.clone(), model)).collect(),
            answers,
            seen: Mutex::new(VecDeque::new()),
            arrived: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            open: watch::Sender::new(true),
        });
        let app = Router::new()
            .route("/v1/chat/completions", post(chat))
            .route("/v1/models", get(models_list))
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .with_state(Arc::clone(&state));
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(async move {
            let serving = axum::serve(listener, app).into_future();
            tokio::select! {
                outcome = serving => { if let Err(error) = outcome { eprintln!("the simulator ended: {error}"); } }
                () = stopped => {}
            }
        });
        Ok(Self { address, state, _stop: stop.drop_guard() })
    }

    /// The URL to configure as `base_url`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Requests that have arrived so far.
    pub fn arrived(&self) -> u64 {
        self.state.arrived.load(Ordering::Acquire)
    }

    /// Answers whose client left before their end.
    pub fn cancelled(&self) -> u64 {
        self.state.cancelled.load(Ordering::Acquire)
    }

    /// The latest requests, oldest first.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Makes every request wait until [`Simulator::release`].
    pub fn hold(&self) {
        self.state.open.send_replace(false);
    }

    /// Lets held requests go on.
    pub fn release(&self) {
        self.state.open.send_replace(true);
    }
}

/// Counts an answer as cancelled when it is dropped before its end.
struct Watched {
    state: Arc<Shared>,
    ended: bool,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.ended {
            self.state.cancelled.fetch_add(1, Ordering::AcqRel);
        }
    }
}

async fn models_list(State(state): State<Arc<Shared>>) -> Json<Value> {
    let mut names: Vec<&String> = state.models.keys().collect();
    names.sort_unstable();
    let rows: Vec<Value> = names
        .iter()
        .map(|name| json!({"id": name, "object": "model", "created": 0, "owned_by": "simulated"}))
        .collect();
    Json(json!({"object": "list", "data": rows}))
}

async fn chat(State(state): State<Arc<Shared>>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    state.arrived.fetch_add(1, Ordering::AcqRel);
    let name = body["model"].as_str().unwrap_or_default().to_owned();
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    {
        let mut seen = state.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() == SEEN_MAX {
            seen.pop_front();
        }
        seen.push_back(Seen { model: name.clone(), body: body.clone(), authorization });
    }
    let Some(model) = state.models.get(&name).cloned() else {
        return error(StatusCode::NOT_FOUND, format!("the simulator has no model `{name}`"));
    };
    let mut watched = Watched { state: Arc::clone(&state), ended: false };
    if !*state.open.borrow() {
        let mut open = state.open.subscribe();
        let _closed = open.wait_for(|open| *open).await; // the sender lives as long as the state
    }
    tokio::time::sleep(model.latency).await;
    let reply = reply(&state.answers, &model, &body);
    let streamed = body["stream"].as_bool().unwrap_or(false);
    match model.fault {
        Some(Fault::RateLimited) => {
            watched.ended = true;
            let mut response = error(StatusCode::TOO_MANY_REQUESTS, "slow down".to_owned());
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("7"));
            response
        }
        Some(Fault::Broken) => {
            watched.ended = true;
            error(StatusCode::INTERNAL_SERVER_ERROR, "the simulator was told to fail".to_owned())
        }
        Some(Fault::Hang) => std::future::pending().await,
        fault if streamed => stream_reply(watched, &reply, fault, model.latency),
        Some(Fault::CutBeforeContent | Fault::CutAfterContent) => {
            watched.ended = true;
            let half = reply_bytes(&reply).slice(..10);
            Response::new(Body::from_stream(stream::iter([Ok(half), Err(std::io::Error::other("cut"))])))
        }
        _ => {
            watched.ended = true;
            ([(header::CONTENT_TYPE, "application/json")], reply_bytes(&reply)).into_response()
        }
    }
}

fn reply_bytes(reply: &Reply) -> Bytes {
    Bytes::from(serde_json::to_vec(reply).unwrap_or_default())
}

fn error(status: StatusCode, message: String) -> Response {
    (status, Json(json!({"error": {"message": message, "type": "simulated", "code": status.as_u16()}}))).into_response()
}

fn stream_reply(watched: Watched, reply: &Reply, fault: Option<Fault>, latency: std::time::Duration) -> Response {
    let chunks = replay(reply);
    let mut events: VecDeque<Result<Bytes, std::io::Error>> = VecDeque::new();
    let cut = || Err(std::io::Error::other("cut"));
    let contents = match fault {
        Some(Fault::CutBeforeContent) => 1,
        Some(Fault::CutAfterContent) => 2,
        _ => chunks.len(),
    };
    for chunk in chunks.iter().take(contents) {
        events.push_back(encode_event(chunk).map(Bytes::from).map_err(std::io::Error::other));
    }
    if contents < chunks.len() {
        events.push_back(cut());
    } else {
        let mut usage = json!({"id": reply.id, "object": "chat.completion.chunk", "created": reply.created,
            "model": reply.model, "choices": [], "usage": reply.usage});
        usage["provider"] = json!("simulated");
        events.push_back(encode_event(&usage).map(Bytes::from).map_err(std::io::Error::other));
        events.push_back(Ok(Bytes::from_static(DONE.as_bytes())));
    }
    let body = Body::from_stream(paced(watched, events, latency));
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

/// Sends the events one by one, a tenth of the first-token latency apart.
fn paced(
    watched: Watched,
    events: VecDeque<Result<Bytes, std::io::Error>>,
    latency: std::time::Duration,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    stream::unfold((watched, events), move |(mut watched, mut events)| async move {
        let event = events.pop_front()?;
        if event.is_err() {
            tokio::time::sleep(FLUSH).await; // what was said before the cut must have left
        }
        if !latency.is_zero() {
            tokio::time::sleep(latency / 10).await;
        }
        watched.ended = events.is_empty();
        Some((event, (watched, events)))
    })
    .boxed()
}

/// The answer on file, cut to `max_tokens`; unknown prompts get a marked one that names the prompt.
fn reply(answers: &Answers, model: &SimulatedModel, body: &Value) -> Reply {
    let prompt = last_user_text(body);
    let (mut text, mut output_tokens) = match answers.find(&prompt, &model.name) {
        Some(answer) => (answer.text.clone(), answer.output_tokens),
        None => {
            let text = format!("[simulated] {} has no answer on file for: {}", model.name, shortened(&prompt));
            let tokens = tokens(&text);
            (text, tokens)
        }
    };
    let mut message = json!({"role": "assistant", "content": text});
    let mut finish_reason = "stop";
    if let Some(function) = forced_tool(body) {
        message = json!({"role": "assistant", "content": null, "tool_calls": [{"id": "call_simulated", "type": "function",
            "function": {"name": function, "arguments": "{\"city\":\"Paris\"}"}}]});
        finish_reason = "tool_calls";
    } else if body.pointer("/response_format/type").and_then(Value::as_str) == Some("json_schema") {
        message["content"] = json!("{\"simulated\":true}");
    } else if let Some(cap) = cap(body).filter(|cap| *cap < output_tokens) {
        let keep = text.chars().count() as u64 * cap / output_tokens.max(1);
        text = text.chars().take(keep as usize).collect();
        message["content"] = json!(text);
        output_tokens = cap;
        finish_reason = "length";
    }
    if model.fault == Some(Fault::Overruns) {
        output_tokens *= 100;
    }
    let prompt_tokens = body["messages"]
        .as_array()
        .map_or(0, |messages| messages.iter().map(|message| tokens(&message["content"].to_string())).sum::<u64>());
    let value = json!({
        "id": "sim-0", "object": "chat.completion", "created": 0, "model": model.name, "provider": "simulated",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": output_tokens,
            "total_tokens": prompt_tokens + output_tokens}
    });
    serde_json::from_value(value).expect("the literal above is a reply")
}

/// A function is called where `tools` are offered and the last message is not yet a tool's result.
fn forced_tool(body: &Value) -> Option<String> {
    let last_role = body["messages"].as_array()?.last()?["role"].as_str()?;
    let name = body["tools"].as_array()?.first()?.pointer("/function/name")?.as_str()?;
    (last_role == "user").then(|| name.to_owned())
}

fn cap(body: &Value) -> Option<u64> {
    body["max_completion_tokens"].as_u64().or_else(|| body["max_tokens"].as_u64())
}

fn tokens(text: &str) -> u64 {
    text.chars().count().div_ceil(4) as u64
}

fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}

fn last_user_text(body: &Value) -> String {
    let messages = body["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(last) = messages.iter().rev().find(|message| message["role"] == "user") else { return String::new() };
    match &last["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    }
}
