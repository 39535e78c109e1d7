//! `sluice catalog list`: what is known, in lines or JSON.

use super::{Store, opened};
use crate::failure::Failure;
use catalog::{Billing, EndpointRow, Listing, Makes};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only models whose name contains this.
    #[arg(long, value_name = "PART", default_value = "")]
    model: String,
    /// Only endpoints of this provider.
    #[arg(long, value_name = "PROVIDER")]
    provider: Option<String>,
    /// Lists the providers and the variables that hold their credentials.
    #[arg(long, conflicts_with_all = ["totals", "spread"])]
    providers: bool,
    /// Counts models, providers and models at several direct providers.
    #[arg(long, conflicts_with = "spread")]
    totals: bool,
    /// How far apart the prices of one model are, like for like.
    #[arg(long)]
    spread: bool,
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (_, store) = opened(arguments.config.as_deref())?;
    let listing = Store::listing(&store)?;
    let mut out = std::io::stdout().lock();
    let written = if arguments.providers {
        providers(&listing, arguments.json, &mut out)
    } else if arguments.totals {
        totals(&listing, arguments.json, &mut out)
    } else if arguments.spread {
        spread(&listing, arguments.json, &mut out)
    } else {
        endpoints(&listing, arguments, &mut out)
    };
    Ok(written?)
}

fn providers(listing: &Listing, json: bool, out: &mut impl Write) -> io::Result<()> {
    for row in listing.providers.values() {
        let known = |fact: Option<bool>| fact.map_or("unknown", |fact| if fact { "yes" } else { "no" });
        if json {
            writeln!(out, "{}", json!(row))?;
        } else {
            writeln!(
                out,
                "{:<26} {:<10} {}{}  stores prompts: {}, trains on them: {}",
                row.id,
                format!("{:?}", row.kind).to_lowercase(),
                row.env.join(" or "),
                if row.aggregator { "  (aggregator)" } else { "" },
                known(row.facts.stores_prompts),
                known(row.facts.trains_on_prompts),
            )?;
        }
    }
    Ok(())
}

fn endpoints(listing: &Listing, arguments: &Arguments, out: &mut impl Write) -> io::Result<()> {
    let mut shown = 0;
    for row in &listing.endpoints {
        let other = arguments.provider.as_ref().is_some_and(|provider| *provider != row.provider);
        if other || !row.model.contains(&arguments.model) {
            continue;
        }
        shown += 1;
        if arguments.json {
            writeln!(out, "{}", json!(row))?;
            continue;
        }
        let billing = match row.billing {
            Billing::PerToken => format!("${} in, ${} out", row.rates.input, row.rates.output),
            Billing::Free => "free".to_owned(),
            Billing::FlatRate => "flat rate".to_owned(),
        };
        writeln!(out, "{}  {billing}  {} tokens  {}", row.id(), row.context, row.name)?;
    }
    if !arguments.json {
        writeln!(out, "{shown} endpoints; prices of {} ({})", listing.as_of, listing.source)?;
    }
    Ok(())
}

/// Endpoints that are paid by the token, by model; only of models that write.
fn paid(listing: &Listing) -> BTreeMap<&str, Vec<&EndpointRow>> {
    let mut by_model: BTreeMap<&str, Vec<&EndpointRow>> = BTreeMap::new();
    for row in &listing.endpoints {
        let chats = listing.models.get(&row.model).is_some_and(|model| model.makes == Makes::Chat);
        let plan =
            listing.providers.get(&row.provider).is_some_and(|provider| provider.billing == Some(Billing::FlatRate));
        if chats && row.billing == Billing::PerToken && !plan {
            by_model.entry(&row.model).or_default().push(row);
        }
    }
    by_model
}

fn is_direct(listing: &Listing, row: &EndpointRow) -> bool {
    listing.providers.get(&row.provider).is_some_and(|provider| !provider.aggregator)
}

fn totals(listing: &Listing, json: bool, out: &mut impl Write) -> io::Result<()> {
    let paid = paid(listing);
    let providers: BTreeSet<&str> = paid.values().flatten().map(|row| row.provider.as_str()).collect();
    let direct = |rows: &&Vec<&EndpointRow>| {
        let names: BTreeSet<&str> =
            rows.iter().filter(|row| is_direct(listing, row)).map(|row| row.provider.as_str()).collect();
        names.len() >= 2
    };
    let at_two = paid.values().filter(direct).count();
    let endpoints: usize = paid.values().map(Vec::len).sum();
    if json {
        let totals = json!({"models": paid.len(), "endpoints": endpoints, "providers": providers.len(),
            "models_at_two_direct_providers": at_two, "as_of": listing.as_of, "source": listing.source});
        writeln!(out, "{totals}")?;
        return Ok(());
    }
    writeln!(out, "{:>5} models that write, with a known price and a dialect we speak", paid.len())?;
    writeln!(out, "{endpoints:>5} endpoints of them")?;
    writeln!(out, "{:>5} providers", providers.len())?;
    writeln!(out, "{at_two:>5} models at two or more direct providers")?;
    writeln!(out, "      prices of {} ({})", listing.as_of, listing.source)?;
    Ok(())
}

/// Input and output in the proportion of chats: three tokens read for one written.
fn blended(row: &EndpointRow, fee: f64) -> f64 {
    (row.rates.input * 3.0 + row.rates.output) / 4.0 * (1.0 + fee)
}

/// From this share off the dearest a model counts as worth choosing.
const WORTH: f64 = 0.4;

/// How far the cheapest of endpoints that are alike is below the dearest, as a share, and who they are.
struct Apart {
    share: f64,
    cheapest: String,
    dearest: String,
}

/// Like for like: one model, the same number format as far as it is known, paid by the token, fees included.
fn apart(listing: &Listing, endpoints: &[&EndpointRow]) -> Option<Apart> {
    let price = |row: &EndpointRow| {
        let fee = listing.providers.get(&row.provider).map_or(0.0, |provider| provider.fee);
        blended(row, fee)
    };
    let mut alike: BTreeMap<Option<&str>, Vec<&EndpointRow>> = BTreeMap::new();
    for row in endpoints {
        alike.entry(row.facts.quantization.as_deref()).or_default().push(row);
    }
    let mut widest: Option<Apart> = None;
    for rows in alike.values().filter(|rows| rows.len() >= 2) {
        let by_price = |a: &&&EndpointRow, b: &&&EndpointRow| price(a).total_cmp(&price(b));
        let (Some(low), Some(high)) = (rows.iter().min_by(by_price), rows.iter().max_by(by_price)) else { continue };
        let share = 1.0 - price(low) / price(high);
        if widest.as_ref().is_none_or(|known| known.share < share) {
            widest = Some(Apart { share, cheapest: low.provider.clone(), dearest: high.provider.clone() });
        }
    }
    widest
}

fn spread(listing: &Listing, json: bool, out: &mut impl Write) -> io::Result<()> {
    let paid = paid(listing);
    let all: Vec<(&str, Apart)> =
        paid.iter().filter_map(|(model, rows)| Some((*model, apart(listing, rows)?))).collect();
    let direct = paid.values().filter_map(|rows| {
        let direct: Vec<&EndpointRow> = rows.iter().copied().filter(|row| is_direct(listing, row)).collect();
        apart(listing, &direct)
    });
    let direct: Vec<Apart> = direct.collect();
    let mut worth: Vec<&(&str, Apart)> = all.iter().filter(|(_, apart)| apart.share >= WORTH).collect();
    worth.sort_by(|(_, a), (_, b)| b.share.total_cmp(&a.share));
    let direct_worth = direct.iter().filter(|apart| apart.share >= WORTH).count();
    if json {
        let report = json!({"compared": all.len(), "cheapest_40_percent_below": worth.len(),
            "direct_only": {"compared": direct.len(), "cheapest_40_percent_below": direct_worth}});
        writeln!(out, "{report}")?;
        return Ok(());
    }
    writeln!(
        out,
        "{} of {} models at several endpoints have one 40 % or more below the dearest",
        worth.len(),
        all.len()
    )?;
    writeln!(out, "{direct_worth} of {} where only direct providers are compared", direct.len())?;
    writeln!(out, "(3 input tokens to 1 output token, fees included, the same number format as far as it is known)")?;
    for (model, Apart { share, cheapest, dearest }) in worth.into_iter().take(15) {
        writeln!(out, "  {model}: {cheapest} is {:.0} % below {dearest}", share * 100.0)?;
    }
    Ok(())
}
