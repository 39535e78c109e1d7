//! OpenAI's chat completions, which OpenRouter extends (platform.openai.com/docs/api-reference/chat), and what compatible
//! servers make of them.

mod compatible;

use super::{DecodeError, HistoryForm, Inexpressible, Quirks, ReasoningForm, StreamItem, Target, thinking::Thinking};
use crate::event::Chunk;
use crate::reply::Reply;
use crate::request::{ChatRequest, Role};
use bytes::Bytes;
use compatible::{normalised_choice, normalised_usage};
use serde_json::{Map, Value, json};

/// Fields that are spoken between client and gateway only.
pub(crate) const GATEWAY_FIELDS: [&str; 6] = ["sluice", "models", "provider", "usage", "session_id", "route"];
const OUTPUT_CAPS: [&str; 2] = ["max_tokens", "max_completion_tokens"];

/// Writes the request for an endpoint: the client's own bytes with model, output cap and stream options replaced. The
/// pieces are to be sent one after the other; large ones are parts of the client's body, not copies.
///
/// # Errors
/// When `stream_options` is not an object.
pub(super) fn encode_request(request: &ChatRequest, target: Target<'_>) -> Result<Vec<Bytes>, Inexpressible> {
    let quirks = target.quirks;
    let mut body = Pieces::default();
    body.field("model", &raw(&json!(target.model)));
    let asks_otherwise = quirks.reasoning != ReasoningForm::AsAsked;
    for (name, value) in &request.raw.0 {
        let name = name.as_str();
        let replaced = name == "model" || name == "stream_options" || OUTPUT_CAPS.contains(&name);
        let asked = asks_otherwise && OF_THINKING.contains(&name) && says_thinking(request);
        let omitted = GATEWAY_FIELDS.contains(&name) || quirks.rejects.iter().any(|field| field == name);
        if name == "messages" && must_rewrite(request, value, quirks) {
            body.field(name, &rewritten(value, quirks));
        } else if !replaced && !omitted && !asked {
            body.field(name, value);
        }
    }
    if asks_otherwise && !quirks.rejects.iter().any(|field| field == "reasoning") {
        encode_thinking(request, target, &mut body);
    }
    if let Some(cap) = target.max_tokens {
        body.field(&quirks.max_tokens_field, &raw(&json!(cap)));
    }
    if request.stream && quirks.stream_options {
        let mut options: Map<String, Value> = match request.raw.get("stream_options") {
            Some(options) => serde_json::from_slice::<Option<_>>(options)
                .map_err(|error| Inexpressible::new("stream_options", error.to_string()))?
                .unwrap_or_default(),
            None => Map::new(),
        };
        options.insert("include_usage".to_owned(), Value::Bool(true)); // without it a stream cannot be billed
        body.field("stream_options", &raw(&Value::Object(options)));
    }
    Ok(body.end())
}

/// Asks for thoughts in the endpoint's own way.
fn encode_thinking(request: &ChatRequest, target: Target<'_>, body: &mut Pieces) {
    let read = |name: &str| request.raw.get(name).and_then(|raw| serde_json::from_slice::<Value>(raw).ok());
    let thinking = Thinking::of(read("reasoning").as_ref(), read("reasoning_effort").as_ref());
    let on = match &thinking {
        Thinking::Unsaid => return,
        Thinking::Off => false,
        Thinking::Tokens(_) | Thinking::Effort(_) => true,
    };
    match target.quirks.reasoning {
        ReasoningForm::Thinking => {
            body.field("thinking", &raw(&json!({"type": if on { "enabled" } else { "disabled" }})));
        }
        ReasoningForm::EnableThinking => {
            body.field("enable_thinking", &raw(&json!(on)));
            if let Thinking::Tokens(tokens) = thinking {
                body.field("thinking_budget", &raw(&json!(tokens)));
            }
        }
        _ => {
            let cap = target.max_tokens.unwrap_or(target.output_tokens_max);
            if let Some(effort) = thinking.known_effort(cap, &target.quirks.efforts) {
                body.field("reasoning_effort", &raw(&json!(effort)));
            }
        }
    }
}

/// What is written in an endpoint's own way where it has one.
const OF_THINKING: [&str; 6] =
    ["reasoning", "reasoning_effort", "include_reasoning", "thinking", "enable_thinking", "thinking_budget"];

fn says_thinking(request: &ChatRequest) -> bool {
    ["reasoning", "reasoning_effort", "include_reasoning"].iter().any(|name| request.raw.get(name).is_some())
}

/// True where the client's own messages would be refused.
fn must_rewrite(request: &ChatRequest, messages: &Bytes, quirks: &Quirks) -> bool {
    let has_developer = || request.messages.iter().any(|message| message.role == Role::Developer);
    let has_thoughts = || memchr::memmem::find(messages, b"\"reasoning").is_some();
    !quirks.developer_role && has_developer() || quirks.history != HistoryForm::AsAsked && has_thoughts()
}

/// The messages as an endpoint takes them that does not take them as they are.
fn rewritten(messages: &Bytes, quirks: &Quirks) -> Bytes {
    let mut messages: Value = serde_json::from_slice(messages).unwrap_or_default(); // it was read once already
    for message in messages.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        if !quirks.developer_role && message.get("role").is_some_and(|role| role == "developer") {
            message.insert("role".to_owned(), json!("system"));
        }
        if quirks.history == HistoryForm::AsAsked {
            continue;
        }
        message.shift_remove("reasoning_details");
        let thought = message.shift_remove("reasoning");
        let content = message.shift_remove("reasoning_content").or(thought).filter(|thought| !thought.is_null());
        if let Some(thought) = content.filter(|_| quirks.history == HistoryForm::ReasoningContent) {
            message.insert("reasoning_content".to_owned(), thought);
        }
    }
    raw(&messages)
}

fn raw(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}

/// A smaller value is copied: a piece of its own would cost more.
const COPIED_BYTES_MAX: usize = 16 * 1024;

/// A JSON object in pieces.
#[derive(Default)]
struct Pieces {
    whole: Vec<Bytes>,
    open: Vec<u8>,
}

impl Pieces {
    fn field(&mut self, name: &str, value: &Bytes) {
        let is_first = self.whole.is_empty() && self.open.is_empty();
        self.open.push(if is_first { b'{' } else { b',' });
        self.open.extend_from_slice(json!(name).to_string().as_bytes());
        self.open.push(b':');
        if value.len() <= COPIED_BYTES_MAX {
            self.open.extend_from_slice(value);
        } else {
            self.whole.push(Bytes::from(std::mem::take(&mut self.open)));
            self.whole.push(value.clone());
        }
    }

    fn end(mut self) -> Vec<Bytes> {
        self.open.push(b'}');
        self.whole.push(Bytes::from(self.open));
        self.whole
    }
}

/// Reads a whole upstream answer.
pub(super) fn decode_reply(mut value: Value) -> Result<Reply, DecodeError> {
    for choice in value.get_mut("choices").and_then(Value::as_array_mut).into_iter().flatten() {
        normalised_choice(choice, "message");
    }
    normalised_usage(&mut value);
    let reply: Reply = serde_json::from_value(value)
        .map_err(|error| DecodeError::Foreign(format!("the answer is no chat completion: {error}")))?;
    if reply.choices.is_empty() {
        return Err(DecodeError::Foreign("the answer has no choice".to_owned()));
    }
    Ok(reply)
}

/// Reads the events of a stream.
#[derive(Debug, Default)]
pub struct Stream {
    /// Calls so far that came without an index.
    unnumbered: u64,
}

impl Stream {
    pub(super) fn decode(&mut self, mut value: Value) -> Result<Vec<StreamItem>, DecodeError> {
        for choice in value.get_mut("choices").and_then(Value::as_array_mut).into_iter().flatten() {
            normalised_choice(choice, "delta");
            let calls = choice.pointer_mut("/delta/tool_calls").and_then(Value::as_array_mut);
            for call in calls.into_iter().flatten().filter(|call| call.is_object() && call.get("index").is_none()) {
                call["index"] = json!(self.unnumbered);
                self.unnumbered += 1;
            }
        }
        normalised_usage(&mut value);
        let chunk: Chunk = serde_json::from_value(value)
            .map_err(|error| DecodeError::Foreign(format!("an event is no chat completion chunk: {error}")))?;
        Ok(vec![StreamItem::Chunk(Box::new(chunk))])
    }
}

/// Writes one event of a stream.
pub fn encode_event(event: &impl serde::Serialize) -> Result<String, serde_json::Error> {
    Ok(format!("data: {}\n\n", serde_json::to_string(event)?))
}

/// The end of every stream that ended well; a stream that ends with an error has none.
pub const DONE: &str = "data: [DONE]\n\n";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::{Dialect, Quirks, StreamDecoder};

    fn encoded(body: &str, max_tokens: Option<u64>) -> String {
        let request = ChatRequest::parse(&Bytes::copy_from_slice(body.as_bytes())).expect("valid");
        let quirks = Quirks {
            max_tokens_field: "max_completion_tokens".to_owned(),
            rejects: vec!["top_p".to_owned()],
            ..Quirks::default()
        };
        let target = Target { model: "up", max_tokens, output_tokens_max: 99, quirks: &quirks };
        String::from_utf8(encode_request(&request, target).expect("encodes").concat()).expect("utf-8")
    }

    #[test]
    fn the_clients_bytes_reach_the_provider_untouched() {
        let body = r#"{"model":"a/b","unknown":{"z":1.50,"a":[1e3]},"messages":[ {"role":"user","content":"x","cache_control":{"type":"ephemeral"}} ],"sluice":{},"provider":{},"models":["c"],"top_p":1}"#;
        let expected = r#"{"model":"up","unknown":{"z":1.50,"a":[1e3]},"messages":[ {"role":"user","content":"x","cache_control":{"type":"ephemeral"}} ]}"#;
        assert_eq!(encoded(body, None), expected);
    }

    #[test]
    fn large_values_are_parts_of_the_clients_body() {
        let body = Bytes::from(format!(
            r#"{{"messages":[{{"role":"user","content":"{}"}}],"model":"m"}}"#,
            "x".repeat(50_000)
        ));
        let request = ChatRequest::parse(&body).expect("valid");
        let quirks = Quirks::default();
        let target = Target { model: "up", max_tokens: None, output_tokens_max: 99, quirks: &quirks };
        let pieces = encode_request(&request, target).expect("encodes");
        let range = body.as_ptr() as usize..body.as_ptr() as usize + body.len();
        assert!(range.contains(&(pieces[1].as_ptr() as usize)), "not a copy");
        let joined: Value = serde_json::from_slice(&pieces.concat()).expect("JSON");
        assert_eq!(joined["messages"][0]["content"].as_str().map(str::len), Some(50_000));
    }

    #[test]
    fn the_output_cap_is_sent_under_the_endpoints_name() {
        let body = r#"{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":9}"#;
        assert!(encoded(body, Some(7)).ends_with(r#""max_completion_tokens":7}"#));
        assert!(!encoded(body, Some(7)).contains("max_tokens\""));
    }

    #[test]
    fn a_stream_always_asks_for_usage_and_keeps_other_options() {
        let body = r#"{"model":"m","messages":[{"role":"user","content":"x"}],"stream":true,"stream_options":{"include_usage":false,"include_obfuscation":false}}"#;
        let text = encoded(body, None);
        assert!(text.contains(r#""stream":true"#), "{text}");
        assert!(text.contains(r#""stream_options":{"include_usage":true,"include_obfuscation":false}"#), "{text}");
    }

    #[test]
    fn error_bodies_of_every_shape_are_errors() {
        let dialect = Dialect::OpenaiChat;
        for body in [r#"{"error":{"message":"bad"}}"#, r#"{"error":"bad"}"#] {
            assert_eq!(dialect.decode_reply(body.as_bytes()), Err(DecodeError::Said("bad".into())), "{body}");
            let event = StreamDecoder::new(dialect).decode(body);
            assert_eq!(event, Ok(vec![StreamItem::Error("bad".into())]), "{body}");
        }
        assert!(dialect.decode_reply(b"<html>").is_err());
        assert!(dialect.decode_reply(br#"{"choices":[]}"#).is_err());
        assert!(StreamDecoder::new(dialect).decode("{").is_err());
    }

    #[test]
    fn unknown_fields_of_replies_and_events_come_back_out() {
        let reply = r#"{"id":"1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":null,"annotations":[]},"finish_reason":"stop","logprobs":null,"native":"x"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"odd":2},"service_tier":"default"}"#;
        let decoded = Dialect::OpenaiChat.decode_reply(reply.as_bytes()).expect("decodes");
        let (before, after): (Value, Value) =
            (serde_json::from_str(reply).expect("json"), serde_json::to_value(&decoded).expect("json"));
        assert_eq!(before, after);
        let event = r#"{"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"","reasoning":"hm"},"finish_reason":null,"logprobs":null}],"obfuscation":"abc"}"#;
        let items = StreamDecoder::new(Dialect::OpenaiChat).decode(event).expect("decodes");
        let [StreamItem::Chunk(chunk)] = items.as_slice() else { panic!("no chunk") };
        let after = serde_json::to_value(chunk).expect("json");
        assert_eq!(serde_json::from_str::<Value>(event).expect("json"), after);
    }
}
