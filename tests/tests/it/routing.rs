//! `auto` and policies: who serves, why, and what the client is told.

use crate::stack::{Stack, endpoints, question};
use gateway::ConfigFile;
use router::{Artefact, Predictor};
use serde_json::json;
use std::collections::BTreeSet;
use trainer::router::{Outcome, OutcomeRow, Split, add_heads, prepare_prompts};

/// Two models with the prices and abilities of the simulator's catalogue page.
fn config() -> String {
    let priced = |model: &str, name: &str, ability: f64, input: f64, output: f64| {
        endpoints(model, &[name])
            .replace("[[models.endpoints]]", &format!("ability = {ability}\n[[models.endpoints]]"))
            .replace("input_usd_per_mtok = 1.0", &format!("input_usd_per_mtok = {input:.2}"))
            .replace("output_usd_per_mtok = 1.0", &format!("output_usd_per_mtok = {output:.2}"))
    };
    priced("acme/small", "sim/small", 0.98, 0.15, 0.60)
        + &priced("acme/large", "sim/large", 1.30, 2.50, 10.00)
        + "[policies.saver]\ncandidates = [\"acme/small\", \"acme/large\"]\nquality_min = 0.5\napplies_to = [\"acme/large\"]\n"
}

const MIXED: [&str; 20] = [
    "What are your opening hours?",
    "Is Oslo the capital of Norway?",
    "Does the app work offline?",
    "Who wrote Hamlet?",
    "How do I cancel my subscription?",
    "Does it support dark mode?",
    "Which planet is closest to the Sun?",
    "Translate 'good morning' into Spanish.",
    "Where can I find my invoice?",
    "What does the word 'lucid' mean?",
    "Find all integers $n$ such that $n^2 + 3n + 5$ is divisible by $121$.",
    "Let $f(x) = x^3 - 3x + 1$. Compute the sum of the squares of its roots, each raised to the power $4$.",
    "A tank fills in 3 hours, 4 hours and 6 hours by three pipes and drains in 8; how long with all four open?",
    "def f(a):\n    return [x ^ (x >> 1) for x in a if x % 3]\nassert f([1, 5, 9, 12, 14]) == ??",
    "Which of these is a Lewis acid in liquid HF?\nA. SbF5\nB. KF\nC. NaF\nD. HCl\nE. XeF2\nF. BrF3\nG. H2O\nH. NH3",
    "How many ways are there to tile a $2 \\times 10$ board with dominoes and $2 \\times 2$ squares?",
    "Evaluate $\\int_0^{\\pi} \\frac{x \\sin x}{1 + \\cos^2 x} \\, dx$.",
    "If 5 machines make 5 parts in 5 minutes, how many parts do 7 machines make in 21 minutes at 80% of the speed?",
    "Prove that the product of any 4 consecutive integers plus 1 is a perfect square.",
    "What is the remainder when $7^{2023} + 3^{2022}$ is divided by $100$?",
];

#[tokio::test]
async fn auto_picks_at_least_two_models_over_prompts_of_mixed_difficulty_and_says_why() {
    let stack = Stack::start(&config()).await;
    let mut picked = BTreeSet::new();
    for prompt in MIXED {
        let explained = stack.post("/v1/route", &question("auto", prompt)).await.json()["data"].clone();
        let candidates = explained["route"]["candidates"].as_array().expect("candidates").clone();
        assert_eq!(candidates.len(), 2, "{explained}");
        assert!(candidates.iter().all(|candidate| candidate["reason"].is_string() && candidate["quality"].is_number()));
        assert_eq!(explained["route"]["evidence"], "prior, unverified");
        picked.insert(candidates[0]["endpoint"].as_str().expect("an endpoint").to_owned());
    }
    assert_eq!(picked.len(), 2, "{picked:?}");
    assert_eq!(stack.simulator.arrived(), 0, "explaining calls no provider");
}

#[tokio::test]
async fn an_attached_policy_saves_and_says_who_served_and_can_be_declined() {
    let stack = Stack::start(&config()).await;
    let served = stack.chat(&question("acme/large", "Who wrote Hamlet?")).await;
    assert_eq!(served.header("x-sluice-model"), "acme/small");
    assert_eq!(served.header("x-sluice-policy"), "saver");
    assert!(served.header("x-sluice-saved-usd").parse::<f64>().expect("money") > 0.0);
    let mut body = question("acme/large", "Who wrote Hamlet?");
    body["sluice"] = json!({"policy": "as-asked"});
    assert_eq!(stack.chat(&body).await.header("x-sluice-model"), "acme/large");
}

#[tokio::test]
async fn a_caller_can_ask_for_more_quality_but_not_for_less() {
    let stack = Stack::start(&config()).await;
    let first = async |quality: f64| {
        let mut body = question("policy/saver", "Who wrote Hamlet?");
        body["sluice"] = json!({"quality_min": quality});
        let explained = stack.post("/v1/route", &body).await.json();
        explained["data"]["route"]["candidates"][0]["endpoint"].as_str().expect("an endpoint").to_owned()
    };
    assert_eq!(first(0.0).await, "acme/small@p0");
    assert_eq!(first(1.0).await, "acme/large@p0");
    let strict = question("auto", "Prove that the product of any 4 consecutive integers plus 1 is a perfect square.");
    let mut laxer = strict.clone();
    laxer["sluice"] = json!({"quality_min": 0.1});
    let serving = async |body| stack.post("/v1/route", &body).await.json()["data"]["route"]["candidates"][0].clone();
    assert_eq!(serving(strict).await, serving(laxer).await, "auto keeps 0.95 whatever the caller asks below it");
}

/// Scored answers of two models: the small one fails where something is to be proved.
fn labels(count: usize) -> Vec<OutcomeRow> {
    let row = |at: usize| {
        let is_hard = at.is_multiple_of(2);
        let prompt = match is_hard {
            true => format!("Prove that {at} is the sum of four squares."),
            false => format!("What is the capital of country number {at}?"),
        };
        let small = f64::from(u8::from(!is_hard));
        let outcomes = [("acme/small", small), ("acme/large", 1.0)];
        let outcomes = outcomes.map(|(model, score)| (model.to_owned(), Outcome(score, Some(20.0), None)));
        OutcomeRow {
            source: "own".into(),
            category: "own".into(),
            split: Split::Train,
            group: at.to_string(),
            prompt,
            outcomes: outcomes.into(),
        }
    };
    (0..count).map(row).collect()
}

#[tokio::test]
async fn labels_of_own_traffic_decide_and_the_trace_says_how_many() {
    let folder = tempfile::tempdir().expect("a folder");
    let onto = Predictor::shipped().expect("an artefact").artefact().clone();
    let prompts = prepare_prompts(labels(200), None, |_| ()).await.expect("prompts");
    let artefact = add_heads(&prompts, onto, || ());
    let path = folder.path().join("own.json");
    std::fs::write(&path, serde_json::to_string(&artefact).expect("JSON")).expect("written");
    let stack = Stack::start(&format!("{}[router]\nartefact = {path:?}\n", config().replace("0.5\n", "0.9\n"))).await;
    let first = async |prompt: &str| {
        let explained =
            stack.post("/v1/route", &question("policy/saver", prompt)).await.json()["data"]["route"].clone();
        assert_eq!(explained["evidence"], "labels", "{explained}");
        assert_eq!(explained["candidates"][0]["labels"], 200, "{explained}");
        explained["candidates"][0]["endpoint"].as_str().expect("an endpoint").to_owned()
    };
    assert_eq!(first("What is the capital of country number 999?").await, "acme/small@p0");
    assert_eq!(first("Prove that 999 is the sum of four squares.").await, "acme/large@p0");
}

#[tokio::test]
async fn labels_of_the_others_alone_are_not_held_against_a_prior() {
    let folder = tempfile::tempdir().expect("a folder");
    let onto = Predictor::shipped().expect("an artefact").artefact().clone();
    let mut rows = labels(200);
    for row in &mut rows {
        row.outcomes.remove("acme/large");
    }
    let prompts = prepare_prompts(rows, None, |_| ()).await.expect("prompts");
    let artefact = add_heads(&prompts, onto, || ());
    let path = folder.path().join("own.json");
    std::fs::write(&path, serde_json::to_string(&artefact).expect("JSON")).expect("written");
    let stack = Stack::start(&format!("{}[router]\nartefact = {path:?}\n", config())).await;
    let explained = stack.post("/v1/route", &question("policy/saver", "Who wrote Hamlet?")).await.json();
    assert_eq!(explained["data"]["route"]["evidence"], "prior, unverified", "{explained}");
}

#[tokio::test]
async fn a_promise_needs_labels_and_holds_back_what_they_do_not_cover() {
    let promising = config().replace("quality_min = 0.5", "quality_min = 0.95\nguarantee = true");
    let route = async |stack: &Stack, prompt: &str| {
        stack.post("/v1/route", &question("policy/saver", prompt)).await.json()["data"]["route"].clone()
    };
    let bare = Stack::start(&promising).await;
    let explained = route(&bare, "What is the capital of country number 999?").await;
    assert_eq!(explained["candidates"][0]["endpoint"], "acme/large@p0", "{explained}");
    let said = explained["guarantee"].as_str().expect("a statement");
    assert!(said.starts_with("nothing is promised: 0 of 400 labelled prompts"), "{said}");

    let folder = tempfile::tempdir().expect("a folder");
    let onto = Predictor::shipped().expect("an artefact").artefact().clone();
    let prompts = prepare_prompts(labels(600), None, |_| ()).await.expect("prompts");
    let path = folder.path().join("own.json");
    std::fs::write(&path, serde_json::to_string(&add_heads(&prompts, onto, || ())).expect("JSON")).expect("written");
    let stack = Stack::start(&format!("{promising}[router]\nartefact = {path:?}\n")).await;
    for (prompt, first) in [
        ("What is the capital of country number 999?", "acme/small@p0"),
        ("Prove that 999 is the sum of four squares.", "acme/large@p0"),
    ] {
        let explained = route(&stack, prompt).await;
        assert_eq!(explained["candidates"][0]["endpoint"], first, "{explained}");
        assert_eq!(explained["guarantee"], "≥ 95 % of the baseline's quality, 90 % confidence, n = 600");
    }
}

#[tokio::test]
async fn propensities_can_be_recomputed_from_the_traces_of_what_was_served() {
    let direct = "[providers.p1]\nkind = \"simulated\"\nbase_url = \"SIMULATOR\"\n";
    let stack = Stack::start(&(endpoints("acme/m", &["sim/small", "sim/large"]) + direct)).await;
    let (mut stated_for, mut firsts) = (BTreeSet::new(), 0.0);
    const ASKED: usize = 300;
    for at in 0..ASKED {
        let served = stack.chat(&question("acme/m", &format!("Who was number {at}?"))).await;
        let row = stack.generation(&served).await;
        let route = &row["sluice"]["trace"]["route"];
        let cost = |at: usize| route["candidates"][at]["expected_cost_usd"].as_f64().expect("a cost");
        let weights = [cost(0).powi(-2), cost(1).powi(-2)];
        let stated = route["propensity"].as_f64().expect("a number");
        assert!((stated - weights[0] / (weights[0] + weights[1])).abs() < 1e-9, "{route}");
        assert_eq!(row["sluice"]["endpoint"], route["candidates"][0]["endpoint"], "the first one served");
        stated_for.insert(format!("{stated:.3}"));
        firsts += f64::from(u8::from(stated > 0.5));
    }
    assert_eq!(stated_for, BTreeSet::from(["0.200".to_owned(), "0.800".to_owned()]), "prices of 1 and 2");
    let (share, deviation) = (firsts / ASKED as f64, (0.8 * 0.2 / ASKED as f64).sqrt());
    assert!((share - 0.8).abs() < 5.0 * deviation, "{share} of the requests were where 0.8 of them should be");
}

#[tokio::test]
async fn a_candidate_that_another_makes_superfluous_is_named_with_what_shows_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut rows = labels(200);
    for row in &mut rows {
        let score = row.outcomes["acme/small"].0;
        row.outcomes.insert("acme/large".to_owned(), Outcome(score * 0.5, Some(20.0), None));
    }
    let onto = Predictor::shipped().expect("an artefact").artefact().clone();
    let prompts = prepare_prompts(rows, None, |_| ()).await.expect("prompts");
    let path = folder.path().join("own.json");
    std::fs::write(&path, serde_json::to_string(&add_heads(&prompts, onto, || ())).expect("JSON")).expect("written");
    let stack = Stack::start(&config()).await;
    let notices = stack.checked(&format!("{}[router]\nartefact = {path:?}\n", config())).notices;
    let said = notices.iter().find(|notice| notice.contains("can be left out")).expect("it is named");
    assert!(said.contains("policy `saver`: `acme/large` scores 0.250 and `acme/small` 0.500 at 6 %"), "{said}");
    assert!(said.contains("n = 200"), "{said}");
    assert!(!stack.checked(&config()).notices.iter().any(|notice| notice.contains("can be left out")), "no labels");
}

#[tokio::test]
async fn what_was_learned_with_another_embedder_promises_nothing() {
    let promising = config().replace("quality_min = 0.5", "quality_min = 0.95\nguarantee = true");
    let folder = tempfile::tempdir().expect("a folder");
    let embedder = embedding::Embedder::start("all-MiniLM-L6-v2").expect("an embedder");
    let prompts = prepare_prompts(labels(420), Some(&embedder), |_| ()).await.expect("prompts");
    for (identity, first) in [(embedder.identity(), "acme/small@p0"), ("another model", "acme/large@p0")] {
        let shipped = Predictor::shipped().expect("an artefact").artefact().clone();
        let onto = Artefact { embedder: Some(identity.to_owned()), ..shipped };
        let path = folder.path().join("own.json");
        let artefact = serde_json::to_string(&add_heads(&prompts, onto, || ())).expect("JSON");
        std::fs::write(&path, artefact).expect("written");
        let stack = Stack::start(&format!("{promising}[router]\nartefact = {path:?}\n")).await;
        let asked = question("policy/saver", "What is the capital of country number 999?");
        let explained = stack.post("/v1/route", &asked).await.json()["data"]["route"].clone();
        assert_eq!(explained["candidates"][0]["endpoint"], first, "{identity}: {explained}");
    }
}

#[tokio::test]
async fn an_artefact_that_cannot_be_used_is_named_at_the_start() {
    let stack = Stack::start(&config()).await;
    for (text, problem) in [(None, "cannot read"), (Some("{}"), "not readable"), (Some("[]"), "not readable")] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("own.json");
        if let Some(text) = text {
            std::fs::write(&path, text).expect("written");
        }
        let found = ConfigFile::parse("test", format!("[router]\nartefact = {path:?}\n")).expect("parses");
        let said = found.check(|_| None, Some(&stack.url(""))).expect_err("refused").to_string();
        assert!(said.contains("router.artefact") && said.contains(problem), "{said}");
    }
}
