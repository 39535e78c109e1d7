//! `/credits` and `/admin/credits`: what tenants have in advance; top-ups and refunds by the operator.

use crate::app::App;
use crate::auth;
use crate::error::Error;
use crate::http::{keys, read_json};
use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use catalog::NanoUsd;
use ledger::{CreditsError, Payment};
use protocol::FieldError;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    workspace_id: Option<String>,
}

/// What was paid and given in advance, and what was used.
pub(super) async fn standing(
    State(app): State<App>,
    headers: HeaderMap,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Value>, Error> {
    let manager = auth::manager(&app, &headers, wanted.workspace_id.as_deref()).await?;
    let standing = app.ledger.standing(&manager.tenant).await.map_err(Error::unreadable)?;
    Ok(Json(json!({"data": {"total_credits": standing.credits.as_usd(), "total_usage": standing.used.as_usd()}})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TopUp {
    /// Its own id: one that arrives twice counts once.
    id: String,
    workspace_id: String,
    /// Credits in dollars; what is paid on top is computed.
    usd: f64,
    /// `purchase` or `grant`.
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Purchase,
    Grant,
}

const ID_CHARS_MAX: usize = 200;

pub(super) async fn top_up(
    State(app): State<App>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Value>), Error> {
    auth::operator(&app, &headers)?;
    let wanted: TopUp = read_json(&app, &headers, body).await?;
    let credits = keys::dollars("usd", wanted.usd)?;
    if credits == NanoUsd::ZERO {
        return Err(FieldError::new("usd", "0; top up by more").into());
    }
    let payment = Payment {
        id: identified(wanted.id)?,
        tenant: wanted.workspace_id,
        credits,
        is_paid: wanted.kind == Kind::Purchase,
    };
    let is_new = app.ledger.top_up(&app.config.credits, &payment).await.map_err(refused)?;
    let fee = if payment.is_paid { app.config.credits.fee(credits) } else { NanoUsd::ZERO };
    let standing = app.ledger.standing(&payment.tenant).await.map_err(Error::unreadable)?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    let data = json!({
        "id": payment.id, "workspace_id": payment.tenant, "usd": credits.as_usd(), "fee_usd": fee.as_usd(),
        "is_new": is_new, "total_credits": standing.credits.as_usd(), "total_usage": standing.used.as_usd(),
    });
    Ok((status, Json(json!({ "data": data }))))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Refund {
    /// Its own id: one that arrives twice counts once.
    id: String,
    workspace_id: String,
    /// The id of the purchase.
    purchase_id: String,
    /// In dollars; left out, all that was not used.
    #[serde(default)]
    usd: Option<f64>,
}

pub(super) async fn refund(State(app): State<App>, headers: HeaderMap, body: Body) -> Result<Json<Value>, Error> {
    auth::operator(&app, &headers)?;
    let wanted: Refund = read_json(&app, &headers, body).await?;
    let usd = wanted.usd.map(|usd| keys::dollars("usd", usd)).transpose()?;
    if usd == Some(NanoUsd::ZERO) {
        return Err(FieldError::new("usd", "0; pay back more, or leave it out for all that was not used").into());
    }
    let of = (wanted.workspace_id.as_str(), wanted.purchase_id.as_str());
    let id = identified(wanted.id)?;
    let refunded = app.ledger.refund(&app.config.credits, of, &id, usd).await.map_err(refused)?;
    Ok(Json(json!({"data": {"id": id, "refunded_usd": refunded.as_usd()}})))
}

pub(super) fn identified(id: String) -> Result<String, FieldError> {
    if id.is_empty() || id.len() > ID_CHARS_MAX || id.contains(char::is_control) {
        return Err(FieldError::new(
            "id",
            format!("use 1 to {ID_CHARS_MAX} printable characters, the payment's own id"),
        ));
    }
    Ok(id)
}

pub(super) fn refused(error: CreditsError) -> Error {
    match error {
        CreditsError::UnknownTenant(_) => FieldError::new("workspace_id", error.to_string()).into(),
        CreditsError::UnknownPayment(_) => Error::NotFound(error.to_string()),
        CreditsError::Differs(_) | CreditsError::NotFree { .. } | CreditsError::TooLate { .. } => {
            Error::Conflict(error.to_string())
        }
        CreditsError::Database(cause) if cause.is_storage_full() => Error::StorageFull,
        CreditsError::Database(cause) => {
            tracing::error!(%cause, "credits could not be booked");
            Error::Unavailable
        }
    }
}
