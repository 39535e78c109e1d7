//! What labels of own traffic add to an artefact: a head for each model, and the labelled prompts for promises of quality.

use super::head::Design;
use super::length::fit_logarithm;
use super::outcomes::Outcome;
use super::prepared::{Prompt, Scale, models_with_labels};
use super::splits::{Protocol, parts};
use ::router::{Artefact, Calibrated, DENSE_COUNT, Heads, LABELS_MIN};
use std::collections::{BTreeMap, HashSet};

/// Folds in which prompts are predicted by heads that have not seen their labels.
const FOLDS: usize = 5;

/// Adds heads for every model with enough labels to what an artefact says of prompts; `told` is called after each fit, of
/// which there are [`fits`].
pub fn add_heads(prompts: &[Prompt], onto: Artefact, told: impl Fn() + Sync) -> Artefact {
    let scale = Scale::from_artefact(&onto);
    let models = models_with_labels(prompts, LABELS_MIN);
    let (mut calibration, mut groups) = (Vec::with_capacity(prompts.len()), HashSet::new());
    for part in parts(prompts, Protocol::Folds(FOLDS), None, 1) {
        let learned: Vec<&Prompt> = part.train.iter().map(|at| &prompts[*at]).collect();
        let heads = fit_all(&learned, &models, &scale, &told);
        // Variants of one question are one piece of evidence.
        let first_of_group = part.test.iter().filter(|at| groups.insert(prompts[**at].row.group.as_str()));
        calibration.extend(first_of_group.map(|at| calibrated(&prompts[*at], &heads, &scale)));
    }
    let heads = fit_all(&prompts.iter().collect::<Vec<_>>(), &models, &scale, told);
    Artefact { heads, calibration, ..onto }
}

/// How many fits [`add_heads`] makes for so many models.
pub fn fits(models: usize) -> usize {
    models * (FOLDS + 1)
}

fn calibrated(prompt: &Prompt, heads: &BTreeMap<String, Heads>, scale: &Scale) -> Calibrated {
    let dense = scale.apply(&prompt.features);
    let vector = (!prompt.vector.is_empty()).then_some(prompt.vector.as_slice());
    let of = |(model, heads): (&String, &Heads)| {
        let score = prompt.row.outcomes.get(model)?.0 as f32;
        let expected = heads.quality(&dense, &prompt.features, vector);
        Some((model.clone(), (expected, score, heads.output_tokens(&dense).unwrap_or(TOKENS_UNKNOWN))))
    };
    let input_tokens = prompt.row.prompt.len() as u64 / 3 + 16;
    Calibrated { input_tokens, models: heads.iter().filter_map(of).collect() }
}

/// Output tokens assumed where lengths are unknown.
const TOKENS_UNKNOWN: u64 = 256;

fn fit_all(prompts: &[&Prompt], models: &[String], scale: &Scale, told: impl Fn() + Sync) -> BTreeMap<String, Heads> {
    let bare: Vec<Prompt> = prompts.iter().map(|prompt| Prompt { vector: Vec::new(), ..(*prompt).clone() }).collect();
    let has_vectors = prompts.first().is_some_and(|prompt| !prompt.vector.is_empty());
    let with_vector = has_vectors.then(|| Design::of(prompts, scale));
    let without_vector = Design::of(&bare.iter().collect::<Vec<_>>(), scale);
    let inputs: Vec<[f32; DENSE_COUNT]> = prompts.iter().map(|prompt| scale.apply(&prompt.features)).collect();
    let fit = |model: &String| -> (String, Heads) {
        let outcomes: Vec<Option<Outcome>> =
            prompts.iter().map(|prompt| prompt.row.outcomes.get(model).copied()).collect();
        let scores: Vec<Option<f64>> = outcomes.iter().map(|outcome| outcome.map(|outcome| outcome.0)).collect();
        let lengths = inputs.iter().zip(&outcomes).filter_map(|(input, outcome)| {
            let tokens = (*outcome)?.1.filter(|tokens| *tokens >= 1.0)?;
            Some((*input, tokens.ln()))
        });
        let (measured, logarithms): (Vec<_>, Vec<f64>) = lengths.unzip();
        let length = fit_logarithm(&measured, &logarithms)
            .map(|(bias, weights)| (bias as f32, weights.iter().map(|weight| *weight as f32).collect()));
        let heads = Heads {
            labels: scores.iter().flatten().count(),
            with_vector: with_vector.as_ref().map(|design| design.fit(&scores)),
            without_vector: without_vector.fit(&scores),
            length,
        };
        told();
        (model.clone(), heads)
    };
    let (ours, theirs) = models.split_at(models.len().div_ceil(2));
    std::thread::scope(|scope| {
        let beside = scope.spawn(|| theirs.iter().map(fit).collect::<Vec<_>>());
        let own: Vec<_> = ours.iter().map(fit).collect();
        let theirs = beside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        own.into_iter().chain(theirs).collect()
    })
}
