//! `sluice ledger`: what the books say, to tenants and against providers.

mod export;
mod invoice;
mod reconcile;
mod statement;

use crate::failure::Failure;
use crate::keys::Place;
use jiff::civil::Date;
use ledger::{DAY_MS, midnight_ms};
use std::io::Write;
use std::path::{Path, PathBuf};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Lists requests whose cost nobody confirmed, and closes them at their reservation or at what a statement says; or holds
    /// a provider's invoice against what was booked.
    Reconcile {
        /// Only lists them.
        #[arg(long)]
        list: bool,
        /// JSON lines `{"id": "gen-…", "cost_usd": 0.0012}`, as read off the provider's own records; only these are
        /// closed.
        #[arg(long, value_name = "FILE", conflicts_with = "list")]
        statement: Option<PathBuf>,
        /// CSV with the columns `day` (2026-11-30), `model` and `usd`: shows where it differs from what was booked, and
        /// changes nothing.
        #[arg(long, value_name = "FILE", conflicts_with_all = ["list", "statement"], requires = "provider")]
        invoice: Option<PathBuf>,
        /// Whose invoice it is.
        #[arg(long, value_name = "NAME", requires = "invoice")]
        provider: Option<String>,
        /// So many dollars of difference in all are in order, as where a provider rounds.
        #[arg(long, value_name = "USD", default_value_t = 0.01, value_parser = tolerated, requires = "invoice")]
        tolerance: f64,
        #[command(flatten)]
        place: Place,
    },
    /// A tenant's month: what it had, paid and was charged, by day and model, with availability and savings.
    Statement {
        #[arg(long, value_name = "TENANT", default_value = "default")]
        tenant: String,
        /// As 2026-11.
        #[arg(long, value_name = "MONTH", value_parser = month)]
        month: Date,
        /// CSV, a line for each movement, whose `usd` sum to the closing balance.
        #[arg(long, conflicts_with = "json")]
        csv: bool,
        #[arg(long)]
        json: bool,
        /// Writes to a file instead of standard output.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        place: Place,
    },
    /// Writes the records of requests, oldest first: one JSON object a line, or CSV. Amounts are in nano-dollars.
    Export {
        /// Of this tenant only.
        #[arg(long, value_name = "TENANT")]
        tenant: Option<String>,
        /// The first day, as 2026-11-01; without it, the first of all.
        #[arg(long, value_name = "DAY")]
        from: Option<Date>,
        /// The last day, which is included.
        #[arg(long, value_name = "DAY")]
        to: Option<Date>,
        #[arg(long)]
        csv: bool,
        /// Writes to a file instead of standard output.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        place: Place,
    },
}

fn tolerated(text: &str) -> Result<f64, String> {
    let usd = text.parse::<f64>().ok().filter(|usd| (0.0..1e9).contains(usd));
    usd.ok_or_else(|| "use dollars, 0 or more".to_owned())
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Reconcile { invoice: Some(file), provider: Some(provider), tolerance, place, .. } => {
            let database = place.open().await?;
            invoice::compare(&database, &file, &provider, tolerance).await
        }
        Command::Reconcile { list, statement, place, .. } => reconcile::run(list, statement, &place).await,
        Command::Statement { tenant, month, csv, json, out, place } => {
            let statement = ledger::Statement::of(&place.open().await?, &tenant, month).await?;
            let form = match (csv, json) {
                (true, _) => statement::csv,
                (_, true) => statement::json,
                _ => statement::text,
            };
            form(&statement, writer(out.as_deref())?)
        }
        Command::Export { tenant, from, to, csv, out, place } => {
            let from_ms = from.map_or(i64::MIN, midnight_ms);
            let to_ms = to.map_or(i64::MAX, |day| midnight_ms(day) + DAY_MS);
            let records = export::Records { database: place.open().await?, tenant, times: (from_ms, to_ms) };
            records.write(csv, writer(out.as_deref())?).await
        }
    }
}

/// A file, or standard output.
fn writer(out: Option<&Path>) -> Result<Box<dyn Write>, Failure> {
    Ok(match out {
        None => Box::new(std::io::stdout().lock()),
        Some(path) => Box::new(std::io::BufWriter::new(std::fs::File::create(path)?)),
    })
}

fn month(text: &str) -> Result<Date, String> {
    format!("{text}-01").parse().map_err(|_| format!("`{text}`; use a year and a month, as 2026-11"))
}
