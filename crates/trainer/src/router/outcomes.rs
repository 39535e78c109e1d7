//! Recorded outcomes: what many models scored on the same prompts. One JSON object a line, gzipped or plain.

use crate::data::{DataError, find, read_rows};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Sources whose licences allow what is fitted on them to be shipped; see models/router/CARD.md.
pub const SHIPPABLE: [&str; 7] = [
    "routellm_mmlu",
    "routellm_gsm8k",
    "mmlu_pro",
    "zeroeval_gsm",
    "zeroeval_math_l5",
    "zeroeval_crux",
    "ulab_llmrouter",
];

/// One prompt and how each model did.
#[derive(Debug, Clone, Deserialize)]
pub struct OutcomeRow {
    pub source: String,
    pub category: String,
    pub split: Split,
    /// Rows with the same question share a group; never split one.
    pub group: String,
    pub prompt: String,
    pub outcomes: BTreeMap<String, Outcome>,
}

/// What a row is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    Train,
    Dev,
}

/// Score 0 to 1, output tokens, cost in dollars; the latter two where known.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Outcome(pub f64, pub Option<f64>, pub Option<f64>);

/// Reads `routing/NAME.jsonl.gz` (or `.jsonl`) under `folder` for each of `names` that is there.
///
/// # Errors
/// When none is there, or one is malformed.
pub fn read_outcomes(folder: &Path, names: &[&str]) -> Result<Vec<OutcomeRow>, DataError> {
    let mut rows = Vec::new();
    for name in names {
        if let Some(path) = find(folder, "routing", name) {
            rows.append(&mut read_rows(&path)?);
        }
    }
    if rows.is_empty() {
        return Err(DataError::None { folder: folder.to_owned(), kind: "routing", wanted: names.join(", ") });
    }
    Ok(rows)
}

/// Reads one file of rows.
///
/// # Errors
/// When it cannot be read or is malformed.
pub fn read_outcome_file(path: &Path) -> Result<Vec<OutcomeRow>, DataError> {
    read_rows(path)
}
