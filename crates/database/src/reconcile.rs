//! Requests whose cost nobody confirmed: what a crash left open, and closing it.

use crate::connection::{Database, DatabaseError};
use crate::generations::{Generation, Reservation, insert};

impl Database {
    /// Settles what a crash left open: each reservation becomes a generation `unconfirmed`, charged at what was
    /// reserved. Returns how many there were.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn settle_unconfirmed(&self) -> Result<usize, DatabaseError> {
        let mut transaction = self.write.begin().await?;
        let open: Vec<Reservation> = sqlx::query_as("SELECT * FROM reservations").fetch_all(&mut *transaction).await?;
        for reservation in &open {
            let generation = Generation {
                id: reservation.generation_id.clone(),
                tenant_id: reservation.tenant_id.clone(),
                key_hash: reservation.key_hash.clone(),
                created_ms: reservation.created_ms,
                state: "unconfirmed".to_owned(),
                model_asked: reservation.model.clone(),
                model: reservation.model.clone(),
                cache: if reservation.is_free { "shadow" } else { "miss" }.to_owned(),
                cache_source: reservation.source.clone(),
                end_user: reservation.end_user.clone(),
                estimated: true,
                reserved_nano: reservation.nano,
                upstream_nano: reservation.nano,
                charged_nano: if reservation.is_free { 0 } else { reservation.nano },
                attempts: "[]".to_owned(),
                reasons: "{}".to_owned(),
                failure: "the gateway ended before this request was settled".to_owned(),
                ..Generation::default()
            };
            insert(&mut transaction, &generation).await?;
        }
        transaction.commit().await?;
        Ok(open.len())
    }

    /// All generations that are `unconfirmed`, oldest first.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn unconfirmed(&self) -> Result<Vec<Generation>, DatabaseError> {
        let query = "SELECT * FROM generations WHERE state = 'unconfirmed' ORDER BY created_ms, id";
        Ok(sqlx::query_as(query).fetch_all(&self.write).await?)
    }

    /// Closes unconfirmed generations, each at its confirmed cost in nano-dollars, in one transaction; the difference is
    /// given back to, or taken from, its key. Returns how many were still open.
    ///
    /// # Errors
    /// When the database refuses; then none is closed.
    pub async fn reconcile(&self, confirmed: &[(String, i64)], now_ms: i64) -> Result<usize, DatabaseError> {
        let mut transaction = self.write.begin().await?;
        let mut closed = 0;
        for (id, nano) in confirmed {
            let open =
                "SELECT key_hash, charged_nano, reserved_nano FROM generations WHERE id = $1 AND state = 'unconfirmed'";
            let open: Option<(String, i64, i64)> =
                sqlx::query_as(open).bind(id).fetch_optional(&mut *transaction).await?;
            let Some((key_hash, charged, reserved)) = open else { continue };
            // What was reserved and not charged is the gateway's own.
            let owed = if charged == 0 && reserved > 0 { 0 } else { *nano };
            let close =
                "UPDATE generations SET state = 'reconciled', upstream_nano = $2, charged_nano = $3 WHERE id = $1";
            sqlx::query(close).bind(id).bind(nano).bind(owed).execute(&mut *transaction).await?;
            let correct = "UPDATE keys SET usage_nano = usage_nano + $2, adjusted_nano = adjusted_nano + $2,
                updated_ms = $3 WHERE hash = $1";
            let query = sqlx::query(correct).bind(&key_hash).bind(owed - charged).bind(now_ms);
            query.execute(&mut *transaction).await?;
            closed += 1;
        }
        transaction.commit().await?;
        Ok(closed)
    }
}
