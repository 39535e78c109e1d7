//! Cascades: what is tried on a cheaper model first, checked before anybody sees it, and what that costs.

use crate::stack::{Stack, endpoints, question, streamed};
use protocol::Reply;
use router::{Check, Schema};
use serde_json::{Value, json};
use simulator::{Answers, KnownAnswer, Row, SimulatedModel, Simulator};
use tests::eventually;
use tokio::net::TcpListener;

const APPLES: &str = "I had 3 apples, ate 1 and bought 5. How many are there?";

/// A model that costs a tenth, a dear one, and a policy that asks the dear one unless a check passes.
fn config(cascade: &str) -> String {
    let models = endpoints("acme/small", &["sim/small"]).replace("usd_per_mtok = 1.0", "usd_per_mtok = 0.1")
        + &endpoints("acme/large", &["sim/large"]);
    format!(
        "{models}[policies.careful]\ncandidates = [\"acme/small\", \"acme/large\"]\nbaseline = \"acme/large\"\n\
         quality_min = 1.0\ncascade = \"{cascade}\"\n[cache.semantic]\nenabled = false\n"
    )
}

async fn stack(cascade: &str, rows: &[(&str, &str, &str)]) -> Stack {
    stack_with(cascade, rows, "").await
}

async fn stack_with(cascade: &str, rows: &[(&str, &str, &str)], more: &str) -> Stack {
    let row = |(prompt, small, large): &(&str, &str, &str)| Row {
        prompt: (*prompt).to_owned(),
        class: 0,
        kind: String::new(),
        answers: [("sim/small", small), ("sim/large", large)]
            .map(|(model, text)| {
                (model.to_owned(), KnownAnswer { text: (*text).to_owned(), score: 1.0, output_tokens: 20 })
            })
            .into(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let models = ["sim/small", "sim/large"].map(SimulatedModel::new).to_vec();
    let simulator = Simulator::start(listener, models, Answers::new(rows.iter().map(row))).expect("a simulator");
    Stack::with(simulator, &(config(cascade) + more)).await
}

fn attempts(row: &Value) -> Vec<(String, String)> {
    let attempts = row["sluice"]["attempts"].as_array().expect("attempts").iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    attempts.map(|attempt| (text(&attempt["endpoint"]), text(&attempt["outcome"]))).collect()
}

fn tried(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(endpoint, outcome)| ((*endpoint).to_owned(), (*outcome).to_owned())).collect()
}

#[tokio::test]
async fn an_answer_that_passes_saves_and_one_that_does_not_is_never_seen_and_costs_its_reader_nothing() {
    let rows = [("Give me {}", "{\"a\": 1}", "{\"a\": 2}"), ("Give me more", "Sure! Here it is.", "{\"a\": 3}")];
    let stack = stack("form", &rows).await;
    for stream in [false, true] {
        let ask = async |prompt: &str| {
            let mut body = question("policy/careful", prompt);
            body["response_format"] = json!({"type": "json_object"});
            body["sluice"] = json!({"cache": {"mode": "off"}});
            stack.chat(&if stream { streamed(body) } else { body }).await
        };
        let said = |answered: &crate::stack::Answered| match stream {
            true => answered.streamed_text(),
            false => answered.json()["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned(),
        };
        let passed = ask("Give me {}").await;
        assert_eq!(said(&passed), "{\"a\": 1}", "{}", passed.text);
        let row = stack.generation(&passed).await;
        assert_eq!(row["sluice"]["trace"]["route"]["trial"]["check"], "object", "{row}");
        assert_eq!(attempts(&row), tried(&[("acme/small@p0", "answered")]));

        let failed = ask("Give me more").await;
        assert_eq!(said(&failed), "{\"a\": 3}", "{}", failed.text);
        assert!(!failed.text.contains("Sure!"));
        let row = stack.generation(&failed).await;
        assert_eq!(attempts(&row), tried(&[("acme/small@p0", "unverified"), ("acme/large@p0", "answered")]));
        let (upstream, charged) = (row["upstream_inference_cost"].as_f64(), row["total_cost"].as_f64());
        let wasted = row["sluice"]["attempts"][0]["wasted_usd"].as_f64().expect("what it cost");
        assert!(wasted > 0.0);
        assert!((upstream.expect("a cost") - charged.expect("a cost") - wasted).abs() < 1e-12, "{row}");
    }
}

#[tokio::test]
async fn schemas_and_calls_of_tools_are_checked() {
    let rows = [
        ("A person", "{\"name\": \"Ada\"}", "{\"name\": \"Ada\", \"age\": 36}"),
        ("Another", "{\"name\": \"Ada\", \"age\": 36}", "no"),
    ];
    let stack = stack("form", &rows).await;
    let schema = json!({"type": "object", "required": ["name", "age"], "properties": {"age": {"type": "integer"}}});
    // The simulator answers schemas with an object of its own, so the schema is one that it fits, or not.
    for (required, model) in [(json!(["simulated"]), "acme/small"), (json!(["simulated", "age"]), "acme/large")] {
        let mut body = question("policy/careful", "A person");
        let mut schema = schema.clone();
        schema["required"] = required;
        body["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "person", "schema": schema}});
        assert_eq!(stack.chat(&body).await.header("x-sluice-model"), model);
    }
    // It calls the first tool with {"city": "Paris"}.
    for (required, model) in [(json!(["city"]), "acme/small"), (json!(["city", "day"]), "acme/large")] {
        let mut body = question("policy/careful", "How is the weather?");
        let parameters = json!({"type": "object", "required": required, "properties": {"city": {"type": "string"}}});
        body["tools"] = json!([{"type": "function", "function": {"name": "weather", "parameters": parameters}}]);
        body["tool_choice"] = json!("required");
        assert_eq!(stack.chat(&body).await.header("x-sluice-model"), model);
        body["tool_choice"] = json!("auto");
        let free = stack.chat(&body).await;
        assert_eq!(free.header("x-sluice-model"), "acme/large", "whether to call a tool at all is not checked");
    }
}

#[tokio::test]
async fn a_number_is_asked_for_twice_and_both_must_agree() {
    let rows = [(APPLES, "3 - 1 = 2, 2 + 5 = 7. There are 7.", "There are seven (7)."), ("Hi", "Hello.", "Hello!")];
    let stack = stack("agreement", &rows).await;
    let agreed = stack.chat(&question("policy/careful", APPLES)).await;
    let row = stack.generation(&agreed).await;
    let twice = [("acme/small@p0", "unverified"), ("acme/small@p0", "answered")];
    assert_eq!(attempts(&row), tried(&twice), "the first sample only waits for the second: {row}");
    assert_eq!(agreed.header("x-sluice-model"), "acme/small");
    let other = stack.chat(&question("policy/careful", "Hi")).await;
    assert_eq!(other.header("x-sluice-model"), "acme/large", "nothing to check, nothing to try");
    let mut strict = question("policy/careful", APPLES);
    strict["sluice"] = json!({"quality_min": 1.0, "cache": {"mode": "off"}});
    assert_eq!(stack.chat(&strict).await.header("x-sluice-model"), "acme/large", "who asks for more gets no trial");
}

#[tokio::test]
async fn a_dead_or_refusing_model_on_trial_does_no_harm() {
    let rows = [("Give me {}", "I'm sorry, but I can't help with that.", "{}")];
    let stack = stack("form", &rows).await;
    let mut body = question("policy/careful", "Give me {}");
    body["response_format"] = json!({"type": "json_object"});
    body["sluice"] = json!({"cache": {"mode": "off"}});
    assert_eq!(stack.chat(&body).await.header("x-sluice-model"), "acme/large");
    for fault in [simulator::Fault::Overloaded, simulator::Fault::CutAfter, simulator::Fault::Refused] {
        stack.simulator.set_rule("sim/small", Some(simulator::Rule::always(fault)));
        for body in [body.clone(), streamed(body.clone())] {
            let answered = stack.chat(&body).await;
            assert_eq!((answered.status, answered.header("x-sluice-model")), (200, "acme/large"), "{}", answered.text);
        }
    }
}

#[tokio::test]
async fn checks_that_let_too_many_wrong_answers_pass_are_not_trusted_any_more() {
    let prompts: Vec<String> = (0..40).map(|at| format!("Give me number {at} as JSON")).collect();
    let rows: Vec<(&str, &str, &str)> =
        prompts.iter().map(|prompt| (prompt.as_str(), "{\"a\": 1}", "{\"a\": 2}")).collect();
    let learning = "[content]\ntenants = [\"default\"]\n[router.shadow]\nshare = 1.0\n";
    let stack = stack_with("form", &rows, learning).await;
    let mut served = Vec::new();
    for (at, prompt) in prompts.iter().enumerate() {
        let mut body = question("policy/careful", prompt);
        body["response_format"] = json!({"type": "json_object"});
        served.push(stack.chat(&body).await.header("x-sluice-model").to_owned());
        // Each is compared with the baseline before the next is asked.
        let asked = || stack.simulator.counters().by_model.get("sim/large").copied().unwrap_or(0);
        eventually("it is compared", async || asked() > at as u64).await;
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(served[..20].iter().all(|model| model == "acme/small"), "{served:?}");
    assert!(served[22..].iter().all(|model| model == "acme/large"), "{served:?}");
}

/// A reply that was written for this test, and what a reader makes of it.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Labelled {
    check: String,
    /// It is what was asked for; of two samples, that they come to the same end.
    right: bool,
    replies: Vec<String>,
    finish: String,
    #[serde(default)]
    schema: Value,
    #[serde(default)]
    tools: Vec<Value>,
    #[serde(default)]
    calls: Vec<Value>,
}

impl Labelled {
    fn check(&self) -> Check {
        let parameters = |tool: &Value| match &tool["function"]["parameters"] {
            Value::Null => json!(true),
            schema => schema.clone(),
        };
        let name = |tool: &Value| tool["function"]["name"].as_str().unwrap_or_default().to_owned();
        match self.check.as_str() {
            "schema" => Check::Schema(Schema::of(&self.schema).expect("a schema")),
            "calls" => Check::Calls(
                self.tools.iter().map(|tool| (name(tool), Schema::of(&parameters(tool)).expect("a schema"))).collect(),
            ),
            "number" => Check::Number,
            "choice" => Check::Choice,
            other => panic!("{other}"),
        }
    }

    fn passes(&self) -> bool {
        let check = self.check();
        let reply = |text: &String| -> Reply {
            let message = json!({"role": "assistant", "content": text, "tool_calls": self.calls});
            serde_json::from_value(json!({"choices": [{"message": message, "finish_reason": self.finish}]}))
                .expect("a reply")
        };
        let ends: Vec<Option<String>> = self.replies.iter().map(|text| check.end_of(text)).collect();
        self.replies.iter().all(|text| check.passes(&reply(text)).is_ok())
            && ends.windows(2).all(|two| two[0] == two[1])
    }
}

#[test]
fn checks_err_seldom_on_replies_that_were_labelled_by_reading() {
    let text = include_str!("../../data/checked_replies.jsonl");
    let labelled: Vec<Labelled> = text.lines().map(|line| serde_json::from_str(line).expect("a row")).collect();
    assert!(labelled.len() >= 300, "{}", labelled.len());
    println!("{:<8} {:>4} {:>14} {:>14}", "check", "n", "wrongly passed", "wrongly failed");
    let mut errors = [0, 0];
    for kind in ["schema", "calls", "number", "choice"] {
        let of_kind: Vec<&Labelled> = labelled.iter().filter(|row| row.check == kind).collect();
        let wrong = |right: bool| of_kind.iter().filter(|row| row.right == right && row.passes() != right).count();
        let (passed, failed) = (wrong(false), wrong(true));
        println!("{kind:<8} {:>4} {passed:>14} {failed:>14}", of_kind.len());
        errors = [errors[0] + passed, errors[1] + failed];
        assert!((passed + failed) as f64 <= 0.15 * of_kind.len() as f64, "{kind}: {passed} and {failed}");
    }
    let total = labelled.len() as f64;
    println!(
        "all: {:.1} % wrongly passed, {:.1} % wrongly failed",
        100.0 * errors[0] as f64 / total,
        100.0 * errors[1] as f64 / total
    );
}
