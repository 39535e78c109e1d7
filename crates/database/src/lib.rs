//! Connections, migrations and every query, one module per noun. Money, cache and contents live in three SQLite files, so
//! that bulk answers never delay a reservation.

mod answers;
mod connection;
mod contents;
mod generations;
mod keys;
mod reconcile;
mod tenants;

pub use answers::{CacheFile, CacheWrite, StoredAnswer, StoredJudge, StoredPrompt, StoredTie};
pub use connection::{
    Database, DatabaseConfig, DatabaseError, Durability, cache_path, content_path, journal_path, sqlite_path,
};
pub use contents::{Content, ContentFile, Score};
pub use generations::{Generation, Reservation};
pub use keys::KeyRow;
pub use sqlx::Error as SqlError;
pub use tenants::TenantRow;
