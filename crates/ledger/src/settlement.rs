//! The guard that ends every request with exactly one record.

use crate::account::{Account, NotEnough};
use crate::writer::{Overloaded, Record, Writer};
use catalog::NanoUsd;
use database::{DatabaseError, Generation, Reservation};
use std::sync::Arc;
use tokio::sync::mpsc::OwnedPermit;

/// What a request finally cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bill {
    /// What providers take, for calls that brought nothing too.
    pub upstream: NanoUsd,
    /// What the key is charged: the call that answered.
    pub charged: NanoUsd,
}

/// Holds the slot and the money of a request under way. Dropped without [`Settlement::finish`], as by a panic, it
/// settles as failed at what was reserved, because the provider may have been paid.
pub struct Settlement {
    slot: Option<OwnedPermit<Record>>,
    account: Arc<Account>,
    reserved: NanoUsd,
    /// No key pays: the gateway asks for itself.
    is_free: bool,
    /// The record so far; whoever knows a field fills it in.
    pub generation: Generation,
}

impl Settlement {
    /// Admits a request: takes the slot that its record will need.
    ///
    /// # Errors
    /// When all slots are taken.
    pub fn admit(
        writer: &Writer,
        account: Arc<Account>,
        is_free: bool,
        generation: Generation,
    ) -> Result<Self, Overloaded> {
        let slot = writer.slot()?;
        Ok(Self { slot: Some(slot), account, reserved: NanoUsd::ZERO, is_free, generation })
    }

    /// Sets money aside in memory; see [`Account::reserve`].
    ///
    /// # Errors
    /// When less than `needed` is left.
    pub fn reserve(&mut self, wanted: NanoUsd, needed: NanoUsd) -> Result<NanoUsd, NotEnough> {
        let granted = if self.is_free { wanted } else { self.account.reserve(wanted, needed)? };
        self.reserved += granted;
        self.generation.reserved_nano = self.reserved.0;
        Ok(granted)
    }

    /// Writes the reservation down, so that it survives the death of the process.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn record_reservation(&self, writer: &Writer) -> Result<(), DatabaseError> {
        let reservation = Reservation {
            generation_id: self.generation.id.clone(),
            tenant_id: self.generation.tenant_id.clone(),
            key_hash: self.account.hash.clone(),
            model: self.generation.model.clone(),
            nano: self.reserved.0,
            created_ms: self.generation.created_ms,
            end_user: self.generation.end_user.clone(),
            is_free: self.is_free,
            source: if self.is_free { self.generation.cache_source.clone() } else { String::new() },
        };
        writer.reserve(reservation).await
    }

    /// Settles the request; returns its record.
    pub fn finish(mut self, bill: Bill) -> Generation {
        self.settle(bill);
        std::mem::take(&mut self.generation)
    }

    fn settle(&mut self, bill: Bill) {
        let Some(slot) = self.slot.take() else { return };
        let bill = if self.is_free { Bill { charged: NanoUsd::ZERO, ..bill } } else { bill };
        let overrun = (bill.charged - self.reserved).max(NanoUsd::ZERO);
        self.generation.upstream_nano = bill.upstream.0;
        self.generation.charged_nano = bill.charged.0;
        self.generation.overrun_nano = if self.reserved > NanoUsd::ZERO { overrun.0 } else { 0 };
        let held = if self.is_free { NanoUsd::ZERO } else { self.reserved };
        self.account.settle(held, bill.charged);
        slot.send(Record::Settle(Box::new(self.generation.clone())));
    }
}

impl Drop for Settlement {
    fn drop(&mut self) {
        if self.slot.is_some() {
            self.generation.state = "failed".to_owned();
            self.generation.estimated = true;
            self.generation.failure = "the request ended without a bill".to_owned();
            self.settle(Bill { upstream: self.reserved, charged: self.reserved });
        }
    }
}
