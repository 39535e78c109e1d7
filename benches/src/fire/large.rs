//! Megabytes of prompt and twenty pictures: added latency by size, and how often a prompt is held.

use crate::rig::{Asked, NO_CACHE, Rig, Verdict, model, provider};
use benches::{quantile_ms, question};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

const REPEATS: usize = 15;
const COPIES_MAX: f64 = 2.0;
const MB: usize = 1_000_000;

fn text(megabytes: usize) -> Value {
    question("fire/one", &"a word and ".repeat(megabytes * MB / 11))
}

fn pictures(count: usize) -> Value {
    let picture = format!("data:image/png;base64,{}", "iVBORw0KGgo".repeat(200_000 / 11));
    let mut parts = vec![json!({"type": "text", "text": "What is on these?"})];
    parts.extend((0..count).map(|_| json!({"type": "image_url", "image_url": {"url": picture}})));
    let mut body = question("fire/one", "");
    body["messages"][0]["content"] = json!(parts);
    body
}

pub(crate) async fn run(binary: &Path) -> Vec<Verdict> {
    let config = provider("first", "") + NO_CACHE + &model("fire/one", &[("first", "sim/small", 1.0)]);
    let rig = Rig::start(binary, 0, &config).await;
    let rows = [
        ("1 MB of text", text(1)),
        ("2 MB of text", text(2)),
        ("4 MB of text", text(4)),
        ("8 MB of text", text(8)),
        ("20 pictures of 200 KB", pictures(20)),
    ];
    println!(
        "{:<24} {:>8} {:>12} {:>12} {:>10} {:>8}",
        "prompt", "MB", "direct ms", "through ms", "added ms", "copies"
    );
    let mut added = Vec::new();
    let mut grown: Vec<(f64, f64)> = Vec::new();
    for (name, body) in rows {
        let bytes = body.to_string().len();
        let direct_body = {
            let mut direct = body.clone();
            direct["model"] = json!("sim/small");
            direct
        };
        rig.ask(&body, Instant::now()).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let before = rig.running().resident_kib();
        rig.running().forget_peak();
        let through = repeat(async || rig.ask(&body, Instant::now()).await).await;
        let growth = rig.running().peak_kib().saturating_sub(before) as f64 * 1_024.0;
        let direct = repeat(async || rig.ask_directly(&direct_body, Instant::now()).await).await;
        let copies = growth / bytes as f64;
        grown.push((bytes as f64, growth));
        added.push((through - direct, bytes as f64 / MB as f64));
        println!(
            "{name:<24} {:>8.1} {direct:>12.1} {through:>12.1} {:>10.1} {copies:>8.2}",
            bytes as f64 / MB as f64,
            through - direct
        );
    }
    let per_mb: Vec<f64> = added.iter().take(4).map(|(ms, megabytes)| ms / megabytes).collect();
    let (least, most) =
        per_mb.iter().fold((f64::INFINITY, 0.0f64), |(least, most), ms| (least.min(*ms), most.max(*ms)));
    // The slope, so that buffers which every request has do not count as copies of the prompt.
    let copies = (grown[3].1 - grown[0].1) / (grown[3].0 - grown[0].0);
    vec![
        Verdict::new(
            "added latency grows linearly from 1 to 8 MB (ms per MB within 2 ×)",
            format!("{least:.1} to {most:.1} ms per MB"),
            most <= 2.0 * least,
        ),
        Verdict::new(
            format!("a prompt is held at most {COPIES_MAX} × at the peak"),
            format!("{copies:.2} × from 1 to 8 MB"),
            copies <= COPIES_MAX,
        ),
    ]
}

async fn repeat(ask: impl AsyncFn() -> Asked) -> f64 {
    let mut times = Vec::new();
    for _ in 0..REPEATS {
        let asked = ask().await;
        assert!(asked.is_good(), "{} {}", asked.status, asked.text);
        times.push(asked.total);
    }
    quantile_ms(&times, 0.5)
}
