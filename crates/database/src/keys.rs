//! Virtual keys; the key itself is never stored, only its hash.

use crate::budgets::{BudgetRow, change_budget_in, insert_budget_in};
use crate::connection::{Database, DatabaseError};
use crate::store::{Statement, sql};

/// One virtual key.
#[derive(Debug, Clone, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct KeyRow {
    /// SHA-256 of the key, hexadecimal.
    pub hash: String,
    pub tenant_id: String,
    pub name: String,
    /// The beginning and end of the key, for people to recognise it.
    pub label: String,
    /// `member` or `manager`.
    pub role: String,
    /// Who made it, as they say.
    pub creator: Option<String>,
    /// What all its requests were charged.
    pub usage_nano: i64,
    pub disabled: bool,
    pub created_ms: i64,
    pub updated_ms: i64,
    pub expires_ms: Option<i64>,
    pub deleted: bool,
    /// The highest is served first when an endpoint is at its limit.
    pub priority: i64,
    /// JSON: what it may ask for, and how often.
    pub rules: String,
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    Done,
    /// Somebody else changed the row since it was read.
    Conflict,
}

const COLUMNS: &str = "hash, tenant_id, name, label, role, creator, usage_nano, disabled, created_ms, updated_ms,
    expires_ms, deleted, priority, rules";

fn select(rest: &str) -> Statement<'static> {
    sql(format!("SELECT {COLUMNS} FROM keys {rest}"))
}

impl Database {
    /// Adds a key with its budget.
    ///
    /// # Errors
    /// When the database refuses, as for an unknown tenant.
    pub async fn insert_key(&self, key: &KeyRow, budget: &BudgetRow) -> Result<(), DatabaseError> {
        let mut transaction = self.store.begin().await?;
        let insert = sql("INSERT INTO keys (hash, tenant_id, name, label, role, creator, disabled, created_ms,
             updated_ms, expires_ms, priority, rules) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, {now}, $9, $10, $11)");
        let insert = insert.bind(&key.hash).bind(&key.tenant_id).bind(&key.name).bind(&key.label).bind(&key.role);
        let insert = insert.bind(key.creator.as_deref()).bind(key.disabled).bind(key.created_ms).bind(key.expires_ms);
        insert.bind(key.priority).bind(&key.rules).execute_in(&mut transaction).await?;
        insert_budget_in(&mut transaction, budget).await?;
        transaction.commit().await
    }

    /// Finds a key by its hash, also one that was deleted.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn key(&self, hash: &str) -> Result<Option<KeyRow>, DatabaseError> {
        select("WHERE hash = $1").bind(hash).first(&self.store).await
    }

    /// All keys of a tenant, or of all tenants, oldest first.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn keys(&self, tenant_id: Option<&str>) -> Result<Vec<KeyRow>, DatabaseError> {
        let keys = select("WHERE NOT deleted AND ($1 IS NULL OR tenant_id = $1) ORDER BY created_ms, hash");
        keys.bind(tenant_id).all(&self.store).await
    }

    /// Keys changed at or after a moment of the database's clock, for gateways to notice what others did.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn keys_updated_since(&self, updated_ms: i64) -> Result<Vec<KeyRow>, DatabaseError> {
        select("WHERE updated_ms >= $1").bind(updated_ms).all(&self.store).await
    }

    /// Changes a key and its budget, unless somebody else did since `key` was read; its name, state, end, rules and
    /// priority can change.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn update_key(&self, key: &KeyRow, budget: &BudgetRow) -> Result<Changed, DatabaseError> {
        let mut transaction = self.store.begin().await?;
        change_budget_in(&mut transaction, budget, Some(&key.hash)).await?; // budgets before keys, as bookings lock them
        // The time of a change is its version, so it moves on even within a millisecond.
        let update = sql("UPDATE keys SET name = $3, disabled = $4, deleted = $5, expires_ms = $6, priority = $7,
             rules = $8, updated_ms = CASE WHEN {now} > updated_ms THEN {now} ELSE updated_ms + 1 END
             WHERE hash = $1 AND updated_ms = $2 AND NOT deleted");
        let update = update.bind(&key.hash).bind(key.updated_ms).bind(&key.name).bind(key.disabled).bind(key.deleted);
        let update = update.bind(key.expires_ms).bind(key.priority).bind(&key.rules);
        if update.execute_in(&mut transaction).await? == 0 {
            return Ok(Changed::Conflict);
        }
        transaction.commit().await?;
        Ok(Changed::Done)
    }

    /// Disables a key named by its hash, a beginning of it that is unique, or its name; returns how many matched. Only
    /// a single match is changed.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn disable_key(&self, named: &str) -> Result<u64, DatabaseError> {
        let matches = sql("SELECT hash FROM keys
             WHERE NOT disabled AND NOT deleted AND (name = $1 OR substr(hash, 1, length($1)) = $1)");
        let hashes: Vec<(String,)> = matches.bind(named).all(&self.store).await?;
        if let [(hash,)] = hashes.as_slice() {
            let update = sql("UPDATE keys SET disabled = TRUE, updated_ms = {now} WHERE hash = $1");
            update.bind(hash).execute(&self.store).await?;
        }
        Ok(hashes.len() as u64)
    }
}
