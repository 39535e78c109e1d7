//! A graceful restart under open streams and steady traffic, and a reload under load.

use crate::rig::{Asked, NO_CACHE, Rig, Verdict, model, provider};
use benches::{paced, question};
use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const STREAMS: u64 = 50;
const RATE: u64 = 100;
const DELAY_MS: u64 = 5_000;
const GRACE_MS: u64 = 5_000;

pub(crate) async fn run(binary: &Path) -> Vec<Verdict> {
    let server = format!("[server]\nstop_delay_ms = {DELAY_MS}\nshutdown_grace_ms = {GRACE_MS}\n");
    let config = server + &provider("first", "") + NO_CACHE + &model("fire/one", &[("first", "sim/small", 1.0)]);
    let mut rig = Rig::start(binary, 20, &config).await;
    let mut verdicts = vec![reload(&rig, &config).await];
    // Half of the streams pause for 7 s, within delay and grace; half for longer than both.
    let mut open = JoinSet::new();
    for at in 0..STREAMS {
        let pause = if at % 2 == 0 { 7_000 } else { 60_000 };
        let text = format!("[[fault=stall delay_ms={pause}]] stream {at}, a question with a long enough answer");
        let mut body = question("fire/one", &text);
        body["stream"] = json!(true);
        let asking = rig.ask(&body, Instant::now());
        open.spawn(async move { (at % 2 == 0, asking.await) });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let process = rig.running().0.id().to_string();
    let stopped = Instant::now();
    assert!(Command::new("kill").args(["-TERM", &process]).status().expect("kill runs").success());
    let client = rig.client.clone();
    let ready_url = rig.url("/ready");
    let unready = async {
        while client.get(&ready_url).send().await.is_ok_and(|response| response.status() == 200) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        stopped.elapsed()
    };
    let listening = (DELAY_MS - 500) / 1_000;
    let load = paced(RATE, listening, |at, due| rig.ask(&question("fire/one", &format!("during {at}")), due));
    let (unready, during) = tokio::join!(unready, load);
    let failed = during.iter().filter(|asked| !asked.is_good()).count();
    let streams = open.join_all().await;
    let cut = streams.iter().filter(|(within, asked)| *within && !asked.is_good()).count();
    let in_band = |asked: &Asked| asked.text.contains("\"finish_reason\":\"error\"") && !asked.text.contains("[DONE]");
    let told = streams.iter().filter(|(within, asked)| !*within && in_band(asked)).count();
    if let Some(mut gateway) = rig.gateway.take() {
        gateway.0.wait().expect("it ends by itself");
    }
    let ended = stopped.elapsed();
    rig.start_gateway().await;
    let after = rig.ask(&question("fire/one", "after"), Instant::now()).await;
    println!(
        "not ready after {unready:?}; {failed} of {} failed while listening; {cut} of 25 cut within the grace time, {told} of 25 \
         told at its end; ended after {ended:?}",
        during.len()
    );
    verdicts.extend([
        Verdict::new(
            "SIGTERM: /ready says 503 at once",
            format!("{} ms", unready.as_millis()),
            unready < Duration::from_millis(100),
        ),
        Verdict::new(
            format!("it goes on listening for {DELAY_MS} ms: no request of {RATE}/s fails"),
            format!("{failed} of {}", during.len()),
            failed == 0,
        ),
        Verdict::new(
            "no stream is cut within the grace time; at its end an in-band error",
            format!("{cut} cut, {told} of 25 told"),
            cut == 0 && told == 25,
        ),
        Verdict::new("the next process serves", format!("status {}", after.status), after.is_good()),
    ]);
    verdicts
}

/// Rewrites the configuration and sends SIGHUP again and again under load.
async fn reload(rig: &Rig, config: &str) -> Verdict {
    const SECONDS: u64 = 6;
    let process = rig.running().0.id().to_string();
    let reloads = async {
        for at in 0..10 {
            let more = model(&format!("fire/new-{at}"), &[("first", "sim/large", 1.0)]);
            std::fs::write(rig.folder.path().join("sluice.toml"), format!("{config}{more}")).expect("written");
            assert!(Command::new("kill").args(["-HUP", &process]).status().expect("kill runs").success());
            tokio::time::sleep(Duration::from_millis(400)).await;
            let asked = rig.ask(&question(&format!("fire/new-{at}"), "hello"), Instant::now()).await;
            assert!(asked.is_good(), "the new model is served: {}", asked.text);
        }
    };
    let load = paced(RATE, SECONDS, |at, due| rig.ask(&question("fire/one", &format!("reload {at}")), due));
    let (asked, ()) = tokio::join!(load, reloads);
    let failed = asked.iter().filter(|asked| !asked.is_good()).count();
    Verdict::new("ten reloads under load fail nothing", format!("{failed} of {}", asked.len()), failed == 0)
}
