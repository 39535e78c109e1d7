//! What an answer says of itself: names, money and limits, in its body and in its headers.

use crate::asked::Asked;
use crate::served::{Head, Hit, Served};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Takes thoughts out that the client does not want to see; they were paid for all the same.
pub(super) fn hide_thoughts(body: &mut Map<String, Value>, asked: &Asked, part: &str) {
    if !asked.hides_thoughts {
        return;
    }
    for choice in body.get_mut("choices").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(Value::Object(message)) = choice.get_mut(part) {
            message.shift_remove("reasoning");
            message.shift_remove("reasoning_details");
        }
    }
}

/// Puts the gateway's own names over the provider's.
pub(super) fn stamp(body: &mut Map<String, Value>, asked: &Asked, head: &Head, created: u64) {
    body.insert("id".to_owned(), json!(asked.id));
    if asked.sold.hides_source {
        keep_known(body);
        body.insert("model".to_owned(), json!(asked.sold.name));
    } else {
        body.insert("model".to_owned(), json!(head.model));
        body.insert("provider".to_owned(), json!(head.provider));
    }
    let created = if created == 0 { ledger::now_ms() as u64 / 1_000 } else { created };
    body.insert("created".to_owned(), json!(created));
    for choice in body.get_mut("choices").and_then(Value::as_array_mut).into_iter().flatten() {
        if choice.get("native_finish_reason").is_none() {
            choice["native_finish_reason"] = choice["finish_reason"].clone();
        }
    }
}

/// Leaves only what every provider's answer has: nothing that would tell whose it is.
fn keep_known(body: &mut Map<String, Value>) {
    const ANSWER: [&str; 5] = ["id", "object", "created", "choices", "usage"];
    const CHOICE: [&str; 5] = ["index", "message", "delta", "finish_reason", "logprobs"];
    const MESSAGE: [&str; 6] = ["role", "content", "refusal", "reasoning", "tool_calls", "annotations"];
    body.retain(|name, _| ANSWER.contains(&name.as_str()));
    for choice in body.get_mut("choices").and_then(Value::as_array_mut).into_iter().flatten() {
        let Value::Object(choice) = choice else { continue };
        choice.retain(|name, _| CHOICE.contains(&name.as_str()));
        for part in ["message", "delta"] {
            let Some(Value::Object(message)) = choice.get_mut(part) else { continue };
            message.retain(|name, _| MESSAGE.contains(&name.as_str()));
            for call in message.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
                // Its id comes back with the tool's answer, so it only has to stay the same.
                if let Some(id) = call["id"].as_str().filter(|id| !id.is_empty()) {
                    let digest = Sha256::digest(id.as_bytes());
                    let name: String = digest[..12].iter().map(|byte| format!("{byte:02x}")).collect();
                    call["id"] = json!(format!("call_{name}"));
                }
            }
        }
    }
}

/// The provider's usage with what it cost.
pub(super) fn usage(served: &Served, asked: &Asked) -> Value {
    let mut usage = served.usage.to_openai();
    if let Some(Value::Object(stated)) = served.reply.usage.as_ref().filter(|_| !asked.sold.hides_source) {
        usage.extend(stated.clone());
    }
    usage.insert("cost".to_owned(), json!(served.cost.as_usd()));
    usage.shift_remove("cost_details");
    if !asked.sold.hides_source {
        let (prompt, completions) = served.parts;
        let details = json!({
            "upstream_inference_cost": served.upstream.as_usd(),
            "upstream_inference_prompt_cost": prompt.as_usd(),
            "upstream_inference_completions_cost": completions.as_usd(),
        });
        usage.insert("cost_details".to_owned(), details);
    }
    usage.insert("is_byok".to_owned(), json!(false));
    Value::Object(usage)
}

/// The `sluice` object: money, and the trace where it was asked for.
pub(super) fn account(served: &Served, with_trace: bool) -> Value {
    let mut account = json!({
        "cache": served.head.hit.as_str(),
        "cost_usd": served.cost.as_usd(),
        "saved_usd": served.saved.as_usd(),
    });
    if with_trace {
        account["trace"] = (*served.trace).clone();
    }
    account
}

/// The headers that say what served.
pub(super) fn describe(headers: &mut HeaderMap, asked: &Asked, head: &Head) {
    insert(headers, "x-sluice-cache", head.hit.as_str());
    if let Some(source) = &head.source {
        insert(headers, "x-sluice-cache-id", source);
    }
    if let Hit::Similar { probability } = head.hit {
        insert(headers, "x-sluice-cache-probability", &format!("{probability:.4}"));
    }
    if asked.sold.hides_source {
        insert(headers, "x-sluice-model", &asked.sold.name);
    } else {
        insert(headers, "x-sluice-model", &head.model);
        insert(headers, "x-sluice-provider", &head.provider);
        if !head.policy.is_empty() {
            insert(headers, "x-sluice-policy", &head.policy);
        }
        insert(headers, "x-sluice-attempts", &head.attempts.len().to_string());
    }
    if let Some(notice) = head.notice.as_ref().filter(|_| !asked.sold.hides_source) {
        insert(headers, "x-sluice-model-notice", notice);
    }
    if let Some(max_tokens) = head.max_tokens {
        insert(headers, "x-sluice-max-tokens", &max_tokens.to_string());
    }
    // A follower did not wait for itself, so what its leader waited can exceed its own time.
    let overhead = asked.started.elapsed().saturating_sub(head.upstream_wait + head.queued);
    insert(headers, "x-sluice-overhead-us", &overhead.as_micros().to_string());
    if !head.queued.is_zero() {
        insert(headers, "x-sluice-queue-ms", &head.queued.as_millis().to_string());
    }
}

/// What is left of the key's limits, and when they begin anew.
pub(super) fn describe_limits(headers: &mut HeaderMap, asked: &Asked) {
    let limits = [
        (
            asked.counted.requests,
            ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"],
        ),
        (
            asked.counted.tokens,
            ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"],
        ),
    ];
    for (left, names) in limits {
        let Some(left) = left else { continue };
        insert(headers, names[0], &left.limit.to_string());
        insert(headers, names[1], &left.remaining.to_string());
        insert(headers, names[2], &left.reset_ms.to_string());
    }
}

pub(super) fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}
