//! Credits: spent, topped up, paid back, by the operator and by Stripe.

use crate::access::{fresh, nano, stack};
use crate::stack::{ADMIN, Stack, endpoints};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn credits_are_spent_topped_up_and_paid_back() {
    let stack = stack().await;
    stack.tenant(json!({"id": "team", "terms": {"prepaid": true}})).await;
    let (key, _) = stack.key(json!({"name": "k", "workspace_id": "team"})).await;
    let body = fresh("acme/paid", "x");
    let refused = stack.ask(&key, &body).await;
    assert_eq!(
        (refused.status, refused.json()["error"]["metadata"]["budget"].as_str()),
        (402, Some("the credits of the tenant"))
    );
    let purchase = json!({"id": "pay-1", "workspace_id": "team", "usd": 2, "kind": "purchase"});
    for (status, is_new) in [(201, true), (200, false)] {
        let topped = stack.call(ADMIN, Method::POST, "/admin/credits", purchase.clone()).await;
        assert_eq!(
            (topped.status, topped.json()["data"]["is_new"].as_bool()),
            (status, Some(is_new)),
            "{}",
            topped.text
        );
    }
    let other = json!({"id": "pay-1", "workspace_id": "team", "usd": 3, "kind": "purchase"});
    assert_eq!(stack.call(ADMIN, Method::POST, "/admin/credits", other).await.status, 409);
    let answered = stack.ask(&key, &body).await;
    assert_eq!(answered.status, 200, "{}", answered.text);
    let cost = nano(&answered.json()["usage"]["cost"]);
    let credits =
        stack.call(ADMIN, Method::GET, "/v1/credits?workspace_id=team", Value::Null).await.json()["data"].clone();
    assert_eq!((nano(&credits["total_credits"]), nano(&credits["total_usage"])), (2_000_000_000, cost));
    let refund = json!({"id": "back-1", "workspace_id": "team", "purchase_id": "pay-1"});
    let back = stack.call(ADMIN, Method::POST, "/admin/credits/refunds", refund.clone()).await;
    assert_eq!(nano(&back.json()["data"]["refunded_usd"]), 2_000_000_000 - cost, "{}", back.text);
    let twice = stack.call(ADMIN, Method::POST, "/admin/credits/refunds", refund.clone()).await;
    assert_eq!(nano(&twice.json()["data"]["refunded_usd"]), 0, "{}", twice.text);
    for (usd, status) in [(0.5, 409), (0.0, 400)] {
        let mut other = refund.clone();
        other["usd"] = json!(usd);
        let refused = stack.call(ADMIN, Method::POST, "/admin/credits/refunds", other).await;
        assert_eq!(refused.status, status, "under an id that was booked with another amount: {}", refused.text);
    }
    assert_eq!(stack.ask(&key, &body).await.status, 402);
}

#[tokio::test]
async fn a_payment_that_stripe_delivers_twice_counts_once_and_one_that_is_not_signed_not_at_all() {
    let credits = "[credits]\npreset = \"openrouter\"\nstripe_secret_env = \"KEY_STRIPE\"\n";
    let stack = Stack::start(&(endpoints("acme/paid", &["sim/small"]) + credits)).await;
    stack.tenant(json!({"id": "team"})).await;
    let session = |status: &str| {
        json!({"type": "checkout.session.completed", "data": {"object": {
            "id": "cs_1", "payment_intent": "pi_1", "payment_status": status, "currency": "usd", "amount_total": 10_550,
            "client_reference_id": "team"}}})
        .to_string()
    };
    let deliver = async |body: &str, secret: &str| {
        let time = ledger::now_ms() / 1_000;
        let signature = hmac(secret, &format!("{time}.{body}"));
        let request = stack.client().post(stack.url("/webhooks/stripe"));
        let request = request.header("stripe-signature", format!("t={time},v1={signature}")).body(body.to_owned());
        let answered = stack.send(request).await;
        (answered.status, answered.text)
    };
    let (status, text) = deliver(&session("paid"), "another secret").await;
    assert_eq!(status, 400, "{text}");
    let (status, text) = deliver(&session("unpaid"), "sk-KEY_STRIPE").await;
    assert!(status == 200 && text.contains("not paid yet"), "{text}");
    for expected in ["top-up", "booked before"] {
        let (status, text) = deliver(&session("paid"), "sk-KEY_STRIPE").await;
        assert!(status == 200 && text.contains(expected), "{status} {text}");
    }
    let standing = stack.call(ADMIN, Method::GET, "/v1/credits?workspace_id=team", Value::Null).await.json();
    assert_eq!(nano(&standing["data"]["total_credits"]), 100_000_000_000, "105.50 paid, 5.5 % of it on top");
    let database = database::Database::open(&stack.database()).await.expect("the same file");
    let balances = database.balances().await.expect("balances");
    let balance = |name| balances.iter().find(|balance| balance.account == name).map(|balance| balance.nano);
    assert_eq!((balance("fees"), balance("cash")), (Some(5_500_000_000), Some(-105_500_000_000)));
    let refund = |id: &str, status: &str, cents: u64| {
        let object = json!({"id": id, "payment_intent": "pi_1", "status": status, "currency": "usd", "amount": cents});
        json!({"type": "refund.created", "data": {"object": object}}).to_string()
    };
    for (id, status, cents, expected) in [
        ("re_1", "pending", 5_275, "not paid back yet"),
        ("re_1", "succeeded", 5_275, "\"refund\""),
        ("re_1", "succeeded", 5_275, "booked before"),
        ("re_2", "succeeded", 10_550, "can be paid back"),
    ] {
        let (answered, text) = deliver(&refund(id, status, cents), "sk-KEY_STRIPE").await;
        assert!(text.contains(expected), "{answered} {text}");
        assert_eq!(answered, if expected == "can be paid back" { 409 } else { 200 }, "{text}");
    }
    let standing = stack.call(ADMIN, Method::GET, "/v1/credits?workspace_id=team", Value::Null).await.json();
    assert_eq!(nano(&standing["data"]["total_credits"]), 50_000_000_000, "half of the money, half of the credits");
    // Stripe promises no order.
    let early = refund("re_3", "succeeded", 2_110).replace("pi_1", "pi_2");
    for expected in ["nothing yet", "nothing yet"] {
        let (status, text) = deliver(&early, "sk-KEY_STRIPE").await;
        assert!(status == 200 && text.contains(expected), "{status} {text}");
    }
    let late = session("paid").replace("pi_1", "pi_2").replace("10550", "2110");
    for expected in ["the refund that came before it", "booked before"] {
        let (status, text) = deliver(&late, "sk-KEY_STRIPE").await;
        assert!(status == 200 && text.contains(expected), "{status} {text}");
    }
    let (status, text) = deliver(&early, "sk-KEY_STRIPE").await;
    assert!(status == 200 && text.contains("booked before"), "{status} {text}");
    let standing = stack.call(ADMIN, Method::GET, "/v1/credits?workspace_id=team", Value::Null).await.json();
    assert_eq!(nano(&standing["data"]["total_credits"]), 50_000_000_000, "what was paid back bought nothing");
}

/// HMAC-SHA256 in hexadecimal, by another program than ours.
fn hmac(secret: &str, text: &str) -> String {
    let script = "import hmac, sys; print(hmac.new(sys.argv[1].encode(), sys.argv[2].encode(), 'sha256').hexdigest())";
    let output =
        std::process::Command::new("python3").args(["-c", script, secret, text]).output().expect("python3 runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
