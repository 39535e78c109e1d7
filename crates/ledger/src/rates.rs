//! How often a key, an end user or a tenant may ask: counts in windows, shared by all gateways on a database.

use crate::ledger::now_ms;
use database::Database;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thiserror::Error;

pub const MINUTE_MS: i64 = 60_000;
pub const DAY_MS: i64 = 86_400_000;
/// A gateway takes so large a part of a limit at once: the larger, the less it asks the database, and the more it may hold
/// while another has nothing left.
const PARTS: u64 = 8;
/// Counters in memory at the most. Beyond it those of windows that are over are forgotten, and where that is not enough half of
/// the others; what was taken for one of those and not used is lost to it.
const COUNTERS_MAX: usize = 100_000;

/// One limit that a request counts towards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rate {
    /// What is counted, as `requests:HASH`.
    pub id: String,
    /// As its holder knows it, as `rules.requests_per_minute`.
    pub rule: &'static str,
    pub limit: u64,
    pub window_ms: i64,
}

/// What is left of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    pub limit: u64,
    pub remaining: u64,
    pub reset_ms: i64,
}

/// What was counted before it was known how much would be needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Estimate {
    pub rate: Rate,
    pub amount: u64,
    /// When the window ends in which it was counted.
    pub reset_ms: i64,
}

/// A limit is used up.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("{rule} is {limit} within {window}, and used up")]
pub struct RateExceeded {
    pub rule: &'static str,
    pub limit: u64,
    pub window: &'static str,
    pub retry_after_ms: i64,
}

/// What of a window this gateway has taken and used.
#[derive(Debug, Clone, Copy, Default)]
struct Counter {
    window_ms: i64,
    reset_ms: i64,
    taken: u64,
    used: u64,
    /// As it was when it was counted last.
    limit: u64,
    /// The database has said that nothing is left.
    is_empty: bool,
}

impl Counter {
    /// Begins anew where its window is over.
    fn roll_on(&mut self, rate: &Rate, window_ms: i64) {
        if self.window_ms < window_ms {
            *self = Self { window_ms, reset_ms: window_ms + rate.window_ms, ..Self::default() };
        }
    }
}

/// Where the database takes longer than so many windows, nobody waits for it.
const WINDOWS_MAX: u32 = 3;

/// The counters of one gateway.
#[derive(Debug, Clone)]
pub(crate) struct Rates {
    database: Database,
    counters: Arc<Mutex<HashMap<String, Counter>>>,
}

impl Rates {
    pub(crate) fn of(database: Database) -> Self {
        Self { database, counters: Arc::default() }
    }

    /// Counts `amount` towards a limit, unless it is used up. Where the database does not answer, this gateway counts alone.
    ///
    /// # Errors
    /// When it is used up, with when it begins anew.
    pub(crate) async fn count(&self, rate: &Rate, amount: u64) -> Result<Left, RateExceeded> {
        let mut windows_over = 0;
        loop {
            let now = now_ms(); // the window may end while the database is asked
            let window_ms = now.div_euclid(rate.window_ms) * rate.window_ms;
            let reset_ms = window_ms + rate.window_ms;
            let counter = match self.add(rate, (window_ms, now), amount) {
                Ok(used) => {
                    return Ok(Left { limit: rate.limit, remaining: rate.limit.saturating_sub(used), reset_ms });
                }
                Err(counter) => counter,
            };
            if counter.is_empty {
                let window = if rate.window_ms == DAY_MS { "a day" } else { "a minute" };
                return Err(RateExceeded {
                    rule: rate.rule,
                    limit: rate.limit,
                    window,
                    retry_after_ms: reset_ms - now,
                });
            }
            let lacking = (counter.used + amount).saturating_sub(counter.taken);
            let share = lacking.max(rate.limit.div_ceil(PARTS));
            let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            let granted = self.database.take_count(&rate.id, window_ms, whole(share), whole(rate.limit)).await;
            let granted = granted.map_or_else(
                |error| {
                    tracing::warn!(%error, rate.id, "a count could not be shared; this gateway counts alone");
                    rate.limit.saturating_sub(counter.taken).min(share)
                },
                i64::unsigned_abs,
            );
            self.take(rate, window_ms, granted, granted < share);
            windows_over += u32::from(now_ms() >= reset_ms);
            if windows_over == WINDOWS_MAX {
                return Ok(Left { limit: rate.limit, remaining: 0, reset_ms }); // it has waited longer than any limit asks
            }
        }
    }

    /// Counts what was needed in place of what was thought to be; where that window is over, what is more counts in the next.
    pub(crate) fn correct(&self, estimate: &Estimate, needed: u64) {
        let (rate, now) = (&estimate.rate, now_ms());
        let mut counters = self.counters();
        let Some(counter) = counters.get_mut(&rate.id) else { return };
        counter.roll_on(rate, now.div_euclid(rate.window_ms) * rate.window_ms);
        if counter.reset_ms == estimate.reset_ms {
            counter.used = (counter.used + needed).saturating_sub(estimate.amount);
        } else {
            counter.used += needed.saturating_sub(estimate.amount);
        }
    }

    /// Counts, where this gateway has taken enough; returns what is used then.
    fn add(&self, rate: &Rate, (window_ms, now): (i64, i64), amount: u64) -> Result<u64, Counter> {
        let mut counters = self.counters();
        if counters.len() >= COUNTERS_MAX && !counters.contains_key(&rate.id) {
            let mut room = COUNTERS_MAX / 2;
            counters.retain(|_, counter| {
                let is_kept = counter.reset_ms > now && room > 0;
                room -= usize::from(is_kept);
                is_kept
            });
        }
        let counter = counters.entry(rate.id.clone()).or_default();
        counter.roll_on(rate, window_ms);
        if rate.limit > counter.limit {
            counter.is_empty = false; // raised
        }
        counter.limit = rate.limit;
        if counter.used + amount > counter.taken {
            return Err(*counter);
        }
        counter.used += amount;
        Ok(counter.used)
    }

    fn take(&self, rate: &Rate, window_ms: i64, granted: u64, is_empty: bool) {
        if let Some(counter) = self.counters().get_mut(&rate.id).filter(|counter| counter.window_ms == window_ms) {
            counter.taken += granted;
            counter.is_empty |= is_empty;
        }
    }

    fn counters(&self) -> MutexGuard<'_, HashMap<String, Counter>> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use database::Database;

    #[tokio::test(flavor = "multi_thread")]
    async fn counters_do_not_grow_without_end_and_an_estimate_is_corrected() {
        let folder = tempfile::tempdir().expect("a folder");
        let rates = Rates::of(Database::open(&folder.path().join("sluice.db")).await.expect("a database"));
        let rate = |id: usize| Rate {
            id: format!("tokens:{id}"),
            rule: "rules.tokens_per_minute",
            limit: 100,
            window_ms: DAY_MS,
        };
        let left = rates.count(&rate(0), 60).await.expect("it fits");
        let estimate = |reset_ms| Estimate { rate: rate(0), amount: 60, reset_ms };
        let raised = Rate { limit: 200, ..rate(0) };
        assert!(rates.count(&rate(0), 50).await.is_err());
        assert!(rates.count(&raised, 1).await.is_ok(), "a limit that is raised holds at once");
        rates.correct(&estimate(left.reset_ms), 9);
        rates.correct(&estimate(left.reset_ms - DAY_MS), 0);
        assert_eq!(rates.count(&rate(0), 1).await.expect("it fits").remaining, 89);
        rates.correct(&estimate(left.reset_ms - DAY_MS), 70);
        assert_eq!(rates.count(&rate(0), 1).await.expect("it fits").remaining, 78, "what ends later counts then");
        for id in 1..=COUNTERS_MAX {
            let _lacking = rates.add(&rate(id), (left.reset_ms - DAY_MS, left.reset_ms - 1), 1);
        }
        assert!(rates.counters().len() <= COUNTERS_MAX);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_window_that_ends_meanwhile_is_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let rates = Rates::of(Database::open(&folder.path().join("sluice.db")).await.expect("a database"));
        let mut asked = tokio::task::JoinSet::new();
        for at in 0..400 {
            let (rates, id) = (rates.clone(), format!("requests:{}", at % 4));
            let rate = Rate { id, rule: "rules.requests_per_minute", limit: 4, window_ms: 20 };
            asked.spawn(async move { rates.count(&rate, 1).await.is_ok() });
        }
        let ended = tokio::time::timeout(std::time::Duration::from_secs(60), asked.join_all()).await;
        assert_eq!(ended.expect("nobody asks for ever").len(), 400);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn gateways_on_one_database_let_a_limit_pass_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = Database::open(&folder.path().join("sluice.db")).await.expect("a database");
        let gateways = [Rates::of(database.clone()), Rates::of(database)];
        let rate = Rate { id: "requests:k".into(), rule: "rules.requests_per_day", limit: 100, window_ms: DAY_MS };
        let mut asked = tokio::task::JoinSet::new();
        for at in 0..300 {
            let (rates, rate) = (gateways[at % 2].clone(), rate.clone());
            asked.spawn(async move { rates.count(&rate, 1).await.is_ok() });
        }
        let passed = asked.join_all().await.into_iter().filter(|passed| *passed).count();
        assert_eq!(passed, 100, "never more, and where both are asked alike not fewer");
        let refused = gateways[0].count(&rate, 1).await.expect_err("used up");
        assert!((1..=DAY_MS).contains(&refused.retry_after_ms), "{refused:?}");
        assert!(gateways[0].count(&Rate { id: "requests:other".into(), ..rate }, 1).await.is_ok());
    }
}
