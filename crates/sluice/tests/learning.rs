//! From scored answers to an artefact in use, as it is run.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// A gateway that does not outlive the test.
struct Gateway {
    child: Child,
    /// Kept open: what it says after its key goes nowhere else.
    _output: BufReader<ChildStdout>,
    address: String,
    key: String,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            let _status = self.child.wait(); // reaps it
        }
    }
}

impl Gateway {
    /// Starts one; address and key are what it says itself.
    fn start(folder: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
        command.args(["serve", "--listen", "127.0.0.1:0"]).current_dir(folder);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it runs");
        let mut output = BufReader::new(child.stdout.take().expect("its output"));
        let (mut address, mut key) = (String::new(), String::new());
        while key.is_empty() {
            let mut line = String::new();
            assert!(output.read_line(&mut line).expect("UTF-8") > 0, "it ended");
            if let Some((_, rest)) = line.split_once(" on http://") {
                address = rest.trim().to_owned();
            }
            if let Some((_, rest)) = line.split_once("virtual key ") {
                key = rest.trim().to_owned();
            }
        }
        Self { child, _output: output, address, key }
    }

    fn post(&self, path: &str, body: &Value) -> (String, Value) {
        let (body, address) = (body.to_string(), &self.address);
        let mut stream = TcpStream::connect(address).expect("it listens");
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.key,
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
        let from = body.find('{').expect("JSON");
        let value = serde_json::from_str(&body[from..=body.rfind('}').expect("JSON")]).expect("JSON");
        (head.to_lowercase(), value)
    }

    /// Asks a model something and scores the answer.
    fn ask_and_score(&self, model: &str, prompt: &str, score: f64) -> Value {
        let (head, _) = self
            .post("/v1/chat/completions", &json!({"model": model, "messages": [{"role": "user", "content": prompt}]}));
        let id = head.lines().find_map(|line| line.strip_prefix("x-generation-id: ")).expect("an id").trim();
        json!({"generation_id": id, "score": score})
    }

    fn first(&self, prompt: &str) -> Value {
        let body = json!({"model": "policy/saver", "messages": [{"role": "user", "content": prompt}]});
        self.post("/v1/route", &body).1["data"]["route"].clone()
    }
}

const CONFIG: &str = r#"
[content]
tenants = ["default"]
[router]
artefact = "own.json"
train_after_scores = 200
[cache.exact]
enabled = false
[cache.semantic]
enabled = false
[policies.saver]
candidates = ["sim/small", "sim/large"]
baseline = "sim/large"
quality_min = 0.9
"#;

#[test]
fn scores_become_an_artefact_beside_the_running_gateway_and_by_hand_and_the_one_before_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("sluice.toml"), CONFIG).expect("written");
    let gateway = Gateway::start(folder.path());
    assert_eq!(gateway.first("What is the capital of country 7?")["evidence"], "prior, unverified");
    let mut scores = Vec::new();
    for at in 0..100 {
        let is_hard = at % 2 == 0;
        let prompt = match is_hard {
            true => format!("Prove that {at} is the sum of four squares."),
            false => format!("What is the capital of country {at}?"),
        };
        scores.push(gateway.ask_and_score("sim/small", &prompt, f64::from(u8::from(!is_hard))));
        scores.push(gateway.ask_and_score("sim/large", &prompt, 1.0));
    }
    let taken = gateway.post("/v1/generation/scores", &json!({ "scores": scores })).1;
    assert_eq!(taken["data"]["accepted"], 200, "{taken}");
    let begun = Instant::now();
    while gateway.first("What is the capital of country 7?")["evidence"] != "labels" {
        assert!(begun.elapsed() < Duration::from_secs(90), "never trained");
        std::thread::park_timeout(Duration::from_millis(200)); // nobody unparks it
    }
    assert_eq!(
        gateway.first("What is the capital of country 999?")["candidates"][0]["endpoint"],
        "sim/small@simulated"
    );
    assert_eq!(
        gateway.first("Prove that 999 is the sum of four squares.")["candidates"][0]["endpoint"],
        "sim/large@simulated"
    );

    // The same by hand, with a label that goes before the log's own.
    let run = |arguments: &[&str]| {
        let done = Command::new(env!("CARGO_BIN_EXE_sluice")).args(arguments).current_dir(folder.path()).output();
        let done = done.expect("it runs");
        let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
        (done.status.code(), said)
    };
    let exported = run(&["content", "export", "--out", "log.jsonl"]);
    assert!(exported.0 == Some(0) && exported.1.contains("200 answers"), "{exported:?}");
    let trained = run(&["train", "router", "--log", "log.jsonl", "--out", "own.json"]);
    assert!(trained.0 == Some(0) && trained.1.contains("sim/small: 100 labels"), "{trained:?}");
    assert!(folder.path().join("own.json.1").is_file(), "the one before is kept");
    let card = std::fs::read_to_string(folder.path().join("own.card.md")).expect("a card");
    assert!(card.contains("| sim/small | 100 |") && card.contains("100 labelled prompts"), "{card}");
    std::fs::write(folder.path().join("bad.jsonl"), "{\"generation_id\": \"x\", \"score\": 2}\n").expect("written");
    let refused = run(&["train", "router", "--log", "log.jsonl", "--labels", "bad.jsonl", "--out", "other.json"]);
    assert!(refused.0 == Some(2) && refused.1.contains("use a number from 0 to 1"), "{refused:?}");
    let of_nobody = run(&["content", "export", "--tenant", "nobody", "--out", "none.jsonl"]);
    assert!(of_nobody.1.contains("0 answers"), "{of_nobody:?}");
    let refused = run(&["train", "router", "--log", "none.jsonl", "--out", "other.json"]);
    assert!(refused.0 == Some(2) && refused.1.contains("no model with 100 scored answers"), "{refused:?}");
}
