//! What webhooks are told: that a budget has reached its soft limit. Each is told once, by whichever gateway finds it first.

use crate::bookings::WINDOW;
use crate::connection::{Database, DatabaseError};
use crate::store::sql;

/// A budget has spent as much as its soft limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct Notice {
    /// The budget, its window and its soft limit: one notice for these.
    pub id: String,
    pub tenant_id: String,
    pub budget_id: String,
    pub window_ms: i64,
    pub soft_nano: i64,
    pub limit_nano: Option<i64>,
    pub spent_nano: i64,
    pub created_ms: i64,
    pub tries: i64,
}

impl Database {
    /// Notes which budgets have reached their soft limits in their windows; returns how many that were not noted before.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn note_soft_limits(&self) -> Result<u64, DatabaseError> {
        let note = sql(format!(
            "INSERT INTO notices (id, tenant_id, budget_id, window_ms, soft_nano, limit_nano, spent_nano, created_ms, due_ms)
             SELECT 'soft:' || id || ':' || window_ms || ':' || soft_nano, tenant_id, id, window_ms, soft_nano, limit_nano,
             spent_nano, {{now}}, {{now}} FROM budgets
             WHERE soft_nano IS NOT NULL AND spent_nano >= soft_nano AND window_ms >= {WINDOW} ON CONFLICT DO NOTHING"
        ));
        note.execute(&self.store).await
    }

    /// Up to so many notices that are to be told now.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn notices_due(&self, rows_max: i64) -> Result<Vec<Notice>, DatabaseError> {
        let due =
            sql("SELECT id, tenant_id, budget_id, window_ms, soft_nano, limit_nano, spent_nano, created_ms, tries
             FROM notices WHERE due_ms <= {now} ORDER BY due_ms, id LIMIT $1");
        due.bind(rows_max).all(&self.store).await
    }

    /// Takes a notice to tell it; where that is not said to have succeeded, it is due again after a time. False where another
    /// gateway took it first.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn take_notice(&self, notice: &Notice, again_ms: i64) -> Result<bool, DatabaseError> {
        let take = sql("UPDATE notices SET tries = tries + 1, due_ms = {now} + $3
             WHERE id = $1 AND tries = $2 AND due_ms IS NOT NULL");
        Ok(take.bind(&notice.id).bind(notice.tries).bind(again_ms).execute(&self.store).await? == 1)
    }

    /// Puts a notice away: it was told, or given up.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn close_notice(&self, id: &str) -> Result<(), DatabaseError> {
        sql("UPDATE notices SET due_ms = NULL WHERE id = $1").bind(id).execute(&self.store).await.map(|_| ())
    }

    /// Forgets notices of before a time whose windows are over.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn sweep_notices(&self, before_ms: i64) -> Result<u64, DatabaseError> {
        let old = sql("DELETE FROM notices WHERE created_ms < $1 AND due_ms IS NULL AND NOT EXISTS
             (SELECT 1 FROM budgets WHERE budgets.id = budget_id AND budgets.window_ms = notices.window_ms)");
        old.bind(before_ms).execute(&self.store).await
    }
}
