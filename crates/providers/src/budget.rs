//! What may be spent on trying again: second tries as a share of requests, hedges as a share of money. Budgets, not
//! counts, because counts multiply the load of an upstream that is down (sre.google/sre-book/handling-overload).

use catalog::NanoUsd;
use std::time::Instant;

/// Second tries saved up at the most, in seconds of the guaranteed rate.
const SAVED_SECONDS: f64 = 10.0;
/// And from requests.
const SAVED_REQUESTS: f64 = 100.0;

/// Second tries that the whole gateway may make.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    tries: f64,
    filled: Option<Instant>,
}

impl RetryBudget {
    pub(crate) fn new() -> Self {
        Self { tries: 0.0, filled: None }
    }

    /// A request has begun.
    pub(crate) fn deposit(&mut self, share: f64) {
        self.tries += share;
    }

    /// Takes one try where there is one.
    pub(crate) fn withdraw(&mut self, now: Instant, per_second: f64) -> bool {
        let most = SAVED_SECONDS * per_second;
        let since = self.filled.map_or(SAVED_SECONDS, |at| now.saturating_duration_since(at).as_secs_f64());
        self.filled = Some(now);
        self.tries = (self.tries + since.min(SAVED_SECONDS) * per_second).min(most + SAVED_REQUESTS);
        let enough = self.tries >= 1.0;
        if enough {
            self.tries -= 1.0;
        }
        enough
    }
}

/// Money that hedges may cost.
#[derive(Debug, Default)]
pub(crate) struct SpendBudget {
    nano: f64,
}

impl SpendBudget {
    /// A request of this expected cost has begun; at most 100 of them are saved up.
    pub(crate) fn deposit(&mut self, expected: NanoUsd, share: f64) {
        let part = expected.0.max(0) as f64 * share;
        self.nano = (self.nano + part).min((100.0 * part).max(self.nano));
    }

    /// A hedge was not made.
    pub(crate) fn give_back(&mut self, expected: NanoUsd) {
        self.nano += expected.0.max(0) as f64;
    }

    /// Takes the cost of a hedge where it is there.
    pub(crate) fn withdraw(&mut self, expected: NanoUsd) -> bool {
        let cost = expected.0.max(0) as f64;
        let enough = cost <= self.nano && self.nano > 0.0;
        if enough {
            self.nano -= cost;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn retries_are_a_share_of_requests_beyond_the_guaranteed_rate() {
        let (mut budget, start) = (RetryBudget::new(), Instant::now());
        let guaranteed = (0..100).filter(|_| budget.withdraw(start, 1.0)).count();
        assert_eq!(guaranteed, 10, "ten seconds of one a second");
        (0..500).for_each(|_| budget.deposit(0.1));
        let shared = (0..100).filter(|_| budget.withdraw(start, 1.0)).count();
        assert!((49..=51).contains(&shared), "{shared} of 500 at 10 %");
        assert!(budget.withdraw(start + Duration::from_secs(2), 1.0));
    }

    #[test]
    fn hedges_cost_at_most_their_share() {
        let mut budget = SpendBudget::default();
        assert!(!budget.withdraw(NanoUsd(1)), "nothing was deposited");
        let mut spent = 0;
        for _ in 0..1_000 {
            budget.deposit(NanoUsd(1_000), 0.05);
            spent += i64::from(budget.withdraw(NanoUsd(1_000))) * 1_000;
        }
        assert!((45_000..=50_000).contains(&spent), "{spent} of 1,000,000 at 5 %");
    }
}
