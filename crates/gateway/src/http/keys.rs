//! `/key` and `/keys`: virtual keys in OpenRouter's schema.

use crate::app::App;
use crate::auth;
use crate::error::Error;
use crate::http::{iso_time, read_json};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use catalog::NanoUsd;
use ledger::{Account, DEFAULT_TENANT, LedgerError, WantedKey};
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
    /// The tenant, OpenRouter's workspace.
    #[serde(default)]
    workspace_id: Option<String>,
    /// Within the tenant, the highest is served first when an endpoint is at its limit.
    #[serde(default)]
    priority: i64,
}

pub(super) async fn create(
    State(app): State<App>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Value>), Error> {
    auth::operator(&app, &headers)?;
    let new: NewKey = read_json(&app, &headers, body).await?;
    if new.name.trim().is_empty() {
        return Err(FieldError::new("name", "empty; give the key a name to recognise it by").into());
    }
    let limit = new.limit.map(|usd| {
        let limit = NanoUsd::from_usd(usd).filter(|limit| *limit >= NanoUsd::ZERO);
        limit.ok_or_else(|| FieldError::new("limit", format!("{usd}; use dollars, 0 or more")))
    });
    let tenant = new.workspace_id.as_deref().unwrap_or(DEFAULT_TENANT);
    let wanted = WantedKey { tenant, name: &new.name, limit: limit.transpose()?, priority: new.priority };
    let made = app.ledger.create_key(wanted).await.map_err(refused)?;
    Ok((StatusCode::CREATED, Json(json!({"data": row(&made.account), "key": made.key}))))
}

pub(super) async fn current(State(app): State<App>, headers: HeaderMap) -> Result<Json<Value>, Error> {
    let caller = auth::caller(&app, &headers).await?;
    let mut row = row(&caller.account);
    row["is_free_tier"] = json!(false);
    row["is_management_key"] = json!(false);
    row["is_provisioning_key"] = json!(false);
    row["rate_limit"] = json!({"requests": -1, "interval": "10s", "note": "no rate limit is set"});
    Ok(Json(json!({ "data": row })))
}

fn row(account: &Account) -> Value {
    let usd = |amount: Option<NanoUsd>| amount.map(NanoUsd::as_usd);
    json!({
        "hash": account.hash,
        "name": account.name,
        "label": account.label,
        "workspace_id": account.tenant_id,
        "disabled": account.is_disabled(),
        "limit": usd(account.limit()),
        "limit_remaining": usd(account.available()),
        "usage": account.used().as_usd(),
        "priority": account.priority,
        "created_at": iso_time(account.created_ms),
    })
}

pub(super) fn refused(error: LedgerError) -> Error {
    match error {
        LedgerError::UnknownTenant(id) => {
            FieldError::new("workspace_id", format!("no tenant `{id}`; make it with POST /admin/tenants")).into()
        }
        LedgerError::TenantExists(id) => Error::Conflict(format!("the tenant `{id}` exists")),
        LedgerError::Database(cause) if cause.is_storage_full() => Error::StorageFull,
        LedgerError::Database(cause) => {
            tracing::error!(%cause, "the ledger could not be written");
            Error::Unavailable
        }
    }
}
