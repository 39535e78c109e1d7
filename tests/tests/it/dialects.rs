//! Every provider dialect behind the gateway, with the providers' own recorded shapes: what the provider is sent, what the
//! client gets, whole and streamed. The table of it is docs/dialects.md.

use crate::stack::Stack;
use crate::upstream::{Told, Upstream};
use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use protocol::{Collector, SseDecoder};
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

/// One provider kind with one dialect.
struct Way {
    kind: &'static str,
    dialect: &'static str,
    more: &'static str,
}

const WAYS: [Way; 9] = [
    Way { kind: "openai", dialect: "openai_chat", more: "" },
    Way { kind: "openai", dialect: "openai_responses", more: "" },
    Way { kind: "azure", dialect: "openai_chat", more: "api_version = \"2024-10-21\"\n" },
    Way { kind: "anthropic", dialect: "anthropic", more: "" },
    Way { kind: "gemini", dialect: "gemini", more: "" },
    Way { kind: "vertex", dialect: "gemini", more: "" },
    Way { kind: "vertex", dialect: "anthropic", more: "" },
    Way { kind: "bedrock", dialect: "bedrock", more: "secret_key_env = \"KEY_AWS\"\naws_region = \"eu-west-1\"\n" },
    Way { kind: "cohere", dialect: "cohere", more: "" },
];

/// What is asked and answered, by the names of golden files; the first that exists counts.
struct Feature {
    name: &'static str,
    requests: &'static [&'static str],
    replies: &'static [&'static str],
    streams: &'static [&'static str],
}

const FEATURES: [Feature; 6] = [
    Feature {
        name: "text",
        requests: &["request_text", "request_plain"],
        replies: &["reply_text", "reply_openai_text"],
        streams: &["stream_text", "stream_openai_text"],
    },
    Feature {
        name: "tools",
        requests: &["request_tools"],
        replies: &["reply_tools", "reply_openai_tools"],
        streams: &["stream_tools", "stream_openai_tools"],
    },
    Feature {
        name: "images",
        requests: &["request_images", "request_parts"],
        replies: &["reply_text", "reply_openai_text"],
        streams: &["stream_text", "stream_openai_text"],
    },
    Feature {
        name: "PDF",
        requests: &["request_pdf", "request_parts"],
        replies: &["reply_text", "reply_openai_text"],
        streams: &["stream_text", "stream_openai_text"],
    },
    Feature {
        name: "schema",
        requests: &["request_schema"],
        replies: &["reply_schema", "reply_text", "reply_openai_text"],
        streams: &["stream_text", "stream_openai_text"],
    },
    Feature {
        name: "reasoning",
        requests: &["request_reasoning_max_tokens", "request_reasoning_effort"],
        replies: &["reply_reasoning", "reply_openrouter_reasoning"],
        streams: &["stream_reasoning", "stream_openrouter_reasoning"],
    },
];

fn golden(dialect: &str, names: &[&str]) -> Option<Value> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../crates/protocol/golden").join(dialect);
    let text = names.iter().find_map(|name| fs::read_to_string(folder.join(format!("{name}.json"))).ok())?;
    Some(serde_json::from_str(&text).expect("JSON"))
}

/// A stream as the provider sends it.
fn wire(dialect: &str, events: &Value) -> Told {
    let events = events.as_array().expect("events");
    if dialect != "bedrock" {
        let text = |event: &Value| event.as_str().map_or_else(|| event.to_string(), str::to_owned);
        let body: String = events.iter().map(|event| format!("data: {}\n\n", text(event))).collect();
        return Told { status: 200, content_type: "text/event-stream", body: body.into_bytes() };
    }
    let mut body = Vec::new();
    for event in events {
        let (kind, payload) = event.as_object().and_then(|event| event.iter().next()).expect("an event");
        let header = if kind.ends_with("Exception") { ":exception-type" } else { ":event-type" };
        let message = Message::new(payload.to_string().into_bytes())
            .add_header(Header::new(header, HeaderValue::String(kind.clone().into())));
        write_message_to(&message, &mut body).expect("memory takes it");
    }
    Told { status: 200, content_type: "application/vnd.amazon.eventstream", body }
}

/// The gateway with one model at one upstream.
async fn stack(way: &Way, upstream: &Upstream) -> Stack {
    let url = upstream.url();
    let key = if way.kind == "vertex" { "SERVICE_ACCOUNT" } else { "KEY_UP" };
    let config = format!(
        "[providers.up]\nkind = \"{}\"\nbase_url = \"{url}\"\napi_key_env = \"{key}\"\n{}\
         [[models]]\nid = \"a/b\"\n[[models.endpoints]]\nprovider = \"up\"\nname = \"up\"\ndialect = \"{}\"\n\
         input_usd_per_mtok = 1.0\noutput_usd_per_mtok = 2.0\ncontext_tokens = 1000000\noutput_tokens_max = 32000\n\
         [cache.exact]\nenabled = false\n[cache.semantic]\nenabled = false\n",
        way.kind, way.more, way.dialect
    );
    Stack::start(&config).await
}

/// Message, finish and usage of an answer, whole or streamed, as the golden files state them.
fn shown(text: &str, streamed: bool) -> Value {
    let reply = if streamed {
        let mut collector = Collector::default();
        for data in SseDecoder::new(1 << 20).feed(text.as_bytes()).expect("an event stream") {
            if data != "[DONE]" {
                collector.push(&serde_json::from_str(&data).expect("a chunk"));
            }
        }
        serde_json::to_value(collector.finish().expect("chunks")).expect("JSON")
    } else {
        serde_json::from_str(text).expect("JSON")
    };
    let mut message = reply["choices"][0]["message"].clone();
    if message["content"] == "" {
        message["content"] = Value::Null;
    }
    if let Value::Object(fields) = &mut message {
        fields.retain(|name, value| name == "content" || !(value.is_null() || *value == json!([])));
    }
    json!({"message": message, "finish_reason": reply["choices"][0]["finish_reason"],
        "prompt_tokens": reply["usage"]["prompt_tokens"], "completion_tokens": reply["usage"]["completion_tokens"]})
}

fn expected(chat: &Value) -> Value {
    json!({"message": chat["message"], "finish_reason": chat["finish_reason"],
        "prompt_tokens": chat["usage"]["prompt_tokens"], "completion_tokens": chat["usage"]["completion_tokens"]})
}

/// Calls' arguments are JSON in a text: compared as JSON.
fn opened(mut shown: Value) -> Value {
    for call in shown["message"]["tool_calls"].as_array_mut().into_iter().flatten() {
        let arguments = call["function"]["arguments"].as_str().unwrap_or_default();
        call["function"]["arguments"] = serde_json::from_str(arguments).expect("arguments are JSON");
    }
    shown
}

/// The token that a Vertex provider is bought, in the way of the real thing.
fn is_token_call(line: &str) -> bool {
    line.starts_with("POST /token")
}

/// One feature, whole or streamed: `yes`, or what keeps it from working.
async fn tried(stack: &Stack, upstream: &Upstream, way: &Way, feature: &Feature, streamed: bool) -> String {
    let Some(request) = golden(way.dialect, feature.requests) else { return "the provider has none".to_owned() };
    let answer = if streamed { golden(way.dialect, feature.streams) } else { golden(way.dialect, feature.replies) };
    let answer = answer.expect("an answer on file");
    match streamed {
        true => upstream.tell(wire(way.dialect, &answer["events"])),
        false => upstream.will_answer(200, &answer["wire"]),
    }
    let mut body = request["chat"].clone();
    body["model"] = json!("a/b");
    body["stream"] = json!(streamed);
    upstream.asked();
    let got = stack.chat(&body).await;
    let asked = upstream.asked();
    let place = format!("{} {} {} streamed {streamed}", way.kind, way.dialect, feature.name);
    assert_eq!(got.status, 200, "{place}: {}", got.text);
    let calls: Vec<_> = asked.iter().filter(|asked| !is_token_call(&asked.line)).collect();
    let [call] = calls.as_slice() else { panic!("{place}: {} calls", calls.len()) };
    let mut saw = call.json();
    let mut should = request["wire"].clone();
    for field in ["stream", "stream_options"] {
        saw.as_object_mut().map(|saw| saw.shift_remove(field));
        should.as_object_mut().map(|should| should.shift_remove(field));
    }
    if way.kind == "vertex" && way.dialect == "anthropic" {
        should.as_object_mut().map(|should| should.shift_remove("model"));
        should["anthropic_version"] = json!("vertex-2023-10-16");
    }
    if way.dialect == "bedrock" {
        let schema = "/outputConfig/textFormat/structure/jsonSchema/schema";
        for body in [&mut saw, &mut should] {
            if let Some(text) = body.pointer_mut(schema) {
                *text = serde_json::from_str(text.as_str().unwrap_or_default()).expect("a schema");
            }
        }
    }
    assert_eq!(saw, should, "{place}: what the provider saw");
    assert_eq!(opened(shown(&got.text, streamed)), opened(expected(&answer["chat"])), "{place}: what the client got");
    "yes".to_owned()
}

/// An error of the provider, as the client gets it.
async fn failed(stack: &Stack, upstream: &Upstream, way: &Way) -> String {
    let of = |status: u16| {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../crates/protocol/golden").join(way.dialect);
        let mut files: Vec<PathBuf> =
            fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file").path()).collect();
        files.sort();
        let read = |path: &PathBuf| {
            let name = path.file_name()?.to_str()?;
            let text = name.starts_with("error_").then(|| fs::read_to_string(path).expect("a file"))?;
            serde_json::from_str::<Value>(&text).ok()
        };
        files.iter().filter_map(read).find(|case| case["status"] == status).expect("a case on file")
    };
    let mut statuses = Vec::new();
    for (status, ours) in [(400, 400), (429, 429)] {
        let case = of(status);
        upstream.will_answer(status, &case["wire"]);
        for streamed in [false, true] {
            let body = json!({"model": "a/b", "messages": [{"role": "user", "content": "x"}], "max_tokens": 9, "stream": streamed});
            let got = stack.chat(&body).await;
            assert_eq!(got.status, ours, "{} {}: {}", way.kind, way.dialect, got.text);
            if status == 400 {
                let message = case["message"].as_str().expect("a message");
                assert!(got.text.contains(message), "{}: {} does not quote {message}", way.dialect, got.text);
            }
        }
        statuses.push(ours.to_string());
    }
    statuses.join(", ")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_dialect_says_and_reads_what_its_provider_does() {
    let mut rows = Vec::new();
    let runs = WAYS.iter().map(|way| async move {
        let upstream = Upstream::start().await;
        let stack = stack(way, &upstream).await;
        let mut cells = Vec::new();
        for feature in &FEATURES {
            let whole = tried(&stack, &upstream, way, feature, false).await;
            let streamed = tried(&stack, &upstream, way, feature, true).await;
            cells.push(match (whole.as_str(), streamed.as_str()) {
                ("yes", "yes") => "whole, streamed".to_owned(),
                _ => whole,
            });
        }
        cells.push(failed(&stack, &upstream, way).await);
        cells
    });
    for (way, cells) in WAYS.iter().zip(futures_util::future::join_all(runs).await) {
        rows.push((format!("{} · {}", way.kind, way.dialect), cells));
    }
    let mut table = String::from("| provider kind · dialect |");
    FEATURES.iter().for_each(|feature| write!(table, " {} |", feature.name).expect("memory takes it"));
    table.push_str(" errors |\n|---|");
    table.push_str(&"---|".repeat(FEATURES.len() + 1));
    table.push('\n');
    for (name, cells) in rows {
        writeln!(table, "| {name} | {} |", cells.join(" | ")).expect("memory takes it");
    }
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/dialects.md");
    let text = fs::read_to_string(&path).expect("docs/dialects.md");
    let (before, rest) = text.split_once(BEGIN).expect("the table's beginning");
    let (_, after) = rest.split_once(END).expect("the table's end");
    let new = format!("{before}{BEGIN}\n{table}{END}{after}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &new).expect("docs can be written");
    }
    assert_eq!(fs::read_to_string(&path).expect("docs/dialects.md"), new, "UPDATE_DOCS=1 writes it anew");
}

const BEGIN: &str = "<!-- every_dialect_says_and_reads_what_its_provider_does -->";
const END: &str = "<!-- end -->";

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_proves_itself_in_its_own_way() {
    let body = json!({"model": "a/b", "messages": [{"role": "user", "content": "x"}], "max_tokens": 9});
    let of = |kind: &str| WAYS.iter().find(|way| way.kind == kind).expect("a way");
    let rows = [
        ("openai", "POST /chat/completions HTTP/1.1", "authorization", "Bearer sk-KEY_UP"),
        (
            "azure",
            "POST /openai/deployments/up/chat/completions?api-version=2024-10-21 HTTP/1.1",
            "api-key",
            "sk-KEY_UP",
        ),
        ("anthropic", "POST /messages HTTP/1.1", "x-api-key", "sk-KEY_UP"),
        ("gemini", "POST /models/up:generateContent HTTP/1.1", "x-goog-api-key", "sk-KEY_UP"),
        (
            "vertex",
            "POST /publishers/google/models/up:generateContent HTTP/1.1",
            "authorization",
            "Bearer bought-token",
        ),
        ("bedrock", "POST /model/up/converse HTTP/1.1", "authorization", "AWS4-HMAC-SHA256 Credential=sk-KEY_UP/"),
        ("cohere", "POST /chat HTTP/1.1", "authorization", "Bearer sk-KEY_UP"),
    ];
    for (kind, line, header, value) in rows {
        let upstream = Upstream::start().await;
        let stack = stack(of(kind), &upstream).await;
        for _ in 0..2 {
            stack.chat(&body).await;
        }
        let asked = upstream.asked();
        let call = asked.iter().rfind(|asked| !is_token_call(&asked.line)).expect("a call");
        assert_eq!(call.line, line, "{kind}");
        assert!(call.header(header).starts_with(value), "{kind}: {} is {}", header, call.header(header));
        let tokens = asked.iter().filter(|asked| is_token_call(&asked.line)).count();
        assert_eq!(tokens, usize::from(kind == "vertex"), "{kind}: a token is bought once");
        if kind == "anthropic" {
            assert_eq!(call.header("anthropic-version"), "2023-06-01");
        }
    }
}

#[tokio::test]
async fn azure_takes_a_token_that_the_clients_secret_buys() {
    let upstream = Upstream::start().await;
    let url = upstream.url();
    let more = format!("entra_tenant = \"tenant\"\nentra_client_id = \"app\"\nentra_authority = \"{url}/token\"\n");
    let way = Way { kind: "azure", dialect: "openai_chat", more: Box::leak(more.into_boxed_str()) };
    let stack = stack(&way, &upstream).await;
    upstream.will_answer(200, &golden("openai_chat", &["reply_openai_text"]).expect("on file")["wire"]);
    let body = json!({"model": "a/b", "messages": [{"role": "user", "content": "x"}]});
    for _ in 0..2 {
        assert_eq!(stack.chat(&body).await.status, 200);
    }
    let asked = upstream.asked();
    let lines: Vec<&str> = asked.iter().map(|asked| asked.line.as_str()).collect();
    let call = "POST /openai/v1/chat/completions HTTP/1.1";
    assert_eq!(lines, ["POST /token/tenant/oauth2/v2.0/token HTTP/1.1", call, call]);
    assert_eq!(asked[1].header("authorization"), "Bearer bought-token");
    let form = String::from_utf8_lossy(&asked[0].body).into_owned();
    assert!(form.contains("grant_type=client_credentials") && form.contains("client_id=app"), "{form}");
    assert!(form.contains("client_secret=sk-KEY_UP") && asked[1].header("api-key").is_empty(), "{form}");
}

/// A model at this kind of provider for nothing, and at the simulator, `p0`, for money: the first is asked first.
async fn before_the_simulator(kind: &str, upstream: &Upstream) -> Stack {
    let url = upstream.url();
    let config = format!(
        "[providers.up]\nkind = \"{kind}\"\nbase_url = \"{url}\"\n[[models]]\nid = \"a/b\"\n[[models.endpoints]]\nprovider = \"up\"\n\
         name = \"up\"\ninput_usd_per_mtok = 0.0\noutput_usd_per_mtok = 0.0\ncontext_tokens = 10000\noutput_tokens_max = 100\n\
         [[models.endpoints]]\nprovider = \"p0\"\nname = \"sim/small\"\ninput_usd_per_mtok = 1.0\noutput_usd_per_mtok = 1.0\n\
         context_tokens = 10000\noutput_tokens_max = 100\n[cache.exact]\nenabled = false\n[cache.semantic]\nenabled = false\n"
    );
    Stack::start(&config).await
}

#[tokio::test]
async fn a_request_without_words_at_one_provider_goes_to_the_next() {
    let upstream = Upstream::start().await;
    let stack = before_the_simulator("cohere", &upstream).await;
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}});
    let mut body = json!({"model": "a/b", "messages": [{"role": "user", "content": "x"}], "tools": [tool],
        "tool_choice": {"type": "function", "function": {"name": "f"}}});
    let got = stack.chat(&body).await;
    assert_eq!((got.status, got.header("x-sluice-provider")), (200, "p0"), "{}", got.text);
    assert!(upstream.asked().is_empty(), "nothing that cannot be said is sent");
    body["provider"] = json!({"only": ["up"]});
    let refused = stack.chat(&body).await;
    assert_eq!(refused.status, 400, "{}", refused.text);
    assert!(refused.text.contains("cannot be told which tool to call"), "{}", refused.text);
}

#[tokio::test]
async fn thoughts_are_hidden_from_a_client_that_wants_none() {
    let upstream = Upstream::start().await;
    let way = WAYS.iter().find(|way| way.kind == "anthropic").expect("a way");
    let stack = stack(way, &upstream).await;
    let (whole, stream) = (golden("anthropic", &["reply_reasoning"]), golden("anthropic", &["stream_reasoning"]));
    for (streamed, exclude) in [(false, false), (false, true), (true, false), (true, true)] {
        match streamed {
            true => upstream.tell(wire("anthropic", &stream.as_ref().expect("on file")["events"])),
            false => upstream.will_answer(200, &whole.as_ref().expect("on file")["wire"]),
        }
        let body = json!({"model": "a/b", "messages": [{"role": "user", "content": "x"}], "max_tokens": 4000, "stream": streamed,
            "reasoning": {"effort": "high", "exclude": exclude}});
        let got = stack.chat(&body).await;
        assert_eq!(got.status, 200, "{}", got.text);
        assert_eq!(got.text.contains("\"reasoning\""), !exclude, "{}", got.text);
        assert_eq!(got.text.contains("signature"), !exclude, "{}", got.text);
        assert_eq!(upstream.asked()[0].json()["thinking"]["type"], "enabled", "it thinks all the same");
    }
}

#[tokio::test]
async fn what_one_provider_refuses_in_translation_another_may_take() {
    let upstream = Upstream::start().await;
    let stack = before_the_simulator("anthropic", &upstream).await;
    upstream.will_answer(
        400,
        &json!({"type": "error", "error": {"type": "invalid_request_error", "message": "no such shape"}}),
    );
    let mut body = json!({"model": "a/b", "messages": [{"role": "user", "content": "x"}]});
    let got = stack.chat(&body).await;
    assert_eq!((got.status, got.header("x-sluice-provider")), (200, "p0"), "{}", got.text);
    body["provider"] = json!({"only": ["up"]});
    let refused = stack.chat(&body).await;
    assert_eq!(refused.status, 400);
    assert!(refused.text.contains("no such shape"), "{}", refused.text);
    assert_eq!(upstream.asked().len(), 2, "a refusal is not tried again");
}
