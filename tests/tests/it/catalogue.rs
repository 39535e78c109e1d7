//! Prices and models that change under load.

use crate::stack::{Stack, question, simulator, streamed};
use catalog::{Document, Listing};
use gateway::config::Config;
use serde_json::{Value, json};
use simulator::SimulatedModel;
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
