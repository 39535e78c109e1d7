//! This gateway among others on one database: its name there, and what it has leased of budgets.

use crate::budget::Budget;
use catalog::NanoUsd;
use database::{ALIVE_MS, BudgetRow, Database, DatabaseError, WantedLease};
use rand::Rng;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

/// Where others hold the rest of a budget, how often and how long they are waited for to give some back.
const WAIT: Duration = Duration::from_millis(100);
const WAITS_MAX: usize = 15;
/// A budget of an end user that nobody has used for so long is forgotten here.
const IDLE: Duration = Duration::from_secs(60);
/// For so long after it was said that this gateway is alive, that is certain; others take it for dead after twice the time.
const SURE: Duration = Duration::from_millis(ALIVE_MS.unsigned_abs() / 2);
/// How long others heed that too little was found.
const HEEDED_MS: i64 = 3_000;

/// Budgets by their ids.
type Known = RwLock<HashMap<String, Arc<Budget>>>;

/// The gateway's standing with its database.
#[derive(Debug)]
pub struct Replica {
    pub(crate) database: Database,
    id: RwLock<String>,
    /// Held by who joins again, so that one does.
    joining: tokio::sync::Mutex<()>,
    budgets: Known,
    /// Those of end users, of which there can be many more.
    users: Known,
    /// Gateways that are alive, this one included.
    alive: AtomicU32,
    /// When the database was last told that this gateway is alive.
    renewed: Mutex<Instant>,
}

impl Replica {
    /// Joins the gateways on a database. What this gateway left open when it was called `earlier` is settled as
    /// unconfirmed; where no other gateway can use the database, what anyone left.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn join(database: Database, earlier: Option<&str>) -> Result<Arc<Self>, DatabaseError> {
        let unconfirmed = match (database.is_shared(), earlier) {
            (false, _) => database.end_all_replicas().await?,
            (true, Some(earlier)) => database.end_replica(earlier).await?,
            (true, None) => 0,
        };
        if unconfirmed > 0 {
            tracing::warn!(unconfirmed, "requests of an earlier run were settled as unconfirmed at their reservation");
        }
        let id = fresh_id();
        database.register_replica(&id).await?;
        let (budgets, users, joining) = Default::default();
        let renewed = Mutex::new(Instant::now());
        Ok(Arc::new(Self { database, id: RwLock::new(id), joining, budgets, users, alive: AtomicU32::new(1), renewed }))
    }

    /// Its name in the database; a new one after others took it for dead.
    pub fn id(&self) -> String {
        self.id.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Joins again after others took it for dead under the name of `lost`: what it had leased is lost.
    pub(crate) async fn join_again(&self, lost: &str) -> Result<(), DatabaseError> {
        let _joining = self.joining.lock().await;
        if self.id() != lost {
            return Ok(()); // it has another name already
        }
        let id = fresh_id();
        self.database.register_replica(&id).await?;
        tracing::warn!("others took this gateway for dead; it goes on under a new name, with new leases");
        *self.id.write().unwrap_or_else(PoisonError::into_inner) = id.clone();
        for known in [&self.budgets, &self.users] {
            read(known).values().for_each(|budget| budget.lose_lease(id.clone()));
        }
        Ok(())
    }

    /// Leaves: others may lease at once what it had.
    pub(crate) async fn leave(&self) -> Result<(), DatabaseError> {
        self.database.end_replica(&self.id()).await.map(|_| ())
    }

    /// The database was told at a time that this gateway is alive.
    pub(crate) fn was_renewed(&self, begun: Instant) {
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = begun;
    }

    /// True where others cannot have taken it for dead: what it has leased is its own.
    pub(crate) fn is_surely_alive(&self) -> bool {
        !self.database.is_shared() || self.renewed.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < SURE
    }

    /// How many gateways are alive, this one included.
    pub(crate) fn alive(&self) -> u32 {
        self.alive.load(Ordering::Relaxed)
    }

    /// A budget that is known here.
    pub(crate) fn known(&self, id: &str) -> Option<Arc<Budget>> {
        read(self.shelf(id)).get(id).cloned()
    }

    /// A budget by its id; one that does not exist is made by `missing`.
    pub(crate) async fn budget(
        &self,
        id: &str,
        missing: impl FnOnce() -> BudgetRow,
    ) -> Result<Arc<Budget>, DatabaseError> {
        if let Some(known) = self.known(id) {
            return Ok(known);
        }
        let row = match self.database.budget(id).await? {
            Some(row) => row,
            None => {
                let row = missing();
                self.database.insert_budget(&row).await?;
                row
            }
        };
        let mut known = write(self.shelf(id));
        let replica_id = self.id(); // read here, so that who joins again meets this budget or has changed the name before
        let budget = known.entry(id.to_owned()).or_insert_with(|| Arc::new(Budget::of(&row, replica_id)));
        Ok(Arc::clone(budget))
    }

    /// Where a budget is kept.
    fn shelf(&self, id: &str) -> &Known {
        if id.starts_with("user:") { &self.users } else { &self.budgets }
    }

    /// Leases until a budget has `wanted`, or no more is to be had; where not even `needed` is, others are waited for that
    /// hold some.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn top_up(
        self: &Arc<Self>,
        budget: &Arc<Budget>,
        wanted: NanoUsd,
        needed: NanoUsd,
    ) -> Result<(), DatabaseError> {
        let _asking = budget.asking.lock().await; // one asks, the others find what it got
        for _ in 0..WAITS_MAX {
            if budget.lacks(wanted).is_none() {
                return Ok(());
            }
            let (replica, asking) = (Arc::clone(self), Arc::clone(budget));
            match to_its_end(async move { replica.lease(&asking, wanted, needed).await }).await {
                Err(DatabaseError::Fenced) => self.join_again(&budget.replica_id()).await?,
                Ok(Found::Enough) => return Ok(()),
                Ok(Found::Elsewhere) => tokio::time::sleep(WAIT).await,
                Err(error) => return Err(error),
            }
        }
        budget.ask_no_more();
        Ok(())
    }

    /// Leases once, and adds what that brought.
    async fn lease(&self, budget: &Budget, wanted: NanoUsd, needed: NanoUsd) -> Result<Found, DatabaseError> {
        let Some((replica_id, lacking)) = budget.lacks(wanted) else { return Ok(Found::Enough) };
        let lease = WantedLease { budget_id: &budget.id, replica_id: &replica_id, nano: lacking.0 };
        let leased = self.database.lease(lease).await?;
        if leased.is_gone {
            write(self.shelf(&budget.id)).remove(&budget.id); // the next request finds it anew
        }
        let is_enough = budget.lacks(needed).is_none_or(|(_, lacking)| lacking <= NanoUsd(leased.granted_nano));
        let is_vain = !leased.others_hold;
        budget.grant(&replica_id, NanoUsd(leased.granted_nano), NanoUsd(leased.left_nano), is_vain);
        Ok(if is_enough || is_vain { Found::Enough } else { Found::Elsewhere })
    }

    /// Says that it is alive, settles what dead gateways left, and gives back what others lack.
    pub(crate) async fn tend(self: &Arc<Self>) -> Result<(), DatabaseError> {
        let (id, begun) = (self.id(), Instant::now());
        match self.database.renew_replica(&id).await {
            Err(DatabaseError::Fenced) => self.join_again(&id).await?,
            renewed => renewed?,
        }
        self.was_renewed(begun);
        if !self.database.is_shared() {
            return Ok(());
        }
        let unconfirmed = self.database.reap_dead().await?;
        if unconfirmed > 0 {
            tracing::warn!(
                unconfirmed,
                "requests of a gateway that ended were settled as unconfirmed at their reservation"
            );
        }
        let alive = self.database.replicas_alive().await?;
        self.alive.store(u32::try_from(alive).unwrap_or(1).max(1), Ordering::Relaxed);
        for id in self.database.budgets_wanted(HEEDED_MS).await? {
            if let Some(budget) = self.known(&id) {
                self.give_back(&budget).await?;
            }
        }
        Ok(())
    }

    /// Takes over what others changed; what is leased of a changed budget goes back, so that it is leased anew as it is now.
    pub(crate) async fn refresh(self: &Arc<Self>, rows: &[BudgetRow]) -> Result<(), DatabaseError> {
        for row in rows {
            if let Some(budget) = self.known(&row.id)
                && budget.refresh(row)
            {
                self.give_back(&budget).await?;
            }
        }
        Ok(())
    }

    /// Gives back what is not set aside of a budget that is known here.
    pub(crate) async fn release(self: &Arc<Self>, id: &str) -> Result<(), DatabaseError> {
        match self.known(id) {
            Some(budget) => self.give_back(&budget).await,
            None => Ok(()),
        }
    }

    async fn give_back(self: &Arc<Self>, budget: &Arc<Budget>) -> Result<(), DatabaseError> {
        let (replica, budget) = (Arc::clone(self), Arc::clone(budget));
        to_its_end(async move {
            let Some((replica_id, spare)) = budget.spare() else { return Ok(()) };
            let given = replica.database.give_back(&budget.id, &replica_id, spare.0).await;
            if given.is_err() {
                budget.put_back(&replica_id, spare);
            }
            given
        })
        .await
    }

    /// Forgets a budget that the database does not have any more.
    pub(crate) fn forget(&self, id: &str) {
        write(self.shelf(id)).remove(id);
    }

    /// Forgets budgets of end users that no request is using; what is leased of them goes back.
    pub(crate) async fn forget_idle(self: &Arc<Self>) -> Result<(), DatabaseError> {
        let idle: Vec<Arc<Budget>> =
            read(&self.users).values().filter(|budget| budget.is_idle(IDLE)).cloned().collect();
        for budget in idle {
            self.give_back(&budget).await?;
            let mut users = write(&self.users);
            // The map's and this one: nobody who found it meanwhile has leased or will.
            if Arc::strong_count(&budget) == 2 && budget.is_empty() {
                users.remove(&budget.id);
            }
        }
        Ok(())
    }
}

/// What a lease brought.
enum Found {
    /// Enough, or all that is to be had.
    Enough,
    /// Others hold some.
    Elsewhere,
}

/// Runs to its end even where who waits for it leaves: what the database has granted must not be forgotten here.
async fn to_its_end<T: Send + 'static>(
    task: impl Future<Output = Result<T, DatabaseError>> + Send + 'static,
) -> Result<T, DatabaseError> {
    tokio::spawn(task).await.unwrap_or(Err(DatabaseError::Away)) // it ends early only with the process, or in a panic
}

fn read(known: &Known) -> RwLockReadGuard<'_, HashMap<String, Arc<Budget>>> {
    known.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(known: &Known) -> RwLockWriteGuard<'_, HashMap<String, Arc<Budget>>> {
    known.write().unwrap_or_else(PoisonError::into_inner)
}

fn fresh_id() -> String {
    format!("{:032x}", rand::rng().random::<u128>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_leased_for_who_left_meanwhile_is_there_for_the_next() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = Database::open(&folder.path().join("sluice.db")).await.expect("a database");
        let replica = Replica::join(database.clone(), None).await.expect("a gateway");
        let row = BudgetRow { id: "user:t/ann".to_owned(), limit_nano: Some(100), ..BudgetRow::default() };
        let budget = replica.budget(&row.id, || row.clone()).await.expect("a budget");
        let (wanted, needed) = (NanoUsd(10), NanoUsd(10));
        tokio::select! {
            biased;
            _ = replica.top_up(&budget, wanted, needed) => panic!("it cannot be done at once"),
            () = std::future::ready(()) => {} // the client leaves
        }
        let begun = std::time::Instant::now();
        while budget.lacks(wanted).is_some() {
            assert!(begun.elapsed() < Duration::from_secs(5), "what was leased is lost");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(database.leased(&row.id).await.expect("a sum"), 100);
        replica.release(&row.id).await.expect("given back");
        assert_eq!(database.leased(&row.id).await.expect("a sum"), 0, "what is known here is what is leased there");
    }
}
