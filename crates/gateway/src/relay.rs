//! The relay task of a flight: owns the upstream call, the cache write and the settlement, whoever still listens.

use crate::app::App;
use crate::asked::Asked;
use crate::calls;
use crate::compare::{self, Comparison};
use crate::contents::may_keep;
use crate::error::Error;
use crate::flight::{Leader, Stalled};
use crate::meaning::{self, Similar};
use crate::pipeline;
use crate::resolve;
use crate::served::{Head, Hit, Served, attempts_json};
use crate::telemetry;
use catalog::{Billing, Endpoint, NanoUsd};
use ledger::{Bill, ReserveError, Settlement};
use protocol::{CacheMode, Reply, Usage};
use providers::{Answer, Attempts, Checking, Order, Outcome, ReplyStream, Success, Ticket};
use rand::Rng;
use router::{Offer, Question, Route, Trial, decide};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

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
    /// What a similar hit was decided on, for its audit.
    similar: Option<Similar>,
    /// Whom else is asked, once it is answered.
    comparison: Option<Comparison>,
    attempts: Attempts,
    queued: Duration,
    /// What the gateway gives a request.
    request_timeout_ms: u64,
    /// Who answered, once its answer had begun.
    endpoint: Option<Arc<Endpoint>>,
    /// Text that arrived, for estimating the usage of a cut stream.
    text_chars: usize,
    usage: Option<Usage>,
    /// It answered, and the disk did not take the reservation: nobody gets the answer.
    is_withheld: bool,
}

impl Progress {
    /// What calls cost that ended because the request asked for less time than the endpoint has; at most `left`, what of the money
    /// set aside is not charged for an answer.
    fn given_up_by(&self, asked: &Asked, left: NanoUsd) -> NanoUsd {
        let attempts = self.attempts.list();
        let given_up = attempts.iter().filter(|attempt| asked.gave_up(attempt, self.request_timeout_ms));
        let cost: NanoUsd = given_up.map(|attempt| asked.sold.given_up_cost(attempt)).sum();
        cost.min(left).max(NanoUsd::ZERO)
    }

    /// What calls that brought nothing cost.
    fn wasted(&self) -> NanoUsd {
        self.attempts.list().iter().map(providers::Attempt::wasted_cost).sum()
    }
}

/// Runs the flight to its end and settles it.
pub(crate) async fn run(job: Job) {
    let Job { app, asked, mut settlement, leader } = job;
    let cancelled = leader.cancelled();
    let request_timeout_ms = app.config.execution.request_timeout_ms;
    let mut progress = Progress { request_timeout_ms, ..Progress::default() };
    let flown = tokio::select! {
        flown = fly(&app, &asked, &mut settlement, &leader, &mut progress) => Some(flown),
        () = cancelled.cancelled() => None,
    };
    telemetry::attempts(&progress.attempts.list());
    match flown {
        Some(Ok(served)) if served.head.hit.is_free() => {
            pipeline::settle_hit(settlement, &asked, &served, "served");
            if let Some(similar) = progress.similar.take() {
                meaning::audit(&app, &asked, similar, &served);
            }
            leader.finish(Ok(Arc::new(served)));
        }
        Some(Ok(served)) => {
            settle_served(settlement, &asked, &served, &progress);
            if let Some(contents) = app.contents.as_ref().filter(|_| may_keep(&app.config.content, &asked)) {
                contents.keep(&asked, &served);
            }
            let served = Arc::new(served);
            if let Some(comparison) = progress.comparison.take() {
                compare::run(&app, &asked, comparison, &served);
            }
            leader.finish(Ok(served));
        }
        Some(Err(error)) => {
            let state = if matches!(error, Error::ClientStalled) { "cancelled" } else { "failed" };
            settle_unserved(settlement, &asked, &progress, state, &error.render().message);
            leader.finish(Err(Arc::new(error)));
        }
        None => {
            let failure = if app.closing.is_cancelled() { "the gateway was stopped" } else { "the client left" };
            settle_unserved(settlement, &asked, &progress, "cancelled", failure);
            leader.finish(Err(Arc::new(Error::Stopping))); // nobody listens
        }
    }
}

/// Asks a question again on behalf of the gateway itself, and waits for the answer.
pub(crate) async fn shadow(app: &App, asked: Asked) -> Option<Arc<Served>> {
    let asked = Arc::new(asked);
    let settlement = pipeline::admit(app, &asked).ok()?;
    let (mut follower, leader) = app.flights.join(None, &asked.id);
    tokio::spawn(run(Job { app: app.clone(), asked, settlement, leader: leader? }));
    follower.outcome().await.ok()
}

async fn fly(
    app: &App,
    asked: &Asked,
    settlement: &mut Settlement,
    leader: &Leader,
    progress: &mut Progress,
) -> Result<Served, Error> {
    let mut found = meaning::find(app, asked).await;
    let offer = found.as_ref().ok().and_then(|found| found.offer.clone());
    let route = route(app, asked, offer.as_ref(), meaning::vector(app, asked, &found).await.as_deref());
    progress.trace = trace(asked, &route, offer.as_ref(), meaning::why_not(&found));
    progress.hit = Some(asked.without_hit());
    if let Ok(found) = &found {
        meaning::count(app, asked, found, route.offer.is_some());
    }
    if let (Some(offer), Ok(found)) = (&route.offer, found.as_mut())
        && let Some(entry) = found.entry.take()
    {
        let hit = Hit::Similar { probability: offer.probability };
        pipeline::set_aside_for_hit(settlement, asked).await?;
        let served = pipeline::hit(app, asked, &entry, hit, progress.trace.clone());
        progress.similar = found.look.take().map(|look| (found.question.clone(), look, entry));
        return Ok(served);
    }
    if asked.mode == CacheMode::Only {
        return Err(Error::NotCached);
    }
    let (Success { answer, call, .. }, upstream_wait) =
        match first_success(app, asked, settlement, &route, progress).await {
            Ok(success) => success,
            Err(error) => return stale(app, asked, progress, error),
        };
    let lowered = call.max_tokens.filter(|cap| asked.request.max_tokens != Some(*cap));
    let head = Arc::new(Head {
        hit: progress.hit.unwrap_or_default(),
        source: None,
        model: call.endpoint.model.clone(),
        provider: call.endpoint.provider.clone(),
        is_stand_in: call.in_place_of.is_some(),
        policy: asked.policy.as_ref().map(|policy| policy.name.clone()).unwrap_or_default(),
        attempts: progress.attempts.list(),
        upstream_wait,
        queued: progress.queued,
        max_tokens: lowered,
        notice: match &call.in_place_of {
            Some(gone) => Some(resolve::stands_in(gone, &call.endpoint.model)),
            None => asked.notice.clone(),
        },
    });
    let reply = match answer {
        Answer::Whole(reply) => *reply,
        Answer::Stream(stream) => {
            leader.set_head(Arc::clone(&head));
            let patience = Duration::from_millis(app.config.server.client_stall_timeout_ms);
            relay_stream(*stream, leader, patience, progress).await?
        }
    };
    let usage = usage_of(asked, &reply, progress);
    let reply = Arc::new(reply);
    if call.in_place_of.is_none() {
        // A stand-in's answer is not the model's: the next request may find that one again.
        meaning::remember(app, asked, found.ok(), &reply, &call.endpoint).await;
    }
    if asked.shadow.is_none() {
        app.sessions.remember(asked, &call.endpoint, usage);
    }
    progress.comparison = compare::draw(app, asked, &route, &call).filter(|_| reply.is_complete_text());
    if let Some(comparison) = &progress.comparison {
        progress.trace["compared"] = comparison.explain();
    }
    let reserved = NanoUsd(settlement.generation.reserved_nano);
    let (bill, saved) = billed(app, asked, (&call.endpoint, usage), progress, reserved);
    let trace = Arc::new(progress.trace.clone());
    let prompt = call.endpoint.price.cost(Usage { output_tokens: 0, reasoning_tokens: 0, ..usage });
    let parts = (prompt, call.endpoint.price.cost(usage) - prompt);
    Ok(Served { head, reply, usage, cost: bill.charged, upstream: bill.upstream, parts, saved, trace })
}

/// What an answer costs, and what the baseline would have cost more.
fn billed(
    app: &App,
    asked: &Asked,
    (endpoint, usage): (&Endpoint, Usage),
    progress: &Progress,
    reserved: NanoUsd,
) -> (Bill, NanoUsd) {
    let taken = endpoint.price.cost(usage);
    // An answer of nothing costs its reader nothing, whatever its provider takes. What the request's own deadlines gave
    // up is the request's to pay.
    let is_empty = usage.completion_tokens() == 0 && !usage.estimated;
    let answer = if is_empty { NanoUsd::ZERO } else { asked.sold.answer_cost(endpoint, usage) };
    let charged = answer + progress.given_up_by(asked, reserved - answer);
    let upstream = taken + progress.wasted();
    // A plan's tokens are paid for elsewhere: they save nothing that could be counted.
    let saved = match endpoint.billing {
        Billing::FlatRate => NanoUsd::ZERO,
        _ if asked.sold.hides_source => (asked.baseline_cost(app, usage) - charged).max(NanoUsd::ZERO),
        _ => (asked.baseline_cost(app, usage) - upstream).max(NanoUsd::ZERO),
    };
    (Bill { upstream, charged }, saved)
}

/// The expired answer to this very request, where it may stand in for providers that do not answer. Money is set aside for
/// it, since the call came so far.
fn stale(app: &App, asked: &Asked, progress: &Progress, error: Error) -> Result<Served, Error> {
    let lately = Duration::from_secs(app.cache.config().stale_if_error_s);
    let is_theirs = matches!(error, Error::Upstream { .. } | Error::Refused(_)) && asked.reads_cache();
    let entry = is_theirs.then(|| app.cache.exact(&asked.fingerprint, lately)).flatten();
    let entry = entry.filter(|entry| asked.fits(entry)).ok_or(error)?;
    Ok(Served { upstream: progress.wasted(), ..pipeline::exact_hit(app, asked, &entry) })
}

/// Sets money aside, waits for its turn, writes the reservation down and calls the candidates; returns the answer and
/// the time that providers took.
async fn first_success(
    app: &App,
    asked: &Asked,
    settlement: &mut Settlement,
    route: &Route,
    progress: &mut Progress,
) -> Result<(Success, Duration), Error> {
    let reserving = Instant::now();
    let calls = calls::reserve(asked, settlement, route).await?;
    let reserved = reserving.elapsed();
    let samples = Mutex::new(Vec::new());
    let checking = |reply: &Reply| route.trial.as_ref().map_or(Ok(()), |trial| verified(trial, reply, &samples));
    settlement.generation.model.clone_from(&calls[0].endpoint.model);
    let settings = &app.config.execution;
    let time =
        asked.request.sluice.timeout_ms.map_or(settings.request_timeout_ms, |ms| ms.min(settings.request_timeout_ms));
    let ticket = Ticket {
        tenant: asked.caller.tenant().to_owned(),
        weight: asked.caller.account.tenant.weight,
        priority: asked.caller.account.priority,
        deadline: asked.started + Duration::from_millis(time),
    };
    let check = Some(&checking as &Checking<'_>);
    let order = Order { request: &asked.request, calls, providers: &app.config.providers, settings, ticket, check };
    let mut execution = app.upstreams.execution(order);
    progress.attempts = execution.attempts();
    progress.queued = execution.admit().await.map_err(Error::Refused)?;
    let recording = Instant::now();
    let kept = settlement.record_reservation(&app.ledger).await.map_err(storage)?;
    telemetry::accounted(reserved + recording.elapsed());
    // The disk and the provider work at the same time; the answer is released when both are done.
    let called = Instant::now();
    let answered = async {
        let success = execution.first_success().await?;
        // Known before the disk is waited for: from here on the answer is billed.
        progress.endpoint = Some(Arc::clone(&success.call.endpoint));
        if let Answer::Whole(reply) = &success.answer {
            progress.text_chars = reply.text_chars();
            progress.usage = reply.usage.as_ref().and_then(Usage::from_openai);
        }
        Ok(success)
    };
    let (success, durable) = tokio::join!(answered, app.ledger.writer.durable(kept));
    let success: Success = success.map_err(|failure| {
        let attempts = progress.attempts.list().len();
        Error::Upstream { failure, attempts }
    })?;
    progress.is_withheld = durable.is_err();
    durable.map_err(storage)?;
    Ok((success, called.elapsed()))
}

/// What is wrong with an answer on trial. Of a check by samples the first only has to come to an end, which the second has to
/// come to as well.
fn verified(trial: &Trial, reply: &Reply, samples: &Mutex<Vec<String>>) -> Result<(), String> {
    trial.check.passes(reply)?;
    let Some(end) = trial.check.end_of(reply.first_text()) else { return Ok(()) };
    let mut samples = samples.lock().unwrap_or_else(PoisonError::into_inner);
    samples.push(end);
    match samples.as_slice() {
        [_] => Err("waits for a second sample".to_owned()),
        [first, second] if first == second => Ok(()),
        _ => Err("two samples differ".to_owned()),
    }
}

pub(crate) fn no_money(error: ReserveError) -> Error {
    match error {
        ReserveError::NotEnough(short) => Error::NotEnoughMoney(short),
        ReserveError::Database(error) => storage(error),
    }
}

fn storage(error: database::DatabaseError) -> Error {
    tracing::error!(%error, "a reservation could not be stored");
    if error.is_storage_full() { Error::StorageFull } else { Error::Unavailable }
}

/// Ranks who may serve; `vector` is that of the last user turn.
pub(crate) fn route(app: &App, asked: &Asked, offer: Option<&Offer>, vector: Option<&[f32]>) -> Route {
    let baseline = app.config.catalog.resolve(&asked.baseline).ok();
    let mut route = decide(Question {
        request: &asked.request,
        models: &asked.models(app),
        policy: asked.policy.as_deref(),
        rules: &asked.applied,
        quality_min: asked.request.sluice.quality_min,
        baseline: baseline.as_ref().map(|resolved| &*resolved.model),
        offer,
        predictor: Some(&app.config.predictor),
        vector,
        records: &|endpoint| app.upstreams.record(endpoint, &app.config.providers),
        seed: rand::rng().random(),
        sticky: app.sessions.sticky(asked).as_ref(),
    });
    // Where too many answers that passed were wrong, checks are not trusted.
    route.trial = route.trial.filter(|_| app.trials.are_trusted(asked));
    route
}

/// Candidates, and rejected endpoints, that a trace names; a request to `auto` can have hundreds.
const TRACED_MAX: usize = 20;

/// The decision trace: candidates, rejected ones, and what the cache had to say.
pub(crate) fn trace(asked: &Asked, route: &Route, offer: Option<&Offer>, why_not: Option<&'static str>) -> Value {
    let ineligible = asked.scope.err().or(why_not);
    let (candidates, rejected) = (route.candidates.len(), route.rejected.len());
    let first = |count: usize| count.min(TRACED_MAX);
    let shown = json!({
        "candidates": route.candidates[..first(candidates)],
        "rejected": route.rejected[..first(rejected)],
        "offer": route.offer,
        "evidence": route.evidence,
        "propensity": route.propensity,
        "guarantee": route.guarantee,
        "trial": route.trial,
        "rules_failed": asked.applied.failed,
        "difficulty": route.difficulty,
        "input_tokens": route.input_tokens,
        "not_shown": candidates + rejected - first(candidates) - first(rejected),
    });
    json!({"route": shown, "cache": {"offer": offer, "ineligible": ineligible}})
}

async fn relay_stream(
    mut stream: ReplyStream,
    leader: &Leader,
    patience: Duration,
    progress: &mut Progress,
) -> Result<Reply, Error> {
    while let Some(chunk) = stream.next().await {
        let attempts = || progress.attempts.list().len();
        let chunk = chunk.map_err(|failure| Error::Upstream { failure, attempts: attempts() })?;
        progress.text_chars += chunk.text_chars();
        progress.usage = chunk.usage.as_ref().and_then(Usage::from_openai).or(progress.usage);
        leader.push(Arc::new(chunk), patience).await.map_err(|Stalled| Error::ClientStalled)?;
    }
    stream.collected().finish().ok_or_else(|| Error::Internal { id: "a stream without chunks".to_owned() })
}

fn usage_of(asked: &Asked, reply: &Reply, progress: &Progress) -> Usage {
    let stated = reply.usage.as_ref().and_then(Usage::from_openai);
    stated.or(progress.usage).unwrap_or_else(|| Usage::estimate(asked.request.prompt_bytes(), reply.text_chars()))
}

fn settle_served(mut settlement: Settlement, asked: &Asked, served: &Served, progress: &Progress) {
    pipeline::fill(&mut settlement.generation, asked, served);
    settlement.generation.state = "served".to_owned();
    if let Some(endpoint) = &progress.endpoint {
        settlement.generation.endpoint.clone_from(&endpoint.id);
    }
    telemetry::request_ended(served.head.hit, "served", asked.started.elapsed());
    telemetry::money(served);
    asked.note_cost(served.upstream);
    settlement.finish(Bill { upstream: served.upstream, charged: served.cost });
}

/// Settles a request whose client got no whole answer. What had arrived of a stream is paid for. A call that the client
/// gave up while it ran is paid for as estimated, since its provider was at work. What a provider's failure cost is
/// booked, and the client pays nothing for it.
fn settle_unserved(mut settlement: Settlement, asked: &Asked, progress: &Progress, state: &'static str, failure: &str) {
    let attempts = progress.attempts.list();
    let reserved = NanoUsd(settlement.generation.reserved_nano);
    let mut bill = Bill { upstream: progress.wasted(), charged: NanoUsd::ZERO };
    let given_up = attempts.iter().rfind(|attempt| {
        attempt.outcome == Outcome::Cancelled && !attempt.hedge || asked.gave_up(attempt, progress.request_timeout_ms)
    });
    let begun = match (&progress.endpoint, given_up) {
        (Some(endpoint), _) => {
            let estimate = || Usage::estimate(asked.request.prompt_bytes(), progress.text_chars);
            let usage = progress.usage.unwrap_or_else(estimate);
            bill.charged = asked.sold.price(endpoint).cost(usage);
            bill.upstream += endpoint.price.cost(usage);
            if usage.completion_tokens() == 0 && !usage.estimated && state == "failed" {
                bill.charged = NanoUsd::ZERO;
            }
            bill.charged += progress.given_up_by(asked, reserved - bill.charged);
            Some((endpoint, usage))
        }
        (None, Some(attempt)) => {
            let is_cancelled = attempt.outcome == Outcome::Cancelled;
            bill.charged = if is_cancelled { asked.sold.given_up_cost(attempt).min(reserved) } else { NanoUsd::ZERO };
            bill.charged += progress.given_up_by(asked, reserved - bill.charged);
            attempt.wasted.map(|usage| (&attempt.endpoint, usage))
        }
        (None, None) => None,
    };
    if progress.is_withheld {
        bill.charged = NanoUsd::ZERO;
    }
    let generation = &mut settlement.generation;
    if let Some((endpoint, usage)) = begun {
        generation.input_tokens = usage.input_tokens as i64;
        generation.cache_read_tokens = usage.cache_read_tokens as i64;
        generation.cache_write_tokens = (usage.cache_write_tokens + usage.cache_write_1h_tokens) as i64;
        generation.output_tokens = usage.completion_tokens() as i64;
        generation.estimated = usage.estimated;
        generation.model.clone_from(&endpoint.model);
        generation.endpoint.clone_from(&endpoint.id);
        generation.provider.clone_from(&endpoint.provider);
    }
    let hit = progress.hit.unwrap_or(Hit::Bypass);
    generation.state = state.to_owned();
    generation.cache = hit.as_str().to_owned();
    generation.latency_ms = pipeline::elapsed_ms(asked.started);
    generation.queue_ms = progress.queued.as_millis() as i64;
    generation.attempts = attempts_json(&attempts).to_string();
    generation.reasons = progress.trace.to_string();
    generation.failure = failure.to_owned();
    telemetry::request_ended(hit, state, asked.started.elapsed());
    asked.note_cost(bill.upstream);
    settlement.finish(bill);
}
