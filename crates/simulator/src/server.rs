//! The HTTP server of the simulator: the provider's API, and `/control` for those who test against it.

use crate::answer::{Answer, bomb, error};
use crate::answers::Answers;
use crate::fault::{FAULTS, Fault, Rule};
use crate::log::{Counters, Log, Seen, Watched};
use crate::model::SimulatedModel;
use crate::reply::{last_user_text, reply};
use crate::wire::{ResetOnClose, Wire};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
const SLOW: Duration = Duration::from_secs(1);

/// A running simulator; dropping it stops it.
pub struct Simulator {
    pub address: SocketAddr,
    state: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    models: HashMap<String, SimulatedModel>,
    answers: Answers,
    log: Arc<Log>,
    /// Rules set at run time, with how many calls their model had had by then.
    rules: Mutex<HashMap<String, (Rule, u64)>>,
    /// When the latest calls of each limited model were let through.
    passed: Mutex<HashMap<String, VecDeque<Instant>>>,
    open: watch::Sender<bool>,
}

impl Simulator {
    /// Starts on `listener`.
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn start(listener: TcpListener, models: Vec<SimulatedModel>, answers: Answers) -> std::io::Result<Self> {
        Self::with_log(listener, models, answers, None)
    }

    /// Starts on `listener` and writes a line for each ended call to `log`, as [`crate::Call`].
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn with_log(
        listener: TcpListener,
        models: Vec<SimulatedModel>,
        answers: Answers,
        log: Option<File>,
    ) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let state = Arc::new(Shared {
            models: models.into_iter().map(|model| (model.name.clone(), model)).collect(),
            answers,
            log: Arc::new(Log::new(log)),
            rules: Mutex::default(),
            passed: Mutex::default(),
            open: watch::Sender::new(true),
        });
        let app = Router::new()
            .route("/v1/chat/completions", post(chat))
            .route("/v1/models", get(models_list))
            .route("/control/faults", get(faults_list))
            .route("/control/rule", post(set_rule))
            .route("/control/counters", get(counters))
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .with_state(Arc::clone(&state));
        let stop = CancellationToken::new();
        tokio::spawn(accept(listener, app, stop.clone()));
        Ok(Self { address, state, _stop: stop.drop_guard() })
    }

    /// The URL to configure as `base_url`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Requests that have arrived so far.
    pub fn arrived(&self) -> u64 {
        self.state.log.arrived.load(Ordering::Acquire)
    }

    /// Answers whose client left before their end.
    pub fn cancelled(&self) -> u64 {
        self.counters().cancelled
    }

    /// Totals since the start.
    pub fn counters(&self) -> Counters {
        self.state.log.counters()
    }

    /// The latest requests, oldest first.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.log.seen()
    }

    /// Gives a model a rule, or none, from now on; `first` counts from here.
    pub fn set_rule(&self, model: &str, rule: Option<Rule>) {
        self.state.set_rule(model, rule);
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

async fn accept(listener: TcpListener, app: Router, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(20)).await; // out of descriptors, mostly
            continue;
        };
        if let Err(error) = stream.set_nodelay(true) {
            eprintln!("no TCP_NODELAY: {error}");
        }
        let (wire, reset) = Wire::new(stream);
        let service = TowerToHyperService::new(app.clone().layer(Extension(reset)));
        let connection = http1::Builder::new().serve_connection(TokioIo::new(wire), service);
        let stopped = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _broken = connection => {} // told to, or the client left
                () = stopped.cancelled() => {}
            }
        });
    }
}

impl Shared {
    fn set_rule(&self, model: &str, rule: Option<Rule>) {
        let calls = self.log.counters().by_model.get(model).copied().unwrap_or(0);
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        match rule {
            Some(rule) => drop(rules.insert(model.to_owned(), (rule, calls))),
            None => drop(rules.remove(model)),
        }
    }

    /// The rule of this call and the fault it means: the prompt's own, else the one set at run time, else the model's.
    fn rule(&self, model: &SimulatedModel, prompt: &str, nth: u64) -> (Option<Rule>, Option<Fault>) {
        let set = self.rules.lock().unwrap_or_else(PoisonError::into_inner).get(&model.name).copied();
        let (rule, nth) = match (Rule::directive(prompt), set) {
            (Some(rule), _) => (Some(rule), nth),
            (None, Some((rule, since))) => (Some(rule), nth.saturating_sub(since)),
            (None, None) => (model.rule, nth),
        };
        let fault = rule.and_then(|rule| rule.fault_of(nth));
        let within = |rule: Rule| rule.per_second.is_none_or(|most| self.passes(&model.name, most));
        (rule, fault.filter(|fault| *fault != Fault::Limited || !rule.is_some_and(within)))
    }

    /// True where fewer than `per_second` calls were let through in the last second; then this one is.
    fn passes(&self, model: &str, per_second: u64) -> bool {
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = passed.entry(model.to_owned()).or_default();
        let now = Instant::now();
        while latest.front().is_some_and(|at| now.duration_since(*at) >= Duration::from_secs(1)) {
            latest.pop_front();
        }
        let passes = (latest.len() as u64) < per_second;
        if passes {
            latest.push_back(now);
        }
        passes
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

async fn faults_list() -> Json<Value> {
    Json(json!({ "data": FAULTS.map(Fault::name).to_vec() }))
}

async fn counters(State(state): State<Arc<Shared>>) -> Json<Counters> {
    Json(state.log.counters())
}

/// What `/control/rule` takes: a rule for a model, or `null` to take it back.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewRule {
    model: String,
    rule: Option<Rule>,
}

async fn set_rule(State(state): State<Arc<Shared>>, Json(new): Json<NewRule>) -> Response {
    if !state.models.contains_key(&new.model) {
        return error(StatusCode::NOT_FOUND, &format!("the simulator has no model `{}`", new.model));
    }
    state.set_rule(&new.model, new.rule);
    Json(json!({"ok": true})).into_response()
}

async fn chat(
    State(state): State<Arc<Shared>>,
    Extension(reset): Extension<ResetOnClose>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    let name = body["model"].as_str().unwrap_or_default();
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let nth = state.log.arrived(name, &body, authorization.clone());
    let mut watched = Watched::new(Arc::clone(&state.log), name, &body);
    let Some(model) = state.models.get(name).cloned() else {
        watched.fail();
        return error(StatusCode::NOT_FOUND, &format!("the simulator has no model `{name}`"));
    };
    if !*state.open.borrow() {
        let mut open = state.open.subscribe();
        let _closed = open.wait_for(|open| *open).await; // the sender lives as long as the state
    }
    let (rule, fault) = state.rule(&model, &last_user_text(&body), nth);
    watched.meets(fault);
    tokio::time::sleep(model.latency).await;
    match fault {
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::GzipBomb) => {
            let made = tokio::task::spawn_blocking(bomb).await;
            debug_assert!(made.is_ok(), "it is made in memory");
        }
        Some(Fault::Slow) => {
            tokio::time::sleep(rule.and_then(|rule| rule.delay_ms).map_or(SLOW, Duration::from_millis)).await;
        }
        _ => {}
    }
    let answered = reply(&state.answers, name, fault, &body);
    let streamed = body["stream"].as_bool().unwrap_or(false);
    let authorization = authorization.unwrap_or_default();
    Answer { watched, rule, fault, streamed, latency: model.latency, reset, authorization }.respond(&answered)
}
