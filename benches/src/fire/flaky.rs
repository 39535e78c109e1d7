//! One of two equal endpoints fails 30 % of its calls.

use crate::rig::{Asked, NO_CACHE, Rig, Verdict, model, provider};
use benches::{paced, quantile_ms, question};
use serde_json::json;
use std::path::Path;

const RATE: u64 = 500;

pub(crate) async fn run(binary: &Path, seconds: u64) -> Vec<Verdict> {
    let config = provider("first", "")
        + &provider("second", "")
        + NO_CACHE
        + &model("fire/pair", &[("first", "sim/large", 1.0), ("second", "sim/small", 1.0)]);
    let rig = Rig::start(binary, 20, &config).await;
    let load = async |seconds: u64| -> Vec<Asked> {
        paced(RATE, seconds, |at, due| rig.ask(&question("fire/pair", &format!("question {at}")), due)).await
    };
    let p99 = |asked: &[Asked]| quantile_ms(&asked.iter().map(|asked| asked.total).collect::<Vec<_>>(), 0.99);
    load(2).await;
    let healthy = p99(&load(seconds.min(20)).await);
    rig.rule("sim/large", json!({"fault": "500", "percent": 30})).await;
    let before = rig.counters().await["arrived"].as_u64().unwrap_or(0);
    let asked = load(seconds).await;
    let calls = rig.counters().await["arrived"].as_u64().unwrap_or(0) - before;
    let errors = asked.iter().filter(|asked| !asked.is_good()).count();
    let (flaky, share) = (p99(&asked), calls as f64 / asked.len() as f64);
    println!(
        "{} requests, {errors} errors, {calls} upstream calls; p99 {flaky:.1} ms, healthy {healthy:.1} ms",
        asked.len()
    );
    vec![
        Verdict::new(
            format!("one of two equals 30 % flaky, {RATE}/s for {seconds} s: client errors < 0.1 %"),
            format!("{errors} of {}", asked.len()),
            (errors as f64) < asked.len() as f64 * 0.001,
        ),
        Verdict::new("upstream calls ≤ 1.2 × requests", format!("{share:.3} ×"), share <= 1.2),
        Verdict::new("p99 within 2 × the healthy one", format!("{:.2} ×", flaky / healthy), flaky <= 2.0 * healthy),
    ]
}
