//! Reservations and settled generations: the two writes of every request.

use crate::bookings::{Bookings, Drawn};
use crate::connection::{Database, DatabaseError};
use crate::erasures::FORGET_USER;
use crate::replicas::renew_in;
use crate::store::{Statement, Transaction, groups, places, sql};
use serde::{Deserialize, Serialize};

/// Money set aside before an upstream call.
#[derive(Debug, Clone, Default, PartialEq, Eq, sqlx::FromRow, Serialize, Deserialize)]
#[serde(default)]
pub struct Reservation {
    pub generation_id: String,
    pub tenant_id: String,
    pub key_hash: String,
    pub model: String,
    /// What its budgets hold.
    pub nano: i64,
    /// What it may cost at the providers.
    pub upstream_nano: i64,
    /// The name that hides its source.
    pub sold_as: String,
    pub created_ms: i64,
    pub end_user: String,
    /// The gateway asks for itself: no key pays.
    pub is_free: bool,
    /// The generation that a comparison is made for.
    pub source: String,
    /// The gateway that has to settle it.
    pub replica_id: String,
}

/// The one record of a request: what it asked, what served it, what it cost and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, sqlx::FromRow, Serialize, Deserialize)]
#[serde(default)]
pub struct Generation {
    pub id: String,
    pub tenant_id: String,
    pub key_hash: String,
    pub created_ms: i64,
    /// `served`, `failed`, `cancelled`, `unconfirmed` or, once that is closed, `reconciled`.
    pub state: String,
    pub model_asked: String,
    pub model: String,
    pub endpoint: String,
    pub provider: String,
    pub policy: String,
    pub streamed: bool,
    /// `exact`, `similar`, `coalesced`, `miss` or `bypass`.
    pub cache: String,
    /// The generation whose answer was given again.
    pub cache_source: String,
    pub input_tokens: i64,
    pub cache_read_tokens: i64,
    pub cache_write_tokens: i64,
    pub output_tokens: i64,
    pub reasoning_tokens: i64,
    pub estimated: bool,
    pub reserved_nano: i64,
    pub upstream_nano: i64,
    pub charged_nano: i64,
    /// What the provider took above the reservation.
    pub overrun_nano: i64,
    pub saved_nano: i64,
    pub latency_ms: i64,
    /// Time it waited for an endpoint at its limit.
    pub queue_ms: i64,
    pub finish_reason: String,
    pub end_user: String,
    /// The tenant's own name of a model whose source it hides; else empty.
    pub sold_as: String,
    /// The application, as it calls itself.
    pub app: String,
    pub referer: String,
    pub user_agent: String,
    pub session_id: String,
    /// The step of a workflow that its `metadata` names.
    pub step: String,
    /// JSON list of tries.
    pub attempts: String,
    /// JSON of the decision trace.
    pub reasons: String,
    pub failure: String,
}

const COLUMNS: [&str; 37] = [
    "id",
    "tenant_id",
    "key_hash",
    "created_ms",
    "state",
    "model_asked",
    "model",
    "endpoint",
    "provider",
    "policy",
    "streamed",
    "cache",
    "cache_source",
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "estimated",
    "reserved_nano",
    "upstream_nano",
    "charged_nano",
    "overrun_nano",
    "saved_nano",
    "latency_ms",
    "queue_ms",
    "finish_reason",
    "end_user",
    "sold_as",
    "app",
    "referer",
    "user_agent",
    "session_id",
    "step",
    "attempts",
    "reasons",
    "failure",
];

/// A settled request, and which leases it drew on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settled {
    pub generation: Generation,
    pub drawn: Vec<Drawn>,
}

impl Database {
    /// Writes reservations and settlements of a living gateway in one transaction: all of them or none.
    ///
    /// # Errors
    /// `Fenced` where others took the gateway for dead; when the database refuses. Then nothing of the batch is stored.
    pub async fn commit(
        &self,
        replica_id: &str,
        reservations: &[Reservation],
        settled: &[Settled],
    ) -> Result<(), DatabaseError> {
        let mut transaction = self.store.begin_booking().await?;
        renew_in(&mut transaction, replica_id).await?;
        for group in groups(reservations, RESERVATION_COLUMNS) {
            let text = format!("{INSERT_RESERVATION} VALUES {}", places(group.len(), RESERVATION_COLUMNS));
            let statement = group.iter().fold(sql(text), bind_reservation);
            statement.execute_in(&mut transaction).await?;
        }
        let generations: Vec<&Generation> = settled.iter().map(|settled| &settled.generation).collect();
        insert(&mut transaction, &generations).await?;
        let mut bookings = Bookings::default();
        settled.iter().for_each(|settled| bookings.add(settled));
        bookings.write(&mut transaction).await?;
        transaction.commit().await
    }

    /// Books what may be known already, one by one: a journal, or what comes late. What is known is left as it is, but for
    /// `unconfirmed` generations, which the real record replaces.
    ///
    /// # Errors
    /// When the database refuses; then nothing of it is stored.
    pub async fn replay(&self, reservations: &[Reservation], settled: &[Settled]) -> Result<(), DatabaseError> {
        let mut transaction = self.store.begin_booking().await?;
        for reservation in reservations {
            let known = sql("SELECT 1 WHERE EXISTS (SELECT 1 FROM generations WHERE id = $1)
                 OR EXISTS (SELECT 1 FROM reservations WHERE generation_id = $1)");
            let known = known.bind(&reservation.generation_id).first_in::<(i32,)>(&mut transaction).await?;
            if known.is_none() {
                let text = format!("{INSERT_RESERVATION} VALUES {}", places(1, RESERVATION_COLUMNS));
                bind_reservation(sql(text), reservation).execute_in(&mut transaction).await?;
            }
        }
        let mut bookings = Bookings::default();
        for record in settled {
            let known = sql("SELECT * FROM generations WHERE id = $1").bind(&record.generation.id);
            match known.first_in::<Generation>(&mut transaction).await? {
                None => bookings.add(record),
                Some(known) if known.state == "unconfirmed" => bookings.amend(&known, record),
                Some(_) => continue,
            }
            let delete = sql("DELETE FROM generations WHERE id = $1").bind(&record.generation.id);
            delete.execute_in(&mut transaction).await?;
            insert(&mut transaction, &[&record.generation]).await?;
        }
        bookings.write(&mut transaction).await?;
        transaction.commit().await
    }

    /// Proves that the database takes writes.
    ///
    /// # Errors
    /// When it does not.
    pub async fn check_writable(&self) -> Result<(), DatabaseError> {
        let touched = sql("UPDATE tenants SET name = name WHERE id = (SELECT id FROM tenants LIMIT 1)");
        let mut transaction = self.store.begin_booking().await?;
        touched.execute_in(&mut transaction).await?;
        transaction.commit().await
    }

    /// Finds a generation of a tenant.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn generation(&self, tenant_id: &str, id: &str) -> Result<Option<Generation>, DatabaseError> {
        let find = sql("SELECT * FROM generations WHERE tenant_id = $1 AND id = $2");
        find.bind(tenant_id).bind(id).first(&self.store).await
    }

    /// Up to so many records of a time, from one to before another, after one of them, oldest first; of one tenant, where it is
    /// named.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn generations(
        &self,
        tenant_id: Option<&str>,
        (from_ms, to_ms): (i64, i64),
        after: Option<&(i64, String)>,
        rows_max: i64,
    ) -> Result<Vec<Generation>, DatabaseError> {
        let (after_ms, after_id) = after.map_or((i64::MIN, ""), |(time, id)| (*time, id));
        let page = sql("SELECT * FROM generations WHERE ($1 IS NULL OR tenant_id = $1) AND created_ms >= $2
             AND created_ms < $3 AND (created_ms, id) > ($4, $5) ORDER BY created_ms, id LIMIT $6");
        let page = page.bind(tenant_id).bind(from_ms).bind(to_ms).bind(after_ms).bind(after_id).bind(rows_max);
        page.all(&self.store).await
    }

    /// Sums over all settled generations of a key: how many there are and what they were charged, in nano-dollars.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn charged_to_key(&self, key_hash: &str) -> Result<(i64, i64), DatabaseError> {
        let sums = sql("SELECT COUNT(*), CAST(COALESCE(SUM(charged_nano), 0) AS BIGINT) FROM generations
             WHERE key_hash = $1");
        Ok(sums.bind(key_hash).first(&self.store).await?.unwrap_or_default())
    }

    /// What the gateways' own comparisons have cost since a time, in nano-dollars.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn compared_since(&self, since_ms: i64) -> Result<i64, DatabaseError> {
        let sum = sql("SELECT CAST(COALESCE(SUM(upstream_nano), 0) AS BIGINT) FROM generations
             WHERE cache = 'shadow' AND cache_source <> '' AND created_ms >= $1");
        sum.bind(since_ms).number(&self.store).await
    }

    /// How many reservations are open.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn open_reservations(&self) -> Result<i64, DatabaseError> {
        sql("SELECT COUNT(*) FROM reservations").number(&self.store).await
    }
}

const INSERT_RESERVATION: &str =
    "INSERT INTO reservations (generation_id, tenant_id, key_hash, model, nano, created_ms,
    end_user, is_free, source, replica_id, upstream_nano, sold_as)";
const RESERVATION_COLUMNS: usize = 12;

fn bind_reservation<'q>(statement: Statement<'q>, r: &'q Reservation) -> Statement<'q> {
    let statement = statement.bind(&r.generation_id).bind(&r.tenant_id).bind(&r.key_hash).bind(&r.model);
    let statement = statement.bind(r.nano).bind(r.created_ms).bind(&r.end_user).bind(r.is_free);
    statement.bind(&r.source).bind(&r.replica_id).bind(r.upstream_nano).bind(&r.sold_as)
}

/// Stores records and closes their reservations. Of an end user who was erased while a request was under way, nothing is kept.
pub(crate) async fn insert(transaction: &mut Transaction, rows: &[&Generation]) -> Result<(), DatabaseError> {
    for group in groups(rows, COLUMNS.len()) {
        let places = places(group.len(), COLUMNS.len());
        let text = format!("INSERT INTO generations ({}) VALUES {places}", COLUMNS.join(", "));
        let statement = group.iter().fold(sql(text), |statement, generation| bind_generation(statement, generation));
        statement.execute_in(transaction).await?;
        let ids: Vec<String> = (1..=group.len()).map(|at| format!("${at}")).collect();
        let text = format!("DELETE FROM reservations WHERE generation_id IN ({})", ids.join(", "));
        let close = group.iter().fold(sql(text), |statement, generation| statement.bind(&generation.id));
        close.execute_in(transaction).await?;
        let text = format!(
            "{FORGET_USER} WHERE id IN (SELECT generation_id FROM erasures WHERE generation_id IN ({}))",
            ids.join(", ")
        );
        let forget = group.iter().fold(sql(text), |statement, generation| statement.bind(&generation.id));
        forget.execute_in(transaction).await?;
    }
    Ok(())
}

fn bind_generation<'q>(statement: Statement<'q>, g: &'q Generation) -> Statement<'q> {
    let statement = statement
        .bind(&g.id)
        .bind(&g.tenant_id)
        .bind(&g.key_hash)
        .bind(g.created_ms)
        .bind(&g.state)
        .bind(&g.model_asked)
        .bind(&g.model)
        .bind(&g.endpoint)
        .bind(&g.provider)
        .bind(&g.policy)
        .bind(g.streamed)
        .bind(&g.cache)
        .bind(&g.cache_source)
        .bind(g.input_tokens)
        .bind(g.cache_read_tokens)
        .bind(g.cache_write_tokens)
        .bind(g.output_tokens)
        .bind(g.reasoning_tokens)
        .bind(g.estimated)
        .bind(g.reserved_nano);
    statement
        .bind(g.upstream_nano)
        .bind(g.charged_nano)
        .bind(g.overrun_nano)
        .bind(g.saved_nano)
        .bind(g.latency_ms)
        .bind(g.queue_ms)
        .bind(&g.finish_reason)
        .bind(&g.end_user)
        .bind(&g.sold_as)
        .bind(&g.app)
        .bind(&g.referer)
        .bind(&g.user_agent)
        .bind(&g.session_id)
        .bind(&g.step)
        .bind(&g.attempts)
        .bind(&g.reasons)
        .bind(&g.failure)
}
