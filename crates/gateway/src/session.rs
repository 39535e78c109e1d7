//! Where conversations were answered last: a provider that still remembers a prompt reads it again for a fraction of its
//! price.

use crate::asked::Asked;
use catalog::Endpoint;
use protocol::Usage;
use protocol::dialect::Dialect;
use router::Sticky;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Conversations remembered at the most.
const SESSIONS_MAX: usize = 50_000;
/// Providers forget a prompt after about five minutes (platform.claude.com/docs/en/build-with-claude/prompt-caching).
const REMEMBERED: Duration = Duration::from_secs(300);

/// Conversations by tenant and `session_id`; lost with the process, which costs a cold prompt at most.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sessions(Arc<Mutex<Known>>);

type Known = HashMap<(String, String), (Instant, Sticky)>;

impl Sessions {
    /// Where the conversation of a request was answered lately.
    pub(crate) fn sticky(&self, asked: &Asked) -> Option<Sticky> {
        let session = asked.request.session.clone()?;
        let known = self.lock();
        let (at, sticky) = known.get(&(asked.caller.tenant().to_owned(), session))?;
        (at.elapsed() < REMEMBERED).then(|| sticky.clone())
    }

    /// Notes who answered. Only a provider that sells remembered prompts cheaper is worth coming back to.
    pub(crate) fn remember(&self, asked: &Asked, endpoint: &Endpoint, usage: Usage) {
        let Some(session) = asked.request.session.clone() else { return };
        let rates = endpoint.price.base;
        if rates.cache_read >= rates.input {
            return;
        }
        // Anthropic's models remember what they are asked to; others what they have seen.
        let by_request = matches!(endpoint.dialect, Dialect::Anthropic | Dialect::Bedrock);
        let cached = usage.cache_read_tokens + usage.cache_write_tokens + usage.cache_write_1h_tokens;
        let warm_tokens = if by_request { cached } else { usage.prompt_tokens() };
        if warm_tokens == 0 {
            return;
        }
        let name = (asked.caller.tenant().to_owned(), session);
        let mut known = self.lock();
        if known.len() >= SESSIONS_MAX && !known.contains_key(&name) {
            // Half of them leave at once, so that this is not done for each request.
            let mut times: Vec<Instant> = known.values().map(|(at, _)| *at).collect();
            let middle = times.len() / 2;
            let (_, middle, _) = times.select_nth_unstable(middle);
            let middle = *middle;
            known.retain(|_, (at, _)| *at > middle);
        }
        known.insert(name, (Instant::now(), Sticky { endpoint: endpoint.id.clone(), warm_tokens }));
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
