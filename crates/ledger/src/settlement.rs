//! The guard that ends every request with exactly one record.

use crate::account::Account;
use crate::budget::{Budgets, Hold, NotEnough};
use crate::ledger::Ledger;
use crate::rates::{Estimate, Rates};
use crate::replica::Replica;
use crate::writer::{Kept, Overloaded, Record};
use catalog::NanoUsd;
use database::{DatabaseError, Generation, Reservation, Settled};
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::mpsc::OwnedPermit;

/// What a request finally cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bill {
    /// What providers take, for calls that brought nothing too.
    pub upstream: NanoUsd,
    /// What the key is charged: the call that answered.
    pub charged: NanoUsd,
}

/// Why no money could be set aside.
#[derive(Debug, Error)]
pub enum ReserveError {
    #[error(transparent)]
    NotEnough(#[from] NotEnough),
    /// Whether there is enough cannot be known now.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// Holds the slot and the money of a request under way. Dropped without [`Settlement::finish`], as by a panic, it
/// settles as failed at what was reserved, because the provider may have been paid.
pub struct Settlement {
    slot: Option<OwnedPermit<Record>>,
    account: Arc<Account>,
    replica: Arc<Replica>,
    hold: Hold,
    /// Tokens that were counted before it was known how many there are.
    counted: Option<(Rates, Estimate)>,
    /// No key pays: the gateway asks for itself.
    is_free: bool,
    /// The record so far; whoever knows a field fills it in. Until it ends, `upstream_nano` is the most that providers may take.
    pub generation: Generation,
}

impl Settlement {
    /// Admits a request: takes the slot that its record will need.
    ///
    /// # Errors
    /// When all slots are taken.
    pub fn admit(
        ledger: &Ledger,
        account: Arc<Account>,
        is_free: bool,
        generation: Generation,
    ) -> Result<Self, Overloaded> {
        let slot = ledger.writer.slot()?;
        let replica = Arc::clone(&ledger.replica);
        Ok(Self { slot: Some(slot), account, replica, hold: Hold::default(), counted: None, is_free, generation })
    }

    /// Corrects at its end how many tokens were counted towards a limit.
    pub fn correct_at_end(&mut self, ledger: &Ledger, estimate: Estimate) {
        self.counted = Some((ledger.rates.clone(), estimate));
    }

    /// Sets money aside in all budgets of the request: `wanted`, or what the poorest has left where that is less but at least
    /// `needed`. Once a request.
    ///
    /// # Errors
    /// When less than `needed` is left, or when that cannot be known.
    pub async fn reserve(&mut self, wanted: NanoUsd, needed: NanoUsd) -> Result<NanoUsd, ReserveError> {
        if self.is_free {
            self.hold = Hold::free(wanted);
        } else {
            let budgets = self.budgets().await?;
            self.hold = self.hold_of(&budgets, wanted, needed).await?;
        }
        self.generation.reserved_nano = self.hold.nano.0;
        Ok(self.hold.nano)
    }

    /// The budgets of the key, and that of the end user where there is one.
    async fn budgets(&self) -> Result<Budgets, DatabaseError> {
        let user = Ledger::user_budget(&self.replica, &self.account.tenant, &self.generation.end_user).await?;
        Ok(match user {
            None => self.account.budgets.clone(),
            Some(user) => self.account.budgets.with(user),
        })
    }

    async fn hold_of(&self, budgets: &Budgets, wanted: NanoUsd, needed: NanoUsd) -> Result<Hold, ReserveError> {
        let mut unknown = None;
        for budget in budgets.iter().filter(|budget| budget.lacks(wanted).is_some()) {
            if let Err(error) = self.replica.top_up(budget, wanted, needed).await {
                tracing::warn!(budget = budget.id, %error, "a budget could not be leased from");
                unknown = Some(error);
            }
        }
        match (budgets.reserve(wanted, needed), unknown) {
            (Err(_), Some(error)) => Err(error.into()),
            (held, _) => Ok(held?),
        }
    }

    /// Writes the reservation down, so that it survives the death of the process.
    ///
    /// # Errors
    /// `Fenced` where the money was leased under a name that others took for dead; when the database refuses.
    pub async fn record_reservation(&self, ledger: &Ledger) -> Result<Kept, DatabaseError> {
        let replica_id = match self.hold.replica_id() {
            Ok(Some(leased_by)) => leased_by.to_owned(),
            Ok(None) => self.replica.id(),
            Err(()) => return Err(DatabaseError::Fenced),
        };
        let reservation = Reservation {
            generation_id: self.generation.id.clone(),
            tenant_id: self.generation.tenant_id.clone(),
            key_hash: self.account.hash.clone(),
            model: self.generation.model.clone(),
            nano: self.hold.nano.0,
            upstream_nano: self.generation.upstream_nano,
            sold_as: self.generation.sold_as.clone(),
            created_ms: self.generation.created_ms,
            end_user: self.generation.end_user.clone(),
            is_free: self.is_free,
            source: if self.is_free { self.generation.cache_source.clone() } else { String::new() },
            replica_id,
        };
        ledger.writer.reserve(reservation).await
    }

    /// Settles the request; returns its record.
    pub fn finish(mut self, bill: Bill) -> Generation {
        self.settle(bill);
        std::mem::take(&mut self.generation)
    }

    fn settle(&mut self, bill: Bill) {
        let Some(slot) = self.slot.take() else { return };
        let bill = if self.is_free { Bill { charged: NanoUsd::ZERO, ..bill } } else { bill };
        let hold = std::mem::take(&mut self.hold);
        let overrun = (bill.charged - hold.nano).max(NanoUsd::ZERO);
        self.generation.upstream_nano = bill.upstream.0;
        self.generation.charged_nano = bill.charged.0;
        self.generation.overrun_nano = if hold.nano > NanoUsd::ZERO { overrun.0 } else { 0 };
        if let Some((rates, estimate)) = self.counted.take() {
            let g = &self.generation;
            let is_hit = ["exact", "similar", "coalesced"].contains(&g.cache.as_str());
            let taken =
                g.input_tokens + g.cache_read_tokens + g.cache_write_tokens + g.output_tokens + g.reasoning_tokens;
            let needed = if is_hit { 0 } else { taken.unsigned_abs() };
            rates.correct(&estimate, needed);
        }
        let settled = Settled { generation: self.generation.clone(), drawn: hold.settle(bill.charged) };
        slot.send(Record::Settle(Box::new(settled)));
    }
}

impl Drop for Settlement {
    fn drop(&mut self) {
        if self.slot.is_some() {
            self.generation.state = "failed".to_owned();
            self.generation.estimated = true;
            self.generation.failure = "the request ended without a bill".to_owned();
            self.settle(Bill { upstream: NanoUsd(self.generation.upstream_nano), charged: self.hold.nano });
        }
    }
}
