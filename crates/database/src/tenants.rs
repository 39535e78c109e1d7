//! Tenants and the operator's key.

use crate::connection::{Database, DatabaseError};

/// One tenant.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct TenantRow {
    pub id: String,
    pub name: String,
    pub created_ms: i64,
    /// Share of the turns beside other tenants, when an endpoint is at its limit.
    pub weight: i64,
}

impl Database {
    /// Adds a tenant; false when the id is taken.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn insert_tenant(&self, tenant: &TenantRow) -> Result<bool, DatabaseError> {
        let query = sqlx::query(
            "INSERT INTO tenants (id, name, created_ms, weight) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        );
        let query = query.bind(&tenant.id).bind(&tenant.name).bind(tenant.created_ms).bind(tenant.weight);
        let done = query.execute(&self.write).await?;
        Ok(done.rows_affected() == 1)
    }

    /// Finds a tenant.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn tenant(&self, id: &str) -> Result<Option<TenantRow>, DatabaseError> {
        let query = sqlx::query_as("SELECT id, name, created_ms, weight FROM tenants WHERE id = $1");
        Ok(query.bind(id).fetch_optional(&self.read).await?)
    }

    /// The hashes of the operator's keys.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn admin_key_hashes(&self) -> Result<Vec<String>, DatabaseError> {
        Ok(sqlx::query_scalar("SELECT hash FROM admin_keys").fetch_all(&self.read).await?)
    }

    /// Remembers a generated operator's key by its hash.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn insert_admin_key(&self, hash: &str, created_ms: i64) -> Result<(), DatabaseError> {
        let query = sqlx::query("INSERT INTO admin_keys (hash, created_ms) VALUES ($1, $2)");
        query.bind(hash).bind(created_ms).execute(&self.write).await?;
        Ok(())
    }
}
