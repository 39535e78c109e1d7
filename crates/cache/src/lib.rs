//! Finds an earlier answer: exact, then the nearest in meaning and how likely it is right.

mod cache;
mod calibration;
mod config;
mod controller;
mod decision;
mod entry;
mod evidence;
mod guard;
mod learner;
mod lexicon;
mod model;
mod pair;
mod prompts;
mod semantic;
mod sketch;
mod store;
mod stored;
mod text;

pub use cache::Cache;
pub use config::{
    CacheConfig, ExactConfig, Fold, Ineligible, PolicyRules, SemanticConfig, StoreKind, UnsetTemperature,
};
pub use controller::Estimate;
pub use decision::{AnswerId, CASE_COUNT, CASE_FORM, CASE_NAMES, Case};
pub use entry::{Entry, Filter, Placed, Put, Sizes};
pub use evidence::{Agreement, agreement};
pub use guard::Veto;
pub use model::{CacheModel, CacheModelError};
pub use pair::{FEATURE_COUNT, FEATURES_VERSION, Features};
pub use semantic::{Evidence, Look, Owner, Question, Semantic};
pub use sketch::Sketch;
pub use store::{
    Earlier, EmbeddedStore, Neighbour, QdrantStore, Query, Row, StoreError, StoreStats, VectorStore, Which, cosine_of,
};
pub use text::Words;
