//! Cohere's Chat v2 (docs.cohere.com/reference/chat).

use super::answer::{self, Answer, Finish, begins, call_begins, call_goes_on, finished, news, used};
use super::conversation::{
    Conversation, Format, Part, Source, ToolChoice, Turn, What, one_answer, text_of, text_result,
};
use super::{DecodeError, Inexpressible, StreamItem, Target, thinking::Thinking};
use crate::event::Delta;
use crate::reply::Reply;
use crate::request::ChatRequest;
use crate::usage::Usage;
use serde_json::{Map, Value, json};

/// Writes the request's body.
pub(super) fn encode_request(request: &ChatRequest, target: Target<'_>) -> Result<Value, Inexpressible> {
    one_answer(request)?;
    let said = Conversation::of(request, target)?;
    let mut body = Map::new();
    body.insert("model".to_owned(), json!(target.model));
    body.insert("messages".to_owned(), messages(&said)?);
    if !said.tools.is_empty() {
        let tools = said.tools.iter().map(|tool| {
            let mut function = json!({"name": tool.name});
            let fields = [("description", &tool.description), ("parameters", &tool.parameters)];
            for (name, value) in fields.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))) {
                function[name] = value;
            }
            json!({"type": "function", "function": function})
        });
        body.insert("tools".to_owned(), tools.collect());
        match &said.choice {
            None | Some(ToolChoice::Auto) => {}
            Some(ToolChoice::None) => drop(body.insert("tool_choice".to_owned(), json!("NONE"))),
            Some(ToolChoice::Required) => drop(body.insert("tool_choice".to_owned(), json!("REQUIRED"))),
            Some(ToolChoice::Named(_)) => {
                return Err(Inexpressible::new("tool_choice", "this provider cannot be told which tool to call"));
            }
        }
    }
    match &said.format {
        Format::Text => {}
        Format::Json => drop(body.insert("response_format".to_owned(), json!({"type": "json_object"}))),
        Format::Schema(wanted) => {
            body.insert("response_format".to_owned(), json!({"type": "json_object", "json_schema": wanted.schema}));
        }
    }
    body.extend(target.max_tokens.map(|cap| ("max_tokens".to_owned(), json!(cap))));
    let same = [
        ("temperature", "temperature"),
        ("top_p", "p"),
        ("top_k", "k"),
        ("seed", "seed"),
        ("frequency_penalty", "frequency_penalty"),
        ("presence_penalty", "presence_penalty"),
    ];
    said.copy(&same, &mut body);
    body.extend(said.stops().map(|stops| ("stop_sequences".to_owned(), stops)));
    match &said.thinking {
        Thinking::Unsaid => {}
        Thinking::Off => drop(body.insert("thinking".to_owned(), json!({"type": "disabled"}))),
        thinking => {
            let budget = thinking.budget(said.cap).unwrap_or_default().max(1);
            body.insert("thinking".to_owned(), json!({"type": "enabled", "token_budget": budget}));
        }
    }
    if request.stream {
        body.insert("stream".to_owned(), json!(true));
    }
    Ok(Value::Object(body))
}

fn messages(said: &Conversation) -> Result<Value, Inexpressible> {
    let mut messages = Vec::new();
    for turn in &said.turns {
        messages.push(match turn {
            Turn::System { parts, .. } => json!({"role": "system", "content": content(parts)?}),
            Turn::User(parts) => json!({"role": "user", "content": content(parts)?}),
            Turn::Tool { call_id, parts, .. } => {
                json!({"role": "tool", "tool_call_id": call_id, "content": text_result(parts)?})
            }
            Turn::Assistant(turn) => {
                let mut message = json!({"role": "assistant"});
                let thoughts: Vec<Value> = turn.details.iter().filter_map(thought).collect();
                if !turn.calls.is_empty() {
                    let calls = turn.calls.iter().map(|call| answer::call(&call.id, &call.name, &call.arguments));
                    message["tool_calls"] = calls.collect();
                }
                let text = text_of(&turn.parts);
                match (thoughts.is_empty(), turn.calls.is_empty()) {
                    (true, true) => message["content"] = content(&turn.parts)?,
                    (true, false) if !text.is_empty() => message["tool_plan"] = json!(text),
                    (true, false) => {}
                    (false, _) => {
                        let texts = (!text.is_empty()).then(|| json!({"type": "text", "text": text}));
                        message["content"] = thoughts.into_iter().chain(texts).collect();
                    }
                }
                message
            }
        });
    }
    Ok(Value::Array(messages))
}

fn thought(detail: &Value) -> Option<Value> {
    let is_text = detail["type"] == "reasoning.text";
    is_text.then(|| json!({"type": "thinking", "thinking": detail["text"].as_str().unwrap_or("")}))
}

/// A plain text stays one.
fn content(parts: &[Part]) -> Result<Value, Inexpressible> {
    if let [Part { what: What::Text(text), .. }] = parts {
        return Ok(json!(text));
    }
    let part = |part: &Part| match &part.what {
        What::Text(text) => Ok(json!({"type": "text", "text": text})),
        What::Image { source, detail } => {
            let url = match source {
                Source::Url(url) => url.clone(),
                Source::Inline { media_type, data } => format!("data:{media_type};base64,{data}"),
            };
            let mut image = json!({ "url": url });
            if let Some(detail) = detail {
                image["detail"] = json!(detail);
            }
            Ok(json!({"type": "image_url", "image_url": image}))
        }
        What::File { .. } => Err(Inexpressible::new("messages", "this provider takes no files")),
    };
    parts.iter().map(part).collect::<Result<Vec<_>, _>>().map(Value::Array)
}

/// Reads a whole answer.
pub(super) fn decode_reply(body: &Value) -> Result<Reply, DecodeError> {
    let message = &body["message"];
    if !message.is_object() {
        let said = message.as_str().map(str::to_owned);
        return Err(
            said.map_or_else(|| DecodeError::Foreign("the answer has no message".to_owned()), DecodeError::Said)
        );
    }
    let mut answer = Answer::default();
    for part in message["content"].as_array().into_iter().flatten() {
        match part["type"].as_str().unwrap_or("text") {
            "thinking" => {
                let text = part["thinking"].as_str().unwrap_or("");
                answer.reasoning.push_str(text);
                answer.detail(json!({"type": "reasoning.text", "text": text, "format": "unknown"}));
            }
            _ => answer.say(part["text"].as_str().unwrap_or("")),
        }
    }
    if answer.text.is_none() {
        answer.text = message["tool_plan"].as_str().filter(|plan| !plan.is_empty()).map(str::to_owned);
    }
    for call in message["tool_calls"].as_array().into_iter().flatten() {
        let text = |path: &str| call.pointer(path).and_then(Value::as_str).unwrap_or("");
        answer.call(text("/id"), text("/function/name"), text("/function/arguments"));
    }
    if let Some(citations) = message["citations"].as_array().filter(|citations| !citations.is_empty()) {
        answer.extra.insert("citations".to_owned(), json!(citations));
    }
    let finish = body["finish_reason"].as_str().map(finish);
    Ok(answer::reply(body["id"].as_str().unwrap_or(""), "", vec![answer.into_choice(0, finish)], usage(&body["usage"])))
}

fn finish(native: &str) -> Finish {
    let reason = match native {
        "MAX_TOKENS" => "length",
        "TOOL_CALL" => "tool_calls",
        "COMPLETE" | "STOP_SEQUENCE" => "stop",
        _ => "error",
    };
    Finish { reason, native: native.to_owned() }
}

/// What is billed, where it is stated; `cached_tokens` may count more than was billed as input.
fn usage(stated: &Value) -> Option<Usage> {
    let counted =
        ["billed_units", "tokens"].into_iter().map(|name| &stated[name]).find(|counted| counted.is_object())?;
    // They are written as 5.0; more than any answer has would overflow sums.
    let capped = |value: &Value| value.as_f64().map(|tokens| tokens.clamp(0.0, 1e9) as u64);
    let whole = |name: &str| capped(&counted[name]);
    let (input, output) = (whole("input_tokens")?, whole("output_tokens")?);
    let cached = capped(&stated["cached_tokens"]).unwrap_or(0).min(input);
    Some(Usage { input_tokens: input - cached, cache_read_tokens: cached, output_tokens: output, ..Usage::default() })
}

/// Reads the events of a stream.
#[derive(Debug, Default)]
pub struct Stream {
    calls: usize,
    details: usize,
    thinks: bool,
}

impl Stream {
    pub(super) fn decode(&mut self, event: &Value) -> Result<Vec<StreamItem>, DecodeError> {
        let message = &event["delta"]["message"];
        let text = |path: &str| message.pointer(path).and_then(Value::as_str).unwrap_or("");
        Ok(match event["type"].as_str().unwrap_or("") {
            "message-start" => vec![begins(event["id"].as_str().unwrap_or(""), "")],
            "content-start" => {
                self.thinks = text("/content/type") == "thinking";
                let begun = if self.thinks { text("/content/thinking") } else { text("/content/text") };
                self.details += usize::from(self.thinks);
                self.said(begun)
            }
            "content-delta" if message.pointer("/content/thinking").is_some() => self.said(text("/content/thinking")),
            "content-delta" => vec![news(answer::text(text("/content/text")))],
            "tool-plan-delta" => vec![news(answer::text(text("/tool_plan")))],
            "tool-call-start" => {
                self.calls += 1;
                let (id, name) = (text("/tool_calls/id"), text("/tool_calls/function/name"));
                vec![news(call_begins(self.calls - 1, id, name, text("/tool_calls/function/arguments")))]
            }
            "tool-call-delta" => {
                vec![news(call_goes_on(self.calls.saturating_sub(1), text("/tool_calls/function/arguments")))]
            }
            "citation-start" => {
                let extra = Map::from_iter([("citations".to_owned(), json!([message["citations"]]))]);
                vec![news(Delta { extra, ..Delta::default() })]
            }
            "message-end" => self.end(&event["delta"]),
            _ => Vec::new(),
        })
    }

    fn said(&self, words: &str) -> Vec<StreamItem> {
        if words.is_empty() {
            return Vec::new();
        }
        if !self.thinks {
            return vec![news(answer::text(words))];
        }
        let index = self.details.saturating_sub(1);
        let detail = json!({"type": "reasoning.text", "text": words, "format": "unknown", "index": index});
        vec![news(answer::reasoning(words, detail))]
    }

    fn end(&self, delta: &Value) -> Vec<StreamItem> {
        if let Some(error) = delta["error"].as_str() {
            return vec![StreamItem::Error(error.to_owned())];
        }
        let finish = delta["finish_reason"].as_str().map(|native| finished(0, &finish(native)));
        finish.into_iter().chain(usage(&delta["usage"]).map(used)).chain([StreamItem::Done]).collect()
    }
}
