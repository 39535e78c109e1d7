//! Every dialect against files written from its provider's public reference (`golden/`): requests, whole answers, streams
//! and errors.

use super::{DecodeError, Dialect, Quirks, ReasoningForm, StreamDecoder, StreamItem, Target, status_message};
use crate::event::Collector;
use crate::reply::Reply;
use crate::request::ChatRequest;
use crate::sse::SseDecoder;
use crate::usage::Usage;
use bytes::Bytes;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const DIALECTS: [(Dialect, &str); 6] = [
    (Dialect::OpenaiChat, "openai_chat"),
    (Dialect::OpenaiResponses, "openai_responses"),
    (Dialect::Anthropic, "anthropic"),
    (Dialect::Gemini, "gemini"),
    (Dialect::Bedrock, "bedrock"),
    (Dialect::Cohere, "cohere"),
];

/// The cases whose file name begins like this, by dialect and name.
fn cases(prefix: &str) -> Vec<(Dialect, String, Value)> {
    let mut found = Vec::new();
    for (dialect, folder) in DIALECTS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(folder);
        let mut names: Vec<_> =
            fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
        names.sort();
        for path in names {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            let is_other = prefix == "stream_" && name.starts_with("stream_error_");
            if name.starts_with(prefix) && name.ends_with(".json") && !is_other {
                let text = fs::read_to_string(&path).expect("a file");
                let case: Value = serde_json::from_str(&text).expect("JSON");
                assert!(
                    case["source"].as_str().is_some_and(|source| !source.is_empty()),
                    "{folder}/{name} names no source"
                );
                found.push((dialect, format!("{folder}/{name}"), case));
            }
        }
    }
    assert!(found.len() >= DIALECTS.len(), "{prefix}: {} cases", found.len());
    found
}

/// Fails with every case that differs, not with the first.
#[track_caller]
fn none_differ(differing: Vec<String>) {
    assert!(differing.is_empty(), "{} differ:\n{}", differing.len(), differing.join("\n"));
}

fn quirks(case: &Value) -> Quirks {
    let mut quirks: Quirks =
        case.get("quirks").map_or_else(Quirks::default, |q| serde_json::from_value(q.clone()).expect("quirks"));
    if case["adaptive"] == json!(true) {
        quirks.reasoning = ReasoningForm::Adaptive;
    }
    if case["thinking_level"] == json!(true) {
        quirks.reasoning = ReasoningForm::Level;
    }
    quirks
}

/// JSON inside a text is compared as JSON.
fn opened(value: &Value) -> Value {
    match value {
        Value::String(text) => match serde_json::from_str::<Value>(text) {
            Ok(inner @ Value::Object(_)) => json!({ "JSON": inner }),
            _ => value.clone(),
        },
        Value::Array(items) => items.iter().map(opened).collect(),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(name, value)| (name.clone(), opened(value))).collect())
        }
        _ => value.clone(),
    }
}

#[test]
fn requests_are_written_as_the_references_say() {
    let mut differing = Vec::new();
    for (dialect, name, case) in cases("request_") {
        let body = Bytes::from(case["chat"].to_string());
        let request = ChatRequest::parse(&body).unwrap_or_else(|error| panic!("{name}: {error}"));
        let quirks = quirks(&case);
        let target = Target { model: "up", max_tokens: request.max_tokens, output_tokens_max: 32_000, quirks: &quirks };
        match dialect.encode_request(&request, target) {
            Ok(pieces) => {
                let wire: Value = serde_json::from_slice(&pieces.concat()).expect("JSON");
                if opened(&wire) != opened(&case["wire"]) {
                    differing.push(format!("{name}\n   is      {wire}\n   should  {}", case["wire"]));
                }
            }
            Err(error) => differing.push(format!("{name}: {error}")),
        }
    }
    none_differ(differing);
}

/// The parts of a reply that the files state, in their shape.
fn shown(reply: &Reply) -> Value {
    let choice = &reply.choices[0];
    let mut message = serde_json::to_value(&choice.message).expect("JSON");
    if message["content"] == "" {
        message["content"] = Value::Null;
    }
    if let Value::Object(fields) = &mut message {
        fields.retain(|name, value| name == "content" || !(value.is_null() || *value == json!([])));
    }
    let native = choice.extra.get("native_finish_reason").cloned().unwrap_or_else(|| json!(choice.finish_reason));
    let usage = reply.usage.as_ref().and_then(Usage::from_openai).map(|usage| Value::Object(usage.to_openai()));
    json!({"message": message, "finish_reason": choice.finish_reason, "native_finish_reason": native, "usage": usage})
}

fn differs(is: &Value, should: &Value) -> bool {
    let mut should = should.clone();
    if let Value::Object(fields) = &mut should {
        fields.retain(|name, _| is.get(name).is_some());
        if let Some(Value::Object(usage)) = fields.get_mut("usage") {
            usage.retain(|name, _| is["usage"].get(name).is_some()); // `cost` and the like stay in the reply's own
        }
    }
    opened(is) != opened(&should)
}

#[test]
fn whole_answers_are_read_as_the_references_say() {
    let mut differing = Vec::new();
    for (dialect, name, case) in cases("reply_") {
        match dialect.decode_reply(case["wire"].to_string().as_bytes()) {
            Ok(reply) if differs(&shown(&reply), &case["chat"]) => {
                differing.push(format!("{name}\n   is      {}\n   should  {}", shown(&reply), case["chat"]));
            }
            Ok(_) => {}
            Err(DecodeError::Said(_)) if case["chat"]["finish_reason"] == "error" => {}
            Err(error) => differing.push(format!("{name}: {error}")),
        }
    }
    none_differ(differing);
}

fn event_text(event: &Value) -> String {
    event.as_str().map_or_else(|| event.to_string(), str::to_owned)
}

/// The answer that a stream's events come to, read in pieces of so many bytes.
fn streamed(dialect: Dialect, events: &[Value], piece_bytes: usize) -> Result<Option<Reply>, String> {
    let wire: String = events.iter().map(|event| format!("event: x\ndata: {}\n\n", event_text(event))).collect();
    let (mut frames, mut decoder, mut collector) =
        (SseDecoder::new(1 << 20), StreamDecoder::new(dialect), Collector::default());
    for piece in wire.as_bytes().chunks(piece_bytes) {
        for data in frames.feed(piece).map_err(|error| error.to_string())? {
            for item in decoder.decode(&data).map_err(|error| error.to_string())? {
                match item {
                    StreamItem::Chunk(chunk) => collector.push(&chunk),
                    StreamItem::Done => {}
                    StreamItem::Error(message) => return Err(message),
                }
            }
        }
    }
    Ok(collector.finish())
}

#[test]
fn streams_come_to_the_answers_that_the_references_say_however_they_are_cut() {
    let mut differing = Vec::new();
    for (dialect, name, case) in cases("stream_") {
        let events = case["events"].as_array().expect("events");
        for piece_bytes in [1, 7, 1 << 20] {
            match streamed(dialect, events, piece_bytes) {
                Ok(Some(reply)) if !reply.choices.is_empty() => {
                    if differs(&shown(&reply), &case["chat"]) {
                        differing.push(format!("{name}\n   is      {}\n   should  {}", shown(&reply), case["chat"]));
                        break;
                    }
                }
                other => differing.push(format!("{name}: {other:?}")),
            }
        }
    }
    none_differ(differing);
}

#[test]
fn errors_inside_streams_are_errors() {
    let mut differing = Vec::new();
    for (dialect, name, case) in cases("stream_error_") {
        let said = streamed(dialect, case["events"].as_array().expect("events"), 64);
        if said != Err(case["message"].as_str().unwrap_or_default().to_owned()) {
            differing.push(format!("{name}: {said:?}"));
        }
    }
    none_differ(differing);
}

#[test]
fn error_bodies_say_what_a_person_should_read() {
    let mut differing = Vec::new();
    for (_, name, case) in cases("error_") {
        let said = status_message(case["wire"].to_string().as_bytes());
        if said.as_deref() != case["message"].as_str() {
            differing.push(format!("{name}: {said:?}"));
        }
    }
    none_differ(differing);
}

#[test]
fn what_a_dialect_has_no_words_for_is_said_by_field() {
    let rows = [
        (json!({"tool_choice": {"type": "allowed_tools"}}), "tool_choice"),
        (json!({"functions": [{"name": "f"}]}), "functions"),
        (json!({"response_format": {"type": "grammar"}}), "response_format"),
        (json!({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}), "messages"),
    ];
    for (more, field) in rows {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let request = ChatRequest::parse(&Bytes::from(body.to_string())).expect("valid");
        let quirks = Quirks::default();
        let target = Target { model: "up", max_tokens: None, output_tokens_max: 99, quirks: &quirks };
        for (dialect, name) in DIALECTS {
            let encoded = dialect.encode_request(&request, target);
            match dialect {
                Dialect::OpenaiChat => assert!(encoded.is_ok(), "{name} passes the client's own words on"),
                _ => assert_eq!(encoded.expect_err(name).field, field, "{name} {body}"),
            }
        }
    }
}

#[test]
fn an_end_that_was_not_said_is_no_stop_and_counts_that_were_not_stated_are_none() {
    let rows = [
        (Dialect::OpenaiChat, json!({"choices": [{"message": {"content": "half"}, "finish_reason": ""}], "usage": {}})),
        (
            Dialect::OpenaiResponses,
            json!({"output": [{"type": "message", "content": [{"text": "half"}]}], "usage": {}}),
        ),
        (Dialect::Anthropic, json!({"content": [{"type": "text", "text": "half"}], "usage": {}})),
        (
            Dialect::Gemini,
            json!({"candidates": [{"content": {"parts": [{"text": "half"}]}}], "usageMetadata": {"trafficType": "x"}}),
        ),
        (Dialect::Bedrock, json!({"output": {"message": {"content": [{"text": "half"}]}}, "usage": {}})),
        (Dialect::Cohere, json!({"message": {"content": [{"type": "text", "text": "half"}]}, "usage": {"tokens": {}}})),
    ];
    for (dialect, wire) in rows {
        let reply = dialect.decode_reply(wire.to_string().as_bytes()).expect("decodes");
        assert_eq!(reply.choices[0].finish_reason, None, "{dialect:?}");
        assert!(!reply.is_complete_text(), "{dialect:?}");
        assert_eq!(reply.usage.as_ref().and_then(Usage::from_openai), None, "{dialect:?}");
    }
    let odd = json!({"content": [{"type": "text", "text": "x"}], "stop_reason": "something_new"});
    let reply = Dialect::Anthropic.decode_reply(odd.to_string().as_bytes()).expect("decodes");
    assert_eq!(reply.choices[0].finish_reason.as_deref(), Some("length"), "what nobody knows is not a whole answer");
}
