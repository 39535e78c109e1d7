//! Mistakes in a configuration file, shown with their line and a caret.

use std::fmt::{self, Display, Formatter};
use std::ops::Range;
use thiserror::Error;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where it stands, as a byte range of the file; empty where the file has no such place.
    pub span: Range<usize>,
    /// The path of the option; empty for a syntax error.
    pub field: String,
    pub problem: String,
}

impl Mistake {
    /// Makes a mistake about `field`.
    pub fn new(span: Range<usize>, field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { span, field: field.into(), problem: problem.into() }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("cannot read {name}: {problem}")]
    Unreadable { name: String, problem: String },
    #[error("{0}")]
    Mistakes(Report),
}

impl ConfigError {
    pub(crate) fn mistakes(name: &str, text: &str, mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort_by_key(|mistake| mistake.span.start);
        Self::Mistakes(Report { name: name.to_owned(), text: text.to_owned(), mistakes })
    }
}

/// All mistakes of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    name: String,
    text: String,
    pub mistakes: Vec<Mistake>,
}

impl Display for Report {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        for mistake in &self.mistakes {
            self.write(formatter, mistake)?;
        }
        let count = self.mistakes.len();
        write!(formatter, "{count} mistake{} in {}", if count == 1 { "" } else { "s" }, self.name)
    }
}

impl Report {
    fn write(&self, formatter: &mut Formatter<'_>, mistake: &Mistake) -> fmt::Result {
        let colon = if mistake.field.is_empty() { "" } else { ": " };
        let sentence = format!("{}{colon}{}", mistake.field, mistake.problem.trim_end());
        if mistake.span.is_empty() || mistake.span.end > self.text.len() {
            return writeln!(formatter, "{}: {sentence}\n", self.name);
        }
        let before = &self.text[..mistake.span.start];
        let line_number = before.matches('\n').count() + 1;
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = self.text[line_start..].lines().next().unwrap_or("");
        let column = self.text[line_start..mistake.span.start].chars().count();
        let marked = self.text[mistake.span.clone()].lines().next().unwrap_or("").chars().count().max(1);
        let margin = line_number.to_string().len();
        writeln!(formatter, "{}:{line_number}:{}: {sentence}", self.name, column + 1)?;
        writeln!(formatter, "{line_number} | {line}")?;
        writeln!(formatter, "{:margin$} | {:column$}{}\n", "", "", "^".repeat(marked))
    }
}
