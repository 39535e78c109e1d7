//! A gateway and a simulator as processes of their own, and one request through them.

use benches::{Running, make_key, start, wait_for};
use serde_json::{Value, json};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(crate) const SIMULATOR: &str = "127.0.0.1:39011";
pub(crate) const GATEWAY: &str = "127.0.0.1:39012";

/// One bound and whether it was kept.
pub(crate) struct Verdict {
    bound: String,
    measured: String,
    pub is_kept: bool,
}

impl Verdict {
    pub(crate) fn new(bound: impl Into<String>, measured: impl Into<String>, is_kept: bool) -> Self {
        Self { bound: bound.into(), measured: measured.into(), is_kept }
    }
}

impl Verdict {
    /// A bound that could not be looked at: said, not failed.
    pub(crate) fn left_out(bound: &str) -> Self {
        Self { bound: bound.to_owned(), measured: String::new(), is_kept: true }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = match (self.measured.as_str(), self.is_kept) {
            ("", _) => "–",
            (_, true) => "yes",
            (_, false) => "NO",
        };
        write!(formatter, "| {} | {} | {kept} |", self.bound, self.measured)
    }
}

/// The two processes and a client.
pub(crate) struct Rig {
    binary: PathBuf,
    pub folder: TempDir,
    _simulator: Running,
    pub gateway: Option<Running>,
    pub key: String,
    pub client: reqwest::Client,
}

/// One answered, or not answered, request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    /// 0 without an answer.
    pub status: u16,
    /// From the moment it was due to the first byte of content.
    pub first: Duration,
    pub total: Duration,
    pub ended_well: bool,
    pub provider: String,
    pub cache: String,
    pub text: String,
}

impl Asked {
    pub(crate) fn is_good(&self) -> bool {
        self.status == 200 && self.ended_well
    }
}

/// Tables of a provider at the simulator.
pub(crate) fn provider(name: &str, more: &str) -> String {
    format!("[providers.{name}]\nkind = \"simulated\"\nbase_url = \"http://{SIMULATOR}/v1\"\n{more}")
}

/// Tables of a model at providers, each with its upstream name and its price in dollars per million tokens.
pub(crate) fn model(id: &str, endpoints: &[(&str, &str, f64)]) -> String {
    let mut text = format!("[[models]]\nid = \"{id}\"\n");
    for (provider, name, price) in endpoints {
        text.push_str(&format!(
            "[[models.endpoints]]\nprovider = \"{provider}\"\nname = \"{name}\"\ninput_usd_per_mtok = {price:?}\n\
             output_usd_per_mtok = {price:?}\ncontext_tokens = 100_000_000\noutput_tokens_max = 1000\n"
        ));
    }
    text
}

pub(crate) const NO_CACHE: &str = "[cache.semantic]\nenabled = false\n[cache.exact]\nenabled = false\n";

impl Rig {
    /// Starts both; `latency_ms` is the simulator's time to the first token.
    pub(crate) async fn start(binary: &Path, latency_ms: u64, config: &str) -> Self {
        Self::start_with_answers(binary, latency_ms, config, None).await
    }

    /// The same with a file of answers for the simulator: its name and its text.
    pub(crate) async fn start_with_answers(
        binary: &Path,
        latency_ms: u64,
        config: &str,
        answers: Option<(&str, &str)>,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let latency = latency_ms.to_string();
        let mut arguments = vec!["simulate", "--listen", SIMULATOR, "--latency-ms", &latency, "--log", "calls.jsonl"];
        if let Some((name, text)) = answers {
            std::fs::write(folder.path().join(name), text).expect("a file of answers");
            arguments.extend(["--answers", name]);
        }
        let simulator = start(binary, &arguments, folder.path(), "simulator.log");
        wait_for(&format!("http://{SIMULATOR}/v1/models")).await;
        std::fs::write(folder.path().join("sluice.toml"), config).expect("a configuration");
        let mut rig = Self {
            binary: binary.to_owned(),
            folder,
            _simulator: simulator,
            gateway: None,
            key: String::new(),
            client: benches::client(),
        };
        rig.start_gateway().await;
        rig.key = make_key(&rig.url(""), "fire", "default").await;
        rig
    }

    /// Starts the gateway on the files of an earlier one.
    pub(crate) async fn start_gateway(&mut self) {
        let arguments = ["serve", "--config", "sluice.toml", "--listen", GATEWAY];
        self.gateway = Some(start(&self.binary, &arguments, self.folder.path(), "gateway.log"));
        wait_for(&self.url("/health")).await;
        self.client = benches::client(); // connections to the old process are dead
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{GATEWAY}{path}")
    }

    pub(crate) fn running(&self) -> &Running {
        self.gateway.as_ref().expect("the gateway runs")
    }

    /// Runs another command of `sluice` in the gateway's folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> String {
        let mut command = std::process::Command::new(&self.binary);
        let output = command.args(arguments).current_dir(self.folder.path()).output().expect("it runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Gives a simulated model a rule, or none.
    pub(crate) async fn rule(&self, model: &str, rule: Value) {
        let body = json!({"model": model, "rule": rule}).to_string();
        let url = format!("http://{SIMULATOR}/control/rule");
        let request = self.client.post(url).header("content-type", "application/json").body(body);
        assert!(request.send().await.expect("an answer").status().is_success(), "the rule is taken");
    }

    /// What the simulator has counted.
    pub(crate) async fn counters(&self) -> Value {
        let url = format!("http://{SIMULATOR}/control/counters");
        let text = self.client.get(url).send().await.expect("an answer").text().await.expect("a body");
        serde_json::from_str(&text).expect("JSON")
    }

    /// A value of the gateway's metrics, summed over labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self
            .client
            .get(self.url("/metrics"))
            .bearer_auth(benches::ADMIN)
            .send()
            .await
            .expect("an answer")
            .text()
            .await
            .expect("a body");
        let values = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).fold(0.0, |sum, value| sum + value)
    }

    /// Asks; `due` is when it should have been asked.
    pub(crate) fn ask(&self, body: &Value, due: Instant) -> impl Future<Output = Asked> + Send + use<> {
        self.ask_as(&self.key, body, due)
    }

    pub(crate) fn ask_as(&self, key: &str, body: &Value, due: Instant) -> impl Future<Output = Asked> + Send + use<> {
        let request = self.client.post(self.url("/v1/chat/completions")).bearer_auth(key).body(body.to_string());
        ask(request, due)
    }

    /// Asks the simulator itself.
    pub(crate) fn ask_directly(&self, body: &Value, due: Instant) -> impl Future<Output = Asked> + Send + use<> {
        let url = format!("http://{SIMULATOR}/v1/chat/completions");
        let request = self.client.post(url).header("content-type", "application/json").body(body.to_string());
        ask(request, due)
    }
}

async fn ask(request: reqwest::RequestBuilder, due: Instant) -> Asked {
    let mut asked = Asked::default();
    let Ok(mut response) = request.send().await else {
        asked.total = due.elapsed();
        return asked;
    };
    asked.status = response.status().as_u16();
    let header =
        |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
    (asked.provider, asked.cache) = (header("x-sluice-provider"), header("x-sluice-cache"));
    let streamed = header("content-type").starts_with("text/event-stream");
    let mut text = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        text.extend_from_slice(&chunk);
        if asked.first.is_zero() && (!streamed || contains(&text, b"\"content\":\"")) {
            asked.first = due.elapsed();
        }
    }
    asked.total = due.elapsed();
    asked.text = String::from_utf8_lossy(&text).into_owned();
    let end = if streamed { "[DONE]" } else { "}" };
    asked.ended_well = asked.text.trim_end().ends_with(end);
    asked
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
