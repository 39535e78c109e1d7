//! Requests whose cost nobody confirmed: what a crash left open, and closing it.

use crate::bookings::Bookings;
use crate::connection::{Database, DatabaseError};
use crate::generations::{Generation, Reservation, Settled, insert};
use crate::store::{Transaction, sql};

impl Database {
    /// All generations that are `unconfirmed`, oldest first.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn unconfirmed(&self) -> Result<Vec<Generation>, DatabaseError> {
        sql("SELECT * FROM generations WHERE state = 'unconfirmed' ORDER BY created_ms, id").all(&self.store).await
    }

    /// Closes unconfirmed generations, each at its confirmed cost in nano-dollars, in one transaction; the difference is
    /// given back to, or taken from, its budgets. Returns how many were still open.
    ///
    /// # Errors
    /// When the database refuses; then none is closed.
    pub async fn reconcile(&self, confirmed: &[(String, i64)]) -> Result<usize, DatabaseError> {
        let mut transaction = self.store.begin().await?;
        let mut bookings = Bookings::default();
        let mut closed = 0;
        for (id, nano) in confirmed {
            let close = sql("UPDATE generations SET state = 'reconciling' WHERE id = $1 AND state = 'unconfirmed'");
            if close.bind(id).execute_in(&mut transaction).await? == 0 {
                continue;
            }
            let known = sql("SELECT * FROM generations WHERE id = $1").bind(id);
            let Some(known) = known.first_in::<Generation>(&mut transaction).await? else { continue };
            let generation = Generation {
                state: "reconciled".to_owned(),
                upstream_nano: *nano,
                charged_nano: charged(&known, *nano),
                ..known.clone()
            };
            let close = sql("UPDATE generations SET state = $2, upstream_nano = $3, charged_nano = $4 WHERE id = $1");
            let close = close.bind(id).bind(&generation.state).bind(generation.upstream_nano);
            close.bind(generation.charged_nano).execute_in(&mut transaction).await?;
            bookings.amend(&known, &Settled { generation, drawn: Vec::new() });
            closed += 1;
        }
        bookings.write(&mut transaction).await?;
        transaction.commit().await?;
        Ok(closed)
    }
}

/// What the tenant is charged where the provider took `upstream_nano`: as much of what was reserved as that is of what was
/// reserved for the provider. What was reserved and not charged is the gateway's own, and stays so.
fn charged(known: &Generation, upstream_nano: i64) -> i64 {
    if known.upstream_nano <= 0 {
        return known.charged_nano;
    }
    let share = i128::from(known.charged_nano) * i128::from(upstream_nano);
    let of = i128::from(known.upstream_nano);
    i64::try_from((share + of - 1) / of).unwrap_or(i64::MAX)
}

/// Settles what a dead gateway left open, or all of them did: each reservation becomes a generation `unconfirmed`, charged at
/// what was reserved. Returns how many there were.
pub(crate) async fn settle_unconfirmed_in(
    transaction: &mut Transaction,
    replica_id: Option<&str>,
) -> Result<usize, DatabaseError> {
    let open = sql("SELECT * FROM reservations WHERE $1 IS NULL OR replica_id = $1").bind(replica_id);
    let open: Vec<Reservation> = open.all_in(transaction).await?;
    let settled: Vec<Settled> = open.iter().map(unconfirmed).collect();
    let generations: Vec<&Generation> = settled.iter().map(|settled| &settled.generation).collect();
    insert(transaction, &generations).await?;
    let mut bookings = Bookings::default();
    settled.iter().for_each(|settled| bookings.add(settled));
    bookings.write(transaction).await?;
    Ok(settled.len())
}

fn unconfirmed(reservation: &Reservation) -> Settled {
    let is_hidden = !reservation.sold_as.is_empty();
    let generation = Generation {
        id: reservation.generation_id.clone(),
        tenant_id: reservation.tenant_id.clone(),
        key_hash: reservation.key_hash.clone(),
        created_ms: reservation.created_ms,
        state: "unconfirmed".to_owned(),
        model_asked: if is_hidden { &reservation.sold_as } else { &reservation.model }.clone(),
        sold_as: reservation.sold_as.clone(),
        model: reservation.model.clone(),
        cache: if reservation.is_free { "shadow" } else { "miss" }.to_owned(),
        cache_source: reservation.source.clone(),
        end_user: reservation.end_user.clone(),
        estimated: true,
        reserved_nano: reservation.nano,
        upstream_nano: reservation.upstream_nano,
        charged_nano: if reservation.is_free { 0 } else { reservation.nano },
        attempts: "[]".to_owned(),
        reasons: "{}".to_owned(),
        failure: "the gateway ended before this request was settled".to_owned(),
        ..Generation::default()
    };
    Settled { generation, drawn: Vec::new() }
}
