//! The ledger: tenants, virtual keys and who a token stands for.

use crate::account::{Account, Caller};
use crate::writer::Writer;
use catalog::NanoUsd;
use database::{Database, DatabaseError, KeyRow, TenantRow};
use rand::Rng;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use subtle::ConstantTimeEq;
use thiserror::Error;

/// The tenant that exists from the first start.
pub const DEFAULT_TENANT: &str = "default";
/// How often changes that another process made to keys are looked for.
const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// Accounts held in memory at the most; beyond it a key is read anew for each request.
const ACCOUNTS_MAX: usize = 1_000_000;

/// Everything about money and access of one gateway.
#[derive(Debug, Clone)]
pub struct Ledger {
    database: Database,
    pub writer: Writer,
    accounts: Arc<RwLock<HashMap<String, Arc<Account>>>>,
    admin_hashes: Arc<Vec<String>>,
}

/// Keys shown once: when they are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartKeys {
    /// The operator's key, where it was generated.
    pub admin: Option<String>,
    /// The first virtual key, where there was none.
    pub virtual_key: Option<String>,
}

/// A virtual key just made; `key` is shown this once.
#[derive(Debug, Clone)]
pub struct NewKey {
    pub key: String,
    pub account: Arc<Account>,
}

/// What a new virtual key should be.
#[derive(Debug, Clone, Copy)]
pub struct WantedKey<'a> {
    pub tenant: &'a str,
    pub name: &'a str,
    pub limit: Option<NanoUsd>,
    /// Within the tenant, the highest is served first when an endpoint is at its limit.
    pub priority: i64,
}

impl Default for WantedKey<'_> {
    fn default() -> Self {
        Self { tenant: DEFAULT_TENANT, name: "", limit: None, priority: 0 }
    }
}

/// Why a token stands for nobody.
#[derive(Debug, Error)]
pub enum AuthError {
    #[error("no such key")]
    Unknown,
    #[error("this key was revoked")]
    Revoked,
    #[error("keys cannot be looked up: {0}")]
    Unavailable(DatabaseError),
}

/// Why a key or tenant could not be made.
#[derive(Debug, Error)]
pub enum LedgerError {
    #[error("no tenant `{0}`")]
    UnknownTenant(String),
    #[error("the tenant `{0}` exists")]
    TenantExists(String),
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl Ledger {
    /// Opens the ledger: settles what a crash left open, and at the very first start makes the default tenant, a
    /// virtual key and, unless `admin_key` is given, an operator's key.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn open(
        database: Database,
        writer: Writer,
        admin_key: Option<&str>,
    ) -> Result<(Self, Option<StartKeys>), DatabaseError> {
        let unconfirmed = database.settle_unconfirmed().await?;
        if unconfirmed > 0 {
            tracing::warn!(unconfirmed, "requests of an earlier run were settled as unconfirmed at their reservation");
        }
        let now = now_ms();
        let tenant =
            TenantRow { id: DEFAULT_TENANT.to_owned(), name: "Default".to_owned(), created_ms: now, weight: 1 };
        database.insert_tenant(&tenant).await?;
        let has_keys = !database.keys(None).await?.is_empty();
        let mut generated = None;
        let mut hashes = database.admin_key_hashes().await?;
        if let Some(key) = admin_key {
            hashes.push(hash(key));
        } else if hashes.is_empty() {
            let key = random_key("sk-sluice-admin-");
            database.insert_admin_key(&hash(&key), now).await?;
            hashes.push(hash(&key));
            generated = Some(key);
        }
        let ledger =
            Self { database, writer, accounts: Arc::new(RwLock::new(HashMap::new())), admin_hashes: Arc::new(hashes) };
        let mut virtual_key = None;
        if !has_keys {
            let made = make_key(&ledger.database, WantedKey { name: "first key", ..WantedKey::default() }).await;
            let (key, _) = made.map_err(|error| match error {
                LedgerError::Database(error) => error,
                other => DatabaseError::Query(database::SqlError::Protocol(other.to_string())),
            })?;
            virtual_key = Some(key);
        }
        let made_any = generated.is_some() || virtual_key.is_some();
        let start = made_any.then_some(StartKeys { admin: generated, virtual_key });
        tokio::spawn(refresh(ledger.database.clone(), Arc::downgrade(&ledger.accounts)));
        Ok((ledger, start))
    }

    /// Finds who a token stands for.
    ///
    /// # Errors
    /// `Unknown` and `Revoked` are positive findings; a database that cannot answer is `Unavailable`, never a refusal.
    pub async fn authenticate(&self, token: &str) -> Result<Caller, AuthError> {
        let hash = hash(token);
        let known = self.accounts.read().unwrap_or_else(PoisonError::into_inner).get(&hash).cloned();
        let account = match known {
            Some(account) => account,
            None => {
                let row = self.database.key(&hash).await.map_err(AuthError::Unavailable)?.ok_or(AuthError::Unknown)?;
                self.remember(&row)
            }
        };
        if account.is_disabled() {
            return Err(AuthError::Revoked);
        }
        Ok(Caller { account })
    }

    /// True where the token is an operator's key; takes the same time for every wrong one.
    pub fn is_admin(&self, token: &str) -> bool {
        let presented = hash(token);
        let matches = self.admin_hashes.iter().map(|known| known.as_bytes().ct_eq(presented.as_bytes()));
        bool::from(matches.fold(subtle::Choice::from(0), |any, this| any | this))
    }

    /// Makes a virtual key.
    ///
    /// # Errors
    /// When the tenant does not exist or the database refuses.
    pub async fn create_key(&self, wanted: WantedKey<'_>) -> Result<NewKey, LedgerError> {
        let (key, row) = make_key(&self.database, wanted).await?;
        Ok(NewKey { key, account: self.remember(&row) })
    }

    /// Makes a tenant.
    ///
    /// # Errors
    /// When the id is taken or the database refuses.
    pub async fn create_tenant(&self, id: &str, name: &str, weight: u32) -> Result<TenantRow, LedgerError> {
        let tenant =
            TenantRow { id: id.to_owned(), name: name.to_owned(), created_ms: now_ms(), weight: i64::from(weight) };
        if self.database.insert_tenant(&tenant).await? {
            return Ok(tenant);
        }
        Err(LedgerError::TenantExists(id.to_owned()))
    }

    /// The settled record of a tenant's request; waits until what was settled before is stored.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn generation(&self, tenant: &str, id: &str) -> Result<Option<database::Generation>, DatabaseError> {
        self.writer.barrier().await;
        self.database.generation(tenant, id).await
    }

    /// Proves that the database answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), DatabaseError> {
        self.database.open_reservations().await.map(|_| ())
    }

    fn remember(&self, row: &KeyRow) -> Arc<Account> {
        let mut accounts = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
        if accounts.len() >= ACCOUNTS_MAX && !accounts.contains_key(&row.hash) {
            return Arc::new(Account::from_row(row));
        }
        let account = accounts.entry(row.hash.clone()).or_insert_with(|| Arc::new(Account::from_row(row)));
        Arc::clone(account)
    }
}

/// Makes a virtual key in the database, for a gateway that may be running elsewhere; the key is returned this once.
///
/// # Errors
/// When the tenant does not exist or the database refuses.
pub async fn make_key(database: &Database, wanted: WantedKey<'_>) -> Result<(String, KeyRow), LedgerError> {
    let WantedKey { tenant, name, limit, priority } = wanted;
    let Some(owner) = database.tenant(tenant).await? else {
        return Err(LedgerError::UnknownTenant(tenant.to_owned()));
    };
    let key = random_key("sk-sluice-v1-");
    let now = now_ms();
    let row = KeyRow {
        hash: hash(&key),
        tenant_id: tenant.to_owned(),
        name: name.to_owned(),
        label: format!("{}...{}", &key[..16], &key[key.len() - 3..]),
        limit_nano: limit.map(|limit| limit.0),
        usage_nano: 0,
        disabled: false,
        created_ms: now,
        updated_ms: now,
        priority,
        adjusted_nano: 0,
        tenant_weight: owner.weight,
    };
    database.insert_key(&row).await?;
    Ok((key, row))
}

/// Takes over what another process changed, until the ledger is gone.
async fn refresh(database: Database, accounts: std::sync::Weak<RwLock<HashMap<String, Arc<Account>>>>) {
    let overlap = 2 * REFRESH_EVERY.as_millis() as i64; // a write may become visible after its time stamp
    let mut since = now_ms() - overlap;
    loop {
        tokio::time::sleep(REFRESH_EVERY).await;
        let Some(accounts) = accounts.upgrade() else { return };
        let next = now_ms() - overlap;
        match database.keys_updated_since(since).await {
            Ok(rows) => {
                let accounts = accounts.read().unwrap_or_else(PoisonError::into_inner);
                for row in &rows {
                    if let Some(account) = accounts.get(&row.hash) {
                        account.refresh(row);
                    }
                }
                since = next;
            }
            Err(error) => tracing::warn!(%error, "changed keys could not be read; will retry"),
        }
    }
}

/// SHA-256 in hexadecimal; keys carry 256 random bits, so no salt or stretching is needed.
fn hash(token: &str) -> String {
    Sha256::digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn random_key(prefix: &str) -> String {
    let bytes: [u8; 32] = rand::rng().random();
    bytes.iter().fold(prefix.to_owned(), |key, byte| format!("{key}{byte:02x}"))
}

/// Milliseconds since 1970, for time stamps; deadlines use the monotonic clock.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
