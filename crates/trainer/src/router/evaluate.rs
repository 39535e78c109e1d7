//! Measures routers on recorded outcomes: on a pair of models, and over many by cost.

use super::cascade::{Cascaded, Case, cascaded};
use super::frontier::{Frontier, Point, sweep};
use super::pair::{Interval, Measured, measure};
use super::prepared::{Prompt, models_with_labels};
use super::promise::{Kept, promise};
use super::scorers::{Scorer, Table, costs, qualities};
use super::splits::{Part, Protocol, parts};
use crate::chart::{Axis, Chart, Line};
use ::router::{LabelledPrompt, Predictor};
use serde::Serialize;
use std::collections::BTreeMap;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    pub protocol: Protocol,
    /// Labelled prompts to learn from; all where not given.
    pub labels: Option<usize>,
    pub seeds: Vec<u64>,
    /// Strong and weak; by default the best model and the cheapest one that is worse.
    pub pair: Option<(String, String)>,
    /// Shares of the best model's quality to promise, and how often that is to hold.
    pub promises: Vec<f64>,
    pub confidence: f64,
    /// Errors of a cascade's check, and what a check costs in answers of the weak model.
    pub check_errors: Vec<f64>,
    pub check_cost: f64,
    /// The models of the comparison by cost; by default all that have outcomes for most prompts.
    pub models: Vec<String>,
}

/// A model by itself, on the tested prompts.
#[derive(Debug, Clone, Serialize)]
pub struct Single {
    pub model: String,
    pub score: f64,
    pub cost_usd: f64,
}

/// One router on the pair, over the seeds.
#[derive(Debug, Clone, Serialize)]
pub struct OnPair {
    pub router: Scorer,
    /// Mean over the seeds; the interval is a bootstrap over question groups with the first seed's labels.
    pub apgr: Interval,
    pub apgr_deviation: f64,
    pub cpt50: f64,
    pub cpt80: f64,
}

/// One router over many models, over the seeds.
#[derive(Debug, Clone, Serialize)]
pub struct ByCost {
    pub router: Scorer,
    /// Of the first seed, for the chart.
    #[serde(flatten)]
    pub frontier: Frontier,
}

/// Everything measured on one source.
#[derive(Debug, Clone, Serialize)]
pub struct Evaluation {
    pub source: String,
    pub prompts: usize,
    pub labels: usize,
    pub strong: String,
    pub weak: String,
    pub singles: Vec<Single>,
    pub pair: Vec<OnPair>,
    /// Empty where costs are unknown or there are only two models.
    pub by_cost: Vec<ByCost>,
    /// What drawing among single models reaches: a router that knows nothing of the prompt.
    pub zero: Option<Frontier>,
    /// Cascades on the pair; none where costs are unknown.
    pub cascades: Vec<Cascaded>,
    /// What became of promises of quality; none where costs are unknown.
    pub kept: Vec<Kept>,
    /// Mean distance between expected and found quality, in ten steps, weighted by how often each is expected.
    pub calibration_error: f64,
}

/// The tested prompts of all parts of one seed, with what each scorer expects.
struct Tested<'a> {
    prompts: Vec<&'a Prompt>,
    expected: BTreeMap<Scorer, Table>,
    costs: Table,
    labels: usize,
}

/// Measures every router on prompts of one source. `None` where no pair of models has outcomes for them.
pub fn evaluate(prompts: &[Prompt], plan: &Plan, shipped: &Predictor, told: impl Fn()) -> Option<Evaluation> {
    let complete = complete(prompts);
    let (strong, weak) = plan.pair.clone().or_else(|| default_pair(prompts, &complete))?;
    let mut models = if plan.models.is_empty() { complete } else { plan.models.clone() };
    models.extend([&strong, &weak].into_iter().filter(|name| !models.contains(name)).cloned().collect::<Vec<_>>());
    let tested: Vec<Tested> = plan
        .seeds
        .iter()
        .map(|seed| {
            let tested = test(prompts, &parts(prompts, plan.protocol, plan.labels, *seed), &models, shipped, *seed);
            told();
            tested
        })
        .collect();
    let first = tested.first().filter(|tested| !tested.prompts.is_empty())?;
    let scorers = || Scorer::ALL.into_iter().filter(|scorer| tested.iter().all(|t| t.expected.contains_key(scorer)));
    let at = |name: &String| models.iter().position(|model| model == name).unwrap_or(0);
    let (strong_at, weak_at) = (at(&strong), at(&weak));
    let pair = scorers().map(|scorer| on_pair(scorer, &tested, (&strong, strong_at), (&weak, weak_at), &plan.seeds));
    let pair = pair.collect();
    let singles = singles(first, &models);
    let (by_cost, zero) = by_cost(scorers(), &tested, &models, &plan.models, &singles);
    let labelled = labelled(first, &models);
    let (best, has_costs) = (best_single(&singles), singles.iter().all(|single| single.cost_usd > 0.0));
    let keep = |quality: &f64| promise(&labelled, best, *quality, plan.confidence, plan.protocol);
    Some(Evaluation {
        source: prompts.first().map(|prompt| prompt.row.source.clone()).unwrap_or_default(),
        prompts: first.prompts.len(),
        labels: first.labels,
        calibration_error: calibration_error(first, &models),
        cascades: cascades(first, (&strong, strong_at), (&weak, weak_at), plan),
        strong,
        weak,
        kept: plan.promises.iter().filter(|_| has_costs).map(keep).collect(),
        singles,
        pair,
        by_cost,
        zero,
    })
}

/// Models with outcomes for nine of ten prompts.
fn complete(prompts: &[Prompt]) -> Vec<String> {
    models_with_labels(prompts, (prompts.len() * 9).div_ceil(10))
}

/// The models that a plan compares, and the place of the best by all its scores.
pub(super) fn models_of(prompts: &[Prompt], plan: &Plan) -> Option<(Vec<String>, usize)> {
    let models = match (&plan.pair, plan.models.is_empty()) {
        (Some((strong, weak)), true) => vec![strong.clone(), weak.clone()],
        (_, false) => plan.models.clone(),
        (None, true) => complete(prompts),
    };
    let score = |model: &String| {
        let scores: Vec<f64> =
            prompts.iter().filter_map(|prompt| prompt.row.outcomes.get(model)).map(|outcome| outcome.0).collect();
        scores.iter().sum::<f64>() / scores.len().max(1) as f64
    };
    let best = (0..models.len()).max_by(|a, b| score(&models[*a]).total_cmp(&score(&models[*b])))?;
    Some((models, best))
}

/// The best model by itself; of equals the cheaper.
fn best_single(singles: &[Single]) -> usize {
    let better = |a: &Single, b: &Single| a.score.total_cmp(&b.score).then(b.cost_usd.total_cmp(&a.cost_usd));
    (0..singles.len()).max_by(|a, b| better(&singles[*a], &singles[*b])).unwrap_or(0)
}

/// The tested prompts as what a promise is made on: all models have a score, and expectations come from other prompts.
fn labelled<'a>(tested: &Tested<'a>, models: &[String]) -> Vec<(&'a Prompt, LabelledPrompt)> {
    let Some(expected) = tested.expected.get(&Scorer::Heads) else { return Vec::new() };
    let of = |(case, prompt): (usize, &&'a Prompt)| -> Option<(&'a Prompt, LabelledPrompt)> {
        let outcomes = models.iter().map(|model| prompt.row.outcomes.get(model));
        let scores: Option<Vec<f64>> = outcomes.map(|outcome| Some(outcome?.0)).collect();
        let labelled = LabelledPrompt {
            expected: expected.iter().map(|of| of[case]).collect(),
            scores: scores?,
            costs: tested.costs.iter().map(|of| of[case]).collect(),
        };
        Some((*prompt, labelled))
    };
    tested.prompts.iter().enumerate().filter_map(of).collect()
}

fn test<'a>(prompts: &'a [Prompt], parts: &[Part], models: &[String], shipped: &Predictor, seed: u64) -> Tested<'a> {
    let mut tested =
        Tested { prompts: Vec::new(), expected: BTreeMap::new(), costs: vec![Vec::new(); models.len()], labels: 0 };
    let append = |table: &mut Table, more: Table| {
        table.iter_mut().zip(more).for_each(|(row, mut more)| row.append(&mut more));
    };
    for part in parts {
        tested.prompts.extend(part.test.iter().map(|at| &prompts[*at]));
        tested.labels = tested.labels.max(part.train.len());
        append(&mut tested.costs, costs(prompts, part, models));
        for scorer in Scorer::ALL {
            if let Some(more) = qualities(scorer, (prompts, part), models, shipped, seed) {
                append(tested.expected.entry(scorer).or_insert_with(|| vec![Vec::new(); models.len()]), more);
            }
        }
    }
    tested
}

/// The best model and the cheapest one that is worse; of two models, these two.
fn default_pair(prompts: &[Prompt], models: &[String]) -> Option<(String, String)> {
    let mean = |name: &String, of: fn(&super::outcomes::Outcome) -> f64| {
        let values: Vec<f64> = prompts.iter().filter_map(|prompt| prompt.row.outcomes.get(name)).map(of).collect();
        values.iter().sum::<f64>() / values.len().max(1) as f64
    };
    let score = |name: &String| mean(name, |outcome| outcome.0);
    let cost = |name: &String| mean(name, |outcome| outcome.2.unwrap_or(0.0));
    let strong = models.iter().max_by(|a, b| score(a).total_cmp(&score(b)))?;
    let weaker = models.iter().filter(|name| score(name) < score(strong) - 0.02);
    let weak = weaker.min_by(|a, b| cost(a).total_cmp(&cost(b)))?;
    Some((strong.clone(), weak.clone()))
}

fn on_pair(
    scorer: Scorer,
    tested: &[Tested],
    (strong, strong_at): (&String, usize),
    (weak, weak_at): (&String, usize),
    seeds: &[u64],
) -> OnPair {
    let measured: Vec<Measured> = tested
        .iter()
        .zip(seeds)
        .enumerate()
        .map(|(at, (tested, seed))| {
            let table = &tested.expected[&scorer];
            let mut cases = Vec::new();
            for (case, prompt) in tested.prompts.iter().enumerate() {
                let of = |name: &String| prompt.row.outcomes.get(name).map(|outcome| outcome.0);
                if let (Some(strong), Some(weak)) = (of(strong), of(weak)) {
                    let gain = table[strong_at][case] - table[weak_at][case];
                    // Drawing by lot is what equal scores mean.
                    let gain = if scorer == Scorer::Random { 0.0 } else { gain };
                    cases.push((prompt.row.group.as_str(), strong - weak, gain));
                }
            }
            measure(&cases, if at == 0 { Some(*seed) } else { None })
        })
        .collect();
    let count = measured.len().max(1) as f64;
    let mean = |of: fn(&Measured) -> f64| measured.iter().map(of).sum::<f64>() / count;
    let apgr = mean(|one| one.apgr.value);
    let deviation = (measured.iter().map(|one| (one.apgr.value - apgr).powi(2)).sum::<f64>() / count).sqrt();
    OnPair {
        router: scorer,
        apgr: Interval { value: apgr, ..measured[0].apgr },
        apgr_deviation: deviation,
        cpt50: mean(|one| one.cpt50),
        cpt80: mean(|one| one.cpt80),
    }
}

fn cascades(
    tested: &Tested,
    (strong, strong_at): (&String, usize),
    (weak, weak_at): (&String, usize),
    plan: &Plan,
) -> Vec<Cascaded> {
    let heads = tested.expected.get(&Scorer::Heads);
    let of = |(case, prompt): (usize, &&Prompt)| -> Option<Case> {
        let point = |name: &String| prompt.row.outcomes.get(name).and_then(|outcome| Some((outcome.0, outcome.2?)));
        let gain = heads.map_or(0.0, |table| table[strong_at][case] - table[weak_at][case]);
        Some(Case { strong: point(strong)?, weak: point(weak)?, gain })
    };
    let cases: Vec<Case> = tested.prompts.iter().enumerate().filter_map(of).collect();
    let errors = plan.check_errors.iter().filter(|_| !cases.is_empty());
    errors.map(|error| cascaded(&cases, *error, plan.check_cost)).collect()
}

fn outcome_points(tested: &Tested, models: &[String]) -> Vec<Vec<Point>> {
    let of = |model: &String| -> Vec<Point> {
        let points = tested.prompts.iter().map(|prompt| {
            let outcome = prompt.row.outcomes.get(model);
            outcome.map_or((0.0, 0.0), |outcome| (outcome.2.unwrap_or(0.0), outcome.0))
        });
        points.collect()
    };
    models.iter().map(of).collect()
}

fn singles(tested: &Tested, models: &[String]) -> Vec<Single> {
    let points = outcome_points(tested, models);
    let count = tested.prompts.len().max(1) as f64;
    let single = |(model, points): (&String, &Vec<Point>)| Single {
        model: model.clone(),
        score: points.iter().map(|point| point.1).sum::<f64>() / count,
        cost_usd: points.iter().map(|point| point.0).sum::<f64>() / count,
    };
    models.iter().zip(&points).map(single).collect()
}

fn by_cost(
    scorers: impl Iterator<Item = Scorer>,
    tested: &[Tested],
    models: &[String],
    wanted: &[String],
    singles: &[Single],
) -> (Vec<ByCost>, Option<Frontier>) {
    let kept: Vec<usize> = (0..models.len()).filter(|at| wanted.is_empty() || wanted.contains(&models[*at])).collect();
    let points: Vec<Point> = kept.iter().map(|at| (singles[*at].cost_usd, singles[*at].score)).collect();
    if kept.len() < 3 || points.iter().any(|point| point.0 <= 0.0) {
        return (Vec::new(), None);
    }
    let names: Vec<String> = kept.iter().map(|at| models[*at].clone()).collect();
    let pick = |table: &Table| -> Table { kept.iter().map(|at| table[*at].clone()).collect() };
    let measured = scorers.map(|scorer| {
        let frontiers: Vec<Frontier> = tested
            .iter()
            .map(|tested| {
                let outcomes = outcome_points(tested, &names);
                let expected = pick(&tested.expected[&scorer]);
                let true_costs: Table = outcomes.iter().map(|of| of.iter().map(|point| point.0).collect()).collect();
                let costs = if scorer == Scorer::Oracle { true_costs } else { pick(&tested.costs) };
                Frontier::of(&sweep(&expected, &costs, &outcomes), &points)
            })
            .collect();
        ByCost { router: scorer, frontier: Frontier::mean(frontiers) }
    });
    (measured.collect(), Some(Frontier::of(&points, &points)))
}

fn calibration_error(tested: &Tested, models: &[String]) -> f64 {
    let Some(table) = tested.expected.get(&Scorer::Heads) else { return f64::NAN };
    let mut bins = [(0.0, 0.0, 0.0); 10];
    for (model, expected) in models.iter().zip(table) {
        for (prompt, expected) in tested.prompts.iter().zip(expected) {
            if let Some(outcome) = prompt.row.outcomes.get(model) {
                let bin = &mut bins[((expected * 10.0) as usize).min(9)];
                *bin = (bin.0 + 1.0, bin.1 + expected, bin.2 + outcome.0);
            }
        }
    }
    let all: f64 = bins.iter().map(|bin| bin.0).sum();
    bins.iter().map(|(_, expected, found)| (expected - found).abs()).sum::<f64>() / all.max(1.0)
}

impl Evaluation {
    /// Cost against quality, one line a router, a dot each model; `None` where there are no costs.
    pub fn chart(&self) -> Option<String> {
        let zero = self.zero.as_ref()?;
        let dear = self.singles.iter().map(|single| single.cost_usd).fold(0.0, f64::max);
        let hulls = || self.by_cost.iter().map(|row| &row.frontier).chain([zero]).flat_map(|frontier| &frontier.hull);
        let scores = || hulls().map(|point| point.1).chain(self.singles.iter().map(|single| single.score));
        let line = |router: Scorer, colour: &'static str| {
            let found = self.by_cost.iter().find(|row| row.router == router)?;
            let mut points = found.frontier.hull.clone();
            points.extend(points.last().map(|last| (dear, last.1)));
            Some(Line { name: router.name(), colour, points })
        };
        let lines =
            [(Scorer::Oracle, "#2a2"), (Scorer::Heads, "#06c"), (Scorer::Neighbours, "#c60"), (Scorer::Random, "#aaa")];
        let mut lines: Vec<Line> = lines.into_iter().filter_map(|(router, colour)| line(router, colour)).collect();
        lines.push(Line { name: "single models", colour: "#444", points: zero.hull.clone() });
        let chart = Chart {
            title: &format!("{}: {} models, {} labels", self.source, self.singles.len(), self.labels),
            x: Axis {
                name: "dollars a thousand prompts",
                from: 0.0,
                to: dear,
                marks: 5,
                show: |usd| format!("{:.2}", 1_000.0 * usd),
            },
            y: Axis {
                name: "quality",
                from: scores().fold(1.0, f64::min),
                to: scores().fold(0.0, f64::max),
                marks: 4,
                show: |share| format!("{:.1} %", 100.0 * share),
            },
            lines,
            dots: self.singles.iter().map(|single| (single.model.clone(), (single.cost_usd, single.score))).collect(),
        };
        Some(chart.svg())
    }
}
