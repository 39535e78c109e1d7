//! AWS Bedrock's Converse (docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html). Stream events come
//! as `{"<event type>": {payload}}`; their binary framing is the transport's.

use super::answer::{self, Answer, Finish, begins, call_begins, call_goes_on, count, finished, news, states, used};
use super::anthropic::{FORMAT, Thought};
use super::conversation::{
    AssistantTurn, Conversation, Format, Part, Source, ToolChoice, Turn, What, arguments, one_answer, take_turn,
};
use super::{DecodeError, Inexpressible, StreamItem, Target};
use crate::reply::Reply;
use crate::request::ChatRequest;
use crate::usage::Usage;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Writes the request's body; the model is in the address.
pub(super) fn encode_request(request: &ChatRequest, target: Target<'_>) -> Result<Value, Inexpressible> {
    one_answer(request)?;
    let said = Conversation::of(request, target)?;
    let mut body = Map::new();
    let system = blocks(said.system())?;
    if !system.is_empty() {
        body.insert("system".to_owned(), Value::Array(system));
    }
    body.insert("messages".to_owned(), messages(&said)?);
    // What Converse has no fields for goes to Anthropic's models as Anthropic takes it; others `reject` it.
    let thinking = said.anthropic_thinking(target.quirks.reasoning);
    let thinks = thinking.as_ref().is_some_and(|(thinking, _)| thinking["type"] != "disabled");
    let mut inference = Map::new();
    inference.extend(target.max_tokens.map(|cap| ("maxTokens".to_owned(), json!(cap))));
    let mut further = Map::new();
    if !thinks {
        said.copy(&[("temperature", "temperature"), ("top_p", "topP")], &mut inference);
        if let Some(temperature) = inference.get_mut("temperature").filter(|value| value.as_f64() > Some(1.0)) {
            *temperature = json!(1.0); // its scale ends where OpenAI's is halfway
        }
        said.copy(&[("top_k", "top_k")], &mut further);
    }
    inference.extend(said.stops().map(|stops| ("stopSequences".to_owned(), stops)));
    if !inference.is_empty() {
        body.insert("inferenceConfig".to_owned(), Value::Object(inference));
    }
    body.extend(encode_tools(&said)?.map(|tools| ("toolConfig".to_owned(), tools)));
    match &said.format {
        Format::Text => {}
        Format::Json => return Err(Inexpressible::new("response_format", "this provider takes json_schema only")),
        Format::Schema(wanted) => {
            let mut format = json!({"name": wanted.name, "schema": wanted.schema.to_string()});
            if let Some(description) = &wanted.description {
                format["description"] = description.clone();
            }
            let format = json!({"type": "json_schema", "structure": {"jsonSchema": format}});
            body.insert("outputConfig".to_owned(), json!({ "textFormat": format }));
        }
    }
    if let Some((thinking, effort)) = thinking {
        further.insert("thinking".to_owned(), thinking);
        further.extend(effort.map(|effort| ("output_config".to_owned(), json!({ "effort": effort }))));
    }
    if !further.is_empty() {
        body.insert("additionalModelRequestFields".to_owned(), Value::Object(further));
    }
    Ok(Value::Object(body))
}

fn messages(said: &Conversation) -> Result<Value, Inexpressible> {
    let mut messages: Vec<Value> = Vec::new();
    for turn in &said.turns {
        let (role, content) = match turn {
            Turn::System { .. } => continue,
            Turn::User(parts) => ("user", blocks(parts)?),
            Turn::Assistant(turn) => ("assistant", assistant(turn)?),
            Turn::Tool { call_id, parts, .. } => {
                let cached = parts.iter().find_map(|part| part.cache.as_ref());
                let texts: Vec<Value> = parts.iter().map(block).collect::<Result<_, _>>()?;
                let mut content = vec![json!({"toolResult": {"toolUseId": call_id, "content": texts}})];
                content.extend(cached.map(cache_point));
                ("user", content)
            }
        };
        take_turn(&mut messages, role, "content", content);
    }
    Ok(Value::Array(messages))
}

fn assistant(turn: &AssistantTurn) -> Result<Vec<Value>, Inexpressible> {
    let mut content: Vec<Value> = turn.details.iter().filter_map(thought).collect();
    content.extend(blocks(&turn.parts)?);
    content.extend(
        turn.calls
            .iter()
            .map(|call| json!({"toolUse": {"toolUseId": call.id, "name": call.name, "input": arguments(call)}})),
    );
    Ok(content)
}

fn thought(detail: &Value) -> Option<Value> {
    let content = match Thought::of(detail)? {
        Thought::Signed { text, signature } => json!({"reasoningText": {"text": text, "signature": signature}}),
        Thought::Redacted(data) => json!({"redactedContent": data}),
    };
    Some(json!({ "reasoningContent": content }))
}

fn blocks<'a>(parts: impl IntoIterator<Item = &'a Part>) -> Result<Vec<Value>, Inexpressible> {
    let mut blocks = Vec::new();
    for part in parts {
        blocks.push(block(part)?);
        blocks.extend(part.cache.as_ref().map(cache_point));
    }
    Ok(blocks)
}

/// OpenRouter's mark beside a part is a block of its own here.
fn cache_point(cache: &Value) -> Value {
    let mut point = json!({"type": "default"});
    if cache["ttl"].is_string() {
        point["ttl"] = cache["ttl"].clone();
    }
    json!({ "cachePoint": point })
}

fn block(part: &Part) -> Result<Value, Inexpressible> {
    let inline = |source: &Source, media: &str| match source {
        Source::Inline { media_type, data } => {
            let format = format_of(media_type)
                .ok_or_else(|| Inexpressible::new("messages", format!("this provider does not take `{media_type}`")))?;
            Ok((format, json!({ "bytes": data })))
        }
        Source::Url(_) => Err(Inexpressible::new("messages", format!("this provider takes {media} as data URLs only"))),
    };
    Ok(match &part.what {
        What::Text(text) => json!({ "text": text }),
        What::Image { source, .. } => {
            let (format, source) = inline(source, "pictures")?;
            json!({"image": {"format": format, "source": source}})
        }
        What::File { name, source } => {
            let (format, source) = inline(source, "files")?;
            json!({"document": {"format": format, "name": document_name(name), "source": source}})
        }
    })
}

/// Converse's own names of media types.
fn format_of(media_type: &str) -> Option<&'static str> {
    Some(match media_type.split(';').next().unwrap_or_default() {
        "image/png" => "png",
        "image/jpeg" | "image/jpg" => "jpeg",
        "image/gif" => "gif",
        "image/webp" => "webp",
        "application/pdf" => "pdf",
        "text/plain" => "txt",
        "text/csv" => "csv",
        "text/html" => "html",
        "text/markdown" => "md",
        "application/msword" => "doc",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document" => "docx",
        "application/vnd.ms-excel" => "xls",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet" => "xlsx",
        _ => return None,
    })
}

/// Letters, digits, single white space, hyphens, parentheses and square brackets are all that a name may have.
fn document_name(filename: &str) -> String {
    let stem = filename.rsplit_once('.').map_or(filename, |(stem, _)| stem);
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "-()[]".contains(c) { c } else { ' ' };
    let name: String = stem.chars().map(allowed).collect();
    let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
    if name.is_empty() { "document".to_owned() } else { name }
}

fn encode_tools(said: &Conversation) -> Result<Option<Value>, Inexpressible> {
    let used_before = !said.called_before().is_empty();
    if said.tools.is_empty() || matches!(said.choice, Some(ToolChoice::None)) {
        // Without the list a conversation that holds calls would be refused.
        let problem = "this provider cannot forbid tools in a conversation that has used them";
        return if used_before { Err(Inexpressible::new("tool_choice", problem)) } else { Ok(None) };
    }
    let mut tools = Vec::new();
    for tool in &said.tools {
        let schema = tool.parameters.clone().unwrap_or_else(|| json!({"type": "object", "properties": {}}));
        let mut spec = json!({"name": tool.name, "inputSchema": {"json": schema}});
        for (name, value) in [("description", &tool.description), ("strict", &tool.strict)] {
            if let Some(value) = value {
                spec[name] = value.clone();
            }
        }
        tools.push(json!({ "toolSpec": spec }));
        tools.extend(tool.cache.as_ref().map(cache_point));
    }
    let mut config = json!({ "tools": tools });
    match &said.choice {
        None | Some(ToolChoice::None) => {}
        Some(ToolChoice::Auto) => config["toolChoice"] = json!({"auto": {}}),
        Some(ToolChoice::Required) => config["toolChoice"] = json!({"any": {}}),
        Some(ToolChoice::Named(name)) => config["toolChoice"] = json!({"tool": {"name": name}}),
    }
    Ok(Some(config))
}

/// Reads a whole answer.
pub(super) fn decode_reply(body: &Value) -> Result<Reply, DecodeError> {
    let Some(content) = body.pointer("/output/message/content").and_then(Value::as_array) else {
        return Err(DecodeError::Foreign("the answer has no output message".to_owned()));
    };
    let mut answer = Answer::default();
    for block in content {
        if let Some(text) = block["text"].as_str() {
            answer.say(text);
        } else if let Some(call) = block.get("toolUse") {
            let text = |name: &str| call[name].as_str().unwrap_or("");
            answer.call(text("toolUseId"), text("name"), &call["input"].to_string());
        } else if let Some(thought) = block.get("reasoningContent") {
            if let Some(text) = thought.pointer("/reasoningText/text").and_then(Value::as_str) {
                answer.reasoning.push_str(text);
            }
            answer.detail(detail(thought));
        }
    }
    let finish = body["stopReason"].as_str().map(finish);
    Ok(answer::reply("", "", vec![answer.into_choice(0, finish)], usage(&body["usage"])))
}

fn detail(thought: &Value) -> Value {
    if let Some(data) = thought.get("redactedContent") {
        return json!({"type": "reasoning.encrypted", "data": data, "format": FORMAT});
    }
    let thought = &thought["reasoningText"];
    let mut detail =
        json!({"type": "reasoning.text", "text": thought["text"].as_str().unwrap_or(""), "format": FORMAT});
    if thought["signature"].is_string() {
        detail["signature"] = thought["signature"].clone();
    }
    detail
}

fn finish(native: &str) -> Finish {
    let reason = match native {
        "end_turn" | "stop_sequence" => "stop",
        "tool_use" => "tool_calls",
        "guardrail_intervened" | "content_filtered" => "content_filter",
        "malformed_model_output" | "malformed_tool_use" => "error",
        _ => "length", // also what we do not know: an answer that may go on is not a whole one
    };
    Finish { reason, native: native.to_owned() }
}

/// `inputTokens` are without the cached ones, as in Anthropic's own count.
fn usage(stated: &Value) -> Option<Usage> {
    states(stated, &["/inputTokens", "/outputTokens"]).then(|| {
        let written = count(stated, "/cacheWriteInputTokens");
        let details = stated["cacheDetails"].as_array().into_iter().flatten();
        let for_an_hour = details.filter(|detail| detail["ttl"] == "1h").map(|detail| count(detail, "/inputTokens"));
        let for_an_hour = for_an_hour.sum::<u64>().min(written);
        Usage {
            input_tokens: count(stated, "/inputTokens"),
            cache_read_tokens: count(stated, "/cacheReadInputTokens"),
            cache_write_tokens: written - for_an_hour,
            cache_write_1h_tokens: for_an_hour,
            output_tokens: count(stated, "/outputTokens"),
            reasoning_tokens: 0,
            estimated: false,
        }
    })
}

/// Reads the events of a stream.
#[derive(Debug, Default)]
pub struct Stream {
    /// The number of the tool call or thought in each content block.
    calls: BTreeMap<u64, usize>,
    /// The blocks of calls whose arguments have begun.
    told: BTreeSet<u64>,
    thoughts: BTreeMap<u64, usize>,
}

impl Stream {
    pub(super) fn decode(&mut self, event: &Value) -> Result<Vec<StreamItem>, DecodeError> {
        let Some((kind, payload)) = event.as_object().and_then(|event| event.iter().next()) else {
            return Err(DecodeError::Foreign("an event names no type".to_owned()));
        };
        let at = count(payload, "/contentBlockIndex");
        Ok(match kind.as_str() {
            "messageStart" => vec![begins("", "")],
            "contentBlockStart" => match payload.pointer("/start/toolUse") {
                Some(call) => {
                    let index = self.calls.len();
                    self.calls.insert(at, index);
                    let text = |name: &str| call[name].as_str().unwrap_or("");
                    vec![news(call_begins(index, text("toolUseId"), text("name"), ""))]
                }
                None => Vec::new(),
            },
            "contentBlockDelta" => self.go_on(at, &payload["delta"]),
            "contentBlockStop" => match self.calls.get(&at) {
                Some(index) if !self.told.contains(&at) => vec![news(call_goes_on(*index, "{}"))],
                _ => Vec::new(),
            },
            // `metadata` comes after it, or before.
            "messageStop" => {
                payload["stopReason"].as_str().map(|native| finished(0, &finish(native))).into_iter().collect()
            }
            "metadata" => usage(&payload["usage"]).map(used).into_iter().collect(),
            exception if exception.ends_with("Exception") => {
                let message = payload["message"].as_str().or(payload["Message"].as_str());
                vec![StreamItem::Error(message.unwrap_or(exception).to_owned())]
            }
            _ => Vec::new(),
        })
    }

    fn go_on(&mut self, at: u64, delta: &Value) -> Vec<StreamItem> {
        if let Some(text) = delta["text"].as_str() {
            return vec![news(answer::text(text))];
        }
        if let (Some(input), Some(index)) =
            (delta.pointer("/toolUse/input").and_then(Value::as_str), self.calls.get(&at))
        {
            if !input.is_empty() {
                self.told.insert(at);
            }
            return vec![news(call_goes_on(*index, input))];
        }
        let Some(thought) = delta.get("reasoningContent") else { return Vec::new() };
        let known = self.thoughts.len();
        let index = *self.thoughts.entry(at).or_insert(known);
        let text = thought["text"].as_str().unwrap_or("");
        let mut detail = match thought.get("redactedContent") {
            Some(data) => json!({"type": "reasoning.encrypted", "data": data, "format": FORMAT}),
            None => json!({"type": "reasoning.text", "text": text, "format": FORMAT}),
        };
        if thought["signature"].is_string() {
            detail["signature"] = thought["signature"].clone();
        }
        detail["index"] = json!(index);
        vec![news(answer::reasoning(text, detail))]
    }
}
