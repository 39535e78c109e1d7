//! Whether requests may go on before the database has their reservations: as long as it is known to follow.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A commit that takes longer may be the beginning of an outage: reservations wait for it.
const PROMPT: Duration = Duration::from_millis(100);

/// So many full batches in a row are no moment's rush.
const BEHIND: u32 = 4;

/// What requests see of the writer without asking it.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    state: Mutex<State>,
    full_batches: AtomicU32,
}

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

    /// A batch is done with. Only where it was full and more waits does the next one follow at once: else nobody would be let in
    /// who could end this.
    pub(crate) fn has_committed(&self, is_followed: bool) {
        let before = self.full_batches.load(Ordering::Relaxed);
        self.full_batches.store(if is_followed { before.saturating_add(1) } else { 0 }, Ordering::Relaxed);
        *self.state() = State::Idle;
    }

    pub(crate) fn is_away(&self) {
        self.full_batches.store(0, Ordering::Relaxed);
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

    /// True where more is to be written than can be, and has been for several batches.
    pub(crate) fn is_behind(&self) -> bool {
        self.full_batches.load(Ordering::Relaxed) >= BEHIND
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        pace.has_committed(false);
        assert!(pace.is_prompt());
        pace.is_away();
        assert!(!pace.is_prompt());
    }

    #[test]
    fn what_is_behind_is_so_no_longer_than_something_waits() {
        let behind = || {
            let pace = Pace::default();
            for _ in 0..BEHIND {
                assert!(!pace.is_behind());
                pace.has_committed(true);
            }
            assert!(pace.is_behind());
            pace
        };
        let pace = behind();
        pace.has_committed(false);
        assert!(!pace.is_behind(), "nobody is left whose record could say so");
        let pace = behind();
        pace.is_away();
        assert!(!pace.is_behind(), "an outage has a limit of its own");
    }
}
