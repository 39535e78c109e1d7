//! Finds an earlier answer: exact, then the nearest in meaning and how likely it is right.

mod cache;
mod config;
mod decision;
mod guard;
mod index;
mod lexicon;
mod text;

pub use cache::{Cache, Entry, Found, Put};
pub use config::{CacheConfig, ExactConfig, Ineligible, SemanticConfig};
pub use decision::{Decision, decide};
pub use guard::{Guard, Verdict, Veto};
