//! `sluice ledger`: what a crash left unconfirmed, listed and closed.

use crate::failure::Failure;
use crate::keys::Place;
use catalog::NanoUsd;
use database::{Database, DatabaseConfig, Generation, journal_path};
use gateway::take_lock;
use ledger::Journal;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Lists requests whose cost nobody confirmed, and closes them at their reservation or at what a statement says.
    Reconcile {
        /// Only lists them.
        #[arg(long)]
        list: bool,
        /// JSON lines `{"id": "gen-…", "cost_usd": 0.0012}`, as read off the provider's own records; only these are
        /// closed.
        #[arg(long, value_name = "FILE", conflicts_with = "list")]
        statement: Option<PathBuf>,
        #[command(flatten)]
        place: Place,
    },
}

/// One line of a statement.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Confirmed {
    id: String,
    cost_usd: f64,
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    let Command::Reconcile { list, statement, place } = command;
    let config = place.config()?;
    let database = Database::open_with(&config).await?;
    settle_what_is_left(&config, &database).await?;
    let open = database.unconfirmed().await?;
    println!("{:<34} {:<14} {:<14} {:<24} {:>14}", "generation", "tenant", "key", "model", "reserved USD");
    for generation in &open {
        let Generation { id, tenant_id, key_hash, model, reserved_nano, .. } = generation;
        let key = key_hash.get(..12).unwrap_or(key_hash);
        println!("{id:<34} {tenant_id:<14} {key:<14} {model:<24} {:>14}", NanoUsd(*reserved_nano).to_string());
    }
    if list {
        println!("{} unconfirmed", open.len());
        return Ok(());
    }
    let confirmed = match statement {
        None => open.iter().map(|generation| (generation.id.clone(), generation.reserved_nano)).collect(),
        Some(file) => read_statement(&file, &open)?,
    };
    let closed = database.reconcile(&confirmed).await?;
    println!("{closed} of {} closed", open.len());
    Ok(())
}

/// Where no gateway runs, reservations of a dead one are settled as unconfirmed first, as its next start would do.
async fn settle_what_is_left(config: &DatabaseConfig, database: &Database) -> Result<(), Failure> {
    let path = config.local_path();
    let Ok(_lock) = take_lock(&path) else { return Ok(()) };
    Journal::open(&journal_path(&path), false)?.book(database).await?;
    if database.is_shared() {
        database.reap_dead().await?;
    } else {
        database.end_all_replicas().await?;
    }
    Ok(())
}

fn read_statement(file: &Path, open: &[Generation]) -> Result<Vec<(String, i64)>, Failure> {
    let reserved: HashMap<&str, i64> = open.iter().map(|g| (g.id.as_str(), g.reserved_nano)).collect();
    let mut confirmed = Vec::new();
    for (at, line) in std::fs::read_to_string(file)?.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |problem: String| Failure::Usage(format!("{}:{}: {problem}", file.display(), at + 1));
        let row: Confirmed = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
        if !reserved.contains_key(row.id.as_str()) {
            return Err(wrong(format!("`{}` is not unconfirmed; `sluice ledger reconcile --list` shows all", row.id)));
        }
        let cost = NanoUsd::from_usd(row.cost_usd).filter(|cost| *cost >= NanoUsd::ZERO);
        let cost =
            cost.ok_or_else(|| wrong(format!("cost_usd: {} is no amount; use dollars, 0 or more", row.cost_usd)))?;
        confirmed.push((row.id, cost.0));
    }
    Ok(confirmed)
}
