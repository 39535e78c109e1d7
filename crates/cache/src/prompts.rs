//! Every prompt that can be found by meaning: a vector store, what is on its way into it, and what follows when it fails.
//!
//! The rows in the cache's file are the truth. A store that lost some, or was away, gets them again from there.

use crate::cache::{SWEEP_EVERY, now_ms};
use crate::decision::AnswerId;
use crate::semantic::Question;
use crate::store::{EmbeddedStore, Nearest, Neighbour, Query, Row, StoreError, StoreStats, VectorStore, Which};
use crate::stored::read_row;
use database::CacheFile;
use protocol::Digest;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Rows that wait for the store at the most; beyond it they come from the file later.
const QUEUE_MAX: usize = 8_192;
/// Rows put in, or read from the file, at once.
const BATCH: usize = 256;
const PAGE: i64 = 4_096;
/// A call that somebody waits for, one that nobody waits for, and a sweep, may take this long.
const BRIEFLY: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);
const SWEEP_PATIENCE: Duration = Duration::from_secs(120);
/// After so many failed searches in a row the store is left alone, and asked this often whether it works again.
const FAILURES_MAX: u32 = 5;
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// Rows made so long before the store failed are put in again, too.
const MARGIN_MS: i64 = 60_000;
const NOT_BEHIND: i64 = i64::MAX;
/// The file is written a moment after a row is made.
const FILE_BEHIND: Duration = Duration::from_secs(1);
/// Rows made in so long before a start are put in again: the last of them may not have arrived.
const LATEST_MS: i64 = 600_000;
/// Removals that are made up for after an outage.
const UNDELETED_MAX: usize = 1_000;

/// Where the rows come from: the file, and the identity of the embedder in use.
pub(crate) struct Source {
    pub file: CacheFile,
    pub embedder: String,
    pub rows_max: usize,
}

#[derive(Debug)]
pub(crate) struct Prompts {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Queued>,
}

/// A row, and when it was made.
type Queued = (i64, Arc<Row>);

/// What is to be forgotten: of a tenant these answers, or all.
type Forgotten = (String, Option<HashSet<AnswerId>>);

#[derive(Debug)]
struct Shared {
    store: Box<dyn VectorStore>,
    /// Rows on their way into the store.
    fresh: EmbeddedStore,
    failures: AtomicU32,
    /// Why the store is left alone.
    problem: Mutex<Option<String>>,
    /// Rows made since this time may be missing in the store.
    behind_since_ms: AtomicI64,
    /// Rows are being put in.
    is_putting: AtomicBool,
    /// What the store could not remove, or what may have come back since.
    undeleted: Mutex<Vec<Forgotten>>,
    /// A search that takes longer is a miss; `None` where the store is this process.
    budget: Option<Duration>,
}

impl Prompts {
    /// Prompts in a store, which is filled from the source in the background; the second is told when that is done.
    pub(crate) fn new(
        store: Box<dyn VectorStore>,
        source: Option<Source>,
        budget: Option<Duration>,
    ) -> (Self, oneshot::Receiver<()>) {
        let (queue, receiver) = mpsc::channel(QUEUE_MAX);
        let (loaded, is_loaded) = oneshot::channel();
        let behind_since_ms = AtomicI64::new(if source.is_some() { 0 } else { NOT_BEHIND });
        let shared = Shared {
            store,
            fresh: EmbeddedStore::new(usize::MAX),
            failures: AtomicU32::new(0),
            problem: Mutex::default(),
            behind_since_ms,
            is_putting: AtomicBool::new(false),
            undeleted: Mutex::default(),
            budget,
        };
        let shared = Arc::new(shared);
        tokio::spawn(keep(Arc::clone(&shared), receiver, source, loaded));
        (Self { shared, queue }, is_loaded)
    }

    /// Makes a row findable at once, and stores it soon.
    pub(crate) fn add(&self, row: Row) {
        let row = Arc::new(row);
        self.shared.fresh.add(Arc::clone(&row));
        let made_ms = now_ms();
        if self.queue.try_send((made_ms, Arc::clone(&row))).is_err() {
            self.shared.fall_behind(made_ms);
            self.shared.fresh.remove(&HashSet::from([&*row.id]));
        }
    }

    /// The nearest rows of a scope.
    ///
    /// # Errors
    /// When the store is too slow, fails or is left alone.
    pub(crate) async fn nearest(
        &self,
        tenant: &str,
        scope: &Digest,
        question: &Question,
    ) -> Result<Vec<Neighbour>, StoreError> {
        if self.shared.problem().is_some() {
            return Err(StoreError::Down);
        }
        let earlier = question.earlier.as_ref().map(|earlier| &*earlier.vector);
        let query = Query { tenant, scope, vector: &question.vector, earlier, now_ms: now_ms() };
        // What is on its way first: it leaves there only once it is in the store.
        let fresh = self.shared.fresh.nearest(&query);
        let found = self.shared.within_budget(self.shared.store.search(query)).await;
        match &found {
            Ok(_) => self.shared.failures.store(0, Ordering::Relaxed),
            Err(error) if self.shared.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES_MAX => {
                self.shared.leave_alone(error);
            }
            Err(_) => {}
        }
        Ok(Nearest::merge(fresh, found?))
    }

    /// Removes rows.
    pub(crate) async fn forget(&self, which: Which<'_>) {
        let (tenant, answers) = (which.tenant, which.answers);
        let forgotten = (tenant.to_owned(), answers.cloned());
        self.shared
            .fresh
            .retain(|row| *row.tenant != *tenant || answers.is_some_and(|answers| !answers.contains(&row.answer)));
        if self.shared.is_putting.load(Ordering::Acquire) {
            self.shared.still_to_delete(forgotten.clone()); // rows may arrive after it
        }
        if let Err(error) = self.briefly(self.shared.store.delete(which)).await {
            tracing::warn!(%error, "prompts of answers that are gone stay in the vector store until it works again");
            self.shared.still_to_delete(forgotten);
        }
    }

    /// What the store and the way into it hold.
    ///
    /// # Errors
    /// When the store does not say.
    pub(crate) async fn stats(&self) -> Result<StoreStats, StoreError> {
        let stats = self.briefly(self.shared.store.stats()).await?;
        Ok(StoreStats { rows: stats.rows + self.shared.fresh.len() as u64, ..stats })
    }

    /// Removes what has expired by then; returns how many.
    ///
    /// # Errors
    /// When the store does not do so.
    pub(crate) async fn sweep(&self, now_ms: i64) -> Result<u64, StoreError> {
        self.shared.store.sweep(now_ms).await
    }

    /// A call for somebody who waits; none to a store that is left alone.
    async fn briefly<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        match self.shared.problem() {
            Some(_) => Err(StoreError::Down),
            None => timeout(BRIEFLY, call).await.unwrap_or(Err(StoreError::Late(BRIEFLY))),
        }
    }

    /// Why searches are misses at the moment, where they are.
    pub(crate) fn problem(&self) -> Option<String> {
        self.shared.problem()
    }
}

impl Shared {
    fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn leave_alone(&self, error: &StoreError) {
        let known = self.problem.lock().unwrap_or_else(PoisonError::into_inner).replace(error.to_string());
        if known.is_none() {
            tracing::warn!(%error, "the vector store fails and is left alone: the semantic level misses until it works again");
        }
    }

    /// Remembers that rows made since a time may be missing.
    fn fall_behind(&self, since_ms: i64) {
        self.behind_since_ms.fetch_min(since_ms - MARGIN_MS, Ordering::Relaxed);
    }

    fn still_to_delete(&self, forgotten: Forgotten) {
        let mut undeleted = self.undeleted.lock().unwrap_or_else(PoisonError::into_inner);
        if undeleted.len() < UNDELETED_MAX {
            undeleted.push(forgotten);
        } else {
            tracing::warn!(
                tenant = forgotten.0,
                "too much is to be removed from the vector store: the rest leaves as it expires"
            );
        }
    }

    async fn within_budget<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        match self.budget {
            Some(budget) => timeout(budget, call).await.unwrap_or(Err(StoreError::Late(budget))),
            None => call.await,
        }
    }

    /// Asks a store that is left alone whether it works again.
    async fn probe(&self) {
        if self.problem().is_some() && self.health().await.is_ok() {
            self.failures.store(0, Ordering::Relaxed);
            *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = None;
            tracing::info!("the vector store works again");
        }
    }

    /// A store that answers too late for a search does not work.
    async fn health(&self) -> Result<(), StoreError> {
        self.within_budget(self.store.health()).await
    }

    /// Removes what the store could not remove before.
    async fn delete_the_rest(&self) {
        if self.problem().is_some() {
            return;
        }
        let undeleted = std::mem::take(&mut *self.undeleted.lock().unwrap_or_else(PoisonError::into_inner));
        for (tenant, answers) in undeleted {
            let which = Which { tenant: &tenant, answers: answers.as_ref() };
            if !timeout(PATIENCE, self.store.delete(which)).await.is_ok_and(|deleted| deleted.is_ok()) {
                self.still_to_delete((tenant, answers));
            }
        }
    }

    /// Puts rows of the queue in; where that fails they come from the file later.
    async fn publish(&self, queued: &[Queued]) {
        let oldest_ms = queued.iter().map(|(made_ms, _)| *made_ms).min().unwrap_or_else(now_ms);
        // What was forgotten on the way stays forgotten.
        let rows: Vec<Arc<Row>> =
            queued.iter().filter(|(_, row)| self.fresh.has(row)).map(|(_, row)| Arc::clone(row)).collect();
        self.is_putting.store(true, Ordering::Release);
        if self.problem().is_some() {
            self.fall_behind(oldest_ms);
        } else if let Err(error) = self.put(&rows).await {
            self.leave_alone(&error);
            self.fall_behind(oldest_ms);
        }
        self.is_putting.store(false, Ordering::Release);
        self.fresh.remove(&rows.iter().map(|row| &*row.id).collect());
    }

    async fn put(&self, rows: &[Arc<Row>]) -> Result<(), StoreError> {
        let Some(first) = rows.first() else { return Ok(()) };
        let putting = async {
            match self.store.upsert(rows).await {
                Err(StoreError::Missing) => {
                    let before_ms = self.behind_since_ms.swap(0, Ordering::Relaxed); // whatever was there may be gone
                    if !self.store.ensure_space(first.vector.len()).await? {
                        self.behind_since_ms.store(before_ms, Ordering::Relaxed);
                    }
                    self.store.upsert(rows).await
                }
                outcome => outcome,
            }
        };
        timeout(PATIENCE, putting).await.unwrap_or(Err(StoreError::Late(PATIENCE)))
    }

    /// Puts in what the store may lack.
    async fn catch_up(&self, source: &Source) {
        let since_ms = self.behind_since_ms.load(Ordering::Relaxed);
        if since_ms == NOT_BEHIND || self.problem().is_some() {
            return;
        }
        if since_ms > 0 {
            tokio::time::sleep(FILE_BEHIND).await;
        }
        self.behind_since_ms.store(NOT_BEHIND, Ordering::Relaxed);
        self.is_putting.store(true, Ordering::Release);
        let outcome = self.copy(source, since_ms).await;
        self.is_putting.store(false, Ordering::Release);
        if let Err(error) = outcome {
            self.behind_since_ms.fetch_min(since_ms, Ordering::Relaxed);
            self.leave_alone(&error);
        }
    }

    /// Makes the store ready, and says whether it holds about so many living rows; a full one was made smaller by a tenth.
    async fn has_all(&self, dimensions: usize, rows: u64) -> Result<bool, StoreError> {
        let counting = async {
            let is_new = self.store.ensure_space(dimensions).await?;
            self.store.sweep(now_ms()).await?;
            Ok(!is_new && self.store.stats().await?.rows >= rows - rows / 10)
        };
        timeout(SWEEP_PATIENCE, counting).await.unwrap_or(Err(StoreError::Late(SWEEP_PATIENCE)))
    }

    /// Puts in the file's rows made since a time; of all rows the latest, where the store has about as many.
    async fn copy(&self, source: &Source, mut since_ms: i64) -> Result<(), StoreError> {
        let unreadable = |error: database::DatabaseError| StoreError::Failed(error.to_string());
        let (mut before, mut copied) = (None, 0);
        while copied < source.rows_max {
            let page = source.file.prompts(&source.embedder, (now_ms(), since_ms), before.as_ref(), PAGE).await;
            let page = page.map_err(unreadable)?;
            let Some(last) = page.last() else { break };
            let is_first = before.replace((last.created_ms, last.id.clone())).is_none();
            let rows: Vec<Arc<Row>> = page.into_iter().filter_map(read_row).map(Arc::new).collect();
            if let (Some(row), true, 0) = (rows.first(), is_first, since_ms) {
                let known = source.file.prompts_count(&source.embedder, now_ms()).await.map_err(unreadable)?;
                if self.has_all(row.vector.len(), known.min(source.rows_max as u64)).await? {
                    since_ms = now_ms() - LATEST_MS;
                }
            }
            for batch in rows.chunks(BATCH) {
                self.put(batch).await?;
                tokio::task::yield_now().await;
            }
            copied += rows.len();
        }
        Ok(())
    }
}

/// Fills the store, puts in what the queue brings, and keeps the store in order, until the last sender is gone.
async fn keep(
    shared: Arc<Shared>,
    mut queue: mpsc::Receiver<Queued>,
    source: Option<Source>,
    loaded: oneshot::Sender<()>,
) {
    let catch_up = async || {
        if let Some(source) = &source {
            shared.catch_up(source).await;
        }
    };
    if let Err(error) = shared.health().await {
        shared.leave_alone(&error);
    }
    catch_up().await;
    let _nobody_waits = loaded.send(());
    let (mut probe, mut sweep) = (interval(PROBE_EVERY), interval(SWEEP_EVERY));
    probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
    sweep.reset();
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            count = queue.recv_many(&mut batch, BATCH) => {
                if count == 0 {
                    break;
                }
                shared.publish(&batch).await;
                batch.clear();
            }
            _ = probe.tick() => {
                shared.probe().await;
                shared.delete_the_rest().await;
                catch_up().await;
            }
            _ = sweep.tick() => {
                let swept = timeout(SWEEP_PATIENCE, shared.store.sweep(now_ms())).await;
                if let Err(error) = swept.unwrap_or(Err(StoreError::Late(SWEEP_PATIENCE))) {
                    tracing::warn!(%error, "the vector store was not swept");
                }
            }
        }
    }
}
