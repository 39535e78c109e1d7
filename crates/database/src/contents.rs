//! The content file: prompts and answers of tenants who agreed to that, and scores of answers.

use crate::connection::{DatabaseError, open_pools};
use sqlx::migrate::Migrator;
use sqlx::sqlite::SqlitePool;
use std::path::Path;

static CONTENT: Migrator = sqlx::migrate!("migrations/content");

/// Prompt and answer of one generation.
#[derive(Debug, Clone, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct Content {
    pub generation_id: String,
    pub tenant_id: String,
    pub created_ms: i64,
    pub end_user: String,
    pub policy: String,
    /// The model that answered.
    pub model: String,
    /// The text of the last user turn.
    pub question: String,
    /// The request's messages, as JSON.
    pub messages: String,
    /// The text of the answer.
    pub answer: String,
    pub output_tokens: i64,
    /// What its provider took.
    pub cost_nano: i64,
    /// The generation whose question was asked again in the shadow; empty where a client asked.
    pub source_id: String,
}

/// What one rater makes of an answer.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Score {
    pub tenant_id: String,
    pub generation_id: String,
    /// `client`, `judge` or `agreement`.
    pub rater: String,
    /// 0 wrong, 1 right.
    pub score: f64,
    pub created_ms: i64,
}

/// The content file.
#[derive(Debug, Clone)]
pub struct ContentFile {
    write: SqlitePool,
    read: SqlitePool,
}

impl ContentFile {
    /// Opens the file, creating it where missing; `bytes_max` is the most that it grows to.
    ///
    /// # Errors
    /// When the file cannot be made, or its schema is newer than this binary.
    pub async fn open(path: &Path, bytes_max: Option<u64>) -> Result<Self, DatabaseError> {
        let (write, read) = open_pools(path, &CONTENT, bytes_max).await?;
        Ok(Self { write, read })
    }

    /// Stores contents in one transaction; one that is there is left as it is.
    ///
    /// # Errors
    /// When the file refuses; then none is stored.
    pub async fn keep(&self, contents: &[Content]) -> Result<(), DatabaseError> {
        let mut transaction = self.write.begin().await?;
        for content in contents {
            let c = content;
            let query = sqlx::query(
                "INSERT INTO contents (generation_id, tenant_id, created_ms, end_user, policy, model, question, messages,
                 answer, output_tokens, cost_nano, source_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
                 ON CONFLICT (generation_id) DO NOTHING",
            );
            let query = query.bind(&c.generation_id).bind(&c.tenant_id).bind(c.created_ms).bind(&c.end_user);
            let query = query.bind(&c.policy).bind(&c.model).bind(&c.question).bind(&c.messages).bind(&c.answer);
            let query = query.bind(c.output_tokens).bind(c.cost_nano).bind(&c.source_id);
            query.execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Stores scores in one transaction; of one rater the latest counts.
    ///
    /// # Errors
    /// When the file refuses; then none is stored.
    pub async fn rate(&self, scores: &[Score]) -> Result<(), DatabaseError> {
        let mut transaction = self.write.begin().await?;
        for score in scores {
            let query = sqlx::query(
                "INSERT INTO scores (tenant_id, generation_id, rater, score, created_ms) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (tenant_id, generation_id, rater)
                 DO UPDATE SET score = excluded.score, created_ms = excluded.created_ms",
            );
            let query = query.bind(&score.tenant_id).bind(&score.generation_id).bind(&score.rater);
            query.bind(score.score).bind(score.created_ms).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// The content of a tenant's generation.
    ///
    /// # Errors
    /// When the file refuses.
    pub async fn content(&self, tenant_id: &str, generation_id: &str) -> Result<Option<Content>, DatabaseError> {
        let query = sqlx::query_as("SELECT * FROM contents WHERE tenant_id = $1 AND generation_id = $2");
        Ok(query.bind(tenant_id).bind(generation_id).fetch_optional(&self.read).await?)
    }

    /// Up to so many contents after one of them, oldest first; of one tenant, where it is named.
    ///
    /// # Errors
    /// When the file refuses.
    pub async fn page(
        &self,
        tenant_id: Option<&str>,
        after: Option<&(i64, String)>,
        rows_max: i64,
    ) -> Result<Vec<Content>, DatabaseError> {
        let (after_ms, after_id) = after.map_or((i64::MIN, ""), |(time, id)| (*time, id));
        let query = sqlx::query_as(
            "SELECT * FROM contents WHERE ($1 IS NULL OR tenant_id = $1) AND (created_ms, generation_id) > ($2, $3)
             ORDER BY created_ms, generation_id LIMIT $4",
        );
        Ok(query.bind(tenant_id).bind(after_ms).bind(after_id).bind(rows_max).fetch_all(&self.read).await?)
    }

    /// The scores of a tenant's generation.
    ///
    /// # Errors
    /// When the file refuses.
    pub async fn scores(&self, tenant_id: &str, generation_id: &str) -> Result<Vec<Score>, DatabaseError> {
        let query = sqlx::query_as("SELECT * FROM scores WHERE tenant_id = $1 AND generation_id = $2 ORDER BY rater");
        Ok(query.bind(tenant_id).bind(generation_id).fetch_all(&self.read).await?)
    }

    /// How many contents of these tenants have been scored since a time.
    ///
    /// # Errors
    /// When the file refuses.
    pub async fn scored_since(&self, tenants: &[String], since_ms: i64) -> Result<u64, DatabaseError> {
        let mut count = 0;
        for tenant in tenants {
            let query = sqlx::query_scalar(
                "SELECT COUNT(DISTINCT scores.generation_id) FROM scores JOIN contents USING (tenant_id, generation_id)
                 WHERE scores.tenant_id = $1 AND scores.created_ms >= $2",
            );
            let of_tenant: i64 = query.bind(tenant).bind(since_ms).fetch_one(&self.read).await?;
            count += of_tenant.unsigned_abs();
        }
        Ok(count)
    }

    /// Deletes what is older; returns how many contents.
    ///
    /// # Errors
    /// When the file refuses.
    pub async fn sweep(&self, before_ms: i64) -> Result<u64, DatabaseError> {
        sqlx::query("DELETE FROM scores WHERE created_ms < $1").bind(before_ms).execute(&self.write).await?;
        let query = sqlx::query("DELETE FROM contents WHERE created_ms < $1");
        Ok(query.bind(before_ms).execute(&self.write).await?.rows_affected())
    }
}
