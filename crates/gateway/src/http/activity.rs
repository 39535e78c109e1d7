//! `/activity` and `/datasets/…`: usage by day in OpenRouter's schema, and the leaderboards that real usage makes.

use crate::app::App;
use crate::auth::{self, Rank};
use crate::error::Error;
use axum::Json;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use catalog::NanoUsd;
use database::{SplitBy, UsageFilter, UsageRow};
use jiff::civil::Date;
use jiff::{Timestamp, ToSpan};
use ledger::{DAY_MS, now_ms};
use protocol::FieldError;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Days of activity that are shown, as in OpenRouter's, and today.
const DAYS: i64 = 30;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ActivityWanted {
    /// One day, `2026-11-21`.
    date: Option<String>,
    api_key_hash: Option<String>,
    workspace_id: Option<String>,
    /// `workspace` as in OpenRouter's; ours are `key`, `app`, `step` and `cache`, one or several with commas.
    group_by: Option<String>,
}

/// What activity can be split by besides model and endpoint.
const GROUPS: [(&str, SplitBy); 5] = [
    ("workspace", SplitBy::Tenant),
    ("key", SplitBy::Key),
    ("app", SplitBy::App),
    ("step", SplitBy::Step),
    ("cache", SplitBy::Cache),
];

pub(super) async fn activity(
    State(app): State<App>,
    headers: HeaderMap,
    Query(wanted): Query<ActivityWanted>,
) -> Result<Json<Value>, Error> {
    let manager = auth::manager(&app, &headers, wanted.workspace_id.as_deref()).await?;
    let today = now_ms() / DAY_MS;
    let days = match &wanted.date {
        None => (today - DAYS, today),
        Some(date) => {
            let day = day_of("date", date)?;
            if !(today - DAYS..=today).contains(&day) {
                return Err(FieldError::new("date", format!("`{date}`; use one of the last {DAYS} days")).into());
            }
            (day, day)
        }
    };
    let mut groups = Vec::new();
    for name in wanted.group_by.as_deref().unwrap_or("").split(',').filter(|name| !name.is_empty()) {
        let group = GROUPS.iter().find(|(known, _)| *known == name).ok_or_else(|| {
            let known: Vec<&str> = GROUPS.iter().map(|(known, _)| *known).collect();
            FieldError::new("group_by", format!("`{name}`; use {}", known.join(", ")))
        })?;
        groups.push(*group);
    }
    let is_operator = manager.rank == Rank::Operator;
    let mut split = vec![SplitBy::Model, SplitBy::Endpoint, SplitBy::Provider, SplitBy::SoldAs];
    split.extend(groups.iter().map(|(_, by)| *by));
    let all = is_operator && wanted.workspace_id.is_none();
    let tenant = (!all).then_some(manager.tenant.as_str());
    let filter = UsageFilter { tenant_id: tenant, key_hash: wanted.api_key_hash.as_deref(), days };
    let rows = app.ledger.usage(filter, &split).await.map_err(Error::unreadable)?;
    let rows: Vec<Value> = rows.iter().map(|row| activity_row(row, &groups, is_operator)).collect();
    Ok(Json(json!({ "data": rows })))
}

/// Who is behind a model whose source a tenant hides is the operator's to know.
fn activity_row(row: &UsageRow, groups: &[(&str, SplitBy)], is_operator: bool) -> Value {
    let usd = |nano: i64| NanoUsd(nano).as_usd();
    let is_hidden = !row.sold_as.is_empty() && !is_operator;
    let model = if is_hidden { &row.sold_as } else { &row.model };
    let shown = |text: &str| if is_hidden { String::new() } else { text.to_owned() };
    let mut shown = json!({
        "date": date_of(row.day),
        "model": model,
        "model_permaslug": model,
        "endpoint_id": shown(&row.endpoint),
        "provider_name": shown(&row.provider),
        "usage": usd(row.charged_nano),
        "byok_usage_inference": 0.0,
        "requests": row.requests,
        "prompt_tokens": row.input_tokens,
        "completion_tokens": row.output_tokens,
        "reasoning_tokens": row.reasoning_tokens,
        "sluice": {"saved_usd": usd(row.saved_nano), "failed": row.failed},
    });
    if is_operator {
        shown["sluice"]["upstream_usd"] = json!(usd(row.upstream_nano));
        shown["sluice"]["sold_as"] = json!(Some(&row.sold_as).filter(|name| !name.is_empty()));
    }
    for (name, by) in groups {
        match by {
            SplitBy::Tenant => shown["workspace_id"] = json!(row.tenant_id),
            SplitBy::Key => shown["api_key_hash"] = json!(row.key_hash),
            SplitBy::App => shown["app"] = json!(row.app),
            SplitBy::Step => shown["step"] = json!(row.step),
            _ => shown[*name] = json!(row.cache),
        }
    }
    shown
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RankingWanted {
    start_date: Option<String>,
    end_date: Option<String>,
    /// `day`, `week` or `month`.
    period: Option<String>,
    /// `popular` or `trending`, of applications.
    sort: Option<String>,
    limit: Option<usize>,
    offset: Option<usize>,
}

/// Models of one day that are named; what the others had is one row, `other`.
const MODELS_MAX: usize = 50;
const APPS_MAX: usize = 100;
const FIRST_DAY: &str = "2025-01-01";

/// Tokens by model and day, of the caller's tenant; of all, for the operator.
pub(super) async fn models(
    State(app): State<App>,
    headers: HeaderMap,
    Query(wanted): Query<RankingWanted>,
) -> Result<Json<Value>, Error> {
    let tenant = whose(&app, &headers).await?;
    for (field, given) in [("sort", wanted.sort.is_some()), ("limit", wanted.limit.is_some())] {
        if given {
            return Err(FieldError::new(field, "is of /datasets/app-rankings").into());
        }
    }
    let window = window(&wanted)?;
    let begin: fn(Date) -> Date = match wanted.period.as_deref() {
        None | Some("day") => |date| date,
        Some("week") => {
            |date| date.checked_sub(i64::from(date.weekday().to_monday_zero_offset()).days()).unwrap_or(date)
        }
        Some("month") => Date::first_of_month,
        Some(other) => return Err(FieldError::new("period", format!("`{other}`; use day, week or month")).into()),
    };
    let rows = usage(&app, tenant.as_deref(), window, SplitBy::Model).await?;
    let mut periods: BTreeMap<Date, BTreeMap<String, i64>> = BTreeMap::new();
    for row in rows.iter().filter(|row| !row.model.is_empty()) {
        let model = if row.sold_as.is_empty() || tenant.is_none() { &row.model } else { &row.sold_as };
        *periods.entry(begin(civil(row.day))).or_default().entry(model.clone()).or_default() += tokens(row);
    }
    let mut shown = Vec::new();
    for (date, models) in periods.iter().rev() {
        let mut models: Vec<(&String, i64)> = models.iter().map(|(model, tokens)| (model, *tokens)).collect();
        models.sort_by(|(one, few), (other, many)| many.cmp(few).then(one.cmp(other)));
        let others: i64 = models.iter().skip(MODELS_MAX).map(|(_, tokens)| tokens).sum();
        let row = |model: &str, tokens: i64| json!({"date": date.to_string(), "model_permaslug": model, "total_tokens": tokens.to_string()});
        shown.extend(models.iter().take(MODELS_MAX).map(|(model, tokens)| row(model, *tokens)));
        shown.extend((models.len() > MODELS_MAX).then(|| row("other", others)));
    }
    Ok(Json(json!({"data": shown, "meta": meta(window)})))
}

/// Tokens and requests by application, of the caller's tenant; of all, for the operator.
pub(super) async fn apps(
    State(app): State<App>,
    headers: HeaderMap,
    Query(wanted): Query<RankingWanted>,
) -> Result<Json<Value>, Error> {
    let tenant = whose(&app, &headers).await?;
    let (first, last) = window(&wanted)?;
    let limit = wanted.limit.unwrap_or(50);
    if !(1..=APPS_MAX).contains(&limit) {
        return Err(FieldError::new("limit", format!("{limit}; use 1 to {APPS_MAX}")).into());
    }
    let is_trending = match wanted.sort.as_deref() {
        None | Some("popular") => false,
        Some("trending") => true,
        Some(other) => return Err(FieldError::new("sort", format!("`{other}`; use popular or trending")).into()),
    };
    let length = last - first + 1;
    let earlier = usage(&app, tenant.as_deref(), (first - 3 * length, first - 1), SplitBy::App).await?;
    let mut ranked: BTreeMap<String, (i64, i64, i64)> = BTreeMap::new();
    for row in
        usage(&app, tenant.as_deref(), (first, last), SplitBy::App).await?.iter().filter(|row| !row.app.is_empty())
    {
        let (all, requests, _) = ranked.entry(row.app.clone()).or_default();
        (*all, *requests) = (*all + tokens(row), *requests + row.requests);
    }
    for row in &earlier {
        if let Some((_, _, before)) = ranked.get_mut(&row.app) {
            *before += tokens(row);
        }
    }
    // Trending: what is more than the mean of the three periods of the same length before.
    let excess = |(all, _, before): &(i64, i64, i64)| all - before / 3;
    let mut ranked: Vec<(String, (i64, i64, i64))> =
        ranked.into_iter().filter(|(_, sums)| !is_trending || excess(sums) > 0).collect();
    ranked.sort_by_key(|(name, sums)| (-(if is_trending { excess(sums) } else { sums.0 }), name.clone()));
    let shown = ranked.iter().enumerate().skip(wanted.offset.unwrap_or(0)).take(limit);
    let shown: Vec<Value> = shown
        .map(|(at, (name, (tokens, requests, _)))| {
            json!({"rank": at + 1, "app_id": app_id(name), "app_name": name, "total_tokens": tokens.to_string(),
                "total_requests": requests})
        })
        .collect();
    Ok(Json(json!({"data": shown, "meta": meta((first, last))})))
}

/// Any key may ask: it learns of its own tenant. `None` is all tenants.
async fn whose(app: &App, headers: &HeaderMap) -> Result<Option<String>, Error> {
    if auth::operator(app, headers).is_ok() {
        return Ok(None);
    }
    let holder = auth::holder(app, headers).await?;
    Ok(Some(holder.tenant().to_owned()))
}

async fn usage(app: &App, tenant: Option<&str>, days: (i64, i64), by: SplitBy) -> Result<Vec<UsageRow>, Error> {
    let filter = UsageFilter { tenant_id: tenant, key_hash: None, days };
    app.ledger.usage(filter, &[by, SplitBy::SoldAs]).await.map_err(Error::unreadable)
}

fn tokens(row: &UsageRow) -> i64 {
    row.input_tokens + row.output_tokens
}

/// The first and the last day: by default the 30 days that end yesterday.
fn window(wanted: &RankingWanted) -> Result<(i64, i64), FieldError> {
    let floor = day_of("start_date", FIRST_DAY)?;
    let last = match &wanted.end_date {
        None => now_ms() / DAY_MS - 1,
        Some(date) => day_of("end_date", date)?,
    };
    if last < floor {
        return Err(FieldError::new("end_date", format!("before {FIRST_DAY}, when the dataset begins")));
    }
    let first = match &wanted.start_date {
        None => last - DAYS,
        Some(date) => day_of("start_date", date)?,
    };
    let first = first.max(floor);
    if first > last {
        return Err(FieldError::new("start_date", "after end_date; swap them"));
    }
    Ok((first, last))
}

fn meta((first, last): (i64, i64)) -> Value {
    json!({"as_of": super::iso_time(now_ms()), "version": "v1", "start_date": date_of(first), "end_date": date_of(last)})
}

fn day_of(field: &str, text: &str) -> Result<i64, FieldError> {
    let date = text.parse::<Date>().ok().filter(|_| text.len() == 10);
    let time = date.and_then(|date| date.to_zoned(jiff::tz::TimeZone::UTC).ok());
    let problem = || FieldError::new(field, format!("`{text}`; use a day as 2026-11-21"));
    time.map(|time| time.timestamp().as_millisecond() / DAY_MS).ok_or_else(problem)
}

fn civil(day: i64) -> Date {
    let time = Timestamp::from_millisecond(day * DAY_MS).unwrap_or(Timestamp::UNIX_EPOCH);
    time.to_zoned(jiff::tz::TimeZone::UTC).date()
}

fn date_of(day: i64) -> String {
    civil(day).to_string()
}

/// A number that stands for an application's name, since OpenRouter's are numbered; 31 bits of FNV-1a.
pub(super) fn app_id(name: &str) -> u32 {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash & 0x7fff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_in_utc() {
        assert_eq!(day_of("date", "1970-01-02").ok(), Some(1));
        assert_eq!(date_of(20_000), "2024-10-04");
        assert!(day_of("date", "21.11.2026").is_err() && day_of("date", "2026-11-21T00:00").is_err());
    }
}
