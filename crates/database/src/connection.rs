//! Opening a database file: pragmas, pools, migrations.

use serde::Deserialize;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

static MONEY: Migrator = sqlx::migrate!("migrations/money");

/// The `[database]` table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    /// `sqlite://PATH`; the cache's file lies beside it.
    #[serde(default = "url")]
    pub url: String,
}

fn url() -> String {
    "sqlite://data/sluice.db".to_owned()
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self { url: url() }
    }
}

/// The path of a `sqlite://` URL; `None` for any other.
pub fn sqlite_path(url: &str) -> Option<PathBuf> {
    url.strip_prefix("sqlite://").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Where the cache's own file lies for a money file at `path`: `data/sluice.db` → `data/sluice-cache.db`.
pub fn cache_path(path: &Path) -> PathBuf {
    let stem = path.file_stem().map_or_else(|| "sluice".to_owned(), |stem| stem.to_string_lossy().into_owned());
    path.with_file_name(format!("{stem}-cache.db"))
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
}

impl Database {
    /// Opens the file, creating it and its folder where missing, and applies the migrations.
    ///
    /// # Errors
    /// When the folder or file cannot be made, or its schema is newer than this binary.
    pub async fn open(path: &Path) -> Result<Self, DatabaseError> {
        let (write, read) = open_pools(path, &MONEY).await?;
        Ok(Self { write, read })
    }
}

pub(crate) async fn open_pools(path: &Path, migrations: &Migrator) -> Result<(SqlitePool, SqlitePool), DatabaseError> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|source| DatabaseError::Folder { path: folder.to_owned(), source })?;
    }
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal) // survives the death of the process, 8 µs a commit
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(5));
    let open = |source| DatabaseError::Open { path: path.to_owned(), source };
    let write = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await.map_err(open)?;
    migrations.run(&write).await.map_err(|source| DatabaseError::Migrate { path: path.to_owned(), source })?;
    let read = SqlitePoolOptions::new().max_connections(4).connect_with(options).await.map_err(open)?;
    Ok((write, read))
}
