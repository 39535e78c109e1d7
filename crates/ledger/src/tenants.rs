//! Tenants: made, read and changed by the operator.

use crate::keys::{LedgerError, Limits};
use crate::ledger::{Ledger, now_ms};
use crate::terms::Terms;
use catalog::NanoUsd;
use database::{BudgetRow, Changed, DatabaseError, TenantLimits, TenantRow, budget_id};

/// How often a change is tried again that the database gave up for another.
const DEADLOCKS_MAX: usize = 5;

/// A tenant as the operator sees it.
#[derive(Debug, Clone)]
pub struct TenantAccount {
    pub row: TenantRow,
    pub budget: BudgetRow,
    pub terms: Terms,
}

/// What a tenant should be.
#[derive(Debug, Clone, Default)]
pub struct WantedTenant {
    pub id: String,
    pub name: String,
    /// Share of the turns beside other tenants, when an endpoint is at its limit.
    pub weight: u32,
    /// What all its keys together may spend.
    pub limits: Limits,
    pub terms: Terms,
}

impl Ledger {
    /// Makes a tenant.
    ///
    /// # Errors
    /// When the id is taken or the database refuses.
    pub async fn create_tenant(&self, wanted: WantedTenant) -> Result<TenantAccount, LedgerError> {
        let row = TenantRow {
            id: wanted.id,
            name: wanted.name,
            created_ms: now_ms(),
            weight: i64::from(wanted.weight),
            terms: terms_json(&wanted.terms),
            updated_ms: 0,
        };
        let id = budget_id("tenant", &row.id);
        let budget = BudgetRow { id, tenant_id: row.id.clone(), ..wanted.limits.row() };
        if !self.database.insert_tenant(&row, &limits(budget, &wanted.terms)).await? {
            return Err(LedgerError::TenantExists(row.id));
        }
        self.tenant(&row.id).await?.ok_or(LedgerError::UnknownTenant(row.id))
    }

    /// All tenants, oldest first.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn tenants(&self) -> Result<Vec<TenantAccount>, DatabaseError> {
        self.writer.barrier().await;
        let mut accounts = Vec::new();
        for row in self.database.tenants().await? {
            accounts.push(self.with_budget(row).await?);
        }
        Ok(accounts)
    }

    /// One tenant.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn tenant(&self, id: &str) -> Result<Option<TenantAccount>, DatabaseError> {
        let Some(row) = self.database.tenant(id).await? else { return Ok(None) };
        self.writer.barrier().await;
        self.with_budget(row).await.map(Some)
    }

    async fn with_budget(&self, row: TenantRow) -> Result<TenantAccount, DatabaseError> {
        let budget = self.database.budget(&budget_id("tenant", &row.id)).await?.unwrap_or_default();
        Ok(TenantAccount { terms: Terms::stored(&row.id, &row.terms), row, budget })
    }

    /// Changes a tenant that was read: its name, weight, limits and terms.
    ///
    /// # Errors
    /// `Conflict` where somebody else changed it meanwhile; when the database refuses.
    pub async fn update_tenant(&self, tenant: &TenantAccount) -> Result<(), LedgerError> {
        let row = TenantRow { terms: terms_json(&tenant.terms), ..tenant.row.clone() };
        let limits = limits(tenant.budget.clone(), &tenant.terms);
        let mut tries = 0;
        let changed = loop {
            match self.database.update_tenant(&row, &limits).await {
                // Its end users' budgets are locked in another order than they are charged in.
                Err(error) if error.is_deadlock() && tries < DEADLOCKS_MAX => tries += 1,
                changed => break changed?,
            }
        };
        if changed == Changed::Conflict {
            return Err(LedgerError::Conflict);
        }
        self.forget_tenant(&row.id);
        self.reread_budgets(&row.id).await?;
        Ok(())
    }

    /// Takes over at once what was changed of a tenant's budgets here; other gateways notice by themselves.
    pub(crate) async fn reread_budgets(&self, tenant: &str) -> Result<(), DatabaseError> {
        for kind in ["tenant", "credits"] {
            if let Some(budget) = self.database.budget(&budget_id(kind, tenant)).await? {
                self.replica.refresh(&[budget]).await?;
            }
        }
        Ok(())
    }
}

fn limits(budget: BudgetRow, terms: &Terms) -> TenantLimits {
    let user = terms.user_limit.as_ref();
    TenantLimits {
        budget,
        user_nano: user.and_then(|limit| NanoUsd::from_usd(limit.usd)).map(|limit| limit.0),
        user_reset: user.map_or_else(String::new, |limit| limit.reset.clone()),
        is_prepaid: terms.prepaid,
    }
}

fn terms_json(terms: &Terms) -> String {
    serde_json::to_string(terms).unwrap_or_else(|error| unreachable!("lists and numbers are JSON: {error}"))
}
