//! `DELETE /data?user=`: erasure of one end user of a tenant.

use crate::app::App;
use crate::auth;
use crate::error::Error;
use axum::Json;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use protocol::FieldError;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    #[serde(default)]
    user: String,
    workspace_id: Option<String>,
}

/// Deletes prompts, answers and scores of the user, its entries in the cache, and its name in the records, whose costs stay.
/// Other gateways on the database follow within seconds.
pub(super) async fn erase(
    State(app): State<App>,
    headers: HeaderMap,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Value>, Error> {
    let manager = auth::manager(&app, &headers, wanted.workspace_id.as_deref()).await?;
    if wanted.user.is_empty() {
        return Err(FieldError::new("user", "missing; name the end user as its requests do in `user`").into());
    }
    let contents = match &app.contents {
        Some(contents) => contents.erase_user(&manager.tenant, &wanted.user).await.map_err(Error::unreadable)?,
        None => 0,
    };
    let requests = app.ledger.erase_user(&manager.tenant, &wanted.user).await.map_err(Error::unreadable)?;
    app.cache.erase(&manager.tenant, &requests).await.map_err(Error::unreadable)?;
    Ok(Json(json!({"data": {"requests": requests.len(), "contents": contents}})))
}
