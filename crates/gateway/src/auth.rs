//! Who a request acts for: virtual key → caller, or the operator.

use crate::app::App;
use crate::error::Error;
use axum::http::{HeaderMap, header};
use ledger::{AuthError, Caller};

/// The bearer token of a request; `x-api-key` is read too, since Anthropic's clients send that.
fn token(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer =
        bearer.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let token = bearer.map(|(_, token)| token.trim());
    token.or_else(|| headers.get("x-api-key").and_then(|value| value.to_str().ok())).filter(|token| !token.is_empty())
}

/// Finds the caller of an inference request.
pub(crate) async fn caller(app: &App, headers: &HeaderMap) -> Result<Caller, Error> {
    let token = token(headers).ok_or(Error::Unauthenticated("no key; send `Authorization: Bearer sk-sluice-v1-…`"))?;
    app.ledger.authenticate(token).await.map_err(|error| match error {
        AuthError::Unknown => Error::Unauthenticated("no such key; see `sluice keys list`"),
        AuthError::Revoked => Error::Unauthenticated("this key was revoked; ask for a new one"),
        AuthError::Unavailable(cause) => {
            tracing::error!(%cause, "keys cannot be looked up");
            Error::Unavailable
        }
    })
}

/// Lets only the operator pass.
pub(crate) fn operator(app: &App, headers: &HeaderMap) -> Result<(), Error> {
    let token = token(headers).ok_or(Error::Unauthenticated("no key; send the operator's key as a bearer token"))?;
    if app.ledger.is_admin(token) {
        return Ok(());
    }
    Err(Error::Forbidden("this needs the operator's key"))
}
