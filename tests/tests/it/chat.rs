//! Chat completions: what the provider saw and what the client got.

use crate::stack::{ADMIN, Stack, endpoints, question, streamed};
use serde_json::json;
use tests::eventually;

async fn stack() -> Stack {
    Stack::start(&endpoints("acme/good", &["sim/small"])).await
}

#[tokio::test]
async fn a_whole_answer_has_openrouters_shape_headers_and_a_settled_record() {
    let stack = stack().await;
    let answered = stack.chat(&question("acme/good", "hello")).await;
    assert_eq!(answered.status, 200, "{}", answered.text);
    let body = answered.json();
    assert_eq!(body["model"], "acme/good");
    assert_eq!(body["provider"], "p0");
    assert_eq!(body["id"], answered.header("x-generation-id"));
    assert_eq!(body["choices"][0]["native_finish_reason"], "stop");
    assert_eq!(answered.header("x-sluice-cache"), "miss");
    assert!(answered.header("x-sluice-overhead-us").parse::<u64>().expect("a number") < 1_000_000);
    let tokens = body["usage"]["total_tokens"].as_u64().expect("tokens") as f64;
    assert!((body["usage"]["cost"].as_f64().expect("a cost") - tokens * 1e-6).abs() < 1e-9);
    let generation = stack.generation(&answered).await;
    assert_eq!(generation["total_cost"], body["usage"]["cost"]);
    assert_eq!(generation["sluice"]["state"], "served");
    assert_eq!(generation["sluice"]["attempts"][0]["outcome"], "answered");
}

#[tokio::test]
async fn a_stream_says_the_same_and_ends_with_one_usage_chunk() {
    let stack = stack().await;
    let whole = stack.chat(&question("acme/good", "hello")).await.json();
    let mut body = streamed(question("acme/good", "hello"));
    body["sluice"] = json!({"cache": {"mode": "off"}});
    let answered = stack.chat(&body).await;
    assert_eq!(answered.header("content-type"), "text/event-stream");
    assert_eq!(answered.header("x-sluice-cache"), "bypass");
    assert_eq!(answered.streamed_text(), whole["choices"][0]["message"]["content"].as_str().expect("text"));
    let events = answered.events();
    let with_usage: Vec<_> = events.iter().filter(|event| !event["usage"].is_null()).collect();
    assert_eq!(with_usage.len(), 1);
    assert_eq!(with_usage[0]["choices"], json!([]));
    assert_eq!(with_usage[0]["usage"]["cost"], whole["usage"]["cost"]);
    assert!(with_usage[0]["sluice"]["cost_usd"].is_number());
    assert!(answered.text.trim_end().ends_with("data: [DONE]"));
    assert!(events.iter().all(|event| event["id"] == answered.header("x-generation-id")));
    assert_eq!(stack.generation(&answered).await["streamed"], true);
}

#[tokio::test]
async fn unknown_fields_reach_the_provider_and_the_gateways_own_do_not() {
    let stack = stack().await;
    let mut body = question("acme/good", "hello");
    body["field_of_next_year"] = json!({"a": [1, 2.50]});
    body["sluice"] = json!({"trace": true});
    body["provider"] = json!({"only": ["p0"]});
    let answered = stack.chat(&body).await;
    assert!(answered.json()["sluice"]["trace"]["route"]["candidates"].is_array());
    let seen = &stack.simulator.seen()[0];
    assert_eq!(seen.model, "sim/small");
    assert_eq!(seen.body["field_of_next_year"], json!({"a": [1, 2.50]}));
    assert!(seen.body.get("sluice").is_none() && seen.body.get("provider").is_none());
    assert_eq!(seen.authorization, None, "no credential is configured, and the client's key must not leave");
}

#[tokio::test]
async fn both_prefixes_answer() {
    let stack = stack().await;
    for path in ["/v1/chat/completions", "/api/v1/chat/completions"] {
        assert_eq!(stack.post(path, &question("acme/good", path)).await.status, 200, "{path}");
    }
    assert_eq!(stack.get("/v1/models").await.json()["data"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn errors_say_what_is_wrong_and_what_to_do() {
    let stack = stack().await;
    let unauthenticated = stack.send(stack.post_as("sk-nobody", "/v1/chat/completions", &json!({}))).await;
    let rows = [
        ("401", unauthenticated),
        ("404 model", stack.chat(&question("acme/god", "x")).await),
        ("400 field", stack.chat(&json!({"model": "acme/good", "messages": [], "x": 1})).await),
        ("404 policy", stack.chat(&question("policy/none", "x")).await),
        ("404 path", stack.get("/v1/nothing").await),
        ("403", stack.post("/v1/keys", &json!({"name": "x"})).await),
        (
            "400 unknown admin field",
            stack.send(stack.post_as(ADMIN, "/v1/keys", &json!({"name": "x", "limt": 3}))).await,
        ),
        ("404 generation", stack.get("/v1/generation?id=gen-none").await),
        ("412", {
            let mut body = question("acme/good", "never asked");
            body["sluice"] = json!({"cache": {"mode": "only"}});
            stack.chat(&body).await
        }),
    ];
    let lines: Vec<String> = rows.iter().map(|(name, row)| format!("{name}: {} {}", row.status, row.text)).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[tokio::test]
async fn a_body_over_the_limit_is_413() {
    let stack = Stack::start(&(endpoints("acme/good", &["sim/small"]) + "[server]\nbody_bytes_max = 1000\n")).await;
    let answered = stack.chat(&question("acme/good", &"x".repeat(2_000))).await;
    assert_eq!(answered.status, 413, "{}", answered.text);
    assert_eq!(answered.json()["error"]["metadata"]["error_type"], "payload_too_large");
}

#[tokio::test]
async fn no_capable_endpoint_names_the_reason_of_each() {
    let config = endpoints("acme/plain", &["sim/small"]) + "abilities = []\n";
    let stack = Stack::start(&config).await;
    let mut body = question("acme/plain", "x");
    body["tools"] = json!([{"type": "function", "function": {"name": "f"}}]);
    let answered = stack.chat(&body).await;
    assert_eq!(answered.status, 404);
    assert!(answered.text.contains("acme/plain@p0: does not support tools"), "{}", answered.text);
    assert_eq!(stack.simulator.arrived(), 0);
}

#[tokio::test]
async fn the_upstream_is_cancelled_when_the_client_leaves() {
    let stack = stack().await;
    stack.simulator.hold();
    let sent = tokio::spawn(stack.post_as(&stack.key, "/v1/chat/completions", &question("acme/good", "x")).send());
    eventually("the request arrives", async || stack.simulator.arrived() == 1).await;
    sent.abort();
    eventually("the upstream is cancelled", async || stack.simulator.cancelled() == 1).await;
    let database = database::Database::open(&stack.database()).await.expect("the same file");
    let key = database.keys(None).await.expect("keys").remove(0);
    eventually("it is settled", async || database.charged_to_key(&key.hash).await.expect("sums").0 > 0).await;
    let (count, charged) = database.charged_to_key(&key.hash).await.expect("sums");
    assert_eq!(count, 1, "settled once");
    assert!(charged > 0, "the provider was at work, so leaving is not free");
}

#[tokio::test]
async fn health_ready_and_metrics_answer() {
    let stack = stack().await;
    stack.chat(&question("acme/good", "x")).await;
    assert_eq!(stack.get("/health").await.json()["status"], "ok");
    assert_eq!(stack.get("/ready").await.json()["status"], "ready");
    let metrics = stack.metrics().await;
    for name in
        ["sluice_requests_total", "sluice_request_seconds", "sluice_attempts_total", "sluice_cost_nano_usd_total"]
    {
        assert!(metrics.contains(name), "{name} is missing:\n{metrics}");
    }
}
