//! What holds for every dialect, whatever is asked and answered.

use super::{Dialect, Quirks, StreamDecoder, Target};
use crate::request::ChatRequest;
use crate::usage::Usage;
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

const DIALECTS: [Dialect; 6] = [
    Dialect::OpenaiChat,
    Dialect::OpenaiResponses,
    Dialect::Anthropic,
    Dialect::Gemini,
    Dialect::Bedrock,
    Dialect::Cohere,
];

/// A conversation that every dialect has words for, and what must arrive, in order.
fn conversation(system: &str, turns: &[(u8, [String; 4])]) -> (Value, Vec<String>) {
    let mut messages = vec![json!({"role": "system", "content": system})];
    let mut said = Vec::new();
    for (kind, [a, b, c, d]) in turns {
        match kind % 3 {
            0 => messages.push(json!({"role": "user", "content": a})),
            1 => messages.push(json!({"role": "user", "content": [{"type": "text", "text": a},
                {"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{b}")}}]})),
            _ => {
                let call = json!({"id": a, "type": "function", "function": {"name": "look", "arguments": json!({b: c}).to_string()}});
                messages.push(json!({"role": "assistant", "content": null, "tool_calls": [call]}));
                messages.push(json!({"role": "tool", "tool_call_id": a, "content": d}));
            }
        }
        match kind % 3 {
            0 => said.push(a.clone()),
            1 => said.extend([a.clone(), b.clone()]),
            _ => said.extend([b.clone(), c.clone(), d.clone()]),
        }
    }
    let tool = json!({"type": "function", "function": {"name": "look", "description": "looks", "parameters": {"type": "object"}}});
    (json!({"model": "m", "messages": messages, "max_tokens": 99, "tools": [tool], "temperature": 0.5}), said)
}

fn encoded(dialect: Dialect, body: &Value) -> String {
    let request = ChatRequest::parse(&Bytes::from(body.to_string())).expect("valid");
    let quirks = Quirks::default();
    let target = Target { model: "up", max_tokens: Some(99), output_tokens_max: 99, quirks: &quirks };
    let pieces = dialect.encode_request(&request, target).expect("expressible");
    String::from_utf8(pieces.concat()).expect("UTF-8")
}

proptest! {
    #[test]
    fn everything_said_reaches_the_provider_in_its_order(
        system in "S[a-z]{9}",
        turns in proptest::collection::vec((0u8..3, proptest::array::uniform4("[a-z]{10}")), 1..7),
    ) {
        let (body, said) = conversation(&system, &turns);
        for dialect in DIALECTS {
            let wire = encoded(dialect, &body);
            prop_assert!(wire.contains(&system) && wire.contains("look"), "{dialect:?}: {wire}");
            let mut from = 0;
            for text in &said {
                let at = wire[from..].find(text.as_str());
                prop_assert!(at.is_some(), "{dialect:?} lost {text} of {said:?}: {wire}");
                from += at.unwrap_or(0);
            }
        }
    }

    #[test]
    fn every_token_is_counted_once(a in 0u64..1_000_000, b in 0u64..1_000_000, c in 0u64..1_000_000, d in 0u64..1_000_000, e in 0u64..1_000_000) {
        // input that is new, read, written; output that is shown, thought
        let rows = [
            (Dialect::OpenaiChat, json!({"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": a + b + c,
                "completion_tokens": d + e, "total_tokens": a + b + c + d + e,
                "prompt_tokens_details": {"cached_tokens": b, "cache_write_tokens": c}, "completion_tokens_details": {"reasoning_tokens": e}}})),
            (Dialect::OpenaiResponses, json!({"output": [], "usage": {"input_tokens": a + b + c, "output_tokens": d + e,
                "input_tokens_details": {"cached_tokens": b, "cache_write_tokens": c}, "output_tokens_details": {"reasoning_tokens": e}}})),
            (Dialect::Anthropic, json!({"content": [], "usage": {"input_tokens": a, "cache_read_input_tokens": b,
                "cache_creation_input_tokens": c, "output_tokens": d + e, "output_tokens_details": {"thinking_tokens": e}}})),
            (Dialect::Gemini, json!({"candidates": [{}], "usageMetadata": {"promptTokenCount": a + b + c,
                "cachedContentTokenCount": b, "candidatesTokenCount": d, "thoughtsTokenCount": e}})),
            (Dialect::Bedrock, json!({"output": {"message": {"content": []}}, "usage": {"inputTokens": a,
                "cacheReadInputTokens": b, "cacheWriteInputTokens": c, "outputTokens": d + e}})),
            (Dialect::Cohere, json!({"message": {"content": []}, "usage": {"cached_tokens": b,
                "billed_units": {"input_tokens": (a + b + c) as f64, "output_tokens": (d + e) as f64}}})),
        ];
        for (dialect, wire) in rows {
            let reply = dialect.decode_reply(wire.to_string().as_bytes()).expect("decodes");
            let usage = reply.usage.as_ref().and_then(Usage::from_openai).expect("usage");
            prop_assert_eq!(usage.prompt_tokens(), a + b + c, "{:?}", dialect);
            prop_assert_eq!(usage.completion_tokens(), d + e, "{:?}", dialect);
            prop_assert_eq!(usage.cache_read_tokens, b, "{:?}", dialect);
        }
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(text in "[\\[\\]{}\":,a-z0-9 ]{0,60}", fields in proptest::collection::vec(("[a-z_A-Z]{1,12}", -5i64..1_000_000_000_000), 0..6)) {
        let object: serde_json::Map<String, Value> = fields.into_iter().map(|(name, number)| (name, json!(number))).collect();
        let known = ["type", "choices", "delta", "content", "output", "candidates", "contentBlockDelta", "usage", "index", "message"];
        for dialect in DIALECTS {
            drop(dialect.decode_reply(text.as_bytes()));
            let mut decoder = StreamDecoder::new(dialect);
            drop(decoder.decode(&text));
            for name in known {
                for value in [json!(object), json!([object]), json!(text), json!(u64::MAX)] {
                    let body = json!({name: value, "index": u64::MAX, "type": "content_block_start"});
                    drop(dialect.decode_reply(body.to_string().as_bytes()));
                    drop(decoder.decode(&body.to_string()));
                }
            }
        }
    }
}
