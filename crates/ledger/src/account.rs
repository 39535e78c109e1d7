//! The balance of one virtual key, in memory and exact under any interleaving.

use catalog::NanoUsd;
use database::KeyRow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thiserror::Error;

/// The account of a virtual key.
#[derive(Debug)]
pub struct Account {
    pub hash: String,
    pub tenant_id: String,
    pub name: String,
    pub label: String,
    pub created_ms: i64,
    /// Within the tenant, the highest is served first when an endpoint is at its limit.
    pub priority: i64,
    /// The tenant's share of the turns beside other tenants.
    pub tenant_weight: u32,
    disabled: AtomicBool,
    balance: Mutex<Balance>,
}

#[derive(Debug, Clone, Copy)]
struct Balance {
    limit: Option<NanoUsd>,
    used: NanoUsd,
    reserved: NanoUsd,
    /// Corrections taken over so far.
    adjusted: NanoUsd,
}

/// Who an authenticated request acts for. Exists only after authentication.
#[derive(Debug, Clone)]
pub struct Caller {
    pub account: Arc<Account>,
}

impl Caller {
    /// The tenant that owns the key.
    pub fn tenant(&self) -> &str {
        &self.account.tenant_id
    }
}

/// The key's limit does not cover even the least that a request needs.
#[derive(Debug, Clone, Copy, Error, PartialEq, Eq)]
#[error("the key has {available} USD left and the request needs {needed} USD")]
pub struct NotEnough {
    pub available: NanoUsd,
    pub needed: NanoUsd,
}

impl Account {
    pub(crate) fn from_row(row: &KeyRow) -> Self {
        let balance = Balance {
            limit: row.limit_nano.map(NanoUsd),
            used: NanoUsd(row.usage_nano),
            reserved: NanoUsd::ZERO,
            adjusted: NanoUsd(row.adjusted_nano),
        };
        Self {
            hash: row.hash.clone(),
            tenant_id: row.tenant_id.clone(),
            name: row.name.clone(),
            label: row.label.clone(),
            created_ms: row.created_ms,
            priority: row.priority,
            tenant_weight: u32::try_from(row.tenant_weight).unwrap_or(1).max(1),
            disabled: AtomicBool::new(row.disabled),
            balance: Mutex::new(balance),
        }
    }

    /// Takes limit, status and corrections over from the database; what was used and reserved here stays.
    pub(crate) fn refresh(&self, row: &KeyRow) {
        self.disabled.store(row.disabled, Ordering::Release);
        let mut balance = self.balance();
        balance.limit = row.limit_nano.map(NanoUsd);
        let adjusted = NanoUsd(row.adjusted_nano);
        balance.used = balance.used + adjusted - balance.adjusted;
        balance.adjusted = adjusted;
    }

    /// True once the key was revoked.
    pub fn is_disabled(&self) -> bool {
        self.disabled.load(Ordering::Acquire)
    }

    /// The spending limit, where the key has one.
    pub fn limit(&self) -> Option<NanoUsd> {
        self.balance().limit
    }

    /// What all settled requests were charged.
    pub fn used(&self) -> NanoUsd {
        self.balance().used
    }

    /// What may still be reserved; `None` without a limit. Below zero after an overrun.
    pub fn available(&self) -> Option<NanoUsd> {
        let balance = self.balance();
        balance.limit.map(|limit| limit - balance.used - balance.reserved)
    }

    /// Sets aside `wanted`, or what is left where that is less but at least `needed`.
    ///
    /// # Errors
    /// When less than `needed` is left.
    pub fn reserve(&self, wanted: NanoUsd, needed: NanoUsd) -> Result<NanoUsd, NotEnough> {
        let mut balance = self.balance();
        let granted = match balance.limit {
            None => wanted,
            Some(limit) => {
                let available = limit - balance.used - balance.reserved;
                if available < needed || available < NanoUsd(1) && wanted > NanoUsd::ZERO {
                    return Err(NotEnough { available, needed });
                }
                wanted.min(available)
            }
        };
        balance.reserved += granted;
        Ok(granted)
    }

    /// Gives `reserved` back and books `charged`.
    pub(crate) fn settle(&self, reserved: NanoUsd, charged: NanoUsd) {
        let mut balance = self.balance();
        balance.reserved -= reserved;
        balance.used += charged;
    }

    fn balance(&self) -> MutexGuard<'_, Balance> {
        // A balance is whole between any two statements, so a panic elsewhere cannot have torn it.
        self.balance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn account(limit: Option<i64>) -> Account {
        Account::from_row(&KeyRow {
            hash: "h".into(),
            tenant_id: "t".into(),
            name: "n".into(),
            label: "l".into(),
            limit_nano: limit,
            usage_nano: 0,
            disabled: false,
            created_ms: 0,
            updated_ms: 0,
            priority: 0,
            adjusted_nano: 0,
            tenant_weight: 1,
        })
    }

    #[test]
    fn a_short_balance_grants_what_is_left_down_to_the_floor() {
        let account = account(Some(100));
        assert_eq!(account.reserve(NanoUsd(80), NanoUsd(80)), Ok(NanoUsd(80)));
        assert_eq!(account.reserve(NanoUsd(80), NanoUsd(10)), Ok(NanoUsd(20)));
        let broke = NotEnough { available: NanoUsd(0), needed: NanoUsd(10) };
        assert_eq!(account.reserve(NanoUsd(80), NanoUsd(10)), Err(broke));
    }

    #[test]
    fn an_overrun_blocks_the_next_request() {
        let account = account(Some(100));
        let granted = account.reserve(NanoUsd(50), NanoUsd(50)).expect("money");
        account.settle(granted, NanoUsd(130));
        assert_eq!(account.available(), Some(NanoUsd(-30)));
        assert!(account.reserve(NanoUsd(1), NanoUsd(0)).is_err());
    }

    #[test]
    fn a_correction_is_taken_over_once() {
        let account = account(Some(100));
        let granted = account.reserve(NanoUsd(50), NanoUsd(50)).expect("money");
        account.settle(granted, NanoUsd(50));
        let row = |adjusted_nano| KeyRow {
            hash: "h".into(),
            tenant_id: "t".into(),
            name: "n".into(),
            label: "l".into(),
            limit_nano: Some(100),
            usage_nano: 0,
            disabled: false,
            created_ms: 0,
            updated_ms: 1,
            priority: 0,
            adjusted_nano,
            tenant_weight: 1,
        };
        (0..2).for_each(|_| account.refresh(&row(-20)));
        assert_eq!(account.used(), NanoUsd(30));
    }

    proptest! {
        #[test]
        fn money_is_conserved_under_any_interleaving(steps in proptest::collection::vec((1i64..50, 0i64..50, any::<bool>()), 1..60)) {
            let account = account(Some(500));
            let (mut open, mut charged) = (Vec::new(), 0);
            for (wanted, cost, settle_one) in steps {
                if settle_one && let Some(granted) = open.pop() {
                    let cost = NanoUsd(cost).min(granted);
                    account.settle(granted, cost);
                    charged += cost.0;
                } else if let Ok(granted) = account.reserve(NanoUsd(wanted), NanoUsd(wanted)) {
                    open.push(granted);
                }
                let reserved: NanoUsd = open.iter().copied().sum();
                prop_assert_eq!(account.available(), Some(NanoUsd(500 - charged) - reserved));
                prop_assert!(account.available() >= Some(NanoUsd::ZERO));
                prop_assert_eq!(account.used(), NanoUsd(charged));
            }
        }
    }
}
