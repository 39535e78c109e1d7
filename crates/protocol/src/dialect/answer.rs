//! What the decoders of all dialects build: a whole reply, and the chunks of a stream.

use super::StreamItem;
use crate::event::{Chunk, ChunkChoice, Delta};
use crate::reply::{AssistantMessage, Choice, Reply};
use crate::usage::Usage;
use serde_json::{Map, Value, json};

/// One alternative of an answer, as a dialect's decoder finds it piece by piece.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub text: Option<String>,
    pub refusal: Option<String>,
    pub calls: Vec<Value>,
    pub reasoning: String,
    pub details: Vec<Value>,
    /// Further fields of the message.
    pub extra: Map<String, Value>,
}

/// Why an answer ended: the canonical word and the provider's own.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Finish {
    pub reason: &'static str,
    pub native: String,
}

impl Answer {
    pub(super) fn say(&mut self, text: &str) {
        self.text.get_or_insert_default().push_str(text);
    }

    pub(super) fn call(&mut self, id: &str, name: &str, arguments: &str) {
        self.calls.push(call(id, name, arguments));
    }

    /// Adds an item of `reasoning_details`, numbered.
    pub(super) fn detail(&mut self, mut item: Value) {
        item["index"] = json!(self.details.len());
        self.details.push(item);
    }

    /// `finish` is `None` where the provider did not say why it ended: then we do not say it either.
    pub(super) fn into_choice(self, index: u32, finish: Option<Finish>) -> Choice {
        let mut extra = self.extra;
        if !self.reasoning.is_empty() {
            extra.insert("reasoning".to_owned(), json!(self.reasoning));
        }
        if !self.details.is_empty() {
            extra.insert("reasoning_details".to_owned(), json!(self.details));
        }
        let message = AssistantMessage {
            content: self.text,
            refusal: self.refusal,
            tool_calls: self.calls,
            extra,
            ..AssistantMessage::default()
        };
        let native = finish.as_ref().map(|finish| ("native_finish_reason".to_owned(), json!(finish.native)));
        let finish_reason = finish.map(|finish| finish.reason.to_owned());
        Choice { index, message, finish_reason, extra: native.into_iter().collect() }
    }
}

/// A tool call in OpenAI's shape.
pub(super) fn call(id: &str, name: &str, arguments: &str) -> Value {
    json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
}

/// A reply of these choices.
pub(super) fn reply(id: &str, model: &str, choices: Vec<Choice>, usage: Option<Usage>) -> Reply {
    Reply {
        id: id.to_owned(),
        object: "chat.completion".to_owned(),
        created: 0,
        model: model.to_owned(),
        choices,
        usage: usage.map(|usage| Value::Object(usage.to_openai())),
        extra: Map::new(),
    }
}

/// News of the first alternative.
pub(super) fn news(delta: Delta) -> StreamItem {
    news_of(0, delta)
}

/// News of one alternative.
pub(super) fn news_of(index: u32, delta: Delta) -> StreamItem {
    item(vec![ChunkChoice { index, delta, ..ChunkChoice::default() }], None)
}

pub(super) fn text(text: &str) -> Delta {
    Delta { content: Some(text.to_owned()), ..Delta::default() }
}

/// Reasoning text and the item that details it.
pub(super) fn reasoning(text: &str, detail: Value) -> Delta {
    let mut extra = Map::new();
    if !text.is_empty() {
        extra.insert("reasoning".to_owned(), json!(text));
    }
    extra.insert("reasoning_details".to_owned(), json!([detail]));
    Delta { extra, ..Delta::default() }
}

/// The beginning of a tool call, or all of it.
pub(super) fn call_begins(index: usize, id: &str, name: &str, arguments: &str) -> Delta {
    let mut call = call(id, name, arguments);
    call["index"] = json!(index);
    Delta { tool_calls: Some(vec![call]), ..Delta::default() }
}

/// More of a tool call's arguments.
pub(super) fn call_goes_on(index: usize, arguments: &str) -> Delta {
    Delta { tool_calls: Some(vec![json!({"index": index, "function": {"arguments": arguments}})]), ..Delta::default() }
}

/// The end of an alternative.
pub(super) fn finished(index: u32, finish: &Finish) -> StreamItem {
    let extra = Map::from_iter([("native_finish_reason".to_owned(), json!(finish.native))]);
    let finish_reason = Some(finish.reason.to_owned());
    item(vec![ChunkChoice { index, finish_reason, extra, ..ChunkChoice::default() }], None)
}

/// The tokens of the whole answer.
pub(super) fn used(usage: Usage) -> StreamItem {
    item(Vec::new(), Some(Value::Object(usage.to_openai())))
}

/// The first chunk: who speaks.
pub(super) fn begins(id: &str, model: &str) -> StreamItem {
    let delta = Delta { role: Some("assistant".to_owned()), ..Delta::default() };
    match news(delta) {
        StreamItem::Chunk(mut chunk) => {
            chunk.id = id.to_owned();
            chunk.model = model.to_owned();
            StreamItem::Chunk(chunk)
        }
        other => other,
    }
}

fn item(choices: Vec<ChunkChoice>, usage: Option<Value>) -> StreamItem {
    StreamItem::Chunk(Box::new(Chunk {
        id: String::new(),
        object: "chat.completion.chunk".to_owned(),
        created: 0,
        model: String::new(),
        choices,
        usage,
        extra: Map::new(),
    }))
}

/// True where all of these counts are stated: usage without them is no usage.
pub(super) fn states(value: &Value, paths: &[&str]) -> bool {
    paths.iter().all(|path| value.pointer(path).is_some_and(Value::is_number))
}

/// A count or a number of something, 0 where it is not stated; more than any answer has would overflow sums.
pub(super) fn count(value: &Value, path: &str) -> u64 {
    const MOST: u64 = 1_000_000_000;
    value.pointer(path).and_then(Value::as_u64).unwrap_or(0).min(MOST)
}
