//! What is written down while the database is away: one JSON line a record, beside the money file.

use database::{Database, DatabaseError, Generation, Reservation, Settled};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    Reserve(Reservation),
    Settle(Box<Generation>),
}

/// The journal's file; empty as long as the database answers.
#[derive(Debug)]
pub struct Journal {
    file: File,
    /// Each line must survive the loss of power, not only the death of the process.
    synced: bool,
}

impl Journal {
    /// Opens the file, making it where missing.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path, synced: bool) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        Ok(Self { file, synced })
    }

    /// Brings what it holds of an earlier run into the database, and empties it.
    ///
    /// # Errors
    /// When it cannot be read, or the database refuses what it holds.
    pub async fn book(&mut self, database: &Database) -> Result<(), DatabaseError> {
        let lines = self.read().map_err(DatabaseError::Journal)?;
        if lines.is_empty() {
            return Ok(());
        }
        let (mut reservations, mut settled) = (Vec::new(), Vec::new());
        for line in lines {
            match line {
                Line::Reserve(reservation) => reservations.push(reservation),
                Line::Settle(generation) => settled.push(Settled { generation: *generation, drawn: Vec::new() }),
            }
        }
        database.replay(&reservations, &settled).await?;
        tracing::warn!(settled = settled.len(), "the journal of an earlier outage was booked");
        self.clear().map_err(DatabaseError::Journal)
    }

    /// Writes a line; it survives the death of the process once this returns.
    pub(crate) fn append(&mut self, line: &Line) -> io::Result<()> {
        let before = self.file.metadata()?.len();
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let written =
            self.file.write_all(&text).and_then(|()| if self.synced { self.file.sync_data() } else { Ok(()) });
        if written.is_err() {
            self.file.set_len(before)?; // half a line would hide the next one
        }
        written
    }

    /// Reads all lines; the last one may be torn by a crash and is taken out then, so that no other is glued to it.
    pub(crate) fn read(&mut self) -> io::Result<Vec<Line>> {
        let mut bytes = Vec::new();
        self.file.rewind()?;
        self.file.read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        if whole < bytes.len() {
            self.file.set_len(whole as u64)?;
        }
        let lines = bytes[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).map_err(io::Error::from)).collect()
    }

    /// Empties the journal once the database has everything.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_last_line_does_not_hide_the_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("journal");
        let line = Line::Settle(Box::new(Generation { id: "gen-1".into(), ..Generation::default() }));
        let mut journal = Journal::open(&path, true).expect("a journal");
        journal.append(&line).expect("written");
        OpenOptions::new()
            .append(true)
            .open(&path)
            .expect("open")
            .write_all(b"{\"settle\":{\"id\":\"\xe6\x9d")
            .expect("torn");
        let mut journal = Journal::open(&path, false).expect("again");
        assert_eq!(journal.read().expect("readable"), std::slice::from_ref(&line));
        journal.append(&line).expect("written");
        assert_eq!(journal.read().expect("readable"), [line.clone(), line]);
        journal.clear().expect("cleared");
        assert_eq!(journal.read().expect("readable"), []);
    }
}
