//! `/credits` and `/admin/credits`: what tenants have in advance; top-ups and refunds, by the operator and by Stripe's webhooks.

use crate::app::App;
use crate::auth;
use crate::error::Error;
use crate::http::{keys, read_body, read_json};
use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use catalog::NanoUsd;
use hmac::{Hmac, KeyInit, Mac};
use ledger::{CreditsError, Payment, now_ms};
use protocol::FieldError;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Sha256;

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
    let standing = app.ledger.standing(&manager.tenant).await.map_err(keys::unreadable)?;
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
    let standing = app.ledger.standing(&payment.tenant).await.map_err(keys::unreadable)?;
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
    let of = (wanted.workspace_id.as_str(), wanted.purchase_id.as_str());
    let id = identified(wanted.id)?;
    let refunded = app.ledger.refund(&app.config.credits, of, &id, usd).await.map_err(refused)?;
    Ok(Json(json!({"data": {"id": id, "refunded_usd": refunded.as_usd()}})))
}

fn identified(id: String) -> Result<String, FieldError> {
    if id.is_empty() || id.len() > ID_CHARS_MAX {
        return Err(FieldError::new("id", format!("use 1 to {ID_CHARS_MAX} characters, the payment's own id")));
    }
    Ok(id)
}

/// A signature older than this is not taken: who has seen one cannot send it again.
const SIGNATURE_AGE_MAX_S: i64 = 300;

/// An event of Stripe's; other kinds than these are acknowledged and change nothing.
#[derive(Deserialize)]
struct StripeEvent {
    #[serde(rename = "type")]
    kind: String,
    data: StripeData,
}

#[derive(Deserialize)]
struct StripeData {
    object: Value,
}

/// `POST /webhooks/stripe`: a checkout that was paid is a top-up of the tenant in `client_reference_id` (or
/// `metadata.workspace_id`). docs.stripe.com/webhooks#verify-manually has the signature.
pub(super) async fn stripe(State(app): State<App>, headers: HeaderMap, body: Body) -> Result<Json<Value>, Error> {
    let secret = app.config.stripe_secret.as_ref();
    let secret = secret
        .ok_or_else(|| Error::NotFound("no webhook secret is configured ([credits] stripe_secret_env)".into()))?;
    let body = read_body(&app, &headers, body).await?;
    let signature = headers.get("stripe-signature").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !is_signed(secret.expose().as_bytes(), signature, &body, now_ms() / 1_000) {
        return Err(Error::BadRequest(FieldError::new("Stripe-Signature", "does not sign this body, or is too old")));
    }
    let event: StripeEvent =
        serde_json::from_slice(&body).map_err(|error| FieldError::new("body", error.to_string()))?;
    let object = &event.data.object;
    let text = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
    let outcome = match event.kind.as_str() {
        "checkout.session.completed" | "checkout.session.async_payment_succeeded" => {
            if object["payment_status"] != "paid" {
                return Ok(Json(json!({"received": true, "booked": "nothing: it is not paid yet"})));
            }
            let paid = in_dollars(&object["currency"], &object["amount_total"])?;
            let credits = app.config.credits.credits_for(paid);
            let named = [
                text("client_reference_id"),
                object["metadata"]["workspace_id"].as_str().unwrap_or_default().to_owned(),
            ];
            let tenant = named.into_iter().find(|name| !name.is_empty()).ok_or_else(|| {
                FieldError::new(
                    "data.object.client_reference_id",
                    "missing; name the workspace when the checkout is made",
                )
            })?;
            let id = [text("payment_intent"), text("id")].into_iter().find(|id| !id.is_empty()).unwrap_or_default();
            let payment = Payment { id: identified(id)?, tenant, credits, is_paid: true };
            let is_new = app.ledger.top_up(&app.config.credits, &payment).await.map_err(refused)?;
            if is_new { "top-up" } else { "nothing: it was booked before" }
        }
        _ => "nothing: it is no payment",
    };
    Ok(Json(json!({"received": true, "booked": outcome})))
}

/// Stripe counts in the smallest unit of a currency.
fn in_dollars(currency: &Value, amount: &Value) -> Result<NanoUsd, FieldError> {
    const NANO_PER_CENT: i64 = 10_000_000;
    if currency.as_str().is_none_or(|currency| !currency.eq_ignore_ascii_case("usd")) {
        return Err(FieldError::new("data.object.currency", format!("{currency}; only usd is booked")));
    }
    let cents = amount.as_i64().filter(|cents| (1..100_000_000_000).contains(cents));
    let problem = || FieldError::new("data.object.amount_total", format!("{amount}; use cents, 1 or more"));
    cents.map(|cents| NanoUsd(cents * NANO_PER_CENT)).ok_or_else(problem)
}

/// True where one of the signatures in the header is that of the time and the body. `verify_slice` takes as long for every
/// wrong one.
fn is_signed(secret: &[u8], header: &str, body: &[u8], now_s: i64) -> bool {
    let part = |name: &'static str| {
        header.split(',').filter_map(move |part| part.trim().split_once('=').filter(|(key, _)| *key == name))
    };
    let Some((_, time)) = part("t").next() else { return false };
    let is_recent = time.parse::<i64>().is_ok_and(|time| (now_s - time).abs() <= SIGNATURE_AGE_MAX_S);
    let signs = |signature: &str| {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return false };
        mac.update(time.as_bytes());
        mac.update(b".");
        mac.update(body);
        bytes_of(signature).is_some_and(|signature| mac.verify_slice(&signature).is_ok())
    };
    is_recent && part("v1").any(|(_, signature)| signs(signature))
}

fn bytes_of(hexadecimal: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        hexadecimal.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    let pairs = digits.chunks_exact(2);
    pairs.remainder().is_empty().then(|| pairs.map(|pair| pair[0] << 4 | pair[1]).collect())
}

fn refused(error: CreditsError) -> Error {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac whsec_test`.
    const SIGNATURE: &str = "38877139021993b830af32feea6e18a8da83eb2f6e49ee50bd9e4cf4ca4d3789";

    #[test]
    fn a_signature_holds_for_its_body_its_time_and_its_secret() {
        let header = format!("t=1700000000,v1={SIGNATURE}");
        let check =
            |secret: &str, header: &str, body: &str, now| is_signed(secret.as_bytes(), header, body.as_bytes(), now);
        assert!(check("whsec_test", &header, "{\"a\":1}", 1_700_000_100));
        let two = format!("t=1700000000,v1=00,v1={SIGNATURE},v0=11");
        assert!(check("whsec_test", &two, "{\"a\":1}", 1_700_000_100), "one of several, while a secret is rolled");
        assert!(!check("whsec_test", &header, "{\"a\":2}", 1_700_000_100));
        assert!(!check("another", &header, "{\"a\":1}", 1_700_000_100));
        assert!(!check("whsec_test", &header, "{\"a\":1}", 1_700_000_301), "too old");
        assert!(!check("whsec_test", &header.replace("t=1700000000", "t=1700000050"), "{\"a\":1}", 1_700_000_100));
        assert!(!check("whsec_test", "", "{\"a\":1}", 1_700_000_100));
        assert!(!check("whsec_test", "t=1700000000,v1=zz", "{\"a\":1}", 1_700_000_100));
    }
}
