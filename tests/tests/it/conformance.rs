//! Every path that we share with OpenRouter's API, asked for real, and its reply held against OpenRouter's own description:
//! `make conformance REFERENCE=FILE`. The description is not ours to ship, so these tests run only there.

use crate::isolation::routes;
use crate::stack::{ADMIN, Stack, endpoints, question, streamed};
use boon::{Compiler, Schemas};
use reqwest::Method;
use serde_json::{Value, json};

/// What is sent to a path, and as whom. `{gen}` and `{hash}` stand for ids that are there.
struct Call {
    method: &'static str,
    path: &'static str,
    query: &'static str,
    body: Value,
    is_managed: bool,
}

fn calls() -> Vec<Call> {
    let call = |method, path, query, body, is_managed| Call { method, path, query, body, is_managed };
    let get = |path, query, is_managed| call("GET", path, query, Value::Null, is_managed);
    let feedback = json!({"generation_id": "{gen}", "category": "latency"});
    vec![
        call("POST", "/chat/completions", "", question("acme/paid", "hello"), false),
        get("/models", "", false),
        get("/models/count", "", false),
        get("/model/{author}/{slug}", "", false),
        get("/models/{author}/{slug}/endpoints", "", false),
        get("/embeddings/models", "", false),
        get("/endpoints/zdr", "", false),
        get("/providers", "", false),
        get("/generation", "?id={gen}", false),
        get("/generation/content", "?id={gen}", false),
        call("POST", "/generation/feedback", "", feedback, false),
        get("/activity", "", true),
        get("/activity", "?group_by=workspace", true),
        get("/credits", "", true),
        get("/datasets/rankings-daily", "?end_date={today}", false),
        get("/datasets/app-rankings", "?end_date={today}", false),
        get("/key", "", false),
        get("/keys", "", true),
        call("POST", "/keys", "", json!({"name": "n", "limit": 1, "limit_reset": "daily"}), true),
        get("/keys/{hash}", "", true),
        call("PATCH", "/keys/{hash}", "", json!({"name": "m"}), true),
        call("DELETE", "/keys/{hash}", "", Value::Null, true),
    ]
}

fn reference() -> Value {
    let path = std::env::var("REFERENCE").expect("REFERENCE names OpenRouter's description; see `make conformance`");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut reference: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
    // OpenRouter names the providers that it has; ours are named by who configures them.
    reference["components"]["schemas"]["ProviderName"] = json!({"type": "string"});
    reference
}

/// What is wrong with a reply, in the words of the validator; nothing where it is as described.
fn problem(reference: &Value, pointer: &str, reply: &Value) -> Option<String> {
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    compiler.set_default_draft(boon::Draft::V2020_12); // openapis.org: 3.1 uses it
    compiler.add_resource("mem:///reference.json", reference.clone()).expect("a document");
    let index = compiler.compile(&format!("mem:///reference.json#{pointer}"), &mut schemas);
    let index = index.unwrap_or_else(|error| panic!("{pointer}: {error}"));
    schemas.validate(reply, index).err().map(|error| format!("{error:#}"))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs OpenRouter's description: make conformance REFERENCE=FILE"]
async fn replies_are_as_openrouter_describes_them() {
    let reference = reference();
    let content = "[content]\ntenants = [\"default\"]\n[cache.semantic]\nenabled = false\n";
    let stack = Stack::start(&(endpoints("acme/paid", &["sim/small"]) + content)).await;
    let asked = stack.post_as(&stack.key, "/v1/chat/completions", &question("acme/paid", "before"));
    let answered =
        stack.send(asked.header("x-title", "an app").header("http-referer", "https://app.example.org")).await;
    let made = stack.send(stack.post_as(ADMIN, "/v1/keys", &json!({"name": "k"}))).await.json();
    let (mut checked, mut wrong) = (0, Vec::new());
    let calls = calls();
    for (method, path) in routes() {
        let described = &reference["paths"][&path][method.to_lowercase()];
        if described.is_null() {
            continue; // ours alone
        }
        let own: Vec<&Call> = calls.iter().filter(|call| call.method == method && call.path == path).collect();
        assert!(!own.is_empty(), "{method} {path} is described: say in conformance.rs how it is asked");
        for call in own {
            let today = jiff_today();
            let fill = |text: &str| {
                text.replace("{gen}", answered.header("x-generation-id"))
                    .replace("{hash}", made["data"]["hash"].as_str().expect("a hash"))
                    .replace("{author}", "acme")
                    .replace("{slug}", "paid")
                    .replace("{today}", &today)
            };
            let url = stack.url(&format!("/v1{}{}", fill(call.path), fill(call.query)));
            let key = if call.is_managed { ADMIN } else { &stack.key };
            let request =
                stack.client().request(Method::from_bytes(method.as_bytes()).expect("a method"), url).bearer_auth(key);
            let request = if call.body.is_null() { request } else { request.body(fill(&call.body.to_string())) };
            let reply = stack.send(request).await;
            let pointer = format!(
                "/paths/{}/{}/responses/{}/content/application~1json/schema",
                path.replace('~', "~0").replace('/', "~1"),
                method.to_lowercase(),
                reply.status
            );
            checked += 1;
            let what = format!("{method} {path}{}", call.query);
            if reply.status >= 300 {
                wrong.push(format!("{what}: {} {}", reply.status, reply.text));
            } else if let Some(problem) = problem(&reference, &pointer, &reply.json()) {
                wrong.push(format!("{what}: {problem}"));
            }
        }
    }
    println!("{} of {checked} replies are as described", checked - wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(checked >= 20);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs OpenRouter's description: make conformance REFERENCE=FILE"]
async fn events_and_errors_are_as_openrouter_describes_them() {
    let reference = reference();
    let stack = Stack::start(&endpoints("acme/paid", &["sim/small"])).await;
    let stream = stack.chat(&streamed(question("acme/paid", "streamed"))).await;
    let schema = "/paths/~1chat~1completions/post/responses/200/content/text~1event-stream/schema";
    let mut wrong = Vec::new();
    for event in stream.events() {
        wrong.extend(problem(&reference, schema, &json!({"data": event})));
    }
    for (status, body) in [(400, json!({"model": "acme/paid", "messages": []})), (404, question("acme/none", "x"))] {
        let refused = stack.chat(&body).await;
        assert_eq!(refused.status, status, "{}", refused.text);
        let schema = format!("/paths/~1chat~1completions/post/responses/{status}/content/application~1json/schema");
        wrong.extend(problem(&reference, &schema, &refused.json()));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

fn jiff_today() -> String {
    let days = ledger::now_ms() / 86_400_000;
    jiff::Timestamp::from_second(days * 86_400).expect("a time").strftime("%Y-%m-%d").to_string()
}
