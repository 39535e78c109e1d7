//! `sluice ledger reconcile --invoice`: what a provider asks for, held against what was booked as its due.

use crate::failure::Failure;
use catalog::NanoUsd;
use database::{Database, SplitBy, UsageFilter};
use jiff::civil::Date;
use ledger::{DAY_MS, midnight_ms};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// A line of an invoice.
#[derive(Debug, Deserialize)]
struct Row {
    day: Date,
    model: String,
    usd: f64,
}

/// What is asked for and what was booked, in nano-dollars.
#[derive(Debug, Clone, Copy, Default)]
struct Sides {
    invoiced: i64,
    booked: i64,
}

/// Shows every day and model that differ.
///
/// # Errors
/// When the file cannot be read, or the sums differ by more than `tolerance` dollars.
pub(super) async fn compare(database: &Database, file: &Path, provider: &str, tolerance: f64) -> Result<(), Failure> {
    let rows = read(file)?;
    let days = || rows.iter().map(|row| row.day);
    let (Some(first), Some(last)) = (days().min(), days().max()) else {
        return Err(Failure::Usage(format!("{}: no line with a day, a model and dollars", file.display())));
    };
    let days = (midnight_ms(first) / DAY_MS, midnight_ms(last) / DAY_MS);
    let filter = UsageFilter { days, ..UsageFilter::default() };
    let mut sides: BTreeMap<(Date, String), Sides> = BTreeMap::new();
    for row in database.usage(filter, &[SplitBy::Provider, SplitBy::Model]).await? {
        if row.provider == provider && row.upstream_nano != 0 {
            let day = first.saturating_add(jiff::Span::new().days(row.day - days.0));
            sides.entry((day, row.model)).or_default().booked += row.upstream_nano;
        }
    }
    for row in &rows {
        let nano = NanoUsd::from_usd(row.usd)
            .ok_or_else(|| Failure::Usage(format!("{}: usd: {} is no amount of dollars", file.display(), row.usd)))?;
        let ours = sides.keys().find(|(day, model)| *day == row.day && is_same(model, &row.model)).cloned();
        sides.entry(ours.unwrap_or((row.day, row.model.clone()))).or_default().invoiced += nano.0;
    }
    show(provider, &sides, tolerance)
}

fn show(provider: &str, sides: &BTreeMap<(Date, String), Sides>, tolerance: f64) -> Result<(), Failure> {
    let amounts = |sides: Sides| {
        [sides.invoiced, sides.booked, sides.invoiced - sides.booked].map(|nano| NanoUsd(nano).to_string())
    };
    println!("{:<12} {:<32} {:>14} {:>14} {:>14}", "day", "model", "invoiced USD", "booked USD", "difference");
    let mut total = Sides::default();
    for ((day, model), both) in sides {
        total.invoiced += both.invoiced;
        total.booked += both.booked;
        if both.invoiced != both.booked {
            let [invoiced, booked, difference] = amounts(*both);
            println!("{day:<12} {model:<32} {invoiced:>14} {booked:>14} {difference:>14}");
        }
    }
    let [invoiced, booked, difference] = amounts(total);
    println!("{:<45} {invoiced:>14} {booked:>14} {difference:>14}", "in all");
    if NanoUsd((total.invoiced - total.booked).abs()).as_usd() > tolerance {
        return Err(Failure::Disagreement(format!(
            "the invoice of {provider} differs from the books by {difference} USD"
        )));
    }
    println!("the invoice of {provider} agrees within {tolerance} USD");
    Ok(())
}

/// Providers leave the author out of a model's name.
fn is_same(ours: &str, theirs: &str) -> bool {
    ours == theirs || ours.split_once('/').is_some_and(|(_, slug)| slug == theirs)
}

fn read(file: &Path) -> Result<Vec<Row>, Failure> {
    let wrong = |error: csv::Error| Failure::Usage(format!("{}: {error}", file.display()));
    let mut rows = csv::ReaderBuilder::new().trim(csv::Trim::All).from_path(file).map_err(wrong)?;
    rows.deserialize().collect::<Result<_, _>>().map_err(wrong)
}
