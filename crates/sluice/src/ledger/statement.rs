//! `sluice ledger statement`: a tenant's month as text, CSV or JSON.

use crate::failure::Failure;
use catalog::NanoUsd;
use ledger::{Line, Statement};
use serde_json::{Value, json};
use std::io::Write;

fn usd(nano: i64) -> NanoUsd {
    NanoUsd(nano)
}

/// What moved the balance, beside requests.
fn movements(s: &Statement) -> [(&'static str, i64); 4] {
    [
        ("purchase", s.purchased_nano),
        ("grant", s.granted_nano),
        ("refund", -s.refunded_nano),
        ("expiry", -s.expired_nano),
    ]
}

pub(super) fn text(s: &Statement, mut out: Box<dyn Write>) -> Result<(), Failure> {
    let total = s.total();
    writeln!(out, "{}, {}", s.tenant_id, s.month.strftime("%B %Y"))?;
    writeln!(out, "{:<12} {:<32} {:>9} {:>9} {:>14} {:>14}", "day", "model", "requests", "failed", "USD", "saved USD")?;
    for line in &s.lines {
        let Line { day, model, requests, failed, charged_nano, saved_nano, .. } = line;
        let (charged, saved) = (usd(*charged_nano).to_string(), usd(*saved_nano).to_string());
        writeln!(out, "{day:<12} {model:<32} {requests:>9} {failed:>9} {charged:>14} {saved:>14}")?;
    }
    writeln!(out, "{:<24} {:>14}", "opening balance", usd(s.opening_nano).to_string())?;
    for (kind, nano) in movements(s).into_iter().filter(|(_, nano)| *nano != 0) {
        writeln!(out, "{kind:<24} {:>14}", usd(nano).to_string())?;
    }
    writeln!(out, "{:<24} {:>14}", "requests", usd(-s.charged_nano).to_string())?;
    writeln!(out, "{:<24} {:>14}", "closing balance", usd(s.closing_nano).to_string())?;
    writeln!(out, "fees paid on top {}; saved {}", usd(s.fee_nano), usd(total.saved_nano))?;
    if let Some(availability) = total.availability() {
        writeln!(out, "{:.3} % of {} requests were answered", availability * 100.0, total.requests)?;
    }
    out.flush()?;
    Ok(())
}

pub(super) fn csv(s: &Statement, out: Box<dyn Write>) -> Result<(), Failure> {
    let mut rows = csv::Writer::from_writer(out);
    rows.write_record([
        "kind",
        "day",
        "model",
        "requests",
        "failed",
        "availability",
        "input_tokens",
        "output_tokens",
        "saved_usd",
        "fee_usd",
        "usd",
    ])?;
    let mut write = |kind: &str, line: &Line, fee: i64, nano: i64| {
        let day = if line.requests == 0 { String::new() } else { line.day.to_string() };
        let count = |number: i64| if line.requests > 0 { number.to_string() } else { String::new() };
        let availability = line.availability().map(|share| share.to_string()).unwrap_or_default();
        let (saved, fee) = (usd(line.saved_nano).to_string(), usd(fee).to_string());
        rows.write_record([
            kind,
            &day,
            &line.model,
            &count(line.requests),
            &count(line.failed),
            &availability,
            &count(line.input_tokens),
            &count(line.output_tokens),
            &saved,
            &fee,
            &usd(nano).to_string(),
        ])
    };
    write("opening", &Line::default(), 0, s.opening_nano)?;
    for (kind, nano) in movements(s) {
        write(kind, &Line::default(), if kind == "purchase" { s.fee_nano } else { 0 }, nano)?;
    }
    for line in &s.lines {
        write("requests", line, 0, -line.charged_nano)?;
    }
    rows.flush()?;
    Ok(())
}

pub(super) fn json(s: &Statement, mut out: Box<dyn Write>) -> Result<(), Failure> {
    let usd = |nano: i64| NanoUsd(nano).as_usd();
    let counts = |line: &Line| {
        json!({
            "requests": line.requests,
            "failed": line.failed,
            "availability": line.availability(),
            "input_tokens": line.input_tokens,
            "output_tokens": line.output_tokens,
            "charged_usd": usd(line.charged_nano),
            "saved_usd": usd(line.saved_nano),
        })
    };
    let of_day = |line: &Line| {
        let mut row = counts(line);
        (row["day"], row["model"]) = (json!(line.day.to_string()), json!(line.model));
        row
    };
    let mut statement = counts(&s.total());
    let more = json!({
        "workspace_id": s.tenant_id,
        "month": s.month.strftime("%Y-%m").to_string(),
        "opening_usd": usd(s.opening_nano),
        "purchased_usd": usd(s.purchased_nano),
        "granted_usd": usd(s.granted_nano),
        "fees_usd": usd(s.fee_nano),
        "refunded_usd": usd(s.refunded_nano),
        "expired_usd": usd(s.expired_nano),
        "closing_usd": usd(s.closing_nano),
        "days": s.lines.iter().map(of_day).collect::<Vec<Value>>(),
    });
    if let (Value::Object(statement), Value::Object(more)) = (&mut statement, more) {
        statement.extend(more);
    }
    serde_json::to_writer_pretty(&mut out, &statement).map_err(std::io::Error::other)?;
    writeln!(out)?;
    out.flush()?;
    Ok(())
}
