//! `sluice train router`: fits the router's predictor on recorded outcomes.

use crate::failure::Failure;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;
use trainer::router::{OutcomeRow, SHIPPABLE, Split, fit, read_outcomes};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The folder that holds routing/*.jsonl.gz.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Sources to fit on; by default those whose licences allow the artefact to be shipped.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Where to write the artefact.
    #[arg(long, value_name = "FILE", default_value = "models/router/predictor.json")]
    out: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let names: Vec<&str> = match arguments.only.as_slice() {
        [] => SHIPPABLE.to_vec(),
        named => named.iter().map(String::as_str).collect(),
    };
    let rows = read_outcomes(&arguments.data, &names)?;
    let train: Vec<&OutcomeRow> = rows.iter().filter(|row| row.split == Split::Train).collect();
    println!("fitting on {} training prompts of {}", train.len(), names.join(", "));
    let style = ProgressStyle::with_template("{bar:40} {percent}%").unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(100).with_style(style);
    let fitted = fit(&train, |share| bar.set_position((share * 100.0) as u64));
    bar.finish_and_clear();
    let json = serde_json::to_string(&fitted.artefact).map_err(std::io::Error::other)?;
    if let Some(folder) = arguments.out.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&arguments.out, json + "\n")?;
    println!(
        "{}: {} prompts, {} outcomes, {} models, mean training loss {:.4}",
        arguments.out.display(),
        fitted.prompts,
        fitted.outcomes,
        fitted.artefact.abilities.len(),
        fitted.loss
    );
    Ok(())
}
