//! The operator's webhook: told when a budget reaches its soft limit, signed, and told again until it answers.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use catalog::NanoUsd;
use database::Notice;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use ledger::Ledger;
use providers::{Outbound, Secret};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Sha256;
use std::time::Duration;

/// The `[webhook]` table.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct WebhookConfig {
    /// Where soft limits are told; without it, no budget has one.
    pub url: Option<String>,
    /// The environment variable with the secret that signs what is told.
    pub secret_env: Option<String>,
}

/// Who is told, and what signs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Webhook {
    pub url: String,
    pub secret: Secret,
}

impl WebhookConfig {
    /// What is wrong with it: the field and the problem.
    pub(crate) fn problem(&self) -> Option<(&'static str, String)> {
        let Some(url) = &self.url else {
            let problem = || ("webhook.url", "missing; say where soft limits are told".to_owned());
            return self.secret_env.is_some().then(problem);
        };
        if !url.starts_with("https://") && !url.starts_with("http://") {
            return Some(("webhook.url", format!("`{url}` is not of the form https://HOST/PATH")));
        }
        let problem = || ("webhook.secret_env", "missing; name the environment variable with the secret".to_owned());
        self.secret_env.is_none().then(problem)
    }
}

/// How often what has happened is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const DEADLINE: Duration = Duration::from_secs(10);
/// What is told in one look.
const NOTICES_MAX: i64 = 20;
/// A notice that was not taken is told again after half a minute, then after twice as long, at most an hour; about two days in
/// all.
const AGAIN_MS: i64 = 30_000;
const AGAIN_MS_MAX: i64 = 3_600_000;
const TRIES_MAX: i64 = 50;

/// Tells the webhook what it should know; never returns.
pub(crate) async fn tell(webhook: Webhook, ledger: Ledger) {
    let outbound = match Outbound::new(DEADLINE) {
        Ok(outbound) => outbound,
        Err(error) => {
            tracing::error!(%error, "the webhook is told nothing: there is no client");
            return;
        }
    };
    loop {
        if let Err(error) = tell_due(&webhook, &ledger, &outbound).await {
            tracing::warn!(%error, "what the webhook should know could not be read; will retry");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn tell_due(webhook: &Webhook, ledger: &Ledger, outbound: &Outbound) -> Result<(), database::DatabaseError> {
    for notice in ledger.notices(NOTICES_MAX).await? {
        let again_ms = AGAIN_MS.saturating_mul(1 << notice.tries.clamp(0, 20)).min(AGAIN_MS_MAX);
        if !ledger.take_notice(&notice, again_ms).await? {
            continue; // another gateway tells it
        }
        let body = body(&notice).to_string();
        let time_s = ledger::now_ms() / 1_000;
        let headers = [
            ("webhook-id", notice.id.clone()),
            ("webhook-timestamp", time_s.to_string()),
            ("webhook-signature", signature(webhook.secret.expose(), &notice.id, time_s, &body)),
        ];
        let problem = match outbound.post_signed(&webhook.url, &headers, body).await {
            Ok(received) if (200..300).contains(&received.status) => None,
            Ok(received) => Some(format!("status {}", received.status)),
            Err(error) => Some(error.to_string()),
        };
        match problem {
            None => ledger.close_notice(&notice.id).await?,
            Some(problem) if notice.tries + 1 >= TRIES_MAX => {
                tracing::error!(problem, notice.id, "the webhook never took a notice, which is given up");
                ledger.close_notice(&notice.id).await?;
            }
            Some(problem) => tracing::warn!(problem, notice.id, again_ms, "the webhook did not take a notice"),
        }
    }
    Ok(())
}

fn body(notice: &Notice) -> Value {
    let usd = |nano: i64| NanoUsd(nano).as_usd();
    let time = |ms: i64| Timestamp::from_millisecond(ms).unwrap_or_default().to_string();
    let (kind, of) = notice.budget_id.split_once(':').unwrap_or_default();
    json!({
        "type": "budget.soft_limit_reached",
        "timestamp": time(notice.created_ms),
        "data": {
            "workspace_id": notice.tenant_id,
            "budget": kind,
            "key": (kind == "key").then_some(of),
            "soft_limit": usd(notice.soft_nano),
            "limit": notice.limit_nano.map(usd),
            "usage": usd(notice.spent_nano),
            "since": (notice.window_ms > 0).then(|| time(notice.window_ms)),
        },
    })
}

/// True where a secret has a key in it.
pub(crate) fn is_key(secret: &str) -> bool {
    match secret.strip_prefix("whsec_") {
        Some(text) => BASE64.decode(text).is_ok_and(|key| !key.is_empty()),
        None => !secret.is_empty(),
    }
}

/// github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md: HMAC-SHA256 over id, time and body; a
/// secret that begins with `whsec_` is the base64 of the key, any other the key itself.
fn signature(secret: &str, id: &str, time_s: i64, body: &str) -> String {
    let decoded = secret.strip_prefix("whsec_").and_then(|text| BASE64.decode(text).ok());
    let key = decoded.unwrap_or_else(|| secret.as_bytes().to_vec());
    let mut mac =
        Hmac::<Sha256>::new_from_slice(&key).unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
    mac.update(format!("{id}.{time_s}.{body}").as_bytes());
    format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_specification() {
        // The example of the specification's own libraries.
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let signed = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_webhook_without_a_secret_or_an_address_is_a_mistake() {
        let field = |url: Option<&str>, secret: Option<&str>| {
            let config = WebhookConfig { url: url.map(str::to_owned), secret_env: secret.map(str::to_owned) };
            config.problem().map(|(field, _)| field)
        };
        assert_eq!(field(None, None), None);
        assert_eq!(field(Some("https://h.example/x"), Some("SECRET")), None);
        assert_eq!(field(Some("https://h.example/x"), None), Some("webhook.secret_env"));
        assert_eq!(field(None, Some("SECRET")), Some("webhook.url"));
        assert_eq!(field(Some("h.example"), Some("SECRET")), Some("webhook.url"));
    }
}
