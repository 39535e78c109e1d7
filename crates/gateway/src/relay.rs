//! The relay task of a flight: owns the upstream call, the cache write and the settlement, whoever still listens.

use crate::app::App;
use crate::error::Error;
use crate::flight::Leader;
use crate::pipeline::{self, Asked};
use crate::served::{Head, Hit, Served, attempts_json};
use crate::telemetry;
use cache::{Entry, Put};
use catalog::{Endpoint, NanoUsd};
use ledger::{Bill, Settlement};
use protocol::{CacheMode, Collector, Reply, Usage};
use providers::{Answer, Attempt, Call, ReplyStream, Success};
use router::{Candidate, Offer, Question, Route, decide};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// What the relay task owns.
pub(crate) struct Job {
    pub app: App,
    pub asked: Arc<Asked>,
    pub settlement: Settlement,
    pub leader: Leader,
}

/// What has happened so far; it outlives a cancelled flight, so that the bill is right.
#[derive(Default)]
struct Progress {
    trace: Value,
    hit: Option<Hit>,
    attempts: Vec<Attempt>,
    endpoint: Option<Arc<Endpoint>>,
    /// The candidates with the output tokens expected of each; the one after the ended attempts is being called.
    calls: Vec<(Arc<Endpoint>, u64)>,
    /// Text that arrived, for estimating the usage of a cut stream.
    text_chars: usize,
    usage: Option<Usage>,
}

/// Runs the flight to its end and settles it.
pub(crate) async fn run(job: Job) {
    let Job { app, asked, mut settlement, leader } = job;
    let cancelled = leader.cancelled();
    let mut progress = Progress::default();
    let flown = tokio::select! {
        flown = fly(&app, &asked, &mut settlement, &leader, &mut progress) => Some(flown),
        () = cancelled.cancelled() => None,
    };
    telemetry::attempts(&progress.attempts);
    match flown {
        Some(Ok(served)) if served.head.hit.is_free() => {
            pipeline::settle_hit(settlement, &asked, &served, "served");
            leader.finish(Ok(Arc::new(served)));
        }
        Some(Ok(served)) => {
            settle_served(settlement, &asked, &served, &progress);
            leader.finish(Ok(Arc::new(served)));
        }
        Some(Err(error)) => {
            settle_unserved(settlement, &asked, &progress, "failed", &error.render().message);
            leader.finish(Err(Arc::new(error)));
        }
        None => {
            settle_unserved(settlement, &asked, &progress, "cancelled", "the client left");
            leader.finish(Err(Arc::new(Error::Overloaded))); // nobody listens
        }
    }
}

async fn fly(
    app: &App,
    asked: &Asked,
    settlement: &mut Settlement,
    leader: &Leader,
    progress: &mut Progress,
) -> Result<Served, Error> {
    let vector = embed(app, asked).await;
    let (offer, entry) = offer(app, asked, vector.as_deref().ok()).await;
    let route = route(app, asked, offer.as_ref());
    progress.trace = trace(asked, &route, offer.as_ref(), vector.as_ref().err().copied());
    progress.hit = Some(if asked.reads_cache() { Hit::Miss } else { Hit::Bypass });
    if let (Some(offer), Some(entry)) = (&route.offer, entry) {
        let hit = Hit::Similar { probability: offer.probability };
        return Ok(pipeline::hit(app, asked, &entry, hit, progress.trace.clone()));
    }
    if asked.mode == CacheMode::Only {
        return Err(Error::NotCached);
    }
    let calls = reserve(app, asked, settlement, &route)?;
    settlement.generation.model.clone_from(&calls[0].endpoint.model);
    settlement.record_reservation(&app.ledger.writer).await.map_err(|error| {
        tracing::error!(%error, "a reservation could not be stored");
        if error.is_storage_full() { Error::StorageFull } else { Error::Unavailable }
    })?;
    let expected = route.candidates.iter().map(|c| (c.endpoint.id.as_str(), c.expected_output_tokens));
    let expected: HashMap<&str, u64> = expected.collect();
    let with_expected =
        |call: &Call| (Arc::clone(&call.endpoint), expected.get(call.endpoint.id.as_str()).copied().unwrap_or(0));
    progress.calls = calls.iter().map(with_expected).collect();
    let outcome = app.upstreams.first_success(&asked.request, calls, &mut progress.attempts).await;
    let Success { answer, call } = outcome.map_err(|failure| match failure {
        Some(failure) => Error::Upstream { failure, attempts: progress.attempts.len() },
        None => Error::NoCapableEndpoint(route.rejected.clone()),
    })?;
    progress.endpoint = Some(Arc::clone(&call.endpoint));
    let lowered = call.max_tokens.filter(|cap| asked.request.max_tokens != Some(*cap));
    let head = Arc::new(Head {
        hit: progress.hit.unwrap_or(Hit::Bypass),
        source: None,
        model: call.endpoint.model.clone(),
        provider: call.endpoint.provider.clone(),
        policy: asked.policy.as_ref().map(|policy| policy.name.clone()).unwrap_or_default(),
        attempts: progress.attempts.clone(),
        max_tokens: lowered,
    });
    let reply = match answer {
        Answer::Whole(reply) => *reply,
        Answer::Stream(stream) => {
            leader.set_head(Arc::clone(&head));
            relay_stream(*stream, leader, progress).await?
        }
    };
    let usage = usage_of(asked, &reply, progress);
    let reply = Arc::new(reply);
    store(app, asked, vector.ok(), &reply, &call.endpoint);
    let cost = cost(&call.endpoint, usage);
    let saved = (asked.baseline_cost(app, usage) - cost).max(NanoUsd::ZERO);
    Ok(Served { head, reply, usage, cost, saved, trace: Arc::new(progress.trace.clone()) })
}

/// The vector of the question, or why there is none.
pub(crate) async fn embed(app: &App, asked: &Asked) -> Result<Vec<f32>, &'static str> {
    let scope = asked.scope.map(|_| ());
    let will_be_stored = asked.mode == CacheMode::Refresh;
    if !asked.reads_semantic() && !will_be_stored {
        return Err("not asked");
    }
    scope?;
    let (Some(embedder), Some(text)) = (&app.embedder, asked.request.last_user_text()) else {
        return Err("no embedder");
    };
    let budget = Duration::from_millis(app.config.embedding.budget_ms);
    match embedder.embed(text, budget).await {
        Ok(embedded) if embedded.truncated => Err("truncated"),
        Ok(embedded) => Ok(embedded.vector),
        Err(error) => {
            tracing::debug!(%error, "no vector");
            let reason = match error {
                embedding::EmbeddingError::Busy => "embedder busy",
                embedding::EmbeddingError::Late(_) => "embedder late",
                _ => "embedder failed",
            };
            telemetry::semantic_skipped(reason);
            Err(reason)
        }
    }
}

/// The cache's offer, with the stored answer where it is admissible: one that is gone or longer than the client allows is
/// not.
pub(crate) async fn offer(app: &App, asked: &Asked, vector: Option<&[f32]>) -> (Option<Offer>, Option<Arc<Entry>>) {
    let (Some(vector), Ok(scope), Some(text)) = (vector, asked.scope, asked.request.last_user_text()) else {
        return (None, None);
    };
    if !asked.reads_semantic() {
        return (None, None);
    }
    let (cache, vector) = (app.cache.clone(), vector.to_vec());
    // A large scope takes milliseconds, too long for an async thread.
    let found = tokio::task::spawn_blocking(move || cache.neighbours(&scope, &vector, &text)).await;
    let Ok(Some(found)) = found else { return (None, None) };
    let decision = found.decision;
    let mut offer = Offer {
        reason: match decision.veto {
            Some(veto) => format!("cosine {:.3}, vetoed: {}", found.cosine, veto.as_str()),
            None if decision.admissible => format!("cosine {:.3}, no veto", found.cosine),
            None => format!("cosine {:.3} is too low", found.cosine),
        },
        id: found.id,
        probability: decision.probability,
        admissible: decision.admissible,
    };
    if !offer.admissible {
        return (Some(offer), None);
    }
    let entry = app.cache.entry(asked.caller.tenant(), &offer.id).await.filter(|entry| asked.fits(entry));
    if entry.is_none() {
        offer.admissible = false;
        offer.reason.push_str(", but the answer is gone or longer than max_tokens");
    }
    (Some(offer), entry)
}

pub(crate) fn route(app: &App, asked: &Asked, offer: Option<&Offer>) -> Route {
    decide(Question {
        request: &asked.request,
        models: &asked.models(app),
        policy: asked.policy.as_deref(),
        quality_min: asked.request.sluice.quality_min,
        baseline: app.config.catalog.resolve(&asked.baseline).ok(),
        offer,
        predictor: app.predictor.as_deref(),
    })
}

/// The decision trace: candidates, rejected ones, and what the cache had to say.
pub(crate) fn trace(asked: &Asked, route: &Route, offer: Option<&Offer>, no_vector: Option<&'static str>) -> Value {
    let ineligible = asked.scope.err().or(no_vector);
    json!({"route": route, "cache": {"offer": offer, "ineligible": ineligible}})
}

/// Fewest output tokens that are worth a call.
const OUTPUT_TOKENS_FLOOR: u64 = 16;
/// Endpoints tried for one request at the most.
const CANDIDATES_MAX: usize = 5;

/// Sets aside the most that the candidates could cost, or what the key has left, and fits the output caps to it.
fn reserve(app: &App, asked: &Asked, settlement: &mut Settlement, route: &Route) -> Result<Vec<Call>, Error> {
    if route.candidates.is_empty() {
        return Err(Error::NoCapableEndpoint(route.rejected.clone()));
    }
    let candidates = &route.candidates[..route.candidates.len().min(CANDIDATES_MAX)];
    let caps: Vec<u64> = candidates.iter().map(|candidate| natural_cap(asked, &candidate.endpoint)).collect();
    let bound = |(candidate, cap): (&Candidate, u64)| {
        candidate.endpoint.price.cost(route.input_tokens, 0, cap.saturating_mul(asked.request.n))
    };
    let wanted = candidates.iter().zip(caps.iter().copied()).map(bound).max().unwrap_or_default();
    let floors = caps.iter().map(|cap| (*cap).min(OUTPUT_TOKENS_FLOOR));
    let needed = candidates.iter().zip(floors).map(bound).min().unwrap_or_default();
    let granted = settlement.reserve(wanted, needed).map_err(Error::NotEnoughMoney)?;
    let mut calls = Vec::new();
    for (candidate, cap) in candidates.iter().zip(caps) {
        let price = candidate.endpoint.price;
        let affordable = price.affordable_output_tokens(granted, route.input_tokens).unwrap_or(0) / asked.request.n;
        if affordable >= cap {
            calls.push(Call {
                endpoint: Arc::clone(&candidate.endpoint),
                max_tokens: asked.request.max_tokens.map(|_| cap),
            });
        } else if affordable >= cap.min(OUTPUT_TOKENS_FLOOR) {
            calls.push(Call { endpoint: Arc::clone(&candidate.endpoint), max_tokens: Some(affordable) });
        }
    }
    if calls.is_empty() {
        let available = asked.caller.account.available().unwrap_or_default() + granted;
        return Err(Error::NotEnoughMoney(ledger::NotEnough { available, needed }));
    }
    debug_assert!(app.upstreams.has(&calls[0].endpoint.provider), "the configuration was checked");
    Ok(calls)
}

/// The output cap of a request at an endpoint where money is no object.
fn natural_cap(asked: &Asked, endpoint: &Endpoint) -> u64 {
    let asked_cap = asked.request.max_tokens.unwrap_or(endpoint.output_tokens_reserved_max);
    asked_cap.min(endpoint.output_tokens_max)
}

async fn relay_stream(mut stream: ReplyStream, leader: &Leader, progress: &mut Progress) -> Result<Reply, Error> {
    let mut collector = Collector::default();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|failure| Error::Upstream { failure, attempts: progress.attempts.len() })?;
        progress.text_chars += chunk.text_chars();
        progress.usage = chunk.usage.as_ref().and_then(Usage::from_openai).or(progress.usage);
        collector.push(&chunk);
        leader.push(Arc::new(chunk));
    }
    collector.finish().ok_or_else(|| Error::Internal { id: "a stream without chunks".to_owned() })
}

fn usage_of(asked: &Asked, reply: &Reply, progress: &Progress) -> Usage {
    let stated = reply.usage.as_ref().and_then(Usage::from_openai);
    stated.or(progress.usage).unwrap_or_else(|| {
        let texts = reply.choices.iter().filter_map(|choice| choice.message.content.as_deref());
        estimate(asked, texts.map(|text| text.chars().count()).sum())
    })
}

/// The usage of an answer whose provider did not state it, at about 4 characters a token.
fn estimate(asked: &Asked, text_chars: usize) -> Usage {
    Usage {
        input_tokens: asked.request.prompt_bytes().div_ceil(4) as u64,
        output_tokens: text_chars.div_ceil(4) as u64,
        estimated: true,
        ..Usage::default()
    }
}

fn cost(endpoint: &Endpoint, usage: Usage) -> NanoUsd {
    endpoint.price.cost(usage.input_tokens, usage.cache_read_tokens, usage.completion_tokens())
}

/// Keeps a fresh answer that is complete.
fn store(app: &App, asked: &Asked, vector: Option<Vec<f32>>, reply: &Arc<Reply>, endpoint: &Endpoint) {
    if !asked.writes_cache() || !reply.is_complete_text() {
        return;
    }
    let semantic = match (asked.scope, vector, asked.request.last_user_text()) {
        (Ok(scope), Some(vector), Some(text)) => Some((scope, vector, text)),
        _ => None,
    };
    app.cache.put(Put {
        id: asked.id.clone(),
        tenant: asked.caller.tenant().to_owned(),
        fingerprint: asked.fingerprint,
        semantic,
        reply: Arc::clone(reply),
        model: endpoint.model.clone(),
        provider: endpoint.provider.clone(),
        ttl_s: asked.request.sluice.cache.ttl_s,
    });
}

fn settle_served(mut settlement: Settlement, asked: &Asked, served: &Served, progress: &Progress) {
    pipeline::fill(&mut settlement.generation, asked, served);
    settlement.generation.state = "served".to_owned();
    if let Some(endpoint) = &progress.endpoint {
        settlement.generation.endpoint.clone_from(&endpoint.id);
    }
    telemetry::request_ended(served.head.hit, "served", asked.started.elapsed());
    telemetry::money(served);
    settlement.finish(Bill { upstream: served.cost, charged: served.cost });
}

/// Settles a request whose client got no whole answer. What had arrived of a stream is paid for. A call that was given up
/// while it ran is paid for as estimated, since its provider was at work: its input, and for a whole answer the output
/// that was expected.
fn settle_unserved(mut settlement: Settlement, asked: &Asked, progress: &Progress, state: &'static str, failure: &str) {
    let mut bill = Bill::default();
    let given_up = || progress.calls.get(progress.attempts.len()).filter(|_| state == "cancelled");
    let started = match (&progress.endpoint, given_up()) {
        (Some(endpoint), _) => Some((endpoint, progress.usage.unwrap_or_else(|| estimate(asked, progress.text_chars)))),
        (None, Some((endpoint, expected))) => {
            let output_tokens = if asked.request.stream { 0 } else { *expected };
            Some((endpoint, Usage { output_tokens, ..estimate(asked, 0) }))
        }
        (None, None) => None,
    };
    if let Some((endpoint, usage)) = started {
        let cost = cost(endpoint, usage);
        bill = Bill { upstream: cost, charged: cost };
        let generation = &mut settlement.generation;
        generation.input_tokens = usage.input_tokens as i64;
        generation.output_tokens = usage.completion_tokens() as i64;
        generation.estimated = usage.estimated;
        generation.model.clone_from(&endpoint.model);
        generation.endpoint.clone_from(&endpoint.id);
        generation.provider.clone_from(&endpoint.provider);
    }
    let hit = progress.hit.unwrap_or(Hit::Bypass);
    settlement.generation.state = state.to_owned();
    settlement.generation.cache = hit.as_str().to_owned();
    settlement.generation.latency_ms = pipeline::elapsed_ms(asked.started);
    settlement.generation.attempts = attempts_json(&progress.attempts).to_string();
    settlement.generation.reasons = progress.trace.to_string();
    settlement.generation.failure = failure.to_owned();
    telemetry::request_ended(hit, state, asked.started.elapsed());
    settlement.finish(bill);
}
