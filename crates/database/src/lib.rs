//! Connections, migrations and every query, one module per noun. Money and contents are kept by SQLite or PostgreSQL, the
//! cache by a SQLite file of its own, so that bulk answers never delay a reservation.

mod answers;
mod bookings;
mod budgets;
mod connection;
mod contents;
mod counters;
mod credits;
mod erasures;
mod generations;
mod keys;
mod notices;
mod reconcile;
mod replicas;
mod store;
mod tenants;
mod transfers;
mod usage;
mod usage_sums;

pub use answers::{CacheFile, CacheWrite, StoredAnswer, StoredJudge, StoredPrompt, StoredTie};
pub use bookings::Drawn;
pub use budgets::{BudgetRow, Leased, WantedLease, budget_id, user_budget_id};
pub use connection::{
    Database, DatabaseConfig, DatabaseError, DatabaseUrl, Durability, cache_path, content_path, journal_path,
};
pub use contents::{Content, ContentFile, Score};
pub use credits::{CreditRow, CreditState, RefundAhead, Withdrawal};
pub use generations::{Generation, Reservation, Settled};
pub use keys::{Changed, KeyRow};
pub use notices::Notice;
pub use replicas::ALIVE_MS;
pub use sqlx::Error as SqlError;
pub use tenants::{TenantLimits, TenantRow};
pub use transfers::{AccountBalance, Transfer};
pub use usage::{SplitBy, UsageFilter, UsageRow};
