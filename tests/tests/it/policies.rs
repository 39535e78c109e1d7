//! Policies: as files, with rules, prices of quality and examples that each decides as no other does.

use crate::stack::{Stack, endpoints, question};
use gateway::{Config, ConfigFile};
use router::Example;
use serde_json::json;
use std::path::Path;

fn ready() -> Config {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = ConfigFile::read(&root.join("../config/minimal.toml")).expect("the ready policies");
    let models = ConfigFile::read(&root.join("data/policy_models.toml")).expect("models");
    file.with_models_of(models).check(|_| None, Some("http://127.0.0.1:9/v1")).expect("a configuration")
}

#[test]
fn every_ready_policy_decides_its_example_as_no_other_does() {
    let config = ready();
    assert_eq!(config.examples.len(), 8, "eight ready policies, an example each");
    for (policy, example) in &config.examples {
        let own = config.try_example(policy, example);
        assert!(own.is_right(), "{policy} picks {:?}: {}", own.picked, own.reason);
        for (other, _) in config.examples.iter().filter(|(other, _)| other != policy) {
            let picked = config.try_example(other, example).picked;
            assert_ne!(picked.as_ref(), Some(&example.picks), "{other} decides the example of {policy} alike");
        }
    }
}

#[test]
fn an_example_that_cannot_be_read_is_wrong_and_says_why() {
    let config = ready();
    let try_with = |request: &str| {
        let example = Example { prompt: "hi".into(), request: Some(request.into()), picks: "acme/tiny".into() };
        config.try_example("cost-first", &example)
    };
    assert!(try_with(r#"{"max_tokens": 5}"#).is_right());
    for (request, problem) in [("[]", "is no JSON object"), (r#"{"temperature": "hot"}"#, "temperature")] {
        let tried = try_with(request);
        assert!(!tried.is_right() && tried.reason.contains(problem), "{tried:?}");
    }
}

#[test]
fn a_file_is_a_policy_of_its_name_and_its_mistakes_name_it() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("policies")).expect("a folder");
    let main = folder.path().join("sluice.toml");
    let file = folder.path().join("policies/saver.toml");
    let check = |table: &str, policy: &str| {
        std::fs::write(&main, table).and_then(|()| std::fs::write(&file, policy)).expect("written");
        ConfigFile::read(&main).and_then(|file| file.check(|_| None, Some("http://127.0.0.1:9/v1")))
    };
    let good = check("", "candidates = [\"sim/small\", \"sim/large\"]\n").expect("good");
    assert_eq!(good.policies["saver"].candidates, ["sim/small", "sim/large"]);
    for (table, policy, problem) in [
        ("[policies.saver]\n", "", "already"),
        ("", "candidates = [\"sim/none\"]", "saver.toml"),
        ("", "candidates = []", "leave it out"),
        ("", "quality_min = 1.5", "share from 0 to 1"),
        ("", "cost_max_usd = -1.0", "use dollars"),
        ("", "sort = \"speed\"", "latency"),
        ("", "[[rules]]\nwhen = \"request.nothing\"\nuse = [\"sim/small\"]", "rules[0].when"),
        ("", "guarantee = true\ncorrect_answer_value_usd = 1.0", "exclude each other"),
        ("", "what = 1", "unknown field"),
        ("[[models]]\nid = \"a/m\"\nability = nan\nendpoints = []\n", "", "use logits"),
        ("# Ü\n", "applies_to = [\"sim/none\"]", "saver.toml"),
        ("", "quality_min = 0.5\ncorrect_answer_value_usd = 1.0", "has no say"),
        ("", "guarantee = true\nsort = \"latency\"", "holds for the cheapest"),
        ("", "guarantee = true\ncandidates = [\"sim/small\"]\nbaseline = \"sim/large\"", "must be a candidate"),
    ] {
        let said = check(table, policy).expect_err(policy).to_string();
        assert!(said.contains(problem), "{policy}: {said}");
    }
}

/// Two models, and a policy of rules.
async fn ruled(rules: &str) -> Stack {
    let models = endpoints("acme/small", &["sim/small"]) + &endpoints("acme/large", &["sim/large"]);
    let dear = models.replacen("_usd_per_mtok = 1.0", "_usd_per_mtok = 0.1", 2);
    Stack::start(&format!(
        "{dear}[policies.p]\ncandidates = [\"acme/small\", \"acme/large\"]\nbaseline = \"acme/small\"\nquality_min = 0.0\n{rules}"
    ))
    .await
}

async fn picks(stack: &Stack, prompt: &str) -> (String, serde_json::Value) {
    let answered = stack.chat(&question("policy/p", prompt)).await;
    let explained = stack.post("/v1/route", &question("policy/p", prompt)).await.json()["data"]["route"].clone();
    (answered.header("x-sluice-model").to_owned(), explained)
}

#[tokio::test]
async fn rules_pin_forbid_and_prefer_and_the_trace_says_so() {
    let rule = |then: &str| format!("[[policies.p.rules]]\nwhen = \"request.text.contains('legal')\"\n{then}\n");
    for (then, reason, rejected) in [
        ("use = [\"acme/large\"]", "a rule uses it", "rule 1 uses others"),
        ("forbid = [\"acme/small\"]", "keeps the", "rule 1 forbids it"),
        ("prefer = [\"*/large\"]", "a rule prefers it", ""),
    ] {
        let stack = ruled(&rule(then)).await;
        let (model, explained) = picks(&stack, "Is this legal?").await;
        assert_eq!(model, "acme/large", "{then}: {explained}");
        let said = explained["candidates"][0]["reason"].as_str().expect("a reason");
        assert!(said.contains(reason), "{then}: {said}");
        let objection = explained["rejected"][0]["reason"].as_str().unwrap_or_default();
        assert_eq!(objection, rejected, "{then}");
        assert_eq!(picks(&stack, "Hello").await.0, "acme/small", "{then}");
    }
}

#[tokio::test]
async fn rules_know_the_caller_and_prices_bound_what_may_serve() {
    let stack = ruled("[[policies.p.rules]]\nwhen = \"caller.tenant != ''\"\nuse = [\"acme/large\"]\n").await;
    assert_eq!(picks(&stack, "Hello").await.0, "acme/large");
    let stack =
        ruled("cost_max_usd = 0.00005\n[[policies.p.rules]]\nwhen = \"true\"\nprefer = [\"acme/large\"]\n").await;
    let (model, explained) = picks(&stack, "Hello").await;
    assert_eq!(model, "acme/small");
    assert!(explained["rejected"][0]["reason"].as_str().is_some_and(|why| why.contains("cost_max_usd")), "{explained}");
}

#[tokio::test]
async fn a_right_answer_that_is_worth_more_buys_a_better_model() {
    let worth = async |usd: f64| {
        let models = endpoints("acme/small", &["sim/small"]) + &endpoints("acme/large", &["sim/large"]);
        let models = models.replacen("[[models.endpoints]]", "ability = 0.0\n[[models.endpoints]]", 1).replacen(
            "_usd_per_mtok = 1.0",
            "_usd_per_mtok = 0.1",
            2,
        );
        let (cheap, dear) = models.split_once("id = \"acme/large\"").expect("two models");
        let dear = dear.replacen("[[models.endpoints]]", "ability = 2.0\n[[models.endpoints]]", 1);
        let policy = format!(
            "[policies.p]\ncandidates = [\"acme/small\", \"acme/large\"]\ncorrect_answer_value_usd = {usd:?}\n"
        );
        let stack = Stack::start(&format!("{cheap}id = \"acme/large\"{dear}{policy}")).await;
        let mut body = question("policy/p", "Who wrote Hamlet?");
        body["sluice"] = json!({});
        let explained = stack.post("/v1/route", &body).await.json()["data"]["route"].clone();
        explained["candidates"][0]["endpoint"].as_str().expect("an endpoint").to_owned()
    };
    assert_eq!(worth(0.0001).await, "acme/small@p0");
    assert_eq!(worth(1.0).await, "acme/large@p0");
}

/// A rule that applies to one request and not to the other: what the first was answered is no answer to the second.
#[tokio::test]
async fn what_was_answered_under_other_rules_is_not_served() {
    let stack = ruled("[[policies.p.rules]]\nwhen = \"request.user == 'minor'\"\nforbid = [\"acme/small\"]\n").await;
    let served = async |user: &str| {
        let mut body = question("policy/p", "What is a bond?");
        body["user"] = json!(user);
        let answered = stack.chat(&body).await;
        (answered.header("x-sluice-model").to_owned(), answered.header("x-sluice-cache").to_owned())
    };
    assert_eq!(served("adult").await.0, "acme/small");
    assert_eq!(served("minor").await, ("acme/large".to_owned(), "miss".to_owned()));
    assert_eq!(served("other").await.1, "exact", "the same rules, the same answers");
}
