//! Tenants and keys: who may ask what, how often, and for how much; in OpenRouter's schema.

use crate::stack::{ADMIN, Answered, Stack, endpoints, question, streamed};
use reqwest::Method;
use serde_json::{Value, json};
use tests::eventually;

pub(crate) async fn stack() -> Stack {
    Stack::start(&(endpoints("acme/paid", &["sim/small"]) + &endpoints("acme/other", &["sim/large"]))).await
}

/// A request that no cache answers.
pub(crate) fn fresh(model: &str, text: &str) -> Value {
    let mut body = question(model, text);
    body["sluice"] = json!({"cache": {"mode": "off"}});
    body
}

impl Stack {
    pub(crate) async fn call(&self, key: &str, method: Method, path: &str, body: Value) -> Answered {
        let request = self.client().request(method, self.url(path)).bearer_auth(key);
        self.send(if body.is_null() { request } else { request.body(body.to_string()) }).await
    }

    /// A key made by the operator: its token and its row.
    pub(crate) async fn key(&self, body: Value) -> (String, Value) {
        let made = self.call(ADMIN, Method::POST, "/v1/keys", body).await;
        assert_eq!(made.status, 201, "{}", made.text);
        let made = made.json();
        (made["key"].as_str().expect("a key").to_owned(), made["data"].clone())
    }

    pub(crate) async fn ask(&self, key: &str, body: &Value) -> Answered {
        self.send(self.post_as(key, "/v1/chat/completions", body)).await
    }

    pub(crate) async fn tenant(&self, body: Value) -> Value {
        let made = self.call(ADMIN, Method::POST, "/admin/tenants", body).await;
        assert_eq!(made.status, 201, "{}", made.text);
        made.json()["data"].clone()
    }
}

pub(crate) fn nano(usd: &Value) -> i64 {
    (usd.as_f64().unwrap_or_else(|| panic!("{usd} is no number")) * 1e9).round() as i64
}

#[tokio::test]
async fn a_management_key_makes_reads_changes_and_deletes_the_keys_of_its_tenant() {
    let stack = stack().await;
    stack.tenant(json!({"id": "team"})).await;
    let (manager, row) = stack.key(json!({"name": "m", "role": "manager", "workspace_id": "team"})).await;
    assert_eq!(row["workspace_id"], "team");
    let new = json!({"name": "app", "limit": 5, "limit_reset": "monthly", "expires_at": "2099-01-31T00:00:00Z"});
    let made = stack.call(&manager, Method::POST, "/api/v1/keys", new).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let (token, hash) = (made.json()["key"].clone(), made.json()["data"]["hash"].clone());
    let (token, path) = (token.as_str().expect("a key"), format!("/v1/keys/{}", hash.as_str().expect("a hash")));
    assert_eq!(stack.ask(token, &fresh("acme/paid", "x")).await.status, 200);
    let read = stack.call(&manager, Method::GET, &path, Value::Null).await.json()["data"].clone();
    assert_eq!((read["limit"].as_f64(), read["limit_reset"].as_str()), (Some(5.0), Some("monthly")), "{read}");
    assert_eq!(read["expires_at"], "2099-01-31T00:00:00.000Z");
    let used = nano(&read["usage"]);
    assert!(
        used > 0 && ["usage_daily", "usage_weekly", "usage_monthly"].iter().all(|name| nano(&read[name]) == used),
        "{read}"
    );
    assert_eq!(nano(&read["limit_remaining"]), 5_000_000_000 - used);
    let own = stack.call(token, Method::GET, "/v1/key", Value::Null).await.json()["data"].clone();
    assert_eq!((own["hash"] == hash, own["is_management_key"].as_bool()), (true, Some(false)), "{own}");
    let change = json!({"name": "renamed", "limit": null, "disabled": true, "updated_at": read["updated_at"]});
    let changed = stack.call(&manager, Method::PATCH, &path, change.clone()).await;
    assert_eq!(changed.status, 200, "{}", changed.text);
    assert_eq!(changed.json()["data"]["limit"], Value::Null);
    assert_eq!(
        stack.call(&manager, Method::PATCH, &path, change).await.status,
        409,
        "it was changed since it was read"
    );
    assert_eq!(stack.ask(token, &fresh("acme/paid", "x")).await.status, 401, "disabled at once");
    let names = async |query: &str| {
        let listed = stack.call(&manager, Method::GET, &format!("/v1/keys{query}"), Value::Null).await.json();
        listed["data"].as_array().expect("keys").iter().map(|key| key["name"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(names("").await, ["m"]);
    assert_eq!(names("?include_disabled=true").await, ["m", "renamed"]);
    assert_eq!(names("?include_disabled=true&offset=1").await, ["renamed"]);
    assert_eq!(stack.call(&manager, Method::DELETE, &path, Value::Null).await.json(), json!({"deleted": true}));
    assert_eq!(stack.call(&manager, Method::GET, &path, Value::Null).await.status, 404);
    assert_eq!(names("?include_disabled=true").await, ["m"]);
}

#[tokio::test]
async fn roles_part_who_asks_models_from_who_manages() {
    let stack = stack().await;
    let (manager, _) = stack.key(json!({"name": "m", "role": "manager"})).await;
    let asked = stack.ask(&manager, &fresh("acme/paid", "x")).await;
    assert_eq!((asked.status, stack.simulator.arrived()), (403, 0), "{}", asked.text);
    for path in ["/v1/keys", "/v1/credits", "/v1/activity"] {
        assert_eq!(stack.get(path).await.status, 403, "a member's key manages nothing: {path}");
        assert_eq!(stack.call(&manager, Method::GET, path, Value::Null).await.status, 200, "{path}");
        assert_eq!(stack.call(ADMIN, Method::GET, path, Value::Null).await.status, 200, "{path}");
    }
    let made = stack.call(&manager, Method::POST, "/v1/keys", json!({"name": "n", "role": "manager"})).await;
    assert_eq!(made.status, 403, "managers are made by the operator: {}", made.text);
    assert_eq!(stack.call(&manager, Method::GET, "/admin/tenants", Value::Null).await.status, 403);
    let (_, row) = stack.key(json!({"name": "limited", "role": "manager", "expires_at": "2099-01-31T00:00:00Z"})).await;
    let path = format!("/v1/keys/{}", row["hash"].as_str().expect("a hash"));
    let freed = stack.call(&manager, Method::PATCH, &path, json!({"expires_at": null, "disabled": false})).await;
    assert_eq!(freed.status, 403, "what limits managers they do not take away: {}", freed.text);
    assert_eq!(stack.call(&manager, Method::DELETE, &path, Value::Null).await.status, 403);
    assert_eq!(stack.call(&manager, Method::GET, &path, Value::Null).await.status, 200);
    let asked = stack.ask(ADMIN, &fresh("acme/paid", "x")).await;
    assert!(asked.status == 403 && asked.text.contains("the operator's key manages"), "{}", asked.text);
    let nowhere = stack.call(ADMIN, Method::GET, "/v1/credits?workspace_id=nosuch", Value::Null).await;
    assert_eq!(nowhere.status, 404, "{}", nowhere.text);
}

#[tokio::test]
async fn a_change_leaves_what_it_does_not_name() {
    let stack = stack().await;
    let terms = json!({"prepaid": true, "user_limit": {"usd": 1.0}});
    stack.tenant(json!({"id": "team", "terms": terms})).await;
    let change = json!({"terms": {"markup": {"percent": 20.0}, "user_limit": null}});
    let changed = stack.call(ADMIN, Method::PATCH, "/admin/tenants/team", change).await.json()["data"]["terms"].clone();
    assert_eq!((&changed["prepaid"], &changed["markup"]["percent"]), (&json!(true), &json!(20.0)), "{changed}");
    assert_eq!(changed["user_limit"], Value::Null);
    for id in ["acme/paid", "acme/paid:nitro", "policy/auto"] {
        let own = json!({"terms": {"models": [{"id": id, "serves": "acme/paid"}]}});
        let refused = stack.call(ADMIN, Method::PATCH, "/admin/tenants/team", own).await;
        assert_eq!(refused.json()["error"]["metadata"]["field"], "terms.models[0].id", "{}", refused.text);
    }
    let rules = json!({"ip_ranges": ["10.0.0.0/8"], "requests_per_minute": 5});
    let (_, row) = stack.key(json!({"name": "k", "rules": rules})).await;
    let path = format!("/v1/keys/{}", row["hash"].as_str().expect("a hash"));
    let changed = stack.call(ADMIN, Method::PATCH, &path, json!({"rules": {"requests_per_minute": 9}})).await;
    assert_eq!(changed.json()["data"]["rules"], json!({"ip_ranges": ["10.0.0.0/8"], "requests_per_minute": 9}));
    let refused = stack.call(ADMIN, Method::PATCH, &path, json!({"rules": {"requests_per_hour": 9}})).await;
    assert!(refused.status == 400 && refused.text.contains("requests_per_hour"), "{}", refused.text);
    let refused = stack.call(ADMIN, Method::POST, "/v1/keys", json!(["by", "position"])).await;
    assert!(refused.status == 400 && refused.text.contains("not a JSON object"), "{}", refused.text);
}

#[tokio::test]
async fn a_key_may_ask_only_for_what_its_rules_name_and_is_told_which_rule() {
    let stack = stack().await;
    let check = async |rules: Value, body: &Value, expected: &str| {
        let (key, _) = stack.key(json!({"name": "ruled", "rules": rules})).await;
        let asked = stack.ask(&key, body).await;
        let told = if asked.status == 200 {
            String::new()
        } else {
            format!("{} {}", asked.status, asked.json()["error"]["message"])
        };
        assert!(told.contains(expected) && told.is_empty() == expected.is_empty(), "{rules}: {told}");
    };
    let (paid, other) = (fresh("acme/paid", "x"), fresh("acme/other", "x"));
    check(json!({"models": ["acme/paid"]}), &paid, "").await;
    check(json!({"models": ["acme/*"]}), &other, "").await;
    check(json!({"models": ["acme/paid"]}), &other, "rules.models: this key may not ask for `acme/other`").await;
    let mut fallback = paid.clone();
    fallback["models"] = json!(["acme/other"]);
    check(json!({"models": ["acme/paid"]}), &fallback, "rules.models").await;
    check(json!({"providers": ["p0"]}), &paid, "").await;
    check(json!({"providers": ["p1"]}), &paid, "no endpoint can serve").await;
    let mut only = paid.clone();
    only["provider"] = json!({"only": ["p0"]});
    check(json!({"providers": ["p1"]}), &only, "rules.providers").await;
    check(json!({"policies": ["support"]}), &paid, "rules.policies: this key may not ask for models by name").await;
    check(json!({"policies": ["auto"]}), &fresh("auto", "x"), "").await;
    check(json!({"ip_ranges": ["127.0.0.0/8"]}), &paid, "").await;
    check(json!({"ip_ranges": ["10.0.0.0/8"]}), &paid, "rules.ip_ranges: this key may not be used from 127.0.0.1")
        .await;
    let elsewhere = json!({"name": "away", "workspace_id": "default", "rules": {"ip_ranges": ["10.0.0.0/8"]}});
    let (away, _) = stack.key(elsewhere).await;
    for path in ["/v1/key", "/v1/models", "/v1/generation?id=gen-x"] {
        let refused = stack.call(&away, Method::GET, path, Value::Null).await;
        assert!(refused.status == 403 && refused.text.contains("rules.ip_ranges"), "{path}: {}", refused.text);
    }
    let auto = stack.key(json!({"name": "auto", "rules": {"models": ["acme/other"]}})).await.0;
    let answered = stack.ask(&auto, &fresh("auto", "x")).await;
    assert_eq!(
        answered.header("x-sluice-model"),
        "acme/other",
        "of a policy's candidates the others stay out: {}",
        answered.text
    );
}

#[tokio::test]
async fn an_answer_by_a_model_that_a_key_may_not_ask_for_is_no_hit_for_it() {
    let stack = stack().await;
    assert_eq!(stack.chat(&question("auto", "the same question")).await.status, 200);
    assert_eq!(stack.chat(&question("auto", "the same question")).await.header("x-sluice-cache"), "exact");
    let (key, _) = stack.key(json!({"name": "ruled", "rules": {"models": ["acme/other"]}})).await;
    let answered = stack.ask(&key, &question("auto", "the same question")).await;
    assert_eq!((answered.header("x-sluice-cache"), answered.header("x-sluice-model")), ("miss", "acme/other"));
}

#[tokio::test]
async fn limits_by_minute_say_what_is_left_and_when_to_come_back() {
    let stack = stack().await;
    let (key, _) = stack.key(json!({"name": "r", "rules": {"requests_per_minute": 2}})).await;
    let mut last = stack.ask(&key, &question("acme/paid", "x")).await;
    let mut passed = 0;
    // A minute may end in between, once.
    for _ in 0..4 {
        if last.status == 429 {
            break;
        }
        passed += 1;
        assert_eq!(last.header("x-ratelimit-limit-requests"), "2");
        assert!(last.header("x-ratelimit-reset-requests").parse::<i64>().expect("a time") > ledger::now_ms());
        last = stack.ask(&key, &question("acme/paid", "x")).await;
    }
    assert!((2..=4).contains(&passed) && last.status == 429, "{passed} passed; {}", last.text);
    let metadata = &last.json()["error"]["metadata"];
    assert_eq!(
        (metadata["limit"].as_str(), metadata["limit_value"].as_u64()),
        (Some("rules.requests_per_minute"), Some(2))
    );
    assert_eq!(
        (metadata["window"].as_str(), metadata["error_type"].as_str()),
        (Some("a minute"), Some("rate_limit_exceeded"))
    );
    assert!(
        (1..=60).contains(&last.header("retry-after").parse::<u64>().expect("seconds")),
        "{}",
        last.header("retry-after")
    );
}

#[tokio::test]
async fn tokens_are_counted_as_they_turn_out_and_users_by_themselves() {
    let stack = stack().await;
    let (key, _) = stack.key(json!({"name": "t", "rules": {"tokens_per_minute": 40}})).await;
    let mut statuses = Vec::new();
    for at in 0..12 {
        statuses.push(stack.ask(&key, &fresh("acme/paid", &format!("question {at}"))).await.status);
    }
    assert!(statuses[0] == 200 && statuses.contains(&429), "{statuses:?}");
    let (key, _) = stack.key(json!({"name": "u", "rules": {"user_requests_per_minute": 1}})).await;
    let of = |user: &str| {
        let mut body = fresh("acme/paid", "x");
        body["user"] = json!(user);
        body
    };
    let mut ann = Vec::new();
    for _ in 0..3 {
        ann.push(stack.ask(&key, &of("ann")).await.status);
    }
    assert!(ann.contains(&429), "{ann:?}");
    assert_eq!(stack.ask(&key, &of("bob")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_no_more_streams_open_than_it_may() {
    let stack = stack().await;
    let (key, _) = stack.key(json!({"name": "s", "rules": {"streams_max": 1}})).await;
    stack.simulator.hold();
    let open = stack.post_as(&key, "/v1/chat/completions", &streamed(fresh("acme/paid", "one")));
    let open = tokio::spawn(async move { open.send().await.expect("an answer").text().await.expect("a body") });
    eventually("the first is open", async || stack.simulator.arrived() == 1).await;
    let second = stack.ask(&key, &streamed(fresh("acme/paid", "two"))).await;
    assert_eq!(second.status, 429, "{}", second.text);
    assert_eq!(second.json()["error"]["metadata"]["limit"], "rules.streams_max");
    stack.simulator.release();
    assert!(open.await.expect("no panic").ends_with("data: [DONE]\n\n"));
    assert_eq!(stack.ask(&key, &streamed(fresh("acme/paid", "three"))).await.status, 200);
}

#[tokio::test]
async fn a_tenant_and_its_users_have_limits_of_their_own() {
    let stack = stack().await;
    let terms = json!({"user_limit": {"usd": 0.000_1}});
    stack.tenant(json!({"id": "team", "limit": 0.002, "terms": terms})).await;
    let (key, _) = stack.key(json!({"name": "k", "workspace_id": "team", "limit": 100})).await;
    let mut body = fresh("acme/paid", "x");
    body["user"] = json!("ann");
    let refused = stack.ask(&key, &body).await;
    assert_eq!(refused.status, 200, "what is left shortens the answer: {}", refused.text);
    let mut statuses = Vec::new();
    for _ in 0..10 {
        let answered = stack.ask(&key, &body).await;
        statuses.push(answered.status);
        if answered.status == 402 {
            let metadata = answered.json()["error"]["metadata"].clone();
            assert_eq!(metadata["budget"], "the user `ann`");
            assert!(metadata["needed_usd"].as_f64() > metadata["available_usd"].as_f64(), "{metadata}");
            break;
        }
    }
    assert_eq!(statuses.last(), Some(&402), "{statuses:?}");
    let change = json!({"limit": 0.000_000_001, "terms": {"user_limit": null}});
    let changed = stack.call(ADMIN, Method::PATCH, "/admin/tenants/team", change).await;
    assert_eq!(changed.status, 200, "{}", changed.text);
    let refused = stack.ask(&key, &body).await;
    assert_eq!(
        (refused.status, refused.json()["error"]["metadata"]["budget"].as_str().map(str::to_owned)),
        (402, Some("the tenant".to_owned())),
        "{}",
        refused.text
    );
    let raised = stack.call(ADMIN, Method::PATCH, "/admin/tenants/team", json!({"limit": null})).await;
    assert_eq!(raised.status, 200, "{}", raised.text);
    assert_eq!(stack.ask(&key, &body).await.status, 200, "a limit that is raised holds at once");
}

#[tokio::test]
async fn what_is_sold_at_a_markup_is_booked_as_cost_and_charge() {
    let stack = stack().await;
    let markup = json!({"usd_per_request": 0.008, "usd_per_hit": 0.001});
    let fast = json!({"id": "team/fast", "serves": "acme/paid", "hides_source": true, "markup": {"percent": 100}});
    stack.tenant(json!({"id": "team", "terms": {"markup": markup, "models": [fast]}})).await;
    let (key, _) = stack.key(json!({"name": "k", "workspace_id": "team"})).await;
    let first = stack.ask(&key, &question("acme/paid", "sold")).await;
    let usage = first.json()["usage"].clone();
    let upstream = nano(&usage["cost_details"]["upstream_inference_cost"]);
    assert_eq!(nano(&usage["cost"]), upstream + 8_000_000, "{usage}");
    let hit = stack.ask(&key, &question("acme/paid", "sold")).await;
    assert_eq!((hit.header("x-sluice-cache"), hit.header("x-sluice-cost-usd")), ("exact", "0.001000000"));
    let own = stack.ask(&key, &fresh("team/fast", "sold by another name")).await;
    let body = own.json();
    assert_eq!(
        (body["model"].as_str(), &body["provider"], &body["usage"]["cost_details"]),
        (Some("team/fast"), &Value::Null, &Value::Null)
    );
    let shown = format!("{:?} {}", own.headers, own.text);
    assert!(!shown.contains("acme/paid") && !shown.contains("\"p0\""), "{shown}");
    let id = own.header("x-generation-id");
    let record = stack.call(&key, Method::GET, &format!("/v1/generation?id={id}"), Value::Null).await;
    assert!(!record.text.contains("acme/paid") && record.text.contains("team/fast"), "{}", record.text);
    let stream = stack.ask(&key, &streamed(fresh("team/fast", "streamed"))).await;
    let shown = format!("{:?} {}", stream.headers, stream.text);
    assert!(stream.status == 200 && !shown.contains("acme/paid"), "{shown}");
    let rows =
        stack.call(ADMIN, Method::GET, "/v1/activity?workspace_id=team&group_by=cache", Value::Null).await.json();
    let rows = rows["data"].as_array().expect("rows").clone();
    let sold: i64 = rows.iter().map(|row| nano(&row["usage"])).sum();
    let bought: i64 = rows.iter().map(|row| nano(&row["sluice"]["upstream_usd"])).sum();
    let hits: Vec<i64> = rows.iter().filter(|row| row["cache"] == "exact").map(|row| nano(&row["usage"])).collect();
    assert_eq!(hits, [1_000_000]);
    let own_cost: i64 = rows
        .iter()
        .filter(|row| row["sluice"]["sold_as"] == "team/fast")
        .map(|row| nano(&row["sluice"]["upstream_usd"]))
        .sum();
    assert_eq!(
        sold,
        bought + 8_000_000 + 1_000_000 + own_cost,
        "one answer at a flat markup, a hit, and twice the cost: {rows:?}"
    );
    let (manager, _) = stack.key(json!({"name": "m", "workspace_id": "team", "role": "manager"})).await;
    let theirs = stack.call(&manager, Method::GET, "/v1/activity", Value::Null).await;
    assert!(theirs.text.contains("team/fast") && !theirs.text.contains("upstream_usd"), "{}", theirs.text);
    for (field, wish) in [("only", json!(["p0"])), ("ignore", json!(["p0"])), ("max_price", json!({"prompt": 0.1}))] {
        let mut probing = fresh("team/fast", "who are you?");
        probing["provider"] = json!({field: wish});
        let refused = stack.ask(&key, &probing).await;
        assert!(refused.status == 400 && refused.text.contains(&format!("provider.{field}")), "{}", refused.text);
    }
    // The same question by the open name is another one, and nothing but what every provider says comes through.
    let mut cached = question("team/fast", "asked by both names");
    assert_eq!(stack.ask(&key, &cached).await.header("x-sluice-cache"), "miss");
    let hidden = stack.ask(&key, &cached).await;
    assert_eq!(hidden.header("x-sluice-cache"), "exact");
    let body = hidden.json();
    assert_eq!(
        [&body["provider"], &body["system_fingerprint"], &body["usage"]["cost_details"]],
        [&Value::Null; 3],
        "{body}"
    );
    cached["model"] = json!("acme/paid");
    assert_eq!(stack.ask(&key, &cached).await.header("x-sluice-cache"), "miss");
    let forget = stack.call(&key, Method::DELETE, "/v1/cache", json!({"model": "acme/paid"})).await;
    assert_eq!(forget.status, 400, "{}", forget.text);
    let route = stack.send(stack.post_as(&key, "/v1/route", &fresh("team/fast", "x"))).await;
    assert_eq!(route.status, 404, "{}", route.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_sold_at_a_cent_and_bought_at_a_fifth_of_it_book_their_profit_exactly() {
    // 10 tokens of output at $200 a million cost $0.002.
    let model = "[[models]]\nid = \"acme/paid\"\n[[models.endpoints]]\nprovider = \"p0\"\nname = \"sim/small\"\n\
                 input_usd_per_mtok = 0.0\noutput_usd_per_mtok = 200.0\ncontext_tokens = 100000\noutput_tokens_max = 1000\n\
                 output_tokens_reserved_max = 500\n[cache.semantic]\nenabled = false\n";
    let stack = Stack::start(model).await;
    stack.tenant(json!({"id": "team", "terms": {"markup": {"usd_per_request": 0.008}}})).await;
    let (key, _) = stack.key(json!({"name": "k", "workspace_id": "team"})).await;
    let mut body = fresh("acme/paid", "a question that is answered in more than ten tokens, as all of them are here");
    body["max_tokens"] = json!(10);
    let queries: usize = std::env::var("QUERIES").map_or(1_000, |text| text.parse().expect("a number"));
    let mut waiting = tokio::task::JoinSet::new();
    let permits = std::sync::Arc::new(tokio::sync::Semaphore::new(100));
    for _ in 0..queries {
        let (request, permits) = (stack.post_as(&key, "/v1/chat/completions", &body), std::sync::Arc::clone(&permits));
        waiting.spawn(async move {
            let _permit = permits.acquire().await;
            request.send().await.expect("an answer").status().as_u16()
        });
    }
    assert!(waiting.join_all().await.into_iter().all(|status| status == 200));
    let rows = stack.call(ADMIN, Method::GET, "/v1/activity?workspace_id=team", Value::Null).await.json();
    assert_eq!(rows["data"][0]["requests"], queries);
    let database = database::Database::open(&stack.database()).await.expect("the same file");
    let balances = database.balances().await.expect("balances");
    let balance = |name| balances.iter().find(|balance| balance.account == name).map_or(0, |balance| balance.nano);
    let queries = i64::try_from(queries).expect("few");
    assert_eq!((balance("revenue"), balance("cost")), (queries * 10_000_000, queries * -2_000_000));
    let profit = catalog::NanoUsd(balance("revenue") + balance("cost"));
    println!("{queries} queries booked a profit of ${profit}");
    assert_eq!(profit, catalog::NanoUsd(queries * 8_000_000));
}
