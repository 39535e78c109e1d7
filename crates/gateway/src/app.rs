//! What a running gateway is made of: a configuration snapshot and the state beside it.

use crate::config::Config;
use crate::contents::Contents;
use crate::flight::Flights;
use crate::limits::Streams;
use crate::meaning::Audits;
use crate::pressure::Pressure;
use crate::session::Sessions;
use crate::spending::Spending;
use crate::trials::Trials;
use axum::extract::FromRef;
use cache::{Cache, CacheModel, CacheModelError};
use catalog::NanoUsd;
use database::{CacheFile, Database, DatabaseError, Durability, cache_path, journal_path};
use embedding::{Embedder, EmbeddingError};
use ledger::{Journal, Ledger, Replica, StartKeys, Writer, now_ms};
use providers::Upstreams;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

/// One request's view of the gateway: a configuration that does not change under it, and the state that all share.
#[derive(Debug, Clone)]
pub struct App {
    pub(crate) config: Arc<Config>,
    pub(crate) ledger: Ledger,
    pub(crate) upstreams: Upstreams,
    pub(crate) cache: Cache,
    /// What tenants agreed to have kept; `None` where its file cannot be used.
    pub(crate) contents: Option<Contents>,
    pub(crate) embedder: Option<Embedder>,
    pub(crate) flights: Flights,
    pub(crate) sessions: Sessions,
    pub(crate) streams: Streams,
    pub(crate) audits: Audits,
    pub(crate) spending: Spending,
    pub(crate) trials: Trials,
    pub(crate) pressure: Arc<Pressure>,
    pub(crate) stopping: Arc<AtomicBool>,
    /// Cancelled at the end of the grace time: streams still open say that they end.
    pub(crate) closing: CancellationToken,
    /// Why a part is off, by the part's name; shown at start and in `/ready`.
    pub(crate) degraded: Arc<Vec<(&'static str, String)>>,
}

/// The running gateway: hands each request the configuration of the moment.
#[derive(Debug, Clone)]
pub(crate) struct Live(Arc<RwLock<Arc<App>>>);

impl Live {
    pub(crate) fn new(app: App) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(app))))
    }

    /// Swaps the configuration. What is bound to sockets, files and memory stays; its tables are returned.
    pub(crate) fn swap(&self, mut new: Config) -> Vec<&'static str> {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let left = new.keep_fixed(&current.config);
        *current = Arc::new(App { config: Arc::new(new), ..App::clone(&current) });
        left
    }

    /// As it is configured now.
    pub(crate) fn current(&self) -> Arc<App> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl FromRef<Live> for App {
    fn from_ref(live: &Live) -> Self {
        Self::clone(&live.current())
    }
}

/// A gateway that is ready to listen.
pub struct Started {
    pub app: App,
    /// Keys to show, at the very first start.
    pub keys: Option<StartKeys>,
    /// What an operator should know.
    pub notices: Vec<String>,
    /// Ends once everything is stored, after the last clone of `app` is gone.
    pub(crate) writer: tokio::task::JoinHandle<()>,
    /// What it writes to.
    pub(crate) database: Database,
    /// The same for the cache's file, where there is one.
    pub(crate) cache_writer: Option<tokio::task::JoinHandle<()>>,
    pub(crate) content_writer: Option<tokio::task::JoinHandle<()>>,
    _lock: File,
}

/// Why a gateway cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: String, source: std::io::Error },
    #[error("{0}")]
    Database(#[from] DatabaseError),
    #[error("{path} is in use by another gateway; stop it, or give this one its own [database] url or folder")]
    InUse { path: PathBuf },
    #[error("cannot lock {path}: {source}")]
    Lock { path: PathBuf, source: std::io::Error },
    #[error("cannot open {path}: {source}")]
    Journal { path: PathBuf, source: std::io::Error },
    #[error("{0}")]
    CacheModel(#[from] CacheModelError),
}

impl App {
    /// Opens the databases, the cache, the embedder and the outbound client.
    ///
    /// # Errors
    /// When a part that no answer can do without is missing. The semantic level is none: without it the gateway starts
    /// and says so.
    pub async fn start(config: Config, admin_key: Option<&str>) -> Result<Started, StartError> {
        let path = config.database.local_path();
        if config.database.url.is_postgres() {
            Database::open_with(&config.database).await?; // a wrong address is told before anything is made here
        }
        let mut lock = take_lock(&path)?;
        let database = Database::open_with(&config.database).await?;
        let mut journal = open_journal(&path, config.database.durability)?;
        journal.book(&database).await?;
        let replica = join(&database, &mut lock, &path).await?;
        let outage_spend_max = NanoUsd::from_usd(config.database.outage_spend_max_usd).unwrap_or_default();
        let (writer, writing) = Writer::start(Arc::clone(&replica), journal, outage_spend_max);
        let spent = database.compared_since(Spending::day_began(now_ms())).await?;
        let spending = Spending::from(now_ms(), NanoUsd(spent));
        let (ledger, keys) = Ledger::open(replica, writer, admin_key).await?;
        let mut degraded = Vec::new();
        let embedder = start_embedder(&config, &mut degraded).await;
        let cache = open_cache(&config, &path, embedder.as_ref(), &mut degraded).await?;
        let (contents, content_writer) = match Contents::open(&config.database, &config.content).await {
            Ok((contents, writing)) => (Some(contents), Some(writing)),
            Err(error) => {
                degraded.push(("the content file", error.to_string()));
                (None, None)
            }
        };
        let mut notices = config.notices.clone();
        notices.extend(degraded.iter().map(|(part, reason)| format!("{part} is OFF: {reason}")));
        let app = Self {
            upstreams: Upstreams::default(),
            config: Arc::new(config),
            ledger,
            cache,
            contents,
            embedder,
            flights: Flights::default(),
            sessions: Sessions::default(),
            streams: Streams::default(),
            audits: Audits::default(),
            spending,
            trials: Trials::default(),
            pressure: Pressure::start(),
            stopping: Arc::new(AtomicBool::new(false)),
            closing: CancellationToken::new(),
            degraded: Arc::new(degraded),
        };
        let cache_writer = app.cache.take_writing();
        Ok(Started { app, keys, notices, writer: writing, database, cache_writer, content_writer, _lock: lock })
    }

    /// Makes `/ready` answer 503 from now on.
    pub(crate) fn stop_soon(&self) {
        self.stopping.store(true, Ordering::Release);
    }
}

/// Joins the gateways on a database under a new name, which the lock file keeps: should this process die, the next one here
/// settles what it left.
async fn join(database: &Database, lock: &mut File, path: &Path) -> Result<Arc<Replica>, StartError> {
    let failed = |source| StartError::Lock { path: path.with_extension("lock"), source };
    let mut earlier = String::new();
    lock.read_to_string(&mut earlier).map_err(failed)?;
    let earlier = Some(earlier.trim()).filter(|earlier| !earlier.is_empty());
    let replica = Replica::join(database.clone(), earlier).await?;
    lock.set_len(0)
        .and_then(|()| lock.rewind())
        .and_then(|()| lock.write_all(replica.id().as_bytes()))
        .map_err(failed)?;
    Ok(replica)
}

/// Holds the money file, or the folder, for this process: two gateways on one would settle each other's open requests.
///
/// # Errors
/// When another process holds it.
pub fn take_lock(path: &Path) -> Result<File, StartError> {
    let lock_path = path.with_extension("lock");
    let failed = |source| StartError::Lock { path: lock_path.clone(), source };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let options = File::options().read(true).write(true).create(true).truncate(false).open(&lock_path);
    let file = options.map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StartError::InUse { path: path.to_owned() }),
        Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn open_journal(money: &Path, durability: Durability) -> Result<Journal, StartError> {
    let path = journal_path(money);
    Journal::open(&path, durability == Durability::Power).map_err(|source| StartError::Journal { path, source })
}

async fn start_embedder(config: &Config, degraded: &mut Vec<(&'static str, String)>) -> Option<Embedder> {
    let learned = config.predictor.embedder();
    if !config.cache.semantic.enabled && learned.is_none() && !config.trains {
        return None;
    }
    let model = config.embedding.model.clone();
    let started = tokio::task::spawn_blocking(move || Embedder::start(&model)).await;
    match started.unwrap_or_else(|error| Err(EmbeddingError::Model(error.to_string()))) {
        Ok(embedder) => {
            if let Some(other) = learned.filter(|learned| *learned != embedder.identity()) {
                let problem = format!("its labels were learned with {other}; train it again with [embedding] model");
                degraded.push(("what the router's artefact says by meaning", problem));
            }
            Some(embedder)
        }
        Err(error) => {
            let part = if config.cache.semantic.enabled { "the semantic cache" } else { "what labels say by meaning" };
            degraded.push((part, error.to_string()));
            None
        }
    }
}

/// A cache file that cannot be used is a cache in memory, not a gateway that does not start.
async fn open_cache(
    config: &Config,
    money: &Path,
    embedder: Option<&Embedder>,
    degraded: &mut Vec<(&'static str, String)>,
) -> Result<Cache, StartError> {
    let model = CacheModel::shipped()?;
    let known = || embedder.map(|embedder| (embedder.identity(), embedder.words()));
    let opened = match CacheFile::open(&cache_path(money)).await {
        Ok(file) => Cache::open(&config.cache, Some(file), known(), model.clone()).await,
        Err(error) => Err(error),
    };
    match opened {
        Ok(cache) => Ok(cache),
        Err(error) => {
            degraded.push(("the cache file", error.to_string()));
            Ok(Cache::open(&config.cache, None, known(), model).await?)
        }
    }
}
