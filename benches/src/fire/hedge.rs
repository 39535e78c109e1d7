//! Two endpoints that each stall 2 % of their calls: hedging against calling them directly.

use crate::rig::{Asked, NO_CACHE, Rig, Verdict, model, provider};
use benches::{paced, quantile_ms, question};
use serde_json::json;
use std::path::Path;

const RATE: u64 = 100;
const STALL_MS: u64 = 3_000;

pub(crate) async fn run(binary: &Path, seconds: u64) -> Vec<Verdict> {
    let config = provider("first", "")
        + &provider("second", "")
        + NO_CACHE
        + "[execution]\nhedge_spend_max = 0.05\n"
        + &model("fire/pair", &[("first", "sim/large", 1.0), ("second", "sim/small", 1.0)]);
    let rig = Rig::start(binary, 20, &config).await;
    let streamed = |model: &str, at: u64| {
        let mut body = question(model, &format!("question {at}"));
        body["stream"] = json!(true);
        body
    };
    paced(RATE, 3, |at, due| rig.ask(&streamed("fire/pair", at), due)).await; // connections, and a first percentile
    for name in ["sim/small", "sim/large"] {
        rig.rule(name, json!({"fault": "slow", "percent": 2, "delay_ms": STALL_MS})).await;
    }
    let p99 = |asked: &[Asked]| quantile_ms(&asked.iter().map(|asked| asked.first).collect::<Vec<_>>(), 0.99);
    let mut direct = f64::INFINITY;
    for name in ["sim/small", "sim/large"] {
        let asked = paced(RATE, seconds, |at, due| rig.ask_directly(&streamed(name, at), due)).await;
        let p99 = p99(&asked);
        println!("{name} directly: p99 to first token {p99:.1} ms");
        direct = direct.min(p99);
    }
    let wasted = async || rig.metric("sluice_wasted_nano_usd_total").await;
    let spent = async || rig.metric("sluice_cost_nano_usd_total").await;
    let (wasted_before, spent_before) = (wasted().await, spent().await);
    let asked = paced(RATE, seconds, |at, due| rig.ask(&streamed("fire/pair", at), due)).await;
    let (extra, base) = (wasted().await - wasted_before, spent().await - spent_before);
    let errors = asked.iter().filter(|asked| !asked.is_good()).count();
    let (hedges, hedged) = (rig.metric("sluice_hedges_total").await, p99(&asked));
    println!("hedged: p99 to first token {hedged:.1} ms, {errors} errors, {hedges} hedges so far");
    vec![
        Verdict::new(
            format!("two endpoints stall 2 % by {STALL_MS} ms: p99 to first token ≤ 1/3 of the better one directly"),
            format!("{hedged:.1} ms against {direct:.1} ms"),
            hedged <= direct / 3.0 && errors == 0,
        ),
        Verdict::new("for ≤ 6 % extra spend", format!("{:.2} %", 100.0 * extra / base), extra <= 0.06 * base),
    ]
}
