//! How much of a reply a reader has been told, and the rest: for a reader too slow to follow the stream itself.

use crate::details;
use crate::event::{Chunk, replay};
use crate::reply::{Choice, Reply};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// OpenRouter's list of thoughts.
const DETAILS: &str = "reasoning_details";

/// What the chunks so far have told.
#[derive(Debug, Clone, Default)]
pub struct Told {
    choices: BTreeMap<u32, ToldChoice>,
}

#[derive(Debug, Clone, Default)]
struct ToldChoice {
    content_bytes: usize,
    refusal_bytes: usize,
    /// Index and argument bytes of each tool call, in the order in which they began.
    calls: Vec<(Option<u64>, usize)>,
    /// Bytes of strings, elements of lists; 1 for what is told at once.
    extra: BTreeMap<String, usize>,
    /// `reasoning_details`, whose items grow.
    details: Vec<Value>,
    /// The same for lists within the choice's own further fields, as `logprobs`, by `field/list`.
    lists: BTreeMap<String, usize>,
    ended: bool,
}

impl Told {
    /// Counts a chunk as told.
    pub fn push(&mut self, chunk: &Chunk) {
        for news in &chunk.choices {
            let told = self.choices.entry(news.index).or_default();
            told.content_bytes += news.delta.content.as_deref().map_or(0, str::len);
            told.refusal_bytes += news.delta.refusal.as_deref().map_or(0, str::len);
            for call in news.delta.tool_calls.iter().flatten() {
                let index = call["index"].as_u64();
                let bytes = arguments(call).len();
                match told.calls.iter_mut().find(|(known, _)| index.is_some() && *known == index) {
                    Some((_, known)) => *known += bytes,
                    None => told.calls.push((index, bytes)),
                }
            }
            for (name, value) in &news.delta.extra {
                if let (DETAILS, Value::Array(pieces)) = (name.as_str(), value) {
                    details::append(&mut told.details, pieces);
                    continue;
                }
                *told.extra.entry(name.clone()).or_default() += size(value);
            }
            for (name, lists) in &news.extra {
                for (list, value) in lists.as_object().into_iter().flatten() {
                    *told.lists.entry(format!("{name}/{list}")).or_default() += size(value);
                }
            }
            told.ended |= news.finish_reason.is_some();
        }
    }

    /// Chunks that tell what is left of `reply`, whose beginning was told.
    pub fn rest(&self, reply: &Reply) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        for choice in &reply.choices {
            let only = Reply { choices: vec![choice.clone()], ..reply.clone() };
            match self.choices.get(&choice.index) {
                None => chunks.extend(replay(&only)),
                Some(told) if told.ended => {}
                Some(told) => chunks.extend(replay(&Reply { choices: vec![told.rest(choice)], ..only })),
            }
        }
        chunks
    }
}

impl ToldChoice {
    /// The choice without what was told of it. Tool calls keep their place by index.
    fn rest(&self, choice: &Choice) -> Choice {
        let mut rest = choice.clone();
        let message = &mut rest.message;
        message.content = left(message.content.as_deref(), self.content_bytes);
        message.refusal = left(message.refusal.as_deref(), self.refusal_bytes);
        for (at, call) in message.tool_calls.iter_mut().enumerate() {
            if let Some((_, told)) = self.calls.get(at) {
                let arguments = left(Some(arguments(call)), *told).unwrap_or_default();
                *call = json!({"function": {"arguments": arguments}});
            }
        }
        for (name, lists) in &mut rest.extra {
            for (list, value) in lists.as_object_mut().into_iter().flatten() {
                let told = self.lists.get(&format!("{name}/{list}")).copied().unwrap_or(0);
                if let Value::Array(items) = value {
                    items.drain(..told.min(items.len()));
                }
            }
        }
        let extra = std::mem::take(&mut message.extra);
        let left_of = |(name, value): (String, Value)| {
            if let (DETAILS, Value::Array(items)) = (name.as_str(), &value) {
                let rest: Vec<Value> = items
                    .iter()
                    .enumerate()
                    .filter_map(|(at, item)| details::rest(item, self.details.get(at)))
                    .collect();
                return (!rest.is_empty()).then(|| (name, json!(rest)));
            }
            let told = self.extra.get(&name).copied().unwrap_or(0);
            let value = match value {
                Value::String(text) => left(Some(&text), told).map(Value::String),
                Value::Array(list) => list.get(told..).filter(|list| !list.is_empty()).map(|list| json!(list)),
                other => (told == 0).then_some(other),
            };
            value.map(|value| (name, value))
        };
        message.extra = extra.into_iter().filter_map(left_of).collect::<Map<_, _>>();
        rest
    }
}

fn left(text: Option<&str>, told: usize) -> Option<String> {
    text.and_then(|text| text.get(told..)).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn arguments(call: &Value) -> &str {
    call.pointer("/function/arguments").and_then(Value::as_str).unwrap_or("")
}

fn size(value: &Value) -> usize {
    match value {
        Value::Null => 0,
        Value::String(text) => text.len(),
        Value::Array(list) => list.len(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Collector;
    use proptest::prelude::*;

    fn chunks() -> Vec<Chunk> {
        let of = |delta: Value, finish: Value| json!({"id": "x", "created": 1, "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]});
        let call = |index: u64, arguments: &str| json!({"tool_calls": [{"index": index, "function": {"arguments": arguments}}]});
        let begin = |index: u64| {
            json!({"tool_calls": [{"index": index, "id": format!("c{index}"), "type": "function",
                "function": {"name": "f", "arguments": "{"}}]})
        };
        let deltas = [
            json!({"role": "assistant", "content": ""}),
            json!({"reasoning": "because é"}),
            json!({"reasoning": " so", "reasoning_details": [{"a": 1}]}),
            json!({"reasoning_details": [{"a": 2}]}),
            json!({"reasoning": "x", "reasoning_details": [{"type": "reasoning.text", "text": "so ", "index": 0}]}),
            json!({"reasoning": "y", "reasoning_details": [{"type": "reasoning.text", "text": "it is", "index": 0}]}),
            json!({"reasoning_details": [{"type": "reasoning.text", "text": "", "signature": "s", "index": 0}]}),
            json!({"content": "naïve "}),
            json!({"content": "東京"}),
            json!({"content": "!"}),
            begin(0),
            call(0, "\"x\":"),
            begin(1),
            call(1, "}"),
            call(0, "1}"),
        ];
        let mut chunks: Vec<Value> = deltas.into_iter().map(|delta| of(delta, Value::Null)).collect();
        for (at, chunk) in chunks.iter_mut().enumerate().skip(4).take(3) {
            chunk["choices"][0]["logprobs"] = json!({"content": [{"token": at}], "refusal": null});
        }
        chunks.push(of(json!({}), json!("tool_calls")));
        chunks.into_iter().map(|chunk| serde_json::from_value(chunk).expect("a chunk")).collect()
    }

    fn collect(chunks: &[Chunk]) -> Reply {
        let mut collector = Collector::default();
        chunks.iter().for_each(|chunk| collector.push(chunk));
        collector.finish().expect("chunks")
    }

    #[test]
    fn a_reader_detached_anywhere_gets_the_same_answer() {
        let all = chunks();
        let whole = collect(&all);
        for cut in 0..=all.len() {
            let mut told = Told::default();
            all[..cut].iter().for_each(|chunk| told.push(chunk));
            let rest = told.rest(&whole);
            let joined: Vec<Chunk> = all[..cut].iter().cloned().chain(rest).collect();
            assert_eq!(collect(&joined), whole, "cut after {cut}");
        }
    }

    proptest! {
        #[test]
        fn texts_are_told_once(content in ".{1,200}", cut in 0usize..20) {
            let reply: Reply = serde_json::from_value(json!({"id": "x", "created": 1, "model": "m", "choices":
                [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}]})).expect("a reply");
            let all = replay(&reply);
            let cut = cut.min(all.len());
            let mut told = Told::default();
            all[..cut].iter().for_each(|chunk| told.push(chunk));
            let joined: Vec<Chunk> = all[..cut].iter().cloned().chain(told.rest(&reply)).collect();
            prop_assert_eq!(collect(&joined), reply);
        }
    }
}
