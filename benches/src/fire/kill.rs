//! kill -9 of the gateway at random moments under load: what the simulator counted is in the books, once.

use crate::rig::{Asked, NO_CACHE, Rig, Verdict, model, provider};
use benches::question;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const WORKERS: u64 = 24;
const MONEY: &str = "data/sluice.db";
/// Of the model: both directions cost a dollar per million tokens, so a token is 1,000 nano-dollars.
const NANO_PER_TOKEN: i64 = 1_000;

/// A record of the ledger.
struct Record {
    state: String,
    charged: i64,
    reserved: i64,
}

pub(crate) async fn run(binary: &Path, deaths: u64) -> Vec<Verdict> {
    let config = provider("first", "") + NO_CACHE + &model("fire/one", &[("first", "sim/small", 1.0)]);
    let mut rig = Rig::start(binary, 40, &config).await;
    let mut answered: HashSet<String> = HashSet::new();
    let began = Instant::now();
    for death in 0..deaths {
        if death > 0 {
            rig.start_gateway().await;
        }
        let life = Duration::from_millis(150 + (death * 7_919) % 900);
        let ended = kill_under_load(&mut rig, life, WORKERS, |client, url, key, worker| {
            work(client, url, key, format!("{death}-{worker}"))
        });
        answered.extend(ended.await.into_iter().flatten());
    }
    rig.start_gateway().await; // settles what is left as unconfirmed
    let records = records(rig.folder.path());
    let calls = calls(rig.folder.path());
    let mut wrong = Vec::new();
    let (mut exact, mut unconfirmed, mut given_up) = (0, 0, 0);
    for (user, call) in &calls {
        let of_user = records.get(user).map(Vec::as_slice).unwrap_or_default();
        let [record] = of_user else {
            wrong.push(format!("{user}: {} records", of_user.len()));
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
    let lost = answered.iter().filter(|user| !records.contains_key(*user)).count();
    println!(
        "{deaths} deaths in {:.0} s: {} calls, {exact} settled exactly, {unconfirmed} unconfirmed at their reservation, {given_up} \
         given up; {} answered requests",
        began.elapsed().as_secs_f64(),
        calls.len(),
        answered.len()
    );
    wrong.iter().take(5).for_each(|line| println!("  {line}"));
    let closed = rig.command(&["ledger", "reconcile"]);
    let left = rig.command(&["ledger", "reconcile", "--list"]);
    let (open, difference) = balance(rig.folder.path());
    vec![
        Verdict::new(
            format!(
                "kill -9 at {deaths} moments: every call settled exactly or as unconfirmed at its reservation, once"
            ),
            format!("{} calls, {} wrong", calls.len(), wrong.len()),
            wrong.is_empty() && !calls.is_empty() && unconfirmed > 0 && exact > 0,
        ),
        Verdict::new("answered requests are all there", format!("{lost} of {} missing", answered.len()), lost == 0),
        Verdict::new(
            "after `reconcile` nothing stays open, and keys add up",
            format!("{}; {open} reservations, difference {difference}", left.lines().last().unwrap_or_default()),
            left.ends_with("0 unconfirmed\n") && open == 0 && difference == 0 && closed.contains("closed"),
        ),
    ]
}

/// Lets workers ask, and kills the gateway after a while; returns what each worker does. A worker gets a client, the address,
/// a key and its number.
pub(crate) async fn kill_under_load<F>(
    rig: &mut Rig,
    life: Duration,
    workers: u64,
    work: impl Fn(reqwest::Client, String, String, u64) -> F,
) -> Vec<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let until = Instant::now() + life;
    let mut load = JoinSet::new();
    for worker in 0..workers {
        load.spawn(work(rig.client.clone(), rig.url("/v1/chat/completions"), rig.key.clone(), worker));
    }
    tokio::time::sleep_until(until.into()).await;
    drop(rig.gateway.take()); // SIGKILL
    load.join_all().await
}

/// Asks without a pause until the gateway is gone; returns the users whose answers were whole.
async fn work(client: reqwest::Client, url: String, key: String, name: String) -> Vec<String> {
    let mut whole = Vec::new();
    for at in 0.. {
        let user = format!("{name}-{at}");
        let mut body = question("fire/one", &format!("question of {user}"));
        body["user"] = json!(user);
        body["stream"] = json!(at % 2 == 0);
        let Ok(response) = client.post(&url).bearer_auth(&key).body(body.to_string()).send().await else { break };
        if response.status() != 200 {
            break;
        }
        let asked = Asked { text: response.text().await.unwrap_or_default(), ..Asked::default() };
        if asked.text.ends_with("data: [DONE]\n\n") || asked.text.ends_with('}') {
            whole.push(user);
        } else {
            break;
        }
    }
    whole
}

/// The simulator's log by user.
fn calls(folder: &Path) -> HashMap<String, Value> {
    let text = std::fs::read_to_string(folder.join("calls.jsonl")).expect("the simulator's log");
    let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of the log"));
    rows.map(|row| (row["user"].as_str().unwrap_or_default().to_owned(), row)).collect()
}

fn records(folder: &Path) -> HashMap<String, Vec<Record>> {
    let mut records: HashMap<String, Vec<Record>> = HashMap::new();
    for row in query(folder, MONEY, "SELECT end_user, state, charged_nano, reserved_nano FROM generations") {
        let number = |at: usize| row[at].as_i64().unwrap_or(0);
        let record =
            Record { state: row[1].as_str().unwrap_or_default().to_owned(), charged: number(2), reserved: number(3) };
        records.entry(row[0].as_str().unwrap_or_default().to_owned()).or_default().push(record);
    }
    records
}

/// Open reservations, and by how much the keys' sums differ from their records.
fn balance(folder: &Path) -> (i64, i64) {
    let rows = query(
        folder,
        MONEY,
        "SELECT (SELECT COUNT(*) FROM reservations), (SELECT SUM(usage_nano) FROM keys) - \
         (SELECT SUM(charged_nano) FROM generations)",
    );
    (rows[0][0].as_i64().unwrap_or(-1), rows[0][1].as_i64().unwrap_or(-1))
}

/// Reads a file of the gateway with Python's SQLite: an auditor that is not our own code.
pub(crate) fn query(folder: &Path, file: &str, sql: &str) -> Vec<Value> {
    let script = "import json, sqlite3, sys\nfor row in sqlite3.connect(sys.argv[1]).execute(sys.argv[2]): print(json.dumps(row))";
    let output =
        Command::new("python3").args(["-c", script, file, sql]).current_dir(folder).output().expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("a row")).collect()
}
