//! Where conversations were answered last: a provider that still remembers a prompt reads it again for a fraction of its
//! price.

use crate::pipeline::Asked;
use catalog::Endpoint;
use protocol::Usage;
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
        let mut known = self.lock();
        if known.len() >= SESSIONS_MAX {
            known.retain(|_, (at, _)| at.elapsed() < REMEMBERED);
        }
        if known.len() < SESSIONS_MAX {
            let sticky = Sticky { endpoint: endpoint.id.clone(), warm_tokens: usage.prompt_tokens() };
            known.insert((asked.caller.tenant().to_owned(), session), (Instant::now(), sticky));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
