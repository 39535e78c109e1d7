//! Virtual keys; the key itself is never stored, only its hash.

use crate::connection::{Database, DatabaseError};

/// One virtual key.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct KeyRow {
    /// SHA-256 of the key, hexadecimal.
    pub hash: String,
    pub tenant_id: String,
    pub name: String,
    /// The beginning and end of the key, for people to recognise it.
    pub label: String,
    pub limit_nano: Option<i64>,
    pub usage_nano: i64,
    pub disabled: bool,
    pub created_ms: i64,
    pub updated_ms: i64,
    /// The highest is served first when an endpoint is at its limit.
    pub priority: i64,
    /// Sum of corrections made after settlement.
    pub adjusted_nano: i64,
    /// Its tenant's share of the turns beside other tenants.
    pub tenant_weight: i64,
}

impl Database {
    /// Adds a key.
    ///
    /// # Errors
    /// When the database refuses, as for an unknown tenant.
    pub async fn insert_key(&self, key: &KeyRow) -> Result<(), DatabaseError> {
        let query = sqlx::query(
            "INSERT INTO keys (hash, tenant_id, name, label, limit_nano, usage_nano, disabled, created_ms, updated_ms,
             priority) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        );
        let query = query.bind(&key.hash).bind(&key.tenant_id).bind(&key.name).bind(&key.label).bind(key.limit_nano);
        let query = query.bind(key.usage_nano).bind(key.disabled).bind(key.created_ms).bind(key.updated_ms);
        let query = query.bind(key.priority);
        query.execute(&self.write).await?;
        Ok(())
    }

    /// Finds a key by its hash.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn key(&self, hash: &str) -> Result<Option<KeyRow>, DatabaseError> {
        let query = sqlx::query_as("SELECT * FROM weighted_keys WHERE hash = $1");
        Ok(query.bind(hash).fetch_optional(&self.read).await?)
    }

    /// All keys of a tenant, or of all tenants, oldest first.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn keys(&self, tenant_id: Option<&str>) -> Result<Vec<KeyRow>, DatabaseError> {
        let query =
            sqlx::query_as("SELECT * FROM weighted_keys WHERE $1 IS NULL OR tenant_id = $1 ORDER BY created_ms, hash");
        Ok(query.bind(tenant_id).fetch_all(&self.read).await?)
    }

    /// Keys changed at or after a moment, for gateways to notice what another process did.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn keys_updated_since(&self, updated_ms: i64) -> Result<Vec<KeyRow>, DatabaseError> {
        let query = sqlx::query_as("SELECT * FROM weighted_keys WHERE updated_ms >= $1");
        Ok(query.bind(updated_ms).fetch_all(&self.read).await?)
    }

    /// Disables a key named by its hash, a beginning of it that is unique, or its name; returns how many matched. Only
    /// a single match is changed.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn disable_key(&self, named: &str, now_ms: i64) -> Result<u64, DatabaseError> {
        let matches =
            "SELECT hash FROM keys WHERE disabled = FALSE AND (name = $1 OR substr(hash, 1, length($1)) = $1)";
        let hashes: Vec<String> = sqlx::query_scalar(matches).bind(named).fetch_all(&self.write).await?;
        if let [hash] = hashes.as_slice() {
            let query = sqlx::query("UPDATE keys SET disabled = TRUE, updated_ms = $2 WHERE hash = $1");
            query.bind(hash).bind(now_ms).execute(&self.write).await?;
        }
        Ok(hashes.len() as u64)
    }
}
