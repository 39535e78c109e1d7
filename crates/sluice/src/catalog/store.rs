//! The catalogue's files, beside the database: `catalog.json` once something was merged, and `catalog-events.jsonl`.

use crate::failure::Failure;
use catalog::{Event, Listing};
use database::DatabaseConfig;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file of events is halved when it is larger.
const EVENT_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Where the newest list lies.
pub(crate) struct Store {
    list: PathBuf,
    events: PathBuf,
}

impl Store {
    pub(crate) fn beside(database: &DatabaseConfig) -> Self {
        let money = database.local_path();
        Self { list: money.with_file_name("catalog.json"), events: money.with_file_name("catalog-events.jsonl") }
    }

    /// Holds the files against other commands, from reading the list to having written it.
    pub(crate) fn lock(&self) -> Result<fs::File, Failure> {
        fs::create_dir_all(self.folder())?;
        let lock = fs::File::create(self.list.with_extension("lock"))?;
        lock.lock()?;
        Ok(lock)
    }

    /// The newest list for a gateway, which starts also where the file is broken, and says so.
    pub(crate) fn listing_or_shipped(&self) -> Result<Arc<Listing>, Failure> {
        self.listing().or_else(|failure| {
            eprintln!("warning: {failure}; going on with the shipped catalogue");
            Ok(Listing::shipped()?)
        })
    }

    fn folder(&self) -> &Path {
        self.list.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// The newest list; the shipped one where it is newer, or nothing was merged yet.
    pub(crate) fn listing(&self) -> Result<Arc<Listing>, Failure> {
        let shipped = Listing::shipped()?;
        let text = match fs::read(&self.list) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(shipped),
            Err(error) => return Err(error.into()),
        };
        let merged: Listing = serde_json::from_slice(&text).map_err(|error| {
            let path = self.list.display();
            Failure::Request(format!("{path}: {error}; delete it to go back to the shipped catalogue"))
        })?;
        if merged.as_of < shipped.as_of { Ok(shipped) } else { Ok(Arc::new(merged.completed(&shipped))) }
    }

    /// Puts a list in the place of the old one, all of it or nothing, and its changes behind those of the past.
    pub(crate) fn keep(&self, listing: &Listing, events: &[Event]) -> Result<(), Failure> {
        let mut new = tempfile::NamedTempFile::new_in(self.folder())?;
        new.write_all(&serde_json::to_vec(listing).map_err(std::io::Error::from)?)?;
        new.as_file().sync_all()?;
        new.persist(&self.list).map_err(|error| error.error)?;
        self.forget_old_events()?;
        let mut log = fs::OpenOptions::new().create(true).append(true).open(&self.events)?;
        for event in events {
            writeln!(log, "{}", serde_json::to_string(event).map_err(std::io::Error::from)?)?;
        }
        Ok(())
    }

    /// Keeps the newer half of the events once there are many.
    fn forget_old_events(&self) -> Result<(), Failure> {
        if fs::metadata(&self.events).map_or(0, |metadata| metadata.len()) < EVENT_BYTES_MAX {
            return Ok(());
        }
        let text = fs::read_to_string(&self.events)?;
        let middle = text.len() / 2;
        let from =
            text.as_bytes()[middle..].iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| middle + at + 1);
        Ok(fs::write(&self.events, &text.as_bytes()[from..])?)
    }

    /// The changes of the past, oldest first; a line cut short by a full disk is passed over.
    pub(crate) fn events(&self) -> Result<Vec<Event>, Failure> {
        match fs::read_to_string(&self.events) {
            Ok(text) => Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// The file of the list, whether or not it is there.
    pub(crate) fn list(&self) -> &Path {
        &self.list
    }
}
