//! `/cache`: what it would answer and why, what it holds, and forgetting; always within the caller's tenant.

use crate::app::App;
use crate::auth;
use crate::error::Error;
use crate::http::{chat, read_json};
use crate::meaning;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use cache::{CASE_NAMES, Filter, Look};
use protocol::FieldError;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

/// What the cache has for a request, and why it would or would not give it; nothing is counted, stored or called.
pub(super) async fn lookup(State(app): State<App>, headers: HeaderMap, body: Body) -> Result<Json<Value>, Error> {
    let started = Instant::now();
    let asked = chat::asked_openly(&app, &headers, body, started).await?;
    let exact = app.cache.exact(&asked.fingerprint, Duration::ZERO).filter(|entry| asked.fits(entry));
    let found = meaning::find(&app, &asked).await;
    let offer = found.as_ref().ok().and_then(|found| found.offer.as_ref());
    let entry = exact.clone().or_else(|| found.as_ref().ok().and_then(|found| found.entry.clone()));
    Ok(Json(json!({"data": {
        "exact": exact.map(|entry| entry.id.clone()),
        "ineligible": asked.scope.err().or(meaning::why_not(&found)),
        "scope": asked.scope.ok().map(|scope| scope.to_string()),
        "error_max": asked.error_max,
        "offer": offer,
        "case": found.as_ref().ok().and_then(|found| found.look.as_ref()).map(case),
        "answer": entry.map(|entry| json!({
            "id": entry.id, "model": entry.model, "provider": entry.provider, "tags": entry.tags,
            "created_ms": entry.created_ms, "expires_ms": entry.expires_ms,
        })),
    }})))
}

/// The numbers behind a decision, by name.
fn case(look: &Look) -> Value {
    let numbers: Map<String, Value> = match &look.case {
        None => Map::new(),
        Some(case) => CASE_NAMES.iter().zip(case.numbers).map(|(name, x)| ((*name).to_owned(), json!(x))).collect(),
    };
    json!({
        "cosine": look.cosine, "veto": look.veto, "probability": look.probability, "threshold": look.threshold,
        "audit_chance": look.audit_chance, "answers": look.case.as_ref().map(|case| case.answers.len()),
        "numbers": numbers,
    })
}

/// What the levels hold, and the running error estimate of each policy.
pub(super) async fn stats(State(app): State<App>, headers: HeaderMap) -> Result<Json<Value>, Error> {
    let caller = auth::holder(&app, &headers).await?;
    let tenant = caller.tenant();
    let answers = app.cache.count(tenant).await.map_err(Error::unreadable)?;
    let config = app.cache.config();
    let estimates = app.cache.semantic().map(cache::Semantic::estimates).unwrap_or_default();
    let own = estimates.into_iter().filter(|(owner, _)| owner.tenant == tenant);
    let policies = own.map(|(owner, estimate)| {
        let name = (!owner.policy.is_empty()).then_some(owner.policy.as_str());
        let rules = config.policy(name);
        let error_max = rules.error_max.map_or(config.semantic.error_max, |own| own.min(config.semantic.error_max));
        let statement = format!(
            "≤ {:.2} % of eligible requests wrong, {} % confidence, n = {}; estimate {:.2} %",
            100.0 * estimate.error_high,
            (1_000.0 * estimate.confidence).round() / 10.0,
            estimate.requests,
            100.0 * estimate.error
        );
        json!({"policy": name, "error_max": error_max, "estimate": estimate, "statement": statement})
    });
    let (saved, spent) = app.audits.tally(tenant);
    Ok(Json(json!({"data": {
        "answers": answers, "epoch": app.cache.epoch(tenant), "semantic": app.cache.has_semantic(),
        "policies": policies.collect::<Vec<_>>(),
        "saved_by_similar_usd": saved.as_usd(), "audits_usd": spent.as_usd(),
    }})))
}

/// Which answers to forget; every condition that is named must hold.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Forget {
    #[serde(default)]
    tag: Option<String>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    older_than_s: Option<u64>,
    /// Everything of the tenant, at once.
    #[serde(default)]
    all: bool,
}

pub(super) async fn forget(State(app): State<App>, headers: HeaderMap, body: Body) -> Result<Json<Value>, Error> {
    let caller = auth::holder(&app, &headers).await?;
    let wanted: Forget = read_json(&app, &headers, body).await?;
    let is_named = wanted.tag.is_some() || wanted.model.is_some() || wanted.older_than_s.is_some();
    if wanted.all == is_named {
        let problem = "name `tag`, `model` or `older_than_s`, or say `all`: true to forget everything";
        return Err(FieldError::new("body", problem).into());
    }
    if wanted.all {
        app.cache.begin_epoch(caller.tenant()).await;
        return Ok(Json(json!({"data": {"forgotten": "all", "epoch": app.cache.epoch(caller.tenant())}})));
    }
    let hides = caller.account.tenant.terms.models.iter().any(|own| own.hides_source);
    if hides && wanted.model.is_some() {
        let problem = "which model answered is not shown here; use `tag`, `older_than_s` or `all`";
        return Err(FieldError::new("model", problem).into());
    }
    let age_ms = |seconds: u64| i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX);
    let filter = Filter {
        id: None,
        tag: wanted.tag,
        model: wanted.model,
        before_ms: wanted.older_than_s.map(|seconds| ledger::now_ms().saturating_sub(age_ms(seconds))),
    };
    let ids = app.cache.forget(caller.tenant(), &filter).await.map_err(Error::unreadable)?;
    Ok(Json(json!({"data": {"forgotten": ids.len()}})))
}

pub(super) async fn forget_one(
    State(app): State<App>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Json<Value>, Error> {
    let caller = auth::holder(&app, &headers).await?;
    let filter = Filter { id: Some(id.clone()), ..Filter::default() };
    let ids = app.cache.forget(caller.tenant(), &filter).await.map_err(Error::unreadable)?;
    if ids.is_empty() {
        return Err(Error::NotFound(format!(
            "no stored answer `{id}`; x-sluice-cache-id names the one that was given"
        )));
    }
    Ok(Json(json!({"data": {"forgotten": ids.len()}})))
}
