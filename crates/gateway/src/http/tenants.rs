//! `/admin/tenants`: the operator makes tenants, and says what they may spend and what they pay.

use crate::app::App;
use crate::auth;
use crate::error::Error;
use crate::http::{iso_time, keys, merged, present, read_json};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use catalog::NanoUsd;
use ledger::{LedgerError, Limits, TenantAccount, Terms, WantedTenant};
use protocol::FieldError;
use providers::WEIGHT_MAX;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewTenant {
    /// Lower-case letters, digits and hyphens.
    id: String,
    #[serde(default)]
    name: Option<String>,
    /// Share of the turns beside other tenants, when an endpoint is at its limit.
    #[serde(default = "one")]
    weight: u32,
    /// What all its keys together may spend, in dollars.
    #[serde(default)]
    limit: Option<f64>,
    #[serde(default)]
    limit_reset: Option<String>,
    /// Dollars at which the webhook is told, and nothing is refused.
    #[serde(default)]
    soft_limit: Option<f64>,
    #[serde(default)]
    terms: Terms,
}

/// What is left out stays as it is; `null` takes a limit away.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TenantChange {
    name: Option<String>,
    weight: Option<u32>,
    #[serde(default, deserialize_with = "present")]
    limit: Option<Option<f64>>,
    #[serde(default, deserialize_with = "present")]
    limit_reset: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    soft_limit: Option<Option<f64>>,
    terms: Option<Value>,
    /// Of the tenant as it was read: somebody else's change since then is a conflict.
    updated_at: Option<String>,
}

fn one() -> u32 {
    1
}

const ID_CHARS_MAX: usize = 64;

pub(super) async fn create(
    State(app): State<App>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Value>), Error> {
    auth::operator(&app, &headers)?;
    let new: NewTenant = read_json(&app, &headers, body).await?;
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if new.id.is_empty() || new.id.len() > ID_CHARS_MAX || !new.id.chars().all(fits) {
        let problem = format!("`{}`; use 1 to {ID_CHARS_MAX} lower-case letters, digits and hyphens", new.id);
        return Err(FieldError::new("id", problem).into());
    }
    let wanted = WantedTenant {
        name: new.name.unwrap_or_else(|| new.id.clone()),
        id: new.id,
        weight: weighed(new.weight)?,
        limits: Limits {
            hard: new.limit.map(|usd| keys::dollars("limit", usd)).transpose()?,
            soft: keys::told(&app, new.soft_limit)?,
            reset: keys::known_reset(new.limit_reset.unwrap_or_default())?,
        },
        terms: sound(&app, new.terms)?,
    };
    let tenant = app.ledger.create_tenant(wanted).await.map_err(keys::refused)?;
    Ok((StatusCode::CREATED, Json(json!({ "data": row(&tenant) }))))
}

pub(super) async fn list(State(app): State<App>, headers: HeaderMap) -> Result<Json<Value>, Error> {
    auth::operator(&app, &headers)?;
    let tenants = app.ledger.tenants().await.map_err(Error::unreadable)?;
    let rows: Vec<Value> = tenants.iter().map(row).collect();
    Ok(Json(json!({ "data": rows })))
}

pub(super) async fn get(
    State(app): State<App>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Json<Value>, Error> {
    auth::operator(&app, &headers)?;
    Ok(Json(json!({ "data": row(&find(&app, &id).await?) })))
}

pub(super) async fn change(
    State(app): State<App>,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<Value>, Error> {
    auth::operator(&app, &headers)?;
    let change: TenantChange = read_json(&app, &headers, body).await?;
    let mut tenant = find(&app, &id).await?;
    if change.updated_at.is_some_and(|time| time != iso_time(tenant.row.updated_ms)) {
        return Err(keys::refused(LedgerError::Conflict));
    }
    tenant.row.name = change.name.unwrap_or(tenant.row.name);
    if let Some(weight) = change.weight {
        tenant.row.weight = i64::from(weighed(weight)?);
    }
    if let Some(limit) = change.limit {
        tenant.budget.limit_nano = limit.map(|usd| keys::dollars("limit", usd)).transpose()?.map(|limit| limit.0);
    }
    if let Some(soft) = change.soft_limit {
        tenant.budget.soft_nano = keys::told(&app, soft)?.map(|limit| limit.0);
    }
    if let Some(reset) = change.limit_reset {
        tenant.budget.reset = keys::known_reset(reset.unwrap_or_default())?;
    }
    if let Some(terms) = change.terms {
        tenant.terms = sound(&app, merged("terms", &tenant.terms, terms)?)?;
    }
    app.ledger.update_tenant(&tenant).await.map_err(keys::refused)?;
    Ok(Json(json!({ "data": row(&find(&app, &id).await?) })))
}

async fn find(app: &App, id: &str) -> Result<TenantAccount, Error> {
    let found = app.ledger.tenant(id).await.map_err(Error::unreadable)?;
    found.ok_or_else(|| Error::NotFound(format!("no tenant `{id}`")))
}

fn weighed(weight: u32) -> Result<u32, FieldError> {
    if (1..=WEIGHT_MAX).contains(&weight) {
        return Ok(weight);
    }
    Err(FieldError::new("weight", format!("{weight}; use 1 to {WEIGHT_MAX}")))
}

/// Terms without a mistake: what their models serve can be served.
fn sound(app: &App, terms: Terms) -> Result<Terms, Error> {
    if let Some((field, problem)) = terms.problem() {
        return Err(FieldError::new(format!("terms.{field}"), problem).into());
    }
    for (at, model) in terms.models.iter().enumerate() {
        let (name, catalog) = (model.id.split(':').next().unwrap_or_default(), &app.config.catalog);
        if catalog.find(&model.id).is_some() || catalog.find(name).is_some() || name.starts_with("policy/") {
            let problem = format!("`{}` is the name of something else here; use one of your own", model.id);
            return Err(FieldError::new(format!("terms.models[{at}].id"), problem).into());
        }
        let is_known = match model.serves.strip_prefix("policy/") {
            Some(policy) => app.config.policies.contains_key(policy),
            None => app.config.catalog.find(&model.serves).is_some(),
        };
        if !is_known {
            let problem = format!("no model or policy `{}`; GET /v1/models lists models", model.serves);
            return Err(FieldError::new(format!("terms.models[{at}].serves"), problem).into());
        }
    }
    Ok(terms)
}

fn row(tenant: &TenantAccount) -> Value {
    let usd = |nano: i64| NanoUsd(nano).as_usd();
    json!({
        "id": tenant.row.id,
        "name": tenant.row.name,
        "weight": tenant.row.weight,
        "limit": tenant.budget.limit_nano.map(usd),
        "limit_reset": Some(&tenant.budget.reset).filter(|reset| !reset.is_empty()),
        "soft_limit": tenant.budget.soft_nano.map(usd),
        "usage": usd(tenant.budget.spent_nano),
        "terms": tenant.terms,
        "created_at": iso_time(tenant.row.created_ms),
        "updated_at": iso_time(tenant.row.updated_ms),
    })
}
