//! Limits, the queue, credentials, breakers, hedges and deadlines: what the provider saw and what the client got.

use crate::stack::{Stack, endpoints, question, streamed};
use serde_json::{Value, json};
use simulator::{Fault, Rule};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tests::eventually;
use tokio::task::JoinSet;

const NO_CACHE: &str = "[cache.semantic]\nenabled = false\n[cache.exact]\nenabled = false\n";
const ONE_AT_A_TIME: &str =
    "[providers.p0]\nkind = \"simulated\"\nbase_url = \"SIMULATOR\"\nconcurrent_max = 1\ntotal_timeout_ms = 5000\n";

fn outcomes(generation: &Value) -> Vec<String> {
    let attempts = generation["sluice"]["attempts"].as_array().expect("attempts");
    attempts.iter().filter_map(|attempt| attempt["outcome"].as_str()).map(str::to_owned).collect()
}

#[tokio::test]
async fn credentials_share_by_weight_and_a_refused_one_is_left_alone() {
    let provider = "[providers.p0]\nkind = \"simulated\"\nbase_url = \"SIMULATOR\"\n[[providers.p0.credentials]]\n\
                    api_key_env = \"KEY_A\"\nweight = 3\n[[providers.p0.credentials]]\napi_key_env = \"KEY_B\"\n";
    let stack = Stack::start(&(endpoints("acme/keys", &["sim/small"]) + provider + NO_CACHE)).await;
    for at in 0..80 {
        let answered = stack.chat(&question("acme/keys", &format!("question {at}"))).await;
        assert_eq!(answered.status, 200, "{}", answered.text);
    }
    let mut shares: HashMap<String, usize> = HashMap::new();
    for seen in stack.simulator.seen() {
        *shares.entry(seen.authorization.expect("a credential")).or_default() += 1;
    }
    let a = shares["Bearer sk-KEY_A"];
    assert!((45..75).contains(&a) && shares.len() == 2, "three quarters of 80: {shares:?}");
    stack.simulator.set_rule("sim/small", Some(Rule { first: Some(1), ..Rule::always(Fault::Credential) }));
    let answered = stack.chat(&question("acme/keys", "one more")).await;
    assert_eq!(answered.status, 200, "the other credential serves: {}", answered.text);
    let generation = stack.generation(&answered).await;
    assert_eq!(outcomes(&generation), ["credential", "answered"]);
    let refused = generation["sluice"]["attempts"][0]["credential"].as_str().expect("a label").to_owned();
    stack.simulator.set_rule("sim/small", None);
    let before = stack.simulator.seen().len();
    for at in 0..20 {
        stack.chat(&question("acme/keys", &format!("later {at}"))).await;
    }
    let later = stack.simulator.seen().split_off(before);
    assert!(later.iter().all(|seen| !seen.authorization.as_deref().unwrap_or("").ends_with(&refused)), "left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_its_limit_a_request_waits_its_turn_and_is_told() {
    let config = endpoints("acme/narrow", &["sim/small"]) + ONE_AT_A_TIME + "[cache.semantic]\nenabled = false\n";
    let stack = Stack::start(&config).await;
    let cached = question("acme/narrow", "known already");
    stack.chat(&cached).await;
    stack.simulator.hold();
    let ask = |text: &str| {
        tokio::spawn(stack.post_as(&stack.key, "/v1/chat/completions", &question("acme/narrow", text)).send())
    };
    let first = ask("first");
    eventually("the first arrives", async || stack.simulator.arrived() == 2).await;
    let second = ask("second");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(stack.simulator.arrived(), 2, "the second waits");
    let hit = stack.chat(&cached).await;
    assert_eq!(hit.header("x-sluice-cache"), "exact", "hits never queue");
    let refused = stack.chat(&question("acme/narrow", "third")).await; // waits the configured 500 ms
    assert_eq!(refused.status, 429, "{}", refused.text);
    assert!(refused.header("x-sluice-queue-ms").parse::<u64>().expect("a number") >= 400);
    assert!(refused.header("retry-after").parse::<u64>().expect("seconds") >= 1);
    let metadata = &refused.json()["error"]["metadata"];
    assert_eq!(
        (metadata["error_type"].as_str(), metadata["limit"].as_str()),
        (Some("rate_limit_exceeded"), Some("concurrent_max"))
    );
    assert_eq!(stack.generation(&refused).await["total_cost"], json!(0.0));
    let fourth = ask("fourth");
    tokio::time::sleep(Duration::from_millis(20)).await;
    stack.simulator.release();
    assert_eq!(first.await.expect("no panic").expect("an answer").status(), 200);
    let fourth = fourth.await.expect("no panic").expect("an answer");
    assert_eq!(fourth.status(), 200);
    let queued = fourth.headers()["x-sluice-queue-ms"].to_str().expect("text").parse::<u64>().expect("a number");
    assert!((1..500).contains(&queued), "{queued} ms");
    assert_eq!(second.await.expect("no panic").expect("an answer").status(), 429, "its wait was over");
}

#[tokio::test]
async fn a_rate_is_kept_by_waiting() {
    let provider = "[providers.p0]\nkind = \"simulated\"\nbase_url = \"SIMULATOR\"\nrequests_per_minute_max = 3000\n";
    let config = endpoints("acme/slow", &["sim/small"]) + provider + NO_CACHE;
    let stack = Stack::start(&config).await;
    let mut sent = JoinSet::new();
    for at in 0..20 {
        sent.spawn(stack.post_as(&stack.key, "/v1/chat/completions", &question("acme/slow", &format!("{at}"))).send());
    }
    while let Some(done) = sent.join_next().await {
        assert_eq!(done.expect("no panic").expect("an answer").status(), 200);
    }
    let seen = stack.simulator.seen();
    let spread = seen[19].at.saturating_sub(seen[0].at);
    assert!(spread >= Duration::from_millis(330), "20 at 50 a second take 0.36 s, they took {spread:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_first_call_gets_company_and_the_loser_is_booked() {
    let more = "[execution]\nhedge_spend_max = 0.5\n[providers.p0]\nkind = \"simulated\"\nbase_url = \"SIMULATOR\"\n";
    let config = endpoints("acme/hedged", &["sim/small", "sim/large"]) + more + NO_CACHE;
    let stack = Stack::start(&config).await;
    for at in 0..30 {
        stack.chat(&streamed(question("acme/hedged", &format!("warm {at}")))).await;
    }
    stack.simulator.set_rule("sim/small", Some(Rule { delay_ms: Some(5_000), ..Rule::always(Fault::Slow) }));
    let begun = Instant::now();
    let answered = stack.chat(&streamed(question("acme/hedged", "hurry"))).await;
    assert!(begun.elapsed() < Duration::from_millis(3_000), "{:?}", begun.elapsed());
    assert_eq!(answered.header("x-sluice-provider"), "p1");
    let generation = stack.generation(&answered).await;
    assert_eq!(outcomes(&generation), ["cancelled", "answered"]);
    let attempts = &generation["sluice"]["attempts"];
    assert_eq!((&attempts[0]["hedge"], &attempts[1]["hedge"]), (&Value::Null, &json!(true)));
    assert!(attempts[0]["wasted_usd"].as_f64() > Some(0.0), "{attempts}");
    let (paid, taken) = (generation["total_cost"].as_f64(), generation["upstream_inference_cost"].as_f64());
    assert!(taken > paid, "the loser is booked and not charged: {taken:?} {paid:?}");
    eventually("the loser is cancelled", async || stack.simulator.cancelled() >= 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_endpoint_is_probed_once_an_interval_and_gets_its_share_back() {
    let execution = "[execution]\nbreaker_interval_ms = 300\nqueue_wait_max_ms = 500\n";
    let config = endpoints("acme/dead", &["sim/small", "sim/large"]) + execution + NO_CACHE;
    let stack = Stack::start(&config).await;
    stack.simulator.set_rule("sim/small", Some(Rule::always(Fault::Broken)));
    let (begun, mut asked, mut calls) = (Instant::now(), 0, 0);
    eventually("it is probed four times", async || {
        let answered = stack.chat(&question("acme/dead", &format!("{asked}"))).await;
        assert_eq!(answered.status, 200, "{}", answered.text);
        asked += 1;
        calls = stack.simulator.counters().by_model["sim/small"];
        calls >= 3 + 4
    })
    .await;
    let probed_max = begun.elapsed().as_millis() / 300;
    assert!(u128::from(calls) <= 3 + probed_max, "3 to open it, then at most one every 300 ms: {calls} of {asked}");
    stack.simulator.set_rule("sim/small", None);
    let mut recovering = 0;
    eventually("its share is back", async || {
        recovering += 1;
        let answered = stack.chat(&question("acme/dead", &format!("recovering {recovering}"))).await;
        answered.header("x-sluice-provider") == "p0"
    })
    .await;
    for at in 0..5 {
        let answered = stack.chat(&question("acme/dead", &format!("well {at}"))).await;
        assert_eq!(answered.header("x-sluice-provider"), "p0", "its share is back");
    }
}

#[tokio::test]
async fn when_every_endpoint_has_been_failing_nobody_waits_for_them() {
    let stack = Stack::start(&(endpoints("acme/gone", &["sim/fault-500"]) + NO_CACHE)).await;
    stack.chat(&question("acme/gone", "learn")).await;
    let calls = stack.simulator.arrived();
    let refused = stack.chat(&question("acme/gone", "again")).await;
    assert_eq!((refused.status, stack.simulator.arrived()), (503, calls), "{}", refused.text);
    assert_eq!(refused.json()["error"]["metadata"]["error_type"], "provider_unavailable");
    assert!(!refused.header("retry-after").is_empty());
}

#[tokio::test]
async fn an_upstream_that_quotes_our_credential_does_not_get_it_shown() {
    let provider = "[providers.p0]\nkind = \"simulated\"\nbase_url = \"SIMULATOR\"\napi_key_env = \"KEY_A\"\n";
    for fault in ["401", "400", "500", "error-event"] {
        let config = endpoints("acme/loud", &[&format!("sim/fault-{fault}")]) + provider + NO_CACHE;
        let stack = Stack::start(&config).await;
        for body in
            [question("acme/loud", "x"), streamed(question("acme/loud", "a question with an answer of some length"))]
        {
            let answered = stack.chat(&body).await;
            let seen = stack.simulator.seen();
            assert_eq!(seen.last().and_then(|seen| seen.authorization.as_deref()), Some("Bearer sk-KEY_A"), "{fault}");
            let generation = stack.generation(&answered).await.to_string();
            assert!(
                !answered.text.contains("sk-KEY_A") && !generation.contains("sk-KEY_A"),
                "{fault}: {}",
                answered.text
            );
        }
    }
}

#[tokio::test]
async fn a_clients_impatience_is_paid_by_it_and_not_held_against_the_endpoint() {
    let stack = Stack::start(&(endpoints("acme/hang", &["sim/fault-hang"]) + NO_CACHE)).await;
    let mut body = question("acme/hang", "quick");
    body["sluice"] = json!({"timeout_ms": 30});
    for calls in 1..=12 {
        let answered = stack.chat(&body).await;
        assert_eq!((answered.status, stack.simulator.arrived()), (408, calls), "still called: {}", answered.text);
        let generation = stack.generation(&answered).await;
        assert_eq!(outcomes(&generation), ["deadline"]);
        assert!(generation["total_cost"].as_f64() > Some(0.0), "its provider was at work");
    }
}

#[tokio::test]
async fn an_endpoint_that_hangs_as_long_as_a_request_may_last_is_to_blame_for_it() {
    let execution = "[execution]\nrequest_timeout_ms = 4000\n"; // as long as the provider's own total
    let stack = Stack::start(&(endpoints("acme/hang", &["sim/fault-hang"]) + execution + NO_CACHE)).await;
    let answered = stack.chat(&question("acme/hang", "whole")).await;
    let generation = stack.generation(&answered).await;
    assert_eq!((answered.status, outcomes(&generation)), (408, vec!["timeout".to_owned()]), "{}", answered.text);
    assert_eq!(generation["total_cost"], json!(0.0), "the provider's failure costs the client nothing");
}

#[tokio::test]
async fn a_request_can_ask_for_less_time() {
    let patient = "[providers.p0]\nkind = \"simulated\"\nbase_url = \"SIMULATOR\"\n"; // waits for half a minute
    let models = endpoints("acme/hang", &["sim/fault-hang", "sim/small"]);
    let stack = Stack::start(&(models + patient + NO_CACHE)).await;
    let mut body = question("acme/hang", "quick");
    body["sluice"] = json!({"timeout_ms": 200});
    let begun = Instant::now();
    let answered = stack.chat(&body).await;
    assert_eq!(answered.status, 408, "{}", answered.text);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let mut body = streamed(question("acme/hang", "quick stream"));
    body["sluice"] = json!({"first_token_timeout_ms": 100});
    let begun = Instant::now();
    let answered = stack.chat(&body).await;
    assert_eq!((answered.status, answered.header("x-sluice-provider")), (200, "p1"));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    body["sluice"] = json!({"timeout_ms": 0});
    let refused = stack.chat(&body).await;
    assert_eq!(refused.json()["error"]["metadata"]["field"], "sluice.timeout_ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_and_streamed_requests_share_one_flight_and_one_bill() {
    let stack = Stack::start(&(endpoints("acme/shared", &["sim/small"]) + "[cache.semantic]\nenabled = false\n")).await;
    stack.simulator.hold();
    let mut asking = JoinSet::new();
    for at in 0..20 {
        let body = question("acme/shared", "what everybody asks at once");
        let body = if at % 2 == 0 { body } else { streamed(body) };
        let request = stack.post_as(&stack.key, "/v1/chat/completions", &body);
        asking.spawn(async move {
            let response = request.send().await.expect("an answer");
            let cache = response.headers()["x-sluice-cache"].to_str().expect("text").to_owned();
            let id = response.headers()["x-generation-id"].to_str().expect("text").to_owned();
            let text = response.text().await.expect("a body");
            (at % 2 == 1, cache, id, text)
        });
    }
    eventually("one arrives upstream", async || stack.simulator.arrived() == 1).await;
    // The gateway counts a request before it reads it, so one more look gives the last of them time to join.
    let under_way = async || stack.metrics().await.contains("\nsluice_requests_under_way 20\n");
    while !under_way().await {
        assert!(stack.simulator.arrived() == 1, "nobody ends before the answer");
    }
    stack.simulator.release();
    let mut leaders = 0;
    while let Some(done) = asking.join_next().await {
        let (is_stream, cache, id, text) = done.expect("no panic");
        assert!(text.contains("everybody asks") || is_stream && text.ends_with("data: [DONE]\n\n"), "{text}");
        let generation = stack.get(&format!("/v1/generation?id={id}")).await.json()["data"].clone();
        assert_eq!(generation["sluice"]["cache"], json!(cache));
        if cache == "coalesced" {
            assert_eq!(generation["total_cost"], json!(0.0), "followers cost nothing");
        } else {
            leaders += 1;
        }
    }
    assert_eq!((leaders, stack.simulator.arrived()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_of_a_stream_is_cancelled_within_50_ms_of_the_client_leaving() {
    let stack = Stack::start(&(endpoints("acme/left", &["sim/fault-stall"]) + NO_CACHE)).await;
    let mut fastest = Duration::MAX;
    for round in 1..=5 {
        let text = format!("stream {round} that is left in the middle, after its first words");
        let body = streamed(question("acme/left", &text));
        let mut response = stack.post_as(&stack.key, "/v1/chat/completions", &body).send().await.expect("an answer");
        response.chunk().await.expect("data").expect("the first words");
        let left = Instant::now();
        drop(response);
        eventually("the upstream is cancelled", async || stack.simulator.cancelled() == round).await;
        fastest = fastest.min(left.elapsed()); // the other tests of this run share the processor
    }
    assert!(fastest < Duration::from_millis(50), "{fastest:?}");
}
