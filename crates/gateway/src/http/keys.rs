//! `/key` and `/keys`: virtual keys in OpenRouter's schema.

use crate::app::App;
use crate::auth::{self, Manager, Rank};
use crate::error::Error;
use crate::http::{iso_time, merged, present, read_json, utc_time};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use catalog::NanoUsd;
use ledger::{Key, LedgerError, Limits, Role, Rules, WantedKey, now_ms, reset_problem};
use protocol::FieldError;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewKey {
    name: String,
    /// Spending limit in dollars; none without it.
    #[serde(default)]
    limit: Option<f64>,
    /// `daily`, `weekly` or `monthly`; without it, never.
    #[serde(default)]
    limit_reset: Option<String>,
    /// Dollars at which the webhook is told, and nothing is refused.
    #[serde(default)]
    soft_limit: Option<f64>,
    #[serde(default)]
    expires_at: Option<String>,
    #[serde(default)]
    include_byok_in_limit: bool,
    #[serde(default)]
    creator_user_id: Option<String>,
    /// The tenant, OpenRouter's workspace.
    #[serde(default)]
    workspace_id: Option<String>,
    #[serde(default)]
    role: Role,
    /// Within the tenant, the highest is served first when an endpoint is at its limit.
    #[serde(default)]
    priority: i64,
    #[serde(default)]
    rules: Rules,
}

/// What is left out stays as it is; `null` takes a limit away.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyChange {
    name: Option<String>,
    disabled: Option<bool>,
    #[serde(default, deserialize_with = "present")]
    limit: Option<Option<f64>>,
    #[serde(default, deserialize_with = "present")]
    limit_reset: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    soft_limit: Option<Option<f64>>,
    #[serde(default, deserialize_with = "present")]
    expires_at: Option<Option<String>>,
    include_byok_in_limit: Option<bool>,
    priority: Option<i64>,
    rules: Option<Value>,
    /// Of the key as it was read: somebody else's change since then is a conflict.
    updated_at: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Listed {
    #[serde(default)]
    include_disabled: bool,
    #[serde(default)]
    offset: usize,
    workspace_id: Option<String>,
}

const NAME_CHARS_MAX: usize = 200;
/// Keys that one list shows; `offset` has the next ones, as in OpenRouter's.
const LISTED_MAX: usize = 100;

pub(super) async fn create(
    State(app): State<App>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Value>), Error> {
    auth::manager(&app, &headers, None).await?; // before a body is read for nobody
    let new: NewKey = read_json(&app, &headers, body).await?;
    let Manager { rank, tenant } = auth::manager(&app, &headers, new.workspace_id.as_deref()).await?;
    if new.role == Role::Manager && rank != Rank::Operator {
        return Err(Error::Forbidden("a management key is made by the operator".to_owned()));
    }
    no_byok(new.include_byok_in_limit)?;
    let reset = new.limit_reset.unwrap_or_default();
    let wanted = WantedKey {
        tenant,
        name: named(new.name)?,
        role: new.role,
        creator: new.creator_user_id,
        limits: Limits {
            hard: new.limit.map(|usd| dollars("limit", usd)).transpose()?,
            soft: told(&app, new.soft_limit)?,
            reset: known_reset(reset)?,
        },
        expires_ms: new.expires_at.map(|time| in_future("expires_at", &time)).transpose()?,
        priority: new.priority,
        rules: sound(new.rules)?,
    };
    let made = app.ledger.create_key(wanted).await.map_err(refused)?;
    Ok((StatusCode::CREATED, Json(json!({"data": row(&made.key), "key": made.token}))))
}

pub(super) async fn list(
    State(app): State<App>,
    headers: HeaderMap,
    Query(listed): Query<Listed>,
) -> Result<Json<Value>, Error> {
    let manager = auth::manager(&app, &headers, listed.workspace_id.as_deref()).await?;
    let keys = app.ledger.keys(&manager.tenant).await.map_err(Error::unreadable)?;
    let shown = keys.iter().filter(|key| listed.include_disabled || !key.row.disabled);
    let rows: Vec<Value> = shown.skip(listed.offset).take(LISTED_MAX).map(row).collect();
    Ok(Json(json!({ "data": rows })))
}

pub(super) async fn one(
    State(app): State<App>,
    headers: HeaderMap,
    Path(hash): Path<String>,
) -> Result<Json<Value>, Error> {
    let key = managed(&app, &headers, &hash).await?;
    Ok(Json(json!({ "data": row(&key) })))
}

pub(super) async fn change(
    State(app): State<App>,
    headers: HeaderMap,
    Path(hash): Path<String>,
    body: Body,
) -> Result<Json<Value>, Error> {
    let mut key = changeable(&app, &headers, &hash).await?;
    let change: KeyChange = read_json(&app, &headers, body).await?;
    if change.updated_at.is_some_and(|time| time != iso_time(key.row.updated_ms)) {
        return Err(refused(LedgerError::Conflict));
    }
    no_byok(change.include_byok_in_limit.unwrap_or(false))?;
    if let Some(name) = change.name {
        key.row.name = named(name)?;
    }
    key.row.disabled = change.disabled.unwrap_or(key.row.disabled);
    key.row.priority = change.priority.unwrap_or(key.row.priority);
    if let Some(limit) = change.limit {
        key.budget.limit_nano = limit.map(|usd| dollars("limit", usd)).transpose()?.map(|limit| limit.0);
    }
    if let Some(soft) = change.soft_limit {
        key.budget.soft_nano = told(&app, soft)?.map(|limit| limit.0);
    }
    if let Some(reset) = change.limit_reset {
        key.budget.reset = known_reset(reset.unwrap_or_default())?;
    }
    if let Some(end) = change.expires_at {
        key.row.expires_ms = end.map(|time| utc_time("expires_at", &time)).transpose()?;
    }
    if let Some(rules) = change.rules {
        key.rules = sound(merged("rules", &key.rules, rules)?)?;
    }
    app.ledger.update_key(&key).await.map_err(refused)?;
    let key = managed(&app, &headers, &hash).await?;
    Ok(Json(json!({ "data": row(&key) })))
}

pub(super) async fn delete(
    State(app): State<App>,
    headers: HeaderMap,
    Path(hash): Path<String>,
) -> Result<Json<Value>, Error> {
    let mut key = changeable(&app, &headers, &hash).await?;
    key.row.deleted = true;
    app.ledger.update_key(&key).await.map_err(refused)?;
    Ok(Json(json!({"deleted": true})))
}

/// The key that asks, whatever its role.
pub(super) async fn current(State(app): State<App>, headers: HeaderMap) -> Result<Json<Value>, Error> {
    let holder = auth::holder(&app, &headers).await?;
    let key = app.ledger.key(None, &holder.account.hash).await.map_err(Error::unreadable)?;
    let key = key.ok_or(Error::Unauthenticated("this key was deleted"))?;
    let is_manager = holder.account.role == Role::Manager;
    let mut row = row(&key);
    row["is_free_tier"] = json!(false);
    row["is_management_key"] = json!(is_manager);
    row["is_provisioning_key"] = json!(is_manager);
    row["rate_limit"] = json!({"requests": -1, "interval": "10s", "note": "see rules.requests_per_minute"});
    Ok(Json(json!({ "data": row })))
}

/// The key with this hash, for who may manage it; others learn nothing of it.
async fn managed(app: &App, headers: &HeaderMap, hash: &str) -> Result<Key, Error> {
    let manager = auth::manager(app, headers, None).await?;
    let tenant = (manager.rank == Rank::Manager).then_some(manager.tenant.as_str());
    let key = app.ledger.key(tenant, hash).await.map_err(Error::unreadable)?;
    key.ok_or_else(|| Error::NotFound(format!("no key `{hash}`")))
}

/// The same, for who may change it: what limits management keys, they do not take away.
async fn changeable(app: &App, headers: &HeaderMap, hash: &str) -> Result<Key, Error> {
    let key = managed(app, headers, hash).await?;
    if key.row.role == Role::Manager.as_str() {
        let of_operator = auth::operator(app, headers);
        of_operator.map_err(|_| Error::Forbidden("a management key is changed by the operator".to_owned()))?;
    }
    Ok(key)
}

fn named(name: String) -> Result<String, FieldError> {
    if name.trim().is_empty() {
        return Err(FieldError::new("name", "empty; give the key a name to recognise it by"));
    }
    if name.contains(char::is_control) {
        return Err(FieldError::new("name", "has control characters; leave them out"));
    }
    if name.chars().count() > NAME_CHARS_MAX {
        return Err(FieldError::new("name", format!("at most {NAME_CHARS_MAX} characters are accepted")));
    }
    Ok(name)
}

fn no_byok(included: bool) -> Result<(), FieldError> {
    let problem = "true; there are no credentials of tenants' own to include";
    if included { Err(FieldError::new("include_byok_in_limit", problem)) } else { Ok(()) }
}

/// Dollars that are not below zero.
pub(super) fn dollars(field: &str, usd: f64) -> Result<NanoUsd, FieldError> {
    let is_kept = |amount: &NanoUsd| *amount > NanoUsd::ZERO || usd == 0.0;
    let amount = NanoUsd::from_usd(usd).filter(is_kept);
    amount.ok_or_else(|| FieldError::new(field, format!("{usd}; use dollars, 0 to 9,000,000,000")))
}

/// When a key is to end.
fn in_future(field: &str, time: &str) -> Result<i64, FieldError> {
    let end_ms = utc_time(field, time)?;
    if end_ms <= now_ms() {
        return Err(FieldError::new(field, format!("`{time}` is over; use a time to come")));
    }
    Ok(end_ms)
}

/// A soft limit, where there is a webhook to be told.
pub(super) fn told(app: &App, usd: Option<f64>) -> Result<Option<NanoUsd>, FieldError> {
    if usd.is_some() && app.config.webhook.is_none() {
        return Err(FieldError::new(
            "soft_limit",
            "nobody would be told; set [webhook] url, secret_env and that variable",
        ));
    }
    usd.map(|usd| dollars("soft_limit", usd)).transpose()
}

pub(super) fn known_reset(reset: String) -> Result<String, FieldError> {
    match reset_problem(&reset) {
        None => Ok(reset),
        Some(problem) => Err(FieldError::new("limit_reset", problem)),
    }
}

fn sound(rules: Rules) -> Result<Rules, FieldError> {
    match rules.problem() {
        None => Ok(rules),
        Some((field, problem)) => Err(FieldError::new(format!("rules.{field}"), problem)),
    }
}

fn row(key: &Key) -> Value {
    let usd = |nano: i64| NanoUsd(nano).as_usd();
    json!({
        "hash": key.row.hash,
        "name": key.row.name,
        "label": key.row.label,
        "workspace_id": key.row.tenant_id,
        "disabled": key.row.disabled,
        "limit": key.budget.limit_nano.map(usd),
        "limit_remaining": key.remaining().map(NanoUsd::as_usd),
        "limit_reset": Some(&key.budget.reset).filter(|reset| !reset.is_empty()),
        "soft_limit": key.budget.soft_nano.map(usd),
        "include_byok_in_limit": false,
        "usage": usd(key.row.usage_nano),
        "usage_daily": key.charged.day.as_usd(),
        "usage_weekly": key.charged.week.as_usd(),
        "usage_monthly": key.charged.month.as_usd(),
        "byok_usage": 0.0,
        "byok_usage_daily": 0.0,
        "byok_usage_weekly": 0.0,
        "byok_usage_monthly": 0.0,
        "created_at": iso_time(key.row.created_ms),
        "updated_at": iso_time(key.row.updated_ms),
        "expires_at": key.row.expires_ms.map(iso_time),
        "creator_user_id": key.row.creator,
        "role": key.row.role,
        "priority": key.row.priority,
        "rules": key.rules,
    })
}

pub(super) fn refused(error: LedgerError) -> Error {
    match error {
        LedgerError::UnknownTenant(id) => {
            FieldError::new("workspace_id", format!("no tenant `{id}`; make it with POST /admin/tenants")).into()
        }
        LedgerError::TenantExists(id) => Error::Conflict(format!("the tenant `{id}` exists")),
        conflict @ LedgerError::Conflict => Error::Conflict(conflict.to_string()),
        LedgerError::Database(cause) if cause.is_storage_full() => Error::StorageFull,
        LedgerError::Database(cause) => {
            tracing::error!(%cause, "the ledger could not be written");
            Error::Unavailable
        }
    }
}
