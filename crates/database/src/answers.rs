//! The cache's own file: stored answers and their vectors.

use crate::connection::{DatabaseError, open_pools};
use sqlx::migrate::Migrator;
use sqlx::sqlite::SqlitePool;
use std::path::Path;

static CACHE: Migrator = sqlx::migrate!("migrations/cache");

/// One stored answer.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct StoredAnswer {
    pub id: String,
    pub tenant_id: String,
    /// SHA-256 of the canonical request, 32 bytes.
    pub fingerprint: Vec<u8>,
    /// The context tag, 32 bytes, where the answer may be found by meaning.
    pub scope: Option<Vec<u8>>,
    /// Identity of the embedder that made `vector`.
    pub embedder: String,
    /// Little-endian f32 values.
    pub vector: Option<Vec<u8>>,
    /// The text of the last user turn, for the guards; empty where there is no vector.
    pub prompt: String,
    pub model: String,
    pub provider: String,
    /// The canonical reply as JSON.
    pub reply: String,
    pub created_ms: i64,
    pub expires_ms: i64,
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

    /// Stores answers in one transaction; an answer to the same request replaces the older one.
    ///
    /// # Errors
    /// When the database refuses; then nothing of the batch is stored.
    pub async fn store(&self, answers: &[StoredAnswer]) -> Result<(), DatabaseError> {
        let mut transaction = self.write.begin().await?;
        for a in answers {
            let query = sqlx::query(
                "INSERT INTO answers (id, tenant_id, fingerprint, scope, embedder, vector, prompt, model, provider,
                 reply, created_ms, expires_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
                 ON CONFLICT (tenant_id, fingerprint) DO UPDATE SET id = excluded.id, scope = excluded.scope,
                 embedder = excluded.embedder, vector = excluded.vector, prompt = excluded.prompt,
                 model = excluded.model, provider = excluded.provider, reply = excluded.reply,
                 created_ms = excluded.created_ms, expires_ms = excluded.expires_ms",
            );
            let query = query.bind(&a.id).bind(&a.tenant_id).bind(&a.fingerprint).bind(&a.scope).bind(&a.embedder);
            let query = query.bind(&a.vector).bind(&a.prompt).bind(&a.model).bind(&a.provider).bind(&a.reply);
            query.bind(a.created_ms).bind(a.expires_ms).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// The newest living answers, newest first.
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

    /// The newest `rows_max` living answers that have a vector of this embedder, without their replies, oldest first.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn vectors(
        &self,
        embedder: &str,
        now_ms: i64,
        rows_max: i64,
    ) -> Result<Vec<StoredAnswer>, DatabaseError> {
        let query = sqlx::query_as(
            "SELECT * FROM (SELECT id, tenant_id, fingerprint, scope, embedder, vector, prompt, model, provider,
             '' AS reply, created_ms, expires_ms FROM answers
             WHERE embedder = $1 AND vector IS NOT NULL AND scope IS NOT NULL AND expires_ms > $2
             ORDER BY created_ms DESC LIMIT $3) ORDER BY created_ms",
        );
        Ok(query.bind(embedder).bind(now_ms).bind(rows_max).fetch_all(&self.read).await?)
    }

    /// Deletes expired answers; returns how many.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn sweep(&self, now_ms: i64) -> Result<u64, DatabaseError> {
        let query = sqlx::query("DELETE FROM answers WHERE expires_ms <= $1");
        Ok(query.bind(now_ms).execute(&self.write).await?.rows_affected())
    }
}
