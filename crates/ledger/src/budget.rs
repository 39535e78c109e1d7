//! A budget as one gateway knows it: what it has leased of it, and what of that is reserved. Several are reserved from at once,
//! all or none.

use catalog::NanoUsd;
use database::{BudgetRow, Drawn};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use thiserror::Error;

/// After a lease brought nothing, how long the database is not asked again.
const PATIENCE: Duration = Duration::from_millis(500);

/// A budget of which this gateway may spend what it has leased.
#[derive(Debug)]
pub(crate) struct Budget {
    /// As in the database: `key:HASH`, `tenant:ID`, `credits:ID` or `user:TENANT/USER`.
    pub id: String,
    /// Held by who asks the database for more.
    pub asking: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Without it, spending is only counted.
    limit: Option<NanoUsd>,
    /// The gateway's name in the database, under which it leased; another one begins where leases were lost.
    replica_id: String,
    /// Leased and not reserved; below zero where a request took more than it had reserved.
    unreserved: NanoUsd,
    /// What nobody holds, as the database said last.
    left: NanoUsd,
    /// When a lease brought nothing.
    asked_in_vain: Option<Instant>,
    used: Instant,
}

/// A budget does not cover even the least that a request needs.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("of {budget} {available} USD are left, and the request needs {needed} USD")]
pub struct NotEnough {
    /// `the key`, `the tenant`, `the credits of the tenant` or ``the user `NAME` ``.
    pub budget: String,
    pub available: NanoUsd,
    pub needed: NanoUsd,
}

impl Budget {
    pub(crate) fn of(row: &BudgetRow, replica_id: String) -> Self {
        let state = State {
            limit: row.limit_nano.map(NanoUsd),
            replica_id,
            unreserved: NanoUsd::ZERO,
            left: NanoUsd::ZERO,
            asked_in_vain: None,
            used: Instant::now(),
        };
        Self { id: row.id.clone(), asking: tokio::sync::Mutex::new(()), state: Mutex::new(state) }
    }

    /// Takes over what others changed; true where the limit did. The database is asked again at once.
    pub(crate) fn refresh(&self, row: &BudgetRow) -> bool {
        let mut state = self.state();
        let limit = row.limit_nano.map(NanoUsd);
        let differs = state.limit != limit;
        (state.limit, state.asked_in_vain) = (limit, None);
        differs
    }

    /// True where nothing was reserved for a while, and nothing is owed to what others hold.
    pub(crate) fn is_idle(&self, lately: Duration) -> bool {
        let state = self.state();
        state.used.elapsed() > lately && state.unreserved >= NanoUsd::ZERO
    }

    /// True where nothing of it is leased here.
    pub(crate) fn is_empty(&self) -> bool {
        self.state().unreserved == NanoUsd::ZERO
    }

    /// The name under which it leases.
    pub(crate) fn replica_id(&self) -> String {
        self.state().replica_id.clone()
    }

    /// The limit, where it has one.
    pub(crate) fn limit(&self) -> Option<NanoUsd> {
        self.state().limit
    }

    /// Forgets what was leased: the database gave it to others. What is reserved is settled without it.
    pub(crate) fn lose_lease(&self, replica_id: String) {
        let mut state = self.state();
        (state.replica_id, state.unreserved, state.asked_in_vain) = (replica_id, NanoUsd::ZERO, None);
    }

    /// Who leases and how much more would be needed to reserve `wanted`; `None` where it has enough, or where the
    /// database said a moment ago that there is no more.
    pub(crate) fn lacks(&self, wanted: NanoUsd) -> Option<(String, NanoUsd)> {
        let state = self.state();
        let is_vain = state.asked_in_vain.is_some_and(|asked| asked.elapsed() < PATIENCE);
        let lacking = wanted.max(NanoUsd(1)) - state.unreserved;
        (state.limit.is_some() && lacking > NanoUsd::ZERO && !is_vain).then(|| (state.replica_id.clone(), lacking))
    }

    /// Adds what was leased under a name, unless that is lost meanwhile.
    /// `is_vain` where asking again would bring no more.
    pub(crate) fn grant(&self, replica_id: &str, granted: NanoUsd, left: NanoUsd, is_vain: bool) {
        let mut state = self.state();
        if state.replica_id == replica_id {
            state.unreserved += granted;
            state.left = left;
            state.asked_in_vain = (is_vain && left <= NanoUsd::ZERO).then(Instant::now);
        }
    }

    /// Leaves the database alone for a while.
    pub(crate) fn ask_no_more(&self) {
        self.state().asked_in_vain = Some(Instant::now());
    }

    /// Puts back what [`Budget::spare`] took out and the database did not take.
    pub(crate) fn put_back(&self, replica_id: &str, spare: NanoUsd) {
        let mut state = self.state();
        if state.replica_id == replica_id {
            state.unreserved += spare;
        }
    }

    /// Takes out what others may have: all that is not reserved.
    pub(crate) fn spare(&self) -> Option<(String, NanoUsd)> {
        let mut state = self.state();
        let spare = state.unreserved;
        (spare > NanoUsd::ZERO).then(|| {
            state.unreserved = NanoUsd::ZERO;
            (state.replica_id.clone(), spare)
        })
    }

    /// What its holder can reserve, for messages: leased here, and held by nobody.
    fn available(state: &State) -> NanoUsd {
        state.unreserved + state.left.max(NanoUsd::ZERO)
    }

    fn who(&self) -> String {
        match self.id.split_once(':') {
            Some(("key", _)) => "the key".to_owned(),
            Some(("credits", _)) => "the credits of the tenant".to_owned(),
            Some(("user", rest)) => format!("the user `{}`", rest.split_once('/').map_or(rest, |(_, user)| user)),
            _ => "the tenant".to_owned(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Numbers are whole between any two statements, so a panic elsewhere cannot have torn them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The budgets that must all agree to what a request spends.
#[derive(Debug, Clone, Default)]
pub(crate) struct Budgets {
    /// By id, which is the order in which they are locked.
    all: Vec<Arc<Budget>>,
}

/// Money set aside in all budgets of a request.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    pub nano: NanoUsd,
    /// Each with the lease that it was taken out of.
    parts: Vec<(Arc<Budget>, String)>,
}

impl Budgets {
    pub(crate) fn of(mut all: Vec<Arc<Budget>>) -> Self {
        all.sort_by(|one, other| one.id.cmp(&other.id));
        Self { all }
    }

    /// These and another.
    pub(crate) fn with(&self, other: Arc<Budget>) -> Self {
        Self::of(self.all.iter().cloned().chain([other]).collect())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Budget>> {
        self.all.iter()
    }

    /// Sets `wanted` aside in all of them, or what the poorest has left where that is less but at least `needed`.
    ///
    /// # Errors
    /// Names the poorest, when it has less than `needed`; nothing is set aside then.
    pub(crate) fn reserve(&self, wanted: NanoUsd, needed: NanoUsd) -> Result<Hold, NotEnough> {
        let mut states: Vec<MutexGuard<'_, State>> = self.all.iter().map(|budget| budget.state()).collect();
        let limited = || self.all.iter().zip(&states).filter(|(_, state)| state.limit.is_some());
        let poorest = limited().min_by_key(|(_, state)| state.unreserved);
        let granted = match poorest {
            None => wanted,
            Some((budget, state)) => {
                let unreserved = state.unreserved;
                if unreserved < needed || unreserved < NanoUsd(1) && wanted > NanoUsd::ZERO {
                    let available = Budget::available(state);
                    return Err(NotEnough { budget: budget.who(), available, needed });
                }
                wanted.min(unreserved)
            }
        };
        let mut parts = Vec::new();
        for (budget, state) in self.all.iter().zip(&mut states).filter(|(_, state)| state.limit.is_some()) {
            (state.unreserved, state.used) = (state.unreserved - granted, Instant::now());
            parts.push((Arc::clone(budget), state.replica_id.clone()));
        }
        Ok(Hold { nano: granted, parts })
    }
}

impl Hold {
    /// Money that no budget pays.
    pub(crate) fn free(nano: NanoUsd) -> Self {
        Self { nano, parts: Vec::new() }
    }

    /// The name under which all of it was leased; `None` where nothing was.
    ///
    /// # Errors
    /// `Err` where it was under different names: one lease is lost.
    pub(crate) fn replica_id(&self) -> Result<Option<&str>, ()> {
        let mut names = self.parts.iter().map(|(_, replica_id)| replica_id.as_str());
        let Some(first) = names.next() else { return Ok(None) };
        if names.all(|name| name == first) { Ok(Some(first)) } else { Err(()) }
    }

    /// Ends it: gives back what was not charged, and says what was used up of each lease.
    pub(crate) fn settle(self, charged: NanoUsd) -> Vec<Drawn> {
        let mut drawn = Vec::new();
        for (budget, replica_id) in self.parts {
            let mut state = budget.state();
            if state.replica_id == replica_id {
                state.unreserved += self.nano - charged;
                drop(state);
                drawn.push(Drawn { budget_id: budget.id.clone(), replica_id, nano: charged.0 });
            }
        }
        drawn
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn budget(id: &str, limit: Option<i64>) -> Arc<Budget> {
        let row = BudgetRow { id: id.to_owned(), limit_nano: limit, ..BudgetRow::default() };
        let budget = Budget::of(&row, "replica".to_owned());
        budget.grant("replica", NanoUsd(limit.unwrap_or(0)), NanoUsd::ZERO, true);
        Arc::new(budget)
    }

    #[test]
    fn a_short_balance_grants_what_is_left_down_to_the_floor() {
        let budgets = Budgets::of(vec![budget("key:a", Some(100)), budget("tenant:t", None)]);
        assert_eq!(budgets.reserve(NanoUsd(80), NanoUsd(80)).map(|hold| hold.nano), Ok(NanoUsd(80)));
        assert_eq!(budgets.reserve(NanoUsd(80), NanoUsd(10)).map(|hold| hold.nano), Ok(NanoUsd(20)));
        let broke = NotEnough { budget: "the key".to_owned(), available: NanoUsd(0), needed: NanoUsd(10) };
        assert_eq!(budgets.reserve(NanoUsd(80), NanoUsd(10)).map(|hold| hold.nano), Err(broke));
    }

    #[test]
    fn the_poorest_of_several_decides_and_is_named() {
        let (key, user) = (budget("key:a", Some(100)), budget("user:t/ann", Some(30)));
        let budgets = Budgets::of(vec![Arc::clone(&key), Arc::clone(&user)]);
        let hold = budgets.reserve(NanoUsd(50), NanoUsd(10)).expect("money");
        assert_eq!(hold.nano, NanoUsd(30));
        let refused = budgets.reserve(NanoUsd(50), NanoUsd(10)).expect_err("the user has nothing left");
        assert_eq!(refused.budget, "the user `ann`");
        hold.settle(NanoUsd(20));
        assert_eq!((key.state().unreserved, user.state().unreserved), (NanoUsd(80), NanoUsd(10)));
    }

    #[test]
    fn an_overrun_blocks_the_next_request() {
        let budgets = Budgets::of(vec![budget("key:a", Some(100))]);
        let drawn = budgets.reserve(NanoUsd(50), NanoUsd(50)).expect("money").settle(NanoUsd(130));
        assert_eq!(drawn[0].nano, 130);
        assert!(budgets.reserve(NanoUsd(1), NanoUsd(0)).is_err());
    }

    #[test]
    fn what_was_reserved_under_a_lost_lease_gives_nothing_back() {
        let key = budget("key:a", Some(100));
        let budgets = Budgets::of(vec![Arc::clone(&key)]);
        let hold = budgets.reserve(NanoUsd(50), NanoUsd(50)).expect("money");
        key.lose_lease("another".to_owned());
        assert_eq!(hold.settle(NanoUsd(10)), []);
        assert_eq!(key.state().unreserved, NanoUsd::ZERO);
        key.grant("replica", NanoUsd(70), NanoUsd::ZERO, true);
        assert_eq!(key.state().unreserved, NanoUsd::ZERO, "nor does what was asked for under it");
    }

    proptest! {
        #[test]
        fn money_is_conserved_under_any_interleaving(steps in proptest::collection::vec((1i64..50, 0i64..50, any::<bool>()), 1..60)) {
            let (key, tenant) = (budget("key:a", Some(500)), budget("tenant:t", Some(700)));
            let budgets = Budgets::of(vec![Arc::clone(&key), Arc::clone(&tenant)]);
            let (mut open, mut charged) = (Vec::<Hold>::new(), 0);
            for (wanted, cost, settle_one) in steps {
                if settle_one && let Some(hold) = open.pop() {
                    let cost = NanoUsd(cost).min(hold.nano);
                    let drawn: i64 = hold.settle(cost).iter().map(|drawn| drawn.nano).sum();
                    prop_assert_eq!(drawn, 2 * cost.0);
                    charged += cost.0;
                } else if let Ok(hold) = budgets.reserve(NanoUsd(wanted), NanoUsd(wanted)) {
                    open.push(hold);
                }
                let reserved: NanoUsd = open.iter().map(|hold| hold.nano).sum();
                prop_assert_eq!(key.state().unreserved, NanoUsd(500 - charged) - reserved);
                prop_assert_eq!(tenant.state().unreserved, NanoUsd(700 - charged) - reserved);
                prop_assert!(key.state().unreserved >= NanoUsd::ZERO);
            }
        }
    }
}
