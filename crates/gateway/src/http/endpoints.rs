//! `GET /models/{author}/{slug}/endpoints`, `/endpoints/zdr` and `/providers`: where models are served, at what price, and
//! how that has been going.

use crate::app::App;
use crate::auth;
use crate::error::Error;
use crate::http::models::{architecture, day_seconds, find};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use catalog::{Endpoint, Model, Percentiles, Price, Rates};
use serde_json::{Map, Value, json};

pub(super) async fn list(
    State(app): State<App>,
    headers: HeaderMap,
    Path((author, slug)): Path<(String, String)>,
) -> Result<Json<Value>, Error> {
    let model = find(&app, &author, &slug)?;
    let shows_speed = auth::holder(&app, &headers).await.is_ok();
    let endpoints: Vec<Value> = listed(&model).map(|endpoint| row(&app, &model, endpoint, shows_speed)).collect();
    Ok(Json(json!({"data": {
        "id": model.id, "name": model.name, "created": model.released.as_deref().map_or(0, day_seconds),
        "description": "", "architecture": architecture(&model), "endpoints": endpoints,
    }})))
}

/// The endpoints that are known to keep no prompts.
pub(super) async fn zdr(State(app): State<App>, headers: HeaderMap) -> Json<Value> {
    let shows_speed = auth::holder(&app, &headers).await.is_ok();
    let mut rows = Vec::new();
    for model in app.config.catalog.models() {
        let keeps_none = |endpoint: &&std::sync::Arc<Endpoint>| endpoint.facts.stores_prompts == Some(false);
        rows.extend(listed(model).filter(keeps_none).map(|endpoint| row(&app, model, endpoint, shows_speed)));
    }
    Json(json!({ "data": rows }))
}

/// The providers that have a credential or a table.
pub(super) async fn providers(State(app): State<App>) -> Json<Value> {
    let listing = app.config.catalog.listing();
    let rows = app.config.providers.values().map(|provider| {
        let known = listing.and_then(|listing| listing.providers.get(&provider.name));
        let reach = provider.reach();
        json!({
            "name": known.map_or(provider.name.as_str(), |row| &row.name), "slug": provider.name,
            "headquarters": known.and_then(|row| row.headquarters.as_deref()), "datacenters": null,
            "privacy_policy_url": null, "terms_of_service_url": null, "status_page_url": null,
            "sluice": {
                "kind": provider.kind, "aggregator": reach.aggregator, "fee": reach.fee,
                "stores_prompts": known_or_unknown(reach.facts.stores_prompts),
                "trains_on_prompts": known_or_unknown(reach.facts.trains_on_prompts),
                "data_source": known.and_then(|row| row.data_source.as_deref()),
            },
        })
    });
    Json(json!({"data": rows.collect::<Vec<_>>()}))
}

/// The endpoints at their listed prices; what single credentials pay is nobody else's business.
fn listed(model: &Model) -> impl Iterator<Item = &std::sync::Arc<Endpoint>> {
    let own_only = |endpoint: &std::sync::Arc<Endpoint>| {
        endpoint.credential.is_some()
            && model.endpoints.iter().any(|other| other.credential.is_none() && other.provider == endpoint.provider)
    };
    model.endpoints.iter().filter(move |endpoint| !own_only(endpoint))
}

fn row(app: &App, model: &Model, endpoint: &Endpoint, shows_speed: bool) -> Value {
    let live = app.upstreams.live(endpoint);
    let record = app.upstreams.record(endpoint, &app.config.providers);
    let percent = |share: Option<f64>| share.map(|share| share * 100.0);
    let speed = |seen: Option<Percentiles>| seen.filter(|_| shows_speed);
    let tag = match &endpoint.tag {
        Some(tag) => format!("{}/{tag}", endpoint.provider),
        None => endpoint.provider.clone(),
    };
    let facts = &endpoint.facts;
    json!({
        "name": format!("{tag} | {}", endpoint.name), "model_id": model.id, "model_name": model.name,
        "provider_name": endpoint.provider, "tag": tag,
        "context_length": endpoint.context_tokens, "max_prompt_tokens": endpoint.input_tokens_max,
        "max_completion_tokens": endpoint.output_tokens_max,
        "pricing": pricing(&endpoint.price),
        "quantization": facts.quantization.as_deref().unwrap_or("unknown"),
        "supported_parameters": parameters_of(endpoint),
        "supports_implicit_caching": endpoint.price.base.cache_read < endpoint.price.base.input,
        "status": if record.failing { -1 } else { 0 },
        "uptime_last_5m": percent(live.uptime_5m), "uptime_last_30m": percent(live.uptime_30m),
        "uptime_last_1d": percent(live.uptime_1d),
        "latency_last_30m": speed(live.latency_ms), "throughput_last_30m": speed(live.throughput),
        "sluice": {
            "billing": endpoint.billing, "aggregator": endpoint.aggregator, "deprecated": endpoint.deprecated,
            "dialect": endpoint.dialect, "region": facts.region.as_deref().unwrap_or("unknown"),
            "stores_prompts": known_or_unknown(facts.stores_prompts),
            "trains_on_prompts": known_or_unknown(facts.trains_on_prompts),
        },
    })
}

fn known_or_unknown(fact: Option<bool>) -> Value {
    fact.map_or_else(|| json!("unknown"), |fact| json!(fact))
}

/// The parameters that an endpoint is known to take.
pub(super) fn parameters_of(endpoint: &Endpoint) -> Vec<&'static str> {
    let mut names = router::parameters(endpoint);
    names.retain(|name| *name != "n"); // which is none of OpenRouter's
    names
}

/// OpenRouter's prices: dollars per token as decimal text; dearer ones of long prompts as overrides.
pub(super) fn pricing(price: &Price) -> Value {
    let mut shown = rates(&price.base);
    let tiers: Vec<Value> = price
        .tiers
        .iter()
        .map(|tier| {
            let mut shown = rates(&tier.rates);
            shown.insert("min_prompt_tokens".to_owned(), json!(tier.over_tokens + 1));
            Value::Object(shown)
        })
        .collect();
    if !tiers.is_empty() {
        shown.insert("overrides".to_owned(), json!(tiers));
    }
    Value::Object(shown)
}

fn rates(rates: &Rates) -> Map<String, Value> {
    let mut shown = Map::new();
    let always = [("prompt", rates.input), ("completion", rates.output)];
    let own = [
        ("input_cache_read", rates.cache_read, rates.input),
        ("input_cache_write", rates.cache_write, rates.input),
        ("input_cache_write_1h", rates.cache_write_1h, rates.input),
        ("internal_reasoning", rates.output_thinking, rates.output),
    ];
    let own = own.into_iter().filter(|(_, rate, usual)| rate != usual).map(|(name, rate, _)| (name, rate));
    shown.extend(always.into_iter().chain(own).map(|(name, rate)| (name.to_owned(), json!(per_token(rate)))));
    shown
}

/// Dollars per token as a decimal string, exact: a nano-dollar per million tokens is 10⁻¹⁵ dollars per token.
fn per_token(nano_per_mtok: u64) -> String {
    let digits = format!("{}.{:015}", nano_per_mtok / 1_000_000_000_000_000, nano_per_mtok % 1_000_000_000_000_000);
    digits.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_exact() {
        assert_eq!(per_token(150_000_000), "0.00000015");
        assert_eq!(per_token(37_500_000), "0.0000000375");
        assert_eq!(per_token(0), "0");
        let price = Price::flat(Rates { cache_read: 5, ..Rates::of(10, 20) });
        let shown = pricing(&price);
        assert_eq!(shown["input_cache_read"], "0.000000000000005");
        assert!(shown.get("input_cache_write").is_none() && shown.get("overrides").is_none());
    }
}
