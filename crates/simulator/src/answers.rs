//! The answers file: what each simulated model says to each known prompt, and how right it is.

use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// One line of an answers file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    pub prompt: String,
    /// Prompts of one class have the same right answers.
    pub class: u64,
    /// What kind of arrival this is in a workload: `unique`, `paraphrase`, `repeat` or `trap`.
    #[serde(default)]
    pub kind: String,
    pub answers: HashMap<String, KnownAnswer>,
}

/// What one model says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KnownAnswer {
    pub text: String,
    /// How right it is, 0 to 1.
    pub score: f64,
    pub output_tokens: u64,
}

/// An answers file that cannot be used.
#[derive(Debug, Error)]
pub enum AnswersError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("line {line} of the answers: {source}")]
    Line { line: usize, source: serde_json::Error },
}

/// The rows of an answers file, found by prompt.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    rows: HashMap<String, Row>,
}

impl Answers {
    /// Reads a JSONL file.
    ///
    /// # Errors
    /// When it cannot be read or a line is not a row.
    pub fn read(path: &Path) -> Result<Self, AnswersError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| AnswersError::Read { path: path.to_owned(), source })?;
        Ok(Self::new(parse_rows(&text)?))
    }

    /// Answers by prompt; the first row of a prompt counts.
    pub fn new(rows: impl IntoIterator<Item = Row>) -> Self {
        let mut known = HashMap::new();
        for row in rows {
            known.entry(row.prompt.clone()).or_insert(row);
        }
        Self { rows: known }
    }

    /// What `model` says to `prompt`, where the file knows.
    pub fn find(&self, prompt: &str, model: &str) -> Option<&KnownAnswer> {
        self.rows.get(prompt)?.answers.get(model)
    }
}

impl Row {
    /// Reads all rows of a JSONL text.
    ///
    /// # Errors
    /// With the first line that is no row.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, AnswersError> {
        parse_rows(text)
    }
}

fn parse_rows(text: &str) -> Result<Vec<Row>, AnswersError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(at, line)| serde_json::from_str(line).map_err(|source| AnswersError::Line { line: at + 1, source }))
        .collect()
}
