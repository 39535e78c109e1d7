//! The cache: an exact level in memory, a semantic level by scope, both kept in a file of their own.

use crate::config::{CacheConfig, SemanticConfig};
use crate::decision::{Decision, decide};
use crate::guard::Guard;
use crate::index::{Index, Neighbour, Row};
use database::{CacheFile, DatabaseError, StoredAnswer};
use moka::sync::Cache as Memory;
use protocol::{Digest, Reply};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

/// Answers waiting to be written at the most; beyond it an answer lives in memory only.
const QUEUE_MAX: usize = 4_096;
const BATCH_MAX: usize = 256;
const SWEEP_EVERY: Duration = Duration::from_secs(300);
/// A stored answer.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The generation that made it.
    pub id: String,
    pub reply: Arc<Reply>,
    pub model: String,
    pub provider: String,
    pub expires_ms: i64,
    /// About the memory it takes.
    pub bytes: u32,
}

/// What the semantic level found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The stored answer's id.
    pub id: String,
    pub cosine: f32,
    pub decision: Decision,
}

/// An answer to keep.
#[derive(Debug, Clone)]
pub struct Put {
    pub id: String,
    pub tenant: String,
    pub fingerprint: Digest,
    /// Scope, vector and text of the question, where it may be found by meaning.
    pub semantic: Option<(Digest, Vec<f32>, String)>,
    pub reply: Arc<Reply>,
    pub model: String,
    pub provider: String,
    /// A shorter life than configured, where the caller asked for it.
    pub ttl_s: Option<u64>,
}

/// The semantic level of one embedder.
#[derive(Debug)]
struct Semantic {
    embedder: String,
    guard: Guard,
    index: RwLock<Index>,
}

/// Both levels; clones share them.
#[derive(Debug, Clone)]
pub struct Cache {
    ttl: Duration,
    exact_enabled: bool,
    memory: Memory<Digest, Arc<Entry>>,
    by_id: Memory<String, Digest>,
    semantic: Option<Arc<Semantic>>,
    rules: SemanticConfig,
    file: Option<CacheFile>,
    queue: Option<mpsc::Sender<StoredAnswer>>,
    writing: Arc<Mutex<Option<tokio::task::JoinHandle<()>>>>,
}

impl Cache {
    /// Opens the cache and loads what an earlier run stored. `embedder` is the identity and vocabulary of the embedder
    /// in use; without it, or where disabled, there is no semantic level. Without a file answers live in memory only.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn open(
        config: &CacheConfig,
        file: Option<CacheFile>,
        embedder: Option<(&str, Arc<HashSet<String>>)>,
    ) -> Result<Self, DatabaseError> {
        let weigh = |_: &Digest, entry: &Arc<Entry>| entry.bytes;
        let semantic = embedder.filter(|_| config.semantic.enabled).map(|(identity, vocabulary)| {
            let index = RwLock::new(Index::new(config.semantic.entries_max));
            Arc::new(Semantic { embedder: identity.to_owned(), guard: Guard::new(vocabulary), index })
        });
        let (queue, writing) = file
            .clone()
            .map(|file| {
                let (queue, receiver) = mpsc::channel(QUEUE_MAX);
                (queue, tokio::spawn(write(file, receiver)))
            })
            .unzip();
        let cache = Self {
            ttl: Duration::from_secs(config.exact.ttl_s),
            exact_enabled: config.exact.enabled,
            memory: Memory::builder().weigher(weigh).max_capacity(config.exact.bytes_max).build(),
            by_id: Memory::new(config.semantic.entries_max as u64),
            semantic,
            rules: config.semantic.clone(),
            file,
            queue,
            writing: Arc::new(Mutex::new(writing)),
        };
        cache.load(config).await?;
        Ok(cache)
    }

    async fn load(&self, config: &CacheConfig) -> Result<(), DatabaseError> {
        let Some(file) = &self.file else { return Ok(()) };
        let now = now_ms();
        file.sweep(now).await?;
        let mut bytes = 0;
        for stored in file.newest(now, LOADED_MAX).await? {
            bytes += stored.reply.len() as u64;
            if bytes > config.exact.bytes_max {
                break;
            }
            if let Some((fingerprint, entry)) = read(&stored) {
                self.publish(fingerprint, entry);
            }
        }
        if let Some(semantic) = &self.semantic {
            let rows = i64::try_from(config.semantic.entries_max).unwrap_or(i64::MAX);
            for stored in file.vectors(&semantic.embedder, now, rows).await? {
                let (Some(scope), Some(vector)) = (stored.scope, stored.vector) else { continue };
                let Ok(scope) = <[u8; 32]>::try_from(scope) else { continue };
                let vector: Box<[f32]> = vector
                    .chunks_exact(4)
                    .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
                    .collect();
                let row = Row { id: stored.id, prompt: stored.prompt, expires_ms: stored.expires_ms, vector };
                semantic.add(Digest(scope), row);
            }
        }
        Ok(())
    }

    /// Ends once every answer is in the file and the file is closed, after the last clone of the cache is gone. `None`
    /// without a file, and the second time.
    pub fn take_writing(&self) -> Option<tokio::task::JoinHandle<()>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Which requests the semantic level may answer.
    pub fn rules(&self) -> &SemanticConfig {
        &self.rules
    }

    /// True where answers can be found by meaning.
    pub fn has_semantic(&self) -> bool {
        self.semantic.is_some()
    }

    /// How many answers each level holds: exact, semantic.
    pub fn sizes(&self) -> (u64, u64) {
        self.memory.run_pending_tasks();
        let semantic = self
            .semantic
            .as_ref()
            .map_or(0, |semantic| semantic.index.read().unwrap_or_else(PoisonError::into_inner).len());
        (self.memory.entry_count(), semantic as u64)
    }

    /// The living answer to exactly this request.
    pub fn exact(&self, fingerprint: &Digest) -> Option<Arc<Entry>> {
        if !self.exact_enabled {
            return None;
        }
        let entry = self.memory.get(fingerprint)?;
        (entry.expires_ms > now_ms()).then_some(entry)
    }

    /// The best stored answer of a scope, admissible or not; `None` when the scope is empty.
    pub fn neighbours(&self, scope: &Digest, vector: &[f32], prompt: &str) -> Option<Found> {
        let semantic = self.semantic.as_ref()?;
        let neighbours = {
            let index = semantic.index.read().unwrap_or_else(PoisonError::into_inner);
            index.nearest(scope, vector, now_ms())
        };
        let judged = neighbours.into_iter().map(|neighbour| judge(&semantic.guard, prompt, neighbour));
        let mut first = None;
        for found in judged {
            if found.decision.admissible {
                return Some(found);
            }
            first = first.or(Some(found));
        }
        first
    }

    /// A stored answer by its id, from memory or the file.
    pub async fn entry(&self, tenant: &str, id: &str) -> Option<Arc<Entry>> {
        if let Some(entry) = self.by_id.get(id).and_then(|fingerprint| self.memory.get(&fingerprint))
            && entry.id == id
        {
            return (entry.expires_ms > now_ms()).then_some(entry);
        }
        match self.file.as_ref()?.by_id(tenant, id, now_ms()).await {
            Ok(stored) => read(&stored?).map(|(_, entry)| entry),
            Err(error) => {
                tracing::warn!(%error, "the cache file could not be read: a miss");
                None
            }
        }
    }

    /// Keeps an answer: in memory at once, in the file soon.
    pub fn put(&self, put: Put) {
        if !self.exact_enabled && put.semantic.is_none() {
            return; // nobody could find it
        }
        let ttl = put.ttl_s.map_or(self.ttl, |ttl_s| self.ttl.min(Duration::from_secs(ttl_s)));
        let created_ms = now_ms();
        let expires_ms = created_ms.saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX));
        let mut stored = StoredAnswer {
            id: put.id.clone(),
            tenant_id: put.tenant,
            fingerprint: put.fingerprint.0.to_vec(),
            scope: None,
            embedder: String::new(),
            vector: None,
            prompt: String::new(),
            model: put.model.clone(),
            provider: put.provider.clone(),
            reply: serde_json::to_string(&*put.reply).unwrap_or_default(),
            created_ms,
            expires_ms,
        };
        if let (Some(semantic), Some((scope, vector, prompt))) = (&self.semantic, put.semantic) {
            stored.scope = Some(scope.0.to_vec());
            stored.embedder.clone_from(&semantic.embedder);
            stored.vector = Some(vector.iter().flat_map(|x| x.to_le_bytes()).collect());
            stored.prompt.clone_from(&prompt);
            semantic.add(scope, Row { id: put.id.clone(), prompt, expires_ms, vector: vector.into() });
        }
        let bytes = bytes_of(&stored.reply);
        let entry = Entry { id: put.id, reply: put.reply, model: put.model, provider: put.provider, expires_ms, bytes };
        self.publish(put.fingerprint, Arc::new(entry));
        if let Some(queue) = &self.queue
            && queue.try_send(stored).is_err()
        {
            tracing::warn!("the cache file is behind: an answer is kept in memory only");
        }
    }

    fn publish(&self, fingerprint: Digest, entry: Arc<Entry>) {
        self.by_id.insert(entry.id.clone(), fingerprint);
        self.memory.insert(fingerprint, entry);
    }
}

/// Answers read into memory at start at the most.
const LOADED_MAX: i64 = 200_000;

impl Semantic {
    fn add(&self, scope: Digest, row: Row) {
        self.index.write().unwrap_or_else(PoisonError::into_inner).add(scope, row);
    }
}

fn judge(guard: &Guard, prompt: &str, neighbour: Neighbour) -> Found {
    let decision = decide(neighbour.cosine, guard.compare(prompt, &neighbour.prompt));
    Found { id: neighbour.id, cosine: neighbour.cosine, decision }
}

fn read(stored: &StoredAnswer) -> Option<(Digest, Arc<Entry>)> {
    let fingerprint = Digest(stored.fingerprint.as_slice().try_into().ok()?);
    let reply: Reply = serde_json::from_str(&stored.reply).ok()?;
    let entry = Entry {
        id: stored.id.clone(),
        reply: Arc::new(reply),
        model: stored.model.clone(),
        provider: stored.provider.clone(),
        expires_ms: stored.expires_ms,
        bytes: bytes_of(&stored.reply),
    };
    Some((fingerprint, Arc::new(entry)))
}

/// About the memory of an answer with this JSON: its text is held twice as long as its JSON at the most.
fn bytes_of(json: &str) -> u32 {
    u32::try_from(1_024 + 2 * json.len()).unwrap_or(u32::MAX)
}

async fn write(file: CacheFile, mut queue: mpsc::Receiver<StoredAnswer>) {
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    let mut batch = Vec::with_capacity(BATCH_MAX);
    loop {
        let outcome = tokio::select! {
            count = queue.recv_many(&mut batch, BATCH_MAX) => {
                if count == 0 {
                    file.close().await;
                    return;
                }
                let outcome = file.store(&batch).await;
                batch.clear();
                outcome
            }
            _ = sweep.tick() => file.sweep(now_ms()).await.map(|_| ()),
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "the cache file could not be written: answers live in memory only");
        }
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
