//! Every rule of the `provider` object and every suffix, as a table.

use crate::{Applied, Question, Route, Sticky, Suffixes, Wanted, decide};
use bytes::Bytes;
use catalog::{Catalog, Endpoint, Facts, Kind, Model, ModelConfig, Percentiles, Reach, Record};
use protocol::ChatRequest;
use protocol::dialect::Quirks;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// One model at five providers: `cheap` and `dear` at 1 and 4 dollars, `fast` at 2, `plan` at a flat rate, `mall` that
/// passes requests on.
fn models() -> (Arc<Model>, Arc<Model>) {
    let endpoint = |provider: &str, price: f64, more: &str| {
        format!(
            "[[models.endpoints]]\nprovider = \"{provider}\"\nname = \"n\"\ninput_usd_per_mtok = {price:.1}\n\
             output_usd_per_mtok = {price:.1}\ncontext_tokens = 10000\noutput_tokens_max = 1000\n{more}"
        )
    };
    let private = "stores_prompts = false\ntrains_on_prompts = false\nregion = \"eu-west-1\"\nquantization = \"fp8\"\n";
    let keeps =
        "stores_prompts = true\ntrains_on_prompts = false\nregion = \"us\"\nabilities = [\"tools\", \"reasoning\"]\n";
    let text = format!(
        "[[models]]\nid = \"a/m\"\n{}{}{}{}{}[[models]]\nid = \"a/other\"\ndistillable = true\n{}",
        endpoint("cheap", 1.0, "abilities = []\nrejects = [\"seed\"]\n"),
        endpoint("dear", 4.0, private),
        endpoint("fast", 2.0, keeps),
        endpoint("plan", 0.0, "billing = \"flat_rate\"\nabilities = []\n"),
        endpoint("mall", 1.0, "abilities = []\n"),
        endpoint("fast", 3.0, keeps),
    );
    #[derive(serde::Deserialize)]
    struct File {
        models: Vec<ModelConfig>,
    }
    let file: File = toml::from_str(&text).expect("parses");
    let reach = Reach {
        provider: "mall".to_owned(),
        kind: Kind::Openai,
        facts: Facts::default(),
        aggregator: true,
        fee: 0.055,
        billing: None,
        quirks: Quirks::default(),
        names: Arc::new(["The Mall".to_owned()]),
        elsewhere: false,
        negotiated: Vec::new(),
        all_negotiated: false,
        aws_region: None,
    };
    let mut catalog = Catalog::default();
    for model in &file.models {
        assert_eq!(catalog.add(model, "models", std::slice::from_ref(&reach)), vec![]);
    }
    let find = |id: &str| catalog.resolve(id).expect("known").model;
    (find("a/m"), find("a/other"))
}

/// What was seen: `fast` is quick, `dear` slow, nothing of the others.
fn seen(endpoint: &Endpoint) -> Record {
    let flat = |value: f64| Some(Percentiles { p50: value, p75: value, p90: value, p99: value });
    match endpoint.provider.as_str() {
        "fast" => Record { latency_ms: flat(100.0), throughput: flat(200.0), good_calls: Some(0.9), failing: false },
        "dear" => Record { latency_ms: flat(900.0), throughput: flat(20.0), good_calls: Some(1.0), failing: false },
        _ => Record::default(),
    }
}

fn route(
    body: &Value,
    suffixes: &str,
    records: &dyn Fn(&Endpoint) -> Record,
    seed: u64,
    sticky: Option<&Sticky>,
) -> Route {
    let request = ChatRequest::parse(&Bytes::from(body.to_string())).expect("valid");
    let (model, other) = models();
    let (_, suffixes) = Suffixes::of(suffixes);
    let wanted = |model: Arc<Model>| Wanted { model, suffixes, successor: None };
    let models = match body["models"].is_array() {
        true => vec![wanted(model), wanted(other)],
        false => vec![wanted(model)],
    };
    decide(Question {
        request: &request,
        models: &models,
        policy: None,
        rules: &Applied::default(),
        quality_min: None,
        baseline: None,
        offer: None,
        predictor: None,
        vector: None,
        records,
        seed,
        sticky,
    })
}

fn body(provider: &Value) -> Value {
    json!({"model": "a/m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 100, "provider": provider})
}

fn order(route: &Route) -> Vec<&str> {
    route.candidates.iter().map(|candidate| candidate.endpoint.provider.as_str()).collect()
}

/// The providers in order, whatever the draw; `plan` costs nothing and so comes first where prices are drawn.
#[track_caller]
fn check(body: &Value, suffix: &str, expected: &[&str]) {
    for seed in 0..20 {
        let route = route(body, &format!("a/m{suffix}"), &seen, seed, None);
        assert_eq!(order(&route), expected, "{body} {suffix}: {:?}", route.rejected);
    }
}

/// Nobody may serve, and the reason for `provider` names the missing fact.
#[track_caller]
fn check_refused(body: &Value, suffix: &str, provider: &str, reason: &str) {
    let route = route(body, &format!("a/m{suffix}"), &seen, 0, None);
    let rejected = route.rejected.iter().find(|rejected| rejected.endpoint.ends_with(&format!("@{provider}")));
    let is = rejected.map(|rejected| rejected.reason.as_str()).unwrap_or_default();
    assert!(is.contains(reason), "{body} {suffix}: {provider}: `{is}`");
}

#[test]
fn rules_that_name_providers() {
    check(&body(&json!({"order": ["dear", "cheap"], "allow_fallbacks": false})), "", &["dear", "cheap"]);
    check(&body(&json!({"only": ["fast"]})), "", &["fast"]);
    check(&body(&json!({"only": ["the mall"]})), "", &["mall"]);
    check(&body(&json!({"order": ["mall"], "only": ["mall", "dear"]})), "", &["mall", "dear"]);
    check(&body(&json!({"ignore": ["plan", "cheap", "mall", "fast"]})), "", &["dear"]);
    check(&body(&json!({"order": ["fast"], "allow_fallbacks": false})), "", &["fast"]);
    check(&body(&json!({"only": ["cheap", "dear"], "sort": "price", "allow_fallbacks": false})), "", &["cheap"]);
    check_refused(&body(&json!({"only": ["fast"]})), "", "dear", "provider.only");
    check_refused(&body(&json!({"ignore": ["dear"]})), "", "dear", "provider.ignore");
}

#[test]
fn sorts_and_suffixes() {
    let any = body(&json!({}));
    check(&any, ":floor", &["plan", "cheap", "mall", "fast", "dear"]);
    check(&body(&json!({"sort": "price"})), "", &["plan", "cheap", "mall", "fast", "dear"]);
    check(&body(&json!({"sort": "throughput", "ignore": ["plan", "mall"]})), "", &["fast", "dear", "cheap"]);
    check(&body(&json!({"ignore": ["plan"]})), ":nitro", &["fast", "dear", "cheap", "mall"]);
    check(&body(&json!({"sort": {"by": "latency"}, "only": ["fast", "dear"]})), "", &["fast", "dear"]);
    check(&body(&json!({"only": ["fast", "dear"]})), ":exacto", &["dear", "fast"]);
    check(&body(&json!({"sort": "exacto", "only": ["fast", "dear"]})), "", &["dear", "fast"]);
    check(&body(&json!({"sort": "price"})), ":thinking", &["fast", "dear"]);
    check(&any, ":free", &[]);
    check_refused(&any, ":free", "plan", "is not free");
    check_refused(&any, ":thinking", "cheap", "does not support reasoning");
    let mut both = body(&json!({"sort": {"by": "price", "partition": "none"}, "only": ["fast", "dear"]}));
    both["models"] = json!(["a/other"]);
    let route = route(&both, "a/m", &seen, 0, None);
    let models: Vec<&str> = route.candidates.iter().map(|candidate| candidate.endpoint.id.as_str()).collect();
    assert_eq!(models, ["a/m@fast", "a/other@fast", "a/m@dear"], "sorted across models");
}

#[test]
fn an_unknown_fact_satisfies_no_demand_and_is_named() {
    check(&body(&json!({"zdr": true})), "", &["dear"]);
    check(&body(&json!({"data_collection": "deny"})), "", &["dear"]);
    check(&body(&json!({"region": "eu"})), "", &["dear"]);
    check(&body(&json!({"region": "us"})), "", &["fast"]);
    check(&body(&json!({"quantizations": ["fp8", "int4"]})), "", &["dear"]);
    check(&body(&json!({"data_collection": "allow", "zdr": false, "only": ["fast"]})), "", &["fast"]);
    check_refused(&body(&json!({"zdr": true})), "", "cheap", "stores_prompts) is unknown");
    check_refused(&body(&json!({"zdr": true})), "", "fast", "stores prompts, which provider.zdr forbids");
    check_refused(&body(&json!({"data_collection": "deny"})), "", "mall", "stores_prompts) is unknown");
    check_refused(&body(&json!({"region": "eu"})), "", "cheap", "(region) is unknown");
    check_refused(&body(&json!({"region": "eu"})), "", "fast", "in `us`, not in `eu`");
    check_refused(&body(&json!({"quantizations": ["fp8"]})), "", "cheap", "quantization is unknown");
    check(&body(&json!({"quantizations": ["unknown"], "only": ["cheap", "dear"]})), "", &["cheap"]);
    let mut both = body(&json!({"enforce_distillable_text": true}));
    check_refused(&both, "", "cheap", "(distillable) is unknown");
    both["models"] = json!(["a/other"]);
    check(&both, "", &["fast"]);
}

#[test]
fn parameters_prices_abilities_and_lengths() {
    let mut seeded = body(&json!({"require_parameters": true, "only": ["cheap", "fast"]}));
    seeded["seed"] = json!(7);
    check(&seeded, "", &["fast"]);
    check_refused(&seeded, "", "cheap", "parameter `seed`");
    seeded["strange"] = json!(1);
    check_refused(&seeded, "", "fast", "parameter `strange`");
    let max = |price: Value| body(&json!({"max_price": price, "ignore": ["plan"], "sort": "price"}));
    check(&max(json!({"prompt": 2})), "", &["cheap", "mall", "fast"]);
    check(&max(json!({"completion": "1.05"})), "", &["cheap"]); // 1.0 and a fee of 5.5 % are more
    check_refused(&max(json!({"prompt": 1})), "", "dear", "max_price.prompt: it costs $4");
    let mut pictured = body(&json!({"sort": "price", "max_price": {"image": 1}}));
    pictured["messages"][0]["content"] = json!([{"type": "image_url", "image_url": {"url": "https://e.org/a.png"}}]);
    check_refused(&pictured, "", "dear", "max_price.image: its price of one is unknown");
    pictured["provider"] = json!({});
    check(&pictured, "", &["dear"]);
    check_refused(&pictured, "", "fast", "does not support images");
    let mut tools = body(&json!({"sort": "price"}));
    tools["tools"] = json!([{"type": "function", "function": {"name": "f"}}]);
    check(&tools, "", &["fast", "dear"]);
    let mut long = body(&json!({}));
    long["messages"][0]["content"] = json!("x".repeat(60_000));
    check_refused(&long, "", "dear", "exceed its context of 10000");
}

#[test]
fn what_is_rather_wanted_goes_first_and_what_fails_goes_last() {
    let some = json!({"only": ["cheap", "fast", "dear"]});
    let rather = |more: Value| {
        let mut provider = some.clone();
        provider.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        body(&provider)
    };
    check(&rather(json!({"preferred_min_throughput": 100})), "", &["fast", "cheap", "dear"]);
    check(&rather(json!({"preferred_max_latency": {"p90": 0.5}})), "", &["fast", "cheap", "dear"]);
    let failing = |endpoint: &Endpoint| Record { failing: endpoint.provider == "cheap", ..Record::default() };
    for seed in 0..50 {
        let route = route(&body(&some), "a/m", &failing, seed, None);
        assert_eq!(order(&route).last(), Some(&"cheap"), "recent outages last");
        let ranks: Vec<usize> = route.candidates.iter().map(|candidate| candidate.rank).collect();
        assert!(ranks.is_sorted() && ranks.len() == 3, "{ranks:?}");
    }
}

#[test]
fn shares_are_in_proportion_to_one_over_the_price_squared() {
    let mut firsts: BTreeMap<String, usize> = BTreeMap::new();
    let mut stated: BTreeMap<String, f64> = BTreeMap::new();
    let body = body(&json!({"ignore": ["plan"]}));
    for seed in 0..10_000 {
        let route = route(&body, "a/m", &|_| Record::default(), seed, None);
        *firsts.entry(order(&route)[0].to_owned()).or_default() += 1;
        assert_eq!(order(&route).last(), Some(&"mall"), "who passes requests on comes last");
        *stated.entry(order(&route)[0].to_owned()).or_insert(0.0) = route.propensity;
        check_propensity(&serde_json::to_value(&route).expect("JSON"));
    }
    // Weights 1, 1/4 and 1/16 of prices 1, 2 and 4.
    let expected = [("cheap", 16.0 / 21.0), ("fast", 4.0 / 21.0), ("dear", 1.0 / 21.0)];
    for (provider, share) in expected {
        let is = firsts.get(provider).copied().unwrap_or(0) as f64 / 10_000.0;
        let tolerance = 4.0 * (share * (1.0 - share) / 10_000.0_f64).sqrt();
        assert!((is - share).abs() < tolerance, "{provider}: {is} for {share}");
        assert!((stated[provider] - share).abs() < 1e-9, "{provider}: {} is stated for {share}", stated[provider]);
    }
}

/// What a trace states of its first candidate follows from the costs and lots in it.
#[track_caller]
fn check_propensity(trace: &Value) {
    let candidates = trace["candidates"].as_array().expect("candidates");
    let weights: Vec<f64> = candidates
        .iter()
        .filter(|candidate| candidate["lot"]["total"] == candidates[0]["lot"]["total"])
        .filter(|candidate| candidate["lot"].is_object())
        .map(|candidate| candidate["expected_cost_usd"].as_f64().expect("a cost").powi(-2))
        .collect();
    let recomputed = weights.first().map_or(1.0, |first| first / weights.iter().sum::<f64>());
    let stated = trace["propensity"].as_f64().expect("a number");
    assert!((stated - recomputed).abs() < 1e-9, "{stated} is stated, {recomputed} follows: {trace}");
}

#[test]
fn where_no_lots_are_drawn_a_trace_says_that_its_first_was_certain() {
    let sticky = Sticky { endpoint: "a/m@cheap".to_owned(), warm_tokens: 50 };
    for (demand, sticky) in [
        (json!({"order": ["dear"]}), None),
        (json!({"sort": "price", "ignore": ["plan"]}), None),
        (json!({"only": ["fast"]}), None),
        (json!({}), None), // the plan costs nothing
        (json!({"ignore": ["plan"]}), Some(&sticky)),
    ] {
        for seed in 0..20 {
            let route = route(&body(&demand), "a/m", &|_| Record::default(), seed, sticky);
            assert_eq!(route.propensity, 1.0, "{demand}: {:?}", route.candidates[0]);
            check_propensity(&serde_json::to_value(&route).expect("JSON"));
        }
    }
}

#[test]
fn a_conversation_stays_where_its_prompt_is_remembered_while_that_is_cheaper() {
    let text = "[[models]]\nid = \"a/m\"\n[[models.endpoints]]\nprovider = \"warm\"\nname = \"n\"\ninput_usd_per_mtok = 3.0\n\
                output_usd_per_mtok = 3.0\ncache_read_usd_per_mtok = 0.3\ncontext_tokens = 100000\noutput_tokens_max = 1000\n\
                [[models.endpoints]]\nprovider = \"cold\"\nname = \"n\"\ninput_usd_per_mtok = 1.0\noutput_usd_per_mtok = 3.0\n\
                context_tokens = 100000\noutput_tokens_max = 1000\n";
    #[derive(serde::Deserialize)]
    struct File {
        models: Vec<ModelConfig>,
    }
    let file: File = toml::from_str(text).expect("parses");
    let mut catalog = Catalog::default();
    catalog.add(&file.models[0], "models", &[]);
    let model = catalog.resolve("a/m").expect("known").model;
    let long =
        json!({"model": "a/m", "messages": [{"role": "user", "content": "word ".repeat(3_000)}], "max_tokens": 10});
    let request = ChatRequest::parse(&Bytes::from(long.to_string())).expect("valid");
    let firsts = |warm_tokens: u64| {
        let sticky = Sticky { endpoint: "a/m@warm".to_owned(), warm_tokens };
        let mut firsts: HashMap<String, usize> = HashMap::new();
        for seed in 0..400 {
            let wanted = [Wanted { model: Arc::clone(&model), suffixes: Suffixes::default(), successor: None }];
            let route = decide(Question {
                request: &request,
                models: &wanted,
                policy: None,
                rules: &Applied::default(),
                quality_min: None,
                baseline: None,
                offer: None,
                predictor: None,
                vector: None,
                records: &|_| Record::default(),
                seed,
                sticky: Some(&sticky),
            });
            *firsts.entry(order(&route)[0].to_owned()).or_default() += 1;
        }
        firsts
    };
    assert_eq!(firsts(5_000).get("warm"), Some(&400), "reading again at 0.3 beats beginning anew at 1.0");
    let barely = firsts(100);
    assert!(
        barely.get("cold") > barely.get("warm"),
        "a few remembered tokens are not worth a dearer place: {barely:?}"
    );
}
