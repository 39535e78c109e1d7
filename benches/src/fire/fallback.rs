//! The first endpoint fails in one way after the other: how much later the second answers, and how a dead one is probed.

use crate::rig::{Asked, NO_CACHE, Rig, Verdict, model, provider};
use benches::{paced, quantile_ms, question};
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};

const RATE: u64 = 100;
const LATER_MS_MAX: f64 = 200.0;
const INTERVAL_S: u64 = 10;

fn config() -> String {
    let away = |name: &str, url: &str| format!("[providers.{name}]\nkind = \"openai\"\nbase_url = \"{url}\"\n");
    let mut text = provider("first", "") + &provider("second", "") + NO_CACHE;
    text += &away("refused", "http://127.0.0.1:1/v1");
    text += &away("dns", "http://no-such-host.invalid/v1");
    for (name, upstream) in [
        ("well", "sim/large"),
        ("500", "sim/fault-500"),
        ("429", "sim/fault-429"),
        ("529", "sim/fault-529"),
        ("dead", "sim/large"),
    ] {
        text += &model(&format!("fire/{name}"), &[("first", upstream, 1.0), ("second", "sim/small", 2.0)]);
    }
    for name in ["refused", "dns"] {
        text += &model(&format!("fire/{name}"), &[(name, "x", 1.0), ("second", "sim/small", 2.0)]);
    }
    text
}

pub(crate) async fn run(binary: &Path, seconds: u64, dead_seconds: u64) -> Vec<Verdict> {
    let rig = Rig::start(binary, 20, &config()).await;
    let mut verdicts = Vec::new();
    let load = async |name: &str, seconds: u64| -> Vec<Asked> {
        let model = format!("fire/{name}:floor"); // the dearer second is a fallback, not drawn
        paced(RATE, seconds, |at, due| {
            let mut body = question(&model, &format!("question {at}"));
            body["stream"] = json!(true);
            rig.ask(&body, due)
        })
        .await
    };
    load("well", 2).await; // connections
    let p99 = |asked: &[Asked]| quantile_ms(&asked.iter().map(|asked| asked.first).collect::<Vec<_>>(), 0.99);
    let healthy = p99(&load("well", seconds.min(20)).await);
    println!("{:<10} {:>10} {:>8}", "fault", "p99 ms", "errors");
    println!("{:<10} {healthy:>10.1} {:>8}", "none", 0);
    for name in ["refused", "dns", "500", "429", "529"] {
        let asked = load(name, seconds.min(20)).await;
        let errors = asked.iter().filter(|asked| !asked.is_good()).count();
        let p99 = p99(&asked);
        println!("{name:<10} {p99:>10.1} {errors:>8}");
        let later = p99 - healthy;
        verdicts.push(Verdict::new(
            format!("first endpoint `{name}`: first byte ≤ {LATER_MS_MAX} ms later (p99, {RATE}/s), no errors"),
            format!("{later:+.1} ms, {errors} errors"),
            later <= LATER_MS_MAX && errors == 0,
        ));
    }
    verdicts.extend(dead(&rig, dead_seconds).await);
    verdicts
}

/// Dead for minutes: counted by what the simulator saw of it.
async fn dead(rig: &Rig, seconds: u64) -> Vec<Verdict> {
    const SLOW_RATE: u64 = 20;
    let ask = |at: u64, due: Instant| rig.ask(&question("fire/dead:floor", &format!("dead {at}")), due);
    paced(SLOW_RATE, 2, ask).await;
    rig.rule("sim/large", json!({"fault": "500"})).await;
    let calls = async || rig.counters().await["by_model"]["sim/large"].as_u64().unwrap_or(0);
    let before = calls().await;
    let asked = paced(SLOW_RATE, seconds, ask).await;
    let errors = asked.iter().filter(|asked| !asked.is_good()).count();
    let probes = calls().await - before;
    let allowed = 10 + seconds / INTERVAL_S + 1; // ten failures open the breaker at the most
    rig.rule("sim/large", json!(null)).await;
    let recovered = Instant::now();
    let mut back = None;
    while back.is_none() && recovered.elapsed() < Duration::from_secs(60) {
        let asked = rig.ask(&question("fire/dead:floor", &format!("{:?}", recovered.elapsed())), Instant::now()).await;
        back = (asked.provider == "first").then(|| recovered.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let share = paced(SLOW_RATE, 5, ask).await.iter().filter(|asked| asked.provider == "first").count();
    println!("dead for {seconds} s: {errors} errors of {}, {probes} calls to it; back after {back:?}", asked.len());
    vec![
        Verdict::new(
            format!("dead for {seconds} s: no client error, probed at most once per {INTERVAL_S} s"),
            format!("{errors} errors, {probes} calls of {allowed} allowed"),
            errors == 0 && probes <= allowed,
        ),
        Verdict::new(
            "its whole share back within 60 s of recovery",
            format!("{:.1} s, then {share} of 100", back.map_or(f64::NAN, |time| time.as_secs_f64())),
            back.is_some() && share == 100,
        ),
    ]
}
