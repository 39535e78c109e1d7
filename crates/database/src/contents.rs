//! Contents: prompts and answers of tenants who agreed to that, and scores of answers; in a file of their own, or in tables
//! of their own in PostgreSQL.

use crate::connection::{DatabaseConfig, DatabaseError, content_path, open_pools, open_postgres};
use crate::store::{Store, sql};
use sqlx::migrate::Migrator;
use std::path::Path;
use std::sync::LazyLock;

static CONTENT: Migrator = sqlx::migrate!("migrations/content");
/// Beside the tables of money, whose migrations have a list of their own.
static CONTENT_BESIDE: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = sqlx::migrate!("migrations/content");
    migrator.dangerous_set_table_name("content_migrations");
    migrator
});

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

/// Where contents are kept.
#[derive(Debug, Clone)]
pub struct ContentFile {
    pub(crate) store: Store,
}

impl ContentFile {
    /// Opens the file, creating it where missing; `bytes_max` is the most that it grows to.
    ///
    /// # Errors
    /// When the file cannot be made, or its schema is newer than this binary.
    pub async fn open(path: &Path, bytes_max: Option<u64>) -> Result<Self, DatabaseError> {
        let (write, read) = open_pools(path, &CONTENT, bytes_max).await?;
        Ok(Self { store: Store::Sqlite { write, read } })
    }

    /// Opens what belongs to a database: the file beside a file, or tables in the same PostgreSQL.
    ///
    /// # Errors
    /// When it cannot be opened, or its schema is newer than this binary.
    pub async fn beside(database: &DatabaseConfig, bytes_max: Option<u64>) -> Result<Self, DatabaseError> {
        if database.url.is_postgres() {
            let store = open_postgres(&database.url, database.durability, &CONTENT_BESIDE).await?;
            return Ok(Self { store });
        }
        Self::open(&content_path(&database.local_path()), bytes_max).await
    }

    /// Stores contents in one transaction; one that is there is left as it is.
    ///
    /// # Errors
    /// When the store refuses; then none is stored.
    pub async fn keep(&self, contents: &[Content]) -> Result<(), DatabaseError> {
        let mut transaction = self.store.begin().await?;
        for content in contents {
            let c = content;
            let query = sql(
                "INSERT INTO contents (generation_id, tenant_id, created_ms, end_user, policy, model, question, messages,
                 answer, output_tokens, cost_nano, source_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
                 ON CONFLICT (generation_id) DO NOTHING",
            );
            let query = query.bind(&c.generation_id).bind(&c.tenant_id).bind(c.created_ms).bind(&c.end_user);
            let query = query.bind(&c.policy).bind(&c.model).bind(&c.question).bind(&c.messages).bind(&c.answer);
            let query = query.bind(c.output_tokens).bind(c.cost_nano).bind(&c.source_id);
            query.execute_in(&mut transaction).await?;
        }
        transaction.commit().await
    }

    /// Stores scores in one transaction; of one rater the latest counts.
    ///
    /// # Errors
    /// When the store refuses; then none is stored.
    pub async fn rate(&self, scores: &[Score]) -> Result<(), DatabaseError> {
        let mut transaction = self.store.begin().await?;
        for score in scores {
            let query = sql(
                "INSERT INTO scores (tenant_id, generation_id, rater, score, created_ms) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (tenant_id, generation_id, rater)
                 DO UPDATE SET score = excluded.score, created_ms = excluded.created_ms",
            );
            let query = query.bind(&score.tenant_id).bind(&score.generation_id).bind(&score.rater);
            query.bind(score.score).bind(score.created_ms).execute_in(&mut transaction).await?;
        }
        transaction.commit().await
    }

    /// The content of a tenant's generation.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn content(&self, tenant_id: &str, generation_id: &str) -> Result<Option<Content>, DatabaseError> {
        let query = sql("SELECT * FROM contents WHERE tenant_id = $1 AND generation_id = $2");
        query.bind(tenant_id).bind(generation_id).first(&self.store).await
    }

    /// Up to so many contents after one of them, oldest first; of one tenant, where it is named.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn page(
        &self,
        tenant_id: Option<&str>,
        after: Option<&(i64, String)>,
        rows_max: i64,
    ) -> Result<Vec<Content>, DatabaseError> {
        let (after_ms, after_id) = after.map_or((i64::MIN, ""), |(time, id)| (*time, id));
        let query = sql(
            "SELECT * FROM contents WHERE ($1 IS NULL OR tenant_id = $1) AND (created_ms, generation_id) > ($2, $3)
             ORDER BY created_ms, generation_id LIMIT $4",
        );
        query.bind(tenant_id).bind(after_ms).bind(after_id).bind(rows_max).all(&self.store).await
    }

    /// The scores of a tenant's generation.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn scores(&self, tenant_id: &str, generation_id: &str) -> Result<Vec<Score>, DatabaseError> {
        let query = sql("SELECT * FROM scores WHERE tenant_id = $1 AND generation_id = $2 ORDER BY rater");
        query.bind(tenant_id).bind(generation_id).all(&self.store).await
    }

    /// How many contents of these tenants have been scored since a time.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn scored_since(&self, tenants: &[String], since_ms: i64) -> Result<u64, DatabaseError> {
        let mut count = 0;
        for tenant in tenants {
            let query = sql(
                "SELECT COUNT(DISTINCT scores.generation_id) FROM scores JOIN contents USING (tenant_id, generation_id)
                 WHERE scores.tenant_id = $1 AND scores.created_ms >= $2",
            );
            count += query.bind(tenant).bind(since_ms).number(&self.store).await?.unsigned_abs();
        }
        Ok(count)
    }

    /// Deletes what is older; returns how many contents.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn sweep(&self, before_ms: i64) -> Result<u64, DatabaseError> {
        sql("DELETE FROM scores WHERE created_ms < $1").bind(before_ms).execute(&self.store).await?;
        sql("DELETE FROM contents WHERE created_ms < $1").bind(before_ms).execute(&self.store).await
    }
}
