//! `POST /admin/tenants`: the operator makes a tenant.

use crate::app::App;
use crate::auth;
use crate::error::Error;
use crate::http::{iso_time, keys, read_json};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
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
    if !(1..=WEIGHT_MAX).contains(&new.weight) {
        return Err(FieldError::new("weight", format!("{}; use 1 to {WEIGHT_MAX}", new.weight)).into());
    }
    let name = new.name.as_deref().unwrap_or(&new.id);
    let tenant = app.ledger.create_tenant(&new.id, name, new.weight).await.map_err(keys::refused)?;
    let row = json!({"id": tenant.id, "name": tenant.name, "weight": tenant.weight, "created_at": iso_time(tenant.created_ms)});
    Ok((StatusCode::CREATED, Json(json!({ "data": row }))))
}
