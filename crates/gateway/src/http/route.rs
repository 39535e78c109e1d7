//! `POST /route`: what would be done with a request and why; no provider is called and nothing is stored.

use crate::app::App;
use crate::error::Error;
use crate::http::chat;
use crate::{meaning, relay};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

pub(super) async fn explain(State(app): State<App>, headers: HeaderMap, body: Body) -> Result<Json<Value>, Error> {
    let started = Instant::now();
    let asked = chat::asked_openly(&app, &headers, body, started).await?;
    let exact =
        app.cache.exact(&asked.fingerprint, Duration::ZERO).filter(|entry| asked.reads_cache() && asked.fits(entry));
    let found = meaning::find(&app, &asked).await;
    let offer = found.as_ref().ok().and_then(|found| found.offer.clone());
    let why_not = meaning::why_not(&found);
    let route = relay::route(&app, &asked, offer.as_ref(), meaning::vector(&app, &asked, &found).await.as_deref());
    let mut explained = relay::trace(&asked, &route, offer.as_ref(), why_not);
    explained["cache"]["exact"] = json!(exact.map(|entry| entry.id.clone()));
    explained["policy"] = json!(asked.policy.as_ref().map(|policy| &policy.name));
    explained["baseline"] = json!(asked.baseline);
    Ok(Json(json!({ "data": explained })))
}
