//! The cache: an exact level in memory, a semantic level by scope, both kept in a file of their own.

use crate::config::{CacheConfig, StoreKind};
use crate::decision::AnswerId;
use crate::entry::{Entry, Filter, Placed, Put, Sizes};
use crate::model::CacheModel;
use crate::prompts::{Prompts, Source};
use crate::semantic::{Evidence, Look, Owner, Question, Semantic};
use crate::store::{self, Row, StoreError, Which};
use crate::stored::{bytes_of, read, store_row, write};
use crate::text::Words;
use database::{CacheFile, CacheWrite, DatabaseError, StoredAnswer, StoredTie};
use moka::sync::Cache as Memory;
use protocol::Digest;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Changes waiting to be written at the most; beyond it an answer lives in memory only.
const QUEUE_MAX: usize = 8_192;
pub(crate) const SWEEP_EVERY: Duration = Duration::from_secs(300);
/// Ties older than this are forgotten.
pub(crate) const TIES_MS: i64 = 90 * 24 * 3_600 * 1_000;
/// An expired answer is renewed once in this time.
const RENEWAL: Duration = Duration::from_secs(30);
/// Hits that can still be said something of.
const HITS_MAX: u64 = 10_000;
/// Answers, and ties, read into memory at start at the most.
const LOADED_MAX: i64 = 200_000;
const TIES_LOADED_MAX: i64 = 1_000_000;

/// Opening waits so long for the vector store to be filled.
const LOADING_WAIT: Duration = Duration::from_secs(2);

/// Longer prompts are compared on a thread of their own.
const SHORT_PROMPT_BYTES: usize = 1_000;

/// The semantic level with its storage.
#[derive(Debug)]
pub(crate) struct Meaning {
    pub embedder: String,
    pub level: Semantic,
    pub prompts: Prompts,
}

/// What a hit was decided on.
type Hit = (Owner, Question, Look);

/// Both levels; clones share them.
#[derive(Debug, Clone)]
pub struct Cache {
    config: Arc<CacheConfig>,
    memory: Memory<Digest, Arc<Entry>>,
    by_id: Memory<String, Digest>,
    /// What the latest hits were decided on, by their generation.
    hits: Memory<String, Arc<Hit>>,
    /// Expired answers that are being renewed.
    renewing: Memory<Digest, ()>,
    meaning: Option<Arc<Meaning>>,
    /// Why there is no semantic level, where it was wanted and could not be had.
    problem: Option<String>,
    epochs: Arc<RwLock<HashMap<String, i64>>>,
    file: Option<CacheFile>,
    queue: Option<mpsc::Sender<CacheWrite>>,
    writing: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Cache {
    /// Opens the cache and loads what an earlier run stored. `embedder` is the identity of the embedder in use and its
    /// words; without it, or where disabled, there is no semantic level. Without a file all lives in memory only.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn open(
        config: &CacheConfig,
        file: Option<CacheFile>,
        embedder: Option<(&str, Arc<Words>)>,
        model: CacheModel,
    ) -> Result<Self, DatabaseError> {
        let weigh = |_: &Digest, entry: &Arc<Entry>| entry.bytes;
        let (mut meaning, mut problem, mut is_loaded) = (None, None, None);
        if let Some((identity, words)) = embedder.filter(|_| config.semantic.enabled) {
            match store::open(&config.semantic, file.as_ref(), identity).await? {
                Ok(store) => {
                    let is_foreign = config.semantic.store != StoreKind::Embedded;
                    let budget = is_foreign.then(|| Duration::from_millis(config.semantic.store_budget_ms));
                    let source = file.clone().map(|file| Source {
                        file,
                        embedder: identity.to_owned(),
                        rows_max: config.semantic.entries_max,
                    });
                    let (prompts, loaded) = Prompts::new(store, source, budget);
                    let level = Semantic::new(words, model)
                        .with_evidence_error(config.semantic.evidence_error)
                        .with_confidence(config.semantic.confidence);
                    meaning = Some(Arc::new(Meaning { embedder: identity.to_owned(), level, prompts }));
                    is_loaded = Some(loaded);
                }
                Err(error) => {
                    tracing::warn!(%error, "there is no vector store: the semantic level is off");
                    problem = Some(error.to_string());
                }
            }
        }
        let by_id: Memory<String, Digest> = Memory::new(config.semantic.entries_max as u64);
        let (queue, writing) = file
            .clone()
            .map(|file| {
                let (queue, receiver) = mpsc::channel(QUEUE_MAX);
                (queue, tokio::spawn(write(file, receiver, meaning.clone(), config.stale_ms(), by_id.clone())))
            })
            .unzip();
        let cache = Self {
            memory: Memory::builder().weigher(weigh).max_capacity(config.exact.bytes_max).build(),
            by_id,
            hits: Memory::new(HITS_MAX),
            renewing: Memory::builder().max_capacity(HITS_MAX).time_to_live(RENEWAL).build(),
            config: Arc::new(config.clone()),
            meaning,
            problem,
            epochs: Arc::default(),
            file,
            queue,
            writing: Arc::new(Mutex::new(writing)),
        };
        cache.load().await?;
        if let Some(is_loaded) = is_loaded {
            // Large stores go on being filled while requests are answered.
            let _is_in_time = tokio::time::timeout(LOADING_WAIT, is_loaded).await;
        }
        Ok(cache)
    }

    async fn load(&self) -> Result<(), DatabaseError> {
        let Some(file) = &self.file else { return Ok(()) };
        let now = now_ms();
        let kept_since = now - self.config.stale_ms();
        file.sweep(kept_since, now - TIES_MS).await?;
        let epochs = file.epochs().await?;
        self.epochs.write().unwrap_or_else(PoisonError::into_inner).extend(epochs);
        let mut bytes = 0;
        for stored in file.newest(kept_since, LOADED_MAX).await? {
            bytes += stored.reply.len() as u64;
            if bytes > self.config.exact.bytes_max {
                break;
            }
            if let Some((fingerprint, entry)) = read(&stored) {
                self.by_id.insert(entry.id.clone(), fingerprint);
                if !self.memory.contains_key(&fingerprint) {
                    self.memory.insert(fingerprint, entry);
                }
            }
        }
        let Some(meaning) = &self.meaning else { return Ok(()) };
        for tie in file.ties(TIES_LOADED_MAX).await? {
            match tie.kind.as_str() {
                "same" => drop(meaning.level.join(&[tie.b.into(), tie.a.into()])),
                "confirmed" => meaning.level.confirm(&tie.a.into()),
                _ => meaning.level.part(u64::from_str_radix(&tie.a, 16).unwrap_or(0), &tie.b.into()),
            }
        }
        for judge in file.judges(&meaning.embedder).await? {
            let owner = Owner { tenant: judge.tenant_id, policy: judge.policy };
            if let Err(error) = meaning.level.restore(owner, &judge.state) {
                tracing::warn!(%error, "what was learned of a tenant's traffic cannot be read: learning begins anew");
            }
        }
        Ok(())
    }

    /// Ends once every change is in the file and the file is closed, after the last clone of the cache is gone. `None`
    /// without a file, and the second time.
    pub fn take_writing(&self) -> Option<JoinHandle<()>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The tables it was opened with.
    pub fn config(&self) -> &CacheConfig {
        &self.config
    }

    /// True where answers can be found by meaning.
    pub fn has_semantic(&self) -> bool {
        self.meaning.is_some()
    }

    /// The semantic level, where there is one.
    pub fn semantic(&self) -> Option<&Semantic> {
        self.meaning.as_ref().map(|meaning| &meaning.level)
    }

    /// Why the semantic level misses everything at the moment, where it does.
    pub fn problem(&self) -> Option<String> {
        self.meaning.as_ref().map_or_else(|| self.problem.clone(), |meaning| meaning.prompts.problem())
    }

    /// How much the levels hold.
    pub async fn sizes(&self) -> Sizes {
        self.memory.run_pending_tasks();
        let stats = match &self.meaning {
            Some(meaning) => meaning.prompts.stats().await.ok(),
            None => None,
        };
        let scopes = stats.and_then(|stats| stats.scopes);
        Sizes { answers: self.memory.entry_count(), prompts: stats.map(|stats| stats.rows), scopes }
    }

    /// Counted up whenever everything of a tenant is forgotten; part of what makes its answers interchangeable.
    pub fn epoch(&self, tenant: &str) -> i64 {
        self.epochs.read().unwrap_or_else(PoisonError::into_inner).get(tenant).copied().unwrap_or(0)
    }

    /// The answer to exactly this request: a living one, or one that has expired less than `stale` ago.
    pub fn exact(&self, fingerprint: &Digest, stale: Duration) -> Option<Arc<Entry>> {
        if !self.config.exact.enabled {
            return None;
        }
        let entry = self.memory.get(fingerprint)?;
        let until = entry.expires_ms.saturating_add(i64::try_from(stale.as_millis()).unwrap_or(i64::MAX));
        (until > now_ms()).then_some(entry)
    }

    /// True for the first who asks to renew an expired answer, and for nobody else in the next half minute.
    pub fn renews(&self, fingerprint: &Digest) -> bool {
        self.renewing.entry(*fingerprint).or_insert(()).is_fresh()
    }

    /// What the semantic level makes of a question; `None` where its scope has no prompts.
    ///
    /// # Errors
    /// When the vector store does not answer in time.
    pub async fn look(
        &self,
        owner: &Owner,
        scope: &Digest,
        question: &Question,
        error_max: f64,
    ) -> Result<Option<Look>, StoreError> {
        let Some(meaning) = &self.meaning else { return Ok(None) };
        let neighbours = meaning.prompts.nearest(&owner.tenant, scope, question).await?;
        let look = if question.prompt.len() <= SHORT_PROMPT_BYTES {
            meaning.level.look(owner, question, &neighbours, error_max)
        } else {
            // Long texts take milliseconds to compare, too long for an async thread.
            let (meaning, owner, question) = (Arc::clone(meaning), owner.clone(), question.clone());
            let looking =
                tokio::task::spawn_blocking(move || meaning.level.look(&owner, &question, &neighbours, error_max));
            looking.await.map_err(|error| StoreError::Failed(error.to_string()))?
        };
        Ok(look.map(|look| Look { is_unconfirmed: look.is_unconfirmed && self.config.semantic.confirm, ..look }))
    }

    /// A stored answer by its id, from memory or the file.
    pub async fn entry(&self, tenant: &str, id: &str) -> Option<Arc<Entry>> {
        if let Some(entry) = self.by_id.get(id).and_then(|fingerprint| self.memory.get(&fingerprint))
            && entry.id == id
            && entry.tenant == tenant
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
        if !self.config.exact.enabled && self.meaning.is_none() {
            return; // nobody could find it
        }
        let created_ms = now_ms();
        let expires_ms = created_ms.saturating_add(self.life_ms(&put));
        let stored = StoredAnswer {
            id: put.id.clone(),
            tenant_id: put.tenant.clone(),
            fingerprint: put.fingerprint.0.to_vec(),
            model: put.model.clone(),
            provider: put.provider.clone(),
            tags: serde_json::to_string(&put.tags).unwrap_or_default(),
            reply: serde_json::to_string(&*put.reply).unwrap_or_default(),
            created_ms,
            expires_ms,
        };
        let entry = Entry {
            bytes: bytes_of(&stored.reply),
            id: put.id.clone(),
            tenant: put.tenant.clone(),
            reply: put.reply,
            model: put.model,
            provider: put.provider,
            tags: put.tags,
            created_ms,
            expires_ms,
        };
        self.by_id.insert(entry.id.clone(), put.fingerprint);
        self.memory.insert(put.fingerprint, Arc::new(entry));
        self.write(CacheWrite::Answer(stored));
    }

    /// Makes a stored answer findable by meaning: as one of those that say the same, where there are any.
    pub fn place(&self, id: &str, tenant: &str, placed: Placed) {
        let stored = self.by_id.get(id).and_then(|fingerprint| self.memory.get(&fingerprint));
        let (Some(meaning), Some(entry)) = (&self.meaning, stored) else { return };
        let answer = self.unite(tenant, &placed.same).unwrap_or_else(|| id.into());
        let row = Row {
            tenant: tenant.into(),
            scope: placed.scope,
            id: id.into(),
            // A prompt leads to its answer as long as that lives.
            expires_ms: self.expiry(&answer).map_or(entry.expires_ms, |until| until.min(entry.expires_ms)),
            answer,
            prompt: placed.question.prompt.into(),
            vector: placed.question.vector.into(),
            earlier: placed.question.earlier,
            principal: placed.question.principal,
        };
        self.write(CacheWrite::Prompt(store_row(&meaning.embedder, &row, entry.created_ms)));
        meaning.prompts.add(row);
    }

    /// Makes stored answers one, that which lives longest; returns it.
    pub fn unite(&self, tenant: &str, same: &[AnswerId]) -> Option<AnswerId> {
        let meaning = self.meaning.as_ref()?;
        let mut roots: Vec<AnswerId> = same.iter().map(|answer| meaning.level.root(answer)).collect();
        roots.sort_by_key(|root| std::cmp::Reverse(self.expiry(root)));
        let first = roots.first()?;
        for other in roots[1..].iter().filter(|other| *other != first) {
            self.tie(tenant, "same", other.to_string(), first.to_string());
        }
        meaning.level.join(&roots)
    }

    /// When a stored answer in memory expires.
    fn expiry(&self, answer: &AnswerId) -> Option<i64> {
        let fingerprint = self.by_id.get(&**answer)?;
        self.memory.get(&fingerprint).filter(|entry| entry.id == **answer).map(|entry| entry.expires_ms)
    }

    /// The configured life, shorter where the caller asked for it, and by up to a tenth so that what was stored together
    /// does not expire together.
    fn life_ms(&self, put: &Put) -> i64 {
        let ttl_s = put.ttl_s.map_or(self.config.exact.ttl_s, |ttl_s| ttl_s.min(self.config.exact.ttl_s));
        let life = i64::try_from(ttl_s.saturating_mul(1_000)).unwrap_or(i64::MAX);
        let lot = i64::from(u16::from_le_bytes([put.fingerprint.0[0], put.fingerprint.0[1]]));
        life - life / 10 / i64::from(u16::MAX) * lot
    }

    /// Takes in whether the answer of a look was right.
    pub fn learn(&self, owner: &Owner, asked: (&Question, &Look), is_right: bool, evidence: Evidence) {
        let (question, look) = asked;
        let (Some(meaning), Some(case)) = (&self.meaning, &look.case) else { return };
        meaning.level.learn(owner, look, is_right, evidence);
        if !is_right {
            meaning.level.part(question.link, &case.answer);
            self.tie(&owner.tenant, "apart", format!("{:016x}", question.link), case.answer.to_string());
        } else if look.is_unconfirmed {
            meaning.level.confirm(&case.answer);
            self.tie(&owner.tenant, "confirmed", case.answer.to_string(), String::new());
        }
    }

    fn tie(&self, tenant: &str, kind: &str, a: String, b: String) {
        let tie = StoredTie { tenant_id: tenant.to_owned(), kind: kind.to_owned(), a, b, created_ms: now_ms() };
        self.write(CacheWrite::Tie(tie));
    }

    /// Remembers what a hit was decided on, for what its reader will say of it.
    pub fn note_hit(&self, id: &str, owner: &Owner, (question, look): (&Question, &Look)) {
        self.hits.insert(id.to_owned(), Arc::new((owner.clone(), question.clone(), look.clone())));
    }

    /// Takes in what the reader of a hit said of it; false where it was none, or too long ago.
    pub fn teach(&self, tenant: &str, id: &str, is_right: bool) -> bool {
        let Some(hit) = self.hits.get(id).filter(|hit| hit.0.tenant == tenant) else { return false };
        self.hits.invalidate(id); // one label a hit
        self.learn(&hit.0, (&hit.1, &hit.2), is_right, Evidence::Feedback);
        true
    }

    /// How many answers of a tenant are stored.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn count(&self, tenant: &str) -> Result<u64, DatabaseError> {
        match &self.file {
            Some(file) => file.count(tenant, now_ms()).await,
            None => Ok(self.memory.iter().filter(|(_, entry)| entry.tenant == tenant).count() as u64),
        }
    }

    /// Forgets the stored answers of a tenant that a filter means; returns their ids.
    ///
    /// # Errors
    /// When the file cannot be read: then nothing is forgotten.
    pub async fn forget(&self, tenant: &str, filter: &Filter) -> Result<HashSet<String>, DatabaseError> {
        let mut meant: HashSet<String> = HashSet::new();
        let is_meant = |id: &str, model: &str, tags: &[String], created_ms: i64| {
            filter.id.as_ref().is_none_or(|wanted| wanted == id)
                && filter.model.as_ref().is_none_or(|wanted| wanted == model)
                && filter.tag.as_ref().is_none_or(|wanted| tags.contains(wanted))
                && filter.before_ms.is_none_or(|before_ms| created_ms < before_ms)
        };
        if let Some(file) = &self.file {
            for stored in file.listed(tenant, now_ms()).await? {
                let tags: Vec<String> = serde_json::from_str(&stored.tags).unwrap_or_default();
                if is_meant(&stored.id, &stored.model, &tags, stored.created_ms) {
                    meant.insert(stored.id);
                }
            }
        }
        for (_, entry) in &self.memory {
            if entry.tenant == tenant && is_meant(&entry.id, &entry.model, &entry.tags, entry.created_ms) {
                meant.insert(entry.id.clone());
            }
        }
        self.drop_answers(tenant, &meant, HashSet::new()).await;
        Ok(meant)
    }

    /// Forgets what was stored of these requests: their answers, and everything that leads to what they were led to, since that
    /// is kept by answer. Without a file that says what led where, everything of the tenant.
    ///
    /// # Errors
    /// When the cache's file cannot be read; nothing was forgotten then.
    pub async fn erase(&self, tenant: &str, requests: &[String]) -> Result<(), DatabaseError> {
        let Some(file) = &self.file else {
            self.begin_epoch(tenant).await;
            return Ok(());
        };
        let led_to = file.led_to(tenant, requests).await?;
        self.drop_answers(tenant, &requests.iter().cloned().collect(), led_to).await;
        Ok(())
    }

    /// Drops answers, and what leads to them or to `others`.
    async fn drop_answers(&self, tenant: &str, meant: &HashSet<String>, others: HashSet<String>) {
        for id in meant {
            if let Some(fingerprint) = self.by_id.remove(id)
                && self.memory.get(&fingerprint).is_some_and(|entry| entry.id == *id)
            {
                self.memory.invalidate(&fingerprint);
            }
            self.write(CacheWrite::Forget { tenant_id: tenant.to_owned(), answer_id: id.clone() });
        }
        if let Some(meaning) = self.meaning.as_ref().filter(|_| !meant.is_empty()) {
            let gone: HashSet<AnswerId> = meant.iter().chain(&others).map(|id| id.as_str().into()).collect();
            let answers = meaning.level.leading_to(gone);
            for answer in answers.iter().filter(|answer| !meant.contains(&***answer)) {
                let (tenant_id, answer_id) = (tenant.to_owned(), answer.to_string());
                self.write(CacheWrite::ForgetPrompts { tenant_id, answer_id });
            }
            meaning.prompts.forget(Which { tenant, answers: Some(&answers) }).await;
        }
    }

    /// Forgets everything of a tenant at once.
    pub async fn begin_epoch(&self, tenant: &str) {
        let epoch = {
            let mut epochs = self.epochs.write().unwrap_or_else(PoisonError::into_inner);
            let epoch = epochs.entry(tenant.to_owned()).or_insert(0);
            *epoch += 1;
            *epoch
        };
        self.write(CacheWrite::Epoch { tenant_id: tenant.to_owned(), epoch });
        if let Some(meaning) = &self.meaning {
            meaning.prompts.forget(Which { tenant, answers: None }).await;
        }
    }

    /// Removes prompts that have expired by then from the vector store, which does so by itself every few minutes; returns
    /// how many.
    ///
    /// # Errors
    /// When the store does not do so.
    pub async fn sweep_prompts(&self, now_ms: i64) -> Result<u64, StoreError> {
        match &self.meaning {
            Some(meaning) => meaning.prompts.sweep(now_ms).await,
            None => Ok(0),
        }
    }

    fn write(&self, change: CacheWrite) {
        if let Some(queue) = &self.queue
            && queue.try_send(change).is_err()
        {
            tracing::warn!("the cache file is behind: a change is kept in memory only");
        }
    }
}

pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
