//! What the router may learn from: kept contents, scores of clients, and comparisons in the shadow.

use crate::stack::{ADMIN, Answered, Stack, endpoints, question, streamed};
use database::{Content, ContentFile, Score, content_path};
use serde_json::{Value, json};
use simulator::{Answers, KnownAnswer, Row, SimulatedModel, Simulator};
use std::collections::BTreeSet;
use std::time::Duration;
use tests::eventually;
use tokio::net::TcpListener;

const KEPT: &str = "[content]\ntenants = [\"default\"]\n";

/// A cheap model, a dear one and a judge, and a policy that sends everything to the cheap one.
fn config(more: &str) -> String {
    let models = endpoints("acme/small", &["sim/small"])
        + &endpoints("acme/large", &["sim/large"]).replace("input_usd_per_mtok = 1.0", "input_usd_per_mtok = 9.0")
        + &endpoints("acme/judge", &["sim/judge"]);
    let policy = "[policies.saver]\ncandidates = [\"acme/small\", \"acme/large\"]\nbaseline = \"acme/large\"\n\
                  quality_min = 0.1\n";
    format!("{models}{policy}{more}")
}

fn row(prompt: &str, answers: &[(&str, &str)]) -> Row {
    let known = |(model, text): &(&str, &str)| {
        ((*model).to_owned(), KnownAnswer { text: (*text).to_owned(), score: 1.0, output_tokens: 9 })
    };
    Row { prompt: prompt.to_owned(), class: 0, kind: String::new(), answers: answers.iter().map(known).collect() }
}

async fn simulator(rows: Vec<Row>) -> Simulator {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let models = ["sim/small", "sim/large", "sim/judge"].map(SimulatedModel::new).to_vec();
    Simulator::start(listener, models, Answers::new(rows)).expect("a simulator")
}

/// What a test reads in the content file while the gateway runs.
struct Kept(ContentFile);

impl Kept {
    async fn of(stack: &Stack) -> Self {
        Self(ContentFile::open(&content_path(&stack.database()), None).await.expect("a file"))
    }

    async fn contents(&self) -> Vec<Content> {
        self.0.page(None, None, 1_000).await.expect("contents")
    }

    async fn scores(&self, answered: &Answered) -> Vec<Score> {
        self.0.scores("default", answered.header("x-generation-id")).await.expect("scores")
    }

    /// Waits for so many contents.
    async fn until(&self, count: usize) -> Vec<Content> {
        eventually(&format!("{count} contents"), async || self.contents().await.len() >= count).await;
        self.contents().await
    }
}

#[tokio::test]
async fn contents_are_kept_of_tenants_who_agreed_and_of_no_request_that_refuses() {
    let stack = Stack::with(simulator(vec![row("Who?", &[("sim/small", "Nobody.")])]).await, &config(KEPT)).await;
    let kept = Kept::of(&stack).await;
    let first = stack.chat(&streamed(question("acme/small", "Who?"))).await;
    let found = kept.until(1).await;
    let [content] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((content.question.as_str(), content.answer.as_str()), ("Who?", "Nobody."));
    assert_eq!((content.model.as_str(), content.output_tokens), ("acme/small", 9));
    let id = first.header("x-generation-id");
    let shown = stack.get(&format!("/v1/generation/content?id={id}")).await.json()["data"].clone();
    assert_eq!(shown["input"]["messages"][0]["content"], "Who?", "{shown}");
    assert_eq!(shown["output"]["completion"], "Nobody.");

    stack.chat(&question("acme/small", "Who?")).await; // an exact hit adds nothing
    for (at, demand) in [json!({"zdr": true}), json!({"data_collection": "deny"})].into_iter().enumerate() {
        let mut refusing = question("acme/small", &format!("A secret {at}"));
        refusing["provider"] = demand;
        stack.chat(&refusing).await;
    }
    let tenant = stack.send(stack.post_as(ADMIN, "/admin/tenants", &json!({"id": "other"}))).await;
    assert_eq!(tenant.status, 201, "{}", tenant.text);
    let wanted = json!({"name": "k", "workspace_id": "other"});
    let made = stack.send(stack.post_as(ADMIN, "/v1/keys", &wanted)).await;
    let other = made.json()["key"].as_str().expect("a key").to_owned();
    stack.send(stack.post_as(&other, "/v1/chat/completions", &question("acme/small", "Of another"))).await;
    let theirs = stack.client().get(stack.url(&format!("/v1/generation/content?id={id}"))).bearer_auth(&other);
    assert_eq!(stack.send(theirs).await.status, 404);
    let last = stack.chat(&question("acme/small", "The last")).await;
    let questions: Vec<String> = kept.until(2).await.into_iter().map(|content| content.question).collect();
    assert_eq!(questions, ["Who?", "The last"], "{}", last.text);
}

#[tokio::test]
async fn scores_come_one_by_one_or_in_batches_and_belong_to_the_answer_that_was_given() {
    let stack = Stack::with(simulator(vec![]).await, &config(KEPT)).await;
    let kept = Kept::of(&stack).await;
    let first = stack.chat(&question("acme/small", "One")).await;
    let again = stack.chat(&question("acme/small", "One")).await;
    assert_eq!(again.header("x-sluice-cache"), "exact");
    let of =
        |answered: &Answered, score: f64| json!({"generation_id": answered.header("x-generation-id"), "score": score});
    let batch = json!({"scores": [of(&first, 0.25), {"generation_id": "gen-none", "score": 1.0}]});
    let taken = stack.post("/v1/generation/scores", &batch).await.json()["data"].clone();
    assert_eq!(taken, json!({"accepted": 1, "unknown": ["gen-none"]}));
    assert_eq!(kept.scores(&first).await[0].score, 0.25);
    let body = json!({"generation_id": again.header("x-generation-id"), "sluice": {"score": 1.0}});
    let said = stack.post("/v1/generation/feedback", &body).await.json();
    assert_eq!(said["sluice"]["router"], "kept", "{said}");
    let scores = kept.scores(&first).await;
    assert_eq!((scores.len(), scores[0].score, scores[0].rater.as_str()), (1, 1.0, "client"), "the latest counts");
    let body = json!({"generation_id": first.header("x-generation-id"), "category": "latency"});
    assert!(stack.post("/v1/generation/feedback", &body).await.json()["sluice"]["router"] != "kept");

    for (body, field) in [
        (json!({"scores": []}), "scores"),
        (json!({"scores": vec![of(&first, 0.5); 1_001]}), "scores"),
        (json!({"scores": [of(&first, 0.5), of(&first, 1.5)]}), "scores[1].score"),
        (json!({"scores": [{"generation_id": "x", "score": "good"}]}), "body"),
    ] {
        let refused = stack.post("/v1/generation/scores", &body).await;
        assert_eq!(refused.status, 400, "{}", refused.text);
        assert!(refused.json()["error"]["message"].as_str().expect("a message").contains(field), "{}", refused.text);
    }
    assert_eq!(kept.scores(&first).await[0].score, 1.0, "what is refused changes nothing");
}

/// What the judge is sent, for each order of two answers, and what it says.
fn verdicts(question: &str, small: (&str, u32), large: (&str, u32)) -> Vec<Row> {
    let shown = |answers: [&str; 2]| {
        json!({"conversation": [{"role": "user", "content": question}], "answers": answers}).to_string()
    };
    let says = |scores: [u32; 2]| json!({ "scores": scores }).to_string();
    let orders = [(small, large), (large, small)];
    orders.map(|(a, b)| row(&shown([a.0, b.0]), &[("sim/judge", &says([a.1, b.1]))])).to_vec()
}

const ASKED: &str = "What is the boiling point of water?";

async fn compared(more: &str) -> (Stack, Kept, Answered) {
    let mut rows = verdicts(ASKED, ("Ninety.", 2), ("A hundred degrees.", 9));
    rows.push(row(ASKED, &[("sim/small", "Ninety."), ("sim/large", "A hundred degrees.")]));
    let stack = Stack::with(simulator(rows).await, &config(&format!("{KEPT}{more}"))).await;
    let kept = Kept::of(&stack).await;
    let answered = stack.chat(&question("policy/saver", ASKED)).await;
    assert_eq!(answered.header("x-sluice-model"), "acme/small", "{}", answered.text);
    (stack, kept, answered)
}

#[tokio::test]
async fn a_judge_scores_both_answers_and_nobodys_key_pays() {
    let (stack, kept, answered) = compared("[router.shadow]\nshare = 1.0\njudge = \"acme/judge\"\n").await;
    let contents = kept.until(2).await;
    eventually("the judge is asked", async || stack.simulator.counters().by_model.get("sim/judge") == Some(&1)).await;
    eventually("it is scored", async || !kept.scores(&answered).await.is_empty()).await;
    let scores = kept.scores(&answered).await;
    assert_eq!(scores.iter().map(|score| (score.rater.as_str(), score.score)).collect::<Vec<_>>(), [("judge", 0.2)]);
    let shadow = contents.iter().find(|content| !content.source_id.is_empty()).expect("the other answer");
    assert_eq!((shadow.model.as_str(), shadow.source_id.as_str()), ("acme/large", answered.header("x-generation-id")));
    let of_shadow = kept.0.scores("default", &shadow.generation_id).await.expect("scores");
    assert_eq!(of_shadow[0].score, 0.9);
    let row = stack.generation(&answered).await;
    assert_eq!(row["sluice"]["trace"]["compared"], json!({"chance": 1.0, "models": ["acme/large"]}));
    let key = stack.get("/v1/key").await.json()["data"]["usage"].as_f64().expect("usage");
    assert_eq!(key, row["total_cost"].as_f64().expect("a cost"), "only its own answer is paid by the key");
    assert_eq!(kept.contents().await.len(), 2, "what the judge was told is not kept");
    // What is said of the other's answer is not said of the client's: that one stays stored.
    let batch = json!({"scores": [{"generation_id": shadow.generation_id, "score": 0.0}]});
    assert_eq!(stack.post("/v1/generation/scores", &batch).await.json()["data"]["accepted"], 1);
    let again = stack.chat(&question("policy/saver", ASKED)).await;
    assert_eq!(again.header("x-sluice-cache"), "exact");
}

#[tokio::test]
async fn without_a_judge_an_answer_is_right_that_says_what_the_baseline_says() {
    let (_stack, kept, answered) = compared("[router.shadow]\nshare = 1.0\n").await;
    eventually("it is scored", async || !kept.scores(&answered).await.is_empty()).await;
    let scores = kept.scores(&answered).await;
    assert_eq!(scores.iter().map(|s| (s.rater.as_str(), s.score)).collect::<Vec<_>>(), [("agreement", 0.0)]);
}

#[tokio::test]
async fn comparisons_stop_at_the_days_budget_also_after_a_restart() {
    // One comparison is bounded by some 500 tokens of answer at $9 and $1 a million.
    let (mut stack, kept, _) = compared("[router.shadow]\nshare = 1.0\nusd_per_day_max = 0.0017\n").await;
    kept.until(2).await;
    for at in 0..40 {
        stack.chat(&question("policy/saver", &format!("Another {at}"))).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let shadows = |contents: &[Content]| contents.iter().filter(|content| !content.source_id.is_empty()).count();
    let before = shadows(&kept.until(41).await);
    assert!((1..40).contains(&before), "{before} of 41 were compared");
    stack.restart().await;
    for at in 0..5 {
        stack.chat(&question("policy/saver", &format!("Yet another {at}"))).await;
    }
    let spent: i64 =
        kept.until(46 + before).await.iter().filter(|c| !c.source_id.is_empty()).map(|c| c.cost_nano).sum();
    assert!(spent <= 1_700_000, "{spent}");
}

/// Demands that a request can make of who sees it, each with the providers that it leaves.
fn demands() -> Vec<(Value, BTreeSet<usize>)> {
    let mut all = Vec::new();
    for region in [None, Some("eu"), Some("us")] {
        for only in [None, Some(vec![0, 1]), Some(vec![1, 2])] {
            for ignore in [None, Some(0), Some(2)] {
                let (mut demand, mut left) = (json!({}), BTreeSet::from([0, 1, 2]));
                if let Some(region) = region {
                    demand["region"] = json!(region);
                    let places = ["eu", "us", ""]; // of the third nothing is known
                    left.retain(|at| places[*at] == region);
                }
                if let Some(only) = &only {
                    demand["only"] = json!(only.iter().map(|at| format!("p{at}")).collect::<Vec<_>>());
                    left.retain(|at| only.contains(at));
                }
                if let Some(ignored) = ignore {
                    demand["ignore"] = json!([format!("p{ignored}")]);
                    left.retain(|at| *at != ignored);
                }
                for keeping in [json!(null), json!({"zdr": true}), json!({"data_collection": "deny"})] {
                    let (mut demand, mut left) = (demand.clone(), left.clone());
                    if let Some((name, value)) = keeping.as_object().and_then(|keeping| keeping.iter().next()) {
                        demand[name] = value.clone();
                        left.retain(|at| *at == 0); // the only one that is known to keep nothing
                    }
                    all.push((demand, left));
                }
            }
        }
    }
    all
}

#[tokio::test]
async fn comparisons_and_judges_see_nothing_that_a_demand_keeps_from_their_providers() {
    let facts = ["region = \"eu\"\nstores_prompts = false\ntrains_on_prompts = false\n", "region = \"us\"\n", ""];
    let mut config = String::new();
    for (at, facts) in facts.iter().enumerate() {
        config += &format!(
            "[providers.p{at}]\nkind = \"simulated\"\nbase_url = \"SIMULATOR\"\n{facts}\n[[models]]\nid = \"acme/m{at}\"\n\
             [[models.endpoints]]\nprovider = \"p{at}\"\nname = \"sim/m{at}\"\ninput_usd_per_mtok = 1.0\n\
             output_usd_per_mtok = 1.0\ncontext_tokens = 100000\noutput_tokens_max = 1000\n"
        );
    }
    // A policy of all three, and a judge that is at each provider in turn.
    for judge in 0..3 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let models = ["sim/m0", "sim/m1", "sim/m2"].map(SimulatedModel::new).to_vec();
        let simulator = Simulator::start(listener, models, Answers::default()).expect("a simulator");
        let table = format!(
            "{config}[policies.all]\ncandidates = [\"acme/m0\", \"acme/m1\", \"acme/m2\"]\nquality_min = 0.1\n{KEPT}\
             [router.shadow]\nshare = 1.0\nusd_per_day_max = 1000.0\njudge = \"acme/m{judge}\"\n"
        );
        let stack = Stack::with(simulator, &table).await;
        let mark = |at: usize| format!("mark {judge}.{at}.");
        for (at, (demand, left)) in demands().into_iter().enumerate() {
            let mut body = question("policy/all", &mark(at));
            body["provider"] = demand.clone();
            let answered = stack.chat(&body).await;
            assert_eq!(answered.status == 200, !left.is_empty(), "{demand}: {}", answered.text);
        }
        let arrived = || stack.simulator.counters().arrived;
        let mut before = 0;
        while before < arrived() || stack.simulator.counters().open > 0 {
            before = arrived();
            tokio::time::sleep(Duration::from_millis(300)).await; // until nothing comes any more
        }
        let (mut compared, mut judged) = (0, 0);
        for (at, (demand, left)) in demands().into_iter().enumerate() {
            let all = stack.simulator.seen();
            let of_this: Vec<_> = all.iter().filter(|seen| seen.body.to_string().contains(&mark(at))).collect();
            let provider = |model: &str| model.trim_start_matches("sim/m").parse::<usize>().expect("a number");
            let who: BTreeSet<usize> = of_this.iter().map(|seen| provider(&seen.model)).collect();
            assert!(who.is_subset(&left), "{demand} leaves {left:?}, and {who:?} saw it");
            let may_compare = demand.get("zdr").is_none() && demand.get("data_collection").is_none();
            compared += usize::from(may_compare && who.len() > 1);
            judged += usize::from(of_this.iter().any(|seen| seen.body.to_string().contains("answers")));
            assert!(may_compare || of_this.len() <= 1, "{demand}: nothing is asked again");
        }
        assert!(compared >= 4 && judged >= 2, "{compared} compared, {judged} judged by p{judge}");
    }
}
