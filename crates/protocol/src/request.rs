//! The canonical chat request: a typed view beside the raw body it was read from.

use crate::json::Json;
use crate::preferences::ProviderPreferences;
use crate::raw::RawObject;
use bytes::Bytes;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt;
use thiserror::Error;

/// Names the field of a request that is wrong, its value and the way out.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("{field}: {problem}")]
pub struct FieldError {
    pub field: String,
    pub problem: String,
}

impl FieldError {
    /// Makes an error about `field`.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

/// A chat request in the canonical form; `raw` keeps every field as the client wrote it.
#[derive(Debug, Clone)]
pub struct ChatRequest {
    pub model: String,
    /// Fallback models in order of preference, OpenRouter's `models`.
    pub models: Vec<String>,
    pub messages: Vec<Message>,
    pub stream: bool,
    /// The client's cap on output tokens, from `max_completion_tokens` or `max_tokens`.
    pub max_tokens: Option<u64>,
    pub temperature: Option<f64>,
    pub n: u64,
    pub has_seed: bool,
    pub wants_logprobs: bool,
    pub tools: Vec<Value>,
    pub response_format: Option<Value>,
    /// The client's own end user, for limits and erasure.
    pub user: Option<String>,
    pub provider: ProviderPreferences,
    /// The conversation it belongs to, OpenRouter's `session_id`.
    pub session: Option<String>,
    pub sluice: SluiceOptions,
    pub(crate) raw: RawObject,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    Developer,
    User,
    Assistant,
    Tool,
    Function,
}

/// One turn of the conversation, as far as Sluice reads it.
#[derive(Debug, Clone, Deserialize)]
pub struct Message {
    pub role: Role,
    #[serde(default)]
    pub content: Content,
    #[serde(default)]
    pub tool_calls: Option<Vec<Value>>,
}

/// What a turn holds.
#[derive(Debug, Clone, Default)]
pub enum Content {
    #[default]
    Absent,
    Text(String),
    Parts(Vec<Part>),
}

/// One part of a mixed turn; `kind` is `text`, `image_url`, `input_audio`, `file` or newer.
#[derive(Debug, Clone, Deserialize)]
pub struct Part {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub text: Option<String>,
}

impl<'de> Deserialize<'de> for Content {
    /// By hand, since an untagged enum would hold every text and picture a second time while it is read.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Content;
            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a text or a list of parts")
            }
            fn visit_unit<E>(self) -> Result<Content, E> {
                Ok(Content::Absent)
            }
            fn visit_str<E>(self, text: &str) -> Result<Content, E> {
                Ok(Content::Text(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Content, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = list.next_element()? {
                    parts.push(part);
                }
                Ok(Content::Parts(parts))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl Message {
    /// The text of the turn, parts joined by line ends.
    pub fn text(&self) -> Cow<'_, str> {
        match &self.content {
            Content::Absent => Cow::Borrowed(""),
            Content::Text(text) => Cow::Borrowed(text),
            Content::Parts(parts) => {
                Cow::Owned(parts.iter().filter_map(|part| part.text.as_deref()).collect::<Vec<_>>().join("\n"))
            }
        }
    }

    /// True where a part is neither text nor a refusal.
    pub fn has_media(&self) -> bool {
        match &self.content {
            Content::Parts(parts) => parts.iter().any(|part| !matches!(part.kind.as_str(), "text" | "refusal")),
            _ => false,
        }
    }
}

/// The `sluice` object of a request: what the gateway's own features should do.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SluiceOptions {
    #[serde(default)]
    pub policy: Option<String>,
    #[serde(default)]
    pub quality_min: Option<f64>,
    #[serde(default)]
    pub cache: CacheOptions,
    /// Asks for the decision trace in the reply.
    #[serde(default)]
    pub trace: bool,
    /// Ends the request after this time, waiting and all tries included.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// Leaves an endpoint whose stream has no content by then.
    #[serde(default)]
    pub first_token_timeout_ms: Option<u64>,
}

/// The `sluice.cache` object.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheOptions {
    #[serde(default)]
    pub mode: CacheMode,
    #[serde(default)]
    pub ttl_s: Option<u64>,
    /// Share of requests that may be answered wrongly; only a smaller one than configured counts.
    #[serde(default)]
    pub error_max: Option<f64>,
    /// Names under which the stored answer can be found and forgotten.
    #[serde(default)]
    pub tags: Vec<String>,
}

/// How far a request may use the cache; a caller can make it stricter, never laxer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheMode {
    #[default]
    On,
    Exact,
    Off,
    /// Reads nothing, stores the fresh answer.
    Refresh,
    /// Answers from the cache or not at all.
    Only,
}

impl ChatRequest {
    /// Reads a request body.
    ///
    /// # Errors
    /// Names the first field that is missing, repeated, of the wrong type or out of range.
    pub fn parse(body: &Bytes) -> Result<Self, FieldError> {
        let raw = RawObject::parse(body)?;
        // What only one of two readers can read must not pass: the fingerprint reads every field.
        for (name, _) in &raw.0 {
            raw.read::<Json>(name)?;
        }
        let messages: Vec<Message> = raw
            .read("messages")?
            .ok_or_else(|| FieldError::new("messages", "missing; send a list with at least one message"))?;
        if messages.is_empty() {
            return Err(FieldError::new("messages", "empty; send at least one message"));
        }
        let (tokens, completion_tokens) = (raw.read("max_tokens")?, raw.read("max_completion_tokens")?);
        let request = Self {
            model: raw.read("model")?.unwrap_or_default(),
            models: raw.read("models")?.unwrap_or_default(),
            messages,
            stream: raw.read("stream")?.unwrap_or(false),
            max_tokens: completion_tokens.or(tokens),
            temperature: raw.read("temperature")?,
            n: raw.read("n")?.unwrap_or(1),
            has_seed: raw.read::<Json>("seed")?.is_some(),
            wants_logprobs: raw.read("logprobs")?.unwrap_or(false),
            tools: raw.read("tools")?.unwrap_or_default(),
            response_format: raw.read("response_format")?,
            user: raw.read("user")?,
            provider: raw.read("provider")?.unwrap_or_default(),
            session: raw.read("session_id")?,
            sluice: raw.read("sluice")?.unwrap_or_default(),
            raw,
        };
        request.check_ranges()?;
        Ok(request)
    }

    fn check_ranges(&self) -> Result<(), FieldError> {
        if self.model.is_empty() && self.models.is_empty() {
            return Err(FieldError::new("model", "missing; name a model from GET /v1/models, or \"auto\""));
        }
        if self.models.len() > MODELS_MAX {
            let found = self.models.len();
            return Err(FieldError::new("models", format!("{found} models; at most {MODELS_MAX} are tried")));
        }
        let names = std::iter::once(("model", &self.model)).chain(self.models.iter().map(|name| ("models", name)));
        for (field, name) in names
            .chain(self.user.iter().map(|user| ("user", user)))
            .chain(self.session.iter().map(|session| ("session_id", session)))
        {
            if name.len() > NAME_BYTES_MAX {
                return Err(FieldError::new(field, format!("{} bytes; at most {NAME_BYTES_MAX} are kept", name.len())));
            }
        }
        if self.messages.len() > MESSAGES_MAX {
            let found = self.messages.len();
            return Err(FieldError::new("messages", format!("{found} messages; at most {MESSAGES_MAX} are accepted")));
        }
        if self.tools.len() > TOOLS_MAX {
            let found = self.tools.len();
            return Err(FieldError::new("tools", format!("{found} tools; at most {TOOLS_MAX} are accepted")));
        }
        if self.max_tokens == Some(0) {
            return Err(FieldError::new("max_tokens", "0; ask for at least 1 token or leave the field out"));
        }
        if let Some(temperature) = self.temperature.filter(|value| !(0.0..=2.0).contains(value)) {
            return Err(FieldError::new("temperature", format!("{temperature}; use a number from 0 to 2")));
        }
        if !(1..=N_MAX).contains(&self.n) {
            return Err(FieldError::new("n", format!("{}; use a whole number from 1 to {N_MAX}", self.n)));
        }
        let deadlines = [
            ("sluice.timeout_ms", self.sluice.timeout_ms),
            ("sluice.first_token_timeout_ms", self.sluice.first_token_timeout_ms),
        ];
        if let Some((field, _)) = deadlines.into_iter().find(|(_, deadline)| *deadline == Some(0)) {
            return Err(FieldError::new(field, "0; allow at least 1 millisecond or leave the field out"));
        }
        if let Some(quality) = self.sluice.quality_min.filter(|value| !(0.0..=1.0).contains(value)) {
            return Err(FieldError::new("sluice.quality_min", format!("{quality}; use a number from 0 to 1")));
        }
        let cache = &self.sluice.cache;
        if let Some(error_max) = cache.error_max.filter(|value| !(0.0..=1.0).contains(value)) {
            return Err(FieldError::new("sluice.cache.error_max", format!("{error_max}; use a number from 0 to 1")));
        }
        if cache.tags.len() > TAGS_MAX || cache.tags.iter().any(|tag| tag.is_empty() || tag.len() > TAG_BYTES_MAX) {
            let problem = format!("at most {TAGS_MAX} tags of 1 to {TAG_BYTES_MAX} bytes are kept");
            return Err(FieldError::new("sluice.cache.tags", problem));
        }
        Ok(())
    }

    /// Names of the parameters it sets; what only routes it or carries the conversation is none.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        const NOT_PARAMETERS: [&str; 16] = [
            "model",
            "models",
            "messages",
            "provider",
            "sluice",
            "stream",
            "stream_options",
            "session_id",
            "user",
            "usage",
            "metadata",
            "route",
            "transforms",
            "plugins",
            "cache_control",
            "service_tier",
        ];
        let set = self.raw.0.iter().filter(|(_, value)| value.as_ref() != b"null");
        set.map(|(name, _)| name.as_str()).filter(|name| !NOT_PARAMETERS.contains(name))
    }

    /// Asks for thoughts, unless the request says something about them itself.
    pub fn think(&mut self) {
        let read = |name: &str| self.raw.get(name).and_then(|raw| serde_json::from_slice::<Value>(raw).ok());
        let mut reasoning = read("reasoning").filter(Value::is_object).unwrap_or_else(|| Value::Object(Map::new()));
        let says = ["effort", "max_tokens", "enabled"].iter().any(|name| !reasoning[*name].is_null());
        if !says && read("reasoning_effort").is_none_or(|effort| effort.is_null()) {
            reasoning["enabled"] = Value::Bool(true);
            self.raw.0.retain(|(name, _)| name != "reasoning");
            self.raw.0.push(("reasoning".to_owned(), Bytes::from(reasoning.to_string())));
        }
    }

    /// True where thoughts may be thought and not shown.
    pub fn hides_thoughts(&self) -> bool {
        let read = |name: &str| self.raw.get(name).and_then(|raw| serde_json::from_slice::<Value>(raw).ok());
        read("reasoning").is_some_and(|reasoning| reasoning["exclude"] == true)
            || read("include_reasoning") == Some(Value::Bool(false))
    }

    /// True where the provider may be asked to remember the prompt for an hour, which costs more; a prompt that only
    /// speaks of it counts too.
    pub fn may_be_kept_for_an_hour(&self) -> bool {
        let says = |part: &[u8]| self.raw.0.iter().any(|(_, value)| memchr::memmem::find(value, part).is_some());
        says(b"\"1h\"") && (says(b"cache_control") || self.raw.get("cache_control").is_some())
    }

    /// The models to try, in order: `model` first, then `models` without repeats.
    pub fn named_models(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for name in std::iter::once(&self.model).chain(&self.models) {
            if !name.is_empty() && !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names
    }

    /// A field as the client wrote it, in JSON; `None` where it did not.
    pub fn field_json(&self, name: &str) -> Option<Cow<'_, str>> {
        self.raw.get(name).map(|raw| String::from_utf8_lossy(raw))
    }

    /// The text of the last message where it is the user's, otherwise `None`.
    pub fn last_user_text(&self) -> Option<Cow<'_, str>> {
        let last = self.messages.last().filter(|message| message.role == Role::User)?;
        Some(last.text())
    }

    /// The texts of the user's turns before the last message, joined by line ends; `None` where there are none.
    pub fn earlier_user_text(&self) -> Option<String> {
        let (_, before) = self.messages.split_last()?;
        let asked = before.iter().filter(|message| message.role == Role::User);
        let texts: Vec<Cow<'_, str>> = asked.map(Message::text).collect();
        (!texts.is_empty()).then(|| texts.join("\n"))
    }

    /// Bytes of all texts, tools and schemas, and of whatever else is sent on beyond what settings take: the base of token
    /// estimates.
    pub fn prompt_bytes(&self) -> usize {
        let is_prompt = |name: &str| matches!(name, "messages" | "tools" | "response_format");
        let is_sent = |name: &str| !crate::dialect::openai_chat::GATEWAY_FIELDS.contains(&name);
        let (mut prompt, mut others) = (0, 0);
        for (name, value) in self.raw.0.iter().filter(|(name, _)| is_sent(name)) {
            if is_prompt(name) {
                prompt += value.len();
            } else {
                others += name.len() + value.len();
            }
        }
        prompt + others.saturating_sub(SETTINGS_BYTES)
    }
}

/// What is not prompt is settings up to here; a provider may bill what is more.
const SETTINGS_BYTES: usize = 1_024;
const MODELS_MAX: usize = 16;
const TAGS_MAX: usize = 16;
const TAG_BYTES_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 256;
const MESSAGES_MAX: usize = 2_048;
const TOOLS_MAX: usize = 256;
const N_MAX: u64 = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(body: &str, field: &str, part_of_problem: &str) {
        let error = ChatRequest::parse(&Bytes::copy_from_slice(body.as_bytes())).expect_err(body);
        assert_eq!(error.field, field, "{error}");
        assert!(error.problem.contains(part_of_problem), "{error}");
    }

    #[test]
    fn whatever_is_sent_on_counts_as_prompt() {
        let bytes = |more: &str| {
            let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"x"}}],"temperature":0{more}}}"#);
            ChatRequest::parse(&Bytes::from(body)).expect("a request").prompt_bytes()
        };
        let plain = bytes("");
        assert_eq!(bytes(r#","seed":1,"user":"ann""#), plain, "settings are small");
        let functions = format!(r#","functions":[{{"name":"f","description":"{}"}}]"#, "x".repeat(10_000));
        assert!(bytes(&functions) > plain + 9_000);
        assert_eq!(bytes(&format!(r#","session_id":"{}""#, "x".repeat(200))), plain, "what stays here costs nothing");
    }

    #[test]
    fn bad_requests_name_field_value_and_way_out() {
        check_refused("[]", "body", "expected a JSON object");
        check_refused(&format!("{{\"x\":{}", "[".repeat(64)), "body", "64 levels");
        check_refused("{\"model\":\"m\"}", "messages", "missing");
        check_refused("{\"model\":\"m\",\"messages\":[]}", "messages", "at least one");
        check_refused("{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", "model", "GET /v1/models");
        let with =
            |field: &str| format!("{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":\"x\"}}],{field}}}");
        check_refused(&with("\"temperature\":\"hot\""), "temperature", "hot");
        check_refused(&with("\"temperature\":3"), "temperature", "0 to 2");
        check_refused(&with("\"max_tokens\":0"), "max_tokens", "at least 1");
        check_refused(&with("\"max_tokens\":-4"), "max_tokens", "-4");
        check_refused(&with("\"n\":0"), "n", "1 to 128");
        check_refused(&with("\"model\":\"other\""), "body", "`model` is given twice");
        check_refused(&with("\"stop\":1e999"), "stop", "1e999");
        check_refused(&with("\"stop\":\"\\ud800\""), "stop", "ud800");
        check_refused(&with(&format!("\"user\":\"{}\"", "u".repeat(300))), "user", "256");
        check_refused(&with(&format!("\"models\":[{}\"m\"]", "\"m\",".repeat(16))), "models", "at most 16");
        check_refused(&with("\"provider\":{\"zrd\":true}"), "provider", "zrd");
        check_refused(&with("\"sluice\":{\"quality_min\":7}"), "sluice.quality_min", "0 to 1");
        check_refused(&with("\"sluice\":{\"cache\":{\"mode\":\"lax\"}}"), "sluice", "lax");
    }

    #[test]
    fn null_fields_are_absent_fields() {
        let body = br#"{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":null,"stream":null,"tools":null,"seed":null}"#;
        let request = ChatRequest::parse(&Bytes::from_static(body)).expect("valid");
        assert!(!request.stream && !request.has_seed && request.tools.is_empty() && request.temperature.is_none());
    }
}
