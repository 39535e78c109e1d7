//! `/generation`: what served a request, its cost and why; and its content, where that is kept.

use crate::app::App;
use crate::auth;
use crate::error::Error;
use crate::http::activity::app_id;
use crate::http::iso_time;
use axum::Json;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
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
    let caller = auth::holder(&app, &headers).await?;
    if wanted.id.is_empty() {
        return Err(FieldError::new("id", "missing; ask for /generation?id=gen-…").into());
    }
    let found = app.ledger.generation(caller.tenant(), &wanted.id).await.map_err(Error::unreadable)?;
    let generation = found.ok_or_else(|| Error::NotFound(format!("no generation `{}`", wanted.id)))?;
    Ok(Json(json!({ "data": row(&generation) })))
}

/// Prompt and answer, where the tenant agreed to have them kept.
pub(super) async fn content(
    State(app): State<App>,
    headers: HeaderMap,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Value>, Error> {
    let caller = auth::holder(&app, &headers).await?;
    if wanted.id.is_empty() {
        return Err(FieldError::new("id", "missing; ask for /generation/content?id=gen-…").into());
    }
    let contents = app.contents.as_ref().ok_or(Error::Unavailable)?;
    let found = contents.find(caller.tenant(), &wanted.id).await.map_err(Error::unreadable)?;
    let content = found.ok_or_else(|| {
        Error::NotFound(format!("nothing is kept of `{}`; [content] names the tenants of whom it is", wanted.id))
    })?;
    let messages: Value = serde_json::from_str(&content.messages).unwrap_or_default();
    let output = json!({"completion": content.answer, "reasoning": null});
    Ok(Json(json!({"data": {"input": {"messages": messages}, "output": output, "error": null}})))
}

/// Who is behind a model whose source its tenant hides is not shown.
fn row(generation: &Generation) -> Value {
    let g = &if generation.sold_as.is_empty() {
        generation.clone()
    } else {
        Generation {
            model: generation.sold_as.clone(),
            provider: String::new(),
            endpoint: String::new(),
            policy: String::new(),
            attempts: "[]".to_owned(),
            reasons: "null".to_owned(),
            failure: if generation.failure.is_empty() { String::new() } else { "it did not answer".to_owned() },
            ..generation.clone()
        }
    };
    let is_hidden = !g.sold_as.is_empty();
    let usd = |nano: i64| NanoUsd(nano).as_usd();
    let stored = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    let named = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mut row = json!({
        "id": g.id, "request_id": g.id, "model": g.model,
        "provider_name": named(&g.provider), "router": named(&g.policy),
        "created_at": iso_time(g.created_ms), "streamed": g.streamed, "cancelled": g.state == "cancelled",
        "total_cost": usd(g.charged_nano), "usage": usd(g.charged_nano), "upstream_inference_cost": (!is_hidden).then(|| usd(g.upstream_nano)),
        "is_byok": false, "api_type": "completions", "data_region": "global", "origin": "",
        "workspace_id": g.tenant_id, "external_user": named(&g.end_user),
        "tokens_prompt": g.input_tokens + g.cache_read_tokens + g.cache_write_tokens,
        "tokens_completion": g.output_tokens + g.reasoning_tokens,
        "finish_reason": named(&g.finish_reason), "native_finish_reason": named(&g.finish_reason),
        "latency": g.latency_ms, "generation_time": g.latency_ms,
        "response_cache_source_id": named(&g.cache_source),
        "session_id": named(&g.session_id), "http_referer": named(&g.referer), "user_agent": named(&g.user_agent),
        "app_id": named(&g.app).map(|app| app_id(&app)),
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
        "app": named(&g.app), "step": named(&g.step), "estimated": g.estimated, "queue_ms": g.queue_ms, "failure": named(&g.failure),
        "attempts": stored(&g.attempts), "trace": stored(&g.reasons),
    });
    row
}

/// Fields of OpenRouter's schema that this gateway has no figure for.
const UNKNOWN: [&str; 13] = [
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
    "service_tier",
    "preset_id",
    "provider_responses",
];
