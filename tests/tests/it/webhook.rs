//! Soft limits: somebody is told once, signed, again until they take it, and nothing is refused.

use crate::stack::{ADMIN, Stack, endpoints, question};
use crate::stores::statement;
use database::DatabaseConfig;
use reqwest::Method;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use tests::eventually;

/// Somebody who is told; what they answer first is 500, then 204.
struct Listener {
    url: String,
    told: Arc<Mutex<Vec<Told>>>,
}

#[derive(Clone, Default)]
struct Told {
    id: String,
    time: String,
    signature: String,
    body: String,
}

impl Listener {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        let told: Arc<Mutex<Vec<Told>>> = Arc::default();
        let heard = Arc::clone(&told);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.expect("a connection");
                let mut reader = BufReader::new(connection.try_clone().expect("a socket"));
                let (mut this, mut bytes) = (Told::default(), 0);
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).expect("a line");
                    let Some((name, value)) = line.trim().split_once(": ") else {
                        if line.trim().is_empty() {
                            break;
                        }
                        continue;
                    };
                    match name {
                        "webhook-id" => this.id = value.to_owned(),
                        "webhook-timestamp" => this.time = value.to_owned(),
                        "webhook-signature" => this.signature = value.to_owned(),
                        "content-length" => bytes = value.parse().expect("a number"),
                        _ => {}
                    }
                }
                let mut body = vec![0; bytes];
                reader.read_exact(&mut body).expect("a body");
                this.body = String::from_utf8(body).expect("text");
                let mut heard = heard.lock().expect("nobody panics");
                heard.push(this);
                let status = if heard.len() == 1 { "500 no" } else { "204 yes" };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                connection.write_all(answer.as_bytes()).expect("written");
            }
        });
        Self { url, told }
    }

    fn told(&self) -> Vec<Told> {
        self.told.lock().expect("nobody panics").clone()
    }
}

/// The signature of what was told, by another program than ours.
fn signed(secret: &str, told: &Told) -> String {
    let script = "import base64, hmac, sys\ntext = sys.stdin.buffer.read()\n\
                  print('v1,' + base64.b64encode(hmac.new(sys.argv[1].encode(), text, 'sha256').digest()).decode())";
    let mut command = Command::new("python3");
    command.args(["-c", script, secret]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("python3 runs");
    let text = format!("{}.{}.{}", told.id, told.time, told.body);
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_listens_is_told_once_that_a_soft_limit_is_reached_and_nothing_is_refused() {
    let listener = Listener::start();
    let webhook = format!("[webhook]\nurl = \"{}\"\nsecret_env = \"KEY_HOOK\"\n", listener.url);
    let stack = Stack::start(&(endpoints("acme/paid", &["sim/small"]) + &webhook)).await;
    let wanted = json!({"name": "soft", "soft_limit": 0.000_001, "limit": 1, "limit_reset": "monthly"});
    let made = stack.call(ADMIN, Method::POST, "/v1/keys", wanted).await.json();
    let (key, hash) = (made["key"].as_str().expect("a key"), made["data"]["hash"].as_str().expect("a hash"));
    assert_eq!(made["data"]["soft_limit"], 0.000_001);
    for text in ["one", "two"] {
        let request = stack.post_as(key, "/v1/chat/completions", &question("acme/paid", text));
        assert_eq!(request.send().await.expect("an answer").status(), 200, "{text}");
    }
    eventually("it is told", async || !listener.told().is_empty()).await;
    // Not taken, it is told again; the half minute until then is made to be over.
    let config = DatabaseConfig::sqlite(&stack.database());
    eventually("it is told again", async || {
        statement(&config, "UPDATE notices SET due_ms = 1 WHERE due_ms IS NOT NULL");
        listener.told().len() == 2
    })
    .await;
    let request = stack.post_as(key, "/v1/chat/completions", &question("acme/paid", "three"));
    assert_eq!(request.send().await.expect("an answer").status(), 200);
    tokio::time::sleep(std::time::Duration::from_secs(5)).await; // two more looks
    let told = listener.told();
    assert_eq!(told.len(), 2, "taken, it is told no more in this window");
    assert_eq!(told[0].id, told[1].id, "so that who hears it twice knows");
    let body: Value = serde_json::from_str(&told[1].body).expect("JSON");
    assert_eq!(body["type"], "budget.soft_limit_reached");
    let data = &body["data"];
    assert_eq!((data["key"].as_str(), data["workspace_id"].as_str()), (Some(hash), Some("default")));
    assert!(data["usage"].as_f64() >= Some(0.000_001) && data["limit"] == 1.0 && data["since"].is_string(), "{data}");
    for told in &told {
        assert_eq!(told.signature, signed("sk-KEY_HOOK", told));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_soft_limit_that_nobody_would_be_told_of_is_refused() {
    let stack = Stack::start(&endpoints("acme/paid", &["sim/small"])).await;
    let refused = stack.call(ADMIN, Method::POST, "/v1/keys", json!({"name": "soft", "soft_limit": 1})).await;
    assert!(refused.status == 400 && refused.text.contains("[webhook]"), "{}", refused.text);
    let refused = stack.call(ADMIN, Method::POST, "/admin/tenants", json!({"id": "soft", "soft_limit": 1})).await;
    assert!(refused.status == 400 && refused.text.contains("soft_limit"), "{}", refused.text);
}
