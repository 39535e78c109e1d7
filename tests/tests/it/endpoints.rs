//! Choosing among endpoints over TCP: data policies, direct before passed on, names that changed, live figures.

use crate::stack::{Stack, question, simulator, streamed};
use serde_json::{Value, json};
use simulator::{Fault, Rule, SimulatedModel};

const NO_CACHE: &str = "[cache.exact]\nenabled = false\n[cache.semantic]\nenabled = false\n";

/// What is known of a simulated provider's treatment of prompts.
type Policy = (Option<bool>, Option<bool>, Option<&'static str>);

/// Nine providers, one for each combination that matters, each with a simulated model of its own name.
const POLICIES: [Policy; 9] = [
    (Some(false), Some(false), Some("eu")),
    (Some(false), Some(false), Some("us")),
    (Some(false), Some(false), None),
    (Some(false), Some(true), Some("eu")),
    (Some(true), Some(false), Some("eu")),
    (Some(true), Some(true), Some("us")),
    (None, Some(false), Some("eu")),
    (Some(false), None, Some("eu")),
    (None, None, None),
];

fn policy_config() -> String {
    let mut text = String::from(
        "[execution]\nhedge_spend_max = 1.0\nretry_backoff_ms = 1\nqueue_wait_max_ms = 100\nbreaker_interval_ms = 5\n",
    );
    let mut endpoints = String::from("[[models]]\nid = \"a/m\"\n");
    for (at, (stores, trains, region)) in POLICIES.iter().enumerate() {
        text.push_str(&format!("[providers.q{at}]\nkind = \"simulated\"\nbase_url = \"SIMULATOR\"\n"));
        if let Some(stores) = stores {
            text.push_str(&format!("stores_prompts = {stores}\n"));
        }
        if let Some(trains) = trains {
            text.push_str(&format!("trains_on_prompts = {trains}\n"));
        }
        if let Some(region) = region {
            text.push_str(&format!("region = \"{region}\"\n"));
        }
        endpoints.push_str(&format!(
            "[[models.endpoints]]\nprovider = \"q{at}\"\nname = \"sim/q{at}\"\ninput_usd_per_mtok = 1.0\n\
             output_usd_per_mtok = 1.0\ncontext_tokens = 10000\noutput_tokens_max = 100\n"
        ));
    }
    text + &endpoints + NO_CACHE
}

fn allowed(policy: Policy, demand: &Value) -> bool {
    let (stores, trains, region) = policy;
    let zdr = demand["zdr"] != json!(true) || stores == Some(false);
    let deny = demand["data_collection"] != json!("deny") || stores == Some(false) && trains == Some(false);
    let there = demand["region"].as_str().is_none_or(|wanted| region == Some(wanted));
    zdr && deny && there
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_reaches_a_provider_that_a_demand_forbids_whatever_fails() {
    let models = (0..POLICIES.len()).map(|at| SimulatedModel::new(format!("sim/q{at}"))).collect();
    let stack = Stack::with(simulator(models).await, &policy_config()).await;
    // A hedge is sent when the usual time is known and passed.
    for at in 0..POLICIES.len() {
        for turn in 0..25 {
            let mut body = streamed(question("a/m", &format!("{at} {turn}")));
            body["provider"] = json!({"only": [format!("q{at}")]});
            assert_eq!(stack.chat(&body).await.status, 200);
        }
    }
    let (mut hedged, mut fell_back) = (0, 0);
    for zdr in [None, Some(false), Some(true)] {
        for collection in [None, Some("allow"), Some("deny")] {
            for region in [None, Some("eu"), Some("us"), Some("ch")] {
                let said = [
                    ("zdr", zdr.map(Value::from)),
                    ("data_collection", collection.map(Value::from)),
                    ("region", region.map(Value::from)),
                ];
                let demand: Value =
                    said.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
                let is_allowed = |at: usize| allowed(POLICIES[at], &demand);
                let before = stack.simulator.counters().by_model.clone();
                // All that may be called fail, or are slow: fallbacks and hedges look everywhere they may.
                for (at, fault) in [Fault::Broken, Fault::Slow].iter().cycle().take(POLICIES.len()).enumerate() {
                    stack
                        .simulator
                        .set_rule(&format!("sim/q{at}"), Some(Rule { delay_ms: Some(30), ..Rule::always(*fault) }));
                }
                for turn in 0..4 {
                    let mut body = question("a/m", &format!("{demand} {turn}"));
                    body["provider"] = demand.clone();
                    let answered = stack.chat(&if turn % 2 == 0 { streamed(body) } else { body }).await;
                    if answered.status == 200 {
                        let attempts = stack.generation(&answered).await["sluice"]["attempts"].clone();
                        let attempts = attempts.as_array().expect("attempts").clone();
                        hedged += attempts.iter().filter(|attempt| attempt["hedge"] == true).count();
                        fell_back += usize::from(attempts.len() > 1);
                    }
                    if !(0..POLICIES.len()).any(is_allowed) {
                        assert_eq!(answered.status, 404, "{demand}: {}", answered.text);
                        assert!(
                            answered.text.contains("is unknown") || answered.text.contains("not in"),
                            "{}",
                            answered.text
                        );
                    }
                }
                let after = stack.simulator.counters().by_model.clone();
                for (at, policy) in POLICIES.iter().enumerate() {
                    let name = format!("sim/q{at}");
                    let calls = after.get(&name).copied().unwrap_or(0) - before.get(&name).copied().unwrap_or(0);
                    assert!(is_allowed(at) || calls == 0, "{demand}: {calls} calls at {policy:?}");
                }
            }
        }
    }
    assert!(hedged > 0 && fell_back > 0, "{hedged} hedges, {fell_back} fallbacks: there was nothing to forbid");
    let calls: u64 = stack.simulator.counters().by_model.values().sum();
    assert!(calls > 80, "the demands were tried where they allow somebody: {calls}");
}

/// Known providers at the simulator, which answers for these upstream names.
async fn known(config: &str, names: &[&str]) -> Stack {
    let models = names.iter().map(|name| SimulatedModel::new(*name)).collect();
    Stack::with(simulator(models).await, &(config.to_owned() + NO_CACHE)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_endpoint_is_first_and_openrouter_last_with_its_fee() {
    let config = "[providers.openai]\napi_key_env = \"KEY_A\"\n[providers.openrouter]\napi_key_env = \"KEY_B\"\n";
    let stack = known(config, &[]).await;
    for at in 0..20 {
        let explained = stack.post("/v1/route", &question("openai/gpt-4o", &format!("hello {at}"))).await.json();
        let candidates = explained["data"]["route"]["candidates"].as_array().expect("candidates").clone();
        let providers: Vec<&str> =
            candidates.iter().filter_map(|row| row["endpoint"].as_str()?.split('@').nth(1)).collect();
        assert_eq!((providers.first(), providers.last()), (Some(&"openai"), Some(&"openrouter")), "{explained}");
        let cost = |at: usize| candidates[at]["expected_cost_usd"].as_f64().expect("a cost");
        let ratio = cost(candidates.len() - 1) / cost(0);
        assert!((ratio - 1.055).abs() < 1e-3, "{ratio}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_with_its_own_price_is_ranked_reserved_and_billed_at_it() {
    let config = "[providers.groq]\nkind = \"simulated\"\nbase_url = \"SIMULATOR\"\n\
                  [[providers.groq.credentials]]\napi_key_env = \"KEY_LIST\"\n\
                  [[providers.groq.credentials]]\napi_key_env = \"KEY_OWN\"\n\
                  [[providers.groq.credentials.prices]]\nmodel = \"openai/gpt-oss-120b\"\n\
                  input_usd_per_mtok = 0.001\noutput_usd_per_mtok = 0.001\n";
    let stack = known(config, &["openai/gpt-oss-120b", "openai/gpt-oss-20b"]).await;
    let mut body = question("openai/gpt-oss-120b", "at our price");
    body["provider"] = json!({"sort": "price", "allow_fallbacks": false});
    let answered = stack.chat(&body).await;
    assert_eq!(answered.status, 200, "{}", answered.text);
    let generation = stack.generation(&answered).await;
    assert_eq!(generation["sluice"]["attempts"][0]["credential"], "KEY_OWN", "{generation}");
    let tokens = answered.json()["usage"]["total_tokens"].as_u64().expect("tokens");
    assert_eq!(generation["total_cost"].as_f64(), Some(tokens as f64 / 1e9), "{generation}");
    assert!(generation["sluice"]["reserved_usd"].as_f64() < Some(1e-4), "the reservation is at that price too");
    // A model without a price of its own costs what is listed, whichever credential pays.
    let other = stack.chat(&question("openai/gpt-oss-20b", "no price agreed")).await;
    assert!(stack.generation(&other).await["total_cost"].as_f64() > Some(1e-7));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_returns_to_the_endpoint_that_remembers_it() {
    let endpoint = |provider: &str, read: &str| {
        format!(
            "[[models.endpoints]]\nprovider = \"{provider}\"\nname = \"sim/small\"\ninput_usd_per_mtok = 1.0\n\
             output_usd_per_mtok = 1.0\n{read}context_tokens = 100000\noutput_tokens_max = 100\n"
        )
    };
    let remembers = "cache_read_usd_per_mtok = 0.1\n";
    let config = format!(
        "[providers.q0]\nkind = \"simulated\"\nbase_url = \"SIMULATOR\"\n[providers.q1]\nkind = \"simulated\"\n\
         base_url = \"SIMULATOR\"\n[[models]]\nid = \"a/m\"\n{}{}{NO_CACHE}",
        endpoint("q0", remembers),
        endpoint("q1", remembers)
    );
    let stack = Stack::with(simulator(vec![]).await, &config).await;
    let long = "word ".repeat(2_000);
    for session in 0..6 {
        let mut served = Vec::new();
        for turn in 0..6 {
            let mut body = question("a/m", &format!("{long} {turn}"));
            body["session_id"] = json!(format!("session {session}"));
            served.push(stack.chat(&body).await.header("x-sluice-provider").to_owned());
        }
        assert!(served.iter().all(|provider| *provider == served[0]), "{served:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_model_answers_through_its_successor_and_says_so() {
    let config = "[providers.anthropic]\nkind = \"simulated\"\nbase_url = \"SIMULATOR\"\n";
    let stack = known(config, &["claude-sonnet-4-6"]).await;
    for request in
        [question("anthropic/claude-3.5-sonnet", "whole"), streamed(question("anthropic/claude-3.5-sonnet", "stream"))]
    {
        let answered = stack.chat(&request).await;
        assert_eq!(answered.status, 200, "{}", answered.text);
        assert_eq!(answered.header("x-sluice-model"), "anthropic/claude-sonnet-4.6");
        let notice = "anthropic/claude-3.5-sonnet is withdrawn; anthropic/claude-sonnet-4.6 answers in its place";
        assert_eq!(answered.header("x-sluice-model-notice"), notice);
    }
    assert_eq!(
        stack.chat(&question("anthropic/claude-sonnet-4.6", "as named")).await.header("x-sluice-model-notice"),
        ""
    );
    let unknown = stack.chat(&question("groq/llama-3.1-8b-instant", "who?")).await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.text.contains("GROQ_API_KEY"), "{}", unknown.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_its_provider_has_dropped_since_answers_through_its_successor() {
    let config = "[providers.anthropic]\nkind = \"simulated\"\nbase_url = \"SIMULATOR\"\n";
    // The list still has Opus 4.1; its provider does not know it any more.
    let stack = known(config, &["claude-opus-4-8"]).await;
    let answered = stack.chat(&question("anthropic/claude-opus-4.1", "still there?")).await;
    assert_eq!(answered.status, 200, "{}", answered.text);
    assert_eq!(answered.header("x-sluice-model"), "anthropic/claude-opus-4.8");
    assert!(answered.header("x-sluice-model-notice").starts_with("anthropic/claude-opus-4.1 is withdrawn"));
    let generation = stack.generation(&answered).await;
    assert_eq!(generation["sluice"]["attempts"][0]["outcome"], "no_such_model");
    stack.simulator.set_rule("claude-opus-4-8", Some(Rule::always(Fault::Broken)));
    let failing = stack.chat(&question("anthropic/claude-sonnet-4.6", "unknown upstream too")).await;
    assert_eq!(failing.status, 502, "nobody stands in for a model without a successor: {}", failing.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn thinking_asks_for_thoughts_and_free_for_what_costs_nothing() {
    let config = "[providers.groq]\nkind = \"simulated\"\nbase_url = \"SIMULATOR\"\n";
    let stack = known(config, &["openai/gpt-oss-120b"]).await;
    let answered = stack.chat(&question("openai/gpt-oss-120b:thinking", "why?")).await;
    assert_eq!(answered.status, 200, "{}", answered.text);
    let asked = stack.simulator.seen().pop().expect("a call").body;
    assert_eq!(asked["reasoning_effort"], "medium", "{asked}");
    let free = stack.chat(&question("openai/gpt-oss-120b:free", "why?")).await;
    assert_eq!(free.status, 404);
    assert!(free.text.contains("is not free"), "{}", free.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn models_endpoints_and_providers_are_listed_with_live_figures() {
    let config = "[providers.groq]\nkind = \"simulated\"\nbase_url = \"SIMULATOR\"\n\
                  [providers.fireworks-ai]\nkind = \"simulated\"\nbase_url = \"SIMULATOR\"\n";
    let stack = known(config, &["openai/gpt-oss-120b", "accounts/fireworks/models/gpt-oss-120b"]).await;
    for at in 0..12 {
        let body = question("openai/gpt-oss-120b", &format!("hello {at}"));
        assert_eq!(stack.chat(&if at % 2 == 0 { streamed(body) } else { body }).await.status, 200);
    }
    let endpoints = stack.get("/api/v1/models/openai/gpt-oss-120b/endpoints").await.json();
    let rows = endpoints["data"]["endpoints"].as_array().expect("endpoints").clone();
    assert_eq!(rows.len(), 2, "{endpoints}");
    let used: Vec<&Value> = rows.iter().filter(|row| row["uptime_last_5m"] == json!(100.0)).collect();
    assert!(
        !used.is_empty() && used.iter().all(|row| row["throughput_last_30m"]["p50"].as_f64() > Some(0.0)),
        "{endpoints}"
    );
    let anonymous = stack.send(stack.client().get(stack.url("/v1/models/openai/gpt-oss-120b/endpoints"))).await.json();
    assert!(
        anonymous["data"]["endpoints"].as_array().expect("rows").iter().all(|row| row["latency_last_30m"].is_null())
    );
    let zdr = stack.get("/v1/endpoints/zdr").await.json();
    assert_eq!(zdr["data"], json!([]), "what fireworks says of itself does not hold at another address");
    let providers = stack.get("/v1/providers").await.json();
    let slugs: Vec<&str> =
        providers["data"].as_array().expect("rows").iter().filter_map(|row| row["slug"].as_str()).collect();
    assert!(slugs.contains(&"groq") && slugs.contains(&"fireworks-ai"), "{slugs:?}");
    let one = stack.get("/v1/model/openai/gpt-oss-120b").await.json();
    assert_eq!(one["data"]["id"], "openai/gpt-oss-120b");
    let all = stack.get("/v1/models?limit=3&offset=1&sort=pricing-low-to-high").await.json();
    assert_eq!((all["data"].as_array().map(Vec::len), all["links"]["next"].is_string()), (Some(3), true));
    let count = stack.get("/v1/models/count").await.json()["data"]["count"].as_u64().expect("a count");
    assert!(count >= 10 && all["total_count"].as_u64() > Some(count), "policies are listed too: {count} {all}");
    for (path, status) in [
        ("/v1/model/a/b", 404),
        ("/v1/models?sort=cheap", 400),
        ("/v1/models?limit=0", 400),
        ("/v1/models?kind=x", 400),
    ] {
        assert_eq!(stack.get(path).await.status, status, "{path}");
    }
}
