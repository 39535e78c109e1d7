//! What comparisons may cost on a day, and how many run at once.

use catalog::NanoUsd;
use ledger::{DAY_MS, now_ms};
use std::sync::{Arc, Mutex, PoisonError};

/// Comparisons under way at once, whatever they cost.
const UNDER_WAY_MAX: usize = 16;

/// What comparisons have cost on the current day (UTC), and may still cost while they are under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spending(Arc<Mutex<Today>>);

#[derive(Debug, Default)]
struct Today {
    day: i64,
    spent: NanoUsd,
    under_way: usize,
}

/// Money set aside for a comparison; dropped, what it did not cost is there again.
pub(crate) struct Reserved {
    spending: Spending,
    day: i64,
    bound: NanoUsd,
    /// What it has cost so far.
    pub spent: NanoUsd,
}

impl Spending {
    /// Goes on from what was spent on the day that a time is in.
    pub(crate) fn from(now_ms: i64, spent: NanoUsd) -> Self {
        Self(Arc::new(Mutex::new(Today { day: now_ms / DAY_MS, spent, under_way: 0 })))
    }

    /// When the day began that a time is in.
    pub(crate) fn day_began(now_ms: i64) -> i64 {
        now_ms / DAY_MS * DAY_MS
    }

    /// Sets money aside where the day's limit leaves as much, and another comparison may run.
    pub(crate) fn reserve(&self, bound: NanoUsd, limit: NanoUsd) -> Option<Reserved> {
        self.reserve_at(bound, limit, now_ms())
    }

    fn reserve_at(&self, bound: NanoUsd, limit: NanoUsd, now_ms: i64) -> Option<Reserved> {
        let mut today = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let day = now_ms / DAY_MS;
        if today.day != day {
            *today = Today { day, spent: NanoUsd::ZERO, under_way: today.under_way };
        }
        if today.spent + bound > limit || today.under_way >= UNDER_WAY_MAX {
            return None;
        }
        today.spent += bound;
        today.under_way += 1;
        Some(Reserved { spending: self.clone(), day, bound, spent: NanoUsd::ZERO })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut today = self.spending.0.lock().unwrap_or_else(PoisonError::into_inner);
        today.under_way -= 1;
        if today.day == self.day {
            today.spent = today.spent - self.bound + self.spent;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_never_takes_more_than_its_limit_and_the_next_begins_anew() {
        let spending = Spending::from(DAY_MS * 3, NanoUsd(40));
        let reserve = |nano, at_ms| spending.reserve_at(NanoUsd(nano), NanoUsd(100), at_ms);
        let mut first = reserve(50, DAY_MS * 3 + 5).expect("10 are left after it");
        assert!(reserve(11, DAY_MS * 3 + 6).is_none());
        first.spent = NanoUsd(30);
        drop(first);
        let second = reserve(30, DAY_MS * 3 + 7).expect("70 were taken");
        assert!(reserve(1, DAY_MS * 4 - 1).is_none());
        let third = reserve(100, DAY_MS * 4).expect("a new day");
        drop(second);
        assert!(reserve(1, DAY_MS * 4).is_none(), "what was of yesterday changes nothing");
        drop(third);
        let many: Vec<Reserved> = (0..UNDER_WAY_MAX).filter_map(|_| reserve(0, DAY_MS * 4)).collect();
        assert!(many.len() == UNDER_WAY_MAX && reserve(0, DAY_MS * 4).is_none(), "free ones are limited, too");
    }
}
