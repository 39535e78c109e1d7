//! The catalogue's files, beside the database: `catalog.json` once something was merged, and `catalog-events.jsonl`.

use crate::failure::Failure;
use catalog::{Event, Listing};
use database::{DatabaseConfig, sqlite_path};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// Where the newest list lies.
pub(crate) struct Store {
    list: PathBuf,
    events: PathBuf,
}

impl Store {
    pub(crate) fn beside(database: &DatabaseConfig) -> Self {
        let money = sqlite_path(&database.url).unwrap_or_else(|| PathBuf::from("data/sluice.db"));
        Self { list: money.with_file_name("catalog.json"), events: money.with_file_name("catalog-events.jsonl") }
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
        let folder = self.list.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut log = fs::OpenOptions::new().create(true).append(true).open(&self.events)?;
        for event in events {
            writeln!(log, "{}", serde_json::to_string(event).map_err(std::io::Error::from)?)?;
        }
        let new = self.list.with_extension("json.new");
        fs::write(&new, serde_json::to_vec(listing).map_err(std::io::Error::from)?)?;
        Ok(fs::rename(&new, &self.list)?)
    }

    /// The changes of the past, oldest first; a line cut short by a full disk is passed over.
    pub(crate) fn events(&self) -> Result<Vec<Event>, Failure> {
        match fs::read_to_string(&self.events) {
            Ok(text) => Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// When the list was last changed.
    pub(crate) fn changed(&self) -> Option<SystemTime> {
        fs::metadata(&self.list).and_then(|metadata| metadata.modified()).ok()
    }
}
