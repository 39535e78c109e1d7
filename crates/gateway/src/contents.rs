//! What tenants agreed to have kept: prompts, answers, and what somebody made of them; the router learns from it.

use crate::asked::{Asked, Purpose};
use crate::served::Served;
use crate::telemetry;
use database::{Content, ContentFile, DatabaseConfig, DatabaseError, Score};
use ledger::{DAY_MS, now_ms};
use protocol::DataCollection;
use serde::Deserialize;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The `[content]` table.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContentConfig {
    /// Whose prompts and answers are kept; nobody's by default.
    pub tenants: Vec<String>,
    /// For how long they, and scores, are kept.
    pub days: u32,
    /// The most that the file grows to.
    pub bytes_max: u64,
}

impl Default for ContentConfig {
    fn default() -> Self {
        Self { tenants: Vec::new(), days: 30, bytes_max: 4 << 30 }
    }
}

/// Prompt and answer together; longer ones are not kept.
const CONTENT_BYTES_MAX: usize = 256 * 1024;
/// Contents that wait to be written, 64 MiB at the most; beyond it they are dropped and counted.
const QUEUE_MAX: usize = 256;
const BATCH_MAX: usize = 128;
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);

/// Who says how good an answer was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rater {
    Client,
    /// The configured judge model.
    Judge,
    /// The rule that an answer is right which says what the baseline's says.
    Agreement,
}

impl Rater {
    fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Judge => "judge",
            Self::Agreement => "agreement",
        }
    }
}

/// The content file and the way into it.
#[derive(Debug, Clone)]
pub(crate) struct Contents {
    file: ContentFile,
    queue: mpsc::Sender<Content>,
}

impl Contents {
    /// Opens the file; the task ends once everything is stored, after the last clone is gone.
    pub(crate) async fn open(
        database: &DatabaseConfig,
        config: &ContentConfig,
    ) -> Result<(Self, JoinHandle<()>), DatabaseError> {
        let file = ContentFile::beside(database, Some(config.bytes_max)).await?;
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let writing = tokio::spawn(write(file.clone(), waiting, i64::from(config.days) * DAY_MS));
        Ok((Self { file, queue }, writing))
    }

    /// Keeps prompt and answer of a request that was served afresh.
    pub(crate) fn keep(&self, asked: &Asked, served: &Served) {
        let answer = served.reply.first_text().to_owned();
        let messages = asked.request.field_json("messages").unwrap_or_default();
        let question = asked.request.last_user_text().unwrap_or_default().into_owned();
        if messages.len() + question.len() + answer.len() > CONTENT_BYTES_MAX {
            telemetry::contents_dropped("too long", 1);
            return;
        }
        let content = Content {
            generation_id: asked.id.clone(),
            tenant_id: asked.caller.tenant().to_owned(),
            created_ms: now_ms(),
            end_user: asked.request.user.clone().unwrap_or_default(),
            policy: asked.policy.as_ref().map(|policy| policy.name.clone()).unwrap_or_default(),
            model: served.head.model.clone(),
            question,
            messages: messages.into_owned(),
            answer,
            output_tokens: i64::try_from(served.usage.completion_tokens()).unwrap_or(i64::MAX),
            cost_nano: served.upstream.0,
            source_id: asked.shadow.as_ref().map(|shadow| shadow.source.clone()).unwrap_or_default(),
        };
        if self.queue.try_send(content).is_err() {
            telemetry::contents_dropped("busy", 1);
        }
    }

    /// Stores what a rater makes of answers of a tenant.
    pub(crate) async fn rate(&self, tenant: &str, rater: Rater, scores: &[(String, f64)]) -> Result<(), DatabaseError> {
        let score = |(id, score): &(String, f64)| Score {
            tenant_id: tenant.to_owned(),
            generation_id: id.clone(),
            rater: rater.as_str().to_owned(),
            score: *score,
            created_ms: now_ms(),
        };
        telemetry::scored(rater.as_str(), scores.len() as u64);
        self.file.rate(&scores.iter().map(score).collect::<Vec<_>>()).await
    }

    /// Deletes what was kept of an end user; returns how many answers.
    pub(crate) async fn erase_user(&self, tenant: &str, user: &str) -> Result<u64, DatabaseError> {
        self.file.erase_user(tenant, user).await
    }

    /// Deletes what was kept of requests.
    pub(crate) async fn erase(&self, tenant: &str, ids: &[String]) -> Result<(), DatabaseError> {
        self.file.erase(tenant, ids).await
    }

    /// What was kept of a tenant's generation.
    pub(crate) async fn find(&self, tenant: &str, id: &str) -> Result<Option<Content>, DatabaseError> {
        self.file.content(tenant, id).await
    }
}

/// True where a request's prompt and answer may be kept: its tenant agreed, it says nothing else itself, and it is no errand
/// of the gateway's whose answer teaches nothing.
pub(crate) fn may_keep(config: &ContentConfig, asked: &Asked) -> bool {
    if asked.shadow.as_ref().is_some_and(|shadow| shadow.purpose != Purpose::Comparison) {
        return false;
    }
    let wishes = &asked.request.provider;
    let is_refused = wishes.zdr == Some(true) || wishes.data_collection == Some(DataCollection::Deny);
    !is_refused && config.tenants.iter().any(|tenant| tenant == asked.caller.tenant())
}

async fn write(file: ContentFile, mut waiting: mpsc::Receiver<Content>, life_ms: i64) {
    let (mut sweep, mut batch) = (tokio::time::interval(SWEEP_EVERY), Vec::with_capacity(BATCH_MAX));
    loop {
        let (dropped, outcome) = tokio::select! {
            count = waiting.recv_many(&mut batch, BATCH_MAX) => {
                if count == 0 {
                    return;
                }
                let outcome = file.keep(&batch).await;
                batch.clear();
                (count as u64, outcome)
            }
            _ = sweep.tick() => (0, file.sweep(now_ms() - life_ms).await.map(|_| ())),
        };
        if let Err(error) = outcome {
            telemetry::contents_dropped("not stored", dropped);
            tracing::warn!(%error, "the content file refused a write; answers go on");
        }
    }
}
