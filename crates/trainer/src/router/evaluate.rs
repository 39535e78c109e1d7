//! Measuring a router on a pair of models by RouteLLM's definitions (arXiv 2406.18665, section 3): at each share of
//! calls to the strong model, the performance gap recovered; APGR is its mean over all shares, CPT50 and CPT80 the
//! share at which half and four fifths are recovered.

use super::outcomes::{OutcomeRow, Split};
use ::router::{Features, Predictor, probability};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, HashMap, HashSet};

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
#[derive(Debug, Clone, serde::Serialize)]
pub struct Measured {
    pub router: &'static str,
    pub apgr: Interval,
    /// Share of calls to the strong model, 0 to 100, that recovers half of the gap.
    pub cpt50: f64,
    pub cpt80: f64,
}

/// All rows for one source and pair.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Evaluation {
    pub source: String,
    pub strong: String,
    pub weak: String,
    pub prompts: usize,
    pub strong_score: f64,
    pub weak_score: f64,
    pub measured: Vec<Measured>,
}

/// One held-out prompt.
struct Case<'a> {
    row: &'a OutcomeRow,
    strong: f64,
    weak: f64,
}

/// Measures `predictor` on the dev rows of `source`, beside random order and a lookup of the category's mean gain in the
/// training rows. Groups that occur in any training row are left out. `None` when the source has no usable pair.
pub fn evaluate(rows: &[OutcomeRow], source: &str, predictor: &Predictor, seed: u64) -> Option<Evaluation> {
    let trained: HashSet<&str> =
        rows.iter().filter(|row| row.split == Split::Train).map(|row| row.group.as_str()).collect();
    let (strong, weak) = pair(rows.iter().filter(|row| row.source == source))?;
    let case = |row: &'_ OutcomeRow| -> Option<(f64, f64)> {
        Some((row.outcomes.get(&strong)?.0, row.outcomes.get(&weak)?.0))
    };
    let held_out = rows
        .iter()
        .filter(|row| row.source == source && row.split == Split::Dev && !trained.contains(row.group.as_str()));
    let cases: Vec<Case> =
        held_out.filter_map(|row| case(row).map(|(strong, weak)| Case { row, strong, weak })).collect();
    let (able_strong, able_weak) = (predictor.ability(&strong)?, predictor.ability(&weak)?);
    let gain = |case: &Case| {
        let difficulty = predictor.difficulty(&Features::of(&case.row.prompt));
        f64::from(probability(able_strong, difficulty) - probability(able_weak, difficulty))
    };
    let lookup = category_gains(rows, source, &strong, &weak);
    let by_category = |case: &Case| lookup.get(case.row.category.as_str()).copied().unwrap_or(0.0);
    let rows: [(&'static str, Vec<f64>); 3] = [
        ("random", vec![0.0; cases.len()]),
        ("category lookup", cases.iter().map(by_category).collect()),
        ("predictor", cases.iter().map(gain).collect()),
    ];
    let measured = rows.into_iter().map(|(router, scores)| measure(router, &cases, &scores, seed)).collect();
    let mean = |of: fn(&Case) -> f64| cases.iter().map(of).sum::<f64>() / cases.len().max(1) as f64;
    Some(Evaluation {
        source: source.to_owned(),
        prompts: cases.len(),
        strong_score: mean(|case| case.strong),
        weak_score: mean(|case| case.weak),
        strong,
        weak,
        measured,
    })
}

/// The best model and the cheapest one that is worse; of a source with two models, these two.
fn pair<'a>(rows: impl Iterator<Item = &'a OutcomeRow>) -> Option<(String, String)> {
    let mut sums: BTreeMap<&str, (f64, f64, f64)> = BTreeMap::new();
    for (name, outcome) in rows.flat_map(|row| &row.outcomes) {
        let sum = sums.entry(name).or_default();
        *sum = (sum.0 + 1.0, sum.1 + outcome.0, sum.2 + outcome.2.unwrap_or(0.0));
    }
    let most = sums.values().map(|sum| sum.0).fold(0.0, f64::max);
    let means = sums.iter().filter(|(_, sum)| sum.0 > 0.9 * most);
    let means: Vec<(&str, f64, f64)> = means.map(|(name, sum)| (*name, sum.1 / sum.0, sum.2 / sum.0)).collect();
    let strong = means.iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let weaker = means.iter().filter(|model| model.1 < strong.1 - 0.02);
    let weak = weaker.min_by(|a, b| a.2.total_cmp(&b.2))?;
    Some((strong.0.to_owned(), weak.0.to_owned()))
}

fn category_gains<'a>(rows: &'a [OutcomeRow], source: &str, strong: &str, weak: &str) -> HashMap<&'a str, f64> {
    let mut sums: HashMap<&str, (f64, f64)> = HashMap::new();
    for row in rows.iter().filter(|row| row.source == source && row.split == Split::Train) {
        if let (Some(strong), Some(weak)) = (row.outcomes.get(strong), row.outcomes.get(weak)) {
            let sum = sums.entry(&row.category).or_default();
            *sum = (sum.0 + 1.0, sum.1 + strong.0 - weak.0);
        }
    }
    sums.into_iter().map(|(category, (count, gain))| (category, gain / count)).collect()
}

fn measure(router: &'static str, cases: &[Case], scores: &[f64], seed: u64) -> Measured {
    let all: Vec<usize> = (0..cases.len()).collect();
    let curve = Curve::of(cases, scores, &all);
    let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, case) in cases.iter().enumerate() {
        groups.entry(&case.row.group).or_default().push(at);
    }
    let groups: Vec<&Vec<usize>> = groups.values().collect();
    let mut random = StdRng::seed_from_u64(seed);
    let mut resampled: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let drawn: Vec<usize> =
                (0..groups.len()).flat_map(|_| groups[random.random_range(0..groups.len())].iter().copied()).collect();
            Curve::of(cases, scores, &drawn).apgr()
        })
        .filter(|apgr| apgr.is_finite())
        .collect();
    resampled.sort_by(f64::total_cmp);
    let quantile = |share: f64| {
        let at = (share * resampled.len() as f64) as usize;
        resampled.get(at.min(resampled.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    };
    let apgr = Interval { value: curve.apgr(), low: quantile(0.025), high: quantile(0.975) };
    Measured { router, apgr, cpt50: curve.share_to_recover(0.5), cpt80: curve.share_to_recover(0.8) }
}

/// Share of calls to the strong model and the part of the gap recovered, from (0, 0) to (1, 1). Prompts with equal scores
/// are one straight piece, which is what drawing among them gives on average.
struct Curve(Vec<(f64, f64)>);

impl Curve {
    fn of(cases: &[Case], scores: &[f64], drawn: &[usize]) -> Self {
        let mut order = drawn.to_vec();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        let gap: f64 = order.iter().map(|at| cases[*at].strong - cases[*at].weak).sum();
        let mut points = vec![(0.0, 0.0)];
        let mut recovered = 0.0;
        for (rank, at) in order.iter().enumerate() {
            recovered += cases[*at].strong - cases[*at].weak;
            let ends_tie = order.get(rank + 1).is_none_or(|next| scores[*next] != scores[*at]);
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
    use super::super::outcomes::Outcome;
    use super::*;

    fn row(at: usize, strong: f64, weak: f64) -> OutcomeRow {
        let outcomes = [("s".to_owned(), Outcome(strong, None, None)), ("w".to_owned(), Outcome(weak, None, None))];
        OutcomeRow {
            source: "x".into(),
            category: "c".into(),
            split: Split::Dev,
            group: at.to_string(),
            prompt: String::new(),
            outcomes: outcomes.into_iter().collect(),
        }
    }

    #[test]
    fn the_curve_agrees_with_values_worked_by_hand() {
        let rows: Vec<OutcomeRow> = (0..4).map(|at| row(at, 1.0, if at < 2 { 0.0 } else { 1.0 })).collect();
        let cases: Vec<Case> =
            rows.iter().map(|row| Case { row, strong: row.outcomes["s"].0, weak: row.outcomes["w"].0 }).collect();
        let all = [0, 1, 2, 3];
        let perfect = Curve::of(&cases, &[4.0, 3.0, 2.0, 1.0], &all);
        assert!((perfect.apgr() - 0.75).abs() < 1e-12);
        assert!((perfect.share_to_recover(0.5) - 25.0).abs() < 1e-9);
        let random = Curve::of(&cases, &[0.0; 4], &all);
        assert!((random.apgr() - 0.5).abs() < 1e-12);
        assert!((random.share_to_recover(0.8) - 80.0).abs() < 1e-9);
        let worst = Curve::of(&cases, &[1.0, 2.0, 3.0, 4.0], &all);
        assert!((worst.apgr() - 0.25).abs() < 1e-12);
    }
}
