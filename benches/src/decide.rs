//! How long the router takes for a decision among many labelled models, with rules, without the embedding.

use bytes::Bytes;
use catalog::{Catalog, Record};
use gateway::ConfigFile;
use protocol::ChatRequest;
use router::{Applied, Artefact, Asker, Head, Heads, Predictor, Question, SPARSE_COUNT, Suffixes, Wanted, decide};
use std::collections::BTreeMap;
use std::time::Instant;

const DECISIONS: usize = 20_000;
const MODELS: usize = 20;

/// Prompts of a line, a paragraph and a page.
const PROMPTS: [(&str, usize); 3] = [("a line", 1), ("a paragraph", 12), ("a page", 80)];

/// Sentences of words that hardly repeat.
fn text(sentences: usize) -> String {
    let word =
        |at: usize| format!("{}{}", ["how", "address", "invoice", "order", "place", "sent"][at % 6], at * at % 977);
    let sentence = |at: usize| (0..17).map(|place| word(17 * at + place)).collect::<Vec<_>>().join(" ") + "? ";
    (0..sentences).map(sentence).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let predictor = Predictor::new(labelled(Predictor::shipped()?.artefact().clone()))?;
    let config = ConfigFile::parse("bench", models())?.check(|_| None, Some("http://127.0.0.1:9/v1"))?;
    println!("{DECISIONS} decisions each, {MODELS} models with heads of {SPARSE_COUNT} words, two rules");
    for (name, sentences) in PROMPTS {
        let body = serde_json::json!({"model": "policy/p", "messages": [{"role": "user", "content": text(sentences)}]});
        let request = ChatRequest::parse(&Bytes::from(body.to_string()))?;
        let mut times: Vec<f64> =
            (0..DECISIONS).map(|seed| time(&config.catalog, &config, &predictor, &request, seed)).collect();
        times.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!("{name:<12} p50 {:>6.1} µs, p99 {:>6.1} µs", at(0.5), at(0.99));
    }
    Ok(())
}

fn time(catalog: &Catalog, config: &gateway::Config, predictor: &Predictor, request: &ChatRequest, seed: usize) -> f64 {
    let policy = &config.policies["p"];
    let found = policy.candidates.iter().filter_map(|id| catalog.find(id));
    let models: Vec<Wanted> =
        found.map(|found| Wanted { model: found.model, suffixes: Suffixes::default(), successor: None }).collect();
    let baseline = catalog.find(&policy.baseline).map(|found| found.model);
    let vector = vec![0.05; 384];
    let begun = Instant::now();
    let route = decide(Question {
        request,
        models: &models,
        policy: Some(policy),
        rules: &Applied::of(&policy.rules, request, Asker { tenant: "acme", key: "bench" }),
        quality_min: None,
        baseline: baseline.as_deref(),
        offer: None,
        predictor: Some(predictor),
        vector: Some(&vector),
        records: &|_| Record::default(),
        seed: seed as u64,
        sticky: None,
    });
    let elapsed = begun.elapsed().as_secs_f64() * 1e6;
    assert_eq!(route.candidates.len(), MODELS);
    elapsed
}

fn labelled(artefact: Artefact) -> Artefact {
    let head = |model: usize| {
        let weight = |at: usize| ((at * 7 + model) % 13) as f32 / 100.0 - 0.06;
        let head = |vector: usize| Head {
            bias: 1.0,
            dense: (0..artefact.dense_mean.len()).map(weight).collect(),
            sparse: (0..SPARSE_COUNT).map(|at| (at as u32, weight(at))).collect(),
            vector: (0..vector).map(weight).collect(),
        };
        let heads = Heads { labels: 800, with_vector: Some(head(384)), without_vector: head(0), length: None };
        (format!("acme/m{model}"), heads)
    };
    let heads: BTreeMap<String, Heads> = (0..MODELS).map(head).collect();
    Artefact { heads, ..artefact }
}

fn models() -> String {
    let mut text = String::new();
    for model in 0..MODELS {
        text += &format!(
            "[[models]]\nid = \"acme/m{model}\"\n[[models.endpoints]]\nprovider = \"simulated\"\nname = \"m{model}\"\n\
             input_usd_per_mtok = {0}.1\noutput_usd_per_mtok = {0}.4\ncontext_tokens = 128000\noutput_tokens_max = 4096\n",
            model + 1
        );
    }
    let names: Vec<String> = (0..MODELS).map(|model| format!("\"acme/m{model}\"")).collect();
    text + &format!(
        "[policies.p]\ncandidates = [{}]\n[[policies.p.rules]]\nwhen = \"request.tools.size() > 0 && caller.tenant == 'acme'\"\n\
         use = [\"acme/m19\"]\n[[policies.p.rules]]\nwhen = \"request.text.contains('legal')\"\nprefer = [\"acme/m3\"]\n",
        names.join(", ")
    )
}
