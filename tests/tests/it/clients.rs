//! The official `openai` Python client against the gateway.

use crate::stack::{Stack, endpoints};
use std::path::Path;

#[tokio::test(flavor = "multi_thread")]
async fn the_official_python_client_works_unmodified() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let python = root.join(".venv/bin/python");
    assert!(python.is_file(), "no .venv with the openai package; `make test` makes it, or `make venv` once");
    let config = endpoints("acme/good", &["sim/small"]) + &endpoints("acme/dead", &["sim/fault-429"]);
    let stack = Stack::start(&config).await;
    let mut command = std::process::Command::new(python);
    command.arg(root.join("tests/clients/openai_client.py")).env("BASE_URL", stack.url("/v1")).env("KEY", &stack.key);
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("python runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said.lines().filter(|line| line.starts_with("ok ")).count(), 7, "{said}");
}
