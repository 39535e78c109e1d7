//! The ledger: transfers between accounts, added and never changed.
//!
//! Each takes from `debit` and gives to `credit`, so that all accounts always sum to nothing. `tenant:ID` is what we owe a
//! tenant, `cash` what was paid to us, `revenue` what tenants were charged, `cost` what providers take and `provider:NAME` what
//! we owe one, `fees`, `promotion` and `expired` what their names say.

use crate::connection::{Database, DatabaseError};
use crate::store::{Transaction, groups, places, sql};
use serde::Serialize;

/// One movement of money.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Transfer {
    /// The generation, payment or refund that it belongs to; with `kind`, once.
    pub reference: String,
    /// `charge`, `cost`, `charge_correction`, `cost_correction`, `purchase`, `fee`, `grant`, `refund`, `expiry`.
    pub kind: String,
    pub tenant_id: String,
    pub debit: String,
    pub credit: String,
    pub nano: i64,
    pub created_ms: i64,
}

/// An account and what it holds: what was given to it less what was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct AccountBalance {
    pub account: String,
    pub nano: i64,
}

impl Database {
    /// Every account with what it holds, by name; they sum to nothing.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn balances(&self) -> Result<Vec<AccountBalance>, DatabaseError> {
        let sums = sql("SELECT account, CAST(SUM(nano) AS BIGINT) AS nano FROM (
             SELECT credit AS account, nano FROM transfers UNION ALL SELECT debit, -nano FROM transfers) AS sides
             GROUP BY account ORDER BY account");
        sums.all(&self.store).await
    }

    /// What was booked of a tenant from one time to before another, by kind: what it gave for it to have.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn tenant_transfers(
        &self,
        tenant_id: &str,
        from_ms: i64,
        to_ms: i64,
    ) -> Result<Vec<(String, i64)>, DatabaseError> {
        let sums = sql("SELECT kind, CAST(SUM(nano) AS BIGINT) FROM transfers
             WHERE tenant_id = $1 AND created_ms >= $2 AND created_ms < $3 GROUP BY kind ORDER BY kind");
        sums.bind(tenant_id).bind(from_ms).bind(to_ms).all(&self.store).await
    }

    /// What we owed a tenant at a time.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn owed(&self, tenant_id: &str, before_ms: i64) -> Result<i64, DatabaseError> {
        let account = format!("tenant:{tenant_id}");
        let sum =
            sql("SELECT CAST(COALESCE(SUM(CASE WHEN credit = $2 THEN nano WHEN debit = $2 THEN -nano ELSE 0 END), 0)
             AS BIGINT) FROM transfers WHERE tenant_id = $1 AND created_ms < $3");
        sum.bind(tenant_id).bind(&account).bind(before_ms).number(&self.store).await
    }

    /// Whose money, and how much of it, was booked under this reference and kind.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn transferred(&self, reference: &str, kind: &str) -> Result<Option<(String, i64)>, DatabaseError> {
        let known = sql("SELECT tenant_id, nano FROM transfers WHERE reference = $1 AND kind = $2");
        known.bind(reference).bind(kind).first(&self.store).await
    }
}

pub(crate) async fn insert_transfers(
    transaction: &mut Transaction,
    transfers: &[Transfer],
) -> Result<(), DatabaseError> {
    const COLUMNS: usize = 7;
    for group in groups(transfers, COLUMNS) {
        let mut insert = sql(format!(
            "INSERT INTO transfers (reference, kind, tenant_id, debit, credit, nano, created_ms) VALUES {}",
            places(group.len(), COLUMNS)
        ));
        for t in group {
            insert = insert.bind(&t.reference).bind(&t.kind).bind(&t.tenant_id).bind(&t.debit).bind(&t.credit);
            insert = insert.bind(t.nano).bind(t.created_ms);
        }
        insert.execute_in(transaction).await?;
    }
    Ok(())
}
