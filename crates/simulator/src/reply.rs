//! What a simulated model answers: the text on file, or a marked one that names the prompt.

use crate::answers::Answers;
use crate::fault::Fault;
use protocol::Reply;
use serde_json::{Value, json};

/// Of the fault `huge`, at 4 characters a token.
const HUGE_TOKENS: usize = 200_000;

/// The answer on file, cut to `max_tokens`; unknown prompts get a marked one that names the prompt.
pub(crate) fn reply(answers: &Answers, model: &str, fault: Option<Fault>, body: &Value) -> Reply {
    let prompt = last_user_text(body);
    let (mut text, mut output_tokens) = match answers.find(&prompt, model) {
        Some(answer) => (answer.text.clone(), answer.output_tokens),
        None => {
            let text = format!("[simulated] {model} has no answer on file for: {}", shortened(&prompt));
            let tokens = tokens(&text);
            (text, tokens)
        }
    };
    let mut message = json!({"role": "assistant", "content": text});
    let mut finish_reason = json!("stop");
    if let Some(function) = forced_tool(body) {
        message = json!({"role": "assistant", "content": null, "tool_calls": [{"id": "call_simulated", "type": "function",
            "function": {"name": function, "arguments": "{\"city\":\"Paris\"}"}}]});
        finish_reason = json!("tool_calls");
    } else if body.pointer("/response_format/type").and_then(Value::as_str) == Some("json_schema") {
        message["content"] = json!("{\"simulated\":true}");
    } else if let Some(cap) = cap(body).filter(|cap| *cap < output_tokens) {
        let keep = text.chars().count() as u64 * cap / output_tokens.max(1);
        text = text.chars().take(keep as usize).collect();
        message["content"] = json!(text);
        output_tokens = cap;
        finish_reason = json!("length");
    }
    match fault {
        Some(Fault::Overruns) => output_tokens *= 100,
        Some(Fault::Length) => finish_reason = json!("length"),
        Some(Fault::Filter) => finish_reason = json!("content_filter"),
        Some(Fault::Trickle) => message["content"] = json!(format!("{text} naïve café 東京 🦀")),
        Some(Fault::NullContent) => {
            message["content"] = Value::Null;
            finish_reason = Value::Null;
            output_tokens = 0;
        }
        Some(Fault::Huge) => {
            message["content"] = json!("wide ".repeat(HUGE_TOKENS * 4 / 5));
            output_tokens = HUGE_TOKENS as u64;
        }
        _ => {}
    }
    let prompt_tokens = body["messages"]
        .as_array()
        .map_or(0, |messages| messages.iter().map(|message| tokens(&message["content"].to_string())).sum::<u64>());
    let value = json!({
        "id": "sim-0", "object": "chat.completion", "created": 0, "model": model, "provider": "simulated",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": output_tokens,
            "total_tokens": prompt_tokens + output_tokens}
    });
    serde_json::from_value(value).expect("the literal above is a reply")
}

/// A function is called where `tools` are offered and the last message is not yet a tool's result.
fn forced_tool(body: &Value) -> Option<String> {
    let last_role = body["messages"].as_array()?.last()?["role"].as_str()?;
    let name = body["tools"].as_array()?.first()?.pointer("/function/name")?.as_str()?;
    (last_role == "user").then(|| name.to_owned())
}

fn cap(body: &Value) -> Option<u64> {
    body["max_completion_tokens"].as_u64().or_else(|| body["max_tokens"].as_u64())
}

fn tokens(text: &str) -> u64 {
    text.chars().count().div_ceil(4) as u64
}

fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}

pub(crate) fn last_user_text(body: &Value) -> String {
    let messages = body["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(last) = messages.iter().rev().find(|message| message["role"] == "user") else { return String::new() };
    match &last["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    }
}
