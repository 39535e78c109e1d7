//! The routes: one file a noun below. Inference and management answer under `/v1` and `/api/v1`.

mod activity;
mod cache;
mod chat;
mod credits;
mod data;
mod endpoints;
mod feedback;
mod generation;
mod health;
mod keys;
mod models;
mod route;
mod said;
mod stripe;
mod tenants;

use crate::app::{App, Live};
use crate::auth;
use crate::error::Error;
use crate::telemetry;
use crate::{grants, origin};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use bytes::Bytes;
use futures_util::StreamExt;
use protocol::FieldError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::time::timeout_at;
use tower_http::catch_panic::CatchPanicLayer;

/// All routes of the gateway.
pub(crate) fn routes(live: Live) -> Router {
    let api = Router::<Live>::new()
        .route("/chat/completions", post(chat::complete))
        .route("/models", get(models::list))
        .route("/models/count", get(models::count))
        .route("/model/{author}/{slug}", get(models::one))
        .route("/models/{author}/{slug}/endpoints", get(endpoints::list))
        .route("/embeddings/models", get(models::embeddings))
        .route("/endpoints/zdr", get(endpoints::zdr))
        .route("/providers", get(endpoints::providers))
        .route("/generation", get(generation::get))
        .route("/generation/content", get(generation::content))
        .route("/generation/feedback", post(feedback::feedback))
        .route("/generation/scores", post(feedback::scores))
        .route("/cache", delete(cache::forget))
        .route("/cache/{id}", delete(cache::forget_one))
        .route("/cache/lookup", post(cache::lookup))
        .route("/cache/stats", get(cache::stats))
        .route("/activity", get(activity::activity))
        .route("/credits", get(credits::standing))
        .route("/data", delete(data::erase))
        .route("/datasets/rankings-daily", get(activity::models))
        .route("/datasets/app-rankings", get(activity::apps))
        .route("/key", get(keys::current))
        .route("/keys", get(keys::list).post(keys::create))
        .route("/keys/{hash}", get(keys::one).patch(keys::change).delete(keys::delete))
        .route("/route", post(route::explain));
    Router::new()
        .nest("/v1", api.clone())
        .nest("/api/v1", api)
        .route("/admin/credits", post(credits::top_up))
        .route("/admin/credits/refunds", post(credits::refund))
        .route("/webhooks/stripe", post(stripe::receive))
        .route("/admin/tenants", get(tenants::list).post(tenants::create))
        .route("/admin/tenants/{id}", get(tenants::get).patch(tenants::change))
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route("/metrics", get(health::metrics))
        .layer(middleware::from_fn_with_state(live.clone(), permit_address))
        .layer(middleware::from_fn_with_state(live.clone(), close_when_stopping))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(CatchPanicLayer::custom(panicked))
        .with_state(live)
}

/// Before the gateway stops, clients are told to ask the next one over another connection: one that is closed while a request is
/// on its way on it fails that request.
async fn close_when_stopping(State(live): State<Live>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if live.current().stopping.load(Ordering::Acquire) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// What says how the gateway is.
const OPEN_PATHS: [&str; 3] = ["/health", "/ready", "/metrics"];

/// Refuses a key that may not be used from where the request comes from, whatever it asks for. Who the key is, and what it
/// may, is for the path to find out.
async fn permit_address(State(live): State<Live>, request: Request, next: Next) -> Response {
    let app = live.current();
    let address = origin::address(request.extensions(), request.headers(), &app.config.server.trusted_proxies);
    let permitted = match auth::holder(&app, request.headers()).await {
        Ok(caller) => grants::permit_address(&caller, address),
        // Who is not known to be permitted is not; that the process runs, anyone may see.
        Err(Error::Unavailable) if !OPEN_PATHS.contains(&request.uri().path()) => Err(Error::Unavailable),
        Err(_) => Ok(()),
    };
    match permitted {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    }
}

async fn no_such_path(request: Request) -> Error {
    Error::NotFound(format!("no path `{}`; the API lies under /v1 and /api/v1", request.uri().path()))
}

async fn no_such_method(request: Request) -> Error {
    Error::NotFound(format!("`{}` does not take {}", request.uri().path(), request.method()))
}

fn panicked(cause: Box<dyn std::any::Any + Send>) -> Response {
    let text = cause.downcast_ref::<String>().map(String::as_str).or_else(|| cause.downcast_ref::<&str>().copied());
    tracing::error!(cause = text.unwrap_or("unknown"), "a request panicked");
    telemetry::panicked();
    Error::Internal { id: "panicked".to_owned() }.into_response()
}

/// Reads a body up to the configured size, as long as it comes fast enough.
async fn read_body(app: &App, headers: &HeaderMap, body: Body, bytes_max: usize) -> Result<Bytes, Error> {
    let encoding = headers.get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or("identity");
    if !encoding.eq_ignore_ascii_case("identity") {
        return Err(Error::Encoded(encoding.chars().take(40).collect()));
    }
    let server = &app.config.server;
    let bytes_max = server.body_bytes_max.min(bytes_max);
    let stated = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if stated.is_some_and(|bytes| bytes > bytes_max) {
        return Err(Error::BodyTooLarge { bytes_max });
    }
    let begun = Instant::now();
    let mut pieces = body.into_data_stream();
    // In one piece, so that a large prompt is held once.
    let mut all = Vec::with_capacity(stated.unwrap_or(0).min(bytes_max));
    loop {
        // What has come buys time for what is to come.
        let earned = Duration::from_millis(1_000 * all.len() as u64 / server.body_bytes_per_second_min.max(1));
        let by = begun + Duration::from_millis(server.header_timeout_ms) + earned;
        let piece = timeout_at(by.into(), pieces.next()).await.map_err(|_| Error::SlowBody)?;
        let Some(piece) = piece else { return Ok(Bytes::from(all)) };
        let piece = piece.map_err(|_| FieldError::new("body", "the connection ended inside it"))?;
        if all.len() + piece.len() > bytes_max {
            return Err(Error::BodyTooLarge { bytes_max });
        }
        all.extend_from_slice(&piece);
    }
}

/// What is known of a field with a change in it: what is left out stays as it is, `null` takes a part away.
fn merged<T: Serialize + DeserializeOwned>(field: &str, known: &T, change: Value) -> Result<T, FieldError> {
    let wrong = |problem: String| FieldError::new(field, problem);
    let Value::Object(change) = change else { return Err(wrong("not a JSON object".to_owned())) };
    let mut whole = serde_json::to_value(known).map_err(|error| wrong(error.to_string()))?;
    for (part, value) in change {
        whole[part] = value;
    }
    if let Some(parts) = whole.as_object_mut() {
        parts.retain(|_, value| !value.is_null());
    }
    serde_json::from_value(whole).map_err(|error| wrong(error.to_string()))
}

/// Reads a JSON body; unknown fields are refused by the types themselves.
async fn read_json<T: DeserializeOwned>(app: &App, headers: &HeaderMap, body: Body) -> Result<T, Error> {
    let bytes = read_body(app, headers, body, usize::MAX).await?;
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(FieldError::new("body", "not a JSON object; send `{…}` with the fields by their names").into());
    }
    serde_json::from_slice(&bytes).map_err(|error| FieldError::new("body", error.to_string()).into())
}

/// A field that is there, be it `null`; with `default`, one that is left out is `None`.
fn present<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::Deserialize<'de>,
{
    serde::Deserialize::deserialize(deserializer).map(Some)
}

/// Milliseconds since 1970 of an ISO 8601 time in UTC.
fn utc_time(field: &str, text: &str) -> Result<i64, FieldError> {
    let is_utc = text.ends_with('Z') || text.ends_with("+00:00");
    let time = text.parse::<jiff::Timestamp>().ok().filter(|_| is_utc);
    let problem = || FieldError::new(field, format!("`{text}`; use UTC, as 2027-01-31T00:00:00Z"));
    time.map(jiff::Timestamp::as_millisecond).ok_or_else(problem)
}

/// ISO 8601 in UTC with milliseconds, from milliseconds since 1970.
fn iso_time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| String::new(), |time| format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use super::iso_time;

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(iso_time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso_time(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(iso_time(1_795_176_183_456), "2026-11-20T12:03:03.456Z");
        assert_eq!(iso_time(-1), "1969-12-31T23:59:59.999Z");
    }
}
