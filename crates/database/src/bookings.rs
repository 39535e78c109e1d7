//! What settled requests change beside their records: the ledger's transfers, budgets and leases, the sums by day.

use crate::budgets::{CREDITS, KEY, TENANT, USER, budget_id, user_budget_id};
use crate::connection::DatabaseError;
use crate::generations::{Generation, Settled};
use crate::store::{Transaction, groups, sql};
use crate::transfers::{Transfer, insert_transfers};
use crate::usage_sums::UsageSums;
use std::collections::{BTreeMap, HashSet};

/// Part of a lease that a request used up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawn {
    pub budget_id: String,
    /// The gateway that had leased it.
    pub replica_id: String,
    pub nano: i64,
}

/// Later than any window begins.
const NOW: i64 = i64::MAX;

/// Sums of a batch; sorted, so that gateways lock rows in one order and never wait for each other in a circle.
#[derive(Debug, Default)]
pub(crate) struct Bookings {
    transfers: Vec<Transfer>,
    /// By budget and by when the request began; a charge that is booked now counts now.
    budgets: BTreeMap<(String, i64), i64>,
    leases: BTreeMap<(String, String), i64>,
    keys: BTreeMap<String, i64>,
    usage: UsageSums,
}

impl Bookings {
    /// Books a request that nobody has booked.
    pub(crate) fn add(&mut self, settled: &Settled) {
        let g = &settled.generation;
        self.transfers.extend(transfers(g, "charge", "cost", g.charged_nano, g.upstream_nano));
        self.count(g, 1, NOW);
        for drawn in &settled.drawn {
            *self.leases.entry((drawn.budget_id.clone(), drawn.replica_id.clone())).or_default() += drawn.nano;
        }
    }

    /// Books a request again that was booked as `known` before: the difference.
    pub(crate) fn amend(&mut self, known: &Generation, settled: &Settled) {
        let g = &settled.generation;
        let (charged, upstream) = (g.charged_nano - known.charged_nano, g.upstream_nano - known.upstream_nano);
        self.transfers.extend(transfers(g, "charge_correction", "cost_correction", charged, upstream));
        self.count(known, -1, known.created_ms);
        self.count(g, 1, known.created_ms);
    }

    fn count(&mut self, g: &Generation, sign: i64, charged_ms: i64) {
        let charged = sign * g.charged_nano;
        if charged != 0 {
            for kind in [TENANT, CREDITS] {
                *self.budgets.entry((budget_id(kind, &g.tenant_id), charged_ms)).or_default() += charged;
            }
            *self.budgets.entry((budget_id(KEY, &g.key_hash), charged_ms)).or_default() += charged;
            if !g.end_user.is_empty() {
                *self.budgets.entry((user_budget_id(&g.tenant_id, &g.end_user), charged_ms)).or_default() += charged;
            }
            *self.keys.entry(g.key_hash.clone()).or_default() += charged;
        }
        self.usage.count(g, sign);
    }

    /// Which end users have a budget: few or none, of many that ask.
    async fn limited_users(&self, transaction: &mut Transaction) -> Result<HashSet<String>, DatabaseError> {
        let users: Vec<&String> = self.budgets.keys().map(|(id, _)| id).filter(|id| is_of_user(id)).collect();
        let mut limited = HashSet::new();
        for group in groups(&users, 1) {
            let places: Vec<String> = (1..=group.len()).map(|at| format!("${at}")).collect();
            let find = sql(format!("SELECT id FROM budgets WHERE id IN ({})", places.join(", ")));
            let find = group.iter().fold(find, |find, id| find.bind(*id));
            limited.extend(find.all_in::<(String,)>(transaction).await?.into_iter().map(|(id,)| id));
        }
        Ok(limited)
    }

    pub(crate) async fn write(self, transaction: &mut Transaction) -> Result<(), DatabaseError> {
        insert_transfers(transaction, &self.transfers).await?;
        let users = self.limited_users(transaction).await?;
        let is_there = |id: &str| !is_of_user(id) || users.contains(id);
        let budgets = self.budgets.iter().filter(|((id, _), nano)| **nano != 0 && is_there(id));
        for ((id, charged_ms), nano) in budgets {
            spend(transaction, id, *nano, *charged_ms).await?;
        }
        for ((budget, replica), nano) in self.leases.iter().filter(|(_, nano)| **nano != 0) {
            let draw = sql("UPDATE leases SET nano = nano - $3 WHERE budget_id = $1 AND replica_id = $2");
            draw.bind(budget).bind(replica).bind(*nano).execute_in(transaction).await?;
        }
        for (hash, nano) in self.keys.iter().filter(|(_, nano)| **nano != 0) {
            let charge = sql("UPDATE keys SET usage_nano = usage_nano + $2 WHERE hash = $1");
            charge.bind(hash).bind(*nano).execute_in(transaction).await?;
        }
        self.usage.write(transaction).await
    }
}

fn is_of_user(budget_id: &str) -> bool {
    budget_id.split_once(':').is_some_and(|(kind, _)| kind == USER)
}

/// Adds to what a budget has spent; in a new window it begins at nothing, and what belongs to one that is over changes nothing.
async fn spend(transaction: &mut Transaction, id: &str, nano: i64, charged_ms: i64) -> Result<(), DatabaseError> {
    let spend = sql(format!(
        "UPDATE budgets SET spent_nano = CASE WHEN window_ms < {WINDOW} THEN 0 ELSE spent_nano END
         + CASE WHEN $3 < {WINDOW} THEN 0 ELSE CAST($2 AS BIGINT) END,
         window_ms = CASE WHEN window_ms < {WINDOW} THEN {WINDOW} ELSE window_ms END WHERE id = $1"
    ));
    spend.bind(id).bind(nano).bind(charged_ms).execute_in(transaction).await?;
    Ok(())
}

/// The beginning of a budget's window at the store's time. A clock that goes back begins no window again, since windows only
/// ever move on. Weeks begin on Mondays: 1970 began on a Thursday.
pub(crate) const WINDOW: &str = "(CASE reset
    WHEN 'daily' THEN {now} / 86400000 * 86400000
    WHEN 'weekly' THEN ({now} / 86400000 + 3) / 7 * 604800000 - 259200000
    WHEN 'monthly' THEN {month}
    ELSE 0 END)";

/// A charge moves the tenant's money to us, and a cost ours to the provider.
fn transfers(g: &Generation, charge: &str, cost: &str, charged: i64, upstream: i64) -> Vec<Transfer> {
    let transfer = |kind: &str, debit: String, credit: String, nano: i64| Transfer {
        reference: g.id.clone(),
        kind: kind.to_owned(),
        tenant_id: g.tenant_id.clone(),
        debit,
        credit,
        nano,
        created_ms: g.created_ms,
    };
    let tenant = format!("tenant:{}", g.tenant_id);
    let provider = format!("provider:{}", g.provider);
    let both = [
        transfer(charge, tenant, "revenue".to_owned(), charged),
        transfer(cost, "cost".to_owned(), provider, upstream),
    ];
    both.into_iter().filter(|transfer| transfer.nano != 0).collect()
}
