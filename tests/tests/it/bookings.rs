//! What is booked where something else happened meanwhile, on both stores: an overrun, a correction that comes late, an erasure, a
//! change of limits, a record that is refused.

use crate::stores::{Store, add_key, charged, reservation, settled, statement, stores, tenant_limits, url_of};
use database::{
    BudgetRow, CreditRow, Database, DatabaseConfig, DatabaseError, DatabaseUrl, Drawn, Leased, Reservation,
    WantedLease, budget_id, user_budget_id,
};
use ledger::{Journal, Replica, Writer};
use tests::postgres::Server;

async fn lease(database: &Database, id: &str, replica: &str, nano: i64) -> Leased {
    let wanted = WantedLease { budget_id: id, replica_id: replica, nano };
    database.lease(wanted).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_gateway_overdrew_is_not_for_others_to_lease() {
    for Store { name, database, .. } in stores().await {
        add_key(&database, "l", Some(1_000)).await;
        let id = budget_id("key", "l");
        for replica in ["a", "b"] {
            database.register_replica(replica).await.expect("a gateway");
        }
        let held = lease(&database, &id, "a", 100).await.granted_nano;
        let mut dear = settled("gen-dear", held + 50);
        dear.generation.key_hash = "l".into();
        dear.drawn = vec![Drawn { budget_id: id.clone(), replica_id: "a".into(), nano: held + 50 }];
        database.commit("a", &[], &[dear]).await.expect("settled");
        let rest = (1_000 - held - 50).max(0);
        assert_eq!(lease(&database, &id, "b", 1_000).await.granted_nano, rest, "{name}");
        assert_eq!(database.leased(&id).await.expect("a sum"), rest, "{name}: what is owed is not held");
        database.give_back(&id, "b", rest).await.expect("given back");
        let repaid = lease(&database, &id, "a", 50).await.granted_nano;
        assert!(repaid >= 50 || rest == 0, "{name}: its own debt is paid first, of {repaid}");
        let others = lease(&database, &id, "b", 1_000).await.granted_nano;
        assert_eq!(others, rest - (repaid - 50).max(0), "{name}: which took nothing from others");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_correction_changes_the_window_that_the_request_belongs_to() {
    for Store { name, database, config, .. } in stores().await {
        database.register_replica("r").await.expect("a gateway");
        let id = budget_id("key", "k");
        database.commit("r", &[reservation("gen-old", "r", 80)], &[]).await.expect("reserved");
        database.end_replica("r").await.expect("ended");
        statement(&config, "UPDATE budgets SET limit_nano = 1000, reset = 'daily', spent_nano = 40 WHERE id = 'key:k'");
        database.register_replica("s").await.expect("a gateway");
        let mut today = settled("gen-today", 5);
        today.generation.created_ms = database.now_ms().await.expect("a time");
        database.commit("s", &[], &[today]).await.expect("settled");
        let spent = async || database.budget(&id).await.expect("a query").expect("the budget").spent_nano;
        assert_eq!(spent().await, 5, "{name}: the window is new");
        database.replay(&[], &[settled("gen-old", 30)]).await.expect("booked");
        assert_eq!(spent().await, 5, "{name}: fifty less long ago are not fifty more today");
        statement(&config, "UPDATE budgets SET spent_nano = 35, window_ms = 0, reset = '' WHERE id = 'key:k'");
        assert_eq!(charged(&database).await, 35, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_who_is_erased_while_a_request_is_under_way_nothing_is_kept() {
    for Store { name, database, .. } in stores().await {
        database.register_replica("r").await.expect("a gateway");
        let id = user_budget_id("acme", "ann");
        let row = BudgetRow { id: id.clone(), tenant_id: "acme".into(), limit_nano: Some(500), ..BudgetRow::default() };
        database.insert_budget(&row).await.expect("a budget");
        database.commit("r", &[reservation("gen-open", "r", 80)], &[settled("gen-done", 3)]).await.expect("reserved");
        assert_eq!(database.erase_user("acme", "ann").await.expect("erased"), ["gen-done"], "{name}");
        let told = database.erased_since(0).await.expect("a list");
        let mut told: Vec<&str> = told.iter().map(|(_, id)| id.as_str()).collect();
        told.sort_unstable();
        assert_eq!(told, ["gen-done", "gen-open"], "{name}: for caches that will hold its answer");
        database.commit("r", &[], &[settled("gen-open", 7)]).await.expect("settled");
        for (id, cost) in [("gen-done", 3), ("gen-open", 7)] {
            let kept = database.generation("acme", id).await.expect("a query").expect("its cost stays");
            assert_eq!((kept.end_user.as_str(), kept.charged_nano), ("", cost), "{name}");
        }
        assert!(lease(&database, &id, "r", 1).await.is_gone, "{name}");
        assert_eq!(charged(&database).await, 10, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn end_users_have_a_budget_where_the_tenant_limits_them() {
    for Store { name, database, .. } in stores().await {
        database.register_replica("r").await.expect("a gateway");
        let id = user_budget_id("acme", "ann");
        let row = BudgetRow { id: id.clone(), tenant_id: "acme".into(), limit_nano: Some(5), ..BudgetRow::default() };
        for _ in 0..2 {
            database.insert_budget(&row).await.expect("a budget");
        }
        let mut today = settled("gen-today", 4);
        today.generation.created_ms = database.now_ms().await.expect("a time");
        database.commit("r", &[], &[settled("gen-old", 3), today]).await.expect("settled");
        let row = async || database.budget(&id).await.expect("a query").expect("it");
        assert_eq!(row().await.spent_nano, 7, "{name}");
        for (limit, reset, spent) in [(Some(9), "daily", 4), (Some(8), "daily", 4), (None, "", 7)] {
            let tenant = database.tenant("acme").await.expect("a query").expect("it");
            database.update_tenant(&tenant, &tenant_limits(limit, reset)).await.expect("limited");
            let row = row().await;
            assert_eq!((row.limit_nano, row.reset.as_str(), row.spent_nano), (limit, reset, spent), "{name}");
        }
    }
}

async fn writer(database: &Database, folder: &tempfile::TempDir) -> (std::sync::Arc<Replica>, Writer) {
    let replica = Replica::join(database.clone(), None).await.expect("a gateway");
    let journal = Journal::open(&folder.path().join("journal.jsonl"), false).expect("a journal");
    let (writer, _ending) = Writer::start(std::sync::Arc::clone(&replica), journal, catalog::NanoUsd(0));
    (replica, writer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_refused_keeps_no_other_out() {
    for Store { name, database, .. } in stores().await {
        let folder = tempfile::tempdir().expect("a folder");
        let (replica, writer) = writer(&database, &folder).await;
        let open = |id: &str| reservation(id, &replica.id(), 10);
        for _ in 0..2 {
            writer.reserve(open("gen-1")).await.expect("it is written down");
        }
        let (twice, good) = tokio::join!(writer.reserve(open("gen-1")), writer.reserve(open("gen-2")));
        assert!(twice.is_ok() && good.is_ok(), "{name}: nobody waits for the database");
        writer.barrier().await;
        assert_eq!(database.open_reservations().await.expect("a count"), 2, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn money_leased_under_a_lost_name_is_not_spent() {
    for Store { name, database, .. } in stores().await {
        let folder = tempfile::tempdir().expect("a folder");
        let (replica, writer) = writer(&database, &folder).await;
        let refused = writer.reserve(reservation("gen-1", "an earlier name", 10)).await;
        assert!(matches!(refused, Err(DatabaseError::Fenced)), "{name}: {refused:?}");
        let lost = replica.id();
        database.end_replica(&lost).await.expect("ended");
        writer.reserve(reservation("gen-2", &lost, 10)).await.expect("what nobody can know is found out");
        writer.barrier().await;
        assert_ne!(replica.id(), lost, "{name}");
        writer.reserve(reservation("gen-3", &replica.id(), 10)).await.expect("it goes on under another name");
        assert_eq!(database.replicas_alive().await.expect("a count"), 1, "{name}: it joined once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_of_postgresql_restores_books_that_agree_and_go_on() {
    let all = stores().await;
    let Store { config, database, .. } = all.iter().find(|store| store.name == "postgres").expect("it");
    database.register_replica("r").await.expect("a gateway");
    let open = reservation("gen-open", "r", 50);
    database.commit("r", &[open], &[settled("gen-1", 300)]).await.expect("settled");
    let url = url_of(config);
    let url = tokio::task::spawn_blocking(move || Server::shared().restored(&url)).await.expect("restored");
    database.commit("r", &[], &[settled("gen-2", 7)]).await.expect("settled");
    let config = DatabaseConfig { url: DatabaseUrl::new(url), ..config.clone() };
    let restored = Database::open_with(&config).await.expect("it opens");
    assert_eq!(charged(&restored).await, 300, "what came later is not in it");
    assert_eq!(restored.end_replica("r").await.expect("settled"), 1, "what was open when it was dumped");
    restored.register_replica("s").await.expect("a gateway");
    restored.commit("s", &[], &[settled("gen-3", 5)]).await.expect("settled");
    assert_eq!(charged(&restored).await, 355);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_is_closed_at_its_cost_and_charged_at_its_price() {
    for Store { name, database, .. } in stores().await {
        database.register_replica("r").await.expect("a gateway");
        let mut open = reservation("gen-1", "r", 300);
        (open.upstream_nano, open.sold_as) = (200, "acme/own".into());
        let free = Reservation { is_free: true, ..reservation("gen-2", "r", 300) };
        database.commit("r", &[open, free], &[]).await.expect("reserved");
        assert_eq!(database.end_replica("r").await.expect("ended"), 2, "{name}");
        let read = async |id: &str| database.generation("acme", id).await.expect("a query").expect("a record");
        let left = read("gen-1").await;
        assert_eq!((left.upstream_nano, left.charged_nano, left.state.as_str()), (200, 300, "unconfirmed"), "{name}");
        assert_eq!((left.sold_as.as_str(), left.model_asked.as_str()), ("acme/own", "acme/own"), "{name}: hidden");
        assert_eq!(charged(&database).await, 300, "{name}");
        let confirmed = [("gen-1".into(), 21), ("gen-2".into(), 21)];
        assert_eq!(database.reconcile(&confirmed).await.expect("closed"), 2, "{name}");
        let closed = read("gen-1").await;
        assert_eq!((closed.upstream_nano, closed.charged_nano), (21, 32), "{name}: half as much again, rounded up");
        assert_eq!(read("gen-2").await.charged_nano, 0, "{name}: the gateway's own");
        assert_eq!(charged(&database).await, 32, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_changed_while_it_is_topped_up_has_all_its_credits() {
    for Store { name, database, .. } in stores().await {
        let changing = database.clone();
        let changes = tokio::spawn(async move {
            for _ in 0..100 {
                let tenant = changing.tenant("acme").await.expect("a query").expect("the tenant");
                let _conflict = changing.update_tenant(&tenant, &tenant_limits(None, "")).await;
            }
        });
        for at in 0..100 {
            let id = format!("pay-{at}");
            let credit =
                CreditRow { id, tenant_id: "acme".into(), kind: "grant".into(), nano: 5, ..CreditRow::default() };
            while database.add_credit(&credit, &[]).await.is_err() {} // a deadlock is tried again
        }
        changes.await.expect("no panic");
        let row = database.budget(&budget_id("credits", "acme")).await.expect("a query").expect("the budget");
        assert_eq!(row.limit_nano, Some(500), "{name}");
    }
}
