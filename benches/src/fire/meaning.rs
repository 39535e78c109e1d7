//! Labelled traffic through the gateway: wrong hits by the truth beside the gateway's own estimate, and hits kept while the
//! embedder has too little time.
//!
//! Prompts and classes are those of public streams; answers are made up, fourteen words for each class, worded in three ways.

use crate::rig::{Asked, Rig, Verdict, model, provider};
use benches::{paced, quantile_ms};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use trainer::cache::read_stream;

const STREAMS: [&str; 2] = ["qqp", "banking77"];
const RATES: [u64; 3] = [50, 200, 500];
const ERROR_MAX: f64 = 0.01;
/// Hits that are left at the highest rate, in % of requests.
const HITS_MIN: f64 = 2.0;
const ANSWERS: &str = "answers.jsonl";
const WORDS: usize = 14;
const OPENERS: [&str; 3] = ["", "Sure: ", "Of course. "];

/// Requests in their order, each with the class of its right answer, and which class a text answers.
struct Traffic {
    rows: Vec<(String, u64)>,
    answers: String,
    class_of: HashMap<String, u64>,
}

/// What became of the requests at one rate.
struct Outcome {
    failed: usize,
    exact: usize,
    similar: usize,
    /// Of the similar ones.
    wrong: usize,
    /// Went on without a vector.
    skipped: f64,
    p99_ms: f64,
    estimate: Value,
}

pub(crate) async fn run(binary: &Path, data: &Path, requests: usize) -> Vec<Verdict> {
    let traffic = Traffic::read(data, requests);
    println!("rate/s   failed  exact %  similar %  wrong %  estimated % (95 %: under)  no vector %  p99 ms");
    let mut verdicts = Vec::new();
    for rate in RATES {
        let outcome = at_rate(binary, &traffic, rate).await;
        let share = |count: f64| 100.0 * count / traffic.rows.len() as f64;
        let estimate = |name: &str| outcome.estimate[name].as_f64().unwrap_or(f64::NAN);
        let eligible = estimate("requests");
        let wrong = outcome.wrong as f64 / eligible;
        println!(
            "{rate:>6} {:>8} {:>8.1} {:>10.1} {:>8.2} {:>12.2} ({:.2}) {:>16.1} {:>10.0}",
            outcome.failed,
            share(outcome.exact as f64),
            share(outcome.similar as f64),
            100.0 * wrong,
            100.0 * estimate("error"),
            100.0 * estimate("error_high"),
            share(outcome.skipped),
            outcome.p99_ms,
        );
        verdicts.push(Verdict::new(
            format!("labelled traffic at {rate}/s: wrong answers of those that the semantic level could give"),
            format!(
                "{:.2} % at error_max {:.0} %, {:.1} % hits, {} failed",
                100.0 * wrong,
                100.0 * ERROR_MAX,
                share(outcome.similar as f64),
                outcome.failed
            ),
            wrong <= ERROR_MAX
                && wrong <= estimate("error_high")
                && outcome.failed == 0
                && share(outcome.similar as f64) >= HITS_MIN,
        ));
    }
    verdicts
}

async fn at_rate(binary: &Path, traffic: &Traffic, rate: u64) -> Outcome {
    let config = provider("first", "")
        + &format!("[cache.semantic]\nerror_max = {ERROR_MAX}\n[cache.exact]\nttl_s = 86400\n")
        + &model("fire/one", &[("first", "sim/small", 1.0)]);
    let rig = Rig::start_with_answers(binary, 5, &config, Some((ANSWERS, &traffic.answers))).await;
    let seconds = (traffic.rows.len() as u64).div_ceil(rate);
    let asked: Vec<(usize, Asked)> = paced(rate, seconds, |at, due| {
        let at = at as usize % traffic.rows.len();
        let body = json!({"model": "fire/one", "messages": [{"role": "user", "content": traffic.rows[at].0}]});
        let asking = rig.ask(&body, due);
        async move { (at, asking.await) }
    })
    .await;
    let times: Vec<Duration> = asked.iter().map(|(_, asked)| asked.total).collect();
    let hits = |kind: &str| asked.iter().filter(|(_, asked)| asked.cache == kind).count();
    let is_wrong = |at: usize, asked: &Asked| {
        let reply: Value = serde_json::from_str(&asked.text).unwrap_or_default();
        let text = reply["choices"][0]["message"]["content"].as_str().unwrap_or_default();
        traffic.class_of.get(text) != Some(&traffic.rows[at].1)
    };
    let wrong = asked.iter().filter(|(at, asked)| asked.cache == "similar" && is_wrong(*at, asked)).count();
    let stats = rig.client.get(rig.url("/v1/cache/stats")).bearer_auth(&rig.key).send().await.expect("an answer");
    let stats: Value = serde_json::from_str(&stats.text().await.expect("a body")).expect("JSON");
    Outcome {
        failed: asked.iter().filter(|(_, asked)| !asked.is_good()).count(),
        exact: hits("exact") + hits("coalesced"),
        similar: hits("similar"),
        wrong,
        skipped: rig.metric("sluice_semantic_skipped_total").await,
        p99_ms: quantile_ms(&times, 0.99),
        estimate: stats["data"]["policies"][0]["estimate"].clone(),
    }
}

impl Traffic {
    /// The streams by turns.
    fn read(data: &Path, requests: usize) -> Self {
        let streams = STREAMS.map(|name| read_stream(data, name).unwrap_or_else(|error| panic!("{error}")));
        let mut rows: Vec<(String, u64)> = Vec::new();
        for at in 0..requests.div_ceil(STREAMS.len()) {
            let both = streams.iter().enumerate().filter_map(|(stream, rows)| Some((stream, rows.get(at)?)));
            rows.extend(both.map(|(stream, row)| (row.prompt.clone(), row.cls * STREAMS.len() as u64 + stream as u64)));
        }
        rows.truncate(requests);
        let words: BTreeSet<&str> = rows.iter().flat_map(|(prompt, _)| prompt.split_whitespace()).collect();
        let is_word = |word: &&str| word.len() > 3 && word.chars().all(|c| c.is_ascii_lowercase());
        let words: Vec<&str> = words.into_iter().filter(is_word).collect();
        let (mut answers, mut class_of, mut draw) = (Vec::new(), HashMap::new(), StdRng::seed_from_u64(7));
        for (prompt, class) in &rows {
            let mut of_class = StdRng::seed_from_u64(*class);
            let said: Vec<&str> = words.choose_multiple(&mut of_class, WORDS).copied().collect();
            let text = format!("{}{}.", OPENERS[draw.random_range(0..OPENERS.len())], said.join(" "));
            let answer = json!({"text": text, "score": 1.0, "output_tokens": 20});
            let row = json!({"prompt": prompt, "class": class, "answers": {"sim/small": answer}});
            writeln!(answers, "{row}").expect("memory takes it");
            class_of.insert(text, *class);
        }
        Self { rows, answers: String::from_utf8(answers).expect("JSON is text"), class_of }
    }
}
