//! `/generation`: what served a request, its cost and why; and what its reader thought of it.

use crate::app::App;
use crate::auth;
use crate::error::Error;
use crate::http::{iso_time, read_json};
use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use cache::Filter;
use catalog::NanoUsd;
use database::Generation;
use protocol::FieldError;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    id: String,
}

pub(super) async fn get(
    State(app): State<App>,
    headers: HeaderMap,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Value>, Error> {
    let caller = auth::caller(&app, &headers).await?;
    if wanted.id.is_empty() {
        return Err(FieldError::new("id", "missing; ask for /generation?id=gen-…").into());
    }
    let found = app.ledger.generation(caller.tenant(), &wanted.id).await.map_err(unreadable)?;
    let generation = found.ok_or_else(|| Error::NotFound(format!("no generation `{}`", wanted.id)))?;
    Ok(Json(json!({ "data": row(&generation) })))
}

/// OpenRouter's feedback, and a score of ours.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Feedback {
    generation_id: String,
    category: Option<Category>,
    #[serde(default)]
    comment: Option<String>,
    #[serde(default)]
    sluice: Option<Score>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Score {
    /// 0 wrong, 1 right.
    score: f64,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Category {
    Latency,
    Incoherence,
    IncorrectResponse,
    Formatting,
    Billing,
    ApiError,
    Other,
}

const COMMENT_CHARS_MAX: usize = 1_000;

/// An answer that was found by meaning teaches the cache; another that is wrong is forgotten, so that nobody gets it
/// again.
pub(super) async fn feedback(State(app): State<App>, headers: HeaderMap, body: Body) -> Result<Json<Value>, Error> {
    let caller = auth::caller(&app, &headers).await?;
    let feedback: Feedback = read_json(&app, &headers, body).await?;
    if feedback.comment.as_ref().is_some_and(|comment| comment.chars().count() > COMMENT_CHARS_MAX) {
        return Err(FieldError::new("comment", format!("at most {COMMENT_CHARS_MAX} characters are accepted")).into());
    }
    let is_right = match (&feedback.sluice, feedback.category) {
        (Some(Score { score }), _) if !(0.0..=1.0).contains(score) => {
            return Err(FieldError::new("sluice.score", format!("{score}; use a number from 0 to 1")).into());
        }
        (Some(Score { score }), _) => Some(*score >= 0.5),
        (None, Some(Category::IncorrectResponse | Category::Incoherence)) => Some(false),
        (None, Some(_)) => None,
        (None, None) => return Err(FieldError::new("category", "missing; name one, or send `sluice.score`").into()),
    };
    let found = app.ledger.generation(caller.tenant(), &feedback.generation_id).await.map_err(unreadable)?;
    let id = &feedback.generation_id;
    let generation = found.ok_or_else(|| Error::NotFound(format!("no generation `{id}`")))?;
    let effect = match is_right {
        None => "none: the cache learns from what was right or wrong",
        Some(is_right) => match (app.cache.teach(caller.tenant(), id, is_right), is_right) {
            (true, _) => "learned",
            (false, true) => "none: no stored answer was given by meaning",
            (false, false) => {
                let source = if generation.cache_source.is_empty() { id } else { &generation.cache_source };
                let filter = Filter { id: Some(source.clone()), ..Filter::default() };
                let forgotten = app.cache.forget(caller.tenant(), &filter).await.map_err(unreadable)?;
                if forgotten.is_empty() { "none: the answer is not stored" } else { "forgotten" }
            }
        },
    };
    Ok(Json(json!({"data": {"success": true}, "sluice": {"cache": effect}})))
}

fn unreadable(error: database::DatabaseError) -> Error {
    tracing::error!(%error, "a generation could not be read");
    Error::Unavailable
}

fn row(generation: &Generation) -> Value {
    let g = generation;
    let usd = |nano: i64| NanoUsd(nano).as_usd();
    let stored = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    let named = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mut row = json!({
        "id": g.id, "request_id": g.id, "model": g.model,
        "provider_name": named(&g.provider), "router": named(&g.policy),
        "created_at": iso_time(g.created_ms), "streamed": g.streamed, "cancelled": g.state == "cancelled",
        "total_cost": usd(g.charged_nano), "usage": usd(g.charged_nano), "upstream_inference_cost": usd(g.upstream_nano),
        "is_byok": false, "api_type": "completions", "data_region": "global", "origin": "",
        "workspace_id": g.tenant_id, "external_user": named(&g.end_user),
        "tokens_prompt": g.input_tokens + g.cache_read_tokens + g.cache_write_tokens,
        "tokens_completion": g.output_tokens + g.reasoning_tokens,
        "finish_reason": named(&g.finish_reason), "native_finish_reason": named(&g.finish_reason),
        "latency": g.latency_ms, "generation_time": g.latency_ms,
        "response_cache_source_id": named(&g.cache_source),
    });
    row["native_tokens_prompt"] = row["tokens_prompt"].clone();
    row["native_tokens_completion"] = row["tokens_completion"].clone();
    row["native_tokens_reasoning"] = json!(g.reasoning_tokens);
    row["native_tokens_cached"] = json!(g.cache_read_tokens);
    for unknown in UNKNOWN {
        row[unknown] = Value::Null;
    }
    row["sluice"] = json!({
        "state": g.state, "cache": g.cache, "model_asked": g.model_asked, "endpoint": named(&g.endpoint),
        "reserved_usd": usd(g.reserved_nano), "overrun_usd": usd(g.overrun_nano), "saved_usd": usd(g.saved_nano),
        "estimated": g.estimated, "queue_ms": g.queue_ms, "failure": named(&g.failure),
        "attempts": stored(&g.attempts), "trace": stored(&g.reasons),
    });
    row
}

/// Fields of OpenRouter's schema that this gateway has no figure for.
const UNKNOWN: [&str; 16] = [
    "upstream_id",
    "cache_discount",
    "native_tokens_completion_images",
    "num_media_prompt",
    "num_media_completion",
    "num_input_audio_prompt",
    "num_search_results",
    "num_fetches",
    "web_search_engine",
    "moderation_latency",
    "app_id",
    "service_tier",
    "preset_id",
    "user_agent",
    "http_referer",
    "provider_responses",
];
