//! `sluice eval router`: measures the router's predictor on held-out outcomes.

use crate::failure::Failure;
use router::Predictor;
use std::path::PathBuf;
use trainer::router::{Evaluation, SHIPPABLE, evaluate, read_outcomes};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The folder that holds routing/*.jsonl.gz.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// An artefact of `sluice train router`; by default the shipped one.
    #[arg(long, value_name = "FILE")]
    artefact: Option<PathBuf>,
    /// Seed of the bootstrap.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let predictor = match &arguments.artefact {
        None => Predictor::shipped()?,
        Some(path) => Predictor::from_json(&std::fs::read(path)?)?,
    };
    let rows = read_outcomes(&arguments.data, &SHIPPABLE)?;
    let found: Vec<Evaluation> =
        SHIPPABLE.iter().filter_map(|source| evaluate(&rows, source, &predictor, arguments.seed)).collect();
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&found).map_err(std::io::Error::other)?);
        return Ok(());
    }
    for evaluation in &found {
        print(evaluation);
    }
    println!("APGR with its 95 % bootstrap interval over question groups; CPT in % of calls to the strong model");
    Ok(())
}

fn print(evaluation: &Evaluation) {
    let Evaluation { source, strong, weak, prompts, strong_score, weak_score, measured } = evaluation;
    println!("{source}: {prompts} held-out prompts; {strong} {strong_score:.3}, {weak} {weak_score:.3}");
    println!("  {:<16} {:>6} {:>16} {:>7} {:>7}", "router", "APGR", "interval", "CPT50", "CPT80");
    for row in measured {
        let interval = format!("{:.3} to {:.3}", row.apgr.low, row.apgr.high);
        let (apgr, cpt50, cpt80) = (row.apgr.value, row.cpt50, row.cpt80);
        println!("  {:<16} {apgr:>6.3} {interval:>16} {cpt50:>7.1} {cpt80:>7.1}", row.router);
    }
    println!();
}
