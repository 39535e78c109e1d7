//! How often a key may ask, and how many streams it may have open.

use crate::app::App;
use crate::asked::{Asked, Named};
use crate::error::Error;
use ledger::{DAY_MS, Estimate, Left, MINUTE_MS, Rate};
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The `[limits]` table: how often a tenant may ask models whose names end in `:free`; 0 is no limit.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    pub free_requests_per_minute: u64,
    pub free_requests_per_day: u64,
    /// For a tenant with at least `free_credits_usd` of credits.
    pub free_requests_per_day_with_credits: u64,
    pub free_credits_usd: f64,
}

impl Default for LimitsConfig {
    /// As OpenRouter's: openrouter.ai/docs/api-reference/limits.
    fn default() -> Self {
        Self {
            free_requests_per_minute: 20,
            free_requests_per_day: 50,
            free_requests_per_day_with_credits: 1_000,
            free_credits_usd: 10.0,
        }
    }
}

/// What a request was counted towards.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counted {
    pub requests: Option<Left>,
    pub tokens: Option<Left>,
    /// How many tokens were counted before it is known how many there are.
    pub tokens_estimated: Option<Estimate>,
}

/// Counts a request towards every limit of its key, unless one of them is used up.
pub(crate) async fn count(app: &App, asked: &mut Asked) -> Result<Counted, Error> {
    let account = Arc::clone(&asked.caller.account);
    let rules = &account.rules;
    let minute = |id: String, rule, limit: u64| Rate { id, rule, limit, window_ms: MINUTE_MS };
    let mut counted = Counted::default();
    if let Some(limit) = rules.requests_per_minute {
        let rate = minute(format!("requests:{}", account.hash), "rules.requests_per_minute", u64::from(limit));
        counted.requests = Some(app.ledger.count(&rate, 1).await?);
    }
    if let (Some(limit), Some(user)) = (rules.user_requests_per_minute, &asked.request.user) {
        // Not by name: a user can ask to be forgotten.
        let id = format!("user:{}/{}", account.hash, protocol::digest_of(user.as_bytes()));
        app.ledger.count(&minute(id, "rules.user_requests_per_minute", u64::from(limit)), 1).await?;
    }
    if let Some(limit) = rules.tokens_per_minute {
        let rate = minute(format!("tokens:{}", account.hash), "rules.tokens_per_minute", limit);
        let estimated = protocol::Usage::estimate(asked.request.prompt_bytes(), 0).input_tokens;
        let left = app.ledger.count(&rate, estimated).await?;
        counted.tokens = Some(left);
        counted.tokens_estimated = Some(Estimate { rate, amount: estimated, reset_ms: left.reset_ms });
    }
    count_free(app, asked).await?; // last: what a key's own limits refuse costs its tenant nothing
    Ok(counted)
}

/// Free models are what a tenant gets for nothing, so the tenant is limited, however many keys it has. Where its limit is used up,
/// others that were asked for too answer alone.
async fn count_free(app: &App, asked: &mut Asked) -> Result<(), Error> {
    let is_free = |named: &Named| named.suffixes.free || named.id.ends_with(":free");
    if !asked.models.iter().any(is_free) {
        return Ok(());
    }
    let counted = count_tenant(app, asked).await;
    if counted.is_err() && !asked.models.iter().all(is_free) {
        asked.models.retain(|named| !is_free(named));
        return Ok(());
    }
    counted
}

async fn count_tenant(app: &App, asked: &Asked) -> Result<(), Error> {
    let config = &app.config.limits;
    let has_credits = asked.caller.credits().is_some_and(|credits| credits.as_usd() >= config.free_credits_usd);
    let per_day = if has_credits { config.free_requests_per_day_with_credits } else { config.free_requests_per_day };
    let rates = [
        ("minute", "limits.free_requests_per_minute", config.free_requests_per_minute, MINUTE_MS),
        ("day", "limits.free_requests_per_day", per_day, DAY_MS),
    ];
    for (name, rule, limit, window_ms) in rates.into_iter().filter(|(_, _, limit, _)| *limit > 0) {
        let id = format!("free:{name}:{}", asked.caller.tenant());
        app.ledger.count(&Rate { id, rule, limit, window_ms }, 1).await?;
    }
    Ok(())
}

/// Streams that are open, by key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Streams(Arc<Mutex<HashMap<String, u32>>>);

/// One open stream.
#[derive(Debug)]
pub(crate) struct OpenStream {
    streams: Streams,
    key_hash: String,
}

impl Streams {
    /// Opens a stream, unless the key has as many as it may; gateways that share a database share the limit evenly, each at
    /// least one.
    pub(crate) fn open(&self, app: &App, asked: &Asked) -> Result<OpenStream, Error> {
        let key_hash = asked.caller.account.hash.clone();
        let limit = asked.caller.account.rules.streams_max;
        let share = limit.map(|limit| (limit / app.ledger.gateways_alive().max(1)).max(limit.min(1)));
        let mut open = self.lock();
        let count = open.entry(key_hash.clone()).or_default();
        if let Some(limit) = limit
            && share.is_some_and(|share| *count >= share)
        {
            return Err(Error::TooManyStreams { limit });
        }
        *count += 1;
        Ok(OpenStream { streams: self.clone(), key_hash })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut open = self.streams.lock();
        if let Some(count) = open.get_mut(&self.key_hash) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.key_hash);
            }
        }
    }
}
