//! Stopping and reloading under traffic.

use crate::stack::{Stack, endpoints, question, streamed};
use simulator::{Fault, Rule};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tests::eventually;

const NO_CACHE: &str = "[cache.semantic]\nenabled = false\n[cache.exact]\nenabled = false\n";

/// Opens a stream whose provider pauses in the middle for `pause_ms`, and reads it to its end.
fn open_stream(stack: &Stack, pause_ms: u64) -> tokio::task::JoinHandle<String> {
    let text = format!("[[fault=stall delay_ms={pause_ms}]] a stream that pauses in the middle of its answer");
    let request = stack.post_as(&stack.key, "/v1/chat/completions", &streamed(question("acme/good", &text)));
    tokio::spawn(async move { request.send().await.expect("an answer").text().await.expect("a body") })
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_is_said_at_once_and_cuts_no_stream_within_the_grace_time() {
    let server = "[server]\nstop_delay_ms = 2000\nshutdown_grace_ms = 4000\n";
    let provider = "[providers.p0]\nkind = \"simulated\"\nbase_url = \"SIMULATOR\"\n";
    let mut stack = Stack::start(&(endpoints("acme/good", &["sim/small"]) + server + provider + NO_CACHE)).await;
    let (short, long) = (open_stream(&stack, 3_000), open_stream(&stack, 60_000));
    eventually("both streams are open", async || stack.simulator.arrived() == 2).await;
    let (ready, chat) = (stack.url("/ready"), stack.url("/v1/chat/completions"));
    let gateway = stack.gateway.take().expect("a gateway runs");
    let stopping = tokio::spawn(gateway.stop());
    let (client, told) = (stack.client(), Instant::now());
    while client.get(&ready).send().await.expect("still listening").status() != 503 {
        assert!(told.elapsed() < Duration::from_millis(1_900), "it goes on saying that it is ready");
    }
    let late = client.post(&chat).bearer_auth(&stack.key).body(question("acme/good", "late").to_string());
    let late = late.send().await.expect("still listening");
    assert_eq!(late.status(), 200, "load balancers need time to notice");
    assert_eq!(late.headers()["connection"], "close", "and clients to go elsewhere");
    let short = short.await.expect("no panic");
    assert!(short.ends_with("data: [DONE]\n\n"), "within the grace time nothing is cut: {short}");
    let long = long.await.expect("no panic");
    assert!(long.contains("\"finish_reason\":\"error\"") && long.contains("gateway was stopped"), "{long}");
    assert!(!long.contains("[DONE]"), "a cut never looks like an end");
    stopping.await.expect("stopped");
    let database = database::Database::open(&stack.database()).await.expect("the same file");
    let key = database.keys(None).await.expect("keys").remove(0);
    assert_eq!(database.charged_to_key(&key.hash).await.expect("sums").0, 3, "each request is settled once");
    assert_eq!(database.open_reservations().await.expect("a count"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_under_load_fails_nothing_and_keeps_what_was_learnt() {
    let models = endpoints("acme/good", &["sim/small", "sim/large"]);
    let stack = Stack::start(&(models.clone() + NO_CACHE)).await;
    stack.simulator.set_rule("sim/small", Some(Rule::always(Fault::Broken)));
    for at in 0..5 {
        stack.chat(&question("acme/good", &format!("learn {at}"))).await;
    }
    let learnt = stack.simulator.counters().by_model["sim/small"];
    let (stop, failed, served) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut load = tokio::task::JoinSet::new();
    for worker in 0..8 {
        let (stop, failed, served) = (Arc::clone(&stop), Arc::clone(&failed), Arc::clone(&served));
        let (client, url, key) = (stack.client(), stack.url("/v1/chat/completions"), stack.key.clone());
        load.spawn(async move {
            for at in 0.. {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                let body = question("acme/good", &format!("{worker} {at}")).to_string();
                let sent = client.post(&url).bearer_auth(&key).body(body).send().await;
                let counter = if sent.is_ok_and(|response| response.status() == 200) { &served } else { &failed };
                counter.fetch_add(1, Ordering::AcqRel);
            }
        });
    }
    let gateway = stack.gateway.as_ref().expect("a gateway runs");
    for at in 0..20 {
        let more = endpoints(&format!("acme/new-{at}"), &["sim/large"]);
        let left = gateway.reload(stack.checked(&(models.clone() + &more + NO_CACHE)));
        assert_eq!(left, Vec::<&str>::new());
        let answered = stack.chat(&question(&format!("acme/new-{at}"), "hello")).await;
        assert_eq!(answered.status, 200, "{}", answered.text);
    }
    let gone = stack.chat(&question("acme/new-0", "hello")).await;
    assert_eq!(gone.status, 404, "the configuration of the moment counts");
    stop.store(true, Ordering::Release);
    while load.join_next().await.is_some() {}
    assert_eq!(failed.load(Ordering::Acquire), 0);
    assert!(served.load(Ordering::Acquire) > 50);
    assert_eq!(stack.simulator.counters().by_model["sim/small"], learnt, "breakers survive a reload");
    let other = stack.checked(&(models + NO_CACHE + "[server]\nstop_delay_ms = 7\n"));
    assert_eq!(gateway.reload(other), ["server"], "what needs a restart is named");
}
