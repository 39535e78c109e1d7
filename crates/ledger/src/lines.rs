//! A file of records, one JSON line each, that survives the death of the process.

use database::{Generation, Reservation};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    Reserve(Box<Reservation>),
    Settle(Box<Generation>),
}

/// The file.
#[derive(Debug)]
pub(crate) struct Lines {
    file: File,
    /// Each line must survive the loss of power, not only the death of the process.
    synced: bool,
}

impl Lines {
    /// Opens the file, making it where missing.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) fn open(path: &Path, synced: bool) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        Ok(Self { file, synced })
    }

    /// Writes a line; it survives the death of the process once this returns. Returns how many bytes it took.
    pub(crate) fn append(&mut self, line: &Line) -> io::Result<usize> {
        let before = self.file.metadata()?.len();
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let written =
            self.file.write_all(&text).and_then(|()| if self.synced { self.file.sync_data() } else { Ok(()) });
        if written.is_err() {
            self.file.set_len(before)?; // half a line would hide the next one
        }
        written.map(|()| text.len())
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

    /// The file itself, for who flushes it.
    pub(crate) fn handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Empties it once the database has everything.
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
        let path = folder.path().join("lines");
        let line = Line::Settle(Box::new(Generation { id: "gen-1".into(), ..Generation::default() }));
        let mut lines = Lines::open(&path, true).expect("a file");
        lines.append(&line).expect("written");
        OpenOptions::new()
            .append(true)
            .open(&path)
            .expect("open")
            .write_all(b"{\"settle\":{\"id\":\"\xe6\x9d")
            .expect("torn");
        let mut lines = Lines::open(&path, false).expect("again");
        assert_eq!(lines.read().expect("readable"), std::slice::from_ref(&line));
        lines.append(&line).expect("written");
        assert_eq!(lines.read().expect("readable"), [line.clone(), line]);
        lines.clear().expect("cleared");
        assert_eq!(lines.read().expect("readable"), []);
    }
}
