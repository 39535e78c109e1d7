//! The canonical stream: chunks, collecting them into a reply, and replaying a reply as chunks.

use crate::details;
use crate::reply::{AssistantMessage, Choice, Reply};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// One event of a streamed answer; fields that Sluice does not interpret travel in `extra`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chunk {
    #[serde(default)]
    pub id: String,
    #[serde(default = "object")]
    pub object: String,
    #[serde(default)]
    pub created: u64,
    #[serde(default)]
    pub model: String,
    #[serde(default)]
    pub choices: Vec<ChunkChoice>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Value>,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

fn object() -> String {
    "chat.completion.chunk".to_owned()
}

/// The news of one alternative.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChunkChoice {
    #[serde(default)]
    pub index: u32,
    #[serde(default)]
    pub delta: Delta,
    #[serde(default)]
    pub finish_reason: Option<String>,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What is appended to a message.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<Value>>,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Delta {
    fn says_something(&self) -> bool {
        self.content.as_deref().is_some_and(|text| !text.is_empty())
            || self.refusal.as_deref().is_some_and(|text| !text.is_empty())
            || self.tool_calls.as_deref().is_some_and(|calls| !calls.is_empty())
            || self.extra.values().any(|value| !matches!(value, Value::Null) && value != "")
    }
}

impl Chunk {
    /// True where a client would see something: text, a refusal, a tool call, reasoning, or the end of a choice.
    pub fn has_content(&self) -> bool {
        self.choices.iter().any(|choice| choice.delta.says_something() || choice.finish_reason.is_some())
    }

    /// True where a choice ended because the provider failed.
    pub fn has_failed(&self) -> bool {
        self.choices.iter().any(|choice| choice.finish_reason.as_deref() == Some("error"))
    }

    /// About the memory it takes, in bytes.
    pub fn bytes(&self) -> usize {
        const EMPTY: usize = 256;
        let json = |values: &Map<String, Value>| {
            let size = |value: &Value| match value {
                Value::String(text) => text.len(),
                Value::Array(_) | Value::Object(_) => value.to_string().len(),
                _ => 8,
            };
            values.iter().map(|(name, value)| name.len() + size(value) + 64).sum::<usize>()
        };
        let choice = |choice: &ChunkChoice| {
            let text = |text: &Option<String>| text.as_deref().map_or(0, str::len);
            let calls = choice.delta.tool_calls.iter().flatten().map(|call| 256 + call.to_string().len());
            EMPTY
                + text(&choice.delta.content)
                + text(&choice.delta.refusal)
                + calls.sum::<usize>()
                + json(&choice.delta.extra)
                + json(&choice.extra)
        };
        EMPTY + self.choices.iter().map(choice).sum::<usize>() + json(&self.extra)
    }

    /// Characters of everything that was made: text, refusals, reasoning, arguments of tool calls; for estimating the
    /// usage of a cut stream.
    pub fn text_chars(&self) -> usize {
        let made = |choice: &ChunkChoice| {
            let delta = &choice.delta;
            let texts = [delta.content.as_deref(), delta.refusal.as_deref()];
            chars(texts.into_iter().flatten(), delta.tool_calls.iter().flatten(), &delta.extra)
        };
        self.choices.iter().map(made).sum()
    }
}

/// Characters of texts, of tool calls' arguments and names, and of further strings as reasoning.
pub(crate) fn chars<'a>(
    texts: impl Iterator<Item = &'a str>,
    calls: impl Iterator<Item = &'a Value>,
    extra: &Map<String, Value>,
) -> usize {
    let count = |text: &str| text.chars().count();
    let of_call = |call: &Value| {
        ["/function/arguments", "/function/name"]
            .iter()
            .filter_map(|part| call.pointer(part)?.as_str())
            .map(count)
            .sum::<usize>()
    };
    let further = extra.values().filter_map(Value::as_str).map(count);
    texts.map(count).sum::<usize>() + calls.map(of_call).sum::<usize>() + further.sum::<usize>()
}

/// Puts a reply together from its chunks.
#[derive(Debug, Default)]
pub struct Collector {
    reply: Option<Reply>,
}

impl Collector {
    /// Appends one chunk.
    pub fn push(&mut self, chunk: &Chunk) {
        let reply = self.reply.get_or_insert_with(|| Reply {
            id: chunk.id.clone(),
            object: "chat.completion".to_owned(),
            created: chunk.created,
            model: chunk.model.clone(),
            choices: Vec::new(),
            usage: None,
            extra: Map::new(),
        });
        if chunk.usage.is_some() {
            reply.usage.clone_from(&chunk.usage);
        }
        reply.extra.extend(chunk.extra.clone());
        for news in &chunk.choices {
            let at = match reply.choices.iter().position(|choice| choice.index == news.index) {
                Some(at) => at,
                None => {
                    reply.choices.push(Choice {
                        index: news.index,
                        message: AssistantMessage::default(),
                        finish_reason: None,
                        extra: Map::new(),
                    });
                    reply.choices.len() - 1
                }
            };
            append(&mut reply.choices[at], news);
        }
    }

    /// True once this many choices have ended and none is open.
    pub fn has_ended(&self, choices: u64) -> bool {
        self.reply.as_ref().is_some_and(|reply| {
            reply.choices.len() as u64 >= choices && reply.choices.iter().all(|choice| choice.finish_reason.is_some())
        })
    }

    /// The reply as far as it has come.
    pub fn so_far(&self) -> Option<&Reply> {
        self.reply.as_ref()
    }

    /// Ends the collection; `None` when there was no chunk.
    pub fn finish(self) -> Option<Reply> {
        let mut reply = self.reply?;
        for call in reply.choices.iter_mut().flat_map(|choice| &mut choice.message.tool_calls) {
            if let Value::Object(call) = call {
                call.shift_remove("index"); // only a stream needs it
            }
        }
        Some(reply)
    }
}

fn append(choice: &mut Choice, news: &ChunkChoice) {
    let message = &mut choice.message;
    append_text(&mut message.content, news.delta.content.as_deref());
    append_text(&mut message.refusal, news.delta.refusal.as_deref());
    for call in news.delta.tool_calls.iter().flatten() {
        append_tool_call(&mut message.tool_calls, call);
    }
    for (name, value) in &news.delta.extra {
        let known = message.extra.entry(name.clone()).or_insert(Value::Null);
        match (name.as_str(), value) {
            ("reasoning_details", Value::Array(pieces)) => {
                if !known.is_array() {
                    *known = json!([]);
                }
                if let Value::Array(items) = known {
                    details::append(items, pieces);
                }
            }
            _ => merge(known, value),
        }
    }
    for (name, value) in &news.extra {
        merge_logprobs(choice.extra.entry(name.clone()).or_insert(Value::Null), value);
    }
    if news.finish_reason.is_some() {
        choice.finish_reason.clone_from(&news.finish_reason);
    }
}

fn append_text(target: &mut Option<String>, news: Option<&str>) {
    if let Some(news) = news {
        target.get_or_insert_default().push_str(news);
    }
}

fn append_tool_call(calls: &mut Vec<Value>, news: &Value) {
    let index = news["index"].as_u64();
    let Some(known) = calls.iter_mut().find(|call| index.is_some() && call["index"].as_u64() == index) else {
        calls.push(news.clone());
        return;
    };
    let arguments = news.pointer("/function/arguments").and_then(Value::as_str).unwrap_or("");
    match known.pointer_mut("/function/arguments") {
        Some(Value::String(known)) => known.push_str(arguments),
        _ => {
            if let Some(Value::Object(function)) = known.get_mut("function") {
                function.insert("arguments".to_owned(), json!(arguments));
            }
        }
    }
}

/// Strings and lists grow, anything else is replaced: how reasoning text and its details arrive.
fn merge(known: &mut Value, news: &Value) {
    match (known, news) {
        (_, Value::Null) => {}
        (Value::String(known), Value::String(news)) => known.push_str(news),
        (Value::Array(known), Value::Array(news)) => known.extend(news.iter().cloned()),
        (known, news) => *known = news.clone(),
    }
}

/// `logprobs` is an object of lists that grow.
fn merge_logprobs(known: &mut Value, news: &Value) {
    match (known, news) {
        (Value::Object(known), Value::Object(news)) => {
            for (name, value) in news {
                merge(known.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (known, news) if !news.is_null() => *known = news.clone(),
        _ => {}
    }
}

/// Bytes of text in one replayed chunk: about the size in which providers stream.
const REPLAY_BYTES: usize = 48;
/// A longer answer comes in larger pieces, so that there are not more than about this many.
const REPLAY_PIECES: usize = 2_000;

/// Cuts a reply into the chunks a stream of it would have had, without usage.
pub fn replay(reply: &Reply) -> Vec<Chunk> {
    let chunk = |choice: ChunkChoice| Chunk {
        id: reply.id.clone(),
        object: object(),
        created: reply.created,
        model: reply.model.clone(),
        choices: vec![choice],
        usage: None,
        extra: Map::new(),
    };
    let mut chunks: Vec<Chunk> = Vec::new();
    for choice in &reply.choices {
        let message = &choice.message;
        let news = |delta: Delta| ChunkChoice { index: choice.index, delta, ..ChunkChoice::default() };
        let opening = Delta { role: Some(message.role.clone()), extra: message.extra.clone(), ..Delta::default() };
        chunks.push(chunk(news(opening)));
        for piece in pieces(message.content.as_deref().unwrap_or("")) {
            chunks.push(chunk(news(Delta { content: Some(piece), ..Delta::default() })));
        }
        if message.refusal.is_some() {
            chunks.push(chunk(news(Delta { refusal: message.refusal.clone(), ..Delta::default() })));
        }
        for (index, call) in message.tool_calls.iter().enumerate() {
            let mut call = call.clone();
            if let Value::Object(call) = &mut call {
                call.insert("index".to_owned(), json!(index));
            }
            chunks.push(chunk(news(Delta { tool_calls: Some(vec![call]), ..Delta::default() })));
        }
        let last = ChunkChoice {
            index: choice.index,
            finish_reason: choice.finish_reason.clone(),
            extra: choice.extra.clone(),
            ..ChunkChoice::default()
        };
        chunks.push(chunk(last));
    }
    if let Some(first) = chunks.first_mut() {
        first.extra.clone_from(&reply.extra); // once: it may be large
    }
    chunks
}

fn pieces(text: &str) -> Vec<String> {
    let bytes = REPLAY_BYTES.max(text.len() / REPLAY_PIECES);
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = (bytes..rest.len()).find(|at| rest.is_char_boundary(*at)).unwrap_or(rest.len());
        let (piece, left) = rest.split_at(end);
        pieces.push(piece.to_owned());
        rest = left;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reply(content: &str, tool_calls: Vec<Value>) -> Reply {
        let message =
            json!({"role": "assistant", "content": content, "reasoning": "because", "tool_calls": tool_calls});
        let reply = json!({"id": "x", "created": 3, "model": "m", "system_fingerprint": "fp",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]});
        serde_json::from_value(reply).expect("a reply")
    }

    fn collect(chunks: &[Chunk]) -> Reply {
        let mut collector = Collector::default();
        chunks.iter().for_each(|chunk| collector.push(chunk));
        collector.finish().expect("chunks")
    }

    proptest! {
        #[test]
        fn a_replayed_reply_collects_to_itself(content in ".{1,300}") {
            let reply = reply(&content, vec![]);
            prop_assert_eq!(collect(&replay(&reply)), reply);
        }
    }

    #[test]
    fn tool_calls_in_pieces_are_put_together_by_index() {
        let piece = |value: Value| -> Chunk {
            serde_json::from_value(json!({"choices": [{"index": 0, "delta": {"tool_calls": [value]}}]})).expect("chunk")
        };
        let reply = collect(&[
            piece(json!({"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}})),
            piece(json!({"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{"}})),
            piece(json!({"index": 0, "function": {"arguments": "{\"x\":1}"}})),
            piece(json!({"index": 1, "function": {"arguments": "}"}})),
        ]);
        let calls = &reply.choices[0].message.tool_calls;
        assert_eq!(calls[0]["function"]["arguments"], "{\"x\":1}");
        assert_eq!(calls[1]["function"]["arguments"], "{}");
        assert_eq!(calls[1]["id"], "b");
    }

    #[test]
    fn tool_calls_of_a_wrong_shape_do_not_panic() {
        let piece = |value: Value| -> Chunk {
            serde_json::from_value(json!({"choices": [{"index": 0, "delta": {"tool_calls": [value]}}]})).expect("chunk")
        };
        let odd = json!({"index": 0, "function": "f"});
        let reply = collect(&[piece(odd.clone()), piece(odd), piece(json!("x"))]);
        assert_eq!(reply.choices[0].message.tool_calls.len(), 2);
        assert!(!replay(&reply).is_empty());
    }

    #[test]
    fn only_a_clean_single_text_answer_is_complete() {
        let good = reply("yes", vec![]);
        assert!(good.is_complete_text());
        let spoil: [fn(&mut Reply); 5] = [
            |reply| reply.choices[0].finish_reason = Some("length".into()),
            |reply| reply.choices[0].message.content = Some("  ".into()),
            |reply| reply.choices[0].message.refusal = Some("no".into()),
            |reply| reply.choices[0].message.tool_calls = vec![json!({})],
            |reply| reply.choices.push(reply.choices[0].clone()),
        ];
        for (row, spoil) in spoil.iter().enumerate() {
            let mut reply = good.clone();
            spoil(&mut reply);
            assert!(!reply.is_complete_text(), "row {row}");
        }
    }
}
