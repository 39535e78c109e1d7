//! Hits at equal error: every method over its own range of settings, and the curve that comes of it.

use super::replay::{Comparing, Replayed, Rule, Words, replay};
use super::rivals::{fixed_cosine, vcache};
use super::streams::Stream;
use crate::chart::{Axis, Chart, Line};
use ::cache::CacheModel;
use serde::Serialize;
use std::ops::Range;

/// A way to decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// One cosine for all.
    Static,
    Vcache,
    Sluice,
}

/// One setting of a method and what came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    pub setting: f64,
    /// Wrong answers / requests.
    pub error: f64,
    /// Hits less audits / requests.
    pub net: f64,
}

/// Runs a method over its settings; `done` is told after each.
pub fn sweep(
    method: Method,
    (stream, rows): (&Stream, Range<usize>),
    (model, words): (&CacheModel, &Words),
    seed: u64,
    done: impl Fn() + Sync,
) -> Vec<Point> {
    let settings = method.settings();
    let run = |setting: f64| -> Replayed {
        let replayed = match method {
            Method::Static => fixed_cosine(stream, rows.clone(), setting as f32),
            Method::Vcache => vcache(stream, rows.clone(), setting, seed),
            Method::Sluice => {
                replay((stream, rows.clone()), (model, words), Rule::Probability(setting), (seed, Comparing::PERFECT))
            }
        };
        done();
        replayed
    };
    // Settings are independent of each other, so two run side by side.
    let (first, second): (Vec<f64>, Vec<f64>) = {
        let parted = |odd: bool| settings.iter().skip(usize::from(odd)).step_by(2).copied().collect();
        (parted(false), parted(true))
    };
    let point = |setting: f64| {
        let replayed = run(setting);
        Point { setting, error: replayed.error(), net: replayed.net() }
    };
    let mut points: Vec<Point> = std::thread::scope(|scope| {
        let beside = scope.spawn(|| second.iter().map(|setting| point(*setting)).collect::<Vec<_>>());
        let own: Vec<Point> = first.iter().map(|setting| point(*setting)).collect();
        own.into_iter().chain(beside.join().unwrap_or_default()).collect()
    });
    points.sort_by(|a, b| a.error.total_cmp(&b.error));
    points
}

impl Method {
    /// The settings that a sweep tries.
    pub fn settings(self) -> Vec<f64> {
        match self {
            Self::Static => (0..30).map(|step| 0.70 + 0.01 * f64::from(step)).collect(),
            Self::Vcache => vec![0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.16, 0.24],
            Self::Sluice => vec![
                0.5, 0.6, 0.7, 0.77, 0.83, 0.87, 0.9, 0.92, 0.94, 0.955, 0.965, 0.975, 0.982, 0.988, 0.992, 0.995,
                0.997, 0.999,
            ],
        }
    }
}

/// The share of calls saved where this share of requests is answered wrongly: between the best setting under it and the
/// next one over it. `None` where every setting has more errors.
pub fn net_at(points: &[Point], error: f64) -> Option<f64> {
    let (under, over): (Vec<&Point>, Vec<&Point>) = points.iter().partition(|point| point.error <= error);
    let best = under.iter().copied().reduce(|a, b| if b.net > a.net { b } else { a })?;
    let next = over.first();
    let between = next.map_or(best.net, |next| {
        let along = (error - best.error) / (next.error - best.error).max(1e-9);
        best.net + along * (next.net - best.net)
    });
    Some(between.max(best.net))
}

/// A chart of hits against error, one line a method, as SVG.
pub fn chart(title: &str, curves: &[(Method, Vec<Point>)]) -> String {
    const ERROR_MAX: f64 = 0.06;
    let shown = |point: &&Point| point.error <= ERROR_MAX;
    let most = curves.iter().flat_map(|(_, points)| points).filter(shown).map(|point| point.net).fold(0.05, f64::max);
    let lines = curves.iter().map(|(method, points)| {
        let (name, colour) = match method {
            Method::Static => ("one cosine for all", "#888"),
            Method::Vcache => ("vCache (our reading)", "#c60"),
            Method::Sluice => ("Sluice, audits taken off", "#06c"),
        };
        Line {
            name,
            colour,
            points: points.iter().filter(shown).map(|point| (point.error, point.net.max(0.0))).collect(),
        }
    });
    let show = |share: f64| format!("{:.0} %", 100.0 * share);
    let chart = Chart {
        title,
        x: Axis { name: "wrong answers / requests", from: 0.0, to: ERROR_MAX, marks: 6, show },
        y: Axis { name: "", from: 0.0, to: 1.1 * most, marks: 4, show },
        lines: lines.collect(),
        dots: Vec::new(),
    };
    chart.svg()
}
