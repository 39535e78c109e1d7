//! Who may spend, what every request cost and saved: virtual keys, budgets, reservations, settlement, credits.

mod account;
mod budget;
mod credits;
mod journal;
mod keys;
mod ledger;
mod lines;
mod pace;
mod rates;
mod replica;
mod rules;
mod set_aside;
mod settlement;
mod statement;
mod tenants;
mod terms;
mod writer;

pub use account::{Account, Caller, Role, Tenant};
pub use budget::NotEnough;
pub use credits::{CreditTerms, CreditsError, Payment, Standing};
pub use journal::Journal;
pub use keys::{Charged, Key, LedgerError, Limits, NewKey, WantedKey, make_key};
pub use ledger::{AuthError, DEFAULT_TENANT, ERASURES_TOLD_MS, Ledger, StartKeys, now_ms};
pub use rates::{DAY_MS, Estimate, Left, MINUTE_MS, Rate, RateExceeded};
pub use replica::Replica;
pub use rules::Rules;
pub use settlement::{Bill, ReserveError, Settlement};
pub use statement::{Line, Statement, StatementError, midnight_ms};
pub use tenants::{TenantAccount, WantedTenant};
pub use terms::{Markup, OwnModel, Terms, UserLimit, reset_problem};
pub use writer::{Kept, Overloaded, Writer};
