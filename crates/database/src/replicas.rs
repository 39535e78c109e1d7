//! Gateways that share a store: each is alive as long as it says so, and what a dead one left is settled by another.

use crate::connection::{Database, DatabaseError};
use crate::reconcile::settle_unconfirmed_in;
use crate::store::{Transaction, sql};

/// A gateway that has not said for this long that it is alive is taken for dead.
pub const ALIVE_MS: i64 = 10_000;

impl Database {
    /// Adds a gateway.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn register_replica(&self, id: &str) -> Result<(), DatabaseError> {
        let insert = sql("INSERT INTO replicas (id, started_ms, expires_ms) VALUES ($1, {now}, {now} + $2)");
        insert.bind(id).bind(ALIVE_MS).execute(&self.store).await.map(|_| ())
    }

    /// Says that a gateway is alive.
    ///
    /// # Errors
    /// `Fenced` where others took it for dead; when the database refuses.
    pub async fn renew_replica(&self, id: &str) -> Result<(), DatabaseError> {
        let mut transaction = self.store.begin().await?;
        renew_in(&mut transaction, id).await?;
        transaction.commit().await
    }

    /// Settles what dead gateways left open as unconfirmed, and gives back what they had leased; returns how many requests
    /// there were.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn reap_dead(&self) -> Result<usize, DatabaseError> {
        let dead: Vec<(String,)> = sql("SELECT id FROM replicas WHERE expires_ms < {now}").all(&self.store).await?;
        let mut settled = 0;
        for (id,) in dead {
            settled += self.reap(&id, "DELETE FROM replicas WHERE id = $1 AND expires_ms < {now}").await?;
        }
        // What came out of a journal after its gateway was taken for dead.
        let orphans = sql("SELECT DISTINCT replica_id FROM reservations
             WHERE replica_id NOT IN (SELECT id FROM replicas)");
        for (id,) in orphans.all::<(String,)>(&self.store).await? {
            let mut transaction = self.store.begin().await?;
            settled += settle_unconfirmed_in(&mut transaction, Some(&id)).await?;
            transaction.commit().await?;
        }
        Ok(settled)
    }

    /// The same for one gateway that is known to have ended.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn end_replica(&self, id: &str) -> Result<usize, DatabaseError> {
        self.reap(id, "DELETE FROM replicas WHERE id = $1").await
    }

    /// The same for every gateway, where no other can be alive.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn end_all_replicas(&self) -> Result<usize, DatabaseError> {
        let mut transaction = self.store.begin().await?;
        sql("DELETE FROM replicas").execute_in(&mut transaction).await?;
        let settled = settle_unconfirmed_in(&mut transaction, None).await?;
        sql("DELETE FROM leases").execute_in(&mut transaction).await?;
        transaction.commit().await?;
        Ok(settled)
    }

    /// How many gateways are alive.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn replicas_alive(&self) -> Result<i64, DatabaseError> {
        sql("SELECT COUNT(*) FROM replicas WHERE expires_ms >= {now}").number(&self.store).await
    }

    /// `delete` takes the row of the gateway away, which only one of several that try can do.
    async fn reap(&self, id: &str, delete: &'static str) -> Result<usize, DatabaseError> {
        let mut transaction = self.store.begin().await?;
        if sql(delete).bind(id).execute_in(&mut transaction).await? == 0 {
            return Ok(0);
        }
        let settled = settle_unconfirmed_in(&mut transaction, Some(id)).await?;
        sql("DELETE FROM leases WHERE replica_id = $1").bind(id).execute_in(&mut transaction).await?;
        transaction.commit().await?;
        Ok(settled)
    }

    /// The database's time, in milliseconds since 1970.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn now_ms(&self) -> Result<i64, DatabaseError> {
        self.store.now_ms().await
    }
}

/// Says that a gateway is alive, in a transaction that must not happen where it is not.
pub(crate) async fn renew_in(transaction: &mut Transaction, id: &str) -> Result<(), DatabaseError> {
    let renew = sql("UPDATE replicas SET expires_ms = {now} + $2 WHERE id = $1");
    if renew.bind(id).bind(ALIVE_MS).execute_in(transaction).await? == 0 {
        return Err(DatabaseError::Fenced);
    }
    Ok(())
}
