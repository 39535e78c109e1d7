//! The routes: one file a noun below. Inference and management answer under `/v1` and `/api/v1`.

mod chat;
mod generation;
mod health;
mod keys;
mod models;
mod route;
mod tenants;

use crate::app::App;
use crate::error::Error;
use crate::telemetry;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use tower_http::catch_panic::CatchPanicLayer;

/// All routes of the gateway.
pub(crate) fn routes(app: App) -> Router {
    let api = Router::new()
        .route("/chat/completions", post(chat::complete))
        .route("/models", get(models::list))
        .route("/generation", get(generation::get))
        .route("/key", get(keys::current))
        .route("/keys", post(keys::create))
        .route("/route", post(route::explain));
    Router::new()
        .nest("/v1", api.clone())
        .nest("/api/v1", api)
        .route("/admin/tenants", post(tenants::create))
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route("/metrics", get(health::metrics))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(CatchPanicLayer::custom(panicked))
        .with_state(app)
}

async fn no_such_path(request: Request) -> Error {
    Error::NotFound(format!("no path `{}`; the API lies under /v1 and /api/v1", request.uri().path()))
}

async fn no_such_method(request: Request) -> Error {
    Error::NotFound(format!("`{}` does not take {}", request.uri().path(), request.method()))
}

fn panicked(cause: Box<dyn std::any::Any + Send>) -> Response {
    let text = cause.downcast_ref::<String>().map(String::as_str).or_else(|| cause.downcast_ref::<&str>().copied());
    tracing::error!(cause = text.unwrap_or("unknown"), "a request panicked");
    telemetry::panicked();
    Error::Internal { id: "panicked".to_owned() }.into_response()
}

/// Reads a body up to the configured size.
async fn read_body(app: &App, body: Body) -> Result<Bytes, Error> {
    let bytes_max = app.config.server.body_bytes_max;
    to_bytes(body, bytes_max).await.map_err(|error| {
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(this) = cause {
            if this.to_string().contains("length limit exceeded") {
                return Error::BodyTooLarge { bytes_max };
            }
            cause = this.source();
        }
        Error::BadRequest(protocol::FieldError::new("body", "the connection ended inside it"))
    })
}

/// Reads a JSON body; unknown fields are refused by the types themselves.
async fn read_json<T: DeserializeOwned>(app: &App, body: Body) -> Result<T, Error> {
    let bytes = read_body(app, body).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::BadRequest(protocol::FieldError::new("body", error.to_string())))
}

/// ISO 8601 in UTC with milliseconds, from milliseconds since 1970.
fn iso_time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| String::new(), |time| format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use super::iso_time;

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(iso_time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso_time(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(iso_time(1_795_176_183_456), "2026-11-20T12:03:03.456Z");
        assert_eq!(iso_time(-1), "1969-12-31T23:59:59.999Z");
    }
}
