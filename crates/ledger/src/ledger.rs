//! The ledger: who a token stands for, and what every other part of money and access is reached through.

use crate::account::{Account, Caller, Ended, Tenant};
use crate::budget::{Budget, Budgets};
use crate::rates::{DAY_MS, Left, Rate, RateExceeded, Rates};
use crate::replica::Replica;
use crate::writer::Writer;
use database::{
    BudgetRow, Database, DatabaseError, SplitBy, TenantLimits, TenantRow, UsageFilter, UsageRow, budget_id,
    user_budget_id,
};
use rand::Rng;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use subtle::ConstantTimeEq;
use thiserror::Error;

/// The tenant that exists from the first start.
pub const DEFAULT_TENANT: &str = "default";
/// How often changes that others made are looked for, and how often this gateway says that it is alive.
const REFRESH_EVERY: Duration = Duration::from_millis(500);
/// A change may become visible so long after its time stamp: no transaction of ours waits longer for a lock.
const OVERLAP_MS: i64 = 15_000;
/// Every so many looks, budgets that nobody uses are forgotten.
const FORGET_EVERY: u32 = 20;
/// How long gateways are told of an erasure: one that was away for longer has to begin with an empty cache file.
pub const ERASURES_TOLD_MS: i64 = 30 * DAY_MS;
/// Accounts held in memory at the most; beyond it a key is read anew for each request.
const ACCOUNTS_MAX: usize = 1_000_000;

/// Everything about money and access of one gateway.
#[derive(Debug, Clone)]
pub struct Ledger {
    pub(crate) database: Database,
    pub writer: Writer,
    pub(crate) replica: Arc<Replica>,
    pub(crate) rates: Rates,
    accounts: Arc<Accounts>,
    admin_hashes: Arc<Vec<String>>,
}

type Accounts = RwLock<HashMap<String, Arc<Account>>>;

/// Keys shown once: when they are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartKeys {
    /// The operator's key, where it was generated.
    pub admin: Option<String>,
    /// The first virtual key, where there was none.
    pub virtual_key: Option<String>,
}

/// Why a token stands for nobody.
#[derive(Debug, Error)]
pub enum AuthError {
    #[error("no such key")]
    Unknown,
    #[error("this key was revoked")]
    Revoked,
    #[error("this key has expired")]
    Expired,
    #[error("keys cannot be looked up: {0}")]
    Unavailable(#[from] DatabaseError),
}

impl Ledger {
    /// Opens the ledger; at the very first start makes the default tenant, a virtual key and, unless `admin_key` is given,
    /// an operator's key.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn open(
        replica: Arc<Replica>,
        writer: Writer,
        admin_key: Option<&str>,
    ) -> Result<(Self, Option<StartKeys>), DatabaseError> {
        let database = replica.database.clone();
        let now = now_ms();
        let tenant = TenantRow {
            id: DEFAULT_TENANT.to_owned(),
            name: "Default".to_owned(),
            created_ms: now,
            weight: 1,
            terms: "{}".to_owned(),
            updated_ms: 0,
        };
        let id = budget_id("tenant", DEFAULT_TENANT);
        let budget = BudgetRow { id, tenant_id: DEFAULT_TENANT.to_owned(), ..BudgetRow::default() };
        database.insert_tenant(&tenant, &TenantLimits { budget, ..TenantLimits::default() }).await?;
        let has_keys = !database.keys(None).await?.is_empty();
        let mut generated = None;
        let mut hashes = database.admin_key_hashes().await?;
        if let Some(key) = admin_key {
            hashes = vec![hash(key)]; // one that was generated before holds no more
        } else if hashes.is_empty() {
            let key = random_key("sk-sluice-admin-");
            database.insert_admin_key(&hash(&key), now).await?;
            hashes.push(hash(&key));
            generated = Some(key);
        }
        let rates = Rates::of(database.clone());
        let (accounts, admin_hashes) = (Arc::default(), Arc::new(hashes));
        let ledger = Self { database, writer, replica, rates, accounts, admin_hashes };
        let virtual_key = if has_keys { None } else { Some(crate::keys::first(&ledger.database).await?) };
        let made_any = generated.is_some() || virtual_key.is_some();
        let start = made_any.then_some(StartKeys { admin: generated, virtual_key });
        let (replica, accounts) = (Arc::downgrade(&ledger.replica), Arc::downgrade(&ledger.accounts));
        tokio::spawn(tend(replica.clone()));
        tokio::spawn(watch(ledger.database.clone(), replica, accounts));
        Ok((ledger, start))
    }

    /// Finds who a token stands for.
    ///
    /// # Errors
    /// `Unknown`, `Revoked` and `Expired` are positive findings; a database that cannot answer is `Unavailable`, never a
    /// refusal.
    pub async fn authenticate(&self, token: &str) -> Result<Caller, AuthError> {
        let hash = hash(token);
        let known = self.accounts.read().unwrap_or_else(PoisonError::into_inner).get(&hash).cloned();
        let account = match known {
            Some(account) => account,
            None => self.account(&hash).await?.ok_or(AuthError::Unknown)?,
        };
        match account.ended(now_ms()) {
            None => Ok(Caller { account }),
            Some(Ended::Deleted) => Err(AuthError::Unknown),
            Some(Ended::Disabled) => Err(AuthError::Revoked),
            Some(Ended::Expired) => Err(AuthError::Expired),
        }
    }

    /// Reads an account with its tenant and budgets.
    async fn account(&self, hash: &str) -> Result<Option<Arc<Account>>, DatabaseError> {
        let Some(key) = self.database.key(hash).await? else { return Ok(None) };
        let Some(tenant) = self.database.tenant(&key.tenant_id).await? else { return Ok(None) };
        let mut budgets = Vec::new();
        for (kind, of) in [("key", hash), ("tenant", &tenant.id), ("credits", &tenant.id)] {
            let id = budget_id(kind, of);
            let missing = || BudgetRow { id: id.clone(), tenant_id: tenant.id.clone(), ..BudgetRow::default() };
            budgets.push(self.replica.budget(&id, missing).await?);
        }
        let account = Arc::new(Account::of(&key, Arc::new(Tenant::of(&tenant)), Budgets::of(budgets)));
        let mut accounts = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
        if accounts.len() < ACCOUNTS_MAX {
            accounts.insert(hash.to_owned(), Arc::clone(&account));
        }
        Ok(Some(account))
    }

    /// The budget of an end user, where the terms of the tenant limit what each may spend.
    pub(crate) async fn user_budget(
        replica: &Replica,
        tenant: &Tenant,
        user: &str,
    ) -> Result<Option<Arc<Budget>>, DatabaseError> {
        let Some(limit) = tenant.terms.user_limit.as_ref().filter(|_| !user.is_empty()) else { return Ok(None) };
        let id = user_budget_id(&tenant.id, user);
        let missing = || BudgetRow {
            id: id.clone(),
            tenant_id: tenant.id.clone(),
            limit_nano: catalog::NanoUsd::from_usd(limit.usd).map(|nano| nano.0),
            reset: limit.reset.clone(),
            ..BudgetRow::default()
        };
        replica.budget(&id, missing).await.map(Some)
    }

    /// True where the token is an operator's key; takes the same time for every wrong one.
    pub fn is_admin(&self, token: &str) -> bool {
        let presented = hash(token);
        let matches = self.admin_hashes.iter().map(|known| known.as_bytes().ct_eq(presented.as_bytes()));
        bool::from(matches.fold(subtle::Choice::from(0), |any, this| any | this))
    }

    /// Counts towards a limit, unless it is used up.
    ///
    /// # Errors
    /// When it is used up, with when it begins anew.
    pub async fn count(&self, rate: &Rate, amount: u64) -> Result<Left, RateExceeded> {
        self.rates.count(rate, amount).await
    }

    /// The settled record of a tenant's request; waits until what was settled before is stored.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn generation(&self, tenant: &str, id: &str) -> Result<Option<database::Generation>, DatabaseError> {
        self.writer.barrier().await;
        self.database.generation(tenant, id).await
    }

    /// How many gateways share the database, this one included.
    pub fn gateways_alive(&self) -> u32 {
        self.replica.alive()
    }

    /// Takes an end user's name and traces out of a tenant's records; returns the ids of its requests.
    ///
    /// # Errors
    /// When the database refuses; then nothing is erased.
    pub async fn erase_user(&self, tenant: &str, user: &str) -> Result<Vec<String>, DatabaseError> {
        self.writer.barrier().await;
        let ids = self.database.erase_user(tenant, user).await?;
        self.replica.forget(&user_budget_id(tenant, user));
        Ok(ids)
    }

    /// Requests that were erased by other gateways too, since a moment of the database's clock, and the next such moment.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn erased_since(&self, since_ms: i64) -> Result<(Vec<(String, String)>, i64), DatabaseError> {
        let next = self.database.now_ms().await? - OVERLAP_MS;
        Ok((self.database.erased_since(since_ms).await?, next))
    }

    /// Deletes records of before a time, where one is given, some at once so that no reservation waits for it, and forgets
    /// windows that are over and erasures that every gateway has heard of. The books stay.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn sweep(&self, records_before_ms: Option<i64>) -> Result<(), DatabaseError> {
        const ROWS_MAX: u64 = 500;
        const MONTH_MS_MAX: i64 = 31 * DAY_MS;
        let now = self.database.now_ms().await?;
        self.database.sweep_counts(now - 2 * DAY_MS).await?;
        self.database.sweep_erasures(now - ERASURES_TOLD_MS).await?;
        self.database.sweep_refunds(now - 3 * MONTH_MS_MAX).await?;
        self.database.sweep_notices(now - 2 * MONTH_MS_MAX).await?;
        self.database.sweep_user_budgets(now - 2 * MONTH_MS_MAX).await?;
        let Some(before_ms) = records_before_ms else { return Ok(()) };
        while self.database.sweep_generations(before_ms, ROWS_MAX as i64).await? == ROWS_MAX {}
        Ok(())
    }

    /// Up to so many notices that a webhook is to be told now, those of soft limits just reached among them.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn notices(&self, rows_max: i64) -> Result<Vec<database::Notice>, DatabaseError> {
        self.database.note_soft_limits().await?;
        self.database.notices_due(rows_max).await
    }

    /// Takes a notice to tell it; it is due again after a time. False where another gateway took it first.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn take_notice(&self, notice: &database::Notice, again_ms: i64) -> Result<bool, DatabaseError> {
        self.database.take_notice(notice, again_ms).await
    }

    /// Puts a notice away: it was told, or given up.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn close_notice(&self, id: &str) -> Result<(), DatabaseError> {
        self.database.close_notice(id).await
    }

    /// Sums of days, split as asked, newest day first; waits until what was settled before is stored.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn usage(&self, filter: UsageFilter<'_>, split: &[SplitBy]) -> Result<Vec<UsageRow>, DatabaseError> {
        self.writer.barrier().await;
        self.database.usage(filter, split).await
    }

    /// True where more is to be booked than can be, so that who asks now would wait for long.
    pub fn is_behind(&self) -> bool {
        self.writer.pace.is_behind()
    }

    /// Proves that the database answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), DatabaseError> {
        self.database.now_ms().await.map(|_| ())
    }

    /// Forgets an account, so that what was changed of its key is read at its next request.
    pub(crate) fn forget(&self, hash: &str) {
        self.accounts.write().unwrap_or_else(PoisonError::into_inner).remove(hash);
    }

    /// The same for all accounts of a tenant.
    pub(crate) fn forget_tenant(&self, tenant: &str) {
        let mut accounts = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
        accounts.retain(|_, account| account.tenant.id != tenant);
    }
}

/// Keeps this gateway's place among the others, until the ledger is gone.
async fn tend(replica: Weak<Replica>) {
    for round in 1_u32.. {
        tokio::time::sleep(REFRESH_EVERY).await;
        let Some(replica) = replica.upgrade() else { return };
        if let Err(error) = replica.tend().await {
            tracing::warn!(%error, "this gateway's place among others could not be kept; will retry");
        }
        if round % FORGET_EVERY == 0
            && let Err(error) = replica.forget_idle().await
        {
            tracing::warn!(%error, "money that no request needs could not be given back; will retry");
        }
    }
}

/// Takes over what others changed, until the ledger is gone.
async fn watch(database: Database, replica: Weak<Replica>, accounts: Weak<Accounts>) {
    let mut since = 0;
    loop {
        tokio::time::sleep(REFRESH_EVERY).await;
        let (Some(replica), Some(accounts)) = (replica.upgrade(), accounts.upgrade()) else { return };
        let looked = async {
            let now = database.now_ms().await?;
            if since > 0 {
                look(&database, &replica, &accounts, since).await?;
            }
            Ok::<_, DatabaseError>(now)
        };
        match looked.await {
            Ok(now) => since = now - OVERLAP_MS,
            Err(error) => tracing::warn!(%error, "what others changed could not be read; will retry"),
        }
    }
}

async fn look(
    database: &Database,
    replica: &Arc<Replica>,
    accounts: &Accounts,
    since: i64,
) -> Result<(), DatabaseError> {
    let keys = database.keys_updated_since(since).await?;
    let tenants = database.tenants_updated_since(since).await?;
    replica.refresh(&database.budgets_updated_since(since).await?).await?;
    let mut accounts = accounts.write().unwrap_or_else(PoisonError::into_inner);
    keys.iter().for_each(|key| drop(accounts.remove(&key.hash)));
    if !tenants.is_empty() {
        accounts.retain(|_, account| tenants.iter().all(|tenant| tenant.id != account.tenant.id));
    }
    Ok(())
}

/// SHA-256 in hexadecimal; keys carry 256 random bits, so no salt or stretching is needed.
pub(crate) fn hash(token: &str) -> String {
    Sha256::digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn random_key(prefix: &str) -> String {
    let bytes: [u8; 32] = rand::rng().random();
    bytes.iter().fold(prefix.to_owned(), |key, byte| format!("{key}{byte:02x}"))
}

/// Milliseconds since 1970, for time stamps; deadlines use the monotonic clock.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
