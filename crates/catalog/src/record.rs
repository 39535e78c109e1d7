//! What our own traffic has shown of an endpoint.

use serde::Serialize;

/// The recent past of an endpoint; what was not seen is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Record {
    /// It has been failing within the last half minute or so.
    pub failing: bool,
    /// Milliseconds to the first token, of the last 5 minutes.
    pub latency_ms: Option<Percentiles>,
    /// Output tokens a second, of the last 5 minutes: what half, 75, 90 and 99 % of the answers reached.
    pub throughput: Option<Percentiles>,
    /// Share of tool calls whose arguments were JSON, from 0 to 1, of the last day.
    pub good_calls: Option<f64>,
}

/// Percentiles of a measure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p75: f64,
    pub p90: f64,
    pub p99: f64,
}
