//! A pair of models by RouteLLM's definitions (arXiv 2406.18665, section 3): at each share of calls to the strong model,
//! the performance gap recovered; APGR is its mean over all shares, CPT50 and CPT80 the share at which half and four fifths
//! are recovered.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;

/// Resamples for the intervals.
const RESAMPLES: usize = 1_000;

/// A value with its 95 % bootstrap interval over question groups.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Interval {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// One way of ordering the prompts.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    pub apgr: Interval,
    /// Share of calls to the strong model, 0 to 100, that recovers half of the gap.
    pub cpt50: f64,
    pub cpt80: f64,
}

/// The group of a prompt, how much better the strong model did, and how much better it was expected to do.
pub(crate) type Case<'a> = (&'a str, f64, f64);

/// Measures an order; the interval is drawn where there is a seed for it.
pub(crate) fn measure(cases: &[Case], seed: Option<u64>) -> Measured {
    let all: Vec<usize> = (0..cases.len()).collect();
    let curve = Curve::of(cases, &all);
    let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, (group, ..)) in cases.iter().enumerate() {
        groups.entry(group).or_default().push(at);
    }
    let groups: Vec<&Vec<usize>> = groups.values().collect();
    let mut resampled: Vec<f64> = Vec::new();
    if let Some(mut random) = seed.map(StdRng::seed_from_u64) {
        for _ in 0..RESAMPLES {
            let drawn: Vec<usize> =
                (0..groups.len()).flat_map(|_| groups[random.random_range(0..groups.len())].iter().copied()).collect();
            resampled.push(Curve::of(cases, &drawn).apgr());
        }
    }
    resampled.retain(|apgr| apgr.is_finite());
    resampled.sort_by(f64::total_cmp);
    let quantile = |share: f64| {
        let at = (share * resampled.len() as f64) as usize;
        resampled.get(at.min(resampled.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    };
    let apgr = Interval { value: curve.apgr(), low: quantile(0.025), high: quantile(0.975) };
    Measured { apgr, cpt50: curve.share_to_recover(0.5), cpt80: curve.share_to_recover(0.8) }
}

/// Share of calls to the strong model and the part of the gap recovered, from (0, 0) to (1, 1). Prompts with equal scores
/// are one straight piece, which is what drawing among them gives on average.
struct Curve(Vec<(f64, f64)>);

impl Curve {
    fn of(cases: &[Case], drawn: &[usize]) -> Self {
        let mut order = drawn.to_vec();
        order.sort_by(|a, b| cases[*b].2.total_cmp(&cases[*a].2));
        let gap: f64 = order.iter().map(|at| cases[*at].1).sum();
        let mut points = vec![(0.0, 0.0)];
        let mut recovered = 0.0;
        for (rank, at) in order.iter().enumerate() {
            recovered += cases[*at].1;
            let ends_tie = order.get(rank + 1).is_none_or(|next| cases[*next].2 != cases[*at].2);
            if ends_tie {
                points.push(((rank + 1) as f64 / order.len() as f64, recovered / gap));
            }
        }
        Self(points)
    }

    fn apgr(&self) -> f64 {
        self.0.windows(2).map(|ends| (ends[1].0 - ends[0].0) * (ends[0].1 + ends[1].1) / 2.0).sum()
    }

    /// The least share of strong calls, 0 to 100, at which this part of the gap is recovered.
    fn share_to_recover(&self, part: f64) -> f64 {
        for ends in self.0.windows(2) {
            let ((from, low), (to, high)) = (ends[0], ends[1]);
            if high >= part {
                let along = if high > low { (part - low) / (high - low) } else { 1.0 };
                return 100.0 * (from + (to - from) * along.clamp(0.0, 1.0));
            }
        }
        100.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_agrees_with_values_worked_by_hand() {
        // The strong model is always right, the weak one on the last two of four.
        let order = |scores: [f64; 4]| -> Vec<Case<'static>> {
            (0..4).map(|at| (["a", "b", "c", "d"][at], f64::from(u8::from(at < 2)), scores[at])).collect()
        };
        let perfect = measure(&order([4.0, 3.0, 2.0, 1.0]), Some(1));
        assert!((perfect.apgr.value - 0.75).abs() < 1e-12);
        assert!((perfect.cpt50 - 25.0).abs() < 1e-9);
        assert!(perfect.apgr.low <= 0.75 && perfect.apgr.high >= 0.75);
        let random = measure(&order([0.0; 4]), None);
        assert!((random.apgr.value - 0.5).abs() < 1e-12);
        assert!((random.cpt80 - 80.0).abs() < 1e-9);
        let worst = measure(&order([1.0, 2.0, 3.0, 4.0]), None);
        assert!((worst.apgr.value - 0.25).abs() < 1e-12);
    }
}
