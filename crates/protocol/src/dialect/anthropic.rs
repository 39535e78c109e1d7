//! Anthropic's Messages (platform.claude.com/docs/en/api/messages), also as Vertex serves them.

use super::answer::{self, Answer, Finish, begins, call_begins, call_goes_on, count, finished, news, states, used};
use super::conversation::{
    AssistantTurn, Conversation, Format, Part, Source, ToolChoice, Turn, What, arguments, one_answer, take_turn,
};
use super::{DecodeError, Inexpressible, StreamItem, Target};
use crate::reply::Reply;
use crate::request::ChatRequest;
use crate::usage::Usage;
use serde_json::{Map, Value, json};

/// The value of `format` in `reasoning_details`: signatures are good at Anthropic's models only.
pub(super) const FORMAT: &str = "anthropic-claude-v1";
/// What Vertex takes in place of the version header.
const VERTEX_VERSION: &str = "vertex-2023-10-16";

/// Writes the request's body.
pub(super) fn encode_request(request: &ChatRequest, target: Target<'_>) -> Result<Value, Inexpressible> {
    one_answer(request)?;
    let said = Conversation::of(request, target)?;
    let mut body = Map::new();
    body.insert("model".to_owned(), json!(target.model));
    body.insert("max_tokens".to_owned(), json!(said.cap));
    let system = blocks(said.system())?;
    if !system.is_empty() {
        body.insert("system".to_owned(), Value::Array(system));
    }
    body.insert("messages".to_owned(), messages(&said)?);
    encode_tools(&said, &mut body);
    let mut output = Map::new();
    match &said.format {
        Format::Text => {}
        Format::Json => return Err(Inexpressible::new("response_format", "this provider takes json_schema only")),
        Format::Schema(wanted) => {
            output.insert("format".to_owned(), json!({"type": "json_schema", "schema": wanted.schema}));
        }
    }
    let mut thinks = false;
    if let Some((thinking, effort)) = said.anthropic_thinking(target.quirks.reasoning) {
        thinks = thinking["type"] != "disabled";
        body.insert("thinking".to_owned(), thinking);
        output.extend(effort.map(|effort| ("effort".to_owned(), effort)));
    }
    if !thinks {
        said.copy(&[("top_p", "top_p"), ("top_k", "top_k")], &mut body);
        if let Some(temperature) = request.temperature.filter(|_| said.field("temperature").is_some()) {
            body.insert("temperature".to_owned(), json!(temperature.min(1.0))); // its scale ends where OpenAI's is halfway
        }
    }
    body.extend(said.stops().map(|stops| ("stop_sequences".to_owned(), stops)));
    if !output.is_empty() {
        body.insert("output_config".to_owned(), Value::Object(output));
    }
    if let Some(user) = &request.user {
        body.insert("metadata".to_owned(), json!({ "user_id": user }));
    }
    said.copy(&[("cache_control", "cache_control")], &mut body);
    let tier = match said.field("service_tier").and_then(Value::as_str) {
        Some("auto") => Some("auto"),
        Some("default" | "standard_only") => Some("standard_only"),
        _ => None, // OpenAI's other tiers are not sold here
    };
    body.extend(tier.map(|tier| ("service_tier".to_owned(), json!(tier))));
    if request.stream {
        body.insert("stream".to_owned(), json!(true));
    }
    Ok(Value::Object(body))
}

/// The same body as Vertex takes it: the model is in the address, the version in the body.
pub(super) fn for_vertex(mut body: Value) -> Value {
    if let Value::Object(fields) = &mut body {
        fields.shift_remove("model");
        fields.insert("anthropic_version".to_owned(), json!(VERTEX_VERSION));
    }
    body
}

fn messages(said: &Conversation) -> Result<Value, Inexpressible> {
    let mut messages: Vec<Value> = Vec::new();
    for turn in &said.turns {
        let (role, content) = match turn {
            Turn::System { .. } => continue,
            Turn::User(parts) => ("user", blocks(parts)?),
            Turn::Assistant(turn) => ("assistant", assistant(turn)?),
            Turn::Tool { call_id, parts, plain } => ("user", vec![tool_result(call_id, parts, *plain)?]),
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
            .map(|call| json!({"type": "tool_use", "id": call.id, "name": call.name, "input": arguments(call)})),
    );
    Ok(content)
}

/// A thought given back, as Bedrock takes it, too.
pub(super) enum Thought<'a> {
    Signed { text: &'a str, signature: &'a str },
    Redacted(&'a Value),
}

impl<'a> Thought<'a> {
    /// One of `reasoning_details`; `None` where it is another's or without its signature, which would be refused.
    pub(super) fn of(detail: &'a Value) -> Option<Self> {
        if detail["format"].as_str().is_some_and(|format| format != FORMAT) {
            return None;
        }
        match detail["type"].as_str()? {
            "reasoning.text" => Some(Self::Signed {
                text: detail["text"].as_str().unwrap_or(""),
                signature: detail["signature"].as_str()?,
            }),
            "reasoning.encrypted" => Some(Self::Redacted(&detail["data"])),
            _ => None,
        }
    }
}

fn thought(detail: &Value) -> Option<Value> {
    Some(match Thought::of(detail)? {
        Thought::Signed { text, signature } => json!({"type": "thinking", "thinking": text, "signature": signature}),
        Thought::Redacted(data) => json!({"type": "redacted_thinking", "data": data}),
    })
}

fn tool_result(call_id: &str, parts: &[Part], plain: bool) -> Result<Value, Inexpressible> {
    let mut result = json!({"type": "tool_result", "tool_use_id": call_id});
    match parts {
        [Part { what: What::Text(text), cache }] if plain => {
            result["content"] = json!(text);
            if let Some(cache) = cache {
                result["cache_control"] = cache.clone();
            }
        }
        parts => result["content"] = Value::Array(blocks(parts)?),
    }
    Ok(result)
}

fn blocks<'a>(parts: impl IntoIterator<Item = &'a Part>) -> Result<Vec<Value>, Inexpressible> {
    parts.into_iter().map(block).collect()
}

fn block(part: &Part) -> Result<Value, Inexpressible> {
    let mut block = match &part.what {
        What::Text(text) => json!({"type": "text", "text": text}),
        What::Image { source, .. } => json!({"type": "image", "source": encode_source(source)}),
        What::File { name, source } => {
            let mut document = json!({"type": "document", "source": encode_source(source)});
            if !name.is_empty() {
                document["title"] = json!(name);
            }
            document
        }
    };
    if let Some(cache) = &part.cache {
        block["cache_control"] = cache.clone();
    }
    Ok(block)
}

fn encode_source(source: &Source) -> Value {
    match source {
        Source::Inline { media_type, data } => json!({"type": "base64", "media_type": media_type, "data": data}),
        Source::Url(url) => json!({"type": "url", "url": url}),
    }
}

fn encode_tools(said: &Conversation, body: &mut Map<String, Value>) {
    if said.tools.is_empty() {
        // A conversation that holds calls is refused without the tools; what may be called is still nothing.
        let used = said.called_before();
        if !used.is_empty() {
            let tools = used.iter().map(|name| json!({"name": name, "input_schema": {"type": "object"}}));
            body.insert("tools".to_owned(), tools.collect());
            body.insert("tool_choice".to_owned(), json!({"type": "none"}));
        }
        return;
    }
    let tools = said.tools.iter().map(|tool| {
        let mut wire = json!({"name": tool.name});
        let schema = tool.parameters.clone().unwrap_or_else(|| json!({"type": "object", "properties": {}}));
        let further = [("description", &tool.description), ("strict", &tool.strict), ("cache_control", &tool.cache)];
        wire["input_schema"] = schema;
        for (name, value) in further.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))) {
            wire[name] = value;
        }
        wire
    });
    body.insert("tools".to_owned(), tools.collect());
    let mut choice = match &said.choice {
        None if said.parallel_calls == Some(false) => json!({"type": "auto"}),
        None => return,
        Some(ToolChoice::Auto) => json!({"type": "auto"}),
        Some(ToolChoice::None) => json!({"type": "none"}),
        Some(ToolChoice::Required) => json!({"type": "any"}),
        Some(ToolChoice::Named(name)) => json!({"type": "tool", "name": name}),
    };
    if said.parallel_calls == Some(false) && choice["type"] != "none" {
        choice["disable_parallel_tool_use"] = json!(true);
    }
    body.insert("tool_choice".to_owned(), choice);
}

/// Reads a whole answer.
pub(super) fn decode_reply(body: &Value) -> Result<Reply, DecodeError> {
    let Some(content) = body["content"].as_array() else {
        return Err(DecodeError::Foreign("the answer has no content".to_owned()));
    };
    let mut answer = Answer::default();
    for block in content {
        match block["type"].as_str().unwrap_or("") {
            "text" => answer.say(block["text"].as_str().unwrap_or("")),
            "thinking" => {
                answer.reasoning.push_str(block["thinking"].as_str().unwrap_or(""));
                let mut detail = json!({"type": "reasoning.text", "text": block["thinking"], "format": FORMAT});
                if block["signature"].is_string() {
                    detail["signature"] = block["signature"].clone();
                }
                answer.detail(detail);
            }
            "redacted_thinking" => {
                answer.detail(json!({"type": "reasoning.encrypted", "data": block["data"], "format": FORMAT}));
            }
            "tool_use" => {
                let text = |name: &str| block[name].as_str().unwrap_or("");
                answer.call(text("id"), text("name"), &block["input"].to_string());
            }
            _ => {}
        }
    }
    let finish = body["stop_reason"].as_str().map(finish);
    let text = |name: &str| body[name].as_str().unwrap_or("");
    Ok(answer::reply(text("id"), text("model"), vec![answer.into_choice(0, finish)], usage(&body["usage"])))
}

fn finish(native: &str) -> Finish {
    let reason = match native {
        "end_turn" | "stop_sequence" => "stop",
        "tool_use" => "tool_calls",
        "refusal" => "content_filter",
        _ => "length", // also what we do not know: an answer that may go on is not a whole one
    };
    Finish { reason, native: native.to_owned() }
}

/// `input_tokens` are without the cached ones (platform.claude.com/docs/en/build-with-claude/prompt-caching).
fn usage(stated: &Value) -> Option<Usage> {
    states(stated, &["/input_tokens", "/output_tokens"]).then(|| {
        let written = count(stated, "/cache_creation_input_tokens");
        let for_an_hour = count(stated, "/cache_creation/ephemeral_1h_input_tokens").min(written);
        let output = count(stated, "/output_tokens");
        let thought = count(stated, "/output_tokens_details/thinking_tokens").min(output);
        Usage {
            input_tokens: count(stated, "/input_tokens"),
            cache_read_tokens: count(stated, "/cache_read_input_tokens"),
            cache_write_tokens: written - for_an_hour,
            cache_write_1h_tokens: for_an_hour,
            output_tokens: output - thought,
            reasoning_tokens: thought,
            estimated: false,
        }
    })
}

/// Reads the events of a stream.
#[derive(Debug, Default)]
pub struct Stream {
    /// What each content block is, by its index.
    blocks: Vec<Block>,
    calls: usize,
    details: usize,
    /// `message_start` states the input, `message_delta` the rest, cumulative.
    usage: Map<String, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Block {
    Other,
    /// `told` once it has arguments.
    Call {
        index: usize,
        told: bool,
    },
    Thought(usize),
}

/// Content blocks of one answer at the most.
const BLOCKS_MAX: usize = 4_096;

impl Stream {
    pub(super) fn decode(&mut self, event: &Value) -> Result<Vec<StreamItem>, DecodeError> {
        let at = usize::try_from(count(event, "/index")).unwrap_or(BLOCKS_MAX);
        if at >= BLOCKS_MAX {
            return Err(DecodeError::Foreign("an event is of a content block that cannot be".to_owned()));
        }
        Ok(match event["type"].as_str().unwrap_or("") {
            "message_start" => {
                let message = &event["message"];
                self.note_usage(&message["usage"]);
                let text = |name: &str| message[name].as_str().unwrap_or("");
                vec![begins(text("id"), text("model"))]
            }
            "content_block_start" => self.begin(at, &event["content_block"]),
            "content_block_delta" => self.go_on(at, &event["delta"]),
            "content_block_stop" => match self.blocks.get(at) {
                Some(Block::Call { index, told: false }) => vec![news(call_goes_on(*index, "{}"))],
                _ => Vec::new(),
            },
            "message_delta" => {
                self.note_usage(&event["usage"]);
                let mut items = Vec::new();
                if let Some(native) = event["delta"]["stop_reason"].as_str() {
                    items.push(finished(0, &finish(native)));
                }
                items.extend(usage(&Value::Object(self.usage.clone())).map(used));
                items
            }
            "message_stop" => vec![StreamItem::Done],
            _ => Vec::new(),
        })
    }

    fn note_usage(&mut self, stated: &Value) {
        let stated = stated.as_object().into_iter().flatten();
        self.usage
            .extend(stated.filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.clone(), value.clone())));
    }

    fn begin(&mut self, at: usize, block: &Value) -> Vec<StreamItem> {
        if self.blocks.len() <= at {
            self.blocks.resize(at + 1, Block::Other);
        }
        let text = |name: &str| block[name].as_str().unwrap_or("");
        match text("type") {
            "tool_use" => {
                let input = block["input"].as_object().filter(|input| !input.is_empty());
                self.blocks[at] = Block::Call { index: self.calls, told: input.is_some() };
                self.calls += 1;
                let arguments = input.map_or_else(String::new, |_| block["input"].to_string());
                vec![news(call_begins(self.calls - 1, text("id"), text("name"), &arguments))]
            }
            "thinking" => {
                self.blocks[at] = Block::Thought(self.details);
                self.details += 1;
                Vec::new()
            }
            "redacted_thinking" => {
                let index = self.details;
                self.details += 1;
                let detail =
                    json!({"type": "reasoning.encrypted", "data": block["data"], "format": FORMAT, "index": index});
                vec![news(answer::reasoning("", detail))]
            }
            "text" if !text("text").is_empty() => vec![news(answer::text(text("text")))],
            _ => Vec::new(),
        }
    }

    fn go_on(&mut self, at: usize, delta: &Value) -> Vec<StreamItem> {
        let block = self.blocks.get(at).copied().unwrap_or(Block::Other);
        let text = |name: &str| delta[name].as_str().unwrap_or("");
        match (text("type"), block) {
            ("text_delta", _) => vec![news(answer::text(text("text")))],
            ("input_json_delta", Block::Call { index, told }) => {
                let piece = text("partial_json");
                self.blocks[at] = Block::Call { index, told: told || !piece.is_empty() };
                vec![news(call_goes_on(index, piece))]
            }
            ("thinking_delta", Block::Thought(index)) => {
                let thought = text("thinking");
                let detail = json!({"type": "reasoning.text", "text": thought, "format": FORMAT, "index": index});
                vec![news(answer::reasoning(thought, detail))]
            }
            ("signature_delta", Block::Thought(index)) => {
                let detail = json!({"type": "reasoning.text", "text": "", "signature": text("signature"), "format": FORMAT, "index": index});
                vec![news(answer::reasoning("", detail))]
            }
            _ => Vec::new(),
        }
    }
}
