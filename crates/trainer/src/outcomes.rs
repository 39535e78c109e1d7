//! Recorded outcomes: what many models scored on the same prompts. One JSON object a line, gzipped or plain.

use flate2::read::GzDecoder;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use thiserror::Error;

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

/// Outcomes that cannot be used.
#[derive(Debug, Error)]
pub enum OutcomesError {
    #[error("{folder}: found none of {wanted}; --data takes the folder that holds routing/*.jsonl.gz")]
    None { folder: PathBuf, wanted: String },
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}, line {line}: {source}")]
    Line { path: PathBuf, line: usize, source: serde_json::Error },
}

/// Reads `routing/NAME.jsonl.gz` (or `.jsonl`) under `folder` for each of `names` that is there.
///
/// # Errors
/// When none is there, or one is malformed.
pub fn read_outcomes(folder: &Path, names: &[&str]) -> Result<Vec<OutcomeRow>, OutcomesError> {
    let mut rows = Vec::new();
    for name in names {
        for file in [format!("routing/{name}.jsonl.gz"), format!("routing/{name}.jsonl")] {
            let path = folder.join(file);
            if path.is_file() {
                read_file(&path, &mut rows)?;
                break;
            }
        }
    }
    if rows.is_empty() {
        return Err(OutcomesError::None { folder: folder.to_owned(), wanted: names.join(", ") });
    }
    Ok(rows)
}

fn read_file(path: &Path, rows: &mut Vec<OutcomeRow>) -> Result<(), OutcomesError> {
    let read = |source| OutcomesError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(read)?;
    let zipped = path.extension().is_some_and(|extension| extension == "gz");
    let reader: Box<dyn Read> = if zipped { Box::new(GzDecoder::new(file)) } else { Box::new(file) };
    for (at, line) in BufReader::new(reader).lines().enumerate() {
        let line = line.map_err(read)?;
        let row = serde_json::from_str(&line).map_err(|source| OutcomesError::Line {
            path: path.to_owned(),
            line: at + 1,
            source,
        })?;
        rows.push(row);
    }
    Ok(())
}
