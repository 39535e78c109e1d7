//! Budgets, what limits spending, and leases: the part of a budget that one gateway may spend by itself. What was settled and
//! what is leased never exceed the limit together; a lease below zero, after a request that cost more than was set aside, is what
//! its gateway owes to its next lease, and nothing that others could have.

use crate::bookings::WINDOW;
use crate::connection::{Database, DatabaseError};
use crate::replicas::renew_in;
use crate::store::{Transaction, sql};
use crate::usage::spent_since_in;

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
    /// Where somebody is told, and nothing is refused.
    pub soft_nano: Option<i64>,
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
    /// The budget is there no more, as after its end user was erased.
    pub is_gone: bool,
}

const BUDGET: &str = "SELECT id, tenant_id, limit_nano, soft_nano, reset, window_ms, updated_ms,
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
        let Some(row) = row else { return Ok(Leased { is_gone: true, ..Leased::default() }) };
        let Some(limit) = row.limit_nano else {
            return Ok(Leased::default()); // it has no limit any more, as the gateway will notice
        };
        let held = sql("SELECT CAST(COALESCE(SUM(CASE WHEN replica_id = $2 THEN nano ELSE 0 END), 0) AS BIGINT),
             CAST(COALESCE(SUM(CASE WHEN replica_id <> $2 AND nano > 0 THEN nano ELSE 0 END), 0) AS BIGINT)
             FROM leases WHERE budget_id = $1");
        let held = held.bind(wanted.budget_id).bind(wanted.replica_id).first_in::<(i64, i64)>(&mut transaction);
        let (own, by_others) = held.await?.unwrap_or_default();
        let free = limit - row.spent_nano - own - by_others;
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
            ask_in(&mut transaction, wanted.budget_id).await?;
        }
        transaction.commit().await?;
        Ok(Leased { granted_nano: granted, left_nano: free - granted, others_hold, is_gone: false })
    }

    /// Gives a part of a lease back.
    ///
    /// # Errors
    /// When the database refuses; then it is still leased.
    pub async fn give_back(&self, budget_id: &str, replica_id: &str, nano: i64) -> Result<(), DatabaseError> {
        let give = sql("UPDATE leases SET nano = nano - $3 WHERE budget_id = $1 AND replica_id = $2");
        give.bind(budget_id).bind(replica_id).bind(nano).execute(&self.store).await.map(|_| ())
    }

    /// Forgets what end users spent in windows that were over before a time.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn sweep_user_budgets(&self, before_ms: i64) -> Result<u64, DatabaseError> {
        let over = sql("DELETE FROM budgets WHERE id LIKE 'user:%' AND reset <> '' AND window_ms < $1
             AND updated_ms < $1 AND NOT EXISTS (SELECT 1 FROM leases WHERE budget_id = budgets.id AND nano <> 0)");
        over.bind(before_ms).execute(&self.store).await
    }

    /// What of a budget is leased, in nano-dollars.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn leased(&self, budget_id: &str) -> Result<i64, DatabaseError> {
        sql(format!("SELECT {HELD}")).bind(budget_id).number(&self.store).await
    }
}

/// What gateways hold of the budget `$1`.
pub(crate) const HELD: &str =
    "CAST(COALESCE((SELECT SUM(nano) FROM leases WHERE budget_id = $1 AND nano > 0), 0) AS BIGINT)";

/// Asks the gateways that hold a part of a budget to give back what they do not need.
pub(crate) async fn ask_in(transaction: &mut Transaction, budget_id: &str) -> Result<(), DatabaseError> {
    let ask = sql("UPDATE budgets SET wanted_ms = {now} WHERE id = $1").bind(budget_id);
    ask.execute_in(transaction).await.map(|_| ())
}

async fn replicas_in(transaction: &mut Transaction) -> Result<i64, DatabaseError> {
    let count = sql("SELECT COUNT(*) FROM replicas").first_in::<(i64,)>(transaction).await?;
    Ok(count.map_or(1, |(count,)| count.max(1)))
}

pub(crate) async fn insert_budget_in(transaction: &mut Transaction, row: &BudgetRow) -> Result<(), DatabaseError> {
    let insert = sql("INSERT INTO budgets (id, tenant_id, limit_nano, reset, soft_nano, updated_ms)
         VALUES ($1, $2, $3, $4, $5, {now}) ON CONFLICT DO NOTHING");
    let insert = insert.bind(&row.id).bind(&row.tenant_id).bind(row.limit_nano).bind(&row.reset);
    let insert = insert.bind(row.soft_nano);
    insert.execute_in(transaction).await?;
    Ok(())
}

/// Changes the limits of a budget of a tenant, or of one of its keys, or adds it. Where another reset applies, it has spent
/// what was charged in its window.
pub(crate) async fn change_budget_in(
    transaction: &mut Transaction,
    budget: &BudgetRow,
    key_hash: Option<&str>,
) -> Result<(), DatabaseError> {
    insert_budget_in(transaction, budget).await?;
    let change = sql(format!("UPDATE budgets SET soft_nano = $4, {LIMIT} WHERE id = $1"));
    let change = change.bind(&budget.id).bind(budget.limit_nano).bind(&budget.reset).bind(budget.soft_nano);
    change.execute_in(transaction).await?;
    // The row is locked, so nothing is charged between this sum and its place.
    let begun = sql(format!("SELECT CAST({WINDOW} AS BIGINT) FROM budgets WHERE id = $1 AND window_ms = {CHANGED}"));
    let Some((window_ms,)) = begun.bind(&budget.id).first_in::<(i64,)>(transaction).await? else { return Ok(()) };
    let spent = spent_since_in(transaction, &budget.tenant_id, key_hash, window_ms).await?;
    let begin = sql("UPDATE budgets SET spent_nano = $2, window_ms = $3 WHERE id = $1");
    begin.bind(&budget.id).bind(spent).bind(window_ms).execute_in(transaction).await.map(|_| ())
}

/// Changes what each known end user of a tenant may spend. Where another reset applies, each has spent what its records of
/// that window say.
pub(crate) async fn limit_users_in(
    transaction: &mut Transaction,
    tenant_id: &str,
    limit: Option<i64>,
    reset: &str,
) -> Result<(), DatabaseError> {
    let prefix = user_budget_id(tenant_id, "");
    let its = "tenant_id = $1 AND id LIKE 'user:%'";
    let change =
        sql(format!("UPDATE budgets SET {LIMIT} WHERE {its} AND (limit_nano IS DISTINCT FROM $2 OR reset <> $3)"));
    change.bind(tenant_id).bind(limit).bind(reset).execute_in(transaction).await?;
    let begin = sql(format!(
        "UPDATE budgets SET window_ms = {WINDOW}, spent_nano = CAST(COALESCE((SELECT SUM(charged_nano) FROM generations
         WHERE generations.tenant_id = $1 AND end_user = substr(budgets.id, CAST($2 AS INTEGER)) AND generations.created_ms >= {WINDOW}),
         0) AS BIGINT) WHERE {its} AND window_ms = {CHANGED}"
    ));
    let from = i64::try_from(prefix.chars().count() + 1).unwrap_or(i64::MAX);
    begin.bind(tenant_id).bind(from).execute_in(transaction).await.map(|_| ())
}

/// Where another reset applies, the window is yet to be found.
const CHANGED: i64 = -1;
const LIMIT: &str =
    "limit_nano = $2, window_ms = CASE WHEN reset = $3 THEN window_ms ELSE -1 END, reset = $3, updated_ms = {now}";
