//! From 1.2 to 200 requests a second on an upstream limited to 50, one tenant sending most of them.

use crate::rig::{Asked, Rig, Verdict, model, provider};
use benches::{ADMIN, make_key, paced, quantile_ms, question};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

const RATE: u64 = 200;
const UPSTREAM: u64 = 50;
const QUEUE_MAX: u64 = 300;
/// The greedy tenant sends 9 of 10; the others share the rest, 5 a second each: under their fair share of 10.
const TENANTS: [&str; 5] = ["greedy", "small-a", "small-b", "small-c", "small-d"];

pub(crate) async fn run(binary: &Path, seconds: u64) -> Vec<Verdict> {
    let limits = format!("requests_per_minute_max = {}\n", UPSTREAM * 60 - 60); // 49 a second keep any second under 50
    let config = provider("first", &limits)
        + "[cache.semantic]\nenabled = false\n[execution]\nqueue_wait_max_ms = 10000\n"
        + &format!("queue_requests_max = {QUEUE_MAX}\n")
        + &model("fire/one", &[("first", "sim/small", 1.0)]);
    let rig = Rig::start(binary, 20, &config).await;
    rig.rule("sim/small", json!({"fault": "limited", "per_second": UPSTREAM})).await;
    let keys = tenants(&rig).await;
    let known = question("fire/one", "a question that everybody of this tenant knows");
    rig.ask_as(&keys[1], &known, Instant::now()).await;
    let hits = async |seconds: u64| -> Vec<Duration> {
        let asked = paced(5, seconds, |_, due| rig.ask_as(&keys[1], &known, due)).await;
        assert!(asked.iter().all(|asked| asked.cache == "exact"), "hits never queue");
        asked.iter().map(|asked| asked.total).collect()
    };
    let (_, calm) = tokio::join!(
        paced(6, 5, |at, due| rig.ask_as(&keys[at as usize % 5], &question("fire/one", &format!("calm {at}")), due)),
        hits(5)
    );
    let burst = paced(RATE, seconds, |at, due| {
        let tenant = if at % 10 < 9 { 0 } else { 1 + (at / 10 % 4) as usize };
        let asking = rig.ask_as(&keys[tenant], &question("fire/one", &format!("burst {at}")), due);
        async move { (tenant, asking.await) }
    });
    let deepest = async {
        let (mut deepest, until) = (0.0f64, Instant::now() + Duration::from_secs(seconds));
        while Instant::now() < until {
            deepest = deepest.max(rig.metric("sluice_requests_queued").await);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        deepest
    };
    let began = Instant::now();
    let (asked, deepest, hot) = tokio::join!(burst, deepest, hits(seconds));
    report(&asked);
    let counters: Value = rig.counters().await;
    let refused_small = asked.iter().filter(|(tenant, asked)| *tenant > 0 && !asked.is_good()).count();
    let served = asked.iter().filter(|(_, asked)| asked.is_good()).count() as f64 / began.elapsed().as_secs_f64();
    let told = asked.iter().filter(|(_, asked)| asked.status == 429).all(|(_, asked)| asked.text.contains("limit"));
    let (calm, hot) = (quantile_ms(&calm, 0.99), quantile_ms(&hot, 0.99));
    println!(
        "served {served:.1}/s, deepest queue {deepest}, upstream 429s {}; hits p99 {calm:.1} → {hot:.1} ms",
        counters["failed"]
    );
    vec![
        Verdict::new(
            "1.2 → 200/s on an upstream of 50/s, one tenant 90 %: no tenant below its share is refused",
            format!("{refused_small} refused of {}", asked.iter().filter(|(tenant, _)| *tenant > 0).count()),
            refused_small == 0 && told,
        ),
        Verdict::new(
            "the queue stays within its limit",
            format!("{deepest} of {QUEUE_MAX}"),
            deepest as u64 <= QUEUE_MAX,
        ),
        Verdict::new(
            "the upstream is used and not overrun",
            format!("{served:.1}/s served"),
            served >= 0.9 * UPSTREAM as f64,
        ),
        Verdict::new(
            "hits are not delayed (p99 ≤ calm + 10 ms)",
            format!("{calm:.1} → {hot:.1} ms"),
            hot <= calm + 10.0,
        ),
    ]
}

/// Makes the tenants, each with a key.
async fn tenants(rig: &Rig) -> Vec<String> {
    let mut keys = Vec::new();
    for tenant in TENANTS {
        let body = json!({ "id": tenant }).to_string();
        let made =
            rig.client.post(rig.url("/admin/tenants")).bearer_auth(ADMIN).body(body).send().await.expect("an answer");
        assert_eq!(made.status(), 201);
        keys.push(make_key(&rig.url(""), "fire", tenant).await);
    }
    keys
}

fn report(asked: &[(usize, Asked)]) {
    println!("{:<10} {:>8} {:>8} {:>8} {:>10} {:>10}", "tenant", "sent", "served", "429", "p50 ms", "p99 ms");
    for (at, tenant) in TENANTS.iter().enumerate() {
        let own: Vec<&Asked> = asked.iter().filter(|(of, _)| *of == at).map(|(_, asked)| asked).collect();
        let good: Vec<Duration> = own.iter().filter(|asked| asked.is_good()).map(|asked| asked.total).collect();
        let refused = own.iter().filter(|asked| asked.status == 429).count();
        let (p50, p99) = (quantile_ms(&good, 0.5), quantile_ms(&good, 0.99));
        println!("{tenant:<10} {:>8} {:>8} {refused:>8} {p50:>10.0} {p99:>10.0}", own.len(), good.len());
    }
}
