//! Reservations and settled generations: the two writes of every request.

use crate::connection::{Database, DatabaseError};
use serde::{Deserialize, Serialize};

/// Money set aside before an upstream call.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow, Serialize, Deserialize)]
pub struct Reservation {
    pub generation_id: String,
    pub tenant_id: String,
    pub key_hash: String,
    pub model: String,
    pub nano: i64,
    pub created_ms: i64,
    pub end_user: String,
    /// The gateway asks for itself: no key pays.
    #[serde(default)]
    pub is_free: bool,
    /// The generation that a comparison is made for.
    #[serde(default)]
    pub source: String,
}

/// The one record of a request: what it asked, what served it, what it cost and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, sqlx::FromRow, Serialize, Deserialize)]
pub struct Generation {
    pub id: String,
    pub tenant_id: String,
    pub key_hash: String,
    pub created_ms: i64,
    /// `served`, `failed`, `cancelled`, `unconfirmed` or, once that is closed, `reconciled`.
    pub state: String,
    pub model_asked: String,
    pub model: String,
    pub endpoint: String,
    pub provider: String,
    pub policy: String,
    pub streamed: bool,
    /// `exact`, `similar`, `coalesced`, `miss` or `bypass`.
    pub cache: String,
    /// The generation whose answer was given again.
    pub cache_source: String,
    pub input_tokens: i64,
    pub cache_read_tokens: i64,
    pub cache_write_tokens: i64,
    pub output_tokens: i64,
    pub reasoning_tokens: i64,
    pub estimated: bool,
    pub reserved_nano: i64,
    pub upstream_nano: i64,
    pub charged_nano: i64,
    /// What the provider took above the reservation.
    pub overrun_nano: i64,
    pub saved_nano: i64,
    pub latency_ms: i64,
    /// Time it waited for an endpoint at its limit.
    pub queue_ms: i64,
    pub finish_reason: String,
    pub end_user: String,
    /// JSON list of tries.
    pub attempts: String,
    /// JSON of the decision trace.
    pub reasons: String,
    pub failure: String,
}

const INSERT_GENERATION: &str =
    "INSERT INTO generations (id, tenant_id, key_hash, created_ms, state, model_asked, model,
    endpoint, provider, policy, streamed, cache, cache_source, input_tokens, cache_read_tokens, cache_write_tokens, output_tokens,
    reasoning_tokens, estimated, reserved_nano, upstream_nano, charged_nano, overrun_nano, saved_nano, latency_ms, queue_ms,
    finish_reason, end_user, attempts, reasons, failure)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23,
    $24, $25, $26, $27, $28, $29, $30, $31)";

impl Database {
    /// Writes reservations and settlements in one transaction: all of them or none.
    ///
    /// # Errors
    /// When the database refuses; then nothing of the batch is stored.
    pub async fn commit(&self, reservations: &[Reservation], settled: &[Generation]) -> Result<(), DatabaseError> {
        let mut transaction = self.write.begin().await?;
        for reservation in reservations {
            let query = sqlx::query(
                "INSERT INTO reservations (generation_id, tenant_id, key_hash, model, nano, created_ms, end_user, is_free, source)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            );
            bound(query, reservation).execute(&mut *transaction).await?;
        }
        for generation in settled {
            insert(&mut transaction, generation).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Books a journal: what the database knows already is left as it is.
    ///
    /// # Errors
    /// When the database refuses; then nothing of it is stored.
    pub async fn replay(&self, reservations: &[Reservation], settled: &[Generation]) -> Result<(), DatabaseError> {
        let mut transaction = self.write.begin().await?;
        for reservation in reservations {
            let query = sqlx::query(
                "INSERT INTO reservations (generation_id, tenant_id, key_hash, model, nano, created_ms, end_user, is_free, source)
                 SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9 WHERE NOT EXISTS (SELECT 1 FROM generations WHERE id = $1)
                 ON CONFLICT DO NOTHING",
            );
            bound(query, reservation).execute(&mut *transaction).await?;
        }
        for generation in settled {
            let known = sqlx::query("SELECT 1 FROM generations WHERE id = $1").bind(&generation.id);
            if known.fetch_optional(&mut *transaction).await?.is_none() {
                insert(&mut transaction, generation).await?;
            }
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Proves that the database takes writes.
    ///
    /// # Errors
    /// When it does not.
    pub async fn check_writable(&self) -> Result<(), DatabaseError> {
        let mut transaction = self.write.begin().await?;
        let touched = "UPDATE tenants SET name = name WHERE id = (SELECT id FROM tenants LIMIT 1)";
        sqlx::query(touched).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Finds a generation of a tenant.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn generation(&self, tenant_id: &str, id: &str) -> Result<Option<Generation>, DatabaseError> {
        let query = sqlx::query_as("SELECT * FROM generations WHERE tenant_id = $1 AND id = $2");
        Ok(query.bind(tenant_id).bind(id).fetch_optional(&self.read).await?)
    }

    /// Sums over all settled generations of a key: how many there are and what they were charged, in nano-dollars.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn charged_to_key(&self, key_hash: &str) -> Result<(i64, i64), DatabaseError> {
        let sums = "SELECT COUNT(*), COALESCE(SUM(charged_nano), 0) FROM generations WHERE key_hash = $1";
        Ok(sqlx::query_as(sums).bind(key_hash).fetch_one(&self.read).await?)
    }

    /// What the gateway's own comparisons have cost since a time, in nano-dollars.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn compared_since(&self, since_ms: i64) -> Result<i64, DatabaseError> {
        let sum = "SELECT COALESCE(SUM(upstream_nano), 0) FROM generations
             WHERE cache = 'shadow' AND cache_source <> '' AND created_ms >= $1";
        Ok(sqlx::query_scalar(sum).bind(since_ms).fetch_one(&self.read).await?)
    }

    /// How many reservations are open.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn open_reservations(&self) -> Result<i64, DatabaseError> {
        Ok(sqlx::query_scalar("SELECT COUNT(*) FROM reservations").fetch_one(&self.read).await?)
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

fn bound<'q>(query: Query<'q>, reservation: &'q Reservation) -> Query<'q> {
    let query = query.bind(&reservation.generation_id).bind(&reservation.tenant_id).bind(&reservation.key_hash);
    let query = query.bind(&reservation.model).bind(reservation.nano).bind(reservation.created_ms);
    query.bind(&reservation.end_user).bind(reservation.is_free).bind(&reservation.source)
}

pub(crate) async fn insert(
    transaction: &mut sqlx::Transaction<'_, sqlx::Sqlite>,
    generation: &Generation,
) -> Result<(), DatabaseError> {
    let g = generation;
    let query = sqlx::query(INSERT_GENERATION)
        .bind(&g.id)
        .bind(&g.tenant_id)
        .bind(&g.key_hash)
        .bind(g.created_ms)
        .bind(&g.state)
        .bind(&g.model_asked)
        .bind(&g.model)
        .bind(&g.endpoint)
        .bind(&g.provider)
        .bind(&g.policy)
        .bind(g.streamed)
        .bind(&g.cache)
        .bind(&g.cache_source)
        .bind(g.input_tokens)
        .bind(g.cache_read_tokens)
        .bind(g.cache_write_tokens)
        .bind(g.output_tokens)
        .bind(g.reasoning_tokens)
        .bind(g.estimated)
        .bind(g.reserved_nano)
        .bind(g.upstream_nano)
        .bind(g.charged_nano)
        .bind(g.overrun_nano)
        .bind(g.saved_nano)
        .bind(g.latency_ms)
        .bind(g.queue_ms)
        .bind(&g.finish_reason)
        .bind(&g.end_user)
        .bind(&g.attempts)
        .bind(&g.reasons)
        .bind(&g.failure);
    query.execute(&mut **transaction).await?;
    let close = sqlx::query("DELETE FROM reservations WHERE generation_id = $1");
    close.bind(&g.id).execute(&mut **transaction).await?;
    let charge = sqlx::query("UPDATE keys SET usage_nano = usage_nano + $2 WHERE hash = $1");
    charge.bind(&g.key_hash).bind(g.charged_nano).execute(&mut **transaction).await?;
    Ok(())
}
