//! The ledger under random operations: grants, reservations, settlements, releases, refunds, expiry, leases and crashes, on both
//! stores. Whatever happens, all books agree and no budget is exceeded.

use crate::stores::{Store, add_key, generation, reservation, stores, tenant_limits};
use catalog::NanoUsd;
use database::{
    CreditRow, Database, Drawn, Generation, Settled, TenantLimits, Transfer, WantedLease, Withdrawal, budget_id,
};
use ledger::{Account, Bill, Journal, Ledger, Limits, Replica, Settlement, WantedKey, Writer};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// A gateway as the store sees it: what it has leased of each budget and not reserved, and what is under way.
#[derive(Default)]
struct Gateway {
    id: String,
    unreserved: HashMap<String, i64>,
    /// Generation, amount, and the budgets that it was set aside in.
    open: Vec<(String, i64)>,
}

struct World {
    database: Database,
    random: StdRng,
    gateways: Vec<Gateway>,
    /// What was given and bought, less what was taken back and what expired.
    credits: i64,
    count: usize,
    budgets: Vec<String>,
}

impl World {
    fn name(&mut self, kind: &str) -> String {
        self.count += 1;
        format!("{kind}-{}", self.count)
    }

    async fn join(&mut self, at: usize) {
        let id = self.name("gateway");
        self.database.register_replica(&id).await.expect("a gateway");
        self.gateways[at] = Gateway { id, ..Gateway::default() };
    }

    /// Sets an amount aside in every budget, leasing what lacks; nothing where one has too little.
    async fn reserve(&mut self, at: usize) {
        let nano = self.random.random_range(1..80);
        for budget in &self.budgets {
            let gateway = &mut self.gateways[at];
            let has = gateway.unreserved.entry(budget.clone()).or_default();
            if *has < nano {
                let wanted = WantedLease { budget_id: budget, replica_id: &gateway.id, nano: nano - *has };
                *has += self.database.lease(wanted).await.expect("an answer").granted_nano;
            }
        }
        if self.budgets.iter().any(|budget| self.gateways[at].unreserved[budget] < nano) {
            return;
        }
        let id = self.name("gen");
        let gateway = &mut self.gateways[at];
        gateway.unreserved.values_mut().for_each(|has| *has -= nano);
        let mut open = reservation(&id, &gateway.id, nano);
        open.end_user = String::new();
        self.database.commit(&gateway.id, &[open], &[]).await.expect("reserved");
        gateway.open.push((id, nano));
    }

    /// Settles a request at what it took: nothing, all, or something between.
    async fn settle(&mut self, at: usize) {
        if self.gateways[at].open.is_empty() {
            return;
        }
        let which = self.random.random_range(0..self.gateways[at].open.len());
        let (id, reserved) = self.gateways[at].open.swap_remove(which);
        let charged = self.random.random_range(0..=reserved);
        let gateway = &mut self.gateways[at];
        gateway.unreserved.values_mut().for_each(|has| *has += reserved - charged);
        let mut record = generation(&id, charged);
        (record.end_user, record.reserved_nano) = (String::new(), reserved);
        let drawn =
            |budget: &String| Drawn { budget_id: budget.clone(), replica_id: gateway.id.clone(), nano: charged };
        let settled = Settled { generation: record, drawn: self.budgets.iter().map(drawn).collect() };
        self.database.commit(&gateway.id, &[], &[settled]).await.expect("settled");
    }

    async fn give_back(&mut self, at: usize) {
        let gateway = &mut self.gateways[at];
        for (budget, has) in &mut gateway.unreserved {
            self.database.give_back(budget, &gateway.id, std::mem::take(has)).await.expect("given back");
        }
    }

    /// Dies without a word; another settles what it left. Some of it comes late all the same.
    async fn crash(&mut self, at: usize) {
        let dead = std::mem::take(&mut self.gateways[at]);
        self.database.end_replica(&dead.id).await.expect("ended");
        for (id, nano) in dead.open {
            if self.random.random_bool(0.5) {
                let charged = self.random.random_range(0..=nano);
                let mut record = generation(&id, charged);
                record.end_user = String::new();
                let late = Settled { generation: record, drawn: Vec::new() };
                self.database.replay(&[], &[late]).await.expect("booked");
            }
        }
        self.join(at).await;
    }

    async fn top_up(&mut self) {
        let (id, nano) = (self.name("pay"), self.random.random_range(1..500));
        let expires_ms = self.random.random_bool(0.5).then(|| i64::try_from(self.count).expect("few"));
        let kind = if self.random.random_bool(0.5) { "purchase" } else { "grant" };
        let row = CreditRow {
            id: id.clone(),
            tenant_id: "acme".into(),
            kind: kind.into(),
            nano,
            expires_ms,
            ..CreditRow::default()
        };
        let transfer = Transfer {
            reference: id,
            kind: kind.into(),
            tenant_id: "acme".into(),
            debit: "cash".into(),
            credit: "tenant:acme".into(),
            nano,
            created_ms: 1,
        };
        for is_known in [false, true] {
            let transfers = std::slice::from_ref(&transfer);
            assert_eq!(self.database.add_credit(&row, transfers).await.expect("booked").is_some(), is_known);
        }
        self.credits += nano;
    }

    /// Takes something of a lot away, once, however often that arrives.
    async fn withdraw(&mut self, kind: &'static str) {
        let lots = self.database.credit_state("acme").await.expect("a state").lots;
        if lots.is_empty() {
            return;
        }
        let lot = &lots[self.random.random_range(0..lots.len())];
        let (credit_id, nano) = (lot.id.clone(), lot.left_nano());
        let wanted = Withdrawal { credit_id, id: self.name(kind), kind, nano, created_ms: 1 };
        let taken = self.database.withdraw("acme", &wanted).await.expect("an answer");
        assert!((0..=nano.max(0)).contains(&taken));
        if taken > 0 {
            assert_eq!(self.database.withdraw("acme", &wanted).await.expect("an answer"), 0, "once");
        }
        self.credits -= taken;
    }

    /// What must hold whenever nothing is half done.
    async fn audit(&self) {
        let charged = crate::stores::charged(&self.database).await;
        for id in &self.budgets {
            let row = self.database.budget(id).await.expect("a query").expect("the budget");
            let leased = self.database.leased(id).await.expect("a sum");
            let limit = row.limit_nano.expect("a limit");
            assert!(row.spent_nano + leased <= limit, "{id}: {} spent and {leased} leased of {limit}", row.spent_nano);
            let known: i64 = self.gateways.iter().map(|gateway| gateway.unreserved.get(id).copied().unwrap_or(0)).sum();
            let open: i64 = self.gateways.iter().flat_map(|gateway| &gateway.open).map(|(_, nano)| nano).sum();
            assert_eq!(leased, known + open, "{id}: what gateways hold is what they were given");
        }
        let state = self.database.credit_state("acme").await.expect("a state");
        let left: i64 = state.lots.iter().map(CreditRow::left_nano).sum();
        assert!(state.lots.iter().all(|lot| lot.left_nano() >= 0), "{:?}", state.lots);
        assert_eq!(left, self.credits - charged, "what is left of the lots");
        let balances = self.database.balances().await.expect("balances");
        let owed = balances.iter().find(|balance| balance.account == "tenant:acme").map_or(0, |balance| balance.nano);
        assert_eq!(owed, self.credits - charged, "what the ledger says is owed to the tenant");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_the_books_agree() {
    for seed in 0..4 {
        for Store { name, database, .. } in stores().await {
            let key = database.key("k").await.expect("a query").expect("the key");
            let budget = database.budget(&budget_id("key", "k")).await.expect("a query").expect("its budget");
            let limited = database::BudgetRow { limit_nano: Some(4_000), ..budget };
            database.update_key(&key, &limited).await.expect("limited");
            let tenant = database.tenant("acme").await.expect("a query").expect("it");
            let prepaid = TenantLimits { is_prepaid: true, ..tenant_limits(None, "") };
            database.update_tenant(&tenant, &prepaid).await.expect("prepaid");
            add_key(&database, "unused", Some(1)).await;
            let budgets = vec![budget_id("key", "k"), budget_id("credits", "acme")];
            let random = StdRng::seed_from_u64(seed);
            let gateways = vec![Gateway::default(), Gateway::default()];
            let mut world = World { database, random, gateways, credits: 0, count: 0, budgets };
            world.join(0).await;
            world.join(1).await;
            let mut done: HashMap<u32, usize> = HashMap::new();
            for _ in 0..150 {
                let (what, at) = (world.random.random_range(0..100_u32), world.random.random_range(0..2_usize));
                *done.entry(what / 10).or_default() += 1;
                match what {
                    0..40 => world.reserve(at).await,
                    40..70 => world.settle(at).await,
                    70..78 => world.give_back(at).await,
                    78..82 => world.crash(at).await,
                    82..92 => world.top_up().await,
                    92..96 => world.withdraw("refund").await,
                    _ => world.withdraw("expiry").await,
                }
                world.audit().await;
            }
            let charged = world.database.charged_to_key("k").await.expect("sums");
            println!(
                "{name}, seed {seed}: {} requests charged {}, {} credits left",
                charged.0, charged.1, world.credits
            );
            assert!(charged.0 > 10 && charged.1 > 0, "something happened: {charged:?} {done:?}");
        }
    }
}

const LIMIT: NanoUsd = NanoUsd(200_000);

/// A gateway's own ledger on a store; the task ends when everything is stored.
async fn open_ledger(database: &Database, folder: &Path, at: usize) -> (Ledger, JoinHandle<()>) {
    let replica = Replica::join(database.clone(), None).await.expect("a gateway");
    let journal = Journal::open(&folder.join(format!("{at}.jsonl")), false).expect("files");
    let (writer, writing) = Writer::start(Arc::clone(&replica), journal, NanoUsd::ZERO);
    let (ledger, _) = Ledger::open(replica, writer, Some("sk-operator")).await.expect("a ledger");
    (ledger, writing)
}

/// One request of random size, which ends as requests do: served, given up by its client at any moment, or in a panic.
async fn ask(ledger: Ledger, account: Arc<Account>, id: String) {
    let (wanted, end) = {
        let mut random = rand::rng();
        (random.random_range(1..3_000), random.random_range(0..10))
    };
    let record = Generation {
        id,
        tenant_id: "acme".into(),
        key_hash: account.hash.clone(),
        created_ms: ledger::now_ms(),
        state: "served".into(),
        ..generation("", 0)
    };
    let record = Generation { end_user: String::new(), upstream_nano: 0, charged_nano: 0, ..record };
    let mut settlement = Settlement::admit(&ledger, account, false, record).expect("a slot");
    let needed = NanoUsd(wanted / 2);
    let reserving = settlement.reserve(NanoUsd(wanted), needed);
    let held = if end == 0 {
        tokio::select! { biased; held = reserving => held, () = tokio::task::yield_now() => return } // the client leaves
    } else {
        reserving.await
    };
    let Ok(held) = held else {
        settlement.finish(Bill::default());
        return;
    };
    settlement.record_reservation(&ledger).await.expect("written down");
    let charged = NanoUsd(rand::rng().random_range(0..=held.0));
    match end {
        1 => drop(settlement), // as by a panic: settled at what was set aside
        _ => drop(settlement.finish(Bill { upstream: charged, charged })),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_itself_keeps_its_budgets_and_its_books() {
    for Store { name, database, .. } in stores().await {
        let folder = tempfile::tempdir().expect("a folder");
        let limits = Limits { hard: Some(LIMIT), ..Limits::default() };
        let wanted = WantedKey { tenant: "acme".into(), name: "own".into(), limits, ..WantedKey::default() };
        let made = ledger::make_key(&database, wanted).await.expect("a key");
        let gateways = if database.is_shared() { 2 } else { 1 };
        let (mut ledgers, mut endings) = (Vec::new(), Vec::new());
        for at in 0..gateways {
            let (ledger, writing) = open_ledger(&database, folder.path(), at).await;
            ledgers.push(ledger);
            endings.push(writing);
        }
        let mut requests = tokio::task::JoinSet::new();
        for at in 0..400 {
            let ledger = ledgers[at % gateways].clone();
            let account = ledger.authenticate(&made.token).await.expect("a caller").account;
            requests.spawn(ask(ledger, account, format!("gen-{at}")));
        }
        while let Some(done) = requests.join_next().await {
            done.expect("no panic");
        }
        drop(ledgers);
        for ending in endings {
            tokio::time::timeout(Duration::from_secs(20), ending).await.expect("it ends").expect("no panic");
        }
        let hash = &made.key.row.hash;
        let (count, charged) = database.charged_to_key(hash).await.expect("sums");
        let id = budget_id("key", hash);
        let budget = database.budget(&id).await.expect("a query").expect("the budget");
        assert_eq!(count, 400, "{name}: each request ends in one record");
        assert!(charged <= LIMIT.0 && charged > LIMIT.0 / 2, "{name}: {charged} of {LIMIT:?}");
        assert_eq!((budget.spent_nano, database.leased(&id).await.expect("a sum")), (charged, 0), "{name}");
        assert_eq!(database.key(hash).await.expect("a query").expect("it").usage_nano, charged, "{name}");
        assert_eq!(database.open_reservations().await.expect("a count"), 0, "{name}");
        let balances = database.balances().await.expect("balances");
        let revenue = balances.iter().find(|balance| balance.account == "revenue").map(|balance| balance.nano);
        assert_eq!((revenue, balances.iter().map(|balance| balance.nano).sum::<i64>()), (Some(charged), 0), "{name}");
    }
}
