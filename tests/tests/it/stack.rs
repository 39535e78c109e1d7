//! A gateway and a simulator on ports of their own, and a client that speaks to them.

use catalog::Listing;
use gateway::{App, Config, ConfigFile, Gateway, serve};
use serde_json::{Value, json};
use simulator::{Answers, SimulatedModel, Simulator};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tests::eventually;
use tokio::net::TcpListener;

pub(crate) const ADMIN: &str = "sk-operator-of-the-tests";

pub(crate) struct Stack {
    pub simulator: Simulator,
    pub gateway: Option<Gateway>,
    pub key: String,
    pub folder: TempDir,
    client: reqwest::Client,
    config: String,
}

pub(crate) struct Answered {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answered {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The JSON of every event of a stream, without the terminal one.
    pub(crate) fn events(&self) -> Vec<Value> {
        let data = self.text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
        data.map(|data| serde_json::from_str(data).expect("an event is JSON")).collect()
    }

    /// The text that a streaming client puts together.
    pub(crate) fn streamed_text(&self) -> String {
        let events = self.events();
        events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect()
    }
}

/// Endpoint tables for models served by the simulator, each costing a round number.
pub(crate) fn endpoints(model: &str, upstream_names: &[&str]) -> String {
    let mut text = format!("[[models]]\nid = \"{model}\"\n");
    for (at, name) in upstream_names.iter().enumerate() {
        let price = [1.0, 2.0, 2_000.0][at]; // the order of names is the order of prices
        text.push_str(&format!(
            "[[models.endpoints]]\nprovider = \"p{at}\"\nname = \"{name}\"\ninput_usd_per_mtok = {price:.1}\n\
             output_usd_per_mtok = {price:.1}\ncontext_tokens = 100000\noutput_tokens_max = 1000\n\
             output_tokens_reserved_max = 500\n"
        ));
    }
    text
}

impl Stack {
    /// Models that serve, one for each fault, and `config` added to the provider tables.
    pub(crate) async fn start(config: &str) -> Self {
        Self::with(simulator(vec![]).await, config).await
    }

    pub(crate) async fn with(simulator: Simulator, config: &str) -> Self {
        let _installed_before = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().expect("a folder");
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let mut stack =
            Self { simulator, gateway: None, key: String::new(), folder, client, config: config.to_owned() };
        stack.restart().await;
        stack
    }

    /// A gateway on the files of another that has stopped.
    pub(crate) async fn on(simulator: Simulator, folder: TempDir, key: &str, config: &str) -> Self {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let (key, config) = (key.to_owned(), config.to_owned());
        let mut stack = Self { simulator, gateway: None, key, folder, client, config };
        stack.restart().await;
        stack
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.folder.path().join("sluice.db")
    }

    /// Stops the gateway where it runs, and starts one on the same files.
    pub(crate) async fn restart(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            gateway.stop().await;
        }
        let config = self.checked(&self.config);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let started = App::start(config, Some(ADMIN)).await.expect("a gateway");
        if let Some(key) = started.keys.as_ref().and_then(|keys| keys.virtual_key.clone()) {
            self.key = key;
        }
        self.gateway = Some(serve(started, listener).expect("serving"));
    }

    /// The configuration with `more` in it.
    pub(crate) fn checked(&self, more: &str) -> Config {
        self.checked_with(more, None)
    }

    /// The same with another list of models and prices than the shipped one.
    pub(crate) fn checked_with(&self, more: &str, listing: Option<Arc<Listing>>) -> Config {
        let mut text = String::new();
        if !more.contains("[database]") {
            text.push_str("[database]\n");
        }
        let url = format!("url = \"sqlite://{}\"\n", self.database().display());
        let more = &if more.contains("[database]") {
            more.replace("[database]\n", &format!("[database]\n{url}"))
        } else {
            text.push_str(&url);
            more.to_owned()
        };
        text.push_str("[embedding]\nbudget_ms = 10000\n");
        if !more.contains("[server]") {
            text.push_str("[server]\nstop_delay_ms = 1\nlag_max_ms = 10000\n"); // a machine of tests stalls
        }
        if !more.contains("[execution]") {
            text.push_str("[execution]\nqueue_wait_max_ms = 500\nretry_backoff_ms = 10\n");
        }
        let url = self.simulator.base_url();
        // Patience where nothing is to fail by itself: a machine of tests stalls.
        let (total, between) = if more.contains("sim/fault-") { (4_000, 1_000) } else { (30_000, 15_000) };
        for at in 0..3 {
            let name = format!("[providers.p{at}]");
            // A test that configures a provider itself says all of it.
            if !more.contains(&name) {
                text.push_str(&format!(
                    "{name}\naggregator = {}\nkind = \"simulated\"\nbase_url = \"{url}\"\ntotal_timeout_ms = {total}\n\
                     first_token_timeout_ms = {between}\nidle_timeout_ms = {between}\n",
                    at > 0, // so that the first is called first
                ));
            }
        }
        let more = &more.replace("SIMULATOR", &url);
        text.push_str(more);
        let file = ConfigFile::parse("test.toml", text).expect("the configuration parses");
        // A service account's tokens are bought where its models are.
        let upstream = more.split("base_url = \"").last().and_then(|rest| rest.split('"').next()).unwrap_or_default();
        let file = match listing {
            Some(listing) => file.with_listing(listing),
            None => file,
        };
        file.check(|name| secret(name, upstream), None).unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.gateway.as_ref().expect("a gateway runs").address)
    }

    pub(crate) fn client(&self) -> reqwest::Client {
        self.client.clone()
    }

    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Answered {
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answered { status, headers, text: response.text().await.expect("a body") }
    }

    /// What Prometheus reads, with the operator's key.
    pub(crate) async fn metrics(&self) -> String {
        let request = self.client().get(self.url("/metrics")).bearer_auth(ADMIN);
        self.send(request).await.text
    }

    pub(crate) fn post_as(&self, key: &str, path: &str, body: &Value) -> reqwest::RequestBuilder {
        self.client.post(self.url(path)).bearer_auth(key).body(body.to_string())
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answered {
        self.send(self.post_as(&self.key, path, body)).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answered {
        self.send(self.client.get(self.url(path)).bearer_auth(&self.key)).await
    }

    pub(crate) async fn chat(&self, body: &Value) -> Answered {
        self.post("/v1/chat/completions", body).await
    }

    /// A key with a limit in dollars.
    pub(crate) async fn limited_key(&self, limit_usd: f64) -> String {
        let made = self.send(self.post_as(ADMIN, "/v1/keys", &json!({"name": "limited", "limit": limit_usd}))).await;
        assert_eq!(made.status, 201, "{}", made.text);
        made.json()["key"].as_str().expect("a key").to_owned()
    }

    /// The settled record of an answer.
    pub(crate) async fn generation(&self, answered: &Answered) -> Value {
        let id = answered.header("x-generation-id");
        let found = self.get(&format!("/v1/generation?id={id}")).await;
        assert_eq!(found.status, 200, "{}", found.text);
        found.json()["data"].clone()
    }
}

/// A simulator with the shipped models and these.
pub(crate) async fn simulator(more: Vec<SimulatedModel>) -> Simulator {
    let models = SimulatedModel::shipped(Duration::ZERO).into_iter().chain(more).collect();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    Simulator::start(listener, models, Answers::default()).expect("a simulator")
}

/// The environment of the tests: variables that begin with `KEY_` hold a credential that names them. `SERVICE_ACCOUNT` is
/// one of Google's, of nobody, whose tokens come from the upstream at `url`.
fn secret(name: &str, url: &str) -> Option<String> {
    if name == "SERVICE_ACCOUNT" {
        let key = include_str!("../../service_account.pem");
        let account =
            json!({"client_email": "nobody@example.org", "private_key": key, "token_uri": format!("{url}/token")});
        return Some(account.to_string());
    }
    name.starts_with("KEY_").then(|| format!("sk-{name}"))
}

pub(crate) fn question(model: &str, text: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": text}]})
}

pub(crate) fn streamed(mut body: Value) -> Value {
    body["stream"] = json!(true);
    body
}

/// Waits until no reservation is open.
pub(crate) async fn eventually_settled(database: &database::Database) {
    eventually("all is settled", async || database.open_reservations().await.expect("a count") == 0).await;
}
