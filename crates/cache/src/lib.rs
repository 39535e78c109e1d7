//! Finds an earlier answer: exact, then the nearest in meaning and how likely it is right.

mod cache;
mod config;
mod controller;
mod decision;
mod evidence;
mod guard;
mod index;
mod learner;
mod lexicon;
mod model;
mod pair;
mod semantic;
mod sketch;
mod stored;
mod text;

pub use cache::{Cache, Entry, Filter, Placed, Put};
pub use config::{CacheConfig, ExactConfig, Fold, Ineligible, PolicyRules, SemanticConfig, UnsetTemperature};
pub use controller::Estimate;
pub use decision::{AnswerId, CASE_COUNT, CASE_FORM, CASE_NAMES, Case};
pub use evidence::{Agreement, agreement};
pub use guard::Veto;
pub use index::{Earlier, Index, NEIGHBOURS, Neighbour, Row, cosine_of};
pub use model::{CacheModel, CacheModelError};
pub use pair::{FEATURE_COUNT, FEATURE_NAMES, FEATURES_VERSION, Features};
pub use semantic::{Evidence, Judge, Look, Owner, Question, Semantic};
pub use sketch::Sketch;
pub use text::Words;
