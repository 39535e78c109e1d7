//! The `[router]` table: what the router has learned, and how it learns more.

use super::{ConfigFile, Mistake};
use catalog::Catalog;
use serde::Deserialize;
use std::path::PathBuf;

/// The `[router]` table.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RouterConfig {
    /// An artefact of `sluice train router`; by default the shipped one.
    pub artefact: Option<PathBuf>,
    /// Trains anew, beside the gateway, once so many scores of tenants in `[content]` are newer than the artefact; 0: never.
    pub train_after_scores: u64,
    pub shadow: ShadowConfig,
}

/// What training beside the gateway needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Learning {
    /// Whose scores are learned from.
    pub tenants: Vec<String>,
    pub artefact: PathBuf,
    pub after_scores: u64,
    /// The `[embedding]` model.
    pub embedder: String,
}

/// The `[router.shadow]` table: which requests are asked again of other models, so that their answers can be compared.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShadowConfig {
    /// Share of requests that a policy sent upstream, of tenants in `[content]`; 0: none.
    pub share: f64,
    /// The most that shadows and judge cost on a day (UTC), whatever the share.
    pub usd_per_day_max: f64,
    /// Other candidates asked for one request, the baseline first.
    pub models_max: usize,
    /// The model that scores the answers; without one an answer counts as right where it says what the baseline's says.
    pub judge: Option<String>,
}

impl Default for ShadowConfig {
    fn default() -> Self {
        Self { share: 0.0, usd_per_day_max: 1.0, models_max: 3, judge: None }
    }
}

impl ConfigFile {
    /// What training beside the gateway needs; `None` where it is off.
    pub fn learning(&self) -> Option<Learning> {
        let router = &self.tables.router;
        let artefact = router.artefact.clone().filter(|_| router.train_after_scores > 0)?;
        let (tenants, embedder) = (self.tables.content.tenants.clone(), self.tables.embedding.model.clone());
        Some(Learning { tenants, artefact, after_scores: router.train_after_scores, embedder })
    }
}

impl RouterConfig {
    pub(super) fn mistakes(&self, catalog: &Catalog, has_content: bool) -> Vec<Mistake> {
        let mut mistakes = self.shadow.mistakes(catalog);
        let mut refuse = |problem: &str| mistakes.push(Mistake::new(0..0, "router.train_after_scores", problem));
        if self.train_after_scores > 0 && self.artefact.is_none() {
            refuse("needs `artefact`: the file that is written");
        }
        if self.train_after_scores > 0 && !has_content {
            refuse("learns nothing; name tenants in [content]");
        }
        mistakes
    }
}

impl ShadowConfig {
    fn mistakes(&self, catalog: &Catalog) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut refuse = |field: &str, problem: String| {
            mistakes.push(Mistake::new(0..0, format!("router.shadow.{field}"), problem));
        };
        if !(0.0..=1.0).contains(&self.share) {
            refuse("share", format!("{}; use a share from 0 to 1", self.share));
        }
        if !(0.0..1e6).contains(&self.usd_per_day_max) {
            refuse("usd_per_day_max", format!("{}; use dollars, 0 or more", self.usd_per_day_max));
        }
        if !(1..=8).contains(&self.models_max) {
            refuse("models_max", format!("{}; use 1 to 8", self.models_max));
        }
        if let Some(Err(unknown)) = self.judge.as_deref().map(|judge| catalog.resolve(judge)) {
            refuse("judge", format!("no model `{}` can be reached", unknown.name));
        }
        mistakes
    }
}
