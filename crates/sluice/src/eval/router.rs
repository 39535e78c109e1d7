//! `sluice eval router`: measures routers on recorded outcomes, beside what they have to be better than.

use super::cache::{SHIPPED_EMBEDDER, bar};
use crate::failure::Failure;
use embedding::Embedder;
use router::Predictor;
use std::path::PathBuf;
use trainer::router::{
    Evaluation, Flipped, Frontier, Noise, OutcomeRow, Plan, Prompt, Protocol, SHIPPABLE, Split, evaluate, flips, noisy,
    prepare_prompts, read_outcome_file, read_outcomes,
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The folder that holds routing/*.jsonl.gz.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Sources in it; each is measured by itself. With --test they are what is learned from.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    source: Vec<String>,
    /// Measures on the rows of a file of the same form instead; nothing of their question groups is learned.
    #[arg(long, value_name = "FILE")]
    test: Option<PathBuf>,
    /// The pair to choose between; by default the best model and the cheapest that is worse.
    #[arg(long, value_name = "STRONG,WEAK", value_delimiter = ',', num_args = 2)]
    pair: Vec<String>,
    /// The models to compare by cost; by default all with outcomes for nine of ten prompts.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    models: Vec<String>,
    /// Labelled prompts to learn from; by default all.
    #[arg(long, value_name = "N")]
    labels: Option<usize>,
    /// How often they are drawn, or the folds are.
    #[arg(long, value_name = "N", default_value_t = 5)]
    seeds: u64,
    /// Learns and measures in so many folds of question groups, instead of on the rows marked train and dev.
    #[arg(long, value_name = "N", conflicts_with_all = ["test", "rest"])]
    folds: Option<usize>,
    /// Folds are whole categories: each is measured with what the others taught.
    #[arg(long, conflicts_with_all = ["test", "rest", "folds"])]
    group: bool,
    /// Measures on all rows that were not drawn.
    #[arg(long, requires = "labels", conflicts_with = "test")]
    rest: bool,
    /// Shares of the best model's quality that are promised, on one half of the measured prompts, and looked for on the other;
    /// with --group on all categories but one, and looked for in that.
    #[arg(long, value_name = "SHARE", value_delimiter = ',')]
    promise: Vec<f64>,
    /// How often a promise is to hold.
    #[arg(long, value_name = "SHARE", default_value_t = 0.9)]
    confidence: f64,
    /// Shows what a cascade on the pair is worth where its check errs so often.
    #[arg(long, value_name = "SHARE", value_delimiter = ',')]
    check_errors: Vec<f64>,
    /// What a check costs, in answers of the weak model: 1 for a second sample, 0 for a look at the form.
    #[arg(long, value_name = "ANSWERS", default_value_t = 1.0)]
    check_cost: f64,
    /// Also decides the measured prompts with typos, in small letters, with other whitespace and with words of courtesy, and
    /// says how many decisions change where a policy keeps this share of the best model's quality.
    #[arg(long, value_name = "SHARE")]
    noise: Option<f64>,
    /// An artefact of `sluice train router` for the row without labels; by default the shipped one.
    #[arg(long, value_name = "FILE")]
    artefact: Option<PathBuf>,
    /// Leaves the vectors of prompts out.
    #[arg(long)]
    without_vectors: bool,
    /// Draws cost against quality of the last source.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let predictor = match &arguments.artefact {
        None => Predictor::shipped()?,
        Some(path) => Predictor::from_json(&std::fs::read(path)?)?,
    };
    let embedder = if arguments.without_vectors { None } else { Some(Embedder::start(SHIPPED_EMBEDDER)?) };
    let mut found: Vec<Evaluation> = Vec::new();
    for rows in arguments.tasks()? {
        let embedding = bar(rows.len(), "embedding");
        let prompts = prepare_prompts(rows, embedder.as_ref(), |done| embedding.set_position(done as u64)).await?;
        embedding.finish_and_clear();
        let plan = arguments.plan();
        let flipped = arguments.flips(&prompts, embedder.as_ref(), &plan, &predictor).await?;
        let measuring = bar(plan.seeds.len(), "measuring");
        let predictor = predictor.clone();
        let measured = move || {
            let found = evaluate(&prompts, &plan, &predictor, || measuring.inc(1));
            measuring.finish_and_clear();
            found
        };
        let measured =
            tokio::task::spawn_blocking(measured).await.map_err(|error| Failure::Request(error.to_string()))?;
        if let Some(evaluation) = &measured
            && !arguments.json
        {
            print(evaluation);
            flipped.iter().for_each(print_flipped);
        }
        found.extend(measured);
    }
    if found.is_empty() {
        return Err(Failure::Usage("no source has a pair of models with outcomes for its prompts".to_owned()));
    }
    if let (Some(path), Some(chart)) = (&arguments.svg, found.last().and_then(Evaluation::chart)) {
        std::fs::write(path, chart)?;
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&found).map_err(std::io::Error::other)?);
    } else {
        println!(
            "APGR with its 95 % bootstrap interval over question groups and its deviation over {} draws; CPT in % of calls to \
             the strong model; AIQ from the cheapest to the dearest model; cost in % of the best single model's",
            arguments.seeds
        );
    }
    Ok(())
}

impl Arguments {
    fn plan(&self) -> Plan {
        let protocol = match self.folds {
            Some(folds) => Protocol::Folds(folds.max(2)),
            None if self.group => Protocol::Categories,
            None if self.rest => Protocol::Rest,
            None => Protocol::Dev,
        };
        let pair = match self.pair.as_slice() {
            [strong, weak] => Some((strong.clone(), weak.clone())),
            _ => None,
        };
        Plan {
            protocol,
            labels: self.labels,
            seeds: (1..=self.seeds.max(1)).collect(),
            pair,
            promises: self.promise.clone(),
            confidence: self.confidence,
            check_errors: self.check_errors.clone(),
            check_cost: self.check_cost,
            models: self.models.clone(),
        }
    }

    /// What noise changes on the measured prompts, where that was asked for; at most so many are written anew.
    async fn flips(
        &self,
        prompts: &[Prompt],
        embedder: Option<&Embedder>,
        plan: &Plan,
        predictor: &Predictor,
    ) -> Result<Vec<Flipped>, Failure> {
        const PROMPTS_MAX: usize = 2_000;
        let Some(quality_min) = self.noise else { return Ok(Vec::new()) };
        let is_measured = |prompt: &Prompt| plan.protocol != Protocol::Dev || prompt.row.split == Split::Dev;
        let places = (0..prompts.len()).filter(|at| is_measured(&prompts[*at])).take(PROMPTS_MAX);
        let written: Vec<(usize, Noise, OutcomeRow)> = places
            .flat_map(|at| noisy(&prompts[at].row, at as u64).into_iter().map(move |(noise, row)| (at, noise, row)))
            .collect();
        let embedding = bar(written.len(), "embedding");
        let rows = written.iter().map(|(_, _, row)| row.clone()).collect();
        let anew = prepare_prompts(rows, embedder, |done| embedding.set_position(done as u64)).await?;
        embedding.finish_and_clear();
        let anew: Vec<(usize, Noise, Prompt)> =
            written.into_iter().zip(anew).map(|((at, noise, _), prompt)| (at, noise, prompt)).collect();
        Ok(flips(prompts, &anew, plan, predictor, quality_min))
    }

    /// The rows of each measurement.
    fn tasks(&self) -> Result<Vec<Vec<OutcomeRow>>, Failure> {
        let named: Vec<&str> = self.source.iter().map(String::as_str).collect();
        let names = if named.is_empty() { SHIPPABLE.to_vec() } else { named };
        let Some(test) = &self.test else {
            return Ok(names.iter().map(|name| read_outcomes(&self.data, &[name])).collect::<Result<_, _>>()?);
        };
        let marked = |mut rows: Vec<OutcomeRow>, split: Split| {
            rows.iter_mut().for_each(|row| row.split = split);
            rows
        };
        let measured = marked(read_outcome_file(test)?, Split::Dev);
        let groups: std::collections::HashSet<String> = measured.iter().map(|row| row.group.clone()).collect();
        let mut rows = marked(read_outcomes(&self.data, &names)?, Split::Train);
        rows.retain(|row| !groups.contains(&row.group));
        rows.splice(0..0, measured);
        Ok(vec![rows])
    }
}

fn print_flipped(flipped: &Flipped) {
    let share = |count: usize| 100.0 * count as f64 / flipped.prompts.max(1) as f64;
    println!(
        "  {:?} changes {:.1} % of {} decisions, of which {:.1} % go elsewhere than to the best model",
        flipped.noise,
        share(flipped.flipped),
        flipped.prompts,
        share(flipped.elsewhere)
    );
}

fn print(evaluation: &Evaluation) {
    let Evaluation { source, strong, weak, prompts, labels, singles, .. } = evaluation;
    let score =
        |name: &String| singles.iter().find(|single| single.model == *name).map_or(f64::NAN, |single| single.score);
    println!(
        "{source}: {prompts} prompts measured, {labels} learned from; calibration error {:.3}",
        evaluation.calibration_error
    );
    println!("  {strong} {:.3} against {weak} {:.3}", score(strong), score(weak));
    println!("  {:<20} {:>6} {:>15} {:>6} {:>7} {:>7}", "", "APGR", "interval", "sd", "CPT50", "CPT80");
    for row in &evaluation.pair {
        let interval = format!("{:.3} to {:.3}", row.apgr.low, row.apgr.high);
        let (apgr, sd, cpt50, cpt80) = (row.apgr.value, row.apgr_deviation, row.cpt50, row.cpt80);
        println!("  {:<20} {apgr:>6.3} {interval:>15} {sd:>6.3} {cpt50:>7.1} {cpt80:>7.1}", row.router.name());
    }
    for cascade in &evaluation.cascades {
        println!(
            "  cascade, its check wrong in {:.0} %: quality {:.3} at {:.1} % of the strong model's cost; routed by the prompt \
             for as much: {:.3}",
            100.0 * cascade.error,
            cascade.quality,
            100.0 * cascade.cost,
            cascade.routed_quality
        );
    }
    for kept in &evaluation.kept {
        println!(
            "  promised {:.1} % of the best model's quality, {:.0} % confidence: less was kept in {} of {} (least {:.1} %); \
             {:.1} % routed elsewhere, {:.1} % of the cost, {:.1} % of the quality",
            100.0 * kept.quality_min,
            100.0 * kept.confidence,
            kept.broken,
            kept.promises,
            100.0 * kept.quality_least,
            100.0 * kept.routed,
            100.0 * kept.cost,
            100.0 * kept.quality
        );
    }
    let Some(zero) = &evaluation.zero else {
        println!();
        return;
    };
    println!(
        "  {:<20} {:>6} {:>15} {:>15} {:>18}",
        "by cost", "AIQ", "at best quality", "at 98 % of it", "quality at its cost"
    );
    let line = |name: &str, frontier: &Frontier| {
        let share =
            |cost: Option<f64>| cost.map_or_else(|| "not reached".to_owned(), |cost| format!("{:.1} %", 100.0 * cost));
        let (best, near) = (share(frontier.cost_at_best), share(frontier.cost_at_98));
        println!("  {name:<20} {:>6.3} {best:>15} {near:>15} {:>18.3}", frontier.aiq, frontier.quality_at_best_cost);
    };
    line("single models' hull", zero);
    evaluation.by_cost.iter().for_each(|row| line(row.router.name(), &row.frontier));
    println!();
}
