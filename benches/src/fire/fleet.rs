//! Two gateways on one PostgreSQL: each killed again and again, restarted one after the other behind a balancer, and the
//! database away for a minute.

use crate::balancer::Balancer;
use crate::pair::{GATEWAYS, Pair, url};
use crate::rig::Verdict;
use benches::{paced, question};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const BALANCER: &str = "127.0.0.1:39041";
const WORKERS: usize = 12;
/// Of the model: both directions cost a dollar per million tokens, so a token is 1,000 nano-dollars.
const NANO_PER_TOKEN: i64 = 1_000;

pub(crate) async fn run(binary: &Path, deaths: u64, seconds: u64) -> Vec<Verdict> {
    let mut verdicts = killed(binary, deaths).await;
    verdicts.extend(rolling(binary).await);
    verdicts.extend(away(binary, seconds).await);
    verdicts
}

/// Each gateway dies `deaths` times while the other goes on.
async fn killed(binary: &Path, deaths: u64) -> Vec<Verdict> {
    let mut pair = Pair::start(binary, 40, "").await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut load = JoinSet::new();
    for worker in 0..2 * WORKERS {
        load.spawn(work(worker, pair.key.clone(), Arc::clone(&stop)));
    }
    for death in 0..2 * deaths {
        tokio::time::sleep(Duration::from_millis(150 + (death * 7_919) % 900)).await;
        let at = usize::try_from(death % 2).unwrap_or(0);
        pair.kill(at);
        pair.start_gateway(at).await;
    }
    stop.store(true, Ordering::Relaxed);
    let answered: HashSet<String> = load.join_all().await.into_iter().flatten().collect();
    for at in 0..2 {
        pair.stop(at).await;
    }
    let (calls, booked) = (pair.calls(), pair.booked());
    let mut wrong = Vec::new();
    let (mut exact, mut unconfirmed, mut given_up) = (0, 0, 0);
    for (user, call) in &calls {
        let [record] = booked.get(user).map(Vec::as_slice).unwrap_or_default() else {
            wrong.push(format!("{user}: not one record"));
            continue;
        };
        let tokens = call["prompt_tokens"].as_i64().unwrap_or(0) + call["completion_tokens"].as_i64().unwrap_or(0);
        match record.state.as_str() {
            "unconfirmed" if record.charged == record.reserved => unconfirmed += 1,
            "served" if call["outcome"] == "ended" && record.charged == tokens * NANO_PER_TOKEN => exact += 1,
            "cancelled" | "failed" if call["outcome"] != "ended" => given_up += 1,
            state => wrong.push(format!("{user}: {state} at {} of {tokens} tokens, {call}", record.charged)),
        }
    }
    let lost = answered.iter().filter(|user| !booked.contains_key(*user)).count();
    println!(
        "{deaths} deaths of each: {} calls, {exact} settled exactly, {unconfirmed} unconfirmed at their reservation, {given_up} given \
         up; {} answered requests",
        calls.len(),
        answered.len()
    );
    wrong.iter().take(5).for_each(|line| println!("  {line}"));
    let closed = pair.command(&["ledger", "reconcile"]);
    let audit = pair.audit();
    vec![
        Verdict::new(
            format!(
                "two gateways on PostgreSQL, each kill -9 {deaths} times: every call settled exactly or at its reservation"
            ),
            format!(
                "{} calls, {} wrong; {lost} of {} answered requests missing",
                calls.len(),
                wrong.len(),
                answered.len()
            ),
            wrong.is_empty() && lost == 0 && exact > 0 && unconfirmed > 0,
        ),
        Verdict::new(
            "after `reconcile` every sum agrees, nothing is open or held, no budget exceeded",
            if audit.is_empty() { "agrees".to_owned() } else { audit.join("; ") },
            audit.is_empty() && closed.contains("closed"),
        ),
    ]
}

/// Asks a gateway without a pause, again where it is gone; returns the users whose answers were whole.
async fn work(worker: usize, key: String, stop: Arc<AtomicBool>) -> Vec<String> {
    let (client, mut whole) = (benches::client(), Vec::new());
    for at in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let user = format!("{worker}-{at}");
        let mut body = question("fire/one", &format!("question of {user}"));
        (body["user"], body["stream"]) = (json!(user), json!(at % 2 == 0));
        let request = client.post(url(worker % 2, "/v1/chat/completions")).bearer_auth(&key).body(body.to_string());
        let text = match request.send().await {
            Ok(response) if response.status() == 200 => response.text().await.unwrap_or_default(),
            _ => String::new(),
        };
        if text.ends_with("data: [DONE]\n\n") || text.ends_with('}') {
            whole.push(user);
        } else {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    whole
}

/// How a request through the balancer ended.
struct Ended {
    due: Instant,
    is_good: bool,
    problem: String,
}

/// Through the balancer, 100 a second, half of them streamed.
async fn through_balancer(key: String, seconds: u64) -> Vec<Ended> {
    const RATE: u64 = 100;
    let client = benches::client();
    paced(RATE, seconds, move |at, due| {
        let mut body = question("fire/one", &format!("behind the balancer {at}"));
        body["stream"] = json!(at % 2 == 0);
        let request = client.post(format!("http://{BALANCER}/v1/chat/completions")).bearer_auth(&key);
        let request = request.body(body.to_string());
        async move {
            let (status, text) = match request.send().await {
                Ok(response) => (response.status().as_u16(), response.text().await.unwrap_or_else(|e| e.to_string())),
                Err(error) => (0, format!("{error:?}")),
            };
            let is_whole = text.ends_with("data: [DONE]\n\n") || text.ends_with('}');
            Ended { due, is_good: status == 200 && is_whole, problem: format!("{status} {text}") }
        }
    })
    .await
}

async fn rolling(binary: &Path) -> Vec<Verdict> {
    const LEARNED: Duration = Duration::from_millis(20);
    const SECONDS: u64 = 25;
    const LATENCY_MS: u64 = 100;
    let mut pair = Pair::start(binary, LATENCY_MS, "").await;
    let _balancer = Balancer::start(BALANCER, &GATEWAYS).await;
    let load = tokio::spawn(through_balancer(pair.key.clone(), SECONDS));
    for at in 0..2 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        pair.stop(at).await;
        pair.start_gateway(at).await;
        tokio::time::sleep(Duration::from_secs(1)).await; // the balancer finds it ready
    }
    let ended = load.await.expect("no panic");
    let failed: Vec<&Ended> = ended.iter().filter(|ended| !ended.is_good).collect();
    failed.iter().take(3).for_each(|ended| println!("  {}", ended.problem));
    let restarted = Verdict::new(
        "both restarted one after the other behind a TCP balancer: no request of 100/s fails",
        format!("{} of {}", failed.len(), ended.len()),
        failed.is_empty(),
    );
    let load = tokio::spawn(through_balancer(pair.key.clone(), 8));
    tokio::time::sleep(Duration::from_secs(3)).await;
    pair.kill(0);
    let died = Instant::now() + LEARNED;
    let ended = load.await.expect("no panic");
    let failed: Vec<&Ended> = ended.iter().filter(|ended| !ended.is_good).collect();
    // An answer takes its latency and a few tens of milliseconds of streaming, and a client learns of a closed connection late.
    let others = failed.iter().filter(|ended| ended.due > died || died - ended.due > Duration::from_secs(1)).count();
    failed.iter().filter(|ended| ended.due > died).take(3).for_each(|ended| println!("  {}", ended.problem));
    println!("{} failed, {others} of them not in flight", failed.len());
    vec![
        restarted,
        Verdict::new(
            "kill -9 of one fails only its requests in flight",
            format!("{} failed, {others} of them not in flight", failed.len()),
            others == 0 && !failed.is_empty(),
        ),
    ]
}

/// What each gateway may spend while the database is away.
const OUTAGE_USD: f64 = 0.02;

/// A request of the outage: when it was due, its status, and what its answer says that it cost.
type Answered = (Instant, u16, i64);

/// PostgreSQL is away for so long under load.
async fn away(binary: &Path, seconds: u64) -> Vec<Verdict> {
    const RATE: u64 = 50;
    let mut pair = Pair::start(binary, 40, &format!("outage_spend_max_usd = {OUTAGE_USD}")).await;
    let (client, key) = (benches::client(), pair.key.clone());
    let ask = move |at: u64, due: Instant| {
        let body = question("fire/one", &format!("while it is away {at}")).to_string();
        let gateway = usize::try_from(at % 2).unwrap_or(0);
        let request = client.post(url(gateway, "/v1/chat/completions")).bearer_auth(&key).body(body);
        async move {
            let (status, text) = match request.send().await {
                Ok(response) => (response.status().as_u16(), response.text().await.unwrap_or_default()),
                Err(_) => (0, String::new()),
            };
            let cost = serde_json::from_str::<Value>(&text).ok().and_then(|body| body["usage"]["cost"].as_f64());
            (due, status, (cost.unwrap_or(0.0) * 1e9).round() as i64)
        }
    };
    let load = tokio::spawn(paced(RATE, seconds + 25, ask));
    tokio::time::sleep(Duration::from_secs(5)).await;
    tokio::task::block_in_place(|| pair.server.stop());
    let went = Instant::now();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let came = Instant::now();
    tokio::task::block_in_place(|| pair.server.start_again());
    let answered = load.await.expect("no panic");
    for at in 0..2 {
        pair.stop(at).await;
    }
    let during: Vec<Answered> = answered.iter().filter(|(due, ..)| *due >= went && *due < came).copied().collect();
    vec![within_limit(seconds, &during), balanced(&pair, &answered, came + Duration::from_secs(10))]
}

fn within_limit(seconds: u64, during: &[Answered]) -> Verdict {
    let count = |wanted: u16| during.iter().filter(|(_, status, _)| *status == wanted).count();
    let (served, refused) = (count(200), count(503));
    let otherwise = during.len() - served - refused;
    let spent: i64 = during.iter().map(|(.., cost)| cost).sum();
    let allowed = 2.0 * OUTAGE_USD;
    let spent = spent as f64 / 1e9;
    Verdict::new(
        format!(
            "PostgreSQL away for {seconds} s under load: two gateways serve up to outage_spend_max_usd each, then 503"
        ),
        format!("{served} for {spent:.6} USD of {allowed:.2}, then {refused} times 503, {otherwise} otherwise"),
        served > 0 && refused > 0 && spent <= allowed && otherwise == 0,
    )
}

fn balanced(pair: &Pair, answered: &[Answered], back: Instant) -> Verdict {
    let after: Vec<u16> = answered.iter().filter(|(due, ..)| *due >= back).map(|(_, status, _)| *status).collect();
    let good = after.iter().filter(|status| **status == 200).count();
    let paid: i64 = answered.iter().map(|(.., cost)| cost).sum();
    let number = |query: &str| pair.rows(query)[0][0].parse::<i64>().expect("a number");
    let booked = number("SELECT COALESCE(SUM(charged_nano), 0) FROM generations WHERE state <> 'unconfirmed'");
    let unconfirmed = number("SELECT COUNT(*) FROM generations WHERE state = 'unconfirmed'");
    let audit = pair.audit();
    let sums = if audit.is_empty() { "every sum agrees".to_owned() } else { audit.join("; ") };
    Verdict::new(
        "from 10 s after its return all are served; what was answered is booked, once; every sum agrees",
        format!(
            "{good} of {}; answered at {paid} and booked at {booked} nano-dollars, {unconfirmed} unconfirmed, {sums}",
            after.len()
        ),
        good == after.len() && good > 0 && paid == booked && audit.is_empty(),
    )
}
