//! Who may spend, what every request cost and saved: virtual keys, reservations, settlement.

mod account;
mod journal;
mod keys;
mod settlement;
mod writer;

pub use account::{Account, Caller, NotEnough};
pub use journal::Journal;
pub use keys::{AuthError, DEFAULT_TENANT, Ledger, LedgerError, NewKey, StartKeys, WantedKey, make_key, now_ms};
pub use settlement::{Bill, Settlement};
pub use writer::{Overloaded, Writer};
