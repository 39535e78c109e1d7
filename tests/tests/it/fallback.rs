//! Providers that fail: the next one answers until the first content has left, then the error is in the stream.

use crate::stack::{Stack, endpoints, question, streamed};
use serde_json::{Value, json};

#[track_caller]
fn check_second_answered(generation: &Value, first_outcome: &str, row: &str) {
    let attempts = generation["sluice"]["attempts"].as_array().expect("attempts");
    let outcomes: Vec<&str> = attempts.iter().filter_map(|attempt| attempt["outcome"].as_str()).collect();
    assert_eq!(outcomes, [first_outcome, "answered"], "{row}");
    assert_eq!(generation["sluice"]["state"], "served", "{row}");
    assert_eq!(generation["provider_name"], "p1", "{row}");
}

#[tokio::test]
async fn the_second_endpoint_answers_where_the_first_fails_before_content() {
    let faults = [
        ("sim/fault-500", "broken"),
        ("sim/fault-429", "rate_limited"),
        ("sim/fault-hang", "timeout"),
        ("sim/fault-cut-before", "cut"),
        ("sim/no-such-model", "no_such_model"),
    ];
    for (fault, outcome) in faults {
        let config = endpoints("acme/shaky", &[fault, "sim/small"]);
        let stack = Stack::start(&config).await;
        let whole = stack.chat(&question("acme/shaky", "whole")).await;
        assert_eq!(whole.status, 200, "{fault}: {}", whole.text);
        assert_eq!(whole.header("x-sluice-attempts"), "2");
        check_second_answered(&stack.generation(&whole).await, outcome, fault);
        let stack = Stack::start(&config).await; // the first one has learnt to leave the endpoint alone
        let stream = stack.chat(&streamed(question("acme/shaky", "stream"))).await;
        assert_eq!(stream.status, 200, "{fault}: {}", stream.text);
        assert!(stream.streamed_text().contains("stream"), "{fault}: {}", stream.text);
        assert!(stream.text.contains("[DONE]"), "{fault}");
        check_second_answered(&stack.generation(&stream).await, outcome, fault);
    }
}

#[tokio::test]
async fn a_cut_after_content_is_an_error_in_the_stream_and_settled() {
    let stack = Stack::start(&endpoints("acme/cut", &["sim/fault-cut-after", "sim/small"])).await;
    let stream = stack.chat(&streamed(question("acme/cut", "please cut me off in the middle of this answer"))).await;
    assert_eq!(stream.status, 200);
    let last = stream.events().pop().expect("an event");
    assert_eq!(last["choices"][0]["finish_reason"], "error");
    assert_eq!(last["error"]["metadata"]["error_type"], "provider_unavailable");
    assert!(!stream.text.contains("[DONE]"), "a cut must not look like an end");
    let generation = stack.generation(&stream).await;
    assert_eq!(generation["sluice"]["state"], "failed");
    assert_eq!(generation["sluice"]["estimated"], true);
    assert!(generation["total_cost"].as_f64().expect("a cost") > 0.0, "what had arrived is paid for");
    let again = stack.chat(&streamed(question("acme/cut", "please cut me off in the middle of this answer"))).await;
    assert_eq!(again.header("x-sluice-cache"), "miss", "half an answer must not be stored");
}

#[tokio::test]
async fn when_all_fail_the_error_is_typed_and_nothing_is_charged() {
    let rows = [
        ("sim/fault-500", 502, "provider_unavailable"),
        ("sim/fault-429", 429, "rate_limit_exceeded"),
        ("sim/fault-hang", 408, "timeout"),
    ];
    for (fault, status, error_type) in rows {
        for body in [question("acme/dead", "x"), streamed(question("acme/dead", "x"))] {
            let stack = Stack::start(&endpoints("acme/dead", &[fault])).await;
            let answered = stack.chat(&body).await;
            assert_eq!(answered.status, status, "{fault}: {}", answered.text);
            assert_eq!(answered.json()["error"]["metadata"]["error_type"], error_type);
            assert_eq!(answered.header("retry-after"), if status == 429 { "7" } else { "" });
            assert_eq!(stack.generation(&answered).await["total_cost"], json!(0.0));
        }
    }
}

#[tokio::test]
async fn a_list_of_models_is_a_list_of_fallbacks() {
    let config = endpoints("acme/first", &["sim/fault-500"]) + &endpoints("acme/second", &["sim/small"]);
    let stack = Stack::start(&config).await;
    let mut body = question("acme/first", "x");
    body["models"] = json!(["acme/second"]);
    let answered = stack.chat(&body).await;
    assert_eq!(answered.json()["model"], "acme/second");
}
