//! Opening a store: addresses, pragmas, pools, migrations.

use crate::store::Store;
use serde::Deserialize;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use thiserror::Error;

/// Another process may hold the file for a moment; after this the file counts as away.
const BUSY: Duration = Duration::from_secs(1);
/// The same at the start, when a gateway that ends may still be writing what it has.
const BUSY_AT_START: Duration = Duration::from_secs(10);
/// A server that does not answer within this counts as away.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// Connections to a server: to look up and to change what is asked for, and the writer's own.
const CONNECTIONS_MAX: u32 = 8;
const BOOKING_CONNECTIONS: u32 = 2;
/// SQLite's default page.
const PAGE_BYTES: u64 = 4_096;

static MONEY: Migrator = sqlx::migrate!("migrations/money");

/// The `[database]` table.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    #[serde(default)]
    pub url: DatabaseUrl,
    /// With PostgreSQL, where this gateway keeps what is its own: the cache, the journal of an outage.
    #[serde(default = "folder")]
    pub folder: PathBuf,
    /// What a reservation survives before its answer is released.
    #[serde(default)]
    pub durability: Durability,
    /// What known keys may spend while the database is away; 0 serves nothing that costs money then.
    #[serde(default)]
    pub outage_spend_max_usd: f64,
    /// Records of requests are deleted after so many days, the sums by day and the ledger never; 0 keeps them.
    #[serde(default)]
    pub generation_days: u32,
    /// The most that the money file may grow to; without it, the disk is the limit. SQLite only.
    #[serde(default)]
    pub bytes_max: Option<u64>,
}

/// Where money and access are kept: `sqlite://PATH` or `postgres://USER:PASSWORD@HOST/NAME`. It can hold a password, so it
/// shows itself without.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// Of any text; whether it can be used is seen when it is opened.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The path of a `sqlite://` URL.
    pub fn sqlite_path(&self) -> Option<PathBuf> {
        self.0.strip_prefix("sqlite://").filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    /// True for a `postgres://` URL.
    pub fn is_postgres(&self) -> bool {
        self.0.starts_with("postgres://") || self.0.starts_with("postgresql://")
    }

    /// What is wrong with it, where something is.
    pub fn problem(&self) -> Option<String> {
        if self.is_postgres() {
            let parsed = PgConnectOptions::from_str(&self.0);
            return parsed.err().map(|error| format!("`{self}` cannot be read: {error}"));
        }
        let form = || format!("`{self}` is not of the form sqlite://PATH or postgres://USER:PASSWORD@HOST/NAME");
        self.sqlite_path().is_none().then(form)
    }
}

impl Default for DatabaseUrl {
    fn default() -> Self {
        Self("sqlite://data/sluice.db".to_owned())
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.split_once("://").and_then(|(scheme, rest)| {
            let (_, host) = rest.rsplit_once('@')?;
            Some(format!("{scheme}://…@{host}"))
        });
        let shown = shown.unwrap_or_else(|| self.0.clone());
        formatter.write_str(shown.split('?').next().unwrap_or_default()) // parameters can hold a password too
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")
    }
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

fn folder() -> PathBuf {
    PathBuf::from("data")
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self {
            url: DatabaseUrl::default(),
            folder: folder(),
            durability: Durability::default(),
            outage_spend_max_usd: 0.0,
            generation_days: 0,
            bytes_max: None,
        }
    }
}

impl DatabaseConfig {
    /// Everything by default, in a file at `path`.
    pub fn sqlite(path: &Path) -> Self {
        Self { url: DatabaseUrl::new(format!("sqlite://{}", path.display())), ..Self::default() }
    }

    /// The money file; with PostgreSQL, where it would lie. What belongs to this gateway alone lies beside it.
    pub fn local_path(&self) -> PathBuf {
        self.url.sqlite_path().unwrap_or_else(|| self.folder.join("sluice.db"))
    }
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
    #[error("cannot create {path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("cannot create the folder {path}: {source}")]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("cannot open {place}: {source}")]
    Open { place: String, source: sqlx::Error },
    #[error(
        "{place} was written by a newer version of sluice (its schema has step {version}); nothing was changed. Start that \
         version, or restore a backup"
    )]
    Newer { place: String, version: i64 },
    #[error("cannot bring {place} up to date: {source}; nothing was changed")]
    Migrate { place: String, source: MigrateError },
    #[error("the disk is full")]
    StorageFull,
    #[error("the database is away")]
    Away,
    /// Others took this gateway for dead and settled what it had open.
    #[error("the database does not know this gateway any more")]
    Fenced,
    #[error("the journal cannot be used: {0}")]
    Journal(std::io::Error),
    #[error("the database refused a query: {0}")]
    Query(#[from] sqlx::Error),
}

impl DatabaseError {
    /// The same error for another waiter; the cause is kept as text, but for what callers branch on.
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

    /// True where a row will be refused however often it is tried: it is there already, or breaks a rule of its table.
    pub fn is_refusal(&self) -> bool {
        const POSTGRES_DATA: &str = "22"; // postgresql.org/docs/15/errcodes-appendix.html, class 22: data exceptions
        match self {
            Self::Query(sqlx::Error::Encode(_)) => true,
            Self::Query(sqlx::Error::Database(error)) => {
                !matches!(error.kind(), sqlx::error::ErrorKind::Other)
                    || error.code().is_some_and(|code| code.len() == 5 && code.starts_with(POSTGRES_DATA))
            }
            _ => false,
        }
    }

    /// True where two transactions waited for each other and this one was given up: another try will do.
    pub fn is_deadlock(&self) -> bool {
        const POSTGRES_DEADLOCK: &str = "40P01";
        matches!(self, Self::Query(sqlx::Error::Database(error)) if error.code().is_some_and(|code| code == POSTGRES_DEADLOCK))
    }

    /// True where the disk is full.
    pub fn is_storage_full(&self) -> bool {
        const SQLITE_FULL: &str = "13"; // sqlite.org/rescode.html#full
        const POSTGRES_FULL: &str = "53100"; // postgresql.org/docs/15/errcodes-appendix.html
        match self {
            Self::StorageFull => true,
            Self::Journal(error) => error.kind() == std::io::ErrorKind::StorageFull,
            Self::Query(sqlx::Error::Database(error)) => {
                error.code().is_some_and(|code| code == SQLITE_FULL || code == POSTGRES_FULL)
            }
            _ => false,
        }
    }
}

/// Money and access: tenants, keys, budgets, reservations, generations, the ledger.
#[derive(Debug, Clone)]
pub struct Database {
    pub(crate) store: Store,
    durability: Durability,
    /// What is flushed to survive the loss of power; PostgreSQL does that by itself.
    wal: Option<PathBuf>,
}

impl Database {
    /// Opens a file with everything by default; see [`Database::open_with`].
    ///
    /// # Errors
    /// When the folder or file cannot be made, or its schema is newer than this binary.
    pub async fn open(path: &Path) -> Result<Self, DatabaseError> {
        Self::open_with(&DatabaseConfig::sqlite(path)).await
    }

    /// Opens the store, creating a file and its folder where missing, and applies the migrations.
    ///
    /// # Errors
    /// When the file cannot be made, the server does not answer, or the schema is newer than this binary.
    pub async fn open_with(config: &DatabaseConfig) -> Result<Self, DatabaseError> {
        let Some(path) = config.url.sqlite_path() else {
            let store = open_postgres(&config.url, config.durability, &MONEY).await?;
            return Ok(Self { store, durability: config.durability, wal: None });
        };
        let (write, read) = open_pools(&path, &MONEY, config.bytes_max).await?;
        let mut wal = path.into_os_string();
        wal.push("-wal"); // sqlite.org/wal.html
        Ok(Self { store: Store::Sqlite { write, read }, durability: config.durability, wal: Some(wal.into()) })
    }

    /// What a stored reservation is meant to survive.
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// True where other gateways may use the same store.
    pub fn is_shared(&self) -> bool {
        matches!(self.store, Store::Postgres { .. })
    }

    /// Closes every connection once what uses it is done; other clones cannot use the store any more.
    pub async fn close(&self) {
        match &self.store {
            Store::Sqlite { write, read } => {
                read.close().await;
                write.close().await;
            }
            Store::Postgres { books, write, read } => {
                for pool in [read, write, books] {
                    pool.close().await;
                }
            }
        }
    }

    /// Flushes everything committed so far to the disk, where commits do not do that themselves; blocks.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn sync(&self) -> std::io::Result<()> {
        self.wal.as_ref().map_or(Ok(()), |wal| std::fs::File::open(wal)?.sync_data())
    }
}

/// Connects to a server; `migrations` bring its schema up to date.
pub(crate) async fn open_postgres(
    url: &DatabaseUrl,
    durability: Durability,
    migrations: &'static Migrator,
) -> Result<Store, DatabaseError> {
    let open = |source| DatabaseError::Open { place: url.to_string(), source };
    let options = PgConnectOptions::from_str(&url.0).map_err(open)?.application_name("sluice");
    // Where only the death of a process is to be survived, a commit need not wait for the server's disk.
    let synchronous = if durability == Durability::Power { "on" } else { "off" };
    let options = options.options([("synchronous_commit", synchronous), ("lock_timeout", "10s")]);
    let pool = |connections| PgPoolOptions::new().max_connections(connections).acquire_timeout(CONNECT_MAX);
    let books = pool(BOOKING_CONNECTIONS).connect_with(options.clone()).await.map_err(open)?;
    migrations.run(&books).await.map_err(|source| migration_failed(url.to_string(), source))?;
    let (write, read) = (pool(CONNECTIONS_MAX), pool(CONNECTIONS_MAX));
    Ok(Store::Postgres {
        books,
        write: write.connect_lazy_with(options.clone()),
        read: read.connect_lazy_with(options),
    })
}

fn migration_failed(place: String, source: MigrateError) -> DatabaseError {
    match source {
        MigrateError::VersionMissing(version) => DatabaseError::Newer { place, version },
        source => DatabaseError::Migrate { place, source },
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
    make_private(path).map_err(|source| DatabaseError::File { path: path.to_owned(), source })?;
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
    let place = || path.display().to_string();
    let open = |source| DatabaseError::Open { place: place(), source };
    let mut first = options.clone().busy_timeout(BUSY_AT_START).connect().await.map_err(open)?;
    sqlx::raw_sql("BEGIN IMMEDIATE; ROLLBACK").execute(&mut first).await.map_err(open)?;
    let write = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await.map_err(open)?;
    migrations.run(&write).await.map_err(|source| migration_failed(place(), source))?;
    let read = SqlitePoolOptions::new().max_connections(4).connect_with(options).await.map_err(open)?;
    first.close().await.map_err(open)?;
    Ok((write, read))
}

/// Makes a missing file that only its owner reads; what SQLite puts beside it is as private.
fn make_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.create_new(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}
