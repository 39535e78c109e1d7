//! Hits at equal error: every method over its own range of settings, and the curve that comes of it.

use super::replay::{Comparing, Replayed, Rule, Words, replay};
use super::rivals::{fixed_cosine, vcache};
use super::streams::Stream;
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
    const WIDTH: f64 = 640.0;
    const HEIGHT: f64 = 400.0;
    const LEFT: f64 = 56.0;
    const BOTTOM: f64 = 44.0;
    let error_max = 0.06;
    let most = curves.iter().flat_map(|(_, points)| points).filter(|point| point.error <= error_max);
    let net_max = most.map(|point| point.net).fold(0.05, f64::max) * 1.1;
    let x = |error: f64| LEFT + (WIDTH - LEFT - 16.0) * error / error_max;
    let y = |net: f64| HEIGHT - BOTTOM - (HEIGHT - BOTTOM - 40.0) * net.max(0.0) / net_max;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{title}</text>\n"
    );
    for step in 0..=6 {
        let error = f64::from(step) / 100.0;
        let (at, base) = (x(error), HEIGHT - BOTTOM);
        svg += &format!(
            "<line x1=\"{at:.1}\" y1=\"40\" x2=\"{at:.1}\" y2=\"{base}\" stroke=\"#ddd\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{step} %</text>\n",
            base + 16.0
        );
    }
    for step in 0..=4 {
        let net = net_max * f64::from(step) / 4.0;
        svg += &format!(
            "<line x1=\"{LEFT}\" y1=\"{0:.1}\" x2=\"{1}\" y2=\"{0:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{2}\" y=\"{0:.1}\" text-anchor=\"end\">{3:.0} %</text>\n",
            y(net),
            WIDTH - 16.0,
            LEFT - 6.0,
            net * 100.0
        );
    }
    svg += &format!(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">wrong answers / requests</text>\n",
        WIDTH / 2.0,
        HEIGHT - 8.0
    );
    for (at, (method, points)) in curves.iter().enumerate() {
        let (name, colour) = match method {
            Method::Static => ("one cosine for all", "#888"),
            Method::Vcache => ("vCache (our reading)", "#c60"),
            Method::Sluice => ("Sluice, audits taken off", "#06c"),
        };
        let line: Vec<String> = points
            .iter()
            .filter(|point| point.error <= error_max)
            .map(|point| format!("{:.1},{:.1}", x(point.error), y(point.net)))
            .collect();
        svg += &format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{}\" y=\"{}\" fill=\"{colour}\">{name}</text>\n",
            line.join(" "),
            LEFT + 12.0,
            56 + 16 * at
        );
    }
    svg + "</svg>\n"
}
