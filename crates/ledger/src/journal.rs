//! What is written down beside the money file before the database has it: money that was set aside, at once, and while the
//! database is away everything.

use crate::lines::{Line, Lines};
use crate::set_aside::SetAside;
use database::{Database, DatabaseError, Durability, Settled};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The files of one gateway; empty when the database has everything.
#[derive(Debug)]
pub struct Journal {
    /// Of an outage.
    pub(crate) outage: Lines,
    pub(crate) set_aside: Arc<SetAside>,
}

impl Journal {
    /// Opens the file of outages at `path` and two beside it (`.0.jsonl`, `.1.jsonl`), making them where missing. `synced`
    /// where they must survive the loss of power, not only the death of the process.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn open(path: &Path, synced: bool) -> io::Result<Self> {
        let beside = ["0.jsonl", "1.jsonl"].map(|extension| path.with_extension(extension));
        Ok(Self { outage: Lines::open(path, synced)?, set_aside: Arc::new(SetAside::open(&beside, synced)?) })
    }

    /// Brings what an earlier run left into the database, and empties it.
    ///
    /// # Errors
    /// When it cannot be read, or the database refuses what it holds.
    pub async fn book(&mut self, database: &Database) -> Result<(), DatabaseError> {
        let set_aside = self.set_aside.read().map_err(DatabaseError::Journal)?;
        let of_outage = self.outage.read().map_err(DatabaseError::Journal)?;
        let (mut reservations, mut settled) = (Vec::new(), Vec::new());
        for line in set_aside.into_iter().chain(of_outage) {
            match line {
                Line::Reserve(reservation) => reservations.push(*reservation),
                Line::Settle(generation) => settled.push(Settled { generation: *generation, drawn: Vec::new() }),
            }
        }
        if reservations.is_empty() && settled.is_empty() {
            return Ok(());
        }
        database.replay(&reservations, &settled).await?;
        if !settled.is_empty() {
            tracing::warn!(settled = settled.len(), "the journal of an earlier outage was booked");
        }
        flush(database).await.map_err(DatabaseError::Journal)?;
        self.set_aside.clear().and_then(|()| self.outage.clear()).map_err(DatabaseError::Journal)
    }
}

/// Flushes what was committed to the disk, where that is to survive the loss of power: before a file is emptied that has it too.
pub(crate) async fn flush(database: &Database) -> io::Result<()> {
    if database.durability() != Durability::Power {
        return Ok(());
    }
    let database = database.clone();
    tokio::task::spawn_blocking(move || database.sync()).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use database::Reservation;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_only_a_file_had_when_the_process_died_is_booked_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, money) = (folder.path().join("journal.jsonl"), folder.path().join("sluice.db"));
        let journal = Journal::open(&path, false).expect("files");
        let reservation = Reservation { generation_id: "gen-1".into(), nano: 7, ..Reservation::default() };
        let _never_stored = journal.set_aside.write(&reservation).expect("written");
        drop(journal);
        let database = Database::open(&money).await.expect("a database");
        for _ in 0..2 {
            Journal::open(&path, false).expect("files").book(&database).await.expect("booked");
            assert_eq!(database.open_reservations().await.expect("a count"), 1);
        }
        assert_eq!(database.end_all_replicas().await.expect("settled"), 1);
        Journal::open(&path, false).expect("files").book(&database).await.expect("booked");
        assert_eq!(database.open_reservations().await.expect("a count"), 0);
    }
}
