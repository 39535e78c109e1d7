//! Plain outbound requests of the gateway's own tools, through the same client rules as provider calls.

use crate::body::Body;
use crate::client::{LIMITS, builder, send_failure};
use crate::error::{Failure, Kind};
use crate::provider::Provider;
use bytes::Bytes;
use catalog::Kind as ProviderKind;
use reqwest::Url;
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

    /// Gets a document, whatever the status.
    ///
    /// # Errors
    /// When no whole answer comes within the deadline.
    pub async fn get(&self, url: &str) -> Result<Received, Failure> {
        self.receive(url, self.client.get(url)).await
    }

    /// Gets a document with a bearer token, whatever the status.
    ///
    /// # Errors
    /// When no whole answer comes within the deadline.
    pub async fn get_as(&self, url: &str, token: &str) -> Result<Received, Failure> {
        self.receive(url, self.client.get(url).header(AUTHORIZATION, format!("Bearer {token}"))).await
    }

    /// A provider's own list of models.
    ///
    /// # Errors
    /// When its kind has none that we read, or no whole answer comes within the deadline.
    pub async fn models_of(&self, provider: &Provider) -> Result<Received, Failure> {
        let fail = |message: &str| Failure::new(&provider.name, Kind::Inexpressible, message);
        if !matches!(provider.kind, ProviderKind::Openai | ProviderKind::Anthropic | ProviderKind::Simulated) {
            return Err(fail("lists its models in a way that is not read"));
        }
        let base = provider.base.as_str().trim_end_matches('/');
        let url = Url::parse(&format!("{base}/models?limit=1000")).map_err(|_| fail("its address is none"))?;
        let credential = provider.credentials.first().ok_or_else(|| fail("has no credential"))?;
        let headers = credential.headers_for(&url, provider.kind, &[], &self.client).await?;
        self.receive(&provider.name, self.client.get(url).headers(headers)).await
    }

    async fn receive(&self, name: &str, request: reqwest::RequestBuilder) -> Result<Received, Failure> {
        let by = Instant::now() + self.deadline;
        let response = request.timeout(self.deadline).send().await.map_err(|error| send_failure(name, &error))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = Body::open(name, response)?.read_all(LIMITS.reply_bytes_max, by).await?;
        Ok(Received { status, headers, body })
    }

    /// Posts JSON with headers that sign it and reads the answer, whatever its status.
    ///
    /// # Errors
    /// When no whole answer comes within the deadline.
    pub async fn post_signed(
        &self,
        url: &str,
        headers: &[(&'static str, String)],
        body: String,
    ) -> Result<Received, Failure> {
        let request = self.client.post(url).header(CONTENT_TYPE, "application/json");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, value));
        self.receive("the webhook", request.body(body)).await // its address may be a secret
    }

    /// Posts JSON with a bearer token and reads the answer, whatever its status.
    ///
    /// # Errors
    /// When no whole answer comes within the deadline.
    pub async fn post(&self, url: &str, token: &str, body: String) -> Result<Received, Failure> {
        let request = self.client.post(url).header(CONTENT_TYPE, "application/json");
        self.receive(url, request.header(AUTHORIZATION, format!("Bearer {token}")).body(body)).await
    }
}
