//! `POST /webhooks/stripe`: payments and refunds that Stripe tells of. docs.stripe.com/webhooks#verify-manually has the signature.

use crate::app::App;
use crate::error::Error;
use crate::http::credits::{identified, refused};
use crate::http::read_body;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use catalog::NanoUsd;
use hmac::{Hmac, KeyInit, Mac};
use ledger::{Payment, now_ms};
use protocol::FieldError;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Sha256;

/// A signature older than this is not taken: who has seen one cannot send it again.
const SIGNATURE_AGE_MAX_S: u64 = 300;
/// While a secret is rolled there are two.
const SIGNATURES_MAX: usize = 8;
const EVENT_BYTES_MAX: usize = 1 << 20;

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

pub(super) async fn receive(State(app): State<App>, headers: HeaderMap, body: Body) -> Result<Json<Value>, Error> {
    let secret = app.config.stripe_secret.as_ref();
    let secret = secret
        .ok_or_else(|| Error::NotFound("no webhook secret is configured ([credits] stripe_secret_env)".into()))?;
    let body = read_body(&app, &headers, body, EVENT_BYTES_MAX).await?;
    let signature = headers.get("stripe-signature").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !is_signed(secret.expose().as_bytes(), signature, &body, now_ms() / 1_000) {
        return Err(Error::BadRequest(FieldError::new("Stripe-Signature", "does not sign this body, or is too old")));
    }
    let event: StripeEvent =
        serde_json::from_slice(&body).map_err(|error| FieldError::new("body", error.to_string()))?;
    let object = &event.data.object;
    let booked = match event.kind.as_str() {
        "checkout.session.completed" | "checkout.session.async_payment_succeeded" => paid(&app, object).await?,
        "refund.created" | "refund.updated" => paid_back(&app, object).await?,
        _ => "nothing: it is no payment",
    };
    Ok(Json(json!({"received": true, "booked": booked})))
}

/// A checkout that was paid is a top-up of the tenant in `client_reference_id` (or `metadata.workspace_id`).
async fn paid(app: &App, checkout: &Value) -> Result<&'static str, Error> {
    if checkout["payment_status"] != "paid" {
        return Ok("nothing: it is not paid yet");
    }
    let credits = app.config.credits.credits_for(in_dollars(checkout, "amount_total")?);
    if credits == NanoUsd::ZERO {
        return Err(FieldError::new("data.object.amount_total", "buys nothing: the fee is more; pay it back").into());
    }
    let named = [&checkout["client_reference_id"], &checkout["metadata"]["workspace_id"]];
    let tenant = named.into_iter().filter_map(Value::as_str).find(|name| !name.is_empty()).ok_or_else(|| {
        let problem = "missing; name the workspace when the checkout is made";
        FieldError::new("data.object.client_reference_id", problem)
    })?;
    let ids = [text(checkout, "payment_intent"), text(checkout, "id")];
    let id = ids.into_iter().find(|id| !id.is_empty()).unwrap_or_default();
    let payment = Payment { id: identified(id)?, tenant: tenant.to_owned(), credits, is_paid: true };
    let is_new = app.ledger.top_up(&app.config.credits, &payment).await.map_err(refused)?;
    let back = app.ledger.book_refunds(&payment.id).await.map_err(refused)?.unwrap_or_default();
    Ok(match (is_new, back > NanoUsd::ZERO) {
        (_, true) => "top-up, and the refund that came before it",
        (true, false) => "top-up",
        (false, false) => "nothing: it was booked before",
    })
}

/// Money that Stripe has paid back takes the credits back that it bought. Where these are used, that is a conflict: Stripe
/// delivers again, and its operator sees it.
async fn paid_back(app: &App, refund: &Value) -> Result<&'static str, Error> {
    if refund["status"] != "succeeded" {
        return Ok("nothing: it is not paid back yet");
    }
    let (id, payment) = (identified(text(refund, "id"))?, text(refund, "payment_intent"));
    if payment.is_empty() {
        return Ok("nothing: it names no payment");
    }
    let money = in_dollars(refund, "amount")?;
    Ok(match app.ledger.paid_back(&id, &payment, money).await.map_err(refused)? {
        None => "nothing yet: its payment was not booked; it is kept until that arrives",
        Some(NanoUsd::ZERO) => "nothing: it was booked before",
        Some(_) => "refund",
    })
}

fn text(object: &Value, name: &str) -> String {
    object[name].as_str().unwrap_or_default().to_owned()
}

/// Stripe counts in the smallest unit of a currency.
fn in_dollars(object: &Value, field: &str) -> Result<NanoUsd, FieldError> {
    const NANO_PER_CENT: i64 = 10_000_000;
    let (currency, amount) = (&object["currency"], &object[field]);
    if currency.as_str().is_none_or(|currency| !currency.eq_ignore_ascii_case("usd")) {
        return Err(FieldError::new("data.object.currency", format!("{currency}; only usd is booked")));
    }
    let cents = amount.as_i64().filter(|cents| (1..100_000_000_000).contains(cents));
    let problem = || FieldError::new(format!("data.object.{field}"), format!("{amount}; use cents, 1 or more"));
    cents.map(|cents| NanoUsd(cents * NANO_PER_CENT)).ok_or_else(problem)
}

/// True where one of the signatures in the header is that of the time and the body. `verify_slice` takes as long for every
/// wrong one.
fn is_signed(secret: &[u8], header: &str, body: &[u8], now_s: i64) -> bool {
    let part = |name: &'static str| {
        header.split(',').filter_map(move |part| part.trim().split_once('=').filter(|(key, _)| *key == name))
    };
    let Some((_, time)) = part("t").next() else { return false };
    let is_recent = time.parse::<i64>().is_ok_and(|time| time.abs_diff(now_s) <= SIGNATURE_AGE_MAX_S);
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return false };
    if !is_recent {
        return false;
    }
    [time.as_bytes(), b".", body].into_iter().for_each(|part| mac.update(part));
    let signs = |signature: Vec<u8>| mac.clone().verify_slice(&signature).is_ok();
    part("v1").take(SIGNATURES_MAX).filter_map(|(_, signature)| bytes_of(signature)).any(signs)
}

fn bytes_of(hexadecimal: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        hexadecimal.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    let pairs = digits.chunks_exact(2);
    pairs.remainder().is_empty().then(|| pairs.map(|pair| pair[0] << 4 | pair[1]).collect())
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
        let distant = header.replace("t=1700000000", &format!("t={}", i64::MIN));
        assert!(!check("whsec_test", &distant, "{\"a\":1}", 1_700_000_100));
        let many = format!("t=1700000000,{}v1={SIGNATURE}", "v1=00,".repeat(SIGNATURES_MAX));
        assert!(!check("whsec_test", &many, "{\"a\":1}", 1_700_000_100), "nobody sends so many");
        assert!(!check("whsec_test", "", "{\"a\":1}", 1_700_000_100));
        assert!(!check("whsec_test", "t=1700000000,v1=zz", "{\"a\":1}", 1_700_000_100));
    }
}
