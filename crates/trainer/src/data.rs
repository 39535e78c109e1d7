//! Files of rows: one JSON object a line, gzipped or plain.

use flate2::read::GzDecoder;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Data that cannot be used.
#[derive(Debug, Error)]
pub enum DataError {
    #[error("{folder}: found none of {wanted}; --data takes the folder that holds {kind}/*.jsonl.gz")]
    None { folder: PathBuf, kind: &'static str, wanted: String },
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}, line {line}: {source}")]
    Line { path: PathBuf, line: usize, source: serde_json::Error },
}

/// The file `KIND/NAME.jsonl.gz` (or `.jsonl`) under `folder`, where it is there.
pub(crate) fn find(folder: &Path, kind: &str, name: &str) -> Option<PathBuf> {
    let files = [format!("{name}.jsonl.gz"), format!("{name}.jsonl")];
    files.into_iter().map(|file| folder.join(kind).join(file)).find(|path| path.is_file())
}

/// Reads every row of a file.
///
/// # Errors
/// When it cannot be read, or names the first line that is no such row.
pub(crate) fn read_rows<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, DataError> {
    let read = |source| DataError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(read)?;
    let zipped = path.extension().is_some_and(|extension| extension == "gz");
    let reader: Box<dyn Read> = if zipped { Box::new(GzDecoder::new(file)) } else { Box::new(file) };
    let mut rows = Vec::new();
    for (at, line) in BufReader::new(reader).lines().enumerate() {
        let line = line.map_err(read)?;
        let row = serde_json::from_str(&line);
        rows.push(row.map_err(|source| DataError::Line { path: path.to_owned(), line: at + 1, source })?);
    }
    Ok(rows)
}
