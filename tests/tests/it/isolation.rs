//! Tenants see nothing of each other: every route that the gateway has, read from its own table, is asked with the keys of one
//! tenant and the ids of another. A route that is added needs a line here.

use crate::stack::{ADMIN, Answered, Stack, endpoints, question};
use reqwest::Method;
use serde_json::{Value, json};

/// What a route has to say to another tenant's keys.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Expected {
    /// Nothing of that id: 404 for who may ask at all, 403 for who may not.
    Nothing,
    /// Its own things only: an answer without anything of the other's.
    Own,
    /// The operator's alone: 403.
    Refused,
    /// An answer that knows of no tenant.
    Public,
}
use Expected::{Nothing, Own, Public, Refused};

/// Method, path, query and body with the other tenant's ids in them, and what follows. `{gen}`, `{hash}`, `{tenant}` and
/// `{entry}` stand for the ids.
fn cases() -> Vec<(&'static str, &'static str, &'static str, Value, Expected)> {
    let none = Value::Null;
    let chat =
        json!({"model": "acme/paid", "messages": [{"role": "user", "content": "a question of the other tenant"}]});
    let feedback = json!({"generation_id": "{gen}", "category": "incorrect_response"});
    vec![
        ("POST", "/chat/completions", "", chat.clone(), Own),
        ("GET", "/models", "", none.clone(), Public),
        ("GET", "/models/count", "", none.clone(), Public),
        ("GET", "/model/{author}/{slug}", "", none.clone(), Public),
        ("GET", "/models/{author}/{slug}/endpoints", "", none.clone(), Public),
        ("GET", "/embeddings/models", "", none.clone(), Public),
        ("GET", "/endpoints/zdr", "", none.clone(), Public),
        ("GET", "/providers", "", none.clone(), Public),
        ("GET", "/generation", "?id={gen}", none.clone(), Nothing),
        ("GET", "/generation/content", "?id={gen}", none.clone(), Nothing),
        ("POST", "/generation/feedback", "", feedback, Nothing),
        ("POST", "/generation/scores", "", json!({"scores": [{"generation_id": "{gen}", "score": 0}]}), Own),
        ("DELETE", "/cache", "", json!({"model": "acme/paid"}), Own),
        ("DELETE", "/cache/{id}", "", none.clone(), Nothing),
        ("POST", "/cache/lookup", "", chat.clone(), Own),
        ("GET", "/cache/stats", "", none.clone(), Own),
        ("GET", "/activity", "?workspace_id={tenant}", none.clone(), Nothing),
        ("GET", "/activity", "?api_key_hash={hash}", none.clone(), Own),
        ("GET", "/credits", "?workspace_id={tenant}", none.clone(), Nothing),
        ("DELETE", "/data", "?user=secret-user", none.clone(), Own),
        ("DELETE", "/data", "?user=secret-user&workspace_id={tenant}", none.clone(), Nothing),
        ("GET", "/datasets/rankings-daily", "", none.clone(), Own),
        ("GET", "/datasets/app-rankings", "", none.clone(), Own),
        ("GET", "/key", "", none.clone(), Own),
        ("GET", "/keys", "?workspace_id={tenant}", none.clone(), Nothing),
        ("GET", "/keys", "", none.clone(), Own),
        ("POST", "/keys", "", json!({"name": "n", "workspace_id": "{tenant}"}), Nothing),
        ("GET", "/keys/{hash}", "", none.clone(), Nothing),
        ("PATCH", "/keys/{hash}", "", json!({"disabled": true}), Nothing),
        ("DELETE", "/keys/{hash}", "", none.clone(), Nothing),
        ("POST", "/route", "", chat, Own),
        ("GET", "/admin/tenants", "", none.clone(), Refused),
        ("POST", "/admin/tenants", "", json!({"id": "third"}), Refused),
        ("GET", "/admin/tenants/{id}", "", none.clone(), Refused),
        ("PATCH", "/admin/tenants/{id}", "", json!({"weight": 2}), Refused),
        (
            "POST",
            "/admin/credits",
            "",
            json!({"id": "x", "workspace_id": "{tenant}", "usd": 1, "kind": "grant"}),
            Refused,
        ),
        (
            "POST",
            "/admin/credits/refunds",
            "",
            json!({"id": "x", "workspace_id": "{tenant}", "purchase_id": "y"}),
            Refused,
        ),
        ("POST", "/webhooks/stripe", "", json!({}), Nothing),
        ("GET", "/health", "", none.clone(), Public),
        ("GET", "/ready", "", none.clone(), Public),
        ("GET", "/metrics", "", none, Refused),
    ]
}

/// Every route of the gateway, as its source has them: method and path.
pub(crate) fn routes() -> Vec<(String, String)> {
    let source = include_str!("../../../crates/gateway/src/http.rs");
    let table = source.split("pub(crate) fn routes").nth(1).expect("the table").split("\n}").next().expect("its end");
    let mut routes = Vec::new();
    for entry in table.split(".route(").skip(1) {
        let path = entry.split('"').nth(1).expect("a path");
        for method in ["get", "post", "patch", "delete", "put"] {
            if entry.contains(&format!("{method}(")) {
                routes.push((method.to_uppercase(), path.to_owned()));
            }
        }
    }
    assert!(routes.len() > 30, "the table was read: {routes:?}");
    routes
}

#[test]
fn every_route_has_a_case() {
    let cases = cases();
    for (method, path) in routes() {
        let is_covered = cases.iter().any(|(known, of, ..)| *known == method && *of == path);
        assert!(is_covered, "{method} {path}: say in isolation.rs what another tenant's keys get there");
    }
    let all = routes();
    for (method, path, ..) in cases {
        assert!(all.contains(&(method.to_owned(), path.to_owned())), "{method} {path} is no route any more");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_route_shows_or_changes_anything_of_another_tenant() {
    let content = "[content]\ntenants = [\"owner\", \"other\"]\n[cache.semantic]\nenabled = false\n";
    let stack = Stack::start(&(endpoints("acme/paid", &["sim/small"]) + content)).await;
    let operator = async |path: &str, body: Value| {
        let made = stack.send(stack.post_as(ADMIN, path, &body)).await;
        assert_eq!(made.status, 201, "{}", made.text);
        made.json()
    };
    for id in ["owner", "other"] {
        operator("/admin/tenants", json!({"id": id})).await;
    }
    let owner = operator("/v1/keys", json!({"name": "secret-name", "workspace_id": "owner"})).await;
    let owner_key = owner["key"].as_str().expect("a key");
    let mut asked = question("acme/paid", "a question of the other tenant");
    asked["user"] = json!("secret-user");
    let request = stack.post_as(owner_key, "/v1/chat/completions", &asked).header("x-title", "secret-app");
    let answered = stack.send(request).await;
    assert_eq!(answered.status, 200, "{}", answered.text);
    let ids = [
        ("{gen}", answered.header("x-generation-id").to_owned()),
        ("{hash}", owner["data"]["hash"].as_str().expect("a hash").to_owned()),
        ("{tenant}", "owner".to_owned()),
        ("{entry}", answered.header("x-generation-id").to_owned()),
    ];
    let before = state(&stack, owner_key, &ids).await;
    let mut keys = Vec::new();
    for role in ["member", "manager"] {
        let made = operator("/v1/keys", json!({"name": role, "workspace_id": "other", "role": role})).await;
        keys.push((role, made["key"].as_str().expect("a key").to_owned()));
    }
    for (method, path, query, body, expected) in cases() {
        for (role, key) in &keys {
            let (answered, sent) = call(&stack, key, (method, path, query, &body), &ids).await;
            let what = format!("{method} {path}{query} as {role}: {} {}", answered.status, answered.text);
            match expected {
                Nothing => assert!([404, 403].contains(&answered.status), "{what}"),
                Refused => assert_eq!(answered.status, 403, "{what}"),
                Own | Public => assert!([200, 404, 403].contains(&answered.status), "{what}"),
            }
            assert!(
                expected != Nothing || *role != "manager" || answered.status == 404 || path == "/cache/{id}",
                "{what}"
            );
            let secrets = ["secret-name", "secret-user", "secret-app", &ids[0].1, &ids[1].1];
            for secret in secrets.into_iter().filter(|secret| !sent.contains(secret)) {
                assert!(!answered.text.contains(secret), "{secret} in {what}");
            }
            assert_ne!(answered.header("x-sluice-cache"), "exact", "{what}");
        }
        // What this tenant asked itself is its own from here on.
        for (_, key) in &keys {
            call(&stack, key, ("DELETE", "/cache", "", &json!({"model": "acme/paid"})), &ids).await;
        }
    }
    assert_eq!(state(&stack, owner_key, &ids).await, before, "nothing of the owner's was changed");
}

/// Asks; returns what was sent, too.
async fn call(
    stack: &Stack,
    key: &str,
    (method, path, query, body): (&str, &str, &str, &Value),
    ids: &[(&str, String)],
) -> (Answered, String) {
    let is_under_v1 =
        !["/admin", "/webhooks", "/health", "/ready", "/metrics"].iter().any(|root| path.starts_with(root));
    let entry = &ids[3].1;
    let path = path.replace("{author}", "acme").replace("{slug}", "paid");
    let path = if path.starts_with("/cache") { path.replace("{id}", entry) } else { path.replace("{id}", "owner") };
    let mut sent = format!("{}{path}{query} {body}", if is_under_v1 { "/v1" } else { "" });
    for (name, id) in ids {
        sent = sent.replace(name, id);
    }
    let (target, body_sent) = sent.split_once(' ').expect("both");
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    let request = stack.client().request(method, stack.url(target)).bearer_auth(key);
    let request = if body.is_null() { request } else { request.body(body_sent.to_owned()) };
    (stack.send(request).await, sent)
}

/// What the owner has: its record, its key and its stored answer.
async fn state(stack: &Stack, key: &str, ids: &[(&str, String)]) -> Value {
    let record =
        stack.send(stack.client().get(stack.url(&format!("/v1/generation?id={}", ids[0].1))).bearer_auth(key)).await;
    let content = stack
        .send(stack.client().get(stack.url(&format!("/v1/generation/content?id={}", ids[0].1))).bearer_auth(key))
        .await;
    let row = stack.send(stack.client().get(stack.url(&format!("/v1/keys/{}", ids[1].1))).bearer_auth(ADMIN)).await;
    let lookup = stack
        .send(stack.post_as(key, "/v1/cache/lookup", &question("acme/paid", "a question of the other tenant")))
        .await;
    assert_eq!(
        [record.status, content.status, row.status, lookup.status],
        [200; 4],
        "{} {}",
        content.text,
        lookup.text
    );
    json!([record.json(), content.json(), row.json(), lookup.json()["data"]["exact"]])
}
