//! Labelled pairs before an empty cache: one prompt is stored, the other asks.

use super::replay::Words;
use super::streams::PreparedPair;
use ::cache::{CacheModel, EmbeddedStore, Owner, Semantic};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What became of the pairs of one kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Kind {
    pub kind: String,
    /// The template, where pairs have one.
    pub template: String,
    /// Pairs that need different answers, and how many were served all the same.
    pub different: usize,
    pub wrongly_served: usize,
    /// Pairs that one answer is right for, and how many were served.
    pub same: usize,
    pub rightly_served: usize,
    /// How many of either a cosine of 0.95 alone would serve.
    pub different_by_cosine: usize,
    pub same_by_cosine: usize,
}

/// Judges pairs with nothing learned yet.
pub fn kinds<'a>(
    pairs: impl IntoIterator<Item = &'a PreparedPair>,
    model: &CacheModel,
    words: &Words,
    error_max: f64,
) -> Vec<Kind> {
    let semantic = Semantic::new(Arc::clone(words), model.clone());
    let mut kinds: BTreeMap<(String, String), Kind> = BTreeMap::new();
    for prepared in pairs {
        let pair = &prepared.pair;
        let template = pair.test.clone().unwrap_or_default();
        let kind = kinds.entry((pair.kind.clone(), template.clone())).or_insert_with(|| Kind {
            kind: pair.kind.clone(),
            template,
            ..Kind::default()
        });
        let is_served = is_served(&semantic, prepared, error_max);
        let by_cosine = usize::from(::cache::cosine_of(&prepared.a.vector, &prepared.b.vector) >= 0.95);
        if pair.label == 1 {
            kind.same += 1;
            kind.rightly_served += usize::from(is_served);
            kind.same_by_cosine += by_cosine;
        } else {
            kind.different += 1;
            kind.wrongly_served += usize::from(is_served);
            kind.different_by_cosine += by_cosine;
        }
    }
    kinds.into_values().collect()
}

fn is_served(semantic: &Semantic, prepared: &PreparedPair, error_max: f64) -> bool {
    let store = EmbeddedStore::new(usize::MAX);
    store.add(prepared.a.row("stored".into(), "stored".into()));
    let neighbours = prepared.b.neighbours(&store);
    let owner = Owner { tenant: "pairs".to_owned(), policy: String::new() };
    semantic.look(&owner, &prepared.b.question(0), &neighbours, error_max).is_some_and(|look| look.is_admissible())
}
