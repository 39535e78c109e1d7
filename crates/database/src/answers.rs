//! The cache's own file: stored answers, the prompts that lead to them, and what labels taught.

use crate::connection::{DatabaseError, open_pools};
use sqlx::migrate::Migrator;
use sqlx::sqlite::SqlitePool;
use sqlx::{Sqlite, Transaction};
use std::collections::HashSet;
use std::path::Path;

static CACHE: Migrator = sqlx::migrate!("migrations/cache");

/// One stored answer.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct StoredAnswer {
    pub id: String,
    pub tenant_id: String,
    /// SHA-256 of the canonical request, 32 bytes.
    pub fingerprint: Vec<u8>,
    pub model: String,
    pub provider: String,
    /// A JSON list of texts.
    pub tags: String,
    /// The canonical reply as JSON.
    pub reply: String,
    pub created_ms: i64,
    pub expires_ms: i64,
}

/// One prompt that can be found by meaning.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct StoredPrompt {
    /// The generation that asked it.
    pub id: String,
    pub tenant_id: String,
    /// The context tag, 32 bytes.
    pub scope: Vec<u8>,
    /// Identity of the embedder that made the vectors.
    pub embedder: String,
    /// The text of the last user turn.
    pub prompt: String,
    /// Little-endian f32 values.
    pub vector: Vec<u8>,
    /// The user turns before, and their vector; empty where there are none.
    pub earlier_prompt: String,
    pub earlier_vector: Option<Vec<u8>>,
    /// Stands for who asked.
    pub principal: i64,
    /// The stored answer that it leads to.
    pub answer_id: String,
    pub created_ms: i64,
    pub expires_ms: i64,
}

/// Something that a label said of answers.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct StoredTie {
    pub tenant_id: String,
    pub kind: String,
    pub a: String,
    pub b: String,
    pub created_ms: i64,
}

/// What was learned of the traffic of a tenant and policy.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct StoredJudge {
    pub tenant_id: String,
    pub policy: String,
    pub embedder: String,
    /// JSON.
    pub state: String,
    pub updated_ms: i64,
}

/// One change of the cache's file.
#[derive(Debug, Clone, PartialEq)]
pub enum CacheWrite {
    Answer(StoredAnswer),
    Prompt(StoredPrompt),
    Tie(StoredTie),
    Judge(StoredJudge),
    /// Removes an answer and the prompts that lead to it.
    Forget {
        tenant_id: String,
        answer_id: String,
    },
    /// Removes the prompts that lead to an answer.
    ForgetPrompts {
        tenant_id: String,
        answer_id: String,
    },
    /// Removes everything of a tenant, and begins a new epoch.
    Epoch {
        tenant_id: String,
        epoch: i64,
    },
}

/// The cache file; it may be deleted whenever the gateway is down.
#[derive(Debug, Clone)]
pub struct CacheFile {
    write: SqlitePool,
    read: SqlitePool,
}

impl CacheFile {
    /// Closes every connection to the file; other clones cannot use it any more.
    pub async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }

    /// Opens the file, creating it where missing.
    ///
    /// # Errors
    /// When it cannot be made, or its schema is newer than this binary.
    pub async fn open(path: &Path) -> Result<Self, DatabaseError> {
        let (write, read) = open_pools(path, &CACHE, None).await?;
        Ok(Self { write, read })
    }

    /// Makes changes in one transaction, in their order.
    ///
    /// # Errors
    /// When the database refuses; then none of them is made.
    pub async fn apply(&self, writes: &[CacheWrite]) -> Result<(), DatabaseError> {
        let mut transaction = self.write.begin().await?;
        for write in writes {
            match write {
                CacheWrite::Answer(answer) => store_answer(&mut transaction, answer).await?,
                CacheWrite::Prompt(prompt) => store_prompt(&mut transaction, prompt).await?,
                CacheWrite::Tie(tie) => store_tie(&mut transaction, tie).await?,
                CacheWrite::Judge(judge) => store_judge(&mut transaction, judge).await?,
                CacheWrite::Forget { tenant_id, answer_id } => {
                    for statement in [
                        "DELETE FROM prompts WHERE tenant_id = $1 AND answer_id = $2",
                        "DELETE FROM answers WHERE tenant_id = $1 AND id = $2",
                    ] {
                        sqlx::query(statement).bind(tenant_id).bind(answer_id).execute(&mut *transaction).await?;
                    }
                }
                CacheWrite::ForgetPrompts { tenant_id, answer_id } => {
                    let query = sqlx::query("DELETE FROM prompts WHERE tenant_id = $1 AND answer_id = $2");
                    query.bind(tenant_id).bind(answer_id).execute(&mut *transaction).await?;
                }
                CacheWrite::Epoch { tenant_id, epoch } => {
                    for statement in [
                        "DELETE FROM prompts WHERE tenant_id = $1",
                        "DELETE FROM answers WHERE tenant_id = $1",
                        "DELETE FROM ties WHERE tenant_id = $1",
                    ] {
                        sqlx::query(statement).bind(tenant_id).execute(&mut *transaction).await?;
                    }
                    let query = sqlx::query(
                        "INSERT INTO epochs (tenant_id, epoch) VALUES ($1, $2)
                         ON CONFLICT (tenant_id) DO UPDATE SET epoch = excluded.epoch",
                    );
                    query.bind(tenant_id).bind(epoch).execute(&mut *transaction).await?;
                }
            }
        }
        transaction.commit().await?;
        Ok(())
    }

    /// The newest answers that are still there at `now_ms`, newest first.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn newest(&self, now_ms: i64, rows_max: i64) -> Result<Vec<StoredAnswer>, DatabaseError> {
        let query = sqlx::query_as("SELECT * FROM answers WHERE expires_ms > $1 ORDER BY created_ms DESC LIMIT $2");
        Ok(query.bind(now_ms).bind(rows_max).fetch_all(&self.read).await?)
    }

    /// An answer by its id, where it has not expired.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn by_id(&self, tenant_id: &str, id: &str, now_ms: i64) -> Result<Option<StoredAnswer>, DatabaseError> {
        let query = sqlx::query_as("SELECT * FROM answers WHERE tenant_id = $1 AND id = $2 AND expires_ms > $3");
        Ok(query.bind(tenant_id).bind(id).bind(now_ms).fetch_optional(&self.read).await?)
    }

    /// The answers of a tenant that are still there, as id, model, tags and time, newest first.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn listed(&self, tenant_id: &str, now_ms: i64) -> Result<Vec<StoredAnswer>, DatabaseError> {
        let query = sqlx::query_as(
            "SELECT id, tenant_id, fingerprint, model, provider, tags, '' AS reply, created_ms, expires_ms
             FROM answers WHERE tenant_id = $1 AND expires_ms > $2 ORDER BY created_ms DESC",
        );
        Ok(query.bind(tenant_id).bind(now_ms).fetch_all(&self.read).await?)
    }

    /// A page of the living prompts of this embedder made since a time, newest first; `before` is the time and id of the last
    /// of the page before.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn prompts(
        &self,
        embedder: &str,
        (now_ms, since_ms): (i64, i64),
        before: Option<&(i64, String)>,
        rows_max: i64,
    ) -> Result<Vec<StoredPrompt>, DatabaseError> {
        let (before_ms, before_id) = before.map_or((i64::MAX, ""), |(time, id)| (*time, id));
        let query = sqlx::query_as(
            "SELECT * FROM prompts WHERE embedder = $1 AND expires_ms > $2 AND created_ms >= $3
             AND (created_ms, id) < ($4, $5) ORDER BY created_ms DESC, id DESC LIMIT $6",
        );
        let query = query.bind(embedder).bind(now_ms).bind(since_ms).bind(before_ms).bind(before_id).bind(rows_max);
        Ok(query.fetch_all(&self.read).await?)
    }

    /// How many living prompts of this embedder there are.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn prompts_count(&self, embedder: &str, now_ms: i64) -> Result<u64, DatabaseError> {
        let query = sqlx::query_scalar("SELECT COUNT(*) FROM prompts WHERE embedder = $1 AND expires_ms > $2");
        let count: i64 = query.bind(embedder).bind(now_ms).fetch_one(&self.read).await?;
        Ok(count.unsigned_abs())
    }

    /// The ids of all living answers.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn living(&self, now_ms: i64) -> Result<Vec<String>, DatabaseError> {
        let query = sqlx::query_scalar("SELECT id FROM answers WHERE expires_ms > $1");
        Ok(query.bind(now_ms).fetch_all(&self.read).await?)
    }

    /// The answers that these requests' prompts lead to.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn led_to(&self, tenant_id: &str, requests: &[String]) -> Result<HashSet<String>, DatabaseError> {
        let mut answers = HashSet::new();
        for id in requests {
            let query = sqlx::query_scalar("SELECT answer_id FROM prompts WHERE tenant_id = $1 AND id = $2");
            answers.extend(query.bind(tenant_id).bind(id).fetch_optional(&self.read).await?);
        }
        Ok(answers)
    }

    /// How many living answers a tenant has.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn count(&self, tenant_id: &str, now_ms: i64) -> Result<u64, DatabaseError> {
        let query = sqlx::query_scalar("SELECT COUNT(*) FROM answers WHERE tenant_id = $1 AND expires_ms > $2");
        let count: i64 = query.bind(tenant_id).bind(now_ms).fetch_one(&self.read).await?;
        Ok(count.unsigned_abs())
    }

    /// What tells this file from all others: `fresh`, where it has no such name yet.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn installation(&self, fresh: &str) -> Result<String, DatabaseError> {
        let insert = sqlx::query("INSERT INTO installation (one, id) VALUES (1, $1) ON CONFLICT (one) DO NOTHING");
        insert.bind(fresh).execute(&self.write).await?;
        Ok(sqlx::query_scalar("SELECT id FROM installation").fetch_one(&self.read).await?)
    }

    /// Every tie, oldest first.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn ties(&self, rows_max: i64) -> Result<Vec<StoredTie>, DatabaseError> {
        let query =
            sqlx::query_as("SELECT * FROM (SELECT * FROM ties ORDER BY created_ms DESC LIMIT $1) ORDER BY created_ms");
        Ok(query.bind(rows_max).fetch_all(&self.read).await?)
    }

    /// Everything learned with this embedder.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn judges(&self, embedder: &str) -> Result<Vec<StoredJudge>, DatabaseError> {
        let query = sqlx::query_as("SELECT * FROM judges WHERE embedder = $1");
        Ok(query.bind(embedder).fetch_all(&self.read).await?)
    }

    /// The epoch of each tenant that ever began a new one.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn epochs(&self) -> Result<Vec<(String, i64)>, DatabaseError> {
        Ok(sqlx::query_as("SELECT tenant_id, epoch FROM epochs").fetch_all(&self.read).await?)
    }

    /// Deletes what has expired, and ties older than `ties_before_ms`; returns how many answers.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn sweep(&self, now_ms: i64, ties_before_ms: i64) -> Result<u64, DatabaseError> {
        sqlx::query("DELETE FROM prompts WHERE expires_ms <= $1").bind(now_ms).execute(&self.write).await?;
        sqlx::query("DELETE FROM ties WHERE created_ms <= $1").bind(ties_before_ms).execute(&self.write).await?;
        let query = sqlx::query("DELETE FROM answers WHERE expires_ms <= $1");
        Ok(query.bind(now_ms).execute(&self.write).await?.rows_affected())
    }
}

type Writing<'a> = Transaction<'a, Sqlite>;

async fn store_answer(transaction: &mut Writing<'_>, a: &StoredAnswer) -> Result<(), DatabaseError> {
    let query = sqlx::query(
        "INSERT INTO answers (id, tenant_id, fingerprint, model, provider, tags, reply, created_ms, expires_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ON CONFLICT (id) DO NOTHING",
    );
    let query = query.bind(&a.id).bind(&a.tenant_id).bind(&a.fingerprint).bind(&a.model).bind(&a.provider);
    let query = query.bind(&a.tags).bind(&a.reply).bind(a.created_ms).bind(a.expires_ms);
    query.execute(&mut **transaction).await?;
    Ok(())
}

async fn store_prompt(transaction: &mut Writing<'_>, p: &StoredPrompt) -> Result<(), DatabaseError> {
    let query = sqlx::query(
        "INSERT INTO prompts (id, tenant_id, scope, embedder, prompt, vector, earlier_prompt, earlier_vector,
         principal, answer_id, created_ms, expires_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
         ON CONFLICT (id) DO UPDATE SET answer_id = excluded.answer_id, expires_ms = excluded.expires_ms",
    );
    let query = query.bind(&p.id).bind(&p.tenant_id).bind(&p.scope).bind(&p.embedder).bind(&p.prompt).bind(&p.vector);
    let query = query.bind(&p.earlier_prompt).bind(&p.earlier_vector).bind(p.principal).bind(&p.answer_id);
    query.bind(p.created_ms).bind(p.expires_ms).execute(&mut **transaction).await?;
    Ok(())
}

async fn store_tie(transaction: &mut Writing<'_>, t: &StoredTie) -> Result<(), DatabaseError> {
    let query = sqlx::query(
        "INSERT INTO ties (tenant_id, kind, a, b, created_ms) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (tenant_id, kind, a, b) DO NOTHING",
    );
    let query = query.bind(&t.tenant_id).bind(&t.kind).bind(&t.a).bind(&t.b).bind(t.created_ms);
    query.execute(&mut **transaction).await?;
    Ok(())
}

async fn store_judge(transaction: &mut Writing<'_>, j: &StoredJudge) -> Result<(), DatabaseError> {
    let query = sqlx::query(
        "INSERT INTO judges (tenant_id, policy, embedder, state, updated_ms) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (tenant_id, policy, embedder) DO UPDATE SET state = excluded.state,
         updated_ms = excluded.updated_ms",
    );
    let query = query.bind(&j.tenant_id).bind(&j.policy).bind(&j.embedder).bind(&j.state).bind(j.updated_ms);
    query.execute(&mut **transaction).await?;
    Ok(())
}
