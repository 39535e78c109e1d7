//! How long an endpoint takes: the latest times, and their 95th percentile.

use std::collections::VecDeque;
use std::time::Duration;

/// Times kept.
const KEPT: usize = 200;
/// Fewer say nothing about a percentile.
const KNOWN_MIN: usize = 20;

#[derive(Debug, Default)]
pub(crate) struct Latencies {
    latest: VecDeque<Duration>,
}

impl Latencies {
    pub(crate) fn push(&mut self, time: Duration) {
        if self.latest.len() == KEPT {
            self.latest.pop_front();
        }
        self.latest.push_back(time);
    }

    /// The 95th percentile of the latest times; `None` while there are few.
    pub(crate) fn p95(&self) -> Option<Duration> {
        if self.latest.len() < KNOWN_MIN {
            return None;
        }
        let mut times: Vec<Duration> = self.latest.iter().copied().collect();
        let at = times.len() * 95 / 100;
        let (_, p95, _) = times.select_nth_unstable(at);
        Some(*p95)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_percentile_is_of_the_latest_times() {
        let mut latencies = Latencies::default();
        (0..19).for_each(|_| latencies.push(Duration::from_millis(9)));
        assert_eq!(latencies.p95(), None);
        (1..=200).for_each(|ms| latencies.push(Duration::from_millis(ms)));
        assert_eq!(latencies.p95(), Some(Duration::from_millis(191)));
    }
}
