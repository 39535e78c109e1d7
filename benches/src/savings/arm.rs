//! One way to serve the day's requests: a gateway of its own, and the account of what it served.

use crate::workload::{MIDDLE, MODELS, Question, Request, STRONG, answers};
use benches::ADMIN;
use catalog::Listing;
use gateway::{App, ConfigFile, serve};
use serde_json::{Value, json};
use simulator::{Answers, SimulatedModel, Simulator};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tokio::net::TcpListener;

/// Who chooses the model of a request.
pub(crate) enum Chooser<'a> {
    /// The same model always.
    Named(&'static str),
    /// For each question a model, chosen elsewhere.
    Picks(&'a HashMap<usize, &'static str>),
    /// The policy of the gateway, which is attached to the strong model.
    Policy,
    /// The same, asked by the official Python client, of which nothing but base URL and key is known.
    PythonClient(&'a Path),
}

pub(crate) struct Arm<'a> {
    pub name: &'static str,
    pub chooser: Chooser<'a>,
    /// What else its policy says.
    pub policy: &'static str,
    /// An artefact for each half, learned from the other.
    pub artefacts: Option<[PathBuf; 2]>,
    pub cache: bool,
}

/// The account of an arm.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Account {
    pub requests: usize,
    pub usd: f64,
    pub score: f64,
    pub hits: usize,
    pub wrong_hits: usize,
    /// By model, fresh answers.
    pub served: HashMap<String, usize>,
}

/// What is known of an answer.
struct Told {
    id: String,
    model: String,
    usd: f64,
    hit: bool,
    /// The generation whose answer was given.
    source: String,
}

impl Arm<'_> {
    fn config(&self, database: &str, listing: &Listing, half: usize) -> String {
        let models: String = MODELS.iter().map(|model| model.table(listing)).collect();
        let candidates: Vec<&str> = MODELS.iter().map(|model| model.id).collect();
        let artefact = self
            .artefacts
            .as_ref()
            .map_or_else(String::new, |artefacts| format!("[router]\nartefact = {:?}\n", artefacts[half]));
        let cache = if self.cache { "" } else { "[cache.exact]\nenabled = false\n[cache.semantic]\nenabled = false\n" };
        format!(
            "[database]\nurl = \"sqlite://{database}\"\n[embedding]\nbudget_ms = 5000\n{cache}{models}{artefact}\
             [policies.saver]\ncandidates = {candidates:?}\nbaseline = \"{STRONG}\"\napplies_to = [\"{STRONG}\"]\n{}",
            self.policy
        )
    }

    /// Serves the requests of one half, one after the other.
    pub(crate) async fn serve(&self, questions: &[Question], requests: &[Request], half: usize, account: &mut Account) {
        let folder = tempfile::tempdir().expect("a folder");
        let listing = Listing::shipped().unwrap_or_else(|error| panic!("{error}"));
        let simulated = MODELS.iter().map(|model| SimulatedModel::new(model.id)).collect();
        let listener = || TcpListener::bind("127.0.0.1:0");
        let known = Answers::new(answers(questions));
        let simulator = Simulator::start(listener().await.expect("a port"), simulated, known).expect("a simulator");
        let text = self.config(&folder.path().join("sluice.db").display().to_string(), &listing, half);
        let file = ConfigFile::parse(self.name, text).unwrap_or_else(|error| panic!("{error}"));
        let config = file.check(|_| None, Some(&simulator.base_url())).unwrap_or_else(|error| panic!("{error}"));
        let started = App::start(config, Some(ADMIN)).await.unwrap_or_else(|error| panic!("{error}"));
        let key = started.keys.as_ref().and_then(|keys| keys.virtual_key.clone()).expect("a first key");
        let gateway = serve(started, listener().await.expect("a port")).expect("serving");
        let caller = Caller { url: format!("http://{}/v1", gateway.address), key, client: reqwest::Client::new() };
        let mut asked: HashMap<String, usize> = HashMap::new();
        let all = match &self.chooser {
            Chooser::PythonClient(python) => caller.ask_by_python(python, requests, folder.path()).await,
            chooser => {
                let mut all = Vec::new();
                for request in requests {
                    let (model, as_asked) = match chooser {
                        Chooser::Named(model) => (*model, true),
                        Chooser::Picks(picks) => (picks[&request.question], true),
                        Chooser::Policy | Chooser::PythonClient(_) => (STRONG, false),
                    };
                    all.push(caller.ask(model, as_asked, &request.prompt).await);
                }
                all
            }
        };
        for (request, told) in requests.iter().zip(all) {
            let question = &questions[request.question];
            asked.insert(told.id.clone(), request.question);
            account.requests += 1;
            account.usd += told.usd;
            account.hits += usize::from(told.hit);
            let right = match asked.get(&told.source).filter(|_| told.hit) {
                Some(source) if *source != request.question => {
                    account.wrong_hits += 1;
                    continue;
                }
                _ => &question.row.outcomes[&told.model],
            };
            account.score += right.0;
            if !told.hit {
                *account.served.entry(told.model).or_default() += 1;
            }
        }
        account.usd += caller.audits_usd().await;
        gateway.stop().await;
    }
}

/// A client with its key.
struct Caller {
    url: String,
    key: String,
    client: reqwest::Client,
}

impl Caller {
    async fn ask(&self, model: &str, as_asked: bool, prompt: &str) -> Told {
        let mut body = json!({"model": model, "messages": [{"role": "user", "content": prompt}]});
        if as_asked {
            body["sluice"] = json!({"policy": "as-asked"});
        }
        let request = self.client.post(format!("{}/chat/completions", self.url)).bearer_auth(&self.key);
        let answered = request.body(body.to_string()).send().await.expect("an answer");
        let headers = answered.headers().clone();
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
        assert_eq!(answered.status(), 200, "{}", answered.text().await.unwrap_or_default());
        Told {
            id: header("x-generation-id"),
            model: header("x-sluice-model"),
            usd: header("x-sluice-cost-usd").parse().expect("a cost"),
            hit: matches!(header("x-sluice-cache").as_str(), "exact" | "similar"),
            source: header("x-sluice-cache-id"),
        }
    }

    /// Has the official client ask everything, and reads in the gateway's records what became of it.
    async fn ask_by_python(&self, python: &Path, requests: &[Request], folder: &Path) -> Vec<Told> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("savings_client.py");
        let prompts: Vec<&str> = requests.iter().map(|request| request.prompt.as_str()).collect();
        let file = folder.join("prompts.json");
        std::fs::write(&file, json!(prompts).to_string()).expect("written");
        let mut command = std::process::Command::new(python);
        command.arg(script).arg(&file).env("OPENAI_BASE_URL", &self.url).env("OPENAI_API_KEY", &self.key);
        command.env("MODEL", STRONG);
        let output =
            tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("python runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let ids: Vec<String> = serde_json::from_slice(&output.stdout).expect("a list of ids");
        assert_eq!(ids.len(), requests.len());
        let mut all = Vec::new();
        for id in ids {
            let row = self.get(&format!("/generation?id={id}")).await;
            let cache = row["data"]["sluice"]["cache"].as_str().unwrap_or_default();
            all.push(Told {
                model: row["data"]["model"].as_str().expect("a model").to_owned(),
                usd: row["data"]["total_cost"].as_f64().expect("a cost"),
                hit: matches!(cache, "exact" | "similar"),
                source: row["data"]["response_cache_source_id"].as_str().unwrap_or_default().to_owned(),
                id,
            });
        }
        all
    }

    async fn audits_usd(&self) -> f64 {
        self.get("/cache/stats").await["data"]["audits_usd"].as_f64().expect("a cost")
    }

    async fn get(&self, path: &str) -> Value {
        let request = self.client.get(format!("{}{path}", self.url)).bearer_auth(&self.key);
        let text = request.send().await.expect("an answer").text().await.expect("a body");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

/// What somebody writes who knows the traffic a little: code, formulas and long texts need the strong model.
pub(crate) fn static_rules() -> String {
    let hard = "request.text.size() > 400 || request.text.contains('def ') || request.text.contains('\\\\\\\\')";
    format!(
        "quality_min = 0.0\n[[policies.saver.rules]]\nwhen = \"{hard}\"\nuse = [\"{STRONG}\"]\n\
         [[policies.saver.rules]]\nwhen = \"!({hard})\"\nuse = [\"{MIDDLE}\"]\n"
    )
}
