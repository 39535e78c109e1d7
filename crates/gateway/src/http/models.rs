//! `GET /models`: what can be asked for, in OpenRouter's schema.

use crate::app::App;
use axum::Json;
use axum::extract::State;
use catalog::{AbilityName, Model};
use serde_json::{Value, json};

pub(super) async fn list(State(app): State<App>) -> Json<Value> {
    let mut rows: Vec<Value> = app.config.policies.keys().map(|name| policy(name)).collect();
    rows.extend(app.config.catalog.models().map(model));
    Json(json!({"object": "list", "data": rows}))
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
        "supported_voices": null, "links": {},
        "architecture": {"modality": "text->text", "input_modalities": ["text"], "output_modalities": ["text"],
            "tokenizer": "Router", "instruct_type": null},
        "top_provider": {"context_length": null, "max_completion_tokens": null, "is_moderated": false},
    })
}

fn model(model: &Model) -> Value {
    let cheapest = model.endpoints.iter().min_by_key(|endpoint| endpoint.price.output_nano_per_mtok);
    let price = cheapest.map(|endpoint| endpoint.price).unwrap_or_default();
    let context = model.endpoints.iter().map(|endpoint| endpoint.context_tokens).max();
    let output = model.endpoints.iter().map(|endpoint| endpoint.output_tokens_max).max();
    let can = |ability: AbilityName| model.endpoints.iter().any(|endpoint| endpoint.abilities.contains(&ability));
    let mut inputs = vec!["text"];
    if can(AbilityName::Images) {
        inputs.push("image");
    }
    let mut parameters = vec!["max_tokens", "stop", "seed"];
    if cheapest.is_some_and(|endpoint| !endpoint.rejects.iter().any(|field| field == "temperature")) {
        parameters.extend(["temperature", "top_p"]);
    }
    if can(AbilityName::Tools) {
        parameters.extend(["tools", "tool_choice"]);
    }
    if can(AbilityName::JsonSchema) {
        parameters.extend(["response_format", "structured_outputs"]);
    }
    json!({
        "id": model.id, "canonical_slug": model.id, "name": model.id, "object": "model",
        "created": model.released.as_deref().map_or(0, day_seconds),
        "owned_by": model.id.split('/').next().unwrap_or_default(),
        "description": "",
        "pricing": {
            "prompt": per_token(price.input_nano_per_mtok),
            "completion": per_token(price.output_nano_per_mtok),
            "input_cache_read": per_token(price.cache_read_nano_per_mtok),
        },
        "context_length": context, "per_request_limits": null, "supported_parameters": parameters,
        "default_parameters": null, "supported_voices": null, "links": {},
        "architecture": {"modality": format!("{}->text", inputs.join("+")), "input_modalities": inputs,
            "output_modalities": ["text"], "tokenizer": "Other", "instruct_type": null},
        "top_provider": {"context_length": context, "max_completion_tokens": output, "is_moderated": false},
    })
}

/// Dollars per token as a decimal string, exact: a nano-dollar per million tokens is 10⁻¹⁵ dollars per token.
fn per_token(nano_per_mtok: u64) -> String {
    let digits = format!("{}.{:015}", nano_per_mtok / 1_000_000_000_000_000, nano_per_mtok % 1_000_000_000_000_000);
    digits.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Midnight UTC of a day `YYYY-MM-DD` in seconds since 1970; 0 for anything else.
fn day_seconds(date: &str) -> i64 {
    let midnight = date.parse::<jiff::civil::Date>().ok().and_then(|date| date.to_zoned(jiff::tz::TimeZone::UTC).ok());
    midnight.map_or(0, |midnight| midnight.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_and_days_are_exact() {
        assert_eq!(per_token(150_000_000), "0.00000015");
        assert_eq!(per_token(37_500_000), "0.0000000375");
        assert_eq!(per_token(0), "0");
        assert_eq!(day_seconds("1970-01-02"), 86_400);
        assert_eq!(day_seconds("2024-02-29"), 1_709_164_800);
        assert_eq!(day_seconds("soon"), 0);
    }
}
