//! Every fault of the simulator, whole and streamed, alone and with a second endpoint: what the client got, what was
//! called, what was booked. The table is docs/faults.md; `UPDATE_DOCS=1` writes it anew.

use crate::stack::{Answered, Stack, endpoints, question, simulator, streamed};
use database::Database;
use serde_json::{Value, json};
use simulator::{FAULTS, Fault};
use std::path::Path;
use tokio::task::JoinSet;

const CONFIG: &str = "[cache.semantic]\nenabled = false\n[cache.exact]\nenabled = false\n";
/// Stacks at once: most of the time is spent waiting for deadlines.
const AT_ONCE: usize = 12;

/// What is wrong with the first endpoint.
#[derive(Clone, Copy, PartialEq)]
enum Trouble {
    Simulated(Fault),
    /// No connection: nobody listens there, the name does not resolve, or no TLS is spoken.
    Unreachable(&'static str),
}

impl Trouble {
    fn all() -> Vec<Self> {
        let unreachable = ["refused", "dns", "tls"].map(Self::Unreachable);
        unreachable.into_iter().chain(FAULTS.map(Self::Simulated)).collect()
    }

    fn name(self) -> String {
        match self {
            Self::Simulated(fault) => fault.name(),
            Self::Unreachable(name) => name.to_owned(),
        }
    }
}

/// One cell of the matrix.
#[derive(Clone, Copy)]
struct Case {
    trouble: Trouble,
    is_stream: bool,
    has_second: bool,
}

/// What came of it.
struct Row {
    case: Case,
    answered: Answered,
    generation: Value,
    upstream_calls: u64,
    open_reservations: i64,
    records: i64,
}

async fn run(case: Case) -> Row {
    let name = format!("sim/fault-{}", case.trouble.name());
    let upstreams = if case.has_second { vec![name.as_str(), "sim/small"] } else { vec![name.as_str()] };
    let mut config = endpoints("acme/faulty", &upstreams) + CONFIG;
    let simulator = simulator(vec![]).await;
    if let Trouble::Unreachable(name) = case.trouble {
        let url = match name {
            "refused" => "http://127.0.0.1:1/v1".to_owned(),
            "dns" => "http://no-such-host.invalid/v1".to_owned(),
            _ => simulator.base_url().replace("http:", "https:"),
        };
        config = config.replacen("provider = \"p0\"", "provider = \"away\"", 1);
        config.push_str(&format!("[providers.away]\nkind = \"openai\"\nbase_url = \"{url}\"\n"));
    }
    let stack = Stack::with(simulator, &config).await;
    let body = question("acme/faulty", "what comes back when a provider misbehaves?");
    let answered = stack.chat(&if case.is_stream { streamed(body) } else { body }).await;
    let generation = stack.generation(&answered).await;
    let database = Database::open(&stack.database()).await.expect("the same file");
    let key = database.keys(None).await.expect("keys").remove(0);
    let (records, charged) = database.charged_to_key(&key.hash).await.expect("sums");
    assert_eq!(charged, key.usage_nano, "{}: the key's sum is the sum of its records", case.trouble.name());
    let open_reservations = database.open_reservations().await.expect("a count");
    Row { case, answered, generation, upstream_calls: stack.simulator.arrived(), open_reservations, records }
}

impl Row {
    /// What the client saw: the status, then how the answer ended.
    fn outcome(&self) -> String {
        let answered = &self.answered;
        if answered.status != 200 {
            let error = answered.json()["error"]["metadata"]["error_type"].as_str().unwrap_or("?").to_owned();
            return format!("{} {error}", answered.status);
        }
        if !self.case.is_stream {
            return format!("200 {}", finish(&answered.json()["choices"][0]));
        }
        let events = answered.events();
        let ends: Vec<String> =
            events.iter().map(|event| finish(&event["choices"][0])).filter(|end| end != "null").collect();
        match events.last().and_then(|event| event["error"]["metadata"]["error_type"].as_str()) {
            Some(error) => format!("200, then the error {error}"),
            None => format!("200 {}", ends.join(" ")),
        }
    }

    fn attempts(&self) -> String {
        let attempts = self.generation["sluice"]["attempts"].as_array().cloned().unwrap_or_default();
        attempts.iter().filter_map(|attempt| attempt["outcome"].as_str()).collect::<Vec<_>>().join(", ")
    }

    fn settlement(&self) -> String {
        let micro = |value: &Value| format!("{:.0}", value.as_f64().unwrap_or(f64::NAN) * 1e6);
        let generation = &self.generation;
        let mark = if generation["sluice"]["estimated"] == true { ", estimated" } else { "" };
        format!(
            "{}{mark}, {} / {}",
            generation["sluice"]["state"].as_str().unwrap_or("?"),
            micro(&generation["total_cost"]),
            micro(&generation["upstream_inference_cost"])
        )
    }

    /// What must hold whatever the fault.
    fn check(&self) {
        let name =
            format!("{} stream={} second={}", self.case.trouble.name(), self.case.is_stream, self.case.has_second);
        let text = &self.answered.text;
        assert_eq!((self.records, self.open_reservations), (1, 0), "{name}: settled once");
        assert!(!text.contains("<html") && !text.contains("10.1.2.3"), "{name}: nothing internal leaks: {text}");
        let attempts = self.generation["sluice"]["attempts"].as_array().map_or(0, Vec::len) as u64;
        if let Trouble::Simulated(_) = self.case.trouble {
            assert_eq!(attempts, self.upstream_calls, "{name}: every call is recorded");
        }
        if self.outcome().contains("stop") {
            assert_eq!(self.generation["sluice"]["state"], "served", "{name}: `stop` only on a whole answer");
        }
        if self.case.is_stream && self.answered.status == 200 {
            let ended_well = text.trim_end().ends_with("data: [DONE]");
            assert_eq!(ended_well, !self.outcome().contains("error"), "{name}: a clean end only for a whole answer");
        }
        if self.generation["sluice"]["state"] == "failed" && !self.outcome().starts_with("200") {
            assert_eq!(self.generation["total_cost"], json!(0.0), "{name}: an answer of nothing costs nothing");
        }
        if self.answered.status == 429 || self.answered.status == 503 {
            assert!(!self.answered.header("retry-after").is_empty(), "{name}: says when to come back");
        }
    }

    fn line(&self) -> String {
        let mode = if self.case.is_stream { "stream" } else { "whole" };
        let with = if self.case.has_second { "second" } else { "alone" };
        format!(
            "| {} | {mode} | {with} | {} | {} | {} | {} |\n",
            self.case.trouble.name(),
            self.outcome(),
            self.attempts(),
            self.upstream_calls,
            self.settlement()
        )
    }
}

fn finish(choice: &Value) -> String {
    choice["finish_reason"].as_str().unwrap_or("null").to_owned()
}

const INTRODUCTION: &str = "# What a client gets when a provider misbehaves

Printed by `cargo test -p tests faults -- --nocapture`, which fails when this table is not what happens; `UPDATE_DOCS=1` before
it writes the table anew. The faults are the simulator's (`sluice simulate`, models `sim/fault-NAME`); each row is one request to a
gateway of its own, over TCP, `alone` or with a well `second` endpoint. Deadlines of the run: first token 0.7 s, between events
0.7 s, total 1.5 s; a request waits at most 0.5 s for an endpoint at its limit.

`settled` is the state of the one record, then what the key was charged / what providers may take, in millionths of a dollar:
calls that brought nothing are booked at an estimate where the provider was at work, and never charged.

| fault | answer | endpoints | client sees | attempts | calls | settled |
|---|---|---|---|---|---:|---|
";

/// More rows that differ, or one that does so often, are no matter of a busy machine.
const RUN_AGAIN_MAX: usize = 4;
const TIMES_AGAIN_MAX: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn the_matrix_of_faults_is_what_the_documentation_says() {
    let troubles = Trouble::all();
    let all = |trouble: &Trouble| {
        [(false, false), (false, true), (true, false), (true, true)].map(|(is_stream, has_second)| Case {
            trouble: *trouble,
            is_stream,
            has_second,
        })
    };
    let mut cases: Vec<Case> = troubles.iter().flat_map(all).rev().collect();
    let count = cases.len();
    let mut running = JoinSet::new();
    let mut rows = Vec::new();
    while rows.len() < count {
        while running.len() < AT_ONCE
            && let Some(case) = cases.pop()
        {
            running.spawn(run(case));
        }
        rows.push(running.join_next().await.expect("a case runs").expect("no panic"));
    }
    rows.sort_by_key(|row| {
        let place = troubles.iter().position(|trouble| *trouble == row.case.trouble);
        (place, row.case.is_stream, row.case.has_second)
    });
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("docs/faults.md");
    // A busy machine can miss a deadline: the few rows that differ are run again, each by itself.
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    let differing: Vec<usize> = (0..rows.len()).filter(|at| !known.contains(&rows[*at].line())).collect();
    if differing.len() <= RUN_AGAIN_MAX {
        for at in differing {
            for _ in 0..TIMES_AGAIN_MAX {
                rows[at] = run(rows[at].case).await;
                if known.contains(&rows[at].line()) {
                    break;
                }
            }
        }
    }
    rows.iter().for_each(Row::check);
    let table: String = rows.iter().map(Row::line).collect();
    let document = format!("{INTRODUCTION}{table}");
    println!("{document}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &document).expect("docs/faults.md");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let differing = document.lines().zip(kept.lines()).find(|(now, kept)| now != kept);
    assert_eq!(differing, None, "docs/faults.md differs; UPDATE_DOCS=1 writes it anew");
    assert_eq!(document.lines().count(), kept.lines().count(), "docs/faults.md has other rows");
}
