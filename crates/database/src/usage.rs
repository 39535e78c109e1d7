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

/// What days are split by beside model and provider; sums are kept by all of them at once, and by each alone.
pub(crate) const CUTS: [&str; 4] = ["key_hash", "app", "step", "cache"];

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
        let its = [("tenant_id", filter.tenant_id), ("key_hash", filter.key_hash)];
        let its = its.into_iter().filter_map(|(column, value)| Some((column, value?)));
        let is_split = |column: &str| SplitBy::ALL.iter().any(|(by, name)| *name == column && split.contains(by));
        let wanted = |column: &str| is_split(column) || column == "key_hash" && filter.key_hash.is_some();
        let cuts: Vec<&str> = CUTS.into_iter().filter(|cut| wanted(cut)).collect();
        let table = match cuts.as_slice() {
            [] => "usage_cuts".to_owned(),
            [cut] => format!("(SELECT value AS {cut}, usage_cuts.* FROM usage_cuts) AS cuts"),
            _ => "usage_days".to_owned(),
        };
        let mut query = sql("").bind(filter.days.0).bind(filter.days.1);
        let mut text = format!(
            "SELECT day, {}, {} FROM {table} WHERE day >= $1 AND day <= $2",
            columns.join(", "),
            sums.join(", ")
        );
        if cuts.len() < 2 {
            query = query.bind(cuts.first().copied().unwrap_or_default());
            text.push_str(" AND cut = $3");
        }
        for (column, value) in its {
            query = query.bind(value);
            text.push_str(&format!(" AND {column} = ${}", query.count()));
        }
        text.push_str(&format!(" GROUP BY day{grouped} ORDER BY day DESC{grouped}"));
        query.text(text).all(&self.store).await
    }

    /// What a tenant's keys were charged since a day, each with its hash, in nano-dollars.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn charged_since(&self, tenant_id: &str, day: i64) -> Result<Vec<(String, i64)>, DatabaseError> {
        let sums = sql("SELECT value, CAST(SUM(charged_nano) AS BIGINT) FROM usage_cuts
             WHERE tenant_id = $1 AND cut = 'key_hash' AND day >= $2 GROUP BY value");
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
    let sum = sql("SELECT CAST(COALESCE(SUM(charged_nano), 0) AS BIGINT) FROM usage_cuts
         WHERE tenant_id = $1 AND cut = 'key_hash' AND ($2 IS NULL OR value = $2) AND day >= $3");
    let sum = sum.bind(tenant_id).bind(key_hash).bind(since_ms / DAY_MS).first_in::<(i64,)>(transaction).await?;
    Ok(sum.unwrap_or_default().0)
}
