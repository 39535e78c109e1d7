//! OpenAI's Responses (platform.openai.com/docs/api-reference/responses), which some models speak only.

use super::answer::{self, Answer, Finish, begins, call_begins, call_goes_on, count, finished, news, states, used};
use super::conversation::{
    AssistantTurn, Conversation, Format, Part, Source, ToolChoice, Turn, What, one_answer, text_of,
};
use super::{DecodeError, Inexpressible, StreamItem, Target};
use crate::event::Delta;
use crate::reply::Reply;
use crate::request::ChatRequest;
use crate::usage::Usage;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

const FORMAT: &str = "openai-responses-v1";

/// Writes the request's body. Nothing is kept at the provider: thoughts travel with the conversation, encrypted.
pub(super) fn encode_request(request: &ChatRequest, target: Target<'_>) -> Result<Value, Inexpressible> {
    one_answer(request)?;
    let said = Conversation::of(request, target)?;
    let mut body = Map::new();
    body.insert("model".to_owned(), json!(target.model));
    let input = input(&said);
    let has_thoughts = input.iter().any(|item| item["type"] == "reasoning");
    body.insert("input".to_owned(), Value::Array(input));
    encode_tools(&said, &mut body);
    let mut text = Map::new();
    match &said.format {
        Format::Text => {}
        Format::Json => drop(text.insert("format".to_owned(), json!({"type": "json_object"}))),
        Format::Schema(wanted) => {
            let mut format = json!({"type": "json_schema", "name": wanted.name, "schema": wanted.schema});
            for (field, value) in [("description", &wanted.description), ("strict", &wanted.strict)] {
                if let Some(value) = value {
                    format[field] = value.clone();
                }
            }
            text.insert("format".to_owned(), format);
        }
    }
    said.copy(&[("verbosity", "verbosity")], &mut text);
    if !text.is_empty() {
        body.insert("text".to_owned(), Value::Object(text));
    }
    body.extend(target.max_tokens.map(|cap| ("max_output_tokens".to_owned(), json!(cap))));
    let same = ["temperature", "top_p", "user", "metadata", "service_tier", "prompt_cache_key", "safety_identifier"];
    said.copy(&same.map(|name| (name, name)), &mut body);
    let effort = said.thinking.known_effort(said.cap, &target.quirks.efforts);
    if let Some(effort) = &effort {
        let reasoning =
            if effort == "none" { json!({"effort": "none"}) } else { json!({"effort": effort, "summary": "auto"}) };
        body.insert("reasoning".to_owned(), reasoning);
    }
    if has_thoughts || effort.is_some_and(|effort| effort != "none") {
        body.insert("include".to_owned(), json!(["reasoning.encrypted_content"]));
    }
    body.insert("store".to_owned(), json!(false));
    if request.stream {
        body.insert("stream".to_owned(), json!(true));
    }
    Ok(Value::Object(body))
}

fn input(said: &Conversation) -> Vec<Value> {
    let mut items = Vec::new();
    for turn in &said.turns {
        match turn {
            Turn::System { role, parts } => {
                items.push(json!({"type": "message", "role": role, "content": contents(parts)}));
            }
            Turn::User(parts) => items.push(json!({"type": "message", "role": "user", "content": contents(parts)})),
            Turn::Tool { call_id, parts, plain } => {
                let output = if *plain { json!(text_of(parts)) } else { contents(parts) };
                items.push(json!({"type": "function_call_output", "call_id": call_id, "output": output}));
            }
            Turn::Assistant(turn) => assistant(turn, &mut items),
        }
    }
    items
}

fn assistant(turn: &AssistantTurn, items: &mut Vec<Value>) {
    items.extend(thoughts(&turn.details));
    let text = text_of(&turn.parts);
    if !text.is_empty() {
        let content = json!([{"type": "output_text", "text": text}]);
        items.push(json!({"type": "message", "role": "assistant", "content": content}));
    }
    for call in &turn.calls {
        let (id, name, arguments) = (&call.id, &call.name, &call.arguments);
        items.push(json!({"type": "function_call", "call_id": id, "name": name, "arguments": arguments}));
    }
}

/// Details of one id are one item again.
fn thoughts(details: &[Value]) -> Vec<Value> {
    let mut items: Vec<Value> = Vec::new();
    for detail in details.iter().filter(|detail| detail["format"] == FORMAT) {
        let id = detail["id"].as_str();
        let known = items.iter().position(|item| id.is_some() && item["id"].as_str() == id);
        let at = known.unwrap_or_else(|| {
            let mut item = json!({"type": "reasoning", "summary": []});
            if let Some(id) = id {
                item["id"] = json!(id);
            }
            items.push(item);
            items.len() - 1
        });
        match (detail["type"].as_str(), &mut items[at]) {
            (Some("reasoning.summary"), item) => {
                if let Value::Array(summary) = &mut item["summary"] {
                    summary.push(json!({"type": "summary_text", "text": detail["summary"]}));
                }
            }
            (Some("reasoning.encrypted"), item) => item["encrypted_content"] = detail["data"].clone(),
            _ => {}
        }
    }
    // Nothing is kept at the provider: a thought without its contents means nothing to it, and is answered 404.
    items.retain(|item| item["encrypted_content"].is_string());
    items
}

fn contents(parts: &[Part]) -> Value {
    let data_url = |media_type: &str, data: &str| format!("data:{media_type};base64,{data}");
    let content = |part: &Part| match &part.what {
        What::Text(text) => json!({"type": "input_text", "text": text}),
        What::Image { source, detail } => {
            let url = match source {
                Source::Url(url) => url.clone(),
                Source::Inline { media_type, data } => data_url(media_type, data),
            };
            let mut image = json!({"type": "input_image", "image_url": url});
            if let Some(detail) = detail {
                image["detail"] = json!(detail);
            }
            image
        }
        What::File { source: Source::Url(url), .. } => json!({"type": "input_file", "file_url": url}),
        What::File { name, source: Source::Inline { media_type, data } } => {
            let name = if name.is_empty() { "file.pdf" } else { name };
            json!({"type": "input_file", "filename": name, "file_data": data_url(media_type, data)})
        }
    };
    parts.iter().map(content).collect()
}

fn encode_tools(said: &Conversation, body: &mut Map<String, Value>) {
    if said.tools.is_empty() {
        return;
    }
    let tools = said.tools.iter().map(|tool| {
        let mut wire = json!({"type": "function", "name": tool.name});
        if let Some(description) = &tool.description {
            wire["description"] = description.clone();
        }
        wire["parameters"] = tool.parameters.clone().unwrap_or_else(|| json!({"type": "object", "properties": {}}));
        wire["strict"] = tool.strict.clone().unwrap_or_else(|| json!(false)); // here it is true where nothing is said
        wire
    });
    body.insert("tools".to_owned(), tools.collect());
    let choice = match &said.choice {
        None => None,
        Some(ToolChoice::Auto) => Some(json!("auto")),
        Some(ToolChoice::None) => Some(json!("none")),
        Some(ToolChoice::Required) => Some(json!("required")),
        Some(ToolChoice::Named(name)) => Some(json!({"type": "function", "name": name})),
    };
    body.extend(choice.map(|choice| ("tool_choice".to_owned(), choice)));
    body.extend(said.parallel_calls.map(|parallel| ("parallel_tool_calls".to_owned(), json!(parallel))));
}

/// Reads a whole answer.
pub(super) fn decode_reply(body: &Value) -> Result<Reply, DecodeError> {
    let Some(output) = body["output"].as_array() else {
        return Err(DecodeError::Foreign("the answer has no output".to_owned()));
    };
    let mut answer = Answer::default();
    let mut summaries: Vec<&str> = Vec::new();
    for item in output {
        match item["type"].as_str().unwrap_or("") {
            "message" => message(item, &mut answer),
            "reasoning" => {
                for part in item["summary"].as_array().into_iter().flatten() {
                    let text = part["text"].as_str().unwrap_or("");
                    summaries.push(text);
                    answer.detail(with_id(json!({"type": "reasoning.summary", "summary": text}), item));
                }
                if let Some(data) = item["encrypted_content"].as_str() {
                    answer.detail(with_id(json!({"type": "reasoning.encrypted", "data": data}), item));
                }
            }
            "function_call" => {
                let text = |name: &str| item[name].as_str().unwrap_or("");
                answer.call(text("call_id"), text("name"), text("arguments"));
            }
            _ => {}
        }
    }
    answer.reasoning = summaries.join("\n\n");
    let finish = finish(body, !answer.calls.is_empty());
    let text = |name: &str| body[name].as_str().unwrap_or("");
    Ok(answer::reply(text("id"), text("model"), vec![answer.into_choice(0, finish)], usage(&body["usage"])))
}

fn message(item: &Value, answer: &mut Answer) {
    for part in item["content"].as_array().into_iter().flatten() {
        match part["type"].as_str().unwrap_or("") {
            "refusal" => answer.refusal.get_or_insert_default().push_str(part["refusal"].as_str().unwrap_or("")),
            _ => answer.say(part["text"].as_str().unwrap_or("")),
        }
        if let Some(annotations) = part["annotations"].as_array().filter(|list| !list.is_empty()) {
            match answer.extra.entry("annotations").or_insert_with(|| json!([])) {
                Value::Array(known) => known.extend(annotations.iter().cloned()),
                other => *other = json!(annotations),
            }
        }
    }
}

fn with_id(mut detail: Value, item: &Value) -> Value {
    if item["id"].is_string() {
        detail["id"] = item["id"].clone();
    }
    detail["format"] = json!(FORMAT);
    detail
}

fn finish(response: &Value, calls: bool) -> Option<Finish> {
    let status = response["status"].as_str()?;
    let native = response.pointer("/incomplete_details/reason").and_then(Value::as_str).unwrap_or(status);
    let reason = match native {
        "max_output_tokens" => "length",
        "content_filter" => "content_filter",
        "completed" if calls => "tool_calls",
        "completed" => "stop",
        _ => "error",
    };
    Some(Finish { reason, native: native.to_owned() })
}

/// `input_tokens` include the cached, `output_tokens` the reasoning ones.
fn usage(stated: &Value) -> Option<Usage> {
    states(stated, &["/input_tokens", "/output_tokens"]).then(|| {
        let (input, output) = (count(stated, "/input_tokens"), count(stated, "/output_tokens"));
        let cached = count(stated, "/input_tokens_details/cached_tokens").min(input);
        let written = count(stated, "/input_tokens_details/cache_write_tokens").min(input - cached);
        let thought = count(stated, "/output_tokens_details/reasoning_tokens").min(output);
        Usage {
            input_tokens: input - cached - written,
            cache_read_tokens: cached,
            cache_write_tokens: written,
            output_tokens: output - thought,
            reasoning_tokens: thought,
            ..Usage::default()
        }
    })
}

/// Reads the events of a stream.
#[derive(Debug, Default)]
pub struct Stream {
    /// The number of the call that is each output item.
    calls: BTreeMap<u64, usize>,
    /// The number of the detail that is each summary of each output item.
    details: BTreeMap<(u64, u64), usize>,
    told_reasoning: bool,
    /// Arguments told so far, by call: some servers send them with the end only.
    told_arguments: BTreeMap<u64, bool>,
}

/// Output items of one answer at the most.
const ITEMS_MAX: u64 = 4_096;

impl Stream {
    pub(super) fn decode(&mut self, event: &Value) -> Result<Vec<StreamItem>, DecodeError> {
        let at = count(event, "/output_index");
        if at >= ITEMS_MAX || count(event, "/summary_index") >= ITEMS_MAX {
            return Err(DecodeError::Foreign("an event is of an output item that cannot be".to_owned()));
        }
        let delta = event["delta"].as_str().unwrap_or("");
        let response = &event["response"];
        Ok(match event["type"].as_str().unwrap_or("") {
            "response.created" => {
                let text = |name: &str| response[name].as_str().unwrap_or("");
                vec![begins(text("id"), text("model"))]
            }
            "response.output_item.added" if event["item"]["type"] == "function_call" => {
                let index = self.calls.len();
                self.calls.insert(at, index);
                let text = |name: &str| event["item"][name].as_str().unwrap_or("");
                self.told_arguments.insert(at, !text("arguments").is_empty());
                vec![news(call_begins(index, text("call_id"), text("name"), text("arguments")))]
            }
            "response.output_text.delta" => vec![news(answer::text(delta))],
            "response.refusal.delta" => vec![news(Delta { refusal: Some(delta.to_owned()), ..Delta::default() })],
            "response.function_call_arguments.delta" => self.arguments(at, delta),
            "response.reasoning_summary_text.delta" => self.summary(event, at, delta),
            "response.output_text.annotation.added" => {
                let extra = Map::from_iter([("annotations".to_owned(), json!([event["annotation"]]))]);
                vec![news(Delta { extra, ..Delta::default() })]
            }
            "response.output_item.done" => self.item_done(&event["item"], at),
            "response.completed" | "response.incomplete" => {
                let finish = finish(response, !self.calls.is_empty()).map(|finish| finished(0, &finish));
                let usage = usage(&response["usage"]).map(used);
                finish.into_iter().chain(usage).chain([StreamItem::Done]).collect()
            }
            "response.failed" => {
                let message = response.pointer("/error/message").and_then(Value::as_str);
                vec![StreamItem::Error(message.unwrap_or("the response failed").to_owned())]
            }
            "error" => vec![StreamItem::Error(event["message"].as_str().unwrap_or("the response failed").to_owned())],
            _ => Vec::new(),
        })
    }

    fn arguments(&mut self, at: u64, delta: &str) -> Vec<StreamItem> {
        let Some(index) = self.calls.get(&at) else { return Vec::new() };
        self.told_arguments.insert(at, true);
        vec![news(call_goes_on(*index, delta))]
    }

    fn summary(&mut self, event: &Value, at: u64, delta: &str) -> Vec<StreamItem> {
        let known = self.details.len();
        let key = (at, count(event, "/summary_index"));
        let is_new = !self.details.contains_key(&key);
        let index = *self.details.entry(key).or_insert(known);
        let mut detail = json!({"type": "reasoning.summary", "summary": delta});
        if event["item_id"].is_string() {
            detail["id"] = event["item_id"].clone();
        }
        detail["format"] = json!(FORMAT);
        detail["index"] = json!(index);
        let between = if is_new && self.told_reasoning { "\n\n" } else { "" };
        self.told_reasoning = true;
        vec![news(answer::reasoning(&format!("{between}{delta}"), detail))]
    }

    fn item_done(&mut self, item: &Value, at: u64) -> Vec<StreamItem> {
        match item["type"].as_str().unwrap_or("") {
            "reasoning" => {
                let Some(data) = item["encrypted_content"].as_str() else { return Vec::new() };
                let index = self.details.len();
                self.details.insert((at, u64::MAX), index);
                let mut detail = with_id(json!({"type": "reasoning.encrypted", "data": data}), item);
                detail["index"] = json!(index);
                vec![news(answer::reasoning("", detail))]
            }
            "function_call" if self.told_arguments.get(&at) == Some(&false) => {
                self.arguments(at, item["arguments"].as_str().unwrap_or(""))
            }
            _ => Vec::new(),
        }
    }
}
