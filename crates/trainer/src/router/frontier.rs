//! Cost against quality over many models: what a router reaches at each price, and what the models reach by themselves.

use serde::Serialize;

/// Dollars and score, means of a prompt.
pub type Point = (f64, f64);

/// What a router's curve is worth beside the single models.
#[derive(Debug, Clone, Serialize)]
pub struct Frontier {
    /// Average improvement in quality: the area under the non-decreasing convex hull between the cheapest and the dearest
    /// model, over that range (RouterBench, arXiv 2403.12031, section 3).
    pub aiq: f64,
    /// Cost at the quality of the best single model, as a share of its cost; `None` where that is not reached.
    pub cost_at_best: Option<f64>,
    /// The same at 98 % of its quality.
    pub cost_at_98: Option<f64>,
    /// Quality at the cost of the best single model.
    pub quality_at_best_cost: f64,
    pub hull: Vec<Point>,
}

/// Where a router goes on its way from the cheapest to the best: the model of the highest `value · quality − cost`, for
/// values of a right answer from nothing to where only quality counts.
pub(crate) fn sweep(qualities: &[Vec<f64>], costs: &[Vec<f64>], outcomes: &[Vec<Point>]) -> Vec<Point> {
    const VALUES: i32 = 160;
    let cases = outcomes.first().map_or(0, Vec::len);
    let at_value = |value: f64| -> Point {
        let (mut cost, mut score) = (0.0, 0.0);
        for case in 0..cases {
            let worth = |model: usize| value * qualities[model][case] - costs[model][case];
            let best = (0..outcomes.len()).max_by(|a, b| worth(*a).total_cmp(&worth(*b))).unwrap_or(0);
            cost += outcomes[best][case].0;
            score += outcomes[best][case].1;
        }
        (cost / cases.max(1) as f64, score / cases.max(1) as f64)
    };
    // From a millionth of a dollar to ten for a right answer.
    let values = (0..VALUES).map(|step| 10.0_f64.powf(-6.0 + 7.0 * f64::from(step) / f64::from(VALUES - 1)));
    std::iter::once(0.0).chain(values).map(at_value).collect()
}

/// The upper hull of points, rising: what drawing between two of them reaches.
pub(crate) fn hull(points: &[Point]) -> Vec<Point> {
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut hull: Vec<Point> = Vec::new();
    for point in sorted {
        while let Some(last) = hull.last() {
            let turns_up = hull.len() >= 2 && {
                let before = hull[hull.len() - 2];
                (last.1 - before.1) * (point.0 - before.0) <= (point.1 - before.1) * (last.0 - before.0)
            };
            if turns_up || (last.0 >= point.0 && last.1 <= point.1) {
                hull.pop();
            } else {
                break;
            }
        }
        if hull.last().is_none_or(|last| point.1 > last.1) {
            hull.push(point);
        }
    }
    hull
}

impl Frontier {
    /// Measures a curve against the single models' points.
    pub(crate) fn of(curve: &[Point], singles: &[Point]) -> Self {
        let hull = hull(curve);
        let best =
            singles.iter().copied().reduce(|a, b| if (b.1, -b.0) > (a.1, -a.0) { b } else { a }).unwrap_or_default();
        let cost_of = |quality: f64| Some(cost_at(&hull, quality)? / best.0);
        let (low, high) =
            singles.iter().fold((f64::INFINITY, 0.0f64), |(low, high), single| (low.min(single.0), high.max(single.0)));
        Self {
            aiq: area(&hull, low, high) / (high - low).max(1e-12),
            cost_at_best: cost_of(best.1),
            cost_at_98: cost_of(0.98 * best.1),
            quality_at_best_cost: quality_at(&hull, best.0),
            hull,
        }
    }
}

impl Frontier {
    /// The mean of the measures over seeds, with the first one's hull.
    pub(crate) fn mean(all: Vec<Self>) -> Self {
        let count = all.len().max(1) as f64;
        let mean = |of: fn(&Self) -> f64| all.iter().map(of).sum::<f64>() / count;
        let share = |of: fn(&Self) -> Option<f64>| -> Option<f64> {
            let reached: Option<Vec<f64>> = all.iter().map(of).collect();
            Some(reached?.iter().sum::<f64>() / count)
        };
        Self {
            aiq: mean(|one| one.aiq),
            cost_at_best: share(|one| one.cost_at_best),
            cost_at_98: share(|one| one.cost_at_98),
            quality_at_best_cost: mean(|one| one.quality_at_best_cost),
            hull: all.first().map(|one| one.hull.clone()).unwrap_or_default(),
        }
    }
}

fn quality_at(hull: &[Point], cost: f64) -> f64 {
    let Some(first) = hull.first() else { return 0.0 };
    if cost < first.0 {
        return first.1 * cost / first.0; // a part of the prompts is not answered
    }
    for two in hull.windows(2) {
        if cost <= two[1].0 {
            return two[0].1 + (two[1].1 - two[0].1) * (cost - two[0].0) / (two[1].0 - two[0].0);
        }
    }
    hull.last().map_or(0.0, |last| last.1)
}

fn cost_at(hull: &[Point], quality: f64) -> Option<f64> {
    let first = hull.first()?;
    if quality <= first.1 {
        return Some(first.0);
    }
    let two = hull.windows(2).find(|two| quality <= two[1].1 + 1e-12)?;
    Some(two[0].0 + (two[1].0 - two[0].0) * (quality - two[0].1) / (two[1].1 - two[0].1))
}

fn area(hull: &[Point], low: f64, high: f64) -> f64 {
    const STEPS: i32 = 2_000;
    let width = (high - low) / f64::from(STEPS);
    (0..STEPS).map(|step| quality_at(hull, low + width * (f64::from(step) + 0.5)) * width).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hull_and_measures_agree_with_values_worked_by_hand() {
        let points = [(1.0, 0.5), (2.0, 0.55), (3.0, 0.9), (4.0, 0.8), (3.5, 0.9)];
        assert_eq!(hull(&points), [(1.0, 0.5), (3.0, 0.9)]);
        let singles = [(1.0, 0.5), (4.0, 0.8)];
        let frontier = Frontier::of(&points, &singles);
        assert!((frontier.cost_at_best.expect("reached") - 2.5 / 4.0).abs() < 1e-9, "{frontier:?}");
        assert!((frontier.quality_at_best_cost - 0.9).abs() < 1e-9);
        // Trapezoid from 1 to 3, then flat to 4: (1.4 + .9) / 3.
        assert!((frontier.aiq - 2.3 / 3.0).abs() < 1e-4, "{}", frontier.aiq);
        assert_eq!(Frontier::of(&[(1.0, 0.5)], &singles).cost_at_best, None);
    }

    #[test]
    fn the_sweep_begins_at_the_cheapest_and_ends_at_the_best() {
        let outcomes = [vec![(1e-4, 1.0), (1e-4, 0.0)], vec![(1e-2, 1.0), (1e-2, 1.0)]];
        let costs = [vec![1e-4; 2], vec![1e-2; 2]];
        let truth = [vec![1.0, 0.0], vec![1.0, 1.0]];
        let curve = sweep(&truth, &costs, &outcomes);
        assert_eq!(curve[0], (1e-4, 0.5));
        let last = curve[curve.len() - 1];
        assert!((last.0 - 5.05e-3).abs() < 1e-9 && (last.1 - 1.0).abs() < 1e-9, "{last:?}");
    }
}
