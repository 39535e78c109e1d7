//! Google's generateContent (ai.google.dev/api/generate-content), at AI Studio and at Vertex.

use super::answer::{self, Answer, Finish, begins, call_begins, count, finished, news_of, states, used};
use super::conversation::{
    AssistantTurn, Conversation, Format, Part, Source, ToolChoice, Turn, What, arguments, take_turn, text_result,
};
use super::{DecodeError, Inexpressible, Quirks, ReasoningForm, StreamItem, Target, thinking::Thinking};
use crate::event::Delta;
use crate::reply::{Choice, Reply};
use crate::request::ChatRequest;
use crate::usage::Usage;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

const FORMAT: &str = "google-gemini-v1";
/// What a call made by another provider's model carries, since it has no signature of Google's
/// (ai.google.dev/gemini-api/docs/thought-signatures).
const NO_SIGNATURE: &str = "skip_thought_signature_validator";

/// Writes the request's body; the model and whether it streams are in the address.
pub(super) fn encode_request(request: &ChatRequest, target: Target<'_>) -> Result<Value, Inexpressible> {
    let said = Conversation::of(request, target)?;
    let mut body = Map::new();
    let parts: Vec<Value> = said.system().map(part).collect();
    if !parts.is_empty() {
        body.insert("systemInstruction".to_owned(), json!({ "parts": parts }));
    }
    let names = call_names(&said.turns);
    let with_ids = !target.quirks.rejects.iter().any(|field| field == "functionCall.id");
    let mut contents: Vec<Value> = Vec::new();
    for turn in &said.turns {
        let (role, parts) = match turn {
            Turn::System { .. } => continue,
            Turn::User(parts) => ("user", parts.iter().map(part).collect()),
            Turn::Assistant(turn) => ("model", model_parts(turn, with_ids, target.quirks.reasoning)),
            Turn::Tool { call_id, parts, .. } => ("user", vec![function_response(call_id, parts, &names, with_ids)?]),
        };
        take_turn(&mut contents, role, "parts", parts);
    }
    body.insert("contents".to_owned(), Value::Array(contents));
    encode_tools(&said, &mut body);
    let generation = generation(request, &said, target);
    if !generation.is_empty() {
        body.insert("generationConfig".to_owned(), Value::Object(generation));
    }
    Ok(Value::Object(body))
}

fn generation(request: &ChatRequest, said: &Conversation, target: Target<'_>) -> Map<String, Value> {
    let mut config = Map::new();
    config.extend(target.max_tokens.map(|cap| ("maxOutputTokens".to_owned(), json!(cap))));
    let same = [
        ("temperature", "temperature"),
        ("top_p", "topP"),
        ("top_k", "topK"),
        ("seed", "seed"),
        ("presence_penalty", "presencePenalty"),
        ("frequency_penalty", "frequencyPenalty"),
    ];
    said.copy(&same, &mut config);
    config.extend(said.stops().map(|stops| ("stopSequences".to_owned(), stops)));
    if request.n > 1 {
        config.insert("candidateCount".to_owned(), json!(request.n));
    }
    match &said.format {
        Format::Text => {}
        Format::Json => drop(config.insert("responseMimeType".to_owned(), json!("application/json"))),
        Format::Schema(wanted) => {
            config.insert("responseMimeType".to_owned(), json!("application/json"));
            config.insert("responseJsonSchema".to_owned(), wanted.schema.clone());
        }
    }
    if let Some(mut thinking) = thinking_config(said, target.quirks) {
        if said.hides_thoughts() && thinking.get("includeThoughts").is_some() {
            thinking["includeThoughts"] = json!(false);
        }
        config.insert("thinkingConfig".to_owned(), thinking);
    }
    config
}

fn thinking_config(said: &Conversation, quirks: &Quirks) -> Option<Value> {
    match (&said.thinking, quirks.reasoning) {
        (Thinking::Unsaid, _) => None,
        (Thinking::Off, ReasoningForm::Level) => Some(json!({"thinkingLevel": "low"})), // these models always think
        (Thinking::Off, _) if quirks.always_thinks => {
            Some(json!({"thinkingBudget": quirks.thinking_tokens.map_or(0, |[least, _]| least)}))
        }
        (Thinking::Off, _) => Some(json!({"thinkingBudget": 0})),
        (thinking, ReasoningForm::Level) => {
            let level = match thinking.effort(said.cap)? {
                "minimal" => "minimal",
                "low" => "low",
                "medium" => "medium",
                _ => "high",
            };
            Some(json!({"includeThoughts": true, "thinkingLevel": level}))
        }
        (thinking, _) => {
            let budget = thinking.budget(said.cap)?;
            let budget = quirks.thinking_tokens.map_or(budget, |[least, most]| budget.clamp(least, most.max(least)));
            Some(json!({"includeThoughts": true, "thinkingBudget": budget}))
        }
    }
}

/// The name of each call by its id: a response must repeat it.
fn call_names(turns: &[Turn]) -> BTreeMap<&str, &str> {
    let assistants = turns.iter().filter_map(|turn| match turn {
        Turn::Assistant(turn) => Some(turn),
        _ => None,
    });
    assistants.flat_map(|turn| &turn.calls).map(|call| (call.id.as_str(), call.name.as_str())).collect()
}

fn model_parts(turn: &AssistantTurn, with_ids: bool, form: ReasoningForm) -> Vec<Value> {
    let signatures: Vec<&Value> = turn
        .details
        .iter()
        .filter(|detail| detail["type"] == "reasoning.encrypted" && detail["format"] == FORMAT)
        .collect();
    let of = |id: Option<&str>| {
        signatures.iter().find(|detail| detail["id"].as_str() == id).map(|detail| detail["data"].clone())
    };
    let mut parts: Vec<Value> = turn.parts.iter().map(part).collect();
    if let (Some(signature), Some(first)) = (of(None), parts.first_mut()) {
        first["thoughtSignature"] = signature;
    }
    for (at, call) in turn.calls.iter().enumerate() {
        let mut function = json!({"name": call.name, "args": arguments(call)});
        if with_ids && !call.id.is_empty() {
            function["id"] = json!(call.id);
        }
        let mut part = json!({ "functionCall": function });
        let skipped = || (at == 0 && form == ReasoningForm::Level).then(|| json!(NO_SIGNATURE));
        if let Some(signature) = of(Some(&call.id)).or_else(skipped) {
            part["thoughtSignature"] = signature;
        }
        parts.push(part);
    }
    parts
}

fn function_response(
    call_id: &str,
    parts: &[Part],
    names: &BTreeMap<&str, &str>,
    with_ids: bool,
) -> Result<Value, Inexpressible> {
    let text = text_result(parts)?;
    let response = match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Value::Object(object),
        _ => json!({ "result": text }),
    };
    let mut function = json!({"name": names.get(call_id).copied().unwrap_or(call_id), "response": response});
    if with_ids && !call_id.is_empty() {
        function["id"] = json!(call_id);
    }
    Ok(json!({ "functionResponse": function }))
}

fn part(part: &Part) -> Value {
    let media = |source: &Source, otherwise: &str| match source {
        Source::Inline { media_type, data } => json!({"inlineData": {"mimeType": media_type, "data": data}}),
        Source::Url(url) => json!({"fileData": {"fileUri": url, "mimeType": media_type(url, otherwise)}}),
    };
    match &part.what {
        What::Text(text) => json!({ "text": text }),
        What::Image { source, .. } => media(source, "image/jpeg"),
        What::File { source, .. } => media(source, "application/pdf"),
    }
}

/// An address does not say what lies there; its ending is a good guess.
fn media_type(url: &str, otherwise: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let known = match path.rsplit('.').next().unwrap_or_default().to_ascii_lowercase().as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "pdf" => "application/pdf",
        _ => otherwise,
    };
    known.to_owned()
}

fn encode_tools(said: &Conversation, body: &mut Map<String, Value>) {
    if said.tools.is_empty() {
        return;
    }
    let declarations = said.tools.iter().map(|tool| {
        let mut wire = json!({"name": tool.name});
        let fields = [("description", &tool.description), ("parametersJsonSchema", &tool.parameters)];
        for (name, value) in fields.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))) {
            wire[name] = value;
        }
        wire
    });
    let declarations: Vec<Value> = declarations.collect();
    body.insert("tools".to_owned(), json!([{"functionDeclarations": declarations}]));
    let config = match &said.choice {
        None => return,
        Some(ToolChoice::Auto) => json!({"mode": "AUTO"}),
        Some(ToolChoice::None) => json!({"mode": "NONE"}),
        Some(ToolChoice::Required) => json!({"mode": "ANY"}),
        Some(ToolChoice::Named(name)) => json!({"mode": "ANY", "allowedFunctionNames": [name]}),
    };
    body.insert("toolConfig".to_owned(), json!({ "functionCallingConfig": config }));
}

/// Reads a whole answer.
pub(super) fn decode_reply(body: &Value) -> Result<Reply, DecodeError> {
    let id = body["responseId"].as_str().unwrap_or("");
    let model = body["modelVersion"].as_str().unwrap_or("");
    if let Some(reason) = blocked(body) {
        let answer = Answer { refusal: Some(refusal(reason)), ..Answer::default() };
        let finish = Finish { reason: "content_filter", native: reason.to_owned() };
        return Ok(answer::reply(id, model, vec![answer.into_choice(0, Some(finish))], usage(&body["usageMetadata"])));
    }
    let candidates = body["candidates"].as_array().filter(|candidates| !candidates.is_empty());
    let Some(candidates) = candidates else {
        return Err(DecodeError::Foreign("the answer has no candidate".to_owned()));
    };
    let choices = candidates.iter().map(|candidate| choice(candidate, id)).collect();
    Ok(answer::reply(id, model, choices, usage(&body["usageMetadata"])))
}

fn blocked(body: &Value) -> Option<&str> {
    let has_candidates = body["candidates"].as_array().is_some_and(|candidates| !candidates.is_empty());
    body.pointer("/promptFeedback/blockReason").and_then(Value::as_str).filter(|_| !has_candidates)
}

fn refusal(reason: &str) -> String {
    format!("the provider blocked the prompt: {reason}")
}

fn choice(candidate: &Value, id: &str) -> Choice {
    let mut answer = Answer::default();
    for part in candidate.pointer("/content/parts").and_then(Value::as_array).into_iter().flatten() {
        let signature = part["thoughtSignature"].as_str();
        let mut call_id = None;
        if let Some(call) = part.get("functionCall") {
            let made = format!("call_{id}_{}", answer.calls.len());
            let own = call["id"].as_str().filter(|id| !id.is_empty()).unwrap_or(&made).to_owned();
            answer.call(&own, call["name"].as_str().unwrap_or(""), &call_arguments(call));
            call_id = Some(own);
        } else if let Some(text) = part["text"].as_str() {
            if part["thought"] == json!(true) {
                answer.reasoning.push_str(text);
                answer.detail(json!({"type": "reasoning.text", "text": text, "format": FORMAT}));
            } else {
                answer.say(text);
            }
        }
        if let Some(signature) = signature {
            answer.detail(encrypted(signature, call_id.as_deref()));
        }
    }
    let native = candidate["finishReason"].as_str();
    let finish = native.map(|native| finish(native, !answer.calls.is_empty()));
    answer.into_choice(u32::try_from(count(candidate, "/index")).unwrap_or(0), finish)
}

fn call_arguments(call: &Value) -> String {
    call.get("args").filter(|args| !args.is_null()).map_or_else(|| "{}".to_owned(), Value::to_string)
}

fn encrypted(signature: &str, call_id: Option<&str>) -> Value {
    let mut detail = json!({"type": "reasoning.encrypted", "data": signature, "format": FORMAT});
    if let Some(id) = call_id {
        detail["id"] = json!(id);
    }
    detail
}

fn finish(native: &str, calls: bool) -> Finish {
    let reason = match native {
        "STOP" | "FINISH_REASON_UNSPECIFIED" if calls => "tool_calls",
        "STOP" | "FINISH_REASON_UNSPECIFIED" => "stop",
        "MAX_TOKENS" | "CONTINUATION" => "length",
        "SAFETY"
        | "RECITATION"
        | "BLOCKLIST"
        | "PROHIBITED_CONTENT"
        | "SPII"
        | "IMAGE_SAFETY"
        | "LANGUAGE"
        | "IMAGE_PROHIBITED_CONTENT"
        | "IMAGE_RECITATION"
        | "MODEL_ARMOR"
        | "ESCALATION" => "content_filter",
        _ => "error",
    };
    Finish { reason, native: native.to_owned() }
}

/// `promptTokenCount` includes the cached ones, `candidatesTokenCount` excludes thoughts.
fn usage(stated: &Value) -> Option<Usage> {
    states(stated, &["/promptTokenCount"]).then(|| {
        let prompt = count(stated, "/promptTokenCount") + count(stated, "/toolUsePromptTokenCount");
        let cached = count(stated, "/cachedContentTokenCount").min(prompt);
        Usage {
            input_tokens: prompt - cached,
            cache_read_tokens: cached,
            output_tokens: count(stated, "/candidatesTokenCount"),
            reasoning_tokens: count(stated, "/thoughtsTokenCount"),
            ..Usage::default()
        }
    })
}

impl Numbers {
    /// Numbers a detail; a thought that goes on keeps its number.
    fn number(&mut self, mut detail: Value) -> Value {
        let is_thought = detail["type"] == "reasoning.text";
        if !(is_thought && self.is_thinking) {
            self.details += 1;
        }
        self.is_thinking = is_thought;
        detail["index"] = json!(self.details - 1);
        detail
    }
}

/// Reads the events of a stream; each is a reply of its own with the news only.
#[derive(Debug, Default)]
pub struct Stream {
    begun: bool,
    numbers: BTreeMap<u32, Numbers>,
}

/// What one candidate has said so far.
#[derive(Debug, Default)]
struct Numbers {
    calls: usize,
    details: usize,
    /// The latest detail is a thought that may go on.
    is_thinking: bool,
}

impl Stream {
    pub(super) fn decode(&mut self, event: &Value) -> Result<Vec<StreamItem>, DecodeError> {
        let id = event["responseId"].as_str().unwrap_or("");
        let mut items = Vec::new();
        if !self.begun {
            self.begun = true;
            items.push(begins(id, event["modelVersion"].as_str().unwrap_or("")));
        }
        if let Some(reason) = blocked(event) {
            items.push(news_of(0, Delta { refusal: Some(refusal(reason)), ..Delta::default() }));
            items.push(finished(0, &Finish { reason: "content_filter", native: reason.to_owned() }));
        }
        for candidate in event["candidates"].as_array().into_iter().flatten() {
            self.candidate(candidate, id, &mut items);
        }
        items.extend(usage(&event["usageMetadata"]).map(used));
        Ok(items)
    }

    fn candidate(&mut self, candidate: &Value, id: &str, items: &mut Vec<StreamItem>) {
        let index = u32::try_from(count(candidate, "/index")).unwrap_or(0);
        let numbers = self.numbers.entry(index).or_default();
        for part in candidate.pointer("/content/parts").and_then(Value::as_array).into_iter().flatten() {
            let mut call_id = None;
            if let Some(call) = part.get("functionCall") {
                let made = format!("call_{id}_{}", numbers.calls);
                let own = call["id"].as_str().filter(|id| !id.is_empty()).unwrap_or(&made).to_owned();
                let name = call["name"].as_str().unwrap_or("");
                items.push(news_of(index, call_begins(numbers.calls, &own, name, &call_arguments(call))));
                numbers.calls += 1;
                call_id = Some(own);
            } else if let Some(text) = part["text"].as_str() {
                if part["thought"] == json!(true) {
                    let detail = numbers.number(json!({"type": "reasoning.text", "text": text, "format": FORMAT}));
                    items.push(news_of(index, answer::reasoning(text, detail)));
                } else if !text.is_empty() {
                    items.push(news_of(index, answer::text(text)));
                }
            }
            if let Some(signature) = part["thoughtSignature"].as_str() {
                let detail = numbers.number(encrypted(signature, call_id.as_deref()));
                items.push(news_of(index, answer::reasoning("", detail)));
            }
        }
        if let Some(native) = candidate["finishReason"].as_str() {
            items.push(finished(index, &finish(native, numbers.calls > 0)));
        }
    }
}
