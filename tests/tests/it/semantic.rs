//! What the semantic level learns from outcomes, whom it trusts, and how stored answers are forgotten or renewed.

use crate::stack::{ADMIN, Answered, Stack, endpoints, question};
use serde_json::{Value, json};
use simulator::{Answers, Fault, KnownAnswer, Row, Rule, SimulatedModel, Simulator};
use std::time::Duration;
use tests::eventually;
use tokio::net::TcpListener;

/// A simulator that answers these prompts so.
async fn answering(rows: &[(&str, &str)]) -> Simulator {
    let row = |(prompt, text): &(&str, &str)| Row {
        prompt: (*prompt).to_owned(),
        class: 0,
        kind: String::new(),
        answers: [("sim/small".to_owned(), KnownAnswer { text: (*text).to_owned(), score: 1.0, output_tokens: 9 })]
            .into(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let models = SimulatedModel::shipped(Duration::ZERO);
    Simulator::start(listener, models, Answers::new(rows.iter().map(row))).expect("a simulator")
}

const ASKED: &str = "How do I reset my password?";
const REWORDED: &str = "How can I reset my password, please?";
const ELSEWISE: &str = "Since this morning I cannot get into my account";
const ELSEWISE_AGAIN: &str = "Since this morning I cannot get into my account, please help";
const RESET: &str = "Open the settings, then choose Reset.";

fn ask(text: &str) -> Value {
    question("acme/good", text)
}

async fn stack(rows: &[(&str, &str)], more: &str) -> Stack {
    let config = more.to_owned() + &endpoints("acme/good", &["sim/small"]);
    Stack::with(answering(rows).await, &config).await
}

impl Stack {
    async fn ask_as(&self, key: &str, text: &str) -> Answered {
        self.send(self.post_as(key, "/v1/chat/completions", &ask(text))).await
    }

    async fn looked_up(&self, text: &str) -> Value {
        let found = self.post("/v1/cache/lookup", &ask(text)).await;
        assert_eq!(found.status, 200, "{}", found.text);
        found.json()["data"].clone()
    }

    async fn forget(&self, path: &str, body: &Value) -> Answered {
        let request = self.client().delete(self.url(path)).bearer_auth(&self.key).body(body.to_string());
        self.send(request).await
    }
}

#[tokio::test]
async fn prompts_whose_answers_agree_lead_to_one_answer_from_then_on() {
    let mut stack = stack(&[(ASKED, RESET), (ELSEWISE, "Open the settings, then choose: reset!")], "").await;
    let first = stack.chat(&ask(ASKED)).await;
    assert_eq!(stack.chat(&ask(ELSEWISE)).await.header("x-sluice-cache"), "miss", "too different to be trusted unseen");
    let third = stack.chat(&ask(ELSEWISE_AGAIN)).await;
    assert_eq!(third.header("x-sluice-cache"), "similar", "{}", third.text);
    assert_eq!(third.header("x-sluice-cache-id"), first.header("x-generation-id"));
    assert_eq!(third.json()["choices"][0]["message"]["content"], RESET);
    stack.restart().await;
    let found = stack.looked_up("Please, since this morning I cannot get into my account").await;
    assert_eq!(found["offer"]["id"], json!(first.header("x-generation-id")), "{found}");
}

#[tokio::test]
async fn a_hit_that_its_reader_calls_wrong_is_not_given_for_that_request_again() {
    let mut stack = stack(&[(ASKED, RESET), (REWORDED, RESET)], "").await;
    stack.chat(&ask(ASKED)).await;
    let hit = stack.chat(&ask(REWORDED)).await;
    assert_eq!(hit.header("x-sluice-cache"), "similar");
    let id = hit.header("x-generation-id");
    let feedback = json!({"generation_id": id, "category": "incorrect_response"});
    let before = stack.looked_up(REWORDED).await["offer"]["probability"].as_f64().expect("a probability");
    eventually_recorded(&stack, &hit).await;
    let said = stack.post("/v1/generation/feedback", &feedback).await;
    assert_eq!((said.status, &said.json()["sluice"]["cache"]), (200, &json!("learned")), "{}", said.text);
    for _ in 0..2 {
        let found = stack.looked_up(REWORDED).await;
        assert_eq!(found["offer"]["admissible"], json!(false), "{found}");
        assert!(found["offer"]["reason"].as_str().is_some_and(|reason| reason.contains("wrong here")), "{found}");
        assert!(found["offer"]["probability"].as_f64().is_some_and(|after| after < before), "{found}");
        stack.restart().await; // what was said outlives the process
    }
    let said = stack.post("/v1/generation/feedback", &json!({"generation_id": "gen-none", "category": "other"})).await;
    assert_eq!(said.status, 404);
    let said = stack.post("/v1/generation/feedback", &json!({"generation_id": id, "sluice": {"score": 2}})).await;
    assert!(said.status == 400 && said.text.contains("sluice.score"), "{}", said.text);
}

/// Records are written a moment after their answers.
async fn eventually_recorded(stack: &Stack, answered: &Answered) {
    let path = format!("/v1/generation?id={}", answered.header("x-generation-id"));
    eventually(&path, async || stack.get(&path).await.status == 200).await;
}

#[tokio::test]
async fn a_retry_for_a_fresh_answer_is_evidence_against_the_stored_one() {
    let stack = stack(&[(ASKED, "It takes 3 days."), (REWORDED, "It takes 5 days.")], "").await;
    let first = stack.chat(&ask(ASKED)).await;
    assert_eq!(stack.chat(&ask(REWORDED)).await.header("x-sluice-cache-id"), first.header("x-generation-id"));
    let request = stack.post_as(&stack.key, "/v1/chat/completions", &ask(REWORDED)).header("cache-control", "no-cache");
    let retried = stack.send(request).await;
    assert_eq!(retried.json()["choices"][0]["message"]["content"], "It takes 5 days.");
    let found = stack.looked_up("Please, how can I reset my password?").await;
    assert_ne!(found["offer"]["id"], json!(first.header("x-generation-id")), "{found}");
    assert_eq!(found["case"]["answers"], json!(2), "both answers are known to be near: {found}");
}

#[tokio::test]
async fn an_answer_serves_other_keys_only_after_a_second_one_got_the_same() {
    let stack = stack(&[(ASKED, RESET), (REWORDED, RESET)], "").await;
    let (second, third) = (stack.limited_key(1.0).await, stack.limited_key(1.0).await);
    stack.chat(&ask(ASKED)).await;
    let refused = stack.ask_as(&second, REWORDED).await;
    assert_eq!(refused.header("x-sluice-cache"), "miss", "who writes first must not decide for all");
    let served = stack.ask_as(&third, "Please, how can I reset my password?").await;
    assert_eq!(served.header("x-sluice-cache"), "similar", "the second key got the same answer: {}", served.text);
    let open = self::stack(&[(ASKED, RESET)], "[cache.semantic]\nconfirm = false\n").await;
    let second = open.limited_key(1.0).await;
    open.chat(&ask(ASKED)).await;
    assert_eq!(open.ask_as(&second, REWORDED).await.header("x-sluice-cache"), "similar");
}

#[tokio::test]
async fn stored_answers_are_forgotten_by_id_tag_model_and_all_at_once_within_the_tenant() {
    let stack = stack(&[], "").await;
    let tagged = |text: &str| {
        let mut body = ask(text);
        body["sluice"] = json!({"cache": {"tags": ["faq"]}});
        body
    };
    let one = stack.chat(&tagged(ASKED)).await;
    stack.chat(&ask("What does the annual plan cost?")).await;
    let made = stack.send(stack.post_as(ADMIN, "/admin/tenants", &json!({"id": "other"}))).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let made = stack.send(stack.post_as(ADMIN, "/v1/keys", &json!({"name": "k", "workspace_id": "other"}))).await;
    let other = made.json()["key"].as_str().expect("a key").to_owned();
    stack.ask_as(&other, ASKED).await;
    eventually_stored(&stack, 2).await;
    let forgotten = stack.forget("/v1/cache", &json!({"tag": "faq"})).await;
    assert_eq!(forgotten.json()["data"]["forgotten"], json!(1), "{}", forgotten.text);
    let again = stack.chat(&ask(REWORDED)).await;
    assert_eq!(again.header("x-sluice-cache"), "miss", "{:?}", again.headers);
    assert_eq!(stack.looked_up(ASKED).await["exact"], Value::Null);
    assert_eq!(stack.ask_as(&other, ASKED).await.header("x-sluice-cache"), "exact", "another tenant's stays");
    let gone = stack.forget(&format!("/v1/cache/{}", one.header("x-generation-id")), &json!({})).await;
    assert_eq!(gone.status, 404);
    for bad in [json!({}), json!({"all": true, "tag": "x"}), json!({"colour": "red"})] {
        assert_eq!(stack.forget("/v1/cache", &bad).await.status, 400, "{bad}");
    }
    assert_eq!(stack.forget("/v1/cache", &json!({"all": true})).await.json()["data"]["epoch"], json!(1));
    assert_eq!(stack.chat(&tagged(ASKED)).await.header("x-sluice-cache"), "miss");
    assert_eq!(stack.ask_as(&other, ASKED).await.header("x-sluice-cache"), "exact");
    let stats = stack.get("/v1/cache/stats").await.json();
    assert_eq!(stats["data"]["policies"][0]["error_max"], json!(0.01), "{stats}");
    assert!(stats["data"]["policies"][0]["estimate"]["requests"].as_u64().is_some_and(|seen| seen >= 4), "{stats}");
}

async fn eventually_stored(stack: &Stack, answers: u64) {
    let count = async || stack.get("/v1/cache/stats").await.json()["data"]["answers"].clone();
    eventually(&format!("{answers} answers"), async || count().await == json!(answers)).await;
}

#[tokio::test]
async fn what_the_level_may_not_answer_says_why() {
    let stack = stack(&[], "[cache.semantic]\nunset_temperature = \"exact\"\n").await;
    let ineligible =
        async |body: Value| stack.post("/v1/cache/lookup", &body).await.json()["data"]["ineligible"].clone();
    let mut body = ask("What is the weather in Oslo?");
    assert_eq!(ineligible(body.clone()).await, json!("sampled"));
    body["temperature"] = json!(0);
    assert_eq!(ineligible(body.clone()).await, json!("present"));
    body["sluice"] = json!({"cache": {"ttl_s": 60}});
    assert_eq!(ineligible(body.clone()).await, Value::Null, "an answer that lives a minute may be about the present");
    body["messages"][0]["content"] = json!("?!  …");
    assert_eq!(ineligible(body.clone()).await, json!("no_question"));
    body["messages"][0]["content"] = json!("word ".repeat(400));
    assert_eq!(ineligible(body).await, json!("truncated"));
}

#[tokio::test]
async fn what_changes_without_mattering_is_folded_where_a_policy_says_so() {
    let policies = "[policies.support]\ncandidates = [\"acme/good\"]\n[cache.policies.support]\n\
        volatile = ['\\d{4}-\\d{2}-\\d{2}']\npersonal = true\n";
    let stack = stack(&[], policies).await;
    let on = |day: &str, user: &str, text: &str| {
        json!({"model": "policy/support", "user": user, "messages": [
            {"role": "system", "content": format!("Today is {day}.")}, {"role": "user", "content": text},
        ]})
    };
    stack.chat(&on("2026-01-01", "ann", ASKED)).await;
    assert_eq!(stack.chat(&on("2026-01-02", "ann", REWORDED)).await.header("x-sluice-cache"), "similar");
    assert_eq!(stack.chat(&on("2026-01-02", "bob", REWORDED)).await.header("x-sluice-cache"), "miss", "personal");
    assert_eq!(stack.chat(&on("the day", "ann", REWORDED)).await.header("x-sluice-cache"), "miss");
}

#[tokio::test]
async fn an_expired_answer_is_given_while_one_fresh_answer_is_fetched() {
    let stack = stack(&[], "[cache]\nstale_while_revalidate_s = 60\n[cache.exact]\nttl_s = 0\n").await;
    let first = stack.chat(&ask(ASKED)).await;
    for _ in 0..5 {
        assert_eq!(stack.chat(&ask(ASKED)).await.header("x-sluice-cache"), "exact");
    }
    eventually("one renewal", async || stack.simulator.arrived() == 2).await;
    let renewed = async || stack.chat(&ask(ASKED)).await.header("x-sluice-cache-id") != first.header("x-generation-id");
    eventually("the renewed answer is the one that is given", renewed).await;
    assert_eq!(stack.simulator.arrived(), 2, "many readers of an expired answer renew it once");
    let cost = first.header("x-sluice-cost-usd").parse::<f64>().expect("dollars");
    let used = async || stack.get("/v1/key").await.json()["data"]["usage"].as_f64().expect("dollars");
    eventually("the renewal is booked", async || used().await > 1.5 * cost).await;
    let used = used().await;
    assert!((used - 2.0 * cost).abs() < 1e-9, "the key pays for the renewal too: {used} for two of {cost}");
}

#[tokio::test]
async fn an_expired_answer_stands_in_for_a_provider_that_fails() {
    let stack = stack(&[], "[cache]\nstale_if_error_s = 60\n[cache.exact]\nttl_s = 0\n").await;
    let first = stack.chat(&ask(ASKED)).await;
    assert_eq!(stack.chat(&ask(ASKED)).await.header("x-sluice-cache"), "miss", "only where a provider fails");
    stack.simulator.set_rule("sim/small", Some(Rule::always(Fault::Broken)));
    let stale = stack.chat(&ask(ASKED)).await;
    assert_eq!((stale.status, stale.header("x-sluice-cache")), (200, "exact"), "{}", stale.text);
    assert_eq!(stale.json()["choices"], first.json()["choices"]);
    assert_eq!(stack.chat(&ask("What does the annual plan cost?")).await.status, 503, "nothing stands in for others");
}

#[tokio::test]
async fn openrouters_headers_shorten_renew_and_turn_off() {
    let stack = stack(&[], "").await;
    let ask_with = async |name: &str, value: &str| {
        let request = stack.post_as(&stack.key, "/v1/chat/completions", &ask(ASKED)).header(name, value);
        stack.send(request).await
    };
    assert_eq!(ask_with("x-openrouter-cache-ttl", "0").await.header("x-sluice-cache"), "miss");
    assert_eq!(stack.chat(&ask(ASKED)).await.header("x-sluice-cache"), "miss", "it lived no second");
    assert_eq!(stack.chat(&ask(ASKED)).await.header("x-sluice-cache"), "exact");
    assert_eq!(ask_with("x-openrouter-cache-clear", "true").await.header("x-sluice-cache"), "bypass");
    assert_eq!(ask_with("x-openrouter-cache", "false").await.header("x-sluice-cache"), "bypass");
    let bad = ask_with("x-openrouter-cache-ttl", "soon").await;
    assert!(bad.status == 400 && bad.text.contains("X-OpenRouter-Cache-TTL"), "{}", bad.text);
    assert_eq!(stack.simulator.arrived(), 4);
}
