//! When a failing endpoint is left alone, and when it is tried again. Pure: the clock is an argument.

use std::time::{Duration, Instant};

/// Counts fade to a half in this time, so that the rate is of the last half minute.
const HALF_LIFE: Duration = Duration::from_secs(10);
/// Failures in a row that open the breaker where at least half of the recent calls failed.
const IN_A_ROW: u32 = 3;
const RATE: f64 = 0.5;
/// Failures in a row that open it whatever the rate: an endpoint that fails 30 % of its calls has them once in 170,000.
const IN_A_ROW_ALWAYS: u32 = 10;

/// What a call came to, as far as the endpoint's health is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A whole answer.
    Good,
    /// A stream has its first content.
    Began,
    /// It has come to its end, or was left without a failure.
    Ended,
    Bad,
    /// It will fail again until somebody changes something: a refused credential.
    Hopeless,
}

/// May an endpoint be called?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    Free,
    /// By one request, which finds out whether it works again.
    Probe,
    /// Not before then.
    Closed(Instant),
}

/// The health of one endpoint and credential.
#[derive(Debug, Clone)]
pub(crate) struct Breaker {
    good: f64,
    bad: f64,
    counted: Option<Instant>,
    in_a_row: u32,
    /// Open since a failure; the time of the next probe.
    probe_at: Option<Instant>,
}

impl Breaker {
    pub(crate) fn new() -> Self {
        Self { good: 0.0, bad: 0.0, counted: None, in_a_row: 0, probe_at: None }
    }

    pub(crate) fn pass(&self, now: Instant) -> Pass {
        match self.probe_at {
            None => Pass::Free,
            Some(at) if now >= at => Pass::Probe,
            Some(at) => Pass::Closed(at),
        }
    }

    /// The probe goes out: the next one a whole interval later, whatever becomes of this one.
    pub(crate) fn probing(&mut self, now: Instant, interval: Duration) {
        self.probe_at = Some(now + interval);
    }

    pub(crate) fn record(&mut self, now: Instant, outcome: Outcome, interval: Duration) {
        self.fade(now);
        match outcome {
            Outcome::Good => {
                self.good += 1.0;
                self.in_a_row = 0;
                if self.probe_at.take().is_some() {
                    self.bad = 0.0; // it works again: its share comes back at once
                }
                return;
            }
            Outcome::Began => {
                self.good += 1.0;
                if self.probe_at.take().is_some() {
                    // Well enough to begin: one failure more is not the tenth of a row.
                    self.in_a_row = self.in_a_row.min(IN_A_ROW - 1);
                }
                return;
            }
            Outcome::Ended => {
                self.in_a_row = 0;
                return;
            }
            Outcome::Bad | Outcome::Hopeless => {}
        }
        self.bad += 1.0;
        self.in_a_row += 1;
        let failing = self.in_a_row >= IN_A_ROW && self.bad >= RATE * (self.good + self.bad);
        if outcome == Outcome::Hopeless || failing || self.in_a_row >= IN_A_ROW_ALWAYS {
            self.probe_at = Some(now + interval);
        }
    }

    /// Share of recent calls that succeeded, from 0 to 1; without any, 1. It rises with time, so that an endpoint that
    /// gets few calls for its failures gets more again.
    pub(crate) fn success_rate(&self, now: Instant) -> f64 {
        let left = self.left(now);
        (self.good * left + 1.0) / ((self.good + self.bad) * left + 1.0)
    }

    /// True where more calls failed than not, and more than a few.
    pub(crate) fn fails_mostly(&self, now: Instant) -> bool {
        let left = self.left(now);
        self.bad > self.good && self.bad * left >= f64::from(IN_A_ROW)
    }

    fn fade(&mut self, now: Instant) {
        let left = self.left(now);
        self.good *= left;
        self.bad *= left;
        self.counted = Some(now);
    }

    /// What is left of the counts by now.
    fn left(&self, now: Instant) -> f64 {
        let age = self.counted.map_or(0.0, |counted| now.saturating_duration_since(counted).as_secs_f64());
        0.5f64.powf(age / HALF_LIFE.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    #[test]
    fn three_failures_open_it_and_one_probe_an_interval_closes_it() {
        let (mut breaker, start) = (Breaker::new(), Instant::now());
        for _ in 0..2 {
            breaker.record(start, Outcome::Bad, INTERVAL);
            assert_eq!(breaker.pass(start), Pass::Free);
        }
        breaker.record(start, Outcome::Bad, INTERVAL);
        assert_eq!(breaker.pass(start), Pass::Closed(start + INTERVAL));
        let later = start + INTERVAL;
        assert_eq!(breaker.pass(later), Pass::Probe);
        breaker.probing(later, INTERVAL);
        assert_eq!(breaker.pass(later), Pass::Closed(later + INTERVAL), "one probe an interval, also if it hangs");
        breaker.record(later, Outcome::Good, INTERVAL);
        assert_eq!(breaker.pass(later), Pass::Free);
    }

    #[test]
    fn a_healthy_past_does_not_keep_a_dead_endpoint_open() {
        let (mut breaker, start) = (Breaker::new(), Instant::now());
        (0..10_000).for_each(|_| breaker.record(start, Outcome::Good, INTERVAL));
        (0..10).for_each(|_| breaker.record(start, Outcome::Bad, INTERVAL));
        assert_ne!(breaker.pass(start), Pass::Free);
    }

    #[test]
    fn a_third_of_failures_lowers_the_rate_but_does_not_open_it() {
        let (mut breaker, start) = (Breaker::new(), Instant::now());
        for at in 0..3_000 {
            let outcome = if at % 3 == 0 { Outcome::Bad } else { Outcome::Good };
            breaker.record(start, outcome, INTERVAL);
            assert_eq!(breaker.pass(start), Pass::Free);
        }
        assert!((0.6..0.7).contains(&breaker.success_rate(start)));
        assert!(breaker.success_rate(start + Duration::from_secs(200)) > 0.99, "failures are forgotten");
    }

    #[test]
    fn an_endpoint_that_breaks_every_stream_is_a_failing_one() {
        let (mut breaker, start) = (Breaker::new(), Instant::now());
        for _ in 0..3 {
            assert_eq!(breaker.pass(start), Pass::Free);
            breaker.record(start, Outcome::Began, INTERVAL);
            breaker.record(start, Outcome::Bad, INTERVAL);
        }
        assert_ne!(breaker.pass(start), Pass::Free);
    }

    #[test]
    fn a_refused_credential_opens_it_at_once() {
        let (mut breaker, start) = (Breaker::new(), Instant::now());
        breaker.record(start, Outcome::Hopeless, INTERVAL);
        assert_ne!(breaker.pass(start), Pass::Free);
    }
}
