//! Budgets, what limits spending, and leases: the part of a budget that one gateway may spend by itself. What was settled and
//! what is leased never exceed the limit together.

use crate::bookings::WINDOW;
use crate::connection::{Database, DatabaseError};
use crate::replicas::renew_in;
use crate::store::{Transaction, sql};

/// The kinds of budgets, as their ids begin.
pub(crate) const KEY: &str = "key";
pub(crate) const TENANT: &str = "tenant";
pub(crate) const CREDITS: &str = "credits";
pub(crate) const USER: &str = "user";

/// The id of the budget of a key (`key`, its hash), or of a tenant (`tenant` or `credits`, its id).
pub fn budget_id(kind: &str, of: &str) -> String {
    format!("{kind}:{of}")
}

/// The id of the budget of a tenant's end user.
pub fn user_budget_id(tenant_id: &str, user: &str) -> String {
    format!("{USER}:{tenant_id}/{user}")
}

/// One budget as it is stored. `spent_nano` is of the window that began at `window_ms`, or 0 where a later one has begun.
#[derive(Debug, Clone, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct BudgetRow {
    pub id: String,
    pub tenant_id: String,
    /// Without it, spending is only counted.
    pub limit_nano: Option<i64>,
    /// `daily`, `weekly`, `monthly`, or nothing.
    pub reset: String,
    pub window_ms: i64,
    pub spent_nano: i64,
    pub updated_ms: i64,
}

/// What a gateway asks for.
#[derive(Debug, Clone, Copy)]
pub struct WantedLease<'a> {
    pub budget_id: &'a str,
    pub replica_id: &'a str,
    /// What it lacks now.
    pub nano: i64,
}

/// What it got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leased {
    pub granted_nano: i64,
    /// What nobody holds after that; below zero where more was spent than allowed.
    pub left_nano: i64,
    /// True where other gateways hold a part, which they give back when they are asked.
    pub others_hold: bool,
}

const BUDGET: &str = "SELECT id, tenant_id, limit_nano, reset, window_ms, updated_ms,
    CASE WHEN window_ms < {WINDOW} THEN 0 ELSE spent_nano END AS spent_nano FROM budgets";

fn budget(rest: &str) -> String {
    format!("{} {rest}", BUDGET.replace("{WINDOW}", WINDOW))
}

impl Database {
    /// Finds a budget.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn budget(&self, id: &str) -> Result<Option<BudgetRow>, DatabaseError> {
        sql(budget("WHERE id = $1")).bind(id).first(&self.store).await
    }

    /// The budgets of a tenant, by id.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn budgets_of(&self, tenant_id: &str) -> Result<Vec<BudgetRow>, DatabaseError> {
        sql(budget("WHERE tenant_id = $1 ORDER BY id")).bind(tenant_id).all(&self.store).await
    }

    /// Adds a budget, where there is none of this id.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn insert_budget(&self, row: &BudgetRow) -> Result<(), DatabaseError> {
        let mut transaction = self.store.begin().await?;
        insert_budget_in(&mut transaction, row).await?;
        transaction.commit().await
    }

    /// Budgets changed at or after a moment of the database's clock, for gateways to notice what others did.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn budgets_updated_since(&self, updated_ms: i64) -> Result<Vec<BudgetRow>, DatabaseError> {
        sql(budget("WHERE updated_ms >= $1")).bind(updated_ms).all(&self.store).await
    }

    /// Ids of the budgets of which a gateway found too little within the last `within_ms`.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn budgets_wanted(&self, within_ms: i64) -> Result<Vec<String>, DatabaseError> {
        let wanted = sql("SELECT id FROM budgets WHERE wanted_ms > 0 AND wanted_ms > {now} - $1");
        let ids: Vec<(String,)> = wanted.bind(within_ms).all(&self.store).await?;
        Ok(ids.into_iter().map(|(id,)| id).collect())
    }

    /// Leases what a gateway lacks, and more in advance: all that is left where the store is its own, else a part, so that
    /// others find some too.
    ///
    /// # Errors
    /// `Fenced` where others took the gateway for dead; when the database refuses.
    pub async fn lease(&self, wanted: WantedLease<'_>) -> Result<Leased, DatabaseError> {
        let mut transaction = self.store.begin().await?;
        renew_in(&mut transaction, wanted.replica_id).await?;
        // Locks the row, so that no other gateway leases the same money.
        let lock = sql(format!(
            "UPDATE budgets SET spent_nano = CASE WHEN window_ms < {WINDOW} THEN 0 ELSE spent_nano END,
             window_ms = CASE WHEN window_ms < {WINDOW} THEN {WINDOW} ELSE window_ms END WHERE id = $1"
        ));
        lock.bind(wanted.budget_id).execute_in(&mut transaction).await?;
        let row = sql(budget("WHERE id = $1")).bind(wanted.budget_id).first_in::<BudgetRow>(&mut transaction).await?;
        let Some((row, limit)) = row.and_then(|row| row.limit_nano.map(|limit| (row, limit))) else {
            return Ok(Leased::default()); // it has no limit any more, as the gateway will notice
        };
        let held = sql("SELECT CAST(COALESCE(SUM(nano), 0) AS BIGINT),
             CAST(COALESCE(SUM(CASE WHEN replica_id = $2 THEN 0 ELSE nano END), 0) AS BIGINT) FROM leases
             WHERE budget_id = $1");
        let held = held.bind(wanted.budget_id).bind(wanted.replica_id).first_in::<(i64, i64)>(&mut transaction);
        let (held, by_others) = held.await?.unwrap_or_default();
        let free = limit - row.spent_nano - held;
        let share = if self.is_shared() { free / (2 * replicas_in(&mut transaction).await?) } else { free };
        let granted = wanted.nano.max(share).min(free).max(0);
        if granted > 0 {
            let grant = sql("INSERT INTO leases (budget_id, replica_id, nano) VALUES ($1, $2, $3)
                 ON CONFLICT (budget_id, replica_id) DO UPDATE SET nano = leases.nano + excluded.nano");
            let grant = grant.bind(wanted.budget_id).bind(wanted.replica_id).bind(granted);
            grant.execute_in(&mut transaction).await?;
        }
        let others_hold = by_others > 0;
        if granted < wanted.nano && others_hold {
            let ask = sql("UPDATE budgets SET wanted_ms = {now} WHERE id = $1").bind(wanted.budget_id);
            ask.execute_in(&mut transaction).await?;
        }
        transaction.commit().await?;
        Ok(Leased { granted_nano: granted, left_nano: free - granted, others_hold })
    }

    /// Gives a part of a lease back.
    ///
    /// # Errors
    /// When the database refuses; then it is still leased.
    pub async fn give_back(&self, budget_id: &str, replica_id: &str, nano: i64) -> Result<(), DatabaseError> {
        let give = sql("UPDATE leases SET nano = nano - $3 WHERE budget_id = $1 AND replica_id = $2");
        give.bind(budget_id).bind(replica_id).bind(nano).execute(&self.store).await.map(|_| ())
    }

    /// What of a budget is leased, in nano-dollars.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn leased(&self, budget_id: &str) -> Result<i64, DatabaseError> {
        let sum = sql("SELECT CAST(COALESCE(SUM(nano), 0) AS BIGINT) FROM leases WHERE budget_id = $1");
        sum.bind(budget_id).number(&self.store).await
    }
}

async fn replicas_in(transaction: &mut Transaction) -> Result<i64, DatabaseError> {
    let count = sql("SELECT COUNT(*) FROM replicas").first_in::<(i64,)>(transaction).await?;
    Ok(count.map_or(1, |(count,)| count.max(1)))
}

pub(crate) async fn insert_budget_in(transaction: &mut Transaction, row: &BudgetRow) -> Result<(), DatabaseError> {
    let insert = sql("INSERT INTO budgets (id, tenant_id, limit_nano, reset, updated_ms)
         VALUES ($1, $2, $3, $4, {now}) ON CONFLICT DO NOTHING");
    let insert = insert.bind(&row.id).bind(&row.tenant_id).bind(row.limit_nano).bind(&row.reset);
    insert.execute_in(transaction).await?;
    Ok(())
}

/// Changes the limits of a budget. Where another reset applies, `spent_nano` is what was spent in its window.
pub(crate) async fn update_budget_in(
    transaction: &mut Transaction,
    row: &BudgetRow,
    spent_nano: Option<i64>,
) -> Result<(), DatabaseError> {
    let update = sql("UPDATE budgets SET limit_nano = $2, reset = $3, updated_ms = {now} WHERE id = $1");
    let update = update.bind(&row.id).bind(row.limit_nano).bind(&row.reset);
    update.execute_in(transaction).await?;
    if let Some(spent) = spent_nano {
        let begin = sql(format!("UPDATE budgets SET spent_nano = $2, window_ms = {WINDOW} WHERE id = $1"));
        begin.bind(&row.id).bind(spent).execute_in(transaction).await?;
    }
    Ok(())
}
