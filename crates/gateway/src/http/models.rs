//! `GET /models`, `/models/count`, `/model/{author}/{slug}`, `/embeddings/models`: what can be asked for, in OpenRouter's
//! schema.

use crate::app::App;
use crate::error::Error;
use crate::http::endpoints::{parameters_of, pricing};
use axum::Json;
use axum::extract::{Path, Query, State};
use catalog::{AbilityName, Billing, Endpoint, Makes, Model};
use protocol::FieldError;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What of the list is wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Wanted {
    offset: usize,
    limit: Option<usize>,
    /// Comma-separated, or `all`.
    output_modalities: Option<String>,
    /// Comma-separated.
    supported_parameters: Option<String>,
    /// A part of the name.
    q: Option<String>,
    sort: Option<String>,
}

/// A page of the list at the most.
const LIMIT_MAX: usize = 1_000;

pub(super) async fn list(
    State(app): State<App>,
    wanted: Result<Query<Wanted>, Rejection>,
) -> Result<Json<Value>, Error> {
    let wanted = read(wanted)?;
    let models = chosen(&app, &wanted, &[Makes::Chat, Makes::Other])?;
    let shows_policies =
        wanted.output_modalities.is_none() && wanted.supported_parameters.is_none() && wanted.q.is_none();
    let policies = app.config.policies.keys().filter(|_| shows_policies).map(|name| policy(name));
    let rows: Vec<Value> = policies.chain(models.iter().map(|model| row(model))).collect();
    page(rows, &wanted, "models")
}

pub(super) async fn count(
    State(app): State<App>,
    wanted: Result<Query<Wanted>, Rejection>,
) -> Result<Json<Value>, Error> {
    let count = chosen(&app, &read(wanted)?, &[Makes::Chat, Makes::Other])?.len();
    Ok(Json(json!({"data": {"count": count}})))
}

pub(super) async fn embeddings(
    State(app): State<App>,
    wanted: Result<Query<Wanted>, Rejection>,
) -> Result<Json<Value>, Error> {
    let wanted = read(wanted)?;
    let rows = chosen(&app, &wanted, &[Makes::Embeddings])?.iter().map(|model| row(model)).collect();
    page(rows, &wanted, "embeddings/models")
}

pub(super) async fn one(
    State(app): State<App>,
    Path((author, slug)): Path<(String, String)>,
) -> Result<Json<Value>, Error> {
    Ok(Json(json!({"data": row(&*find(&app, &author, &slug)?)})))
}

/// The model of a path; its name may be any that a request may use.
pub(super) fn find(app: &App, author: &str, slug: &str) -> Result<Arc<Model>, Error> {
    let name = format!("{author}/{slug}");
    let catalog = &app.config.catalog;
    let resolved = catalog.resolve(&name).or_else(|unknown| {
        let (base, _) = router::Suffixes::of(&name);
        if base == name { Err(unknown) } else { catalog.resolve(base) }
    });
    resolved.map(|resolved| resolved.model).map_err(Error::UnknownModel)
}

type Rejection = axum::extract::rejection::QueryRejection;

fn read(wanted: Result<Query<Wanted>, Rejection>) -> Result<Wanted, Error> {
    let Query(wanted) = wanted.map_err(|rejection| FieldError::new("query", rejection.body_text()))?;
    if let Some(limit) = wanted.limit.filter(|limit| !(1..=LIMIT_MAX).contains(limit)) {
        return Err(FieldError::new("limit", format!("{limit}; use 1 to {LIMIT_MAX}")).into());
    }
    Ok(wanted)
}

fn chosen(app: &App, wanted: &Wanted, usual: &[Makes]) -> Result<Vec<Arc<Model>>, Error> {
    let makes = match wanted.output_modalities.as_deref() {
        None => usual.to_vec(),
        Some("all") => vec![Makes::Chat, Makes::Other, Makes::Embeddings, Makes::Images, Makes::Audio],
        Some(list) => list.split(',').map(made).collect::<Result<_, _>>()?,
    };
    let parameters: Vec<&str> =
        wanted.supported_parameters.as_deref().map_or(Vec::new(), |list| list.split(',').collect());
    let takes = |model: &Model| {
        let known: BTreeSet<&str> = model.endpoints.iter().flat_map(|endpoint| parameters_of(endpoint)).collect();
        parameters.iter().all(|name| known.contains(name.trim()))
    };
    let part = wanted.q.as_deref().unwrap_or("").to_lowercase();
    let named = |model: &Model| model.id.to_lowercase().contains(&part) || model.name.to_lowercase().contains(&part);
    let fits = |model: &&Arc<Model>| {
        !model.endpoints.is_empty() && makes.contains(&model.makes) && named(model) && takes(model)
    };
    let mut models: Vec<Arc<Model>> = app.config.catalog.models().filter(fits).cloned().collect();
    if let Some(sort) = &wanted.sort {
        order(app, &mut models, sort)?;
    }
    Ok(models)
}

/// The endpoints whose price is one: not a plan's.
fn paid(model: &Model) -> impl Iterator<Item = &Arc<Endpoint>> {
    model.endpoints.iter().filter(|endpoint| endpoint.billing != Billing::FlatRate && endpoint.credential.is_none())
}

fn made(name: &str) -> Result<Makes, Error> {
    match name.trim() {
        "text" => Ok(Makes::Chat),
        "embeddings" => Ok(Makes::Embeddings),
        "image" => Ok(Makes::Images),
        "audio" => Ok(Makes::Audio),
        other => {
            let problem = format!("`{other}`; use text, image, audio, embeddings or all");
            Err(FieldError::new("output_modalities", problem).into())
        }
    }
}

fn order(app: &App, models: &mut [Arc<Model>], sort: &str) -> Result<(), Error> {
    let price = |model: &Arc<Model>| {
        let paid = paid(model).map(|endpoint| endpoint.price.base.input + endpoint.price.base.output);
        paid.min().unwrap_or(u64::MAX)
    };
    let context =
        |model: &Arc<Model>| model.endpoints.iter().map(|endpoint| endpoint.context_tokens).max().unwrap_or(0);
    let live = |model: &Arc<Model>| {
        let live = model.endpoints.iter().map(|endpoint| app.upstreams.live(endpoint));
        let (mut latency, mut throughput) = (f64::INFINITY, 0.0f64);
        for seen in live {
            latency = seen.latency_ms.map_or(latency, |seen| latency.min(seen.p50));
            throughput = seen.throughput.map_or(throughput, |seen| throughput.max(seen.p50));
        }
        (latency, throughput)
    };
    match sort {
        "pricing-low-to-high" => models.sort_by_cached_key(price),
        "pricing-high-to-low" => models.sort_by_cached_key(|model| std::cmp::Reverse(price(model))),
        "context-high-to-low" => models.sort_by_key(|model| std::cmp::Reverse(context(model))),
        "newest" => models.sort_by(|a, b| b.released.cmp(&a.released)),
        "latency-low-to-high" => models.sort_by_cached_key(|model| (live(model).0 * 1e3) as u64),
        "throughput-high-to-low" => models.sort_by_cached_key(|model| std::cmp::Reverse((live(model).1 * 1e3) as u64)),
        other => {
            let problem = format!(
                "`{other}`; use pricing-low-to-high, pricing-high-to-low, context-high-to-low, newest, \
                 latency-low-to-high or throughput-high-to-low"
            );
            return Err(FieldError::new("sort", problem).into());
        }
    }
    Ok(())
}

fn page(rows: Vec<Value>, wanted: &Wanted, path: &str) -> Result<Json<Value>, Error> {
    let total = rows.len();
    let limit = wanted.limit.unwrap_or(usize::MAX);
    let data: Vec<Value> = rows.into_iter().skip(wanted.offset).take(limit).collect();
    let end = wanted.offset + data.len();
    let filters = [
        ("output_modalities", &wanted.output_modalities),
        ("supported_parameters", &wanted.supported_parameters),
        ("q", &wanted.q),
        ("sort", &wanted.sort),
    ];
    let filters = filters.into_iter().filter_map(|(name, value)| Some(format!("&{name}={}", value.as_ref()?)));
    let filters = filters.collect::<String>().replace(' ', "%20");
    let next =
        (end < total && wanted.limit.is_some()).then(|| format!("/api/v1/{path}?offset={end}&limit={limit}{filters}"));
    Ok(Json(json!({"object": "list", "data": data, "total_count": total, "links": {"next": next}})))
}

/// A policy can be asked for like a model.
fn policy(name: &str) -> Value {
    let id = if name == crate::config::AUTO { name.to_owned() } else { format!("policy/{name}") };
    json!({
        "id": id, "canonical_slug": id, "name": format!("Policy {name}"), "object": "model", "created": 0,
        "owned_by": "sluice",
        "description": "The cheapest of the policy's models that is able to handle the request",
        "pricing": {"prompt": "-1", "completion": "-1"},
        "context_length": null, "per_request_limits": null, "supported_parameters": [], "default_parameters": null,
        "supported_voices": null, "links": {"details": format!("/api/v1/model/sluice/{name}")},
        "architecture": {"modality": "text->text", "input_modalities": ["text"], "output_modalities": ["text"],
            "tokenizer": "Router", "instruct_type": null},
        "top_provider": {"context_length": null, "max_completion_tokens": null, "is_moderated": false},
    })
}

fn row(model: &Model) -> Value {
    let cheapest = paid(model).min_by_key(|endpoint| endpoint.price.base.output).or(model.endpoints.first());
    let context = model.endpoints.iter().map(|endpoint| endpoint.context_tokens).max();
    let output = model.endpoints.iter().map(|endpoint| endpoint.output_tokens_max).max();
    let parameters: BTreeSet<&str> = model.endpoints.iter().flat_map(|endpoint| parameters_of(endpoint)).collect();
    json!({
        "id": model.id, "canonical_slug": model.id, "name": model.name, "object": "model",
        "created": model.released.as_deref().map_or(0, day_seconds),
        "owned_by": model.id.split('/').next().unwrap_or_default(),
        "description": "",
        "pricing": cheapest.map_or_else(|| json!({}), |endpoint| pricing(&endpoint.price)),
        "context_length": context, "per_request_limits": null, "supported_parameters": parameters,
        "default_parameters": null, "supported_voices": null,
        "links": {"details": format!("/api/v1/models/{}/endpoints", model.id)},
        "architecture": architecture(model),
        "top_provider": {"context_length": context, "max_completion_tokens": output, "is_moderated": false},
        "sluice": {"successor": model.successor, "endpoints": model.endpoints.len()},
    })
}

/// What goes in and what comes out.
pub(super) fn architecture(model: &Model) -> Value {
    let can = |ability: AbilityName| model.endpoints.iter().any(|endpoint| endpoint.abilities.contains(&ability));
    let mut inputs = vec!["text"];
    inputs.extend(can(AbilityName::Images).then_some("image"));
    inputs.extend(can(AbilityName::Pdf).then_some("file"));
    let output = match model.makes {
        Makes::Chat => vec!["text"],
        Makes::Embeddings => vec!["embeddings"],
        Makes::Images => vec!["text", "image"],
        Makes::Audio => vec!["text", "audio"],
        Makes::Other => vec!["text"],
    };
    json!({"modality": format!("{}->{}", inputs.join("+"), output.join("+")), "input_modalities": inputs,
        "output_modalities": output, "tokenizer": "Other", "instruct_type": null})
}

/// Midnight UTC of a day `YYYY-MM-DD` in seconds since 1970; 0 for anything else.
pub(super) fn day_seconds(date: &str) -> i64 {
    let midnight = date.parse::<jiff::civil::Date>().ok().and_then(|date| date.to_zoned(jiff::tz::TimeZone::UTC).ok());
    midnight.map_or(0, |midnight| midnight.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_midnights() {
        assert_eq!(day_seconds("1970-01-02"), 86_400);
        assert_eq!(day_seconds("2024-02-29"), 1_709_164_800);
        assert_eq!(day_seconds("soon"), 0);
    }
}
