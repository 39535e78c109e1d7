//! Policies: which models a request may go to, what they are measured against and how much quality must stay.

use crate::dominance::Dominated;
use crate::guarantee::Guarantee;
use crate::predictor::Predictor;
use crate::rule::{Rule, RuleConfig};
use crate::verify::Cascade;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use toml::Spanned;

/// One `[policies.<name>]` table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// Left out: every model that `auto` may choose.
    #[serde(default)]
    pub candidates: Option<Vec<Spanned<String>>>,
    /// The model that quality and savings are measured against; by default the dearest candidate.
    #[serde(default)]
    pub baseline: Option<Spanned<String>>,
    /// Share of the baseline's expected quality that must stay, 0 to 1.
    #[serde(default)]
    pub quality_min: Option<Spanned<f64>>,
    /// What a right answer is worth: the model with the highest expected worth less its cost serves, instead of the cheapest
    /// that keeps the quality.
    #[serde(default)]
    pub correct_answer_value_usd: Option<Spanned<f64>>,
    /// An endpoint that is expected to cost more does not serve.
    #[serde(default)]
    pub cost_max_usd: Option<Spanned<f64>>,
    /// What decides among models that keep the quality.
    #[serde(default)]
    pub sort: Order,
    #[serde(default)]
    pub rules: Vec<RuleConfig>,
    /// Requests with the model that is to serve them; `sluice policy test` tries them.
    #[serde(default)]
    pub examples: Vec<Example>,
    /// What is tried on the cheapest candidate first, and checked before anybody sees it.
    #[serde(default)]
    pub cascade: Option<Cascade>,
    /// The quality is promised: without labels that show it, the baseline serves.
    #[serde(default)]
    pub guarantee: bool,
    /// Model names to which the policy is attached.
    #[serde(default)]
    pub applies_to: Vec<Spanned<String>>,
}

/// What decides among models that keep the quality.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    #[default]
    Price,
    /// Time to the first token, as seen lately.
    Latency,
    /// Tokens a second, as seen lately.
    Throughput,
}

/// One `[[policies.<name>.examples]]` table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// The user's turn of a request to the policy.
    pub prompt: String,
    /// More fields of the request, as JSON.
    #[serde(default)]
    pub request: Option<String>,
    /// The model that serves.
    pub picks: String,
}

/// A validated policy; its models exist.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub name: String,
    /// Canonical names, at least one.
    pub candidates: Vec<String>,
    pub baseline: String,
    pub quality_min: f64,
    pub correct_answer_value_usd: Option<f64>,
    pub cost_max_usd: Option<f64>,
    pub order: Order,
    pub rules: Vec<Rule>,
    pub cascade: Option<Cascade>,
    /// What is promised, where a promise was asked for.
    pub guarantee: Option<Guarantee>,
}

/// What supports a quality estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Evidence {
    /// The client named the model: nothing was estimated.
    #[serde(rename = "named")]
    Named,
    /// Price and age of the model, and a difficulty learnt from other models' outcomes.
    #[serde(rename = "prior, unverified")]
    Prior,
    /// Scores of the models' own answers: of the one that serves and of the baseline.
    #[serde(rename = "labels")]
    Labels,
}

/// What is wrong with a policy's table.
#[derive(Debug, Clone, Error, PartialEq)]
#[error("{field}: {problem}")]
pub struct PolicyError {
    pub span: std::ops::Range<usize>,
    pub field: String,
    pub problem: String,
}

/// Share of the baseline's quality that a policy keeps unless told otherwise.
const QUALITY_MIN: f64 = 0.95;

/// How often a promise of quality is to hold.
const CONFIDENCE: f64 = 0.9;

impl Policy {
    /// The same with what the predictor's labels allow to promise; `cost` tells dollars from a model and the tokens that go
    /// in and come out.
    #[must_use]
    pub fn with_guarantee(self, predictor: &Predictor, cost: impl Fn(&str, u64, u64) -> f64) -> Self {
        let others = self.candidates.iter().filter(|id| **id != self.baseline && predictor.knows(id));
        let models: Vec<String> = std::iter::once(&self.baseline).chain(others).cloned().collect();
        let labelled = predictor.labelled(&models, |at, input, output| cost(&models[at], input, output));
        let guarantee = Guarantee::choose(&labelled, 0, self.quality_min, CONFIDENCE);
        Self { guarantee: Some(guarantee), ..self }
    }

    /// Candidates that labels show to be superfluous, each with the one that makes it so.
    pub fn dominated(&self, predictor: &Predictor, cost: impl Fn(&str, u64, u64) -> f64) -> Vec<Dominated> {
        let known: Vec<&String> = self.candidates.iter().filter(|id| predictor.knows(id)).collect();
        let by_any = |model: &&String| {
            known.iter().filter(|by| **by != *model).find_map(|by| {
                let pair = [(*model).clone(), (*by).clone()];
                let prompts = predictor.labelled(&pair, |at, input, output| cost(&pair[at], input, output));
                Dominated::of((&pair[0], &pair[1]), &prompts)
            })
        };
        known.iter().filter_map(by_any).collect()
    }

    /// A policy that keeps a share of the baseline's quality, and nothing else.
    pub fn plain(name: &str, candidates: Vec<String>, baseline: String, quality_min: f64) -> Self {
        Self {
            name: name.to_owned(),
            candidates,
            baseline,
            quality_min,
            correct_answer_value_usd: None,
            cost_max_usd: None,
            order: Order::Price,
            rules: Vec::new(),
            cascade: None,
            guarantee: None,
        }
    }

    /// Reads a table. `resolve` finds a model's canonical name, `all` are the candidates of a policy that names none, and
    /// `dearest` picks the baseline of one without.
    ///
    /// # Errors
    /// Every mistake in the table.
    pub fn from_config(
        name: &str,
        config: &PolicyConfig,
        resolve: impl Fn(&str) -> Result<String, String> + Copy,
        all: impl FnOnce() -> Vec<String>,
        dearest: impl Fn(&[String]) -> Option<String>,
    ) -> Result<Self, Vec<PolicyError>> {
        let mut reading = Reading { place: format!("policies.{name}"), errors: Vec::new() };
        let candidates = match &config.candidates {
            None => all(),
            Some(named) => reading.candidates(named, resolve),
        };
        let baseline = match &config.baseline {
            None => dearest(&candidates),
            Some(value) => reading.found(value, "baseline", resolve(value.get_ref())),
        };
        let quality_min = reading.share("quality_min", config.quality_min.as_ref()).unwrap_or(QUALITY_MIN);
        let correct_answer_value_usd =
            reading.money("correct_answer_value_usd", config.correct_answer_value_usd.as_ref());
        let cost_max_usd = reading.money("cost_max_usd", config.cost_max_usd.as_ref());
        let rules = reading.rules(&config.rules, resolve);
        reading.contradictions(config, &candidates, baseline.as_deref());
        match baseline {
            Some(baseline) if reading.errors.is_empty() => Ok(Self {
                correct_answer_value_usd,
                cost_max_usd,
                order: config.sort,
                rules,
                cascade: config.cascade,
                ..Self::plain(name, candidates, baseline, quality_min)
            }),
            None if reading.errors.is_empty() => {
                reading.error(0..0, "candidates", "no model can be reached".to_owned());
                Err(reading.errors)
            }
            _ => Err(reading.errors),
        }
    }
}

/// The mistakes found while a table is read.
struct Reading {
    place: String,
    errors: Vec<PolicyError>,
}

impl Reading {
    fn error(&mut self, span: std::ops::Range<usize>, field: &str, problem: String) {
        self.errors.push(PolicyError { span, field: format!("{}.{field}", self.place), problem });
    }

    fn found<T>(&mut self, value: &Spanned<String>, field: &str, found: Result<T, String>) -> Option<T> {
        found.map_err(|problem| self.error(value.span(), field, problem)).ok()
    }

    fn candidates(
        &mut self,
        named: &[Spanned<String>],
        resolve: impl Fn(&str) -> Result<String, String>,
    ) -> Vec<String> {
        if named.is_empty() {
            self.error(0..0, "candidates", "empty; name at least one model, or leave it out for all".to_owned());
        }
        let mut candidates = Vec::new();
        for (at, candidate) in named.iter().enumerate() {
            candidates.extend(self.found(candidate, &format!("candidates[{at}]"), resolve(candidate.get_ref())));
        }
        candidates
    }

    fn contradictions(&mut self, config: &PolicyConfig, candidates: &[String], baseline: Option<&str>) {
        let priced = config.correct_answer_value_usd.is_some();
        let is_candidate = baseline.is_none_or(|baseline| candidates.iter().any(|candidate| candidate == baseline));
        for (is_wrong, field, problem) in [
            (config.guarantee && priced, "guarantee", "a promise of quality and a price for it exclude each other"),
            (
                config.guarantee && config.cascade.is_some(),
                "guarantee",
                "says nothing of answers that are only checked; leave `cascade` out",
            ),
            (config.guarantee && config.sort != Order::Price, "guarantee", "holds for the cheapest; leave `sort` out"),
            (
                config.guarantee && !is_candidate,
                "guarantee",
                "the baseline must be a candidate: it serves what is not promised",
            ),
            (
                priced && config.quality_min.is_some(),
                "quality_min",
                "has no say where a right answer has a price; leave one out",
            ),
            (
                priced && config.sort != Order::Price,
                "sort",
                "has no say where a right answer has a price; leave one out",
            ),
        ] {
            if is_wrong {
                self.error(0..0, field, problem.to_owned());
            }
        }
    }

    fn share(&mut self, field: &str, value: Option<&Spanned<f64>>) -> Option<f64> {
        let value = value?;
        if !(0.0..=1.0).contains(value.get_ref()) {
            self.error(value.span(), field, format!("{}; use a share from 0 to 1", value.get_ref()));
        }
        Some(*value.get_ref())
    }

    fn money(&mut self, field: &str, value: Option<&Spanned<f64>>) -> Option<f64> {
        let value = value?;
        if !(0.0..1e9).contains(value.get_ref()) {
            self.error(value.span(), field, format!("{}; use dollars, 0 or more", value.get_ref()));
        }
        Some(*value.get_ref())
    }

    fn rules(&mut self, rules: &[RuleConfig], resolve: impl Fn(&str) -> Result<String, String> + Copy) -> Vec<Rule> {
        let mut read = Vec::new();
        for (at, rule) in rules.iter().enumerate() {
            match Rule::from_config(rule, resolve) {
                Ok(rule) => read.push(rule),
                Err(mistakes) => mistakes
                    .into_iter()
                    .for_each(|(span, field, problem)| self.error(span, &format!("rules[{at}].{field}"), problem)),
            }
        }
        read
    }
}
