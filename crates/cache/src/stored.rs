//! The cache's memory and its file: rows to and from it, and the task that writes.

use crate::cache::{Meaning, SWEEP_EVERY, TIES_MS, now_ms};
use crate::entry::Entry;
use crate::semantic::Owner;
use crate::store::{Earlier, Row};
use database::{CacheFile, CacheWrite, StoredAnswer, StoredJudge, StoredPrompt};
use moka::sync::Cache as Memory;
use protocol::{Digest, Reply};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Changes made in one transaction at the most.
const BATCH_MAX: usize = 256;
/// What was learned is stored this often.
const LEARNED_EVERY: Duration = Duration::from_secs(30);

pub(crate) fn read(stored: &StoredAnswer) -> Option<(Digest, Arc<Entry>)> {
    let fingerprint = Digest(stored.fingerprint.as_slice().try_into().ok()?);
    let reply: Reply = serde_json::from_str(&stored.reply).ok()?;
    let entry = Entry {
        id: stored.id.clone(),
        tenant: stored.tenant_id.clone(),
        reply: Arc::new(reply),
        model: stored.model.clone(),
        provider: stored.provider.clone(),
        tags: serde_json::from_str(&stored.tags).unwrap_or_default(),
        created_ms: stored.created_ms,
        expires_ms: stored.expires_ms,
        bytes: bytes_of(&stored.reply),
    };
    Some((fingerprint, Arc::new(entry)))
}

/// `None` where a row is torn: it is left out.
pub(crate) fn read_row(stored: StoredPrompt) -> Option<Row> {
    let is_whole =
        |bytes: &[u8]| !bytes.is_empty() && bytes.len().is_multiple_of(4) && bytes.len() == stored.vector.len();
    if !is_whole(&stored.vector) || !stored.earlier_vector.as_deref().is_none_or(is_whole) {
        return None;
    }
    let earlier =
        stored.earlier_vector.map(|vector| Earlier { text: stored.earlier_prompt.into(), vector: floats(&vector) });
    Some(Row {
        tenant: stored.tenant_id.into(),
        scope: Digest(stored.scope.as_slice().try_into().ok()?),
        id: stored.id.into(),
        answer: stored.answer_id.into(),
        prompt: stored.prompt.into(),
        vector: floats(&stored.vector),
        earlier,
        principal: stored.principal,
        expires_ms: stored.expires_ms,
    })
}

pub(crate) fn store_row(embedder: &str, row: &Row, created_ms: i64) -> StoredPrompt {
    let earlier = row.earlier.as_ref();
    StoredPrompt {
        id: row.id.to_string(),
        tenant_id: row.tenant.to_string(),
        scope: row.scope.0.to_vec(),
        embedder: embedder.to_owned(),
        prompt: row.prompt.to_string(),
        vector: bytes(&row.vector),
        earlier_prompt: earlier.map(|earlier| earlier.text.to_string()).unwrap_or_default(),
        earlier_vector: earlier.map(|earlier| bytes(&earlier.vector)),
        principal: row.principal,
        answer_id: row.answer.to_string(),
        created_ms,
        expires_ms: row.expires_ms,
    }
}

pub(crate) fn bytes(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|x| x.to_le_bytes()).collect()
}

pub(crate) fn floats(bytes: &[u8]) -> Box<[f32]> {
    bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).collect()
}

/// About the memory of an answer with this JSON: its text is held twice as long as its JSON at the most.
pub(crate) fn bytes_of(json: &str) -> u32 {
    u32::try_from(1_024 + 2 * json.len()).unwrap_or(u32::MAX)
}

/// Writes changes until the last sender is gone, and keeps both levels' memory in order.
pub(crate) async fn write(
    file: CacheFile,
    mut queue: mpsc::Receiver<CacheWrite>,
    meaning: Option<Arc<Meaning>>,
    stale_ms: i64,
    in_memory: Memory<String, Digest>,
) {
    let (mut sweep, mut learned) = (tokio::time::interval(SWEEP_EVERY), tokio::time::interval(LEARNED_EVERY));
    let mut batch = Vec::with_capacity(BATCH_MAX);
    loop {
        let outcome = tokio::select! {
            count = queue.recv_many(&mut batch, BATCH_MAX) => {
                if count == 0 {
                    break;
                }
                let outcome = file.apply(&batch).await;
                batch.clear();
                outcome
            }
            _ = sweep.tick() => {
                if let (Some(meaning), Ok(living)) = (meaning.clone(), file.living(now_ms() - stale_ms).await) {
                    let in_memory = in_memory.clone();
                    // Of a million ties it takes a second.
                    let forgetting = tokio::task::spawn_blocking(move || {
                        let living: HashSet<String> = living.into_iter().collect();
                        let is_there = |id: &str| living.contains(id) || in_memory.contains_key(id);
                        meaning.level.retain_answers(|answer| is_there(answer));
                    });
                    let _done = forgetting.await;
                }
                file.sweep(now_ms() - stale_ms, now_ms() - TIES_MS).await.map(|_| ())
            }
            _ = learned.tick() => file.apply(&judges(meaning.as_deref())).await,
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "the cache file could not be written: changes live in memory only");
        }
    }
    if let Err(error) = file.apply(&judges(meaning.as_deref())).await {
        tracing::warn!(%error, "what was learned could not be stored");
    }
    file.close().await;
}

pub(crate) fn judges(meaning: Option<&Meaning>) -> Vec<CacheWrite> {
    let Some(meaning) = meaning else { return Vec::new() };
    let changed = meaning.level.changed_judges().into_iter();
    let store = |(owner, state): (Owner, String)| {
        CacheWrite::Judge(StoredJudge {
            tenant_id: owner.tenant,
            policy: owner.policy,
            embedder: meaning.embedder.clone(),
            state,
            updated_ms: now_ms(),
        })
    };
    changed.map(store).collect()
}
