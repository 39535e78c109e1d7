//! The wire formats of providers: how a canonical request is written for each, and how its answers are read.

mod answer;
pub mod anthropic;
pub mod bedrock;
pub mod cohere;
mod conversation;
pub mod gemini;
#[cfg(test)]
mod golden;
pub mod openai_chat;
pub mod openai_responses;
#[cfg(test)]
mod properties;
mod thinking;

use crate::event::Chunk;
use crate::reply::Reply;
use crate::request::ChatRequest;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

/// A wire format towards providers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// OpenAI's chat completions, and what calls itself compatible.
    #[default]
    OpenaiChat,
    OpenaiResponses,
    /// Anthropic's Messages.
    Anthropic,
    /// Google's generateContent.
    Gemini,
    /// AWS Bedrock's Converse.
    Bedrock,
    /// Cohere's Chat v2.
    Cohere,
}

/// How one endpoint differs from others of its dialect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quirks {
    /// The request field under which the endpoint takes the output cap (`openai_chat`).
    pub max_tokens_field: String,
    /// Request fields that the endpoint refuses; they are not sent.
    pub rejects: Vec<String>,
    pub reasoning: ReasoningForm,
    /// The efforts it knows; empty: all.
    pub efforts: Vec<String>,
    /// The least and the most tokens of thinking it takes.
    pub thinking_tokens: Option<[u64; 2]>,
    /// It cannot be told not to think.
    pub always_thinks: bool,
    /// How thoughts of earlier turns are sent back (`openai_chat`).
    pub history: HistoryForm,
    /// False where the role `developer` is unknown; `system` is sent instead.
    pub developer_role: bool,
    /// False where `stream_options` is refused; such endpoints state usage unasked.
    pub stream_options: bool,
}

impl Default for Quirks {
    fn default() -> Self {
        Self {
            max_tokens_field: "max_tokens".to_owned(),
            rejects: Vec::new(),
            reasoning: ReasoningForm::default(),
            efforts: Vec::new(),
            thinking_tokens: None,
            always_thinks: false,
            history: HistoryForm::default(),
            developer_role: true,
            stream_options: true,
        }
    }
}

/// How an endpoint is asked to think, where its dialect has more than one way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasoningForm {
    /// As the client wrote it; where the dialect has a form of its own, a budget of tokens.
    #[default]
    AsAsked,
    /// `reasoning_effort`: OpenAI and most compatible servers.
    Effort,
    /// `thinking: {type}`: Z.ai, Moonshot, DeepSeek.
    Thinking,
    /// `enable_thinking` and `thinking_budget`: Alibaba.
    EnableThinking,
    /// Anthropic's `thinking: {type: "adaptive"}` with an effort.
    Adaptive,
    /// Gemini's `thinkingLevel`.
    Level,
}

/// How an OpenAI-compatible endpoint takes thoughts of earlier turns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HistoryForm {
    /// As the client wrote them: OpenRouter's own fields.
    #[default]
    AsAsked,
    /// As `reasoning_content`, which DeepSeek asks for beside tool calls.
    ReasoningContent,
    /// Not at all: they are refused.
    None,
}

/// What one endpoint needs to be different from the client's body.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The endpoint's own name of the model.
    pub model: &'a str,
    /// The cap on output tokens to send, where one is to be sent.
    pub max_tokens: Option<u64>,
    /// What the endpoint can give at the most; some dialects must state a cap.
    pub output_tokens_max: u64,
    pub quirks: &'a Quirks,
}

/// Says that a request holds something that a dialect has no words for; another endpoint may have them.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("{field}: {problem}")]
pub struct Inexpressible {
    pub field: &'static str,
    pub problem: String,
}

impl Inexpressible {
    pub(crate) fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self { field, problem: problem.into() }
    }
}

/// Says that an upstream answer is not in its dialect.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// It is something else.
    #[error("{0}")]
    Foreign(String),
    /// It is an error object, and this is its message.
    #[error("{0}")]
    Said(String),
}

impl DecodeError {
    pub(crate) fn not_json(what: &str, error: &serde_json::Error) -> Self {
        Self::Foreign(format!("{what} is not JSON of its dialect: {error}"))
    }
}

/// One decoded stream event.
#[derive(Debug, Clone, PartialEq)]
pub enum StreamItem {
    Chunk(Box<Chunk>),
    /// The terminal event.
    Done,
    /// An error inside the stream.
    Error(String),
}

impl Dialect {
    /// Writes a request for an endpoint. The pieces are to be sent one after the other; large ones of the client's own
    /// dialect are parts of its body, not copies.
    ///
    /// # Errors
    /// When the dialect cannot say what the request says.
    pub fn encode_request(self, request: &ChatRequest, target: Target<'_>) -> Result<Vec<Bytes>, Inexpressible> {
        let body = match self {
            Self::OpenaiChat => return openai_chat::encode_request(request, target),
            Self::OpenaiResponses => openai_responses::encode_request(request, target)?,
            Self::Anthropic => anthropic::encode_request(request, target)?,
            Self::Gemini => gemini::encode_request(request, target)?,
            Self::Bedrock => bedrock::encode_request(request, target)?,
            Self::Cohere => cohere::encode_request(request, target)?,
        };
        Ok(vec![Bytes::from(body.to_string())])
    }

    /// Reads a whole upstream answer.
    ///
    /// # Errors
    /// When it is not JSON of this dialect, holds an error object, or has no choice.
    pub fn decode_reply(self, body: &[u8]) -> Result<Reply, DecodeError> {
        let value: Value = serde_json::from_slice(body).map_err(|error| DecodeError::not_json("the answer", &error))?;
        if let Some(message) = error_message(&value) {
            return Err(DecodeError::Said(message));
        }
        match self {
            Self::OpenaiChat => openai_chat::decode_reply(value),
            Self::OpenaiResponses => openai_responses::decode_reply(&value),
            Self::Anthropic => anthropic::decode_reply(&value),
            Self::Gemini => gemini::decode_reply(&value),
            Self::Bedrock => bedrock::decode_reply(&value),
            Self::Cohere => cohere::decode_reply(&value),
        }
    }
}

/// Anthropic's body as Vertex takes it: the model is in the address, the version in the body.
pub fn for_vertex(body: &[Bytes]) -> Vec<Bytes> {
    let body: Value = serde_json::from_slice(&body.concat()).unwrap_or_default(); // it was written here
    vec![Bytes::from(anthropic::for_vertex(body).to_string())]
}

/// Reads the events of one stream.
#[derive(Debug)]
pub enum StreamDecoder {
    OpenaiChat(openai_chat::Stream),
    OpenaiResponses(openai_responses::Stream),
    Anthropic(anthropic::Stream),
    Gemini(gemini::Stream),
    Bedrock(bedrock::Stream),
    Cohere(cohere::Stream),
}

impl StreamDecoder {
    /// Begins a stream.
    pub fn new(dialect: Dialect) -> Self {
        match dialect {
            Dialect::OpenaiChat => Self::OpenaiChat(openai_chat::Stream::default()),
            Dialect::OpenaiResponses => Self::OpenaiResponses(openai_responses::Stream::default()),
            Dialect::Anthropic => Self::Anthropic(anthropic::Stream::default()),
            Dialect::Gemini => Self::Gemini(gemini::Stream::default()),
            Dialect::Bedrock => Self::Bedrock(bedrock::Stream::default()),
            Dialect::Cohere => Self::Cohere(cohere::Stream::default()),
        }
    }

    /// Reads the data of one event; an event that says nothing to a client gives no item.
    ///
    /// # Errors
    /// When it is not JSON of the dialect.
    pub fn decode(&mut self, data: &str) -> Result<Vec<StreamItem>, DecodeError> {
        if data == "[DONE]" {
            return Ok(vec![StreamItem::Done]);
        }
        let value: Value = serde_json::from_str(data).map_err(|error| DecodeError::not_json("an event", &error))?;
        if let Some(message) = error_message(&value) {
            return Ok(vec![StreamItem::Error(message)]);
        }
        match self {
            Self::OpenaiChat(stream) => stream.decode(value),
            Self::OpenaiResponses(stream) => stream.decode(&value),
            Self::Anthropic(stream) => stream.decode(&value),
            Self::Gemini(stream) => stream.decode(&value),
            Self::Bedrock(stream) => stream.decode(&value),
            Self::Cohere(stream) => stream.decode(&value),
        }
    }
}

/// The message of an error body, in any of the shapes that providers use.
pub fn error_message(value: &Value) -> Option<String> {
    let value = value.as_array().and_then(|list| list.first()).unwrap_or(value);
    let says_error = || (value["object"] == "error").then_some(value); // vLLM, Mistral
    let error = value.get("error").filter(|error| !error.is_null()).or_else(says_error)?;
    if let Some(inner) = error.pointer("/message/detail/0/msg").and_then(Value::as_str) {
        return Some(inner.to_owned());
    }
    let message = error.get("message").or(Some(error)).and_then(Value::as_str);
    Some(message.map_or_else(|| error.to_string(), str::to_owned))
}

/// The message of the body of an error status, which need not say `error`.
pub fn status_message(body: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let value = value.as_array().and_then(|list| list.first()).unwrap_or(&value);
    let plain = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let listed = || Some(value.get("detail")?.get(0)?.get("msg")?.as_str()?.to_owned());
    error_message(value)
        .or_else(|| plain("message"))
        .or_else(|| plain("Message"))
        .or_else(|| plain("detail"))
        .or_else(listed)
}
