//! OpenAI's chat completions, which OpenRouter extends (platform.openai.com/docs/api-reference/chat).

use crate::event::Chunk;
use crate::reply::Reply;
use crate::request::ChatRequest;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use thiserror::Error;

/// Fields that are spoken between client and gateway only.
const GATEWAY_FIELDS: [&str; 5] = ["sluice", "models", "provider", "usage", "session_id"];
const OUTPUT_CAPS: [&str; 2] = ["max_tokens", "max_completion_tokens"];

/// What one endpoint needs to be different from the client's body.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The endpoint's own name of the model.
    pub model: &'a str,
    /// The cap on output tokens to send, where one is to be sent.
    pub max_tokens: Option<u64>,
    /// The name under which this endpoint takes the cap.
    pub max_tokens_field: &'a str,
    /// Fields that the endpoint refuses.
    pub omit: &'a [String],
}

/// Says that an upstream answer is not in this dialect.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// It is something else.
    #[error("{0}")]
    Foreign(String),
    /// It is an error object, and this is its message.
    #[error("{0}")]
    Said(String),
}

/// One decoded stream event.
#[derive(Debug, Clone, PartialEq)]
pub enum StreamItem {
    Chunk(Box<Chunk>),
    /// The terminal `[DONE]`.
    Done,
    /// An error object inside the stream.
    Error(String),
}

/// Writes the request for an endpoint: the client's own bytes with model, output cap and stream options replaced. The
/// pieces are to be sent one after the other; large ones are parts of the client's body, not copies.
///
/// # Errors
/// When `stream_options` is not an object.
pub fn encode_request(request: &ChatRequest, target: Target<'_>) -> Result<Vec<Bytes>, serde_json::Error> {
    let mut body = Pieces::default();
    body.field("model", &raw(&json!(target.model)))?;
    for (name, value) in &request.raw.0 {
        let name = name.as_str();
        let replaced = name == "model" || name == "stream_options" || OUTPUT_CAPS.contains(&name);
        let omitted = GATEWAY_FIELDS.contains(&name) || target.omit.iter().any(|field| field == name);
        if !replaced && !omitted {
            body.field(name, value)?;
        }
    }
    if let Some(cap) = target.max_tokens {
        body.field(target.max_tokens_field, &raw(&json!(cap)))?;
    }
    if request.stream {
        let mut options: Map<String, Value> = match request.raw.get("stream_options") {
            Some(options) => serde_json::from_slice::<Option<_>>(options)?.unwrap_or_default(),
            None => Map::new(),
        };
        options.insert("include_usage".to_owned(), Value::Bool(true)); // without it a stream cannot be billed
        body.field("stream_options", &raw(&Value::Object(options)))?;
    }
    Ok(body.end())
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
    fn field(&mut self, name: &str, value: &Bytes) -> Result<(), serde_json::Error> {
        let is_first = self.whole.is_empty() && self.open.is_empty();
        self.open.push(if is_first { b'{' } else { b',' });
        serde_json::to_writer(&mut self.open, name)?;
        self.open.push(b':');
        if value.len() <= COPIED_BYTES_MAX {
            self.open.extend_from_slice(value);
        } else {
            self.whole.push(Bytes::from(std::mem::take(&mut self.open)));
            self.whole.push(value.clone());
        }
        Ok(())
    }

    fn end(mut self) -> Vec<Bytes> {
        self.open.push(b'}');
        self.whole.push(Bytes::from(self.open));
        self.whole
    }
}

/// Reads a whole upstream answer.
///
/// # Errors
/// When it is not JSON of this dialect, holds an error object, or has no choice.
pub fn decode_reply(body: &[u8]) -> Result<Reply, DecodeError> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| DecodeError::Foreign(format!("the answer is not JSON: {error}")))?;
    if let Some(message) = error_message(&value) {
        return Err(DecodeError::Said(message));
    }
    let reply: Reply = serde_json::from_value(value)
        .map_err(|error| DecodeError::Foreign(format!("the answer is no chat completion: {error}")))?;
    if reply.choices.is_empty() {
        return Err(DecodeError::Foreign("the answer has no choice".to_owned()));
    }
    Ok(reply)
}

/// Reads the data of one stream event.
///
/// # Errors
/// When it is not JSON of this dialect.
pub fn decode_event(data: &str) -> Result<StreamItem, DecodeError> {
    if data == "[DONE]" {
        return Ok(StreamItem::Done);
    }
    let value: Value =
        serde_json::from_str(data).map_err(|error| DecodeError::Foreign(format!("an event is not JSON: {error}")))?;
    if let Some(message) = error_message(&value) {
        return Ok(StreamItem::Error(message));
    }
    let chunk = serde_json::from_value(value)
        .map_err(|error| DecodeError::Foreign(format!("an event is no chat completion chunk: {error}")))?;
    Ok(StreamItem::Chunk(Box::new(chunk)))
}

/// The message of an error body, in any of the shapes that compatible servers use.
pub fn error_message(value: &Value) -> Option<String> {
    let error = value.get("error").filter(|error| !error.is_null())?;
    let message = error.get("message").or(Some(error)).and_then(Value::as_str);
    Some(message.map_or_else(|| error.to_string(), str::to_owned))
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

    fn encoded(body: &str, max_tokens: Option<u64>) -> String {
        let request = ChatRequest::parse(&Bytes::copy_from_slice(body.as_bytes())).expect("valid");
        let target =
            Target { model: "up", max_tokens, max_tokens_field: "max_completion_tokens", omit: &["top_p".to_owned()] };
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
        let target = Target { model: "up", max_tokens: None, max_tokens_field: "max_tokens", omit: &[] };
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
        for body in [r#"{"error":{"message":"bad"}}"#, r#"{"error":"bad"}"#] {
            assert_eq!(decode_reply(body.as_bytes()), Err(DecodeError::Said("bad".into())), "{body}");
            assert_eq!(decode_event(body), Ok(StreamItem::Error("bad".into())), "{body}");
        }
        assert!(decode_reply(b"<html>").is_err());
        assert!(decode_reply(br#"{"choices":[]}"#).is_err());
        assert!(decode_event("{").is_err());
    }

    #[test]
    fn unknown_fields_of_replies_and_events_come_back_out() {
        let reply = r#"{"id":"1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":null,"annotations":[]},"finish_reason":"stop","logprobs":null,"native":"x"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"odd":2},"service_tier":"default"}"#;
        let decoded = decode_reply(reply.as_bytes()).expect("decodes");
        let (before, after): (Value, Value) =
            (serde_json::from_str(reply).expect("json"), serde_json::to_value(&decoded).expect("json"));
        assert_eq!(before, after);
        let event = r#"{"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"","reasoning":"hm"},"finish_reason":null,"logprobs":null}],"obfuscation":"abc"}"#;
        let StreamItem::Chunk(chunk) = decode_event(event).expect("decodes") else { panic!("no chunk") };
        let after = serde_json::to_value(&chunk).expect("json");
        assert_eq!(serde_json::from_str::<Value>(event).expect("json"), after);
    }
}
