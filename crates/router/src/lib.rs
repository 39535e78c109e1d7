//! Decides: predicts which models can handle a request, ranks endpoints and the cache's offer. No IO, no clock, no
//! randomness.

mod decide;
mod dominance;
mod endpoints;
mod features;
mod guarantee;
mod head;
mod policy;
mod predictor;
mod rank;
mod rule;
#[cfg(test)]
mod rules;
mod schema;
mod verify;

pub use decide::{Candidate, Offer, Question, Rejected, Route, Sticky, Trial, Wanted, decide, estimate_tokens};
pub use dominance::Dominated;
pub use endpoints::{Lot, Suffixes, parameters};
pub use features::{DENSE_COUNT, FEATURES_VERSION, Features, SPARSE_COUNT};
pub use guarantee::{Guarantee, LabelledPrompt};
pub use head::{Head, Heads, LABELS_MIN};
pub use policy::{Evidence, Example, Order, Policy, PolicyConfig, PolicyError};
pub use predictor::{Artefact, Calibrated, Predictor, PredictorError, prior_ability, probability};
pub use rule::{Applied, Asker, Rule, RuleConfig, permits};
pub use schema::Schema;
pub use verify::{Cascade, Check};
