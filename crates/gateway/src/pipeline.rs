//! The spine: admit → exact → (one flight:) neighbours → decide → first_success → settle.

use crate::app::App;
use crate::asked::{Asked, Purpose};
use crate::error::Error;
use crate::flight::{FlightKey, Follower};
use crate::relay::{self, Job};
use crate::served::{Head, Hit, Served};
use crate::telemetry;
use cache::Entry;
use catalog::NanoUsd;
use database::Generation;
use ledger::{Bill, Settlement, now_ms};
use protocol::{CacheMode, Usage};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An answer on its way to the client.
pub(crate) enum Delivery {
    /// An exact hit, settled already.
    Ready(Arc<Served>),
    /// A flight that this request leads.
    Leading(Follower),
    /// A flight that another request leads; ours is settled at its end.
    Following(Follower, Box<Settlement>),
}

/// Runs one request up to the point where its answer can be delivered.
pub(crate) async fn run(app: &App, asked: Asked) -> Result<(Arc<Asked>, Delivery), Error> {
    let asked = Arc::new(asked);
    let mut settlement = admit(app, &asked)?;
    let stale = Duration::from_secs(app.cache.config().stale_while_revalidate_s);
    if asked.reads_cache()
        && let Some(entry) = app.cache.exact(&asked.fingerprint, stale)
        && asked.fits(&entry)
    {
        let served = exact_hit(app, &asked, &entry);
        if let Err(refused) = set_aside_for_hit(&mut settlement, &asked).await {
            drop_unserved(settlement, &asked, &refused.render().message);
            return Err(refused);
        }
        settle_hit(settlement, &asked, &served, "served");
        if entry.expires_ms <= now_ms() && app.cache.renews(&asked.fingerprint) {
            let (app, asked) = (app.clone(), Arc::clone(&asked));
            tokio::spawn(async move { relay::shadow(&app, asked.in_the_shadow(Purpose::Renewal)).await });
        }
        return Ok((asked, Delivery::Ready(Arc::new(served))));
    }
    if asked.mode == CacheMode::Only && asked.scope.is_err() {
        drop_unserved(settlement, &asked, "not cached");
        return Err(Error::NotCached);
    }
    let limits_users = asked.caller.account.tenant.terms.user_limit.is_some();
    let key_hash = || asked.caller.account.hash.clone();
    let key = asked.reads_cache().then(|| FlightKey {
        fingerprint: asked.fingerprint,
        key_hash: key_hash(),
        user: asked.request.user.clone().filter(|_| limits_users).unwrap_or_default(),
        mode: asked.mode,
        error_max_bits: asked.error_max.to_bits(),
        timeouts_ms: [asked.request.sluice.timeout_ms, asked.request.sluice.first_token_timeout_ms],
    });
    let (follower, leader) = app.flights.join(key, &asked.id);
    match leader {
        None => {
            if let Err(refused) = set_aside_for_hit(&mut settlement, &asked).await {
                drop_unserved(settlement, &asked, &refused.render().message);
                return Err(refused);
            }
            Ok((asked, Delivery::Following(follower, Box::new(settlement))))
        }
        Some(leader) => {
            let job = Job { app: app.clone(), asked: Arc::clone(&asked), settlement, leader };
            tokio::spawn(relay::run(job));
            Ok((asked, Delivery::Leading(follower)))
        }
    }
}

/// Sets aside what an answer out of the cache costs, where it costs something.
pub(crate) async fn set_aside_for_hit(settlement: &mut Settlement, asked: &Asked) -> Result<(), Error> {
    let cost = asked.sold.hit_cost();
    if cost > NanoUsd::ZERO && asked.shadow.is_none() {
        settlement.reserve(cost, cost).await.map_err(relay::no_money)?;
    }
    Ok(())
}

/// Takes the slot that the request's record will need.
pub(crate) fn admit(app: &App, asked: &Asked) -> Result<Settlement, Error> {
    let account = Arc::clone(&asked.caller.account);
    let generation = Generation {
        id: asked.id.clone(),
        tenant_id: asked.caller.tenant().to_owned(),
        key_hash: account.hash.clone(),
        created_ms: now_ms(),
        state: "failed".to_owned(),
        model_asked: asked.name_asked(),
        sold_as: if asked.sold.hides_source { asked.sold.name.clone() } else { String::new() },
        app: asked.origin.app.clone(),
        referer: asked.origin.referer.clone(),
        user_agent: asked.origin.user_agent.clone(),
        session_id: asked.request.session.clone().unwrap_or_default(),
        step: asked.origin.step.clone(),
        policy: asked.policy.as_ref().map(|policy| policy.name.clone()).unwrap_or_default(),
        streamed: asked.request.stream,
        cache: Hit::Bypass.as_str().to_owned(),
        cache_source: asked.compared_with().unwrap_or_default().to_owned(),
        end_user: asked.request.user.clone().unwrap_or_default(),
        attempts: "[]".to_owned(),
        reasons: "{}".to_owned(),
        ..Generation::default()
    };
    let settlement = Settlement::admit(&app.ledger, account, asked.is_free(), generation);
    let mut settlement = settlement.map_err(|_| Error::Overloaded)?;
    if let Some(estimate) = asked.counted.tokens_estimated.clone().filter(|_| asked.shadow.is_none()) {
        settlement.correct_at_end(&app.ledger, estimate);
    }
    Ok(settlement)
}

/// The record of an answer that was stored for this very request.
pub(crate) fn exact_hit(app: &App, asked: &Asked, entry: &Entry) -> Served {
    let is_stale = entry.expires_ms <= now_ms();
    hit(app, asked, entry, Hit::Exact, json!({"cache": {"level": "exact", "id": entry.id, "stale": is_stale}}))
}

/// The record of an answer that was stored.
pub(crate) fn hit(app: &App, asked: &Asked, entry: &Entry, hit: Hit, trace: serde_json::Value) -> Served {
    let usage = entry.reply.usage.as_ref().and_then(Usage::from_openai).unwrap_or_default();
    let head = Head {
        hit,
        source: Some(entry.id.clone()),
        model: entry.model.clone(),
        provider: entry.provider.clone(),
        policy: asked.policy.as_ref().map(|policy| policy.name.clone()).unwrap_or_default(),
        notice: asked.notice.clone(),
        ..Head::default()
    };
    Served {
        head: Arc::new(head),
        reply: Arc::clone(&entry.reply),
        usage,
        cost: asked.sold.hit_cost(),
        upstream: NanoUsd::ZERO,
        parts: <_>::default(),
        saved: asked.baseline_cost(app, usage),
        trace: Arc::new(trace),
    }
}

/// Settles a request that the cache answered: its key pays what that costs, which is nothing but by a tenant's terms.
pub(crate) fn settle_hit(mut settlement: Settlement, asked: &Asked, served: &Served, state: &'static str) {
    fill(&mut settlement.generation, asked, served);
    settlement.generation.state = state.to_owned();
    telemetry::request_ended(served.head.hit, state, asked.started.elapsed());
    telemetry::money(served);
    settlement.finish(Bill { upstream: served.upstream, charged: served.cost });
}

/// Settles a request that was not served and cost nothing.
pub(crate) fn drop_unserved(mut settlement: Settlement, asked: &Asked, failure: &str) {
    settlement.generation.latency_ms = elapsed_ms(asked.started);
    settlement.generation.failure = failure.to_owned();
    telemetry::request_ended(Hit::Bypass, "failed", asked.started.elapsed());
    settlement.finish(Bill::default());
}

/// Writes what is known of an answer into its record.
pub(crate) fn fill(generation: &mut Generation, asked: &Asked, served: &Served) {
    let count = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
    let head = &served.head;
    generation.model.clone_from(&head.model);
    generation.provider.clone_from(&head.provider);
    generation.cache = head.hit.as_str().to_owned();
    if let Some(source) = &head.source {
        generation.cache_source.clone_from(source);
    }
    generation.input_tokens = count(served.usage.input_tokens);
    generation.cache_read_tokens = count(served.usage.cache_read_tokens);
    generation.cache_write_tokens = count(served.usage.cache_write_tokens + served.usage.cache_write_1h_tokens);
    generation.output_tokens = count(served.usage.output_tokens);
    generation.reasoning_tokens = count(served.usage.reasoning_tokens);
    generation.estimated = served.usage.estimated;
    generation.saved_nano = served.saved.0;
    generation.latency_ms = elapsed_ms(asked.started);
    generation.queue_ms = head.queued.as_millis() as i64;
    let finish = served.reply.choices.first().and_then(|choice| choice.finish_reason.clone());
    generation.finish_reason = finish.unwrap_or_default();
    generation.attempts = crate::served::attempts_json(&head.attempts).to_string();
    generation.reasons = served.trace.to_string();
}

pub(crate) fn elapsed_ms(started: Instant) -> i64 {
    i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX)
}
