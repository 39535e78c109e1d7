//! What a tenant is told of a month: what it had, what it paid and was charged, what it got for that.

use crate::rates::DAY_MS;
use database::{Database, DatabaseError, SplitBy, UsageFilter};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use std::collections::BTreeMap;
use thiserror::Error;

/// A tenant's month, in nano-dollars.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statement {
    pub tenant_id: String,
    /// Its first day.
    pub month: Date,
    /// What it had in advance at the beginning; below zero what it owed.
    pub opening_nano: i64,
    pub purchased_nano: i64,
    pub granted_nano: i64,
    /// Paid on top of purchases; it changes no balance.
    pub fee_nano: i64,
    pub refunded_nano: i64,
    pub expired_nano: i64,
    pub charged_nano: i64,
    pub closing_nano: i64,
    /// By day and by the model as the tenant knows it.
    pub lines: Vec<Line>,
}

/// One day's requests of one model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    pub day: Date,
    pub model: String,
    pub requests: i64,
    /// Those of them that nobody answered.
    pub failed: i64,
    pub input_tokens: i64,
    pub output_tokens: i64,
    pub charged_nano: i64,
    pub saved_nano: i64,
}

impl Line {
    /// The share of requests that were answered; `None` where there were none.
    pub fn availability(&self) -> Option<f64> {
        (self.requests > 0).then(|| (self.requests - self.failed) as f64 / self.requests as f64)
    }
}

/// Why there is no statement.
#[derive(Debug, Error)]
pub enum StatementError {
    #[error("no tenant `{0}`")]
    UnknownTenant(String),
    #[error(
        "the ledger charges {ledger_nano} nano-dollars in this month and the sums by day say {sums_nano}; the books disagree"
    )]
    Disagreement { ledger_nano: i64, sums_nano: i64 },
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl Statement {
    /// The month of a tenant as it is booked now; a correction that comes later belongs to the month of its request.
    ///
    /// # Errors
    /// When the tenant is not there, the books disagree, or the database refuses.
    pub async fn of(database: &Database, tenant: &str, month: Date) -> Result<Self, StatementError> {
        // What is booked between two of its questions makes them disagree, and not again.
        const TRIES: usize = 5;
        for _ in 1..TRIES {
            match Self::read(database, tenant, month).await {
                Err(StatementError::Disagreement { .. }) => {}
                read => return read,
            }
        }
        Self::read(database, tenant, month).await
    }

    async fn read(database: &Database, tenant: &str, month: Date) -> Result<Self, StatementError> {
        if database.tenant(tenant).await?.is_none() {
            return Err(StatementError::UnknownTenant(tenant.to_owned()));
        }
        let (first, last) = (month.first_of_month(), month.last_of_month());
        let (from_ms, to_ms) = (midnight_ms(first), midnight_ms(last) + DAY_MS);
        let transfers: BTreeMap<String, i64> =
            database.tenant_transfers(tenant, from_ms, to_ms).await?.into_iter().collect();
        let booked = |kind: &str| transfers.get(kind).copied().unwrap_or(0);
        let charged_nano = booked("charge") + booked("charge_correction");
        let lines = lines(database, tenant, (from_ms / DAY_MS, to_ms / DAY_MS - 1)).await?;
        let sums_nano: i64 = lines.iter().map(|line| line.charged_nano).sum();
        if sums_nano != charged_nano {
            return Err(StatementError::Disagreement { ledger_nano: charged_nano, sums_nano });
        }
        Ok(Self {
            tenant_id: tenant.to_owned(),
            month: first,
            opening_nano: database.owed(tenant, from_ms).await?,
            purchased_nano: booked("purchase"),
            granted_nano: booked("grant"),
            fee_nano: booked("fee"),
            refunded_nano: booked("refund"),
            expired_nano: booked("expiry"),
            charged_nano,
            closing_nano: database.owed(tenant, to_ms).await?,
            lines,
        })
    }

    /// All its lines in one, of no day and no model.
    pub fn total(&self) -> Line {
        self.lines.iter().fold(Line::default(), |mut total, line| {
            total.add(line);
            total
        })
    }
}

impl Line {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.input_tokens += other.input_tokens;
        self.output_tokens += other.output_tokens;
        self.charged_nano += other.charged_nano;
        self.saved_nano += other.saved_nano;
    }
}

/// A model under the tenant's own name is shown by that name: what serves it may be hidden.
async fn lines(database: &Database, tenant: &str, days: (i64, i64)) -> Result<Vec<Line>, DatabaseError> {
    let filter = UsageFilter { tenant_id: Some(tenant), days, ..UsageFilter::default() };
    let mut lines: BTreeMap<(i64, String), Line> = BTreeMap::new();
    for row in database.usage(filter, &[SplitBy::Model, SplitBy::SoldAs]).await? {
        let model = if row.sold_as.is_empty() { row.model } else { row.sold_as };
        let day =
            jiff::Timestamp::from_millisecond(row.day * DAY_MS).unwrap_or_default().to_zoned(TimeZone::UTC).date();
        let line = Line {
            day,
            model: model.clone(),
            requests: row.requests,
            failed: row.failed,
            input_tokens: row.input_tokens,
            output_tokens: row.output_tokens,
            charged_nano: row.charged_nano,
            saved_nano: row.saved_nano,
        };
        lines.entry((row.day, model.clone())).or_insert_with(|| Line { day, model, ..Line::default() }).add(&line);
    }
    Ok(lines.into_values().collect())
}

/// The beginning of a day, UTC, in milliseconds since 1970.
pub fn midnight_ms(day: Date) -> i64 {
    day.to_zoned(TimeZone::UTC).map_or(0, |time| time.timestamp().as_millisecond())
}
