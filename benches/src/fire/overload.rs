//! More requests than the gateway can do: what it still serves, and that it sheds the rest early.

use crate::rig::{Asked, NO_CACHE, Rig, Verdict, model, provider};
use benches::{paced, quantile_ms, question};
use std::path::Path;
use std::time::{Duration, Instant};

const RATES: [u64; 5] = [2_000, 4_000, 8_000, 12_000, 16_000];
const SECONDS: u64 = 5;
/// What must be left of the best goodput under the heaviest load.
const KEPT: f64 = 0.8;

pub(crate) async fn run(binary: &Path) -> Vec<Verdict> {
    let config = provider("first", "")
        + NO_CACHE
        + "[server]\nlag_max_ms = 50\n"
        + &model("fire/one", &[("first", "sim/small", 1.0)]);
    let rig = Rig::start(binary, 0, &config).await;
    println!(
        "{:>8} {:>10} {:>8} {:>8} {:>12} {:>12}",
        "sent/s", "served/s", "503", "other", "served p99", "503 p99 ms"
    );
    let mut goodput = Vec::new();
    let mut others = 0;
    for rate in RATES {
        let began = Instant::now();
        let asked: Vec<Asked> =
            paced(rate, SECONDS, |at, due| rig.ask(&question("fire/one", &format!("{rate} {at}")), due)).await;
        let took = began.elapsed().as_secs_f64();
        let of = |status: u16| asked.iter().filter(move |asked| asked.status == status);
        let times = |status: u16| of(status).map(|asked| asked.total).collect::<Vec<Duration>>();
        let other = asked.len() - of(200).count() - of(503).count();
        let served = of(200).count() as f64 / took;
        let (good, shed) = (quantile_ms(&times(200), 0.99), quantile_ms(&times(503), 0.99));
        println!("{rate:>8} {served:>10.0} {:>8} {other:>8} {good:>12.1} {shed:>12.1}", of(503).count());
        goodput.push(served);
        others += other;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let best = goodput.iter().copied().fold(0.0, f64::max);
    let last = goodput.last().copied().unwrap_or(0.0);
    vec![Verdict::new(
        format!(
            "offered up to {}/s with lag_max_ms = 50: goodput stays ≥ {KEPT} of its best, the rest gets 503",
            RATES[RATES.len() - 1]
        ),
        format!("{last:.0}/s of {best:.0}/s at best, {others} without an answer"),
        last >= KEPT * best && others == 0,
    )]
}
