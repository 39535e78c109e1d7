//! The semantic level with a part that fails, and with input that nobody meant: requests are answered, never wrongly.

use crate::stack::{Stack, endpoints, question};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use tests::eventually;
use tests::qdrant::Server;

const ASKED: &str = "How do I reset my password?";
const REWORDED: &str = "How can I reset my password, please?";

async fn stack(more: &str) -> Stack {
    Stack::start(&(more.to_owned() + &endpoints("acme/good", &["sim/small"]))).await
}

fn ask(text: &str) -> Value {
    question("acme/good", text)
}

#[tokio::test]
async fn a_vector_store_that_breaks_is_a_miss_and_is_said() {
    let server = Server::start(0).await;
    let url = &server.url;
    let config = format!("[cache.semantic]\nstore = \"qdrant\"\nurl = \"{url}\"\nstore_budget_ms = 5000\n");
    let stack = stack(&config).await;
    stack.chat(&ask(ASKED)).await;
    assert_eq!(stack.chat(&ask(REWORDED)).await.header("x-sluice-cache"), "similar");
    assert_eq!(stack.get("/ready").await.json()["status"], "ready");
    eventually("the server has the prompt", async || server.points() == [1]).await;
    server.set_broken(true);
    for at in 0..6 {
        let answered = stack.chat(&ask(&format!("Tell me something about subject {at}"))).await;
        assert_eq!((answered.status, answered.header("x-sluice-cache")), (200, "miss"));
    }
    let explained = stack.post("/v1/cache/lookup", &ask(REWORDED)).await.json();
    assert_eq!(explained["data"]["ineligible"], "store down", "{explained}");
    let ready = stack.get("/ready").await;
    assert_eq!((ready.status, &ready.json()["status"]), (200, &json!("degraded")), "{}", ready.text);
    assert!(ready.text.contains("vector store"), "{}", ready.text);
    let metrics = stack.metrics().await;
    assert!(metrics.contains("sluice_semantic_skipped_total{reason=\"store failed\"}"), "{metrics}");
    assert!(metrics.contains("reason=\"store down\""), "{metrics}");
    server.set_broken(false);
    eventually("the store is used again", async || {
        let found = stack.post("/v1/cache/lookup", &ask("How can I reset my password?")).await.json();
        found["data"]["case"]["cosine"].as_f64().is_some_and(|cosine| cosine > 0.95)
    })
    .await;
    assert_eq!(stack.get("/ready").await.json()["status"], "ready");
}

#[tokio::test]
async fn torn_rows_are_left_out_and_the_others_found() {
    let mut stack = stack("").await;
    let other = "Where can I download the invoices of last year?";
    for text in [ASKED, other, "Which colours does the large lamp come in?"] {
        stack.chat(&ask(text)).await;
    }
    stack.gateway.take().expect("running").stop().await;
    let path = database::cache_path(&stack.database());
    run_sql(&path, "UPDATE prompts SET scope = x'0102' WHERE prompt LIKE 'Where%'");
    let of_lamp = "(SELECT answer_id FROM prompts WHERE prompt LIKE 'Which%')";
    run_sql(&path, &format!("UPDATE answers SET reply = '{{\"choices\": [' WHERE id IN {of_lamp}"));
    stack.restart().await;
    let found = stack.post("/v1/cache/lookup", &ask(REWORDED)).await.json();
    assert!(found["data"]["case"]["cosine"].as_f64().is_some_and(|cosine| cosine > 0.95), "{found}");
    assert_eq!(stack.chat(&ask(other)).await.header("x-sluice-cache"), "exact", "its answer is whole");
    let torn = stack.chat(&ask("Which colours does the large lamp come in, please?")).await;
    assert_eq!((torn.status, torn.header("x-sluice-cache")), (200, "miss"), "its prompt is whole, its answer is not");
    assert_eq!(stack.get("/ready").await.json()["status"], "ready");
}

/// Changes the file behind the gateway's back.
fn run_sql(path: &Path, sql: &str) {
    let script = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\nassert c.execute(sys.argv[2]).rowcount == 1\nc.commit()";
    let output = Command::new("python3").args(["-c", script]).arg(path).arg(sql).output().expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn prompts_that_nobody_meant_match_nothing_wrongly() {
    let stack = stack("").await;
    let long = "word ".repeat(1_600);
    let stored = [ASKED, "password", "5", "\u{1}\u{2}\u{3}", "🙂", long.as_str(), "Как сбросить пароль?", "x"];
    for text in stored {
        assert_eq!(stack.chat(&ask(text)).await.status, 200);
    }
    let (almost, megabyte) = (format!("{long}and another end"), long.repeat(125));
    let asked = [
        "",
        " \n\t ",
        "passwords123",
        "pass word reset how",
        "6",
        "\u{1}\u{2}\u{4}",
        "\u{1}\u{2}\u{3}\u{3}",
        "🙁",
        almost.as_str(),
        megabyte.as_str(),
        "Как удалить пароль?",
        "Ηοw dο Ι rеsеt mу раsswоrd?", // letters of other scripts that look the same
        "如何重置我的密码？",
        "How do I reset my password?\u{0} Delete my account.",
        "How do I reset my password?\u{8}\u{8}\u{8}\u{8} name?",
        "How do I reset my passwordpasswordpasswordpassword?",
        "y",
        "no",
    ];
    for text in asked {
        let answered = stack.chat(&ask(text)).await;
        let start: String = text.chars().take(60).collect();
        let is_possible = !text.trim().is_empty() && text.len() < 100_000;
        assert!(answered.status == 200 || !is_possible, "{start:?}: {}", answered.text);
        assert_ne!(answered.header("x-sluice-cache"), "similar", "{start:?}: {}", answered.text);
    }
}
