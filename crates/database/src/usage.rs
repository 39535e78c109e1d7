//! Sums by day: what activity, statements and leaderboards are made of.

use crate::connection::{Database, DatabaseError};
use crate::store::{Transaction, sql};

pub(crate) const DAY_MS: i64 = 86_400_000;

/// What is summed, in the order of the columns.
pub(crate) const SUMS: [&str; 8] = [
    "requests",
    "failed",
    "input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "upstream_nano",
    "charged_nano",
    "saved_nano",
];

/// Sums of requests of one day that agree in everything that was asked for; what was not is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct UsageRow {
    pub tenant_id: String,
    /// Days since 1970, UTC.
    pub day: i64,
    pub key_hash: String,
    pub model: String,
    pub endpoint: String,
    pub provider: String,
    pub sold_as: String,
    pub app: String,
    pub step: String,
    pub cache: String,
    pub requests: i64,
    /// Those of them that failed.
    pub failed: i64,
    pub input_tokens: i64,
    pub output_tokens: i64,
    pub reasoning_tokens: i64,
    pub upstream_nano: i64,
    pub charged_nano: i64,
    pub saved_nano: i64,
}

/// Which sums; what is `None` is not asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct UsageFilter<'a> {
    pub tenant_id: Option<&'a str>,
    pub key_hash: Option<&'a str>,
    /// The first and the last day, both included.
    pub days: (i64, i64),
}

/// What rows are split by, besides the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SplitBy {
    Tenant,
    Key,
    Model,
    Endpoint,
    Provider,
    SoldAs,
    App,
    Step,
    Cache,
}

impl SplitBy {
    const ALL: [(Self, &'static str); 9] = [
        (Self::Tenant, "tenant_id"),
        (Self::Key, "key_hash"),
        (Self::Model, "model"),
        (Self::Endpoint, "endpoint"),
        (Self::Provider, "provider"),
        (Self::SoldAs, "sold_as"),
        (Self::App, "app"),
        (Self::Step, "step"),
        (Self::Cache, "cache"),
    ];
}

impl Database {
    /// Sums of days, split as asked, newest day first.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn usage(&self, filter: UsageFilter<'_>, split: &[SplitBy]) -> Result<Vec<UsageRow>, DatabaseError> {
        let columns = SplitBy::ALL.map(|(by, column)| match split.contains(&by) {
            true => column.to_owned(),
            false => format!("'' AS {column}"),
        });
        let grouped: String =
            SplitBy::ALL.iter().filter(|(by, _)| split.contains(by)).map(|(_, column)| format!(", {column}")).collect();
        let sums = SUMS.map(|column| format!("CAST(SUM({column}) AS BIGINT) AS {column}"));
        let query = sql(format!(
            "SELECT day, {}, {} FROM usage_days WHERE day >= $1 AND day <= $2 AND ($3 IS NULL OR tenant_id = $3)
             AND ($4 IS NULL OR key_hash = $4) GROUP BY day{grouped} ORDER BY day DESC{grouped}",
            columns.join(", "),
            sums.join(", ")
        ));
        let query = query.bind(filter.days.0).bind(filter.days.1).bind(filter.tenant_id).bind(filter.key_hash);
        query.all(&self.store).await
    }

    /// What a tenant's keys were charged since a day, each with its hash, in nano-dollars.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn charged_since(&self, tenant_id: &str, day: i64) -> Result<Vec<(String, i64)>, DatabaseError> {
        let sums = sql("SELECT key_hash, CAST(SUM(charged_nano) AS BIGINT) FROM usage_days
             WHERE tenant_id = $1 AND day >= $2 GROUP BY key_hash");
        sums.bind(tenant_id).bind(day).all(&self.store).await
    }
}

/// What a tenant, or one of its keys, was charged since the day of a time.
pub(crate) async fn spent_since_in(
    transaction: &mut Transaction,
    tenant_id: &str,
    key_hash: Option<&str>,
    since_ms: i64,
) -> Result<i64, DatabaseError> {
    let sum = sql("SELECT CAST(COALESCE(SUM(charged_nano), 0) AS BIGINT) FROM usage_days
         WHERE tenant_id = $1 AND ($2 IS NULL OR key_hash = $2) AND day >= $3");
    let sum = sum.bind(tenant_id).bind(key_hash).bind(since_ms / DAY_MS).first_in::<(i64,)>(transaction).await?;
    Ok(sum.unwrap_or_default().0)
}
