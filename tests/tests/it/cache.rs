//! The cache over HTTP: exact and similar hits, their isolation, single flight, and life across a restart.

use crate::stack::{Stack, endpoints, question, streamed};
use serde_json::{Value, json};
use tests::eventually;

async fn stack() -> Stack {
    Stack::start(&(endpoints("acme/good", &["sim/small"]) + &endpoints("acme/other", &["sim/large"]))).await
}

const ASKED: &str = "How do I reset my password?";
const REWORDED: &str = "How can I reset my password, please?";

#[tokio::test]
async fn the_same_request_hits_exactly_in_both_forms_and_costs_nothing() {
    let stack = stack().await;
    let first = stack.chat(&question("acme/good", ASKED)).await;
    let text = first.json()["choices"][0]["message"]["content"].clone();
    // Another order of fields is the same request.
    let turned = json!({"temperature": null, "messages": [{"content": ASKED, "role": "user"}], "model": "acme/good"});
    let second = stack.chat(&turned).await;
    assert_eq!(second.header("x-sluice-cache"), "exact");
    assert_eq!(second.header("x-sluice-cache-id"), first.header("x-generation-id"));
    assert_eq!(second.header("x-sluice-cost-usd"), "0.000000000");
    assert_eq!(second.header("x-sluice-saved-usd"), first.header("x-sluice-cost-usd"));
    assert_eq!(second.json()["choices"][0]["message"]["content"], text);
    assert_ne!(second.json()["id"], first.json()["id"]);
    let third = stack.chat(&streamed(question("acme/good", ASKED))).await;
    assert_eq!(third.header("x-sluice-cache"), "exact");
    assert_eq!(json!(third.streamed_text()), text);
    assert_eq!(third.events().last().expect("events")["usage"]["cost"], json!(0.0));
    assert_eq!(stack.simulator.arrived(), 1);
    assert_eq!(stack.generation(&third).await["response_cache_source_id"], first.header("x-generation-id"));
}

#[tokio::test]
async fn a_streamed_answer_is_stored_and_a_rewording_hits_even_after_a_restart() {
    let mut stack = stack().await;
    let first = stack.chat(&streamed(question("acme/good", ASKED))).await;
    let hit = stack.chat(&question("acme/good", REWORDED)).await;
    assert_eq!(hit.header("x-sluice-cache"), "similar", "an unmodified client's call, no temperature, is eligible");
    assert_eq!(hit.json()["choices"][0]["message"]["content"], first.streamed_text());
    assert!(hit.header("x-sluice-cache-probability").parse::<f64>().expect("a probability") > 0.5);
    stack.restart().await;
    let after = stack.chat(&question("acme/good", "Please, how can I reset my password?")).await;
    assert_eq!(after.header("x-sluice-cache"), "similar", "{}", after.text);
    assert_eq!(stack.chat(&question("acme/good", ASKED)).await.header("x-sluice-cache"), "exact");
    assert_eq!(stack.simulator.arrived(), 1);
}

#[tokio::test]
async fn each_field_of_the_context_changed_alone_is_a_miss() {
    let stack = stack().await;
    let base = json!({
        "model": "acme/good", "temperature": 0,
        "messages": [
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": ASKED},
        ],
    });
    stack.chat(&base).await;
    let reworded = |mut body: Value| {
        body["messages"][3]["content"] = json!(REWORDED);
        body
    };
    assert_eq!(stack.chat(&reworded(base.clone())).await.header("x-sluice-cache"), "similar", "the base case hits");
    let rows: [(&str, Value); 17] = [
        ("/model", json!("acme/other")),
        ("/temperature", json!(0.1)),
        ("/temperature", Value::Null),
        ("/messages/0/content", json!("Be verbose.")),
        ("/messages/1/content", json!("Good evening.")),
        ("/messages/2/content", json!("Good evening!")),
        ("/top_p", json!(0.5)),
        ("/stop", json!(["x"])),
        ("/seed", json!(1)),
        ("/n", json!(2)),
        ("/presence_penalty", json!(0.5)),
        ("/frequency_penalty", json!(0.5)),
        ("/logit_bias", json!({"1": 1})),
        ("/response_format", json!({"type": "json_object"})),
        ("/reasoning_effort", json!("low")),
        ("/tools", json!([{"type": "function", "function": {"name": "f"}}])),
        ("/tool_choice", json!("none")),
    ];
    for (at, (field, value)) in rows.into_iter().enumerate() {
        let mut body = reworded(base.clone());
        match body.pointer_mut(field) {
            Some(place) => *place = value,
            None => body[&field[1..]] = value,
        }
        let answered = stack.chat(&body).await;
        assert_eq!(answered.header("x-sluice-cache"), "miss", "row {at}: {field}");
    }
}

#[tokio::test]
async fn callers_can_bypass_refresh_and_ask_the_cache_alone() {
    let stack = stack().await;
    let ask = |mode: &str| {
        let mut body = question("acme/good", ASKED);
        body["sluice"] = json!({"cache": {"mode": mode}});
        body
    };
    assert_eq!(stack.chat(&ask("only")).await.status, 412);
    assert_eq!(stack.chat(&ask("off")).await.header("x-sluice-cache"), "bypass");
    assert_eq!(stack.chat(&ask("only")).await.status, 412, "off stores nothing");
    let fresh = stack.chat(&ask("refresh")).await;
    assert_eq!(fresh.header("x-sluice-cache"), "bypass");
    assert_eq!(stack.chat(&ask("only")).await.header("x-sluice-cache"), "exact");
    let request = stack.post_as(&stack.key, "/v1/chat/completions", &question("acme/good", ASKED));
    let bypassed = stack.send(request.header("cache-control", "no-store")).await;
    assert_eq!(bypassed.header("x-sluice-cache"), "bypass");
    let mut exact_only = question("acme/good", REWORDED);
    exact_only["sluice"] = json!({"cache": {"mode": "exact"}});
    assert_eq!(stack.chat(&exact_only).await.header("x-sluice-cache"), "miss");
}

#[tokio::test]
async fn a_stored_answer_longer_than_the_client_allows_is_not_given() {
    let stack = stack().await;
    let first = stack.chat(&question("acme/good", ASKED)).await;
    let tokens = first.json()["usage"]["completion_tokens"].as_u64().expect("tokens");
    let mut body = question("acme/good", REWORDED);
    body["max_tokens"] = json!(tokens - 1);
    assert_eq!(stack.chat(&body).await.header("x-sluice-cache"), "miss");
    body["max_tokens"] = json!(tokens);
    assert_eq!(stack.chat(&body).await.header("x-sluice-cache"), "similar");
}

#[tokio::test(flavor = "multi_thread")]
async fn identical_concurrent_misses_make_one_upstream_call() {
    let stack = stack().await;
    stack.simulator.hold();
    let mut waiting = tokio::task::JoinSet::new();
    for at in 0..64 {
        let body = if at % 2 == 0 { question("acme/good", ASKED) } else { streamed(question("acme/good", ASKED)) };
        let request = stack.post_as(&stack.key, "/v1/chat/completions", &body);
        waiting.spawn(async move {
            let response = request.send().await.expect("an answer");
            let cache = response.headers()["x-sluice-cache"].to_str().expect("text").to_owned();
            (cache, response.text().await.expect("a body"))
        });
    }
    eventually("the leader arrives", async || stack.simulator.arrived() == 1).await;
    // Requests sent after the 64, so that these have reached the gateway when those have reached the provider.
    for at in 0..5 {
        let later = stack.post_as(&stack.key, "/v1/chat/completions", &question("acme/good", &format!("later {at}")));
        tokio::spawn(later.send());
        eventually("a later request arrives", async || stack.simulator.arrived() == 2 + at).await;
    }
    stack.simulator.release();
    let mut counts = std::collections::BTreeMap::new();
    while let Some(done) = waiting.join_next().await {
        let (cache, body) = done.expect("no panic");
        assert!(body.contains("reset my password"), "{body}");
        *counts.entry(cache).or_insert(0usize) += 1;
    }
    let asked = stack.simulator.seen().iter().filter(|seen| seen.body.to_string().contains(ASKED)).count();
    assert_eq!(asked, 1, "one upstream call");
    assert_eq!(counts.get("miss"), Some(&1), "{counts:?}");
    assert!(counts.get("coalesced").is_some_and(|count| *count >= 1), "{counts:?}");
    let all: usize = counts.values().sum();
    let shared = counts.iter().filter(|(cache, _)| ["miss", "coalesced", "exact"].contains(&cache.as_str()));
    assert_eq!(shared.map(|(_, count)| count).sum::<usize>(), all, "{counts:?}");
}

#[tokio::test]
async fn a_cache_file_that_is_gone_or_broken_is_a_miss_not_a_failure() {
    let mut stack = stack().await;
    stack.chat(&question("acme/good", ASKED)).await;
    let gateway = stack.gateway.take().expect("running");
    gateway.stop().await;
    for entry in std::fs::read_dir(stack.folder.path()).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.to_string_lossy().contains("cache.db") {
            std::fs::write(
                &path,
                b"this is no database, and longer than a header of one hundred bytes ...........................",
            )
            .expect("written");
        }
    }
    stack.restart().await;
    let answered = stack.chat(&question("acme/good", ASKED)).await;
    assert_eq!((answered.status, answered.header("x-sluice-cache")), (200, "miss"));
    assert_eq!(stack.get("/ready").await.json()["status"], "degraded");
}
