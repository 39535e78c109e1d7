//! Erasing what is known of a tenant's end user; what it cost stays in the books, without a name.

use crate::budgets::user_budget_id;
use crate::connection::{Database, DatabaseError};
use crate::contents::ContentFile;
use crate::store::{groups, sql};

/// What leaves nothing of an end user in a record.
pub(crate) const FORGET_USER: &str =
    "UPDATE generations SET end_user = '', referer = '', user_agent = '', session_id = '', reasons = '{}'";

impl Database {
    /// Takes an end user's name and traces out of a tenant's records, those of requests under way as soon as they are stored;
    /// returns the ids of its requests, which other gateways are told of.
    ///
    /// # Errors
    /// When the database refuses; then nothing is erased.
    pub async fn erase_user(&self, tenant_id: &str, user: &str) -> Result<Vec<String>, DatabaseError> {
        let mut transaction = self.store.begin().await?;
        const ITS: &str = "WHERE tenant_id = $1 AND end_user = $2";
        let tell = sql(format!(
            "INSERT INTO erasures (generation_id, tenant_id, created_ms) SELECT id, tenant_id, {{now}} FROM (
             SELECT id, tenant_id FROM generations {ITS} UNION SELECT generation_id, tenant_id FROM reservations {ITS}
             ) AS its WHERE TRUE ON CONFLICT DO NOTHING"
        ));
        tell.bind(tenant_id).bind(user).execute_in(&mut transaction).await?;
        let ids = sql(format!("SELECT id FROM generations {ITS}")).bind(tenant_id).bind(user);
        let ids: Vec<(String,)> = ids.all_in(&mut transaction).await?;
        for statement in [format!("{FORGET_USER} {ITS}"), format!("UPDATE reservations SET end_user = '' {ITS}")] {
            sql(statement).bind(tenant_id).bind(user).execute_in(&mut transaction).await?;
        }
        for statement in ["DELETE FROM budgets WHERE id = $1", "DELETE FROM leases WHERE budget_id = $1"] {
            sql(statement).bind(&user_budget_id(tenant_id, user)).execute_in(&mut transaction).await?;
        }
        transaction.commit().await?;
        Ok(ids.into_iter().map(|(id,)| id).collect())
    }

    /// Requests that were erased at or after a moment of the database's clock: tenant and id.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn erased_since(&self, since_ms: i64) -> Result<Vec<(String, String)>, DatabaseError> {
        let erased = sql("SELECT tenant_id, generation_id FROM erasures WHERE created_ms >= $1 ORDER BY created_ms");
        erased.bind(since_ms).all(&self.store).await
    }

    /// Deletes up to `rows_max` records of before a time; the books stay. Returns how many.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn sweep_generations(&self, before_ms: i64, rows_max: i64) -> Result<u64, DatabaseError> {
        let old = sql("DELETE FROM generations WHERE id IN (SELECT id FROM generations
             WHERE created_ms < $1 AND state <> 'unconfirmed' LIMIT $2)");
        old.bind(before_ms).bind(rows_max).execute(&self.store).await
    }

    /// Forgets what gateways were told of erasures before a time.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn sweep_erasures(&self, before_ms: i64) -> Result<u64, DatabaseError> {
        sql("DELETE FROM erasures WHERE created_ms < $1").bind(before_ms).execute(&self.store).await
    }
}

impl ContentFile {
    /// Deletes the contents of requests of a tenant that were erased, and their scores.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn erase(&self, tenant_id: &str, ids: &[String]) -> Result<(), DatabaseError> {
        for group in groups(ids, 1) {
            let places: Vec<String> = (2..=group.len() + 1).map(|at| format!("${at}")).collect();
            for table in ["scores", "contents"] {
                let text =
                    format!("DELETE FROM {table} WHERE tenant_id = $1 AND generation_id IN ({})", places.join(", "));
                let delete = group.iter().fold(sql(text).bind(tenant_id), |delete, id| delete.bind(id));
                delete.execute(&self.store).await?;
            }
        }
        Ok(())
    }

    /// Deletes the contents of an end user and their scores; returns how many.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn erase_user(&self, tenant_id: &str, user: &str) -> Result<u64, DatabaseError> {
        let mut transaction = self.store.begin().await?;
        let scores = sql("DELETE FROM scores WHERE tenant_id = $1 AND generation_id IN
             (SELECT generation_id FROM contents WHERE tenant_id = $1 AND end_user = $2)");
        scores.bind(tenant_id).bind(user).execute_in(&mut transaction).await?;
        let contents = sql("DELETE FROM contents WHERE tenant_id = $1 AND end_user = $2");
        let erased = contents.bind(tenant_id).bind(user).execute_in(&mut transaction).await?;
        transaction.commit().await?;
        Ok(erased)
    }
}
