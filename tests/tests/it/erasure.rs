//! `DELETE /data?user=`: nothing of the user is left but what it cost.

use crate::stack::{ADMIN, Stack, endpoints, question};
use database::{CacheFile, cache_path};
use serde_json::{Value, json};
use tests::eventually;

/// Rows of a file that have a text in any of their columns, read by another program than ours.
fn rows_with(path: &std::path::Path, text: &str) -> Vec<String> {
    let script = "import sqlite3, sys\n\
        c = sqlite3.connect(sys.argv[1])\n\
        for (t,) in c.execute(\"SELECT name FROM sqlite_master WHERE type = 'table'\").fetchall():\n\
        \tfor row in c.execute('SELECT * FROM \"' + t + '\"'):\n\
        \t\tif any(sys.argv[2] in str(v) for v in row): print(t)";
    let output =
        std::process::Command::new("python3").args(["-c", script]).arg(path).arg(text).output().expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_user_is_erased_from_records_contents_cache_and_index() {
    let content = "[content]\ntenants = [\"default\"]\n";
    let stack = Stack::start(&(endpoints("acme/paid", &["sim/small"]) + content)).await;
    let asked = |user: &str, text: &str| {
        let mut body = question("acme/paid", text);
        body["user"] = json!(user);
        body
    };
    let secret = asked("ann@example.org", "Which marmalade does the zebra of ann prefer on Sundays?");
    let first = stack.chat(&secret).await;
    assert_eq!(first.status, 200, "{}", first.text);
    let other = asked("bob@example.org", "How many legs does an ordinary spider have?");
    let kept = stack.chat(&other).await;
    let record = stack.generation(&first).await;
    assert_eq!(record["external_user"], "ann@example.org");
    assert_eq!(stack.chat(&other).await.header("x-sluice-cache"), "exact");
    let files = ["sluice.db", "sluice-content.db", "sluice-cache.db"].map(|name| stack.folder.path().join(name));
    let are_kept = async || files[1..].iter().all(|file| !rows_with(file, "marmalade").is_empty());
    eventually("both are kept", are_kept).await;
    let refused = stack.send(stack.client().delete(stack.url("/v1/data")).bearer_auth(ADMIN)).await;
    assert_eq!((refused.status, refused.json()["error"]["metadata"]["field"].as_str()), (400, Some("user")));
    let url = stack.url("/v1/data?user=ann@example.org");
    let erased = stack.send(stack.client().delete(url).bearer_auth(ADMIN)).await;
    assert_eq!(erased.json()["data"], json!({"requests": 1, "contents": 1}), "{}", erased.text);
    for file in &files {
        for text in ["ann@example.org", "marmalade"] {
            // The cache's file is written behind.
            let what = format!("no {text} in {}", file.display());
            eventually(&what, async || rows_with(file, text).is_empty()).await;
        }
    }
    let after = stack.generation(&first).await;
    assert_eq!(
        (&after["external_user"], &after["total_cost"]),
        (&Value::Null, &record["total_cost"]),
        "what it cost stays"
    );
    let id = first.header("x-generation-id");
    assert_eq!(stack.get(&format!("/v1/generation/content?id={id}")).await.status, 404);
    let lookup = stack.post("/v1/cache/lookup", &secret).await.json()["data"].clone();
    assert_eq!(lookup["exact"], Value::Null, "{lookup}");
    let similar = asked("eve@example.org", "Which marmalade does the zebra of ann prefer on a Sunday?");
    let lookup = stack.post("/v1/cache/lookup", &similar).await.text;
    assert!(!lookup.contains("Sundays"), "{lookup}");
    assert_eq!(stack.chat(&secret).await.header("x-sluice-cache"), "miss");
    assert_eq!(stack.chat(&other).await.header("x-sluice-cache"), "exact", "others' entries stay");
    assert_eq!(stack.generation(&kept).await["external_user"], "bob@example.org");
    let file = CacheFile::open(&cache_path(&stack.database())).await.expect("the cache");
    assert!(file.count("default", ledger::now_ms()).await.expect("a count") >= 1);
}
