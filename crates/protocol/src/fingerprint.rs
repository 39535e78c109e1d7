//! Identity of a request: the fingerprint of the exact cache and the context tag of the semantic one.

use crate::json::Json;
use crate::request::ChatRequest;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::io::{self, Write};

/// A SHA-256 digest; printed as hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")
    }
}

/// Fields that say how an answer is delivered, to whom, and what is noted about it, but not what is asked. `model` and
/// `sluice` are here because their resolved meaning is part of `identity`.
const DELIVERY_FIELDS: [&str; 9] =
    ["model", "stream", "stream_options", "user", "metadata", "usage", "session_id", "sluice", "max_completion_tokens"];

/// The exact-cache identity: independent of field order and delivery, sensitive to everything else. `identity` is what
/// the request resolved to: tenant, model or policy.
pub fn fingerprint(request: &ChatRequest, identity: &[&str]) -> Digest {
    let mut fields = asked_fields(request);
    fields.push(("max_tokens", Json::from(&json!(request.max_tokens))));
    digest("fingerprint", identity, fields)
}

/// What a semantic match must share exactly: all of the request but the texts of the user's turns and the output cap.
/// The assistant's turns are in it. `fold` takes out of system and developer messages what changes without mattering.
/// `None` when the last turn is not the user's.
pub fn context_tag(request: &ChatRequest, identity: &[&str], fold: &dyn Fn(&str) -> String) -> Option<Digest> {
    request.last_user_text()?;
    let mut fields = asked_fields(request);
    for (name, value) in &mut fields {
        if let ("messages", Json::List(messages)) = (*name, value) {
            for message in messages {
                let Json::Object(message) = message else { continue };
                let is = |role: &str| {
                    message.iter().any(|(name, value)| name == "role" && *value == Json::Text(role.into()))
                };
                if is("user") {
                    message.retain(|(name, _)| name != "content");
                } else if is("system") || is("developer") {
                    message
                        .iter_mut()
                        .filter(|(name, _)| name == "content")
                        .for_each(|(_, text)| fold_texts(text, fold));
                }
            }
        }
    }
    Some(digest("context", identity, fields))
}

fn fold_texts(value: &mut Json<'_>, fold: &dyn Fn(&str) -> String) {
    match value {
        Json::Text(text) => *text = fold(text).into(),
        Json::List(parts) => parts.iter_mut().for_each(|part| fold_texts(part, fold)),
        Json::Object(part) => {
            part.iter_mut().filter(|(name, _)| name == "text").for_each(|(_, text)| fold_texts(text, fold));
        }
        _ => {}
    }
}

fn asked_fields(request: &ChatRequest) -> Vec<(&str, Json<'_>)> {
    let asked =
        request.raw.0.iter().filter(|(name, _)| name != "max_tokens" && !DELIVERY_FIELDS.contains(&name.as_str()));
    asked
        .map(|(name, raw)| (name.as_str(), serde_json::from_slice(raw).unwrap_or(Json::Null)))
        .filter(|(_, value)| *value != Json::Null)
        .collect()
}

fn digest(purpose: &str, identity: &[&str], mut fields: Vec<(&str, Json<'_>)>) -> Digest {
    fields.sort_by(|a, b| a.0.cmp(b.0));
    let mut hasher = Hashed { hasher: Sha256::new(), bytes: 0 };
    for part in std::iter::once(&purpose).chain(identity) {
        hasher.part(part.as_bytes());
    }
    for (name, value) in &fields {
        hasher.part(name.as_bytes());
        let before = hasher.bytes;
        value.write_canonical(&mut hasher).expect("a hasher takes everything");
        let bytes = hasher.bytes - before;
        hasher.hasher.update(bytes.to_le_bytes()); // after the value, which is never held as text
    }
    Digest(hasher.hasher.finalize().into())
}

/// A hasher that can be written to.
struct Hashed {
    hasher: Sha256,
    bytes: u64,
}

impl Hashed {
    fn part(&mut self, bytes: &[u8]) {
        self.hasher.update((bytes.len() as u64).to_le_bytes());
        self.hasher.update(bytes);
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The SHA-256 of a text.
pub fn digest_of(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn parse(body: &str) -> ChatRequest {
        ChatRequest::parse(&bytes::Bytes::copy_from_slice(body.as_bytes())).expect("valid")
    }

    const BASE: &str = r#"{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":"q"}],"temperature":0,"top_p":1}"#;

    #[track_caller]
    fn check(body: &str, same_fingerprint: bool, same_tag: bool) {
        let (base, other) = (parse(BASE), parse(body));
        let identity = ["tenant", "m"];
        assert_eq!(fingerprint(&base, &identity) == fingerprint(&other, &identity), same_fingerprint, "{body}");
        let tag = |request: &ChatRequest| context_tag(request, &identity, &str::to_owned);
        assert_eq!(tag(&base) == tag(&other), same_tag, "{body}");
    }

    #[test]
    fn each_field_changes_what_it_should() {
        check(
            r#"{"top_p":1,"temperature":0,"messages":[{"content":"s","role":"system"},{"content":"q","role":"user"}],"model":"m"}"#,
            true,
            true,
        );
        let replaced = |from: &str, to: &str| BASE.replace(from, to);
        check(&replaced("\"q\"", "\"other\""), false, true);
        check(&replaced("\"s\"", "\"other\""), false, false);
        check(&replaced("\"temperature\":0", "\"temperature\":0.1"), false, false);
        check(&replaced("\"temperature\":0,", ""), false, false);
        check(&replaced("\"top_p\":1", "\"top_p\":0.9"), false, false);
        let added = |field: &str| BASE.replace("\"top_p\":1", &format!("\"top_p\":1,{field}"));
        for (field, same_fingerprint, same_tag) in [
            (r#""stream":true"#, true, true),
            (r#""stream_options":{"include_usage":true}"#, true, true),
            (r#""metadata":{"step":"1"}"#, true, true),
            (r#""user":"u""#, true, true),
            (r#""seed":null"#, true, true),
            (r#""max_tokens":9"#, false, true),
            (r#""max_completion_tokens":9"#, false, true),
            (r#""seed":1"#, false, false),
            (r#""stop":["x"]"#, false, false),
            (r#""n":2"#, false, false),
            (r#""presence_penalty":1"#, false, false),
            (r#""frequency_penalty":1"#, false, false),
            (r#""logit_bias":{"1":1}"#, false, false),
            (r#""tools":[{"type":"function","function":{"name":"f"}}]"#, false, false),
            (r#""tool_choice":"none""#, false, false),
            (r#""response_format":{"type":"json_object"}"#, false, false),
            (r#""reasoning_effort":"low""#, false, false),
            (r#""reasoning":{"effort":"low"}"#, false, false),
            (r#""modalities":["text"]"#, false, false),
            (r#""provider":{"only":["x"]}"#, false, false),
            (r#""models":["x"]"#, false, false),
            (r#""field_of_next_year":1"#, false, false),
        ] {
            check(&added(field), same_fingerprint, same_tag);
        }
    }

    #[test]
    fn another_tenant_or_model_is_another_identity() {
        let request = parse(BASE);
        assert_ne!(fingerprint(&request, &["a", "m"]), fingerprint(&request, &["b", "m"]));
        assert_ne!(fingerprint(&request, &["ab", "c"]), fingerprint(&request, &["a", "bc"]));
        assert_ne!(
            context_tag(&request, &["a", "m"], &str::to_owned),
            context_tag(&request, &["b", "m"], &str::to_owned)
        );
    }

    /// Fields of a request, each with a value and another one.
    const FIELDS: [(&str, &str, &str); 15] = [
        ("temperature", "0", "0.2"),
        ("top_p", "1", "0.9"),
        ("n", "1", "2"),
        ("seed", "1", "2"),
        ("stop", "[\"x\"]", "[\"y\"]"),
        ("presence_penalty", "0", "1"),
        ("frequency_penalty", "0", "1"),
        ("logit_bias", "{\"1\":1}", "{\"1\":2}"),
        ("tools", "[]", "[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]"),
        ("tool_choice", "\"auto\"", "\"none\""),
        ("response_format", "{\"type\":\"text\"}", "{\"type\":\"json_object\"}"),
        ("reasoning", "{\"effort\":\"low\"}", "{\"effort\":\"high\"}"),
        ("modalities", "[\"text\"]", "[\"text\",\"audio\"]"),
        ("provider", "{\"only\":[\"x\"]}", "{\"only\":[\"y\"]}"),
        ("a_field_of_next_year", "1", "2"),
    ];

    proptest! {
        /// Any request with any of these fields: each of them changed alone is another scope, another question is not.
        #[test]
        fn each_field_of_a_random_request_changed_alone_is_another_scope(
            chosen in proptest::collection::vec(any::<bool>(), FIELDS.len()), system in "[a-z ]{0,20}", said in "[a-z ]{1,20}",
            question in "[a-z ]{1,20}", other in "[a-z ]{1,20}",
        ) {
            let body = |skip: Option<usize>, system: &str, said: &str, question: &str| {
                let mut body = serde_json::json!({"model": "m", "messages": [
                    {"role": "system", "content": system}, {"role": "user", "content": "before"},
                    {"role": "assistant", "content": said}, {"role": "user", "content": question},
                ]});
                for (at, (name, value, changed)) in FIELDS.iter().enumerate() {
                    let value = if skip == Some(at) { changed } else { value };
                    if chosen[at] || skip == Some(at) {
                        body[*name] = serde_json::from_str(value).expect("JSON");
                    }
                }
                parse(&body.to_string())
            };
            let tag = |request: &ChatRequest| context_tag(request, &["t"], &str::to_owned).expect("a question");
            let base = tag(&body(None, &system, &said, &question));
            prop_assert_eq!(base, tag(&body(None, &system, &said, &other)), "another question");
            prop_assert_ne!(base, tag(&body(None, &format!("{system}."), &said, &question)), "another system prompt");
            prop_assert_ne!(base, tag(&body(None, &system, &format!("{said}."), &question)), "another turn of the assistant");
            prop_assert_ne!(base, context_tag(&body(None, &system, &said, &question), &["u"], &str::to_owned).expect("one"));
            for (at, (name, ..)) in FIELDS.iter().enumerate() {
                prop_assert_ne!(base, tag(&body(Some(at), &system, &said, &question)), "{}", name);
            }
        }

        #[test]
        fn field_order_never_matters_and_any_text_does(question in "[a-z \"\\\\{}]{1,20}", other in "[a-z \"\\\\{}]{1,20}") {
            let text = Value::String(question.clone()).to_string();
            let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":{text}}}],"stop":"z"}}"#);
            let turned = format!(r#"{{"stop":"z","messages":[{{"content":{text},"role":"user"}}],"model":"m"}}"#);
            prop_assert_eq!(fingerprint(&parse(&body), &[]), fingerprint(&parse(&turned), &[]));
            let changed = body.replace(&text, &Value::String(other.clone()).to_string());
            prop_assert_eq!(question == other, fingerprint(&parse(&body), &[]) == fingerprint(&parse(&changed), &[]));
        }
    }
}
