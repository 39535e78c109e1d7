//! Opening a database file: pragmas, pools, migrations.

use serde::Deserialize;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// Another process may hold the file for a moment; after this the file counts as away.
const BUSY: Duration = Duration::from_secs(1);
/// SQLite's default page.
const PAGE_BYTES: u64 = 4_096;

static MONEY: Migrator = sqlx::migrate!("migrations/money");

/// The `[database]` table.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    /// `sqlite://PATH`; the cache's file lies beside it.
    #[serde(default = "url")]
    pub url: String,
    /// What a reservation survives before its answer is released.
    #[serde(default)]
    pub durability: Durability,
    /// What known keys may spend while the database is away; 0 serves nothing that costs money then.
    #[serde(default)]
    pub outage_spend_max_usd: f64,
    /// The most that the money file may grow to; without it, the disk is the limit.
    #[serde(default)]
    pub bytes_max: Option<u64>,
}

/// What a stored reservation survives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// The death of the process.
    #[default]
    Process,
    /// The loss of power.
    Power,
}

fn url() -> String {
    "sqlite://data/sluice.db".to_owned()
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self { url: url(), durability: Durability::default(), outage_spend_max_usd: 0.0, bytes_max: None }
    }
}

/// The path of a `sqlite://` URL; `None` for any other.
pub fn sqlite_path(url: &str) -> Option<PathBuf> {
    url.strip_prefix("sqlite://").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Where the cache's own file lies for a money file at `path`: `data/sluice.db` → `data/sluice-cache.db`.
pub fn cache_path(path: &Path) -> PathBuf {
    beside(path, "cache.db")
}

/// Where prompts and answers lie that tenants agreed to have kept.
pub fn content_path(path: &Path) -> PathBuf {
    beside(path, "content.db")
}

/// Where the journal lies that takes over while the money file at `path` cannot be written.
pub fn journal_path(path: &Path) -> PathBuf {
    beside(path, "journal.jsonl")
}

fn beside(path: &Path, name: &str) -> PathBuf {
    let stem = path.file_stem().map_or_else(|| "sluice".to_owned(), |stem| stem.to_string_lossy().into_owned());
    path.with_file_name(format!("{stem}-{name}"))
}

/// Says what the database could not do.
#[derive(Debug, Error)]
pub enum DatabaseError {
    #[error("cannot create the folder {path}: {source}")]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("cannot open {path}: {source}")]
    Open { path: PathBuf, source: sqlx::Error },
    #[error("cannot bring {path} up to date: {source}; was it written by a newer version?")]
    Migrate { path: PathBuf, source: sqlx::migrate::MigrateError },
    #[error("the disk is full")]
    StorageFull,
    #[error("the database is away")]
    Away,
    #[error("the journal cannot be used: {0}")]
    Journal(std::io::Error),
    #[error("the database refused a query: {0}")]
    Query(#[from] sqlx::Error),
}

impl DatabaseError {
    /// The same error for another waiter; the cause is kept as text, but for a full disk, which callers branch on.
    pub fn repeat(&self) -> Self {
        if self.is_storage_full() {
            return Self::StorageFull;
        }
        Self::Query(sqlx::Error::Protocol(self.to_string()))
    }

    /// True where a row with the same id is there already.
    pub fn is_duplicate(&self) -> bool {
        matches!(self, Self::Query(sqlx::Error::Database(error)) if error.is_unique_violation())
    }

    /// True where the disk is full.
    pub fn is_storage_full(&self) -> bool {
        const SQLITE_FULL: &str = "13"; // sqlite.org/rescode.html#full
        match self {
            Self::StorageFull => true,
            Self::Journal(error) => error.kind() == std::io::ErrorKind::StorageFull,
            Self::Query(sqlx::Error::Database(error)) => error.code().as_deref() == Some(SQLITE_FULL),
            _ => false,
        }
    }
}

/// The money file: tenants, keys, reservations and generations.
#[derive(Debug, Clone)]
pub struct Database {
    /// One connection, so that SQLite never answers "busy" to ourselves.
    pub(crate) write: SqlitePool,
    pub(crate) read: SqlitePool,
    durability: Durability,
    wal: PathBuf,
}

impl Database {
    /// Opens the file, creating it and its folder where missing, and applies the migrations.
    ///
    /// # Errors
    /// When the folder or file cannot be made, or its schema is newer than this binary.
    pub async fn open(path: &Path) -> Result<Self, DatabaseError> {
        Self::open_with(path, &DatabaseConfig::default()).await
    }

    /// The same, with the durability and size that a configuration asks for.
    ///
    /// # Errors
    /// When the folder or file cannot be made, or its schema is newer than this binary.
    pub async fn open_with(path: &Path, config: &DatabaseConfig) -> Result<Self, DatabaseError> {
        let (write, read) = open_pools(path, &MONEY, config.bytes_max).await?;
        let mut wal = path.as_os_str().to_owned();
        wal.push("-wal"); // sqlite.org/wal.html
        Ok(Self { write, read, durability: config.durability, wal: wal.into() })
    }

    /// What a stored reservation is meant to survive.
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// Flushes everything committed so far to the disk; blocks.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn sync(&self) -> std::io::Result<()> {
        std::fs::File::open(&self.wal)?.sync_data()
    }
}

pub(crate) async fn open_pools(
    path: &Path,
    migrations: &Migrator,
    bytes_max: Option<u64>,
) -> Result<(SqlitePool, SqlitePool), DatabaseError> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|source| DatabaseError::Folder { path: folder.to_owned(), source })?;
    }
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal) // survives the death of the process, 8 µs a commit
        .foreign_keys(true)
        .busy_timeout(BUSY);
    let options = match bytes_max {
        Some(bytes) => options.pragma("max_page_count", (bytes / PAGE_BYTES).max(1).to_string()),
        None => options,
    };
    let open = |source| DatabaseError::Open { path: path.to_owned(), source };
    let write = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await.map_err(open)?;
    migrations.run(&write).await.map_err(|source| DatabaseError::Migrate { path: path.to_owned(), source })?;
    let read = SqlitePoolOptions::new().max_connections(4).connect_with(options).await.map_err(open)?;
    Ok((write, read))
}
