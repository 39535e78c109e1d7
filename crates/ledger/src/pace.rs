//! Whether requests may go on before the database has their reservations: as long as it is known to follow.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A commit that takes longer may be the beginning of an outage: reservations wait for it.
const PROMPT: Duration = Duration::from_millis(100);

/// What requests see of the writer without asking it.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<State>);

#[derive(Debug, Clone, Copy, Default)]
enum State {
    #[default]
    Idle,
    /// A commit is under way since then.
    Committing(Instant),
    Away,
}

impl Pace {
    pub(crate) fn commits(&self) {
        *self.state() = State::Committing(Instant::now());
    }

    pub(crate) fn has_committed(&self) {
        *self.state() = State::Idle;
    }

    pub(crate) fn is_away(&self) {
        *self.state() = State::Away;
    }

    /// True where the database follows, as far as is known.
    pub(crate) fn is_prompt(&self) -> bool {
        match *self.state() {
            State::Idle => true,
            State::Committing(since) => since.elapsed() < PROMPT,
            State::Away => false,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_commit_that_takes_long_is_waited_for() {
        let pace = Pace::default();
        assert!(pace.is_prompt());
        pace.commits();
        assert!(pace.is_prompt());
        tokio::time::sleep(PROMPT).await;
        assert!(!pace.is_prompt());
        pace.has_committed();
        assert!(pace.is_prompt());
        pace.is_away();
        assert!(!pace.is_prompt());
    }
}
