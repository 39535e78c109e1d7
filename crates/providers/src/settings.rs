//! The `[execution]` table: how hard a request is tried, and how long it may wait.

use serde::Deserialize;
use std::time::Duration;

/// The `[execution]` table.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExecutionConfig {
    /// From arrival to the last byte, waiting and all tries included; a request can ask for less.
    pub request_timeout_ms: u64,
    /// Second tries at an endpoint as a share of requests; going on to another endpoint is not one.
    pub retry_share_max: f64,
    /// Second tries that are allowed whatever the share, so that little traffic can be retried too.
    pub retry_per_second_min: f64,
    /// Pause before the first second try; doubled each time, with full jitter.
    pub retry_backoff_ms: u64,
    /// A failing endpoint is left alone for this long, then tried by one request.
    pub breaker_interval_ms: u64,
    /// Money for hedges, as a share of the spend; 0 sends none.
    pub hedge_spend_max: f64,
    /// Requests that may wait for an endpoint at its limit.
    pub queue_requests_max: usize,
    /// How long each of them may wait.
    pub queue_wait_max_ms: u64,
}

impl Default for ExecutionConfig {
    fn default() -> Self {
        Self {
            request_timeout_ms: 600_000,
            retry_share_max: 0.1,
            retry_per_second_min: 3.0,
            retry_backoff_ms: 100,
            breaker_interval_ms: 10_000,
            hedge_spend_max: 0.0,
            queue_requests_max: 1_000,
            queue_wait_max_ms: 10_000,
        }
    }
}

impl ExecutionConfig {
    /// Every option with a value that cannot be used, and what is wrong with it.
    pub fn mistakes(&self) -> Vec<(&'static str, String)> {
        let share = |share: f64| (!(0.0..=1.0).contains(&share)).then(|| format!("{share}; use a share from 0 to 1"));
        let some = |count: u64| (count == 0).then(|| "0; use at least 1".to_owned());
        let rate = self.retry_per_second_min;
        let rows = [
            ("execution.request_timeout_ms", some(self.request_timeout_ms)),
            ("execution.retry_share_max", share(self.retry_share_max)),
            (
                "execution.retry_per_second_min",
                (!(0.0..=1e6).contains(&rate)).then(|| format!("{rate}; use a number from 0 to 1000000")),
            ),
            ("execution.breaker_interval_ms", some(self.breaker_interval_ms)),
            ("execution.hedge_spend_max", share(self.hedge_spend_max)),
        ];
        rows.into_iter().filter_map(|(field, problem)| Some((field, problem?))).collect()
    }

    pub(crate) fn breaker_interval(&self) -> Duration {
        Duration::from_millis(self.breaker_interval_ms)
    }
}
