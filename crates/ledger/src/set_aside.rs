//! Money that was set aside and is not in the database yet: written to a file in microseconds, so that no request waits for
//! the database. Two files take turns, and one is emptied when the database has all of it.

use crate::journal::flush;
use crate::lines::{Line, Lines};
use database::{Database, Reservation};
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A file that has grown to this is left for the other one, as soon as that is empty.
const BYTES_MAX: usize = 256 * 1024;

#[derive(Debug)]
pub(crate) struct SetAside {
    state: Mutex<State>,
    /// What is emptied must be on the database's disk, not only in its file.
    synced: bool,
}

#[derive(Debug)]
struct State {
    turns: [Turn; 2],
    current: usize,
    /// Rises with every line, so that who looks twice knows whether one came between.
    written: u64,
}

/// One of the files.
#[derive(Debug)]
struct Turn {
    lines: Lines,
    bytes: usize,
    /// Lines that the database does not have.
    open: usize,
}

/// A line that was written; to be given back once the database has it.
#[derive(Debug)]
pub(crate) struct Written(usize);

impl SetAside {
    pub(crate) fn open(paths: &[PathBuf; 2], synced: bool) -> io::Result<Self> {
        // Flushed by who waits for that, many at once.
        let turn = |path| Ok::<_, io::Error>(Turn { lines: Lines::open(path, false)?, bytes: 0, open: 0 });
        let turns = [turn(&paths[0])?, turn(&paths[1])?];
        Ok(Self { state: Mutex::new(State { turns, current: 0, written: 0 }), synced })
    }

    /// What an earlier run left.
    pub(crate) fn read(&self) -> io::Result<Vec<Line>> {
        let mut state = self.state();
        let [first, second] = &mut state.turns;
        Ok([first.lines.read()?, second.lines.read()?].concat())
    }

    /// Empties both files.
    pub(crate) fn clear(&self) -> io::Result<()> {
        self.state().turns.iter_mut().try_for_each(|turn| turn.lines.clear())
    }

    /// Writes a reservation down; it survives the death of the process once this returns.
    pub(crate) fn write(&self, reservation: &Reservation) -> io::Result<Written> {
        let line = Line::Reserve(Box::new(reservation.clone()));
        let mut state = self.state();
        let other = 1 - state.current;
        if state.turns[state.current].bytes > BYTES_MAX && state.turns[other].bytes == 0 {
            state.current = other;
        }
        let current = state.current;
        let turn = &mut state.turns[current];
        turn.bytes += turn.lines.append(&line)?;
        turn.open += 1;
        state.written += 1;
        Ok(Written(current))
    }

    /// The database has a line.
    pub(crate) fn stored(&self, line: &Written) {
        let mut state = self.state();
        let turn = &mut state.turns[line.0];
        turn.open = turn.open.saturating_sub(1);
    }

    /// Empties what the database has all of.
    pub(crate) async fn tidy(&self, database: &Database) -> io::Result<()> {
        let written = {
            let state = self.state();
            if state.turns.iter().all(|turn| turn.bytes == 0 || turn.open > 0) {
                return Ok(());
            }
            state.written
        };
        flush(database).await?;
        let mut state = self.state();
        let (current, is_same) = (state.current, state.written == written);
        for (at, turn) in state.turns.iter_mut().enumerate() {
            // What was written to the current file and stored meanwhile may not be on the disk.
            if turn.bytes > 0 && turn.open == 0 && (is_same || at != current || !self.synced) {
                turn.lines.clear()?;
                turn.bytes = 0;
            }
        }
        Ok(())
    }

    /// Flushes what was written so far to the disk; blocks.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let handles = {
            let state = self.state();
            [state.turns[0].lines.handle()?, state.turns[1].lines.handle()?]
        };
        handles.iter().try_for_each(std::fs::File::sync_data)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reservation(at: usize) -> Reservation {
        Reservation { generation_id: format!("gen-{at}"), model: "m".repeat(1_000), ..Reservation::default() }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_is_emptied_when_all_of_it_is_stored_and_never_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = Database::open(&folder.path().join("sluice.db")).await.expect("a database");
        let paths = ["0", "1"].map(|name| folder.path().join(name));
        let set_aside = SetAside::open(&paths, true).expect("files");
        let left = |paths: &[PathBuf; 2]| {
            let mut ids: Vec<String> = SetAside::open(paths, true)
                .and_then(|again| again.read())
                .expect("readable")
                .into_iter()
                .map(|line| match line {
                    Line::Reserve(reservation) => reservation.generation_id,
                    Line::Settle(generation) => generation.id,
                })
                .collect();
            ids.sort();
            ids
        };
        let first = set_aside.write(&reservation(0)).expect("written");
        let second = set_aside.write(&reservation(1)).expect("written");
        set_aside.stored(&first);
        set_aside.tidy(&database).await.expect("tidied");
        assert_eq!(left(&paths), ["gen-0", "gen-1"], "one of them is not stored");
        set_aside.stored(&second);
        set_aside.tidy(&database).await.expect("tidied");
        assert!(left(&paths).is_empty());
        // One line that stays open holds its file back, and the other one takes over.
        let open = set_aside.write(&reservation(2)).expect("written");
        for at in 3..1_000 {
            let line = set_aside.write(&reservation(at)).expect("written");
            set_aside.stored(&line);
            set_aside.tidy(&database).await.expect("tidied");
        }
        let ids = left(&paths);
        assert!(ids.contains(&"gen-2".to_owned()) && ids.len() < 600, "{} of them are left", ids.len());
        set_aside.stored(&open);
        set_aside.tidy(&database).await.expect("tidied");
        assert!(left(&paths).is_empty());
    }
}
