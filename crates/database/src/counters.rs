//! Counts of requests and tokens in windows, of which gateways take shares, so that a limit holds over all of them.

use crate::connection::{Database, DatabaseError};
use crate::store::sql;

impl Database {
    /// Takes up to `wanted` of what is left of `limit` in the window that began at `window_ms`; returns how much, and which
    /// window it is of. Windows only move on: of one that is over nothing is left.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn take_count(&self, id: &str, window_ms: i64, wanted: i64, limit: i64) -> Result<i64, DatabaseError> {
        let mut transaction = self.store.begin().await?;
        let known = sql("INSERT INTO counters (id, window_ms, taken) VALUES ($1, $2, 0) ON CONFLICT DO NOTHING");
        known.bind(id).bind(window_ms).execute_in(&mut transaction).await?;
        let begin = sql("UPDATE counters SET taken = CASE WHEN window_ms < $2 THEN 0 ELSE taken END,
             window_ms = CASE WHEN window_ms < $2 THEN $2 ELSE window_ms END WHERE id = $1");
        begin.bind(id).bind(window_ms).execute_in(&mut transaction).await?;
        let taken = sql("SELECT taken FROM counters WHERE id = $1 AND window_ms = $2").bind(id).bind(window_ms);
        let taken = taken.first_in::<(i64,)>(&mut transaction).await?;
        let granted = taken.map_or(0, |(taken,)| wanted.min(limit - taken).max(0));
        let take = sql("UPDATE counters SET taken = taken + $2 WHERE id = $1");
        take.bind(id).bind(granted).execute_in(&mut transaction).await?;
        transaction.commit().await?;
        Ok(granted)
    }

    /// Forgets windows that began before a time.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn sweep_counts(&self, before_ms: i64) -> Result<u64, DatabaseError> {
        sql("DELETE FROM counters WHERE window_ms < $1").bind(before_ms).execute(&self.store).await
    }
}
