//! Who a request acts for: a key that asks models, a key that manages its tenant, or the operator.

use crate::app::App;
use crate::error::Error;
use axum::http::{HeaderMap, header};
use ledger::{AuthError, Caller, DEFAULT_TENANT, Role};

/// The bearer token of a request; `x-api-key` is read too, since Anthropic's clients send that.
fn token(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer =
        bearer.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let token = bearer.map(|(_, token)| token.trim());
    token.or_else(|| headers.get("x-api-key").and_then(|value| value.to_str().ok())).filter(|token| !token.is_empty())
}

/// Finds whose key it is, whatever it may.
pub(crate) async fn holder(app: &App, headers: &HeaderMap) -> Result<Caller, Error> {
    let token = token(headers).ok_or(Error::Unauthenticated("no key; send `Authorization: Bearer sk-sluice-v1-…`"))?;
    app.ledger.authenticate(token).await.map_err(|error| match error {
        AuthError::Unknown if app.ledger.is_admin(token) => Error::Forbidden(
            "the operator's key manages; ask with a virtual key, as `sluice keys create` makes".to_owned(),
        ),
        AuthError::Unknown => Error::Unauthenticated("no such key; see `sluice keys list`"),
        AuthError::Revoked => Error::Unauthenticated("this key was revoked; ask for a new one"),
        AuthError::Expired => Error::Unauthenticated("this key has expired; ask for a new one"),
        AuthError::Unavailable(cause) => {
            tracing::error!(%cause, "keys cannot be looked up");
            Error::Unavailable
        }
    })
}

/// Finds the caller of an inference request.
pub(crate) async fn caller(app: &App, headers: &HeaderMap) -> Result<Caller, Error> {
    let caller = holder(app, headers).await?;
    if caller.account.role == Role::Manager {
        return Err(Error::Forbidden("a management key asks no model; use a key of the role `member`".to_owned()));
    }
    Ok(caller)
}

/// Who manages: the operator, or a tenant's management key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rank {
    Operator,
    Manager,
}

/// Somebody who manages a tenant.
#[derive(Debug, Clone)]
pub(crate) struct Manager {
    pub rank: Rank,
    /// The tenant that is managed: the operator's choice, or the key's own.
    pub tenant: String,
}

/// Lets pass who manages `workspace`: the operator, or a management key of that tenant. Without one, the operator means the
/// default tenant.
pub(crate) async fn manager(app: &App, headers: &HeaderMap, workspace: Option<&str>) -> Result<Manager, Error> {
    if token(headers).is_some_and(|token| app.ledger.is_admin(token)) {
        let tenant = workspace.unwrap_or(DEFAULT_TENANT).to_owned();
        if tenant != DEFAULT_TENANT && app.ledger.tenant(&tenant).await.map_err(Error::unreadable)?.is_none() {
            return Err(Error::NotFound(format!("no workspace `{tenant}`; GET /admin/tenants lists all")));
        }
        return Ok(Manager { rank: Rank::Operator, tenant });
    }
    let caller = holder(app, headers).await?;
    if caller.account.role != Role::Manager {
        return Err(Error::Forbidden("this needs a management key (role `manager`), or the operator's".to_owned()));
    }
    let tenant = caller.tenant().to_owned();
    if workspace.is_some_and(|workspace| workspace != tenant) {
        return Err(Error::NotFound("no such workspace_id among yours".to_owned()));
    }
    Ok(Manager { rank: Rank::Manager, tenant })
}

/// Lets only the operator pass.
pub(crate) fn operator(app: &App, headers: &HeaderMap) -> Result<(), Error> {
    let token = token(headers).ok_or(Error::Unauthenticated("no key; send the operator's key as a bearer token"))?;
    if app.ledger.is_admin(token) {
        return Ok(());
    }
    Err(Error::Forbidden("this needs the operator's key".to_owned()))
}
