//! Where servers that call themselves compatible differ in their answers, put into OpenAI's and OpenRouter's shape.

use crate::usage::Usage;
use serde_json::{Map, Value, json};

/// Puts one choice right; `part` is `message` or `delta`.
pub(super) fn normalised_choice(choice: &mut Value, part: &str) {
    if let Some(Value::Object(message)) = choice.get_mut(part) {
        for field in ["tool_calls", "role"] {
            if message.get(field).is_some_and(Value::is_null) {
                message.shift_remove(field);
            }
        }
        // DeepSeek, xAI, Moonshot, Z.ai and Alibaba; some send `reasoning` as well.
        if let Some(thought) = message.shift_remove("reasoning_content")
            && message.get("reasoning").is_none_or(Value::is_null)
        {
            message.insert("reasoning".to_owned(), thought);
        }
        if message.get("content").is_some_and(Value::is_array) {
            split_content(message);
        }
        for call in message.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
            if call["function"]["name"].is_string() && call.get("type").is_none() {
                call["type"] = json!("function");
            }
        }
    }
    // Ollama and SGLang write "" while an answer goes on.
    if choice["finish_reason"] == "" {
        choice["finish_reason"] = Value::Null;
    }
    let native = choice["finish_reason"].as_str().unwrap_or_default().to_owned();
    let canonical = match native.as_str() {
        "model_length" => "length",
        "eos" => "stop",
        "insufficient_system_resource" => "error",
        _ => return,
    };
    choice["finish_reason"] = json!(canonical);
    choice["native_finish_reason"] = json!(native);
}

/// Mistral's reasoning models answer with a list of thinking and text parts.
fn split_content(message: &mut Map<String, Value>) {
    let Some(Value::Array(parts)) = message.shift_remove("content") else { return };
    let (mut text, mut thought) = (String::new(), String::new());
    for part in &parts {
        match &part["thinking"] {
            Value::Array(pieces) => {
                pieces.iter().filter_map(|piece| piece["text"].as_str()).for_each(|piece| thought.push_str(piece))
            }
            Value::String(piece) => thought.push_str(piece),
            _ => text.push_str(part["text"].as_str().unwrap_or("")),
        }
    }
    let content = if text.is_empty() && !thought.is_empty() { Value::Null } else { json!(text) };
    message.insert("content".to_owned(), content);
    if !thought.is_empty() {
        message.insert("reasoning".to_owned(), json!(thought));
    }
}

/// Finds the usage wherever it is, and puts counts right that are elsewhere or mean something else; what is right stays as
/// it came.
pub(super) fn normalised_usage(body: &mut Value) {
    let elsewhere = ["/choices/0/usage", "/x_groq/usage"]; // Moonshot, Groq
    if body.get("usage").is_none_or(Value::is_null)
        && let Some(found) = elsewhere.iter().find_map(|path| body.pointer(path).filter(|usage| usage.is_object()))
    {
        body["usage"] = found.clone();
    }
    let Some(usage) = body.get_mut("usage").filter(|usage| usage.is_object()) else { return };
    let count = |usage: &Value, path: &str| usage.pointer(path).and_then(Value::as_u64);
    let cached = ["/prompt_tokens_details/cached_tokens", "/prompt_cache_hit_tokens", "/cached_tokens"];
    let cached = cached.iter().find_map(|path| count(usage, path).filter(|count| *count > 0));
    if let (Some(cached), None | Some(0)) = (cached, count(usage, "/prompt_tokens_details/cached_tokens")) {
        if !usage["prompt_tokens_details"].is_object() {
            usage["prompt_tokens_details"] = json!({});
        }
        usage["prompt_tokens_details"]["cached_tokens"] = json!(cached);
    }
    let (Some(prompt), Some(completion), Some(total)) =
        (count(usage, "/prompt_tokens"), count(usage, "/completion_tokens"), count(usage, "/total_tokens"))
    else {
        return;
    };
    // xAI's completion tokens are without the reasoning ones; its total tells.
    let thought = count(usage, "/completion_tokens_details/reasoning_tokens").unwrap_or(0);
    if thought > 0 && total == prompt.saturating_add(completion).saturating_add(thought) {
        usage["completion_tokens"] = json!(completion.saturating_add(thought));
    }
    debug_assert!(Usage::from_openai(usage).is_some());
}
