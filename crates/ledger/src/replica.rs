//! This gateway among others on one database: its name there, and what it has leased of budgets.

use crate::budget::Budget;
use catalog::NanoUsd;
use database::{BudgetRow, Database, DatabaseError, WantedLease};
use rand::Rng;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// Where others hold the rest of a budget, how often and how long they are waited for to give some back.
const WAIT: Duration = Duration::from_millis(100);
const WAITS_MAX: usize = 15;
/// A budget of an end user that nobody has used for so long is forgotten here.
const IDLE: Duration = Duration::from_secs(60);
/// How long others heed that too little was found.
const HEEDED_MS: i64 = 3_000;

/// The gateway's standing with its database.
#[derive(Debug)]
pub struct Replica {
    pub(crate) database: Database,
    id: RwLock<String>,
    budgets: RwLock<HashMap<String, Arc<Budget>>>,
    /// Gateways that are alive, this one included.
    alive: AtomicU32,
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
        Ok(Arc::new(Self { database, id: RwLock::new(id), budgets: RwLock::default(), alive: AtomicU32::new(1) }))
    }

    /// Its name in the database; a new one after others took it for dead.
    pub fn id(&self) -> String {
        self.id.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Joins again after others took it for dead: what it had leased is lost.
    pub(crate) async fn join_again(&self) -> Result<(), DatabaseError> {
        let id = fresh_id();
        self.database.register_replica(&id).await?;
        tracing::warn!("others took this gateway for dead; it goes on under a new name, with new leases");
        *self.id.write().unwrap_or_else(PoisonError::into_inner) = id.clone();
        let budgets = self.budgets.read().unwrap_or_else(PoisonError::into_inner);
        budgets.values().for_each(|budget| budget.lose_lease(id.clone()));
        Ok(())
    }

    /// Leaves: others may lease at once what it had.
    pub(crate) async fn leave(&self) -> Result<(), DatabaseError> {
        self.database.end_replica(&self.id()).await.map(|_| ())
    }

    /// How many gateways are alive, this one included.
    pub(crate) fn alive(&self) -> u32 {
        self.alive.load(Ordering::Relaxed)
    }

    /// A budget that is known here.
    pub(crate) fn known(&self, id: &str) -> Option<Arc<Budget>> {
        self.budgets.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
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
        let mut budgets = self.budgets.write().unwrap_or_else(PoisonError::into_inner);
        let replica_id = self.id();
        let budget = budgets.entry(id.to_owned()).or_insert_with(|| Arc::new(Budget::of(&row, replica_id)));
        Ok(Arc::clone(budget))
    }

    /// Leases until a budget has `wanted`, or no more is to be had; where not even `needed` is, others are waited for that
    /// hold some.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn top_up(&self, budget: &Budget, wanted: NanoUsd, needed: NanoUsd) -> Result<(), DatabaseError> {
        let _asking = budget.asking.lock().await; // one asks, the others find what it got
        for _ in 0..WAITS_MAX {
            let Some((replica_id, lacking)) = budget.lacks(wanted) else { return Ok(()) };
            let lease = WantedLease { budget_id: &budget.id, replica_id: &replica_id, nano: lacking.0 };
            let leased = match self.database.lease(lease).await {
                Err(DatabaseError::Fenced) => {
                    self.join_again().await?;
                    continue;
                }
                leased => leased?,
            };
            let is_enough = budget.lacks(needed).is_none_or(|(_, lacking)| lacking <= NanoUsd(leased.granted_nano));
            let is_vain = !leased.others_hold;
            budget.grant(&replica_id, NanoUsd(leased.granted_nano), NanoUsd(leased.left_nano), is_vain);
            if is_enough || is_vain {
                return Ok(());
            }
            tokio::time::sleep(WAIT).await;
        }
        budget.ask_no_more();
        Ok(())
    }

    /// Says that it is alive, settles what dead gateways left, and gives back what others lack.
    pub(crate) async fn tend(&self) -> Result<(), DatabaseError> {
        match self.database.renew_replica(&self.id()).await {
            Err(DatabaseError::Fenced) => self.join_again().await?,
            renewed => renewed?,
        }
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
    pub(crate) async fn refresh(&self, rows: &[BudgetRow]) -> Result<(), DatabaseError> {
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
    pub(crate) async fn release(&self, id: &str) -> Result<(), DatabaseError> {
        match self.known(id) {
            Some(budget) => self.give_back(&budget).await,
            None => Ok(()),
        }
    }

    async fn give_back(&self, budget: &Budget) -> Result<(), DatabaseError> {
        let Some((replica_id, spare)) = budget.spare() else { return Ok(()) };
        let given = self.database.give_back(&budget.id, &replica_id, spare.0).await;
        if given.is_err() {
            budget.put_back(&replica_id, spare);
        }
        given
    }

    /// Forgets budgets of end users that no request is using; what is leased of them goes back.
    pub(crate) async fn forget_idle(&self) -> Result<(), DatabaseError> {
        let idle = |budget: &Arc<Budget>| {
            budget.id.starts_with("user:") && Arc::strong_count(budget) == 1 && budget.is_idle(IDLE)
        };
        let removed: Vec<Arc<Budget>> = {
            let mut budgets = self.budgets.write().unwrap_or_else(PoisonError::into_inner);
            budgets.extract_if(|_, budget| idle(budget)).map(|(_, budget)| budget).collect()
        };
        for budget in removed {
            self.give_back(&budget).await?;
        }
        Ok(())
    }
}

fn fresh_id() -> String {
    format!("{:032x}", rand::rng().random::<u128>())
}
