//! `/health`, `/ready` and `/metrics`: for those who run the gateway.

use crate::app::App;
use crate::auth;
use crate::telemetry;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use std::sync::atomic::Ordering;

/// The process answers.
pub(super) async fn health() -> Json<Value> {
    Json(json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}))
}

/// Each dependency by name. Degraded parts do not make the gateway unready: requests are answered without them.
pub(super) async fn ready(State(app): State<App>) -> Response {
    let mut parts = Map::new();
    let database = app.ledger.ping().await;
    parts
        .insert("database".to_owned(), json!(database.as_ref().map_or_else(ToString::to_string, |()| "ok".to_owned())));
    let problem = app.cache.problem();
    let semantic = match (&problem, app.cache.has_semantic()) {
        (Some(problem), _) => format!("misses: vector store: {problem}"),
        (None, true) => "ok".to_owned(),
        (None, false) => "off".to_owned(),
    };
    parts.insert("semantic_cache".to_owned(), json!(semantic));
    for (part, reason) in app.degraded.iter() {
        parts.insert(part.replace(' ', "_").replace("the_", ""), json!(format!("off: {reason}")));
    }
    let stopping = app.stopping.load(Ordering::Acquire);
    let (status, word) = match (stopping, database.is_ok(), app.degraded.is_empty() && problem.is_none()) {
        (true, _, _) => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        (_, false, _) => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
        (_, _, false) => (StatusCode::OK, "degraded"),
        _ => (StatusCode::OK, "ready"),
    };
    (status, Json(json!({"status": word, "parts": parts}))).into_response()
}

/// Prometheus's text format, for the operator: labels name tenants, policies and providers.
pub(super) async fn metrics(State(app): State<App>, headers: HeaderMap) -> Response {
    if let Err(refused) = auth::operator(&app, &headers) {
        return refused.into_response();
    }
    let Some(recorder) = telemetry::recorder() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "there is no metrics recorder\n").into_response();
    };
    telemetry::cache_sizes(app.cache.sizes().await);
    for (owner, estimate) in app.cache.semantic().map(cache::Semantic::estimates).unwrap_or_default() {
        telemetry::semantic_error(&owner.tenant, &owner.policy, &estimate);
    }
    telemetry::load(app.pressure.under_way(), app.upstreams.waiting(), app.pressure.lag());
    recorder.run_upkeep();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], recorder.render()).into_response()
}
