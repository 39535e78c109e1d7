//! Plain outbound requests of the gateway's own tools, through the same client rules as provider calls.

use crate::body::Body;
use crate::client::{LIMITS, builder, send_failure};
use crate::error::Failure;
use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use std::time::Duration;
use tokio::time::Instant;

/// A client for JSON over HTTP.
#[derive(Debug, Clone)]
pub struct Outbound {
    client: reqwest::Client,
    deadline: Duration,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Received {
    pub status: u16,
    headers: HeaderMap,
    pub body: Bytes,
}

impl Received {
    /// A header's text, where it has one.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Outbound {
    /// Opens a client whose requests end within `deadline`.
    ///
    /// # Errors
    /// When the TLS set-up fails.
    pub fn new(deadline: Duration) -> reqwest::Result<Self> {
        Ok(Self { client: builder(Duration::from_secs(3)).build()?, deadline })
    }

    /// Posts JSON with a bearer token and reads the answer, whatever its status.
    ///
    /// # Errors
    /// When no whole answer comes within the deadline.
    pub async fn post(&self, url: &str, token: &str, body: String) -> Result<Received, Failure> {
        let by = Instant::now() + self.deadline;
        let request = self.client.post(url).timeout(self.deadline).header(CONTENT_TYPE, "application/json");
        let request = request.header(AUTHORIZATION, format!("Bearer {token}")).body(body);
        let response = request.send().await.map_err(|error| send_failure(url, &error))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = Body::open(url, response)?.read_all(LIMITS.reply_bytes_max, by).await?;
        Ok(Received { status, headers, body })
    }
}
