//! `sluice eval cache`: replays labelled streams from an empty cache, and judges labelled pairs.

use crate::failure::Failure;
use crate::train::cache::load;
use ::cache::CacheModel;
use embedding::Embedder;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use trainer::cache::{
    Arrival, Comparing, Kind, Method, Point, Replayed, Rule, SHIPPABLE, Stream, Words, chart, kinds, kinds_held_out,
    net_at, prepare, prepare_pairs, read_pairs, read_stream, replay, sweep,
};

pub(crate) const SHIPPED_EMBEDDER: &str = "all-MiniLM-L6-v2";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The folder that holds cache/stream_NAME.jsonl.gz and cache/pairs_NAME.jsonl.gz.
    #[arg(long, value_name = "DIR", default_value = ".")]
    data: PathBuf,
    /// A stream to replay.
    #[arg(long, value_name = "NAME", conflicts_with = "pairs", required_unless_present = "pairs")]
    stream: Option<String>,
    /// Pairs to judge: a NAME in the folder, or a file.
    #[arg(long, value_name = "NAME|FILE")]
    pairs: Option<String>,
    /// Judges the pairs of each template with a model fitted without it, to the streams of the shipped model.
    #[arg(long, requires = "pairs", conflicts_with = "artefact")]
    held_out: bool,
    /// Shares of requests that may be answered wrongly, as given to the gateway.
    #[arg(long, value_name = "SHARE", value_delimiter = ',', default_value = "0.005,0.01,0.02,0.05")]
    error_max: Vec<f64>,
    /// Seeds that draw the audits.
    #[arg(long, value_name = "SEED", value_delimiter = ',', default_value = "1,2,3")]
    seed: Vec<u64>,
    /// First row.
    #[arg(long, value_name = "N", default_value_t = 0)]
    from: usize,
    /// Row after the last.
    #[arg(long, value_name = "N")]
    to: Option<usize>,
    /// A stream that follows without a break, as other traffic the next day.
    #[arg(long, value_name = "NAME", requires = "stream")]
    then: Option<String>,
    /// How often comparing a fresh answer with a stored one errs, which is taken to be known.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    evidence_error: f64,
    /// Share of misses and audits in which comparing says anything.
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    evidence_available: f64,
    /// What to compare at equal error.
    #[arg(long, value_name = "METHOD", value_delimiter = ',', default_value = "static,vcache,sluice")]
    methods: Vec<String>,
    /// A model of `sluice train cache`; by default the shipped one.
    #[arg(long, value_name = "FILE")]
    artefact: Option<PathBuf>,
    /// Writes a chart of hits against error.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Levels at which methods are compared.
const LEVELS: [f64; 3] = [0.01, 0.02, 0.05];

pub(crate) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    if let Some(share) = arguments.error_max.iter().find(|share| !(0.0..=1.0).contains(*share)) {
        return Err(Failure::Usage(format!("--error-max {share}: use a share from 0 to 1")));
    }
    for (name, share, max) in [
        ("--evidence-error", arguments.evidence_error, 0.49),
        ("--evidence-available", arguments.evidence_available, 1.0),
    ] {
        if !(0.0..=max).contains(&share) {
            return Err(Failure::Usage(format!("{name} {share}: use a share from 0 to {max}")));
        }
    }
    let methods = arguments.methods.iter().map(|name| method(name)).collect::<Result<Vec<_>, _>>()?;
    let model = match &arguments.artefact {
        None => CacheModel::shipped()?,
        Some(path) => CacheModel::from_json(&std::fs::read(path)?)?,
    };
    let embedder = Embedder::start(SHIPPED_EMBEDDER)?;
    if let Some(name) = &arguments.pairs {
        return judge_pairs(arguments, name, &model, &embedder).await;
    }
    let name = arguments.stream.as_deref().unwrap_or_default();
    let mut arrivals = read_stream(&arguments.data, name)?;
    let mut change = None;
    if let Some(then) = &arguments.then {
        change = arrivals.len().checked_sub(arguments.from);
        arrivals.extend(read_stream(&arguments.data, then)?.into_iter().map(Arrival::of_other_classes));
    }
    let all = arrivals.len();
    let rows = arguments.from..arguments.to.unwrap_or(all);
    if rows.start >= rows.end || rows.end > all {
        return Err(Failure::Usage(format!("--from {} --to {}: the stream has {all} rows", rows.start, rows.end)));
    }
    let embedding = bar(all, "embedding");
    let stream = prepare(name, arrivals, &embedder, |done| embedding.set_position(done as u64)).await?;
    embedding.finish_and_clear();
    let comparing = Comparing { error: arguments.evidence_error, available: arguments.evidence_available };
    let task = Task { stream, rows, change, model, words: embedder.words(), comparing };
    let (seeds, error_max) = (arguments.seed.clone(), arguments.error_max.clone());
    let report = tokio::task::spawn_blocking(move || task.run(&methods, &seeds, &error_max));
    let report = report.await.map_err(|error| Failure::Request(error.to_string()))?;
    if let Some(path) = &arguments.svg {
        std::fs::write(path, chart(&format!("{name}: calls saved at equal error"), &report.curves))?;
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report.json()).map_err(std::io::Error::other)?);
    } else {
        report.print();
    }
    Ok(())
}

fn method(name: &str) -> Result<Method, Failure> {
    match name {
        "static" => Ok(Method::Static),
        "vcache" => Ok(Method::Vcache),
        "sluice" => Ok(Method::Sluice),
        other => Err(Failure::Usage(format!("--methods {other}: use static, vcache or sluice"))),
    }
}

/// A progress bar on a terminal, nothing elsewhere.
pub(crate) fn bar(length: usize, what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {bar:40} {percent}%");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length as u64).with_style(style).with_message(what.to_owned())
}

struct Task {
    stream: Stream,
    rows: Range<usize>,
    /// The row with which other traffic begins.
    change: Option<usize>,
    model: CacheModel,
    words: Words,
    comparing: Comparing,
}

struct Report {
    stream: String,
    requests: usize,
    change: Option<usize>,
    /// Share of requests whose class was seen before.
    oracle: f64,
    curves: Vec<(Method, Vec<Point>)>,
    /// What came of the gateway's own rule, by the share that may be wrong and the seed.
    kept: Vec<(f64, u64, Replayed)>,
}

impl Task {
    fn run(&self, methods: &[Method], seeds: &[u64], error_max: &[f64]) -> Report {
        let settings: usize = methods.iter().map(|method| method.settings().len()).sum();
        let bar = bar(settings + seeds.len() * error_max.len(), "replaying");
        let first = seeds.first().copied().unwrap_or(1);
        let curves = methods
            .iter()
            .map(|method| {
                let stream = (&self.stream, self.rows.clone());
                (*method, sweep(*method, stream, (&self.model, &self.words), first, || bar.inc(1)))
            })
            .collect();
        let mut kept = Vec::new();
        for share in error_max {
            for seed in seeds {
                let stream = (&self.stream, self.rows.clone());
                let (rule, chance) = (Rule::ErrorMax(*share), (*seed, self.comparing));
                kept.push((*share, *seed, replay(stream, (&self.model, &self.words), rule, chance)));
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        let mut seen = std::collections::HashSet::new();
        let rows = &self.stream.rows[self.rows.clone()];
        let repeated = rows.iter().filter(|row| !seen.insert((row.scope, row.class))).count();
        let oracle = repeated as f64 / rows.len() as f64;
        Report { stream: self.stream.name.clone(), requests: rows.len(), change: self.change, oracle, curves, kept }
    }
}

impl Report {
    fn json(&self) -> Value {
        let curve = |(method, points): &(Method, Vec<Point>)| {
            let at = LEVELS.map(|level| json!({"error": level, "net": net_at(points, level)}));
            json!({"method": method, "at_equal_error": at, "points": points})
        };
        let kept = |(share, seed, replayed): &(f64, u64, Replayed)| {
            let mut row = serde_json::to_value(replayed).unwrap_or_default();
            row["error_max"] = json!(share);
            row["seed"] = json!(seed);
            row["error"] = json!(replayed.error());
            row["net"] = json!(replayed.net());
            row["audits_per_hit"] = json!(replayed.audits as f64 / replayed.hits.max(1) as f64);
            if let Some(change) = self.change {
                row["back_under_after"] = json!(replayed.back_under(*share, change));
            }
            row
        };
        json!({
            "stream": self.stream, "requests": self.requests, "oracle": self.oracle,
            "methods": self.curves.iter().map(curve).collect::<Vec<_>>(),
            "given_error_max": self.kept.iter().map(kept).collect::<Vec<_>>(),
        })
    }

    fn print(&self) {
        println!("{}: {} requests, {:.1} % could be hits", self.stream, self.requests, 100.0 * self.oracle);
        println!("\ncalls saved, audits taken off, in % of requests, where so many are answered wrongly:");
        println!("  {:<10} {:>8} {:>8} {:>8}", "", "1 %", "2 %", "5 %");
        for (method, points) in &self.curves {
            let at = LEVELS.map(|level| match net_at(points, level) {
                Some(net) => format!("{:.1}", 100.0 * net),
                None => "–".to_owned(),
            });
            let name = match method {
                Method::Static => "one cosine",
                Method::Vcache => "vCache",
                Method::Sluice => "Sluice",
            };
            println!("  {name:<10} {:>8} {:>8} {:>8}", at[0], at[1], at[2]);
        }
        println!("\ngiven the share that may be wrong, in % of requests:");
        println!(
            "  {:>9} {:>4} {:>7} {:>7} {:>7} {:>7} {:>18} {:>7} {:>7} {:>7} {:>11}",
            "error_max",
            "seed",
            "saved",
            "hits",
            "wrong",
            "audits",
            "own estimate",
            "first*",
            "wrong*",
            "worst**",
            "p50/p99 µs"
        );
        for (share, seed, replayed) in &self.kept {
            let percent = |count: usize| 100.0 * count as f64 / replayed.requests.max(1) as f64;
            let first = |count: usize| 100.0 * count as f64 / replayed.first.requests.max(1) as f64;
            let estimate = replayed
                .estimate
                .map(|estimate| format!("{:.2} (to {:.2})", 100.0 * estimate.error, 100.0 * estimate.error_high));
            println!(
                "  {:>9} {seed:>4} {:>7.1} {:>7.1} {:>7.2} {:>7.2} {:>18} {:>7.1} {:>7.2} {:>7.1} {:>11}",
                format!("{} %", 100.0 * share),
                100.0 * replayed.net(),
                percent(replayed.hits),
                percent(replayed.wrong),
                percent(replayed.audits),
                estimate.unwrap_or_default(),
                first(replayed.first.hits - replayed.first.audits),
                first(replayed.first.wrong),
                replayed.worst_thousand as f64 / 10.0,
                format!("{:.0}/{:.0}", replayed.decision_us_p50, replayed.decision_us_p99),
            );
        }
        println!("  * of the first 6,000 requests; ** of any 1,000 in a row");
        if let Some(change) = self.change {
            println!("\nafter how many requests of the other traffic 500 in a row are under what may be wrong:");
            for (share, seed, replayed) in &self.kept {
                let back = replayed.back_under(*share, change);
                let back = back.map_or_else(|| "never".to_owned(), |after| after.to_string());
                println!("  {:>9} {seed:>4} {back:>7}", format!("{} %", 100.0 * share));
            }
        }
    }
}

async fn judge_pairs(
    arguments: &Arguments,
    name: &str,
    model: &CacheModel,
    embedder: &Embedder,
) -> Result<(), Failure> {
    let pairs = read_pairs(&arguments.data, name)?;
    let embedding = bar(2 * pairs.len(), "embedding");
    let pairs = prepare_pairs(pairs, embedder, |done| embedding.set_position(done as u64)).await?;
    embedding.finish_and_clear();
    let error_max = arguments.error_max.first().copied().unwrap_or(0.01);
    let words = embedder.words();
    let found = if arguments.held_out {
        let names: Vec<&str> = SHIPPABLE.into_iter().filter(|name| name.starts_with("stream_")).collect();
        let (streams, _) = load(&names, &arguments.data, embedder).await?;
        let templates: BTreeSet<_> = pairs.iter().map(|pair| (&pair.pair.kind, &pair.pair.test)).collect();
        let fitting = bar(templates.len(), "fitting");
        let judged = move || {
            let found = kinds_held_out(&streams, &pairs, &words, error_max, || fitting.inc(1));
            fitting.finish_and_clear();
            found
        };
        tokio::task::spawn_blocking(judged).await.map_err(|error| Failure::Request(error.to_string()))??
    } else {
        kinds(&pairs, model, &words, error_max)
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&found).map_err(std::io::Error::other)?);
        return Ok(());
    }
    println!("{:<18} {:>18} {:>18}   cosine ≥ 0.95 alone", "", "other answer", "same answer");
    found.iter().for_each(print_kind);
    let sum = |count: fn(&Kind) -> usize| found.iter().map(count).sum::<usize>();
    let all = Kind {
        kind: "all".to_owned(),
        different: sum(|kind| kind.different),
        wrongly_served: sum(|kind| kind.wrongly_served),
        same: sum(|kind| kind.same),
        rightly_served: sum(|kind| kind.rightly_served),
        different_by_cosine: sum(|kind| kind.different_by_cosine),
        same_by_cosine: sum(|kind| kind.same_by_cosine),
        ..Kind::default()
    };
    print_kind(&all);
    Ok(())
}

fn print_kind(kind: &Kind) {
    let of = |served: usize, all: usize| if all == 0 { String::new() } else { format!("{served} of {all}") };
    println!(
        "{:<18} {:>18} {:>18}   {} | {}  {}",
        kind.kind,
        of(kind.wrongly_served, kind.different),
        of(kind.rightly_served, kind.same),
        of(kind.different_by_cosine, kind.different),
        of(kind.same_by_cosine, kind.same),
        kind.template
    );
}
