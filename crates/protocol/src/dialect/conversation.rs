//! A request as every dialect but the client's own needs it: turns, parts and calls with their types.

use super::{Inexpressible, ReasoningForm, Target, thinking::Thinking};
use crate::request::ChatRequest;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// The parts of a request that have a meaning in more than one dialect.
pub(super) struct Conversation {
    pub turns: Vec<Turn>,
    pub tools: Vec<Tool>,
    pub choice: Option<ToolChoice>,
    pub parallel_calls: Option<bool>,
    pub format: Format,
    pub thinking: Thinking,
    /// The cap to send, or the most that the endpoint gives.
    pub cap: u64,
    fields: Map<String, Value>,
}

pub(super) enum Turn {
    System {
        /// `system` or `developer`.
        role: String,
        parts: Vec<Part>,
    },
    User(Vec<Part>),
    Assistant(AssistantTurn),
    /// The answer to one call.
    Tool {
        call_id: String,
        parts: Vec<Part>,
        /// The result came as a plain text.
        plain: bool,
    },
}

#[derive(Default)]
pub(super) struct AssistantTurn {
    pub parts: Vec<Part>,
    pub calls: Vec<Call>,
    /// OpenRouter's `reasoning_details`, as they came.
    pub details: Vec<Value>,
}

pub(super) struct Call {
    pub id: String,
    pub name: String,
    /// JSON text.
    pub arguments: String,
}

pub(super) struct Part {
    pub what: What,
    /// OpenRouter's `cache_control`: the prompt up to here is worth remembering.
    pub cache: Option<Value>,
}

pub(super) enum What {
    Text(String),
    Image { source: Source, detail: Option<String> },
    File { name: String, source: Source },
}

pub(super) enum Source {
    /// A data URL: media type and base64 text.
    Inline {
        media_type: String,
        data: String,
    },
    Url(String),
}

pub(super) struct Tool {
    pub name: String,
    pub description: Option<Value>,
    pub parameters: Option<Value>,
    pub strict: Option<Value>,
    pub cache: Option<Value>,
}

pub(super) enum ToolChoice {
    Auto,
    None,
    Required,
    Named(String),
}

pub(super) enum Format {
    Text,
    Json,
    Schema(Box<Schema>),
}

pub(super) struct Schema {
    pub name: Value,
    pub description: Option<Value>,
    pub schema: Value,
    pub strict: Option<Value>,
}

impl Conversation {
    /// Reads what the request says.
    ///
    /// # Errors
    /// When a part of it is of a kind that only OpenAI's own dialect has words for.
    pub(super) fn of(request: &ChatRequest, target: Target<'_>) -> Result<Self, Inexpressible> {
        let mut fields = Map::new();
        for (name, raw) in &request.raw.0 {
            let value = serde_json::from_slice(raw).unwrap_or(Value::Null); // it was read once already
            fields.insert(name.clone(), value);
        }
        let mut turns = Vec::new();
        for message in list(fields.remove("messages")) {
            match message["role"].as_str() {
                Some(role @ ("system" | "developer")) => {
                    turns.push(Turn::System { role: role.to_owned(), parts: parts(message)? });
                }
                Some("assistant") => turns.push(Turn::Assistant(assistant(message)?)),
                Some("tool" | "function") => turns.push(tool_turn(message)?),
                _ => turns.push(Turn::User(parts(message)?)),
            }
        }
        if fields.get("functions").is_some_and(|functions| !functions.is_null()) {
            return Err(Inexpressible::new("functions", "the old form of tools; use `tools`"));
        }
        turns.retain(Turn::says_something);
        let tools = list(fields.remove("tools")).into_iter().map(tool).collect::<Result<_, _>>()?;
        for name in &target.quirks.rejects {
            fields.shift_remove(name);
        }
        Ok(Self {
            turns,
            tools,
            choice: fields
                .remove("tool_choice")
                .filter(|choice| !choice.is_null())
                .as_ref()
                .map(tool_choice)
                .transpose()?,
            parallel_calls: fields.remove("parallel_tool_calls").as_ref().and_then(Value::as_bool),
            format: format(fields.remove("response_format"))?,
            thinking: Thinking::of(fields.get("reasoning"), fields.get("reasoning_effort")),
            cap: target.max_tokens.unwrap_or(target.output_tokens_max),
            fields,
        })
    }

    /// What is said to the model by its operator, wherever it stands: for dialects that keep it apart.
    pub(super) fn system(&self) -> impl Iterator<Item = &Part> {
        self.turns.iter().flat_map(|turn| match turn {
            Turn::System { parts, .. } => parts.as_slice(),
            _ => &[],
        })
    }

    /// The names of tools that were called earlier in the conversation.
    pub(super) fn called_before(&self) -> BTreeSet<&str> {
        let assistants = self.turns.iter().filter_map(|turn| match turn {
            Turn::Assistant(turn) => Some(turn),
            _ => None,
        });
        assistants.flat_map(|turn| &turn.calls).map(|call| call.name.as_str()).collect()
    }

    /// A further field of the request; `null` counts as absent.
    pub(super) fn field(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// Copies further fields under the names that the dialect has for them.
    pub(super) fn copy(&self, names: &[(&str, &str)], to: &mut Map<String, Value>) {
        for (ours, theirs) in names {
            if let Some(value) = self.field(ours) {
                to.insert((*theirs).to_owned(), value.clone());
            }
        }
    }

    /// `stop` as a list, whichever way it was written.
    pub(super) fn stops(&self) -> Option<Value> {
        match self.field("stop")? {
            Value::Array(list) if list.is_empty() => None,
            Value::Array(list) => Some(json!(list)),
            one => Some(json!([one])),
        }
    }

    /// True where thoughts are asked for and not to be shown.
    pub(super) fn hides_thoughts(&self) -> bool {
        self.field("reasoning").is_some_and(|reasoning| reasoning["exclude"] == json!(true))
    }

    /// Anthropic's `thinking` object and the effort beside it, also as Bedrock passes it on.
    pub(super) fn anthropic_thinking(&self, form: ReasoningForm) -> Option<(Value, Option<Value>)> {
        // A call that must be made cannot be thought about: the two together are refused.
        let forced = matches!(self.choice, Some(ToolChoice::Required | ToolChoice::Named(_)));
        if forced && !self.tools.is_empty() {
            return None;
        }
        match (&self.thinking, form) {
            (Thinking::Unsaid, _) => None,
            (Thinking::Off, _) => Some((json!({"type": "disabled"}), None)),
            (Thinking::Effort(effort), ReasoningForm::Adaptive) => {
                let effort = if effort == "minimal" { "low" } else { effort };
                Some((json!({"type": "adaptive"}), Some(json!(effort))))
            }
            (_, ReasoningForm::Adaptive) => {
                let effort = self.thinking.effort(self.cap).unwrap_or("medium");
                Some((json!({"type": "adaptive"}), Some(json!(effort))))
            }
            (thinking, _) => {
                let budget = thinking.bounded_budget(self.cap)?;
                Some((json!({"type": "enabled", "budget_tokens": budget}), None))
            }
        }
    }
}

impl Turn {
    /// An empty turn is refused by most providers, and says nothing to the others.
    fn says_something(&self) -> bool {
        match self {
            Self::System { parts, .. } | Self::User(parts) => !parts.is_empty(),
            Self::Assistant(turn) => !(turn.parts.is_empty() && turn.calls.is_empty() && turn.details.is_empty()),
            Self::Tool { .. } => true,
        }
    }
}

impl Part {
    fn is_empty(&self) -> bool {
        matches!(&self.what, What::Text(text) if text.is_empty())
    }

    pub(super) fn text(text: impl Into<String>) -> Self {
        Self { what: What::Text(text.into()), cache: None }
    }
}

/// The texts of parts, one after the other.
pub(super) fn text_of(parts: &[Part]) -> String {
    let texts = parts.iter().filter_map(|part| match &part.what {
        What::Text(text) => Some(text.as_str()),
        _ => None,
    });
    texts.collect::<Vec<_>>().join("\n")
}

/// A tool's result for providers that take nothing but text there.
pub(super) fn text_result(parts: &[Part]) -> Result<String, Inexpressible> {
    if parts.iter().any(|part| !matches!(part.what, What::Text(_))) {
        return Err(Inexpressible::new("messages", "this provider takes only text as a tool's result"));
    }
    Ok(text_of(parts))
}

/// The arguments of a call as an object; providers with typed arguments take nothing else.
pub(super) fn arguments(call: &Call) -> Value {
    match serde_json::from_str(&call.arguments) {
        Ok(Value::Object(object)) => Value::Object(object),
        Ok(Value::Null) | Err(_) if call.arguments.trim().is_empty() => json!({}),
        Ok(other) => json!({ "arguments": other }),
        Err(_) => json!({ "arguments": call.arguments }),
    }
}

fn list(value: Option<Value>) -> Vec<Value> {
    match value {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

fn take_text(value: &mut Value, name: &str) -> Option<String> {
    match value.get_mut(name).map(Value::take) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

fn parts(mut message: Value) -> Result<Vec<Part>, Inexpressible> {
    let own_cache = message.get_mut("cache_control").map(Value::take).filter(|value| !value.is_null());
    let mut found = match message.get_mut("content").map(Value::take) {
        Some(Value::String(text)) => vec![Part::text(text)],
        Some(Value::Array(list)) => list.into_iter().map(part).collect::<Result<_, _>>()?,
        _ => Vec::new(),
    };
    found.retain(|part: &Part| !part.is_empty());
    if let (Some(cache), Some(last)) = (own_cache, found.last_mut()) {
        last.cache.get_or_insert(cache);
    }
    Ok(found)
}

/// Refuses what a dialect without several answers has no words for.
pub(super) fn one_answer(request: &ChatRequest) -> Result<(), Inexpressible> {
    match request.n {
        0 | 1 => Ok(()),
        _ => Err(Inexpressible::new("n", "this provider gives one answer a request")),
    }
}

/// Adds a turn to the messages; turns of one role are one message, where roles have to take turns.
pub(super) fn take_turn(messages: &mut Vec<Value>, role: &str, field: &str, content: Vec<Value>) {
    match messages.last_mut() {
        Some(last) if last["role"] == role => {
            if let Value::Array(known) = &mut last[field] {
                known.extend(content);
            }
        }
        _ => messages.push(json!({"role": role, field: content})),
    }
}

fn part(mut part: Value) -> Result<Part, Inexpressible> {
    let cache = part.get_mut("cache_control").map(Value::take).filter(|value| !value.is_null());
    let kind = part["type"].as_str().unwrap_or("text").to_owned();
    let what = match kind.as_str() {
        "text" | "input_text" => What::Text(take_text(&mut part, "text").unwrap_or_default()),
        "refusal" => What::Text(take_text(&mut part, "refusal").unwrap_or_default()),
        "image_url" => {
            let mut image = part["image_url"].take();
            let detail = take_text(&mut image, "detail");
            let url = match image {
                Value::String(url) => Some(url),
                mut image => take_text(&mut image, "url"),
            };
            What::Image { source: source(url.unwrap_or_default()), detail }
        }
        "file" => {
            let mut file = part["file"].take();
            let data = take_text(&mut file, "file_data");
            let Some(data) = data else {
                let problem = "a file without `file_data` can only be read by the provider that stores it";
                return Err(Inexpressible::new("messages", problem));
            };
            What::File { name: take_text(&mut file, "filename").unwrap_or_default(), source: source(data) }
        }
        other => {
            return Err(Inexpressible::new(
                "messages",
                format!("parts of type `{other}` are not taken by this provider"),
            ));
        }
    };
    Ok(Part { what, cache })
}

fn source(url: String) -> Source {
    let inline = url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,"));
    match inline {
        Some((media_type, data)) => Source::Inline { media_type: media_type.to_owned(), data: data.to_owned() },
        None => Source::Url(url),
    }
}

fn assistant(mut message: Value) -> Result<AssistantTurn, Inexpressible> {
    if message.get("function_call").is_some_and(|call| !call.is_null()) {
        return Err(Inexpressible::new("messages", "`function_call` is the old form; use `tool_calls`"));
    }
    let calls = list(message.get_mut("tool_calls").map(Value::take)).into_iter().map(|mut call| {
        let mut function = call["function"].take();
        Call {
            id: take_text(&mut call, "id").unwrap_or_default(),
            name: take_text(&mut function, "name").unwrap_or_default(),
            arguments: take_text(&mut function, "arguments").unwrap_or_default(),
        }
    });
    let calls = calls.collect();
    let details = list(message.get_mut("reasoning_details").map(Value::take));
    let refusal = take_text(&mut message, "refusal").filter(|text| !text.is_empty());
    let mut parts = parts(message)?;
    parts.extend(refusal.map(Part::text));
    Ok(AssistantTurn { parts, calls, details })
}

fn tool_turn(mut message: Value) -> Result<Turn, Inexpressible> {
    let call_id = take_text(&mut message, "tool_call_id").unwrap_or_default();
    let plain = message["content"].is_string();
    Ok(Turn::Tool { call_id, parts: parts(message)?, plain })
}

fn tool(mut tool: Value) -> Result<Tool, Inexpressible> {
    let cache = tool.get_mut("cache_control").map(Value::take).filter(|value| !value.is_null());
    let kind = tool["type"].as_str().unwrap_or("function").to_owned();
    if kind != "function" {
        return Err(Inexpressible::new("tools", format!("tools of type `{kind}` are OpenAI's own")));
    }
    let mut function = tool["function"].take();
    let take = |function: &mut Value, name: &str| function.get_mut(name).map(Value::take).filter(|v| !v.is_null());
    Ok(Tool {
        name: take_text(&mut function, "name").unwrap_or_default(),
        description: take(&mut function, "description"),
        parameters: take(&mut function, "parameters"),
        strict: take(&mut function, "strict"),
        cache,
    })
}

fn tool_choice(value: &Value) -> Result<ToolChoice, Inexpressible> {
    let named = || value.pointer("/function/name").and_then(Value::as_str);
    match value.as_str() {
        Some("auto") => Ok(ToolChoice::Auto),
        Some("none") => Ok(ToolChoice::None),
        Some("required") => Ok(ToolChoice::Required),
        _ => named().map(|name| ToolChoice::Named(name.to_owned())).ok_or_else(|| {
            Inexpressible::new("tool_choice", format!("{value} is a form that only OpenAI's own dialect has"))
        }),
    }
}

fn format(value: Option<Value>) -> Result<Format, Inexpressible> {
    let Some(mut value) = value.filter(|value| !value.is_null()) else { return Ok(Format::Text) };
    Ok(match value["type"].as_str() {
        Some("text") | None => Format::Text,
        Some("json_object") => Format::Json,
        Some("json_schema") => {
            let mut schema = value["json_schema"].take();
            let mut take = |name: &str| schema.get_mut(name).map(Value::take).filter(|value| !value.is_null());
            Format::Schema(Box::new(Schema {
                name: take("name").unwrap_or_else(|| json!("answer")),
                description: take("description"),
                schema: take("schema").unwrap_or_else(|| json!({"type": "object"})),
                strict: take("strict"),
            }))
        }
        Some(other) => {
            let problem = format!("`{other}` is a form that only OpenAI's own dialect has");
            return Err(Inexpressible::new("response_format", problem));
        }
    })
}
