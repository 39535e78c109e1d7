//! Virtual keys: made, read, changed and deleted.

use crate::account::Role;
use crate::ledger::{DEFAULT_TENANT, Ledger, hash, now_ms, random_key};
use crate::rates::DAY_MS;
use crate::rules::Rules;
use catalog::NanoUsd;
use database::{BudgetRow, Changed, Database, DatabaseError, KeyRow, budget_id};
use std::collections::HashMap;
use thiserror::Error;

/// What a virtual key should be.
#[derive(Debug, Clone)]
pub struct WantedKey {
    pub tenant: String,
    pub name: String,
    pub role: Role,
    /// Who makes it, as they say.
    pub creator: Option<String>,
    pub limits: Limits,
    pub expires_ms: Option<i64>,
    /// Within the tenant, the highest is served first when an endpoint is at its limit.
    pub priority: i64,
    pub rules: Rules,
}

/// What may be spent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Without it, spending is only counted.
    pub hard: Option<NanoUsd>,
    /// Where somebody is told, and nothing is refused.
    pub soft: Option<NanoUsd>,
    /// `daily`, `weekly`, `monthly`, or nothing.
    pub reset: String,
}

impl Default for WantedKey {
    fn default() -> Self {
        Self {
            tenant: DEFAULT_TENANT.to_owned(),
            name: String::new(),
            role: Role::default(),
            creator: None,
            limits: Limits::default(),
            expires_ms: None,
            priority: 0,
            rules: Rules::default(),
        }
    }
}

/// A virtual key as its managers see it.
#[derive(Debug, Clone)]
pub struct Key {
    pub row: KeyRow,
    pub budget: BudgetRow,
    pub rules: Rules,
    /// Charged since the beginning of the day, the week (Monday) and the month, UTC.
    pub charged: Charged,
}

/// What was charged lately.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Charged {
    pub day: NanoUsd,
    pub week: NanoUsd,
    pub month: NanoUsd,
}

impl Key {
    /// What may still be spent; `None` without a limit. Below zero after an overrun.
    pub fn remaining(&self) -> Option<NanoUsd> {
        self.budget.limit_nano.map(|limit| NanoUsd(limit - self.budget.spent_nano))
    }
}

/// A virtual key just made; `token` is shown this once.
#[derive(Debug, Clone)]
pub struct NewKey {
    pub token: String,
    pub key: Key,
}

/// Why something could not be made or changed.
#[derive(Debug, Error)]
pub enum LedgerError {
    #[error("no tenant `{0}`")]
    UnknownTenant(String),
    #[error("the tenant `{0}` exists")]
    TenantExists(String),
    /// Somebody else changed it since it was read.
    #[error("it was changed meanwhile; read it again, then change it")]
    Conflict,
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl Ledger {
    /// Makes a virtual key.
    ///
    /// # Errors
    /// When the tenant does not exist or the database refuses.
    pub async fn create_key(&self, wanted: WantedKey) -> Result<NewKey, LedgerError> {
        make_key(&self.database, wanted).await
    }

    /// The keys of a tenant, oldest first, with what they were charged.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn keys(&self, tenant: &str) -> Result<Vec<Key>, DatabaseError> {
        self.writer.barrier().await;
        let rows = self.database.keys(Some(tenant)).await?;
        let budgets = self.database.budgets_of(tenant).await?;
        let mut budgets: HashMap<String, BudgetRow> =
            budgets.into_iter().map(|budget| (budget.id.clone(), budget)).collect();
        let charged = charged(&self.database, tenant).await?;
        let key = |row: KeyRow| {
            let budget = budgets.remove(&budget_id("key", &row.hash)).unwrap_or_default();
            let charged = charged.get(&row.hash).copied().unwrap_or_default();
            Key { rules: Rules::stored(&row.hash, &row.rules), row, budget, charged }
        };
        Ok(rows.into_iter().map(key).collect())
    }

    /// One key; of a tenant, where that is named.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn key(&self, tenant: Option<&str>, hash: &str) -> Result<Option<Key>, DatabaseError> {
        let is_its = |row: &KeyRow| !row.deleted && tenant.is_none_or(|tenant| tenant == row.tenant_id);
        self.writer.barrier().await;
        let Some(row) = self.database.key(hash).await?.filter(is_its) else { return Ok(None) };
        let budget = self.database.budget(&budget_id("key", hash)).await?.unwrap_or_default();
        let charged = charged(&self.database, &row.tenant_id).await?.remove(hash).unwrap_or_default();
        Ok(Some(Key { rules: Rules::stored(hash, &row.rules), row, budget, charged }))
    }

    /// Changes a key that was read: its name, state, end, limits, rules and priority.
    ///
    /// # Errors
    /// `Conflict` where somebody else changed it meanwhile; when the database refuses.
    pub async fn update_key(&self, key: &Key) -> Result<(), LedgerError> {
        let row = KeyRow { rules: rules_json(&key.rules), ..key.row.clone() };
        if self.database.update_key(&row, &key.budget).await? == Changed::Conflict {
            return Err(LedgerError::Conflict);
        }
        self.forget(&row.hash);
        if let Some(budget) = self.database.budget(&key.budget.id).await? {
            self.replica.refresh(&[budget]).await?;
        }
        Ok(())
    }
}

/// What each key of a tenant was charged lately.
async fn charged(database: &Database, tenant: &str) -> Result<HashMap<String, Charged>, DatabaseError> {
    let now = database.now_ms().await?;
    let day = now / DAY_MS;
    let monday = (day + 3) / 7 * 7 - 3; // 1970 began on a Thursday
    let month = jiff::Timestamp::from_millisecond(now)
        .map_or(day, |time| day - i64::from(time.to_zoned(jiff::tz::TimeZone::UTC).day()) + 1);
    let mut all: HashMap<String, Charged> = HashMap::new();
    for (since, part) in [(day, 0), (monday, 1), (month, 2)] {
        for (hash, nano) in database.charged_since(tenant, since).await? {
            let charged = all.entry(hash).or_default();
            *[&mut charged.day, &mut charged.week, &mut charged.month][part] = NanoUsd(nano);
        }
    }
    Ok(all)
}

/// The key of a first start.
pub(crate) async fn first(database: &Database) -> Result<String, DatabaseError> {
    let wanted = WantedKey { name: "first key".to_owned(), ..WantedKey::default() };
    match make_key(database, wanted).await {
        Ok(made) => Ok(made.token),
        Err(LedgerError::Database(error)) => Err(error),
        Err(other) => Err(DatabaseError::Query(database::SqlError::Protocol(other.to_string()))),
    }
}

/// Makes a virtual key in the database, for gateways that may be running elsewhere; the key is returned this once.
///
/// # Errors
/// When the tenant does not exist or the database refuses.
pub async fn make_key(database: &Database, wanted: WantedKey) -> Result<NewKey, LedgerError> {
    if database.tenant(&wanted.tenant).await?.is_none() {
        return Err(LedgerError::UnknownTenant(wanted.tenant));
    }
    let token = random_key("sk-sluice-v1-");
    let now = now_ms();
    let row = KeyRow {
        hash: hash(&token),
        tenant_id: wanted.tenant,
        name: wanted.name,
        label: format!("{}...{}", &token[..16], &token[token.len() - 3..]),
        role: wanted.role.as_str().to_owned(),
        creator: wanted.creator,
        usage_nano: 0,
        disabled: false,
        created_ms: now,
        updated_ms: now,
        expires_ms: wanted.expires_ms,
        deleted: false,
        priority: wanted.priority,
        rules: rules_json(&wanted.rules),
    };
    let budget = BudgetRow { id: budget_id("key", &row.hash), tenant_id: row.tenant_id.clone(), ..wanted.limits.row() };
    database.insert_key(&row, &budget).await?;
    Ok(NewKey { token, key: Key { row, budget, rules: wanted.rules, charged: Charged::default() } })
}

impl Limits {
    /// As a budget's row, without its id and tenant.
    pub fn row(&self) -> BudgetRow {
        BudgetRow {
            limit_nano: self.hard.map(|limit| limit.0),
            soft_nano: self.soft.map(|limit| limit.0),
            reset: self.reset.clone(),
            ..BudgetRow::default()
        }
    }
}

fn rules_json(rules: &Rules) -> String {
    serde_json::to_string(rules).unwrap_or_else(|error| unreachable!("lists and numbers are JSON: {error}"))
}
