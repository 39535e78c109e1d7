//! `sluice demo`: what cache and router save on a workload whose truth is known.

use crate::failure::Failure;
use catalog::NanoUsd;
use gateway::{App, ConfigFile, serve};
use indicatif::{ProgressBar, ProgressStyle};
use providers::{Outbound, Received};
use serde_json::{Value, json};
use simulator::{Answers, Row, SimulatedModel, Simulator};
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::TcpListener;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Another workload, in the format of an answers file; its models must be sim/small and sim/large.
    #[arg(long, value_name = "FILE")]
    workload: Option<PathBuf>,
    /// Share of the large model's expected quality that the policy keeps.
    #[arg(long, default_value_t = 0.93, value_name = "SHARE")]
    quality_min: f64,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    /// Prints every wrong answer and what led to it.
    #[arg(long)]
    wrong: bool,
}

const WORKLOAD: &str = include_str!("../demo/workload.jsonl");
const SMALL: &str = "sim/small";
const LARGE: &str = "sim/large";
/// A request that takes longer than this has gone wrong.
const DEADLINE: Duration = Duration::from_secs(30);

/// What is switched on in one replay.
#[derive(Debug, Clone, Copy)]
struct Mode {
    name: &'static str,
    cache: bool,
    routing: bool,
}

const MODES: [Mode; 4] = [
    Mode { name: "everything off", cache: false, routing: false },
    Mode { name: "cache only", cache: true, routing: false },
    Mode { name: "routing only", cache: false, routing: true },
    Mode { name: "both", cache: true, routing: true },
];

/// The account of one replay.
#[derive(Debug, Default)]
struct Report {
    requests: usize,
    cost: NanoUsd,
    exact: usize,
    similar: usize,
    /// Hits whose stored answer belongs to a question with another right answer.
    wrong_by_cache: usize,
    /// Requests sent to the small model.
    to_small: usize,
    /// Fresh answers worse than the large model's would have been.
    wrong_by_routing: usize,
    /// Sum of the answers' scores.
    score: f64,
    notes: Vec<String>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let rows = match &arguments.workload {
        None => Row::parse_all(WORKLOAD)?,
        Some(path) => Row::parse_all(&std::fs::read_to_string(path)?)?,
    };
    let style =
        ProgressStyle::with_template("{msg:16} {bar:40} {pos}/{len}").unwrap_or_else(|_| ProgressStyle::default_bar());
    let mut reports = Vec::new();
    for mode in MODES {
        let bar = ProgressBar::new(rows.len() as u64).with_style(style.clone()).with_message(mode.name);
        let replayed = replay(mode, &rows, arguments.quality_min, || bar.inc(1)).await?;
        bar.finish_and_clear();
        reports.push((mode, replayed));
    }
    if arguments.json {
        println!("{}", json_of(&rows, &reports));
        return Ok(());
    }
    print(&rows, &reports, arguments.quality_min);
    if arguments.wrong {
        for (mode, report) in &reports {
            report.notes.iter().for_each(|note| println!("{}: {note}", mode.name));
        }
    }
    Ok(())
}

/// A whole gateway of its own, on real sockets, with a fresh database.
async fn replay(mode: Mode, rows: &[Row], quality_min: f64, tick: impl Fn()) -> Result<Report, Failure> {
    let folder = tempfile::tempdir()?;
    let models = [SMALL, LARGE].map(SimulatedModel::new).to_vec();
    let answers = Answers::new(rows.iter().cloned());
    let simulator = Simulator::start(TcpListener::bind("127.0.0.1:0").await?, models, answers)?;
    let text = config(&folder.path().join("sluice.db").display().to_string(), quality_min);
    let file = ConfigFile::parse("demo", text)?;
    let config = file.check(|_| None, Some(&simulator.base_url()))?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let started = App::start(config, Some("demo")).await?;
    for notice in started.notices.iter().filter(|notice| notice.contains("OFF")) {
        eprintln!("note: {notice}");
    }
    let key = started.keys.as_ref().and_then(|keys| keys.virtual_key.clone()).unwrap_or_default();
    let gateway = serve(started, listener)?;
    let url = format!("http://{}/v1/chat/completions", gateway.address);
    let client = Outbound::new(DEADLINE).map_err(|error| Failure::Request(error.to_string()))?;
    let mut report = Report::default();
    let mut class_of = HashMap::new();
    for row in rows {
        let body = json!({
            "model": if mode.routing { "auto" } else { LARGE },
            "messages": [{"role": "user", "content": row.prompt}],
            "temperature": 0,
            "sluice": {"cache": {"mode": if mode.cache { "on" } else { "off" }}, "trace": true},
        });
        let received = client.post(&url, &key, body.to_string()).await;
        let received = received.map_err(|failure| Failure::Request(failure.to_string()))?;
        if received.status != 200 {
            return Err(Failure::Request(String::from_utf8_lossy(&received.body).into_owned()));
        }
        report.add(row, &received, &mut class_of, rows);
        tick();
    }
    report.cost += audits(&client, &format!("http://{}/v1/cache/stats", gateway.address), &key).await?;
    gateway.stop().await;
    Ok(report)
}

/// What checking the cache's hits has cost.
async fn audits(client: &Outbound, url: &str, key: &str) -> Result<NanoUsd, Failure> {
    let stats = client.get_as(url, key).await.map_err(|failure| Failure::Request(failure.to_string()))?;
    let stats: Value = serde_json::from_slice(&stats.body).unwrap_or_default();
    let usd = stats["data"]["audits_usd"].as_f64();
    usd.and_then(NanoUsd::from_usd)
        .ok_or_else(|| Failure::Request("the cache says not what its audits cost".to_owned()))
}

/// The demo's configuration. Its models have no `ability`: the router knows of them what it knows of any model without
/// labels, their price.
fn config(database: &str, quality_min: f64) -> String {
    let model = |id: &str, input: f64, output: f64| {
        format!(
            "[[models]]\nid = \"{id}\"\n[[models.endpoints]]\nprovider = \"simulated\"\nname = \"{id}\"\n\
             input_usd_per_mtok = {input:?}\noutput_usd_per_mtok = {output:?}\ncontext_tokens = 128000\n\
             output_tokens_max = 16384\n"
        )
    };
    format!(
        "[database]\nurl = \"sqlite://{database}\"\n[embedding]\nbudget_ms = 1000\n{}{}[policies.auto]\n\
         candidates = [\"{SMALL}\", \"{LARGE}\"]\nbaseline = \"{LARGE}\"\nquality_min = {quality_min:?}\n",
        model(SMALL, 0.15, 0.60),
        model(LARGE, 2.50, 10.00)
    )
}

impl Report {
    fn add(&mut self, row: &Row, received: &Received, class_of: &mut HashMap<String, u64>, rows: &[Row]) {
        let header = |name: &str| received.header(name).unwrap_or_default().to_owned();
        let (model, cache) = (header("x-sluice-model"), header("x-sluice-cache"));
        let source = header("x-sluice-cache-id");
        let score_of = |class: u64, model: &str| {
            let known = rows.iter().find(|row| row.class == class).and_then(|row| row.answers.get(model));
            known.map_or(0.0, |answer| answer.score)
        };
        self.requests += 1;
        self.cost += header("x-sluice-cost-usd").parse().ok().and_then(NanoUsd::from_usd).unwrap_or_default();
        class_of.insert(header("x-generation-id"), row.class);
        match cache.as_str() {
            "exact" => self.exact += 1,
            "similar" => self.similar += 1,
            _ => {}
        }
        if let Some(class) = class_of.get(&source) {
            if *class == row.class {
                self.score += score_of(row.class, &model);
            } else {
                self.wrong_by_cache += 1;
                self.notes.push(format!("wrong hit for {:?}", row.prompt));
            }
            return;
        }
        let (score, best) = (score_of(row.class, &model), score_of(row.class, LARGE));
        self.score += score;
        self.to_small += usize::from(model == SMALL);
        if score < best {
            self.wrong_by_routing += 1;
            let body: Value = serde_json::from_slice(&received.body).unwrap_or_default();
            let difficulty = &body["sluice"]["trace"]["route"]["difficulty"];
            self.notes.push(format!("the small model was wrong at difficulty {difficulty:.2}: {:?}", row.prompt));
        }
    }
}

fn share(rows: &[Row], kind: &str) -> f64 {
    100.0 * rows.iter().filter(|row| row.kind == kind).count() as f64 / rows.len().max(1) as f64
}

fn print(rows: &[Row], reports: &[(Mode, Report)], quality_min: f64) {
    println!(
        "{} requests: {:.0} % unique, {:.0} % paraphrases, {:.0} % repeats, {:.0} % traps; answers and scores are written \
         for the demo, prices are those of the simulator; policy: keep {quality_min} of sim/large's expected quality",
        rows.len(),
        share(rows, "unique"),
        share(rows, "paraphrase"),
        share(rows, "repeat"),
        share(rows, "trap")
    );
    let columns =
        ["", "cost USD", "saved", "hits", "exact", "similar", "small", "wrong: cache", "wrong: routing", "score"];
    let widths = [15, 10, 7, 7, 6, 8, 6, 13, 15, 7];
    let line = |cells: &[String]| {
        let padded: Vec<String> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
        println!("| {} |", padded.join(" | "));
    };
    line(&columns.map(str::to_owned));
    line(&widths.map(|width| "-".repeat(width)));
    let full = reports.first().map_or(0.0, |(_, report)| report.cost.as_usd());
    for (mode, report) in reports {
        let percent = |count: usize| 100.0 * count as f64 / report.requests.max(1) as f64;
        line(&[
            mode.name.to_owned(),
            format!("{:.6}", report.cost.as_usd()),
            format!("{:.1} %", 100.0 * (1.0 - report.cost.as_usd() / full.max(1e-12))),
            format!("{:.1} %", percent(report.exact + report.similar)),
            report.exact.to_string(),
            report.similar.to_string(),
            report.to_small.to_string(),
            format!("{} ({:.1} %)", report.wrong_by_cache, percent(report.wrong_by_cache)),
            format!("{} ({:.1} %)", report.wrong_by_routing, percent(report.wrong_by_routing)),
            format!("{:.1} %", 100.0 * report.score / report.requests.max(1) as f64),
        ]);
    }
}

fn json_of(rows: &[Row], reports: &[(Mode, Report)]) -> Value {
    let row = |(mode, report): &(Mode, Report)| {
        json!({
            "mode": mode.name, "requests": report.requests, "cost_nano_usd": report.cost.0, "exact": report.exact,
            "similar": report.similar, "to_small": report.to_small, "wrong_by_cache": report.wrong_by_cache,
            "wrong_by_routing": report.wrong_by_routing, "mean_score": report.score / report.requests.max(1) as f64,
        })
    };
    let shares: Value =
        ["unique", "paraphrase", "repeat", "trap"].iter().map(|kind| (*kind, share(rows, kind))).collect();
    json!({"requests": rows.len(), "percent": shares, "modes": reports.iter().map(row).collect::<Vec<_>>()})
}
