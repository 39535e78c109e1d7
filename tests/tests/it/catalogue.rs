//! Prices and models that change under load, and the command that changes them.

use crate::stack::{Stack, question, simulator, streamed};
use catalog::{Change, Document, Listing};
use gateway::config::Config;
use serde_json::{Value, json};
use simulator::SimulatedModel;
use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const CONFIG: &str = "[providers.groq]\nkind = \"simulated\"\nbase_url = \"SIMULATOR\"\n\
                      [providers.fireworks-ai]\nkind = \"simulated\"\nbase_url = \"SIMULATOR\"\n\
                      [cache.exact]\nenabled = false\n[cache.semantic]\nenabled = false\n";

/// Models of the two providers at these output prices, in models.dev's shape.
fn document(groq: &[(&str, f64)], fireworks: &[(&str, f64)]) -> Value {
    let models = |rows: &[(&str, f64)]| {
        let model = |(name, price): &(&str, f64)| {
            let model = json!({"name": name, "release_date": "2026-01-01", "cost": {"input": price, "output": price},
                "limit": {"context": 10_000, "output": 1_000}, "modalities": {"input": ["text"], "output": ["text"]}});
            ((*name).to_owned(), model)
        };
        Value::Object(rows.iter().map(model).collect())
    };
    json!({"groq": {"models": models(groq)}, "fireworks-ai": {"models": models(fireworks)}})
}

fn listing(before: &Listing, document: &Value) -> Arc<Listing> {
    let document = Document::read("test", document.to_string().as_bytes(), None).expect("a document");
    Arc::new(before.merged(&document, "2026-11-21").expect("merges").0)
}

fn config(stack: &Stack, listing: &Arc<Listing>) -> Config {
    stack.checked_with(CONFIG, Some(Arc::clone(listing)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_price_halved_and_a_model_withdrawn_under_load_fail_no_request() {
    let names = ["openai/gpt-oss-120b", "accounts/fireworks/models/gpt-oss-120b", "new-model", "old-model"];
    let models = names.iter().map(|name| SimulatedModel::new(*name)).collect();
    let stack = Arc::new(Stack::with(simulator(models).await, CONFIG).await);
    let shipped = Listing::shipped().expect("reads");
    let empty = Listing::default().completed(&shipped);
    let of = |groq: f64, fireworks: f64, more: &[(&str, f64)]| {
        let mut at_groq = vec![("openai/gpt-oss-120b", groq)];
        at_groq.extend_from_slice(more);
        document(&at_groq, &[("accounts/fireworks/models/gpt-oss-120b", fireworks)])
    };
    // The model's canonical name is known from the shipped list.
    let base = Listing { models: shipped.models.clone(), ..empty };
    let first = listing(&base, &of(1.0, 2.0, &[("old-model", 0.5)]));
    stack.gateway.as_ref().expect("runs").reload(config(&stack, &first));
    let stop = Arc::new(AtomicBool::new(false));
    let mut callers = Vec::new();
    for caller in 0..8 {
        let (stack, stop) = (Arc::clone(&stack), Arc::clone(&stop));
        callers.push(tokio::spawn(async move {
            let mut statuses = Vec::new();
            while !stop.load(Ordering::Acquire) {
                let model = if caller % 2 == 0 { "openai/gpt-oss-120b:floor" } else { "auto" };
                let body = question(model, &format!("{caller} {}", statuses.len()));
                let answered = stack.chat(&if caller % 4 < 2 { streamed(body) } else { body }).await;
                statuses.push((answered.status, answered.text.contains("\"error\"")));
            }
            statuses
        }));
    }
    let served_by = |model: &'static str| {
        let stack = Arc::clone(&stack);
        async move {
            let answered = stack.chat(&question(model, &format!("{:?}", Instant::now()))).await;
            (answered.header("x-sluice-provider").to_owned(), answered.header("x-sluice-model").to_owned())
        }
    };
    assert_eq!(served_by("openai/gpt-oss-120b:floor").await.0, "groq");
    // Fireworks halves its price twice over, and groq's old model is withdrawn.
    let second = listing(&first, &of(1.0, 0.5, &[]));
    let (swapped, begun) = (config(&stack, &second), Instant::now());
    stack.gateway.as_ref().expect("runs").reload(swapped);
    while served_by("openai/gpt-oss-120b:floor").await.0 != "fireworks-ai" {
        assert!(begun.elapsed() < Duration::from_secs(30), ":floor did not move");
    }
    assert_ne!(served_by("auto").await.1, "groq/old-model");
    // And groq stops serving the model before any list says so.
    stack.simulator.set_rule("openai/gpt-oss-120b", Some(simulator::Rule::always(simulator::Fault::Withdrawn)));
    let third = listing(&second, &of(0.1, 0.5, &[]));
    stack.gateway.as_ref().expect("runs").reload(config(&stack, &third));
    for _ in 0..20 {
        assert_eq!(served_by("openai/gpt-oss-120b:floor").await.0, "fireworks-ai", "it goes where the model still is");
    }
    stop.store(true, Ordering::Release);
    let mut asked = 0;
    for caller in callers {
        let statuses = caller.await.expect("no panic");
        asked += statuses.len();
        assert!(statuses.iter().all(|(status, failed)| *status == 200 && !failed), "{statuses:?}");
    }
    assert!(asked > 100, "{asked} requests are no load");
}

#[test]
fn the_commands_merge_show_and_keep_what_changed() {
    let binary = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug/sluice");
    let built = Command::new(env!("CARGO")).args(["build", "--package", "sluice"]).status().expect("cargo runs");
    assert!(built.success());
    let folder = tempfile::tempdir().expect("a folder");
    let run = |arguments: &[&str]| {
        let done = Command::new(&binary).args(arguments).current_dir(folder.path()).output().expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        (done.status.code(), text(done.stdout), text(done.stderr))
    };
    let totals = |key: &str| {
        let (_, text, _) = run(&["catalog", "list", "--totals", "--json"]);
        serde_json::from_str::<Value>(&text).expect("JSON")[key].as_u64().expect("a count")
    };
    assert!(totals("models") >= 400 && totals("providers") >= 60 && totals("models_at_two_direct_providers") >= 130);
    assert!(run(&["catalog", "diff"]).1.contains("no changes"));
    // Cohere's own price of one model, halved; one model less, one more.
    let shipped = Listing::shipped().expect("reads");
    let of_cohere: Vec<_> = shipped.endpoints.iter().filter(|row| row.provider == "cohere").collect();
    let mut models = serde_json::Map::new();
    for (at, row) in of_cohere.iter().enumerate().skip(1) {
        let price = if at == 1 { 0.5 } else { 1.0 };
        let model = json!({"name": row.name, "cost": {"input": row.rates.input * price, "output": row.rates.output * price},
            "limit": {"context": row.context, "output": row.output_max}, "modalities": {"input": ["text"], "output": ["text"]}});
        models.insert(row.name.clone(), model);
    }
    let mut new = models.values().next().expect("a model").clone();
    new["name"] = json!("command-z");
    models.insert("command-z".to_owned(), new);
    let file = folder.path().join("api.json");
    std::fs::write(&file, json!({"cohere": {"models": models}}).to_string()).expect("a file");
    let events = |arguments: &[&str]| -> Vec<catalog::Event> {
        let (code, text, error) = run(arguments);
        assert_eq!(code, Some(0), "{error}");
        text.lines().map(|line| serde_json::from_str(line).expect("an event")).collect()
    };
    let foreseen = events(&["catalog", "diff", "--from", "api.json", "--json"]);
    let kinds: BTreeSet<String> = foreseen
        .iter()
        .map(|event| format!("{:?}", event.change))
        .map(|text| text.split(' ').next().unwrap_or_default().to_owned())
        .collect();
    assert!(["New", "Repriced", "Gone"].iter().all(|kind| kinds.contains(*kind)), "{foreseen:?}");
    assert!(!folder.path().join("data/catalog.json").exists(), "diff changes nothing");
    assert_eq!(events(&["catalog", "refresh", "--from", "api.json", "--json"]), foreseen);
    assert_eq!(events(&["catalog", "diff", "--json"]), foreseen, "the changes of the past, with their day");
    assert!(events(&["catalog", "diff", "--json", "--since", "2999-01-01"]).is_empty());
    assert!(
        foreseen
            .iter()
            .any(|event| event.endpoint == "cohere/command-z@cohere" && matches!(event.change, Change::New { .. }))
    );
    assert!(run(&["catalog", "list", "--model", "command-z"]).1.contains("cohere/command-z@cohere"));
    for (text, said) in [
        ("{", "no JSON"),
        ("{\"data\": []}", "lists no model"),
        ("{\"cohere\": {\"models\": {\"x\": {}}}}", "not believed"),
    ] {
        std::fs::write(&file, text).expect("a file");
        let (code, _, error) = run(&["catalog", "import", "--from", "api.json"]);
        assert!(code == Some(1) && error.contains(said), "{text}: {code:?} {error}");
    }
    assert!(
        run(&["catalog", "list", "--model", "command-z"]).1.contains("cohere/command-z@cohere"),
        "nothing was lost"
    );
    assert_eq!(run(&["catalog", "refresh", "--every", "soon"]).0, Some(2));
}
