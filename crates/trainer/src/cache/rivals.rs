//! What others do, replayed over the same stream: one cosine threshold for all, and our reading of vCache.

use super::replay::Replayed;
use super::streams::{Prepared, Stream};
use ::cache::EmbeddedStore;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::HashMap;
use std::ops::Range;
use std::time::Instant;

/// Serves the nearest stored answer from this cosine on.
pub fn fixed_cosine(stream: &Stream, rows: Range<usize>, threshold: f32) -> Replayed {
    let mut nearest = Nearest::new();
    let mut replayed = Replayed::default();
    let mut times = Vec::with_capacity(rows.len());
    for (at, row) in stream.rows[rows].iter().enumerate() {
        let begun = Instant::now();
        let found = nearest.find(row).filter(|(_, cosine)| *cosine >= threshold);
        times.push(begun.elapsed().as_secs_f64() * 1e6);
        replayed.arrived(at);
        match found {
            Some((entry, _)) => replayed.serve(at, nearest.classes[entry] == row.class),
            None => nearest.store(row),
        }
    }
    replayed.timed(times);
    replayed
}

/// Labels that an entry needs before its curve is trusted.
const LABELS_MIN: usize = 4;

/// Serves as vCache does (Schroeder et al. 2025, arXiv 2502.03771), read from its paper: each entry has a logistic curve
/// of its own from cosine to correctness; it is asked again with the probability that keeps the error under `error_max`
/// with the curve at its lower confidence bound.
pub fn vcache(stream: &Stream, rows: Range<usize>, error_max: f64, seed: u64) -> Replayed {
    let mut nearest = Nearest::new();
    let mut labels: HashMap<usize, Vec<(f64, bool)>> = HashMap::new();
    let mut chance = StdRng::seed_from_u64(seed);
    let mut replayed = Replayed::default();
    let mut times = Vec::with_capacity(rows.len());
    for (at, row) in stream.rows[rows].iter().enumerate() {
        let begun = Instant::now();
        let found = nearest.find(row);
        replayed.arrived(at);
        let Some((entry, cosine)) = found else {
            nearest.store(row);
            continue;
        };
        let known = labels.entry(entry).or_default();
        let asks = exploration(known, f64::from(cosine), error_max);
        times.push(begun.elapsed().as_secs_f64() * 1e6);
        let is_right = nearest.classes[entry] == row.class;
        if chance.random::<f64>() >= asks {
            replayed.serve(at, is_right);
            continue;
        }
        known.push((f64::from(cosine), is_right));
        if !is_right {
            nearest.store(row);
        }
    }
    replayed.timed(times);
    replayed
}

/// The probability with which a fresh answer is fetched.
fn exploration(labels: &[(f64, bool)], cosine: f64, error_max: f64) -> f64 {
    if labels.len() < LABELS_MIN {
        return 1.0;
    }
    let (slope, even, deviation) = curve(labels);
    let asks = |(doubt, quantile): &(f64, f64)| {
        let right = 1.0 / (1.0 + (-slope * (cosine - (even + quantile * deviation))).exp());
        let right = (1.0 - doubt) * right;
        if right >= 1.0 { 0.0 } else { (1.0 - error_max / (1.0 - right)).max(0.0) }
    };
    QUANTILES.iter().map(asks).fold(1.0, f64::min)
}

/// Doubts and the standard normal quantiles that leave so much above them.
const QUANTILES: [(f64, f64); 6] =
    [(0.0005, 3.291), (0.001, 3.090), (0.005, 2.576), (0.01, 2.326), (0.02, 2.054), (0.05, 1.645)];

/// Slope, cosine of even odds and its standard deviation, by Newton's method on the penalised likelihood; an entry's own
/// prompt counts as one right label at a cosine of 1.
fn curve(labels: &[(f64, bool)]) -> (f64, f64, f64) {
    // Keeps the curve of labels that a cosine parts cleanly finite.
    const PENALTY: f64 = 1e-4;
    let own = [(1.0, true)];
    let (mut slope, mut offset) = (10.0, -8.0);
    let mut hessian = [0.0; 3];
    for _ in 0..25 {
        let (mut gradient, mut h) = ([PENALTY * slope, PENALTY * offset], [PENALTY, 0.0, PENALTY]);
        for (s, right) in labels.iter().chain(&own) {
            let p = 1.0 / (1.0 + (-(slope * s + offset)).exp());
            let (error, v) = (p - f64::from(u8::from(*right)), p * (1.0 - p));
            gradient[0] += error * s;
            gradient[1] += error;
            h[0] += v * s * s;
            h[1] += v * s;
            h[2] += v;
        }
        let determinant = h[0] * h[2] - h[1] * h[1];
        slope -= (h[2] * gradient[0] - h[1] * gradient[1]) / determinant;
        offset -= (h[0] * gradient[1] - h[1] * gradient[0]) / determinant;
        slope = slope.clamp(0.1, 200.0);
        hessian = h;
    }
    let even = -offset / slope;
    // Delta method: even = −offset / slope.
    let determinant = hessian[0] * hessian[2] - hessian[1] * hessian[1];
    let (by_slope, by_offset) = (offset / (slope * slope), -1.0 / slope);
    let variance = (by_slope * by_slope * hessian[2] - 2.0 * by_slope * by_offset * hessian[1]
        + by_offset * by_offset * hessian[0])
        / determinant;
    (slope, even, variance.max(0.0).sqrt())
}

/// Entries in order of arrival, each with its class.
struct Nearest {
    store: EmbeddedStore,
    classes: Vec<u64>,
}

impl Nearest {
    fn new() -> Self {
        Self { store: EmbeddedStore::new(usize::MAX), classes: Vec::new() }
    }

    fn find(&self, row: &Prepared) -> Option<(usize, f32)> {
        let found = row.neighbours(&self.store);
        let best = found.first()?;
        Some((best.row.id.parse().ok()?, best.cosine))
    }

    fn store(&mut self, row: &Prepared) {
        let id = self.classes.len().to_string();
        self.classes.push(row.class);
        self.store.add(row.row(id.as_str().into(), id.into()));
    }
}
