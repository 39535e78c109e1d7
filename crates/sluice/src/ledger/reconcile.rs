//! `sluice ledger reconcile`: what a crash left unconfirmed, listed and closed.

use crate::failure::Failure;
use crate::keys::Place;
use catalog::NanoUsd;
use database::{Database, DatabaseConfig, Generation, journal_path};
use gateway::take_lock;
use ledger::Journal;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// One line of what a provider says that single requests cost.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Confirmed {
    id: String,
    cost_usd: f64,
}

/// What costs so many times what was set aside for it is a mistake in the unit.
const OVER_MAX: i64 = 10;

/// Closes what is open, at its reservation or at what `statement` says; or only lists it.
pub(super) async fn run(list: bool, statement: Option<PathBuf>, place: &Place) -> Result<(), Failure> {
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
        None => open.iter().map(|generation| (generation.id.clone(), generation.upstream_nano)).collect(),
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
    let mut most: HashMap<&str, i64> = open.iter().map(|g| (g.id.as_str(), g.upstream_nano)).collect();
    let text = std::fs::read_to_string(file).map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
    let mut confirmed = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |problem: String| Failure::Usage(format!("{}:{}: {problem}", file.display(), at + 1));
        let row: Confirmed = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
        let Some(most) = most.remove(row.id.as_str()) else {
            let problem = "is not unconfirmed, or here twice; `sluice ledger reconcile --list` shows all";
            return Err(wrong(format!("`{}` {problem}", row.id)));
        };
        let cost = NanoUsd::from_usd(row.cost_usd).filter(|cost| *cost >= NanoUsd::ZERO);
        let cost =
            cost.ok_or_else(|| wrong(format!("cost_usd: {} is no amount; use dollars, 0 or more", row.cost_usd)))?;
        if cost.0 / OVER_MAX > most {
            let most = NanoUsd(most);
            return Err(wrong(format!(
                "cost_usd: {cost} is over {OVER_MAX} times {most}, the most expected; use dollars"
            )));
        }
        confirmed.push((row.id, cost.0));
    }
    Ok(confirmed)
}
