//! How endpoints have done lately: latency, throughput, uptime and tool calls over 5 minutes, 30 minutes and a day.
//! The clock is an argument.

use catalog::{Percentiles, Record};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Endpoints remembered at the most.
const ENDPOINTS_MAX: usize = 10_000;
const IDLE_MAX: Duration = Duration::from_secs(3_600);
/// Each window is so many buckets long; the oldest leaves as a whole.
const BUCKETS: u64 = 10;
/// Windows, shortest first.
const SPANS: [Duration; 3] = [Duration::from_secs(300), Duration::from_secs(1_800), Duration::from_secs(86_400)];
/// A record is worked out again when it is older than this.
const RECORD_AGE_MAX: Duration = Duration::from_secs(1);
/// Neighbouring values of a histogram differ by this factor: a percentile is right within 5 %.
const STEP: f64 = 1.1;

/// Everything measured, by endpoint.
#[derive(Debug)]
pub(crate) struct Statistics {
    begun: Instant,
    endpoints: Mutex<HashMap<String, Endpoint>>,
}

impl Default for Statistics {
    fn default() -> Self {
        Self { begun: Instant::now(), endpoints: Mutex::default() }
    }
}

#[derive(Debug, Default)]
struct Endpoint {
    windows: [Window; 3],
    record: Option<(Instant, Record)>,
    noted: Option<Instant>,
}

/// The latest buckets of one span, by their number since the start.
#[derive(Debug, Default)]
struct Window(VecDeque<(u64, Bucket)>);

#[derive(Debug, Default, Clone)]
struct Bucket {
    good: u64,
    bad: u64,
    good_calls: u64,
    bad_calls: u64,
    latency_ms: Histogram,
    throughput: Histogram,
}

/// Counts by logarithm of the value.
#[derive(Debug, Default, Clone)]
struct Histogram(BTreeMap<i16, u32>);

/// One thing that was seen of a call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Seen {
    Good,
    Bad,
    FirstToken(Duration),
    /// Output tokens in this time.
    Output {
        tokens: u64,
        time: Duration,
    },
    /// Tool calls whose arguments were JSON, and those whose were not.
    Calls {
        good: u64,
        bad: u64,
    },
}

/// What is shown of an endpoint: shares of calls that were answered, and percentiles of the last 30 minutes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Live {
    pub uptime_5m: Option<f64>,
    pub uptime_30m: Option<f64>,
    pub uptime_1d: Option<f64>,
    pub latency_ms: Option<Percentiles>,
    pub throughput: Option<Percentiles>,
}

impl Statistics {
    pub(crate) fn note(&self, endpoint: &str, seen: Seen, now: Instant) {
        let mut endpoints = self.lock();
        if endpoints.len() >= ENDPOINTS_MAX && !endpoints.contains_key(endpoint) {
            // What was not called for an hour leaves; a newcomer does not push out what is in use.
            endpoints.retain(|_, known| known.noted.is_some_and(|at| now.saturating_duration_since(at) < IDLE_MAX));
            if endpoints.len() >= ENDPOINTS_MAX {
                return;
            }
        }
        let age = now.saturating_duration_since(self.begun);
        let known = endpoints.entry(endpoint.to_owned()).or_default();
        known.noted = Some(now);
        for (window, span) in known.windows.iter_mut().zip(SPANS) {
            window.bucket(age, span).note(seen);
        }
    }

    /// The recent past of an endpoint; `failing` is the caller's to know.
    pub(crate) fn record(&self, endpoint: &str, now: Instant) -> Record {
        let mut endpoints = self.lock();
        let Some(known) = endpoints.get_mut(endpoint) else { return Record::default() };
        if let Some((_, record)) = known.record.filter(|(at, _)| now.saturating_duration_since(*at) < RECORD_AGE_MAX) {
            return record;
        }
        let age = now.saturating_duration_since(self.begun);
        let recent = known.windows[0].sum(age, SPANS[0]);
        let day = known.windows[2].sum(age, SPANS[2]);
        let record = Record {
            failing: false,
            latency_ms: recent.latency_ms.percentiles(),
            throughput: recent.throughput.exceeded_by(),
            good_calls: share(day.good_calls, day.bad_calls),
        };
        known.record = Some((now, record));
        record
    }

    /// What is shown of an endpoint.
    pub(crate) fn live(&self, endpoint: &str, now: Instant) -> Live {
        let mut endpoints = self.lock();
        let Some(known) = endpoints.get_mut(endpoint) else { return Live::default() };
        let age = now.saturating_duration_since(self.begun);
        let [short, middle, day] = [0, 1, 2].map(|at| known.windows[at].sum(age, SPANS[at]));
        Live {
            uptime_5m: share(short.good, short.bad),
            uptime_30m: share(middle.good, middle.bad),
            uptime_1d: share(day.good, day.bad),
            latency_ms: middle.latency_ms.percentiles(),
            throughput: middle.throughput.percentiles(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Endpoint>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn share(good: u64, bad: u64) -> Option<f64> {
    (good + bad > 0).then(|| good as f64 / (good + bad) as f64)
}

impl Window {
    fn bucket(&mut self, age: Duration, span: Duration) -> &mut Bucket {
        let number = number(age, span);
        if self.0.back().is_none_or(|(last, _)| *last < number) {
            self.0.push_back((number, Bucket::default()));
        }
        while self.0.front().is_some_and(|(first, _)| first + BUCKETS <= number) {
            self.0.pop_front();
        }
        let last = self.0.len() - 1;
        &mut self.0[last].1
    }

    fn sum(&self, age: Duration, span: Duration) -> Bucket {
        let number = number(age, span);
        let mut sum = Bucket::default();
        for (_, bucket) in self.0.iter().filter(|(at, _)| at + BUCKETS > number) {
            sum.good += bucket.good;
            sum.bad += bucket.bad;
            sum.good_calls += bucket.good_calls;
            sum.bad_calls += bucket.bad_calls;
            sum.latency_ms.add(&bucket.latency_ms);
            sum.throughput.add(&bucket.throughput);
        }
        sum
    }
}

fn number(age: Duration, span: Duration) -> u64 {
    (age.as_millis() * u128::from(BUCKETS) / span.as_millis()) as u64
}

impl Bucket {
    fn note(&mut self, seen: Seen) {
        match seen {
            Seen::Good => self.good += 1,
            Seen::Bad => self.bad += 1,
            Seen::FirstToken(time) => self.latency_ms.push(time.as_secs_f64() * 1e3),
            Seen::Output { tokens, time } if !time.is_zero() => {
                self.throughput.push(tokens as f64 / time.as_secs_f64())
            }
            Seen::Output { .. } => {}
            Seen::Calls { good, bad } => {
                self.good_calls += good;
                self.bad_calls += bad;
            }
        }
    }
}

impl Histogram {
    fn push(&mut self, value: f64) {
        let bin = value.clamp(1e-3, 1e9).ln() / STEP.ln();
        *self.0.entry(bin.floor() as i16).or_default() += 1;
    }

    fn add(&mut self, other: &Self) {
        for (bin, count) in &other.0 {
            *self.0.entry(*bin).or_default() += count;
        }
    }

    fn percentiles(&self) -> Option<Percentiles> {
        self.at([0.5, 0.75, 0.9, 0.99])
    }

    /// What this share of the values reaches or exceeds.
    fn exceeded_by(&self) -> Option<Percentiles> {
        self.at([0.5, 0.25, 0.1, 0.01])
    }

    fn at(&self, shares: [f64; 4]) -> Option<Percentiles> {
        let total: u64 = self.0.values().map(|count| u64::from(*count)).sum();
        let at = |share: f64| {
            let wanted = (total as f64 * share).ceil().max(1.0) as u64;
            let mut below = 0;
            let bin = self.0.iter().find(|(_, count)| {
                below += u64::from(**count);
                below >= wanted
            });
            bin.map(|(bin, _)| STEP.powf(f64::from(*bin) + 0.5))
        };
        let [p50, p75, p90, p99] = shares.map(at);
        Some(Percentiles { p50: p50?, p75: p75?, p90: p90?, p99: p99? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_step_of_the_truth() {
        let (statistics, now) = (Statistics::default(), Instant::now());
        (1..=1_000).for_each(|ms| statistics.note("a", Seen::FirstToken(Duration::from_millis(ms)), now));
        let latency = statistics.record("a", now).latency_ms.expect("seen");
        for (is, should) in [(latency.p50, 500.0), (latency.p75, 750.0), (latency.p90, 900.0), (latency.p99, 990.0)] {
            assert!((is / should - 1.0f64).abs() < 0.06, "{is} for {should}");
        }
        assert_eq!(statistics.record("b", now), Record::default());
    }

    #[test]
    fn each_window_forgets_in_its_own_time() {
        let statistics = Statistics::default();
        let after = |seconds| statistics.begun + Duration::from_secs(seconds);
        statistics.note("a", Seen::Bad, after(0));
        statistics.note("a", Seen::Good, after(200));
        let shown = |seconds| {
            let live = statistics.live("a", after(seconds));
            [live.uptime_5m, live.uptime_30m, live.uptime_1d]
        };
        assert_eq!(shown(200), [Some(0.5); 3]);
        assert_eq!(shown(400), [Some(1.0), Some(0.5), Some(0.5)], "the failure is older than 5 minutes");
        assert_eq!(shown(1_000), [None, Some(0.5), Some(0.5)]);
        assert_eq!(shown(3_000), [None, None, Some(0.5)]);
        assert_eq!(shown(90_000), [None; 3]);
    }

    #[test]
    fn throughput_and_tool_calls_are_counted() {
        let (statistics, now) = (Statistics::default(), Instant::now());
        statistics.note("a", Seen::Output { tokens: 100, time: Duration::from_secs(2) }, now);
        statistics.note("a", Seen::Calls { good: 3, bad: 1 }, now);
        let record = statistics.record("a", now);
        assert!((45.0..55.0).contains(&record.throughput.expect("seen").p50));
        assert_eq!(record.good_calls, Some(0.75));
    }
}
