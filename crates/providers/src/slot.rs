//! What is known of each endpoint and credential, and which of them a request may use now.

use crate::breaker::{Breaker, Outcome, Pass};
use crate::credential::Limits;
use crate::latencies::Latencies;
use rand::Rng;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// Slots and capacities remembered at the most; those of removed endpoints leave when it is reached.
const KNOWN_MAX: usize = 10_000;
/// How strongly the share of an endpoint falls with its failures: at 70 % success to a quarter.
const HEALTH_POWER: i32 = 4;

/// One endpoint with one credential, as a request may use it.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    /// Choices of one rank are equally good to the client; lower ranks go first.
    pub rank: usize,
    /// Endpoint and credential.
    pub slot: String,
    /// Provider and credential: what the limits belong to.
    pub capacity: String,
    pub limits: Limits,
    pub weight: u32,
}

#[derive(Debug)]
struct Slot {
    breaker: Breaker,
    /// The provider asked for a pause until then.
    paused_until: Option<Instant>,
    first_token: Latencies,
    whole: Latencies,
}

#[derive(Debug, Default)]
struct Capacity {
    under_way: u32,
    /// When the next request is due at the configured rate (generic cell rate algorithm, ITU-T I.371).
    next_due: Option<Instant>,
}

/// Which limit an endpoint is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The provider asked for a pause.
    Pause,
    Concurrent,
    PerMinute,
    /// Others wait already.
    Queue,
}

impl Limit {
    /// The option that sets it, or what else it is.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "the pause its provider asked for",
            Self::Concurrent => "concurrent_max",
            Self::PerMinute => "requests_per_minute_max",
            Self::Queue => "the turn of others who wait",
        }
    }
}

/// Why no choice can be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Blocked {
    /// A choice is at its limit; waiting until then may help.
    pub limited_until: Option<(Instant, Limit)>,
    /// A choice has been failing and is left alone until then.
    pub failing_until: Option<Instant>,
}

/// All slots and capacities.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    slots: HashMap<String, Slot>,
    capacities: HashMap<String, Capacity>,
}

impl Slots {
    /// Picks among the choices of the lowest rank that has a free one, by health and weight, and takes it. A probe that
    /// is due goes first: it is one request an interval.
    pub(crate) fn take(
        &mut self,
        choices: &[Choice],
        skip: &HashSet<usize>,
        now: Instant,
        interval: Duration,
    ) -> Result<(usize, Pass), Blocked> {
        let mut blocked = Blocked::default();
        let mut free: Vec<(usize, f64)> = Vec::new();
        for (at, choice) in choices.iter().enumerate().filter(|(at, _)| !skip.contains(at)) {
            if free.first().is_some_and(|(first, _)| choices[*first].rank < choice.rank) {
                break;
            }
            if let Some(until) = self.limited_until(choice, now) {
                let sooner = |known: (Instant, Limit)| if known.0 <= until.0 { known } else { until };
                blocked.limited_until = Some(blocked.limited_until.map_or(until, sooner));
                continue;
            }
            match self.slots.get(&choice.slot).map_or(Pass::Free, |slot| slot.breaker.pass(now)) {
                Pass::Closed(until) => {
                    blocked.failing_until = Some(blocked.failing_until.map_or(until, |known| known.min(until)));
                }
                Pass::Probe => {
                    self.slot(&choice.slot).breaker.probing(now, interval);
                    self.begin(choice, now);
                    return Ok((at, Pass::Probe));
                }
                Pass::Free => {
                    let rate = self.slots.get(&choice.slot).map_or(1.0, |slot| slot.breaker.success_rate(now));
                    free.push((at, f64::from(choice.weight) * rate.powi(HEALTH_POWER)));
                }
            }
        }
        let at = draw(&free).ok_or(blocked)?;
        self.begin(&choices[at], now);
        Ok((at, Pass::Free))
    }

    /// A call has ended.
    pub(crate) fn end(&mut self, capacity: &str) {
        if let Some(capacity) = self.capacities.get_mut(capacity) {
            capacity.under_way = capacity.under_way.saturating_sub(1);
        }
    }

    pub(crate) fn record(&mut self, slot: &str, outcome: Outcome, now: Instant, interval: Duration) {
        self.slot(slot).breaker.record(now, outcome, interval);
    }

    pub(crate) fn pause(&mut self, slot: &str, until: Instant) {
        self.slot(slot).paused_until = Some(until);
    }

    /// Notes the time to the first token of a stream, or to a whole answer.
    pub(crate) fn took(&mut self, slot: &str, streamed: bool, time: Duration) {
        let slot = self.slot(slot);
        if streamed { slot.first_token.push(time) } else { slot.whole.push(time) }
    }

    pub(crate) fn p95(&self, slot: &str, streamed: bool) -> Option<Duration> {
        let slot = self.slots.get(slot)?;
        if streamed { slot.first_token.p95() } else { slot.whole.p95() }
    }

    /// True where a slot is left alone, or fails most of its calls of late.
    pub(crate) fn is_failing(&self, slot: &str, now: Instant) -> bool {
        self.slots.get(slot).is_some_and(|slot| match slot.breaker.pass(now) {
            Pass::Closed(_) => true,
            Pass::Free => slot.breaker.fails_mostly(now),
            Pass::Probe => false, // one request is to find out, so it must come first again
        })
    }

    fn slot(&mut self, id: &str) -> &mut Slot {
        if self.slots.len() >= KNOWN_MAX && !self.slots.contains_key(id) {
            self.slots.clear(); // what is still in use is learnt again within a few calls
        }
        self.slots.entry(id.to_owned()).or_insert_with(|| Slot {
            breaker: Breaker::new(),
            paused_until: None,
            first_token: Latencies::default(),
            whole: Latencies::default(),
        })
    }

    fn begin(&mut self, choice: &Choice, now: Instant) {
        if self.capacities.len() >= KNOWN_MAX && !self.capacities.contains_key(&choice.capacity) {
            self.capacities.retain(|_, capacity| capacity.under_way > 0);
        }
        let capacity = self.capacities.entry(choice.capacity.clone()).or_default();
        capacity.under_way += 1;
        if let Some(interval) = interval(choice.limits) {
            capacity.next_due = Some(capacity.next_due.map_or(now, |due| due.max(now)) + interval);
        }
    }

    /// Until when a choice is at its limit, if it is.
    pub(crate) fn limited_until(&self, choice: &Choice, now: Instant) -> Option<(Instant, Limit)> {
        /// A place becomes free when a call ends; nobody knows when.
        const SOON: Duration = Duration::from_millis(20);
        if let Some(until) = self.slots.get(&choice.slot).and_then(|slot| slot.paused_until).filter(|at| *at > now) {
            return Some((until, Limit::Pause));
        }
        let capacity = self.capacities.get(&choice.capacity)?;
        if choice.limits.concurrent_max.is_some_and(|most| capacity.under_way >= most) {
            return Some((now + SOON, Limit::Concurrent));
        }
        let ahead = interval(choice.limits)?;
        capacity.next_due.filter(|due| *due > now + ahead).map(|due| (due - ahead, Limit::PerMinute))
    }
}

fn interval(limits: Limits) -> Option<Duration> {
    limits.requests_per_minute_max.map(|most| Duration::from_secs(60) / most.max(1))
}

fn draw(weighted: &[(usize, f64)]) -> Option<usize> {
    let total: f64 = weighted.iter().map(|(_, weight)| weight).sum();
    let mut left = rand::rng().random::<f64>() * total;
    for (at, weight) in weighted {
        left -= weight;
        if left <= 0.0 {
            return Some(*at);
        }
    }
    weighted.last().map(|(at, _)| *at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    fn choice(rank: usize, name: &str, limits: Limits) -> Choice {
        Choice { rank, slot: name.to_owned(), capacity: name.to_owned(), limits, weight: 1 }
    }

    fn take(slots: &mut Slots, choices: &[Choice], now: Instant) -> Result<usize, Blocked> {
        slots.take(choices, &HashSet::new(), now, INTERVAL).map(|(at, _)| at)
    }

    #[test]
    fn the_next_rank_serves_while_the_first_is_at_its_limit() {
        let one = Limits { concurrent_max: Some(1), requests_per_minute_max: None };
        let choices = [choice(0, "a", one), choice(1, "b", one)];
        let (mut slots, now) = (Slots::default(), Instant::now());
        assert_eq!(take(&mut slots, &choices, now), Ok(0));
        assert_eq!(take(&mut slots, &choices, now), Ok(1));
        assert!(take(&mut slots, &choices, now).expect_err("both are full").limited_until.is_some());
        slots.end("a");
        assert_eq!(take(&mut slots, &choices, now), Ok(0));
    }

    #[test]
    fn a_rate_spreads_requests_over_time() {
        let choices = [choice(0, "a", Limits { concurrent_max: None, requests_per_minute_max: Some(600) })];
        let (mut slots, start) = (Slots::default(), Instant::now());
        let passed = (0..1_000).filter(|ms| take(&mut slots, &choices, start + Duration::from_millis(*ms)).is_ok());
        assert!((10..=12).contains(&passed.count()), "600 a minute are 10 a second");
    }

    #[test]
    fn a_failing_endpoint_gets_a_smaller_share_of_equals() {
        let choices = [choice(0, "good", Limits::default()), choice(0, "flaky", Limits::default())];
        let (mut slots, now) = (Slots::default(), Instant::now());
        let mut to_flaky = 0;
        for _ in 0..4_000 {
            let chosen = take(&mut slots, &choices, now).expect("free");
            to_flaky += chosen;
            let bad = chosen == 1 && to_flaky % 3 == 0; // never two in a row: the breaker is not what is tested
            slots.record(&choices[chosen].slot, if bad { Outcome::Bad } else { Outcome::Good }, now, INTERVAL);
        }
        assert!((400..1_400).contains(&to_flaky), "{to_flaky} of 4,000");
    }

    #[test]
    fn a_pause_asked_for_is_kept() {
        let choices = [choice(0, "a", Limits::default())];
        let (mut slots, now) = (Slots::default(), Instant::now());
        slots.pause("a", now + INTERVAL);
        assert_eq!(
            take(&mut slots, &choices, now).expect_err("paused").limited_until,
            Some((now + INTERVAL, Limit::Pause))
        );
        assert_eq!(take(&mut slots, &choices, now + INTERVAL), Ok(0));
    }
}
