//! Tenants and the operator's key.

use crate::budgets::{BudgetRow, CREDITS, budget_id, change_budget_in, insert_budget_in, limit_users_in};
use crate::connection::{Database, DatabaseError};
use crate::credits::limit_credits_in;
use crate::keys::Changed;
use crate::store::sql;

/// One tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct TenantRow {
    pub id: String,
    pub name: String,
    pub created_ms: i64,
    /// Share of the turns beside other tenants, when an endpoint is at its limit.
    pub weight: i64,
    /// JSON: what its requests cost, and what holds for all its keys and users.
    pub terms: String,
    pub updated_ms: i64,
}

/// What limits the spending of a tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantLimits {
    /// Of all its keys together.
    pub budget: BudgetRow,
    /// Of each of its end users, and when that begins anew.
    pub user_nano: Option<i64>,
    pub user_reset: String,
    /// It spends only what it has in advance, were it nothing.
    pub is_prepaid: bool,
}

const COLUMNS: &str = "id, name, created_ms, weight, terms, updated_ms";

impl Database {
    /// Adds a tenant with its budgets; false when the id is taken.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn insert_tenant(&self, tenant: &TenantRow, limits: &TenantLimits) -> Result<bool, DatabaseError> {
        let mut transaction = self.store.begin().await?;
        let insert = sql("INSERT INTO tenants (id, name, created_ms, weight, terms, updated_ms)
             VALUES ($1, $2, $3, $4, $5, {now}) ON CONFLICT DO NOTHING");
        let insert = insert.bind(&tenant.id).bind(&tenant.name).bind(tenant.created_ms).bind(tenant.weight);
        if insert.bind(&tenant.terms).execute_in(&mut transaction).await? == 0 {
            return Ok(false);
        }
        insert_budget_in(&mut transaction, &limits.budget).await?;
        let credits =
            BudgetRow { id: budget_id(CREDITS, &tenant.id), tenant_id: tenant.id.clone(), ..BudgetRow::default() };
        insert_budget_in(&mut transaction, &credits).await?;
        limit_credits_in(&mut transaction, &tenant.id, limits.is_prepaid).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Changes a tenant and its limits, unless somebody else did since it was read; its name, weight and terms can change.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn update_tenant(&self, tenant: &TenantRow, limits: &TenantLimits) -> Result<Changed, DatabaseError> {
        let mut transaction = self.store.begin().await?;
        let update = sql("UPDATE tenants SET name = $3, weight = $4, terms = $5,
             updated_ms = CASE WHEN {now} > updated_ms THEN {now} ELSE updated_ms + 1 END
             WHERE id = $1 AND updated_ms = $2");
        let update = update.bind(&tenant.id).bind(tenant.updated_ms).bind(&tenant.name).bind(tenant.weight);
        if update.bind(&tenant.terms).execute_in(&mut transaction).await? == 0 {
            return Ok(Changed::Conflict);
        }
        limit_credits_in(&mut transaction, &tenant.id, limits.is_prepaid).await?; // first, as by who books
        change_budget_in(&mut transaction, &limits.budget, None).await?;
        limit_users_in(&mut transaction, &tenant.id, limits.user_nano, &limits.user_reset).await?;
        transaction.commit().await?;
        Ok(Changed::Done)
    }

    /// Finds a tenant.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn tenant(&self, id: &str) -> Result<Option<TenantRow>, DatabaseError> {
        sql(format!("SELECT {COLUMNS} FROM tenants WHERE id = $1")).bind(id).first(&self.store).await
    }

    /// All tenants, oldest first.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn tenants(&self) -> Result<Vec<TenantRow>, DatabaseError> {
        sql(format!("SELECT {COLUMNS} FROM tenants ORDER BY created_ms, id")).all(&self.store).await
    }

    /// Tenants changed at or after a moment of the database's clock.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn tenants_updated_since(&self, updated_ms: i64) -> Result<Vec<TenantRow>, DatabaseError> {
        let changed = sql(format!("SELECT {COLUMNS} FROM tenants WHERE updated_ms >= $1"));
        changed.bind(updated_ms).all(&self.store).await
    }

    /// The hashes of the operator's keys.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn admin_key_hashes(&self) -> Result<Vec<String>, DatabaseError> {
        let hashes: Vec<(String,)> = sql("SELECT hash FROM admin_keys").all(&self.store).await?;
        Ok(hashes.into_iter().map(|(hash,)| hash).collect())
    }

    /// Remembers a generated operator's key by its hash.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn insert_admin_key(&self, hash: &str, created_ms: i64) -> Result<(), DatabaseError> {
        let insert = sql("INSERT INTO admin_keys (hash, created_ms) VALUES ($1, $2)");
        insert.bind(hash).bind(created_ms).execute(&self.store).await.map(|_| ())
    }
}
