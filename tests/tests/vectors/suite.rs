//! What every vector store does.

use crate::Make;
use ::cache::{AnswerId, Earlier, Neighbour, Query, Row, VectorStore, Which};
use protocol::{Digest, digest_of};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::HashSet;
use std::sync::Arc;

const LENGTH: usize = 24;
const TENANT: &str = "acme";

pub(crate) async fn run(make: Make<'_>) {
    nearest_living_rows_of_the_scope_in_order(make).await;
    earlier_turns_have_their_say(make).await;
    a_row_takes_the_place_of_one_with_its_id(make).await;
    rows_leave_by_answer_and_by_tenant(make).await;
    what_has_expired_leaves_and_what_is_too_much(make).await;
    an_empty_store_is_no_error(make).await;
    stores_are_strangers(make).await;
}

fn scope() -> Digest {
    digest_of(b"scope")
}

fn angle(angle: f32) -> Vec<f32> {
    let mut vector = vec![0.0; LENGTH];
    (vector[0], vector[LENGTH - 1]) = (angle.cos(), angle.sin());
    vector
}

fn row(id: &str, vector: Vec<f32>, expires_ms: i64) -> Row {
    Row {
        tenant: TENANT.into(),
        scope: scope(),
        id: id.into(),
        answer: id.into(),
        prompt: format!("prompt of {id}: \"quoted\", ünïcode\u{0}").into(),
        vector: vector.into(),
        earlier: None,
        principal: i64::MIN + 7,
        expires_ms,
    }
}

async fn put(store: &dyn VectorStore, rows: impl IntoIterator<Item = Row>) {
    let rows: Vec<Arc<Row>> = rows.into_iter().map(Arc::new).collect();
    store.ensure_space(LENGTH).await.expect("space");
    store.upsert(&rows).await.expect("put in");
}

async fn search(store: &dyn VectorStore, vector: &[f32], earlier: Option<&[f32]>, now_ms: i64) -> Vec<Neighbour> {
    let query = Query { tenant: TENANT, scope: &scope(), vector, earlier, now_ms };
    store.search(query).await.expect("found")
}

async fn ids(store: &dyn VectorStore, vector: &[f32], now_ms: i64) -> Vec<String> {
    search(store, vector, None, now_ms).await.iter().map(|found| found.row.id.to_string()).collect()
}

async fn nearest_living_rows_of_the_scope_in_order(make: Make<'_>) {
    let store = &*make(1_000);
    put(store, (0..20).map(|at| row(&format!("{at:02}"), angle(at as f32 * 0.1), if at == 1 { 5 } else { 99 }))).await;
    let foreign = Row { scope: digest_of(b"other"), ..row("foreign scope", angle(0.0), 99) };
    put(store, [foreign, foreign_tenant()]).await;
    let found = search(store, &angle(0.0), None, 10).await;
    let found_ids: Vec<&str> = found.iter().map(|found| &*found.row.id).collect();
    assert_eq!(found_ids, ["00", "02", "03", "04", "05", "06"]);
    assert!((found[1].cosine - 0.2f32.cos()).abs() < 1e-6);
    assert_eq!(*found[1].row, row("02", angle(0.2), 99), "a row comes back as it was put in");
    put(store, ["twin a", "twin b"].map(|id| row(id, angle(0.0), 99))).await;
    assert_eq!(ids(store, &angle(0.0), 10).await[..3], ["twin b", "twin a", "00"], "the greater id first");
    assert!(ids(store, &angle(0.0), 99).await.is_empty(), "all have expired");
}

/// Never in the same scope, as tenants are part of it; a store looks at both all the same.
fn foreign_tenant() -> Row {
    Row { tenant: "umbrella".into(), ..row("foreign tenant", angle(0.0), 99) }
}

async fn earlier_turns_have_their_say(make: Make<'_>) {
    let store = &*make(1_000);
    let with = |id: &str, earlier: f32| Row {
        earlier: Some(Earlier { text: "before".into(), vector: angle(earlier).into() }),
        ..row(id, angle(0.0), 99)
    };
    put(store, [with("same", 0.0), with("other", 1.2), row("alone", angle(0.0), 99)]).await;
    let found = search(store, &angle(0.1), Some(&angle(0.0)), 0).await;
    let cosines: Vec<(&str, f32)> = found.iter().map(|found| (&*found.row.id, found.cosine)).collect();
    assert_eq!(cosines.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ["same", "other"]);
    assert!((cosines[0].1 - 0.1f32.cos()).abs() < 1e-6 && (cosines[1].1 - 1.2f32.cos()).abs() < 1e-6);
    assert_eq!(found[0].row.earlier.as_ref().map(|earlier| &*earlier.text), Some("before"));
    assert_eq!(ids(store, &angle(0.1), 0).await, ["alone"]);
    // Many nearer ones with earlier turns hide nobody without.
    put(store, (0..60).map(|at| with(&format!("more {at}"), 0.0))).await;
    assert_eq!(ids(store, &angle(0.0), 0).await, ["alone"]);
}

async fn a_row_takes_the_place_of_one_with_its_id(make: Make<'_>) {
    let store = &*make(1_000);
    put(store, [row("a", angle(0.0), 99), row("b", angle(1.0), 99), row("a", angle(1.5), 99)]).await;
    assert_eq!(store.stats().await.expect("counted").rows, 2);
    assert_eq!(ids(store, &angle(0.0), 0).await, ["b", "a"]);
    put(store, [row("a", angle(0.0), 99)]).await;
    assert_eq!(ids(store, &angle(0.0), 0).await, ["a", "b"]);
}

async fn rows_leave_by_answer_and_by_tenant(make: Make<'_>) {
    let store = &*make(1_000);
    let to = |id: &str, answer: &str| Row { answer: answer.into(), ..row(id, angle(0.0), 99) };
    let foreign = Row { answer: "x".into(), ..foreign_tenant() };
    put(store, [to("1", "x"), to("2", "y"), to("3", "x"), to("4", "z"), foreign]).await;
    let answers = HashSet::from(["x", "z"].map(AnswerId::from));
    store.delete(Which { tenant: TENANT, answers: Some(&answers) }).await.expect("removed");
    assert_eq!(ids(store, &angle(0.0), 0).await, ["2"]);
    assert_eq!(store.stats().await.expect("counted").rows, 2, "the other tenant's row leads to `x`, too, and stays");
    store.delete(Which { tenant: TENANT, answers: None }).await.expect("removed");
    assert!(ids(store, &angle(0.0), 0).await.is_empty());
    assert_eq!(store.stats().await.expect("counted").rows, 1);
}

async fn what_has_expired_leaves_and_what_is_too_much(make: Make<'_>) {
    let store = &*make(10);
    put(store, (0..10).map(|at| row(&format!("{at}"), angle(0.1 * at as f32), 100 + at))).await;
    assert_eq!(store.sweep(100).await, Ok(1), "a row lives until its time, not through it");
    assert_eq!(store.sweep(100).await, Ok(0));
    put(store, (10..14).map(|at| row(&format!("{at}"), angle(0.1 * at as f32), 100 + at))).await;
    store.sweep(100).await.expect("swept");
    let rows = store.stats().await.expect("counted").rows;
    assert!((9..=10).contains(&rows), "{rows} rows where 10 are allowed");
    assert!(!ids(store, &angle(0.1), 100).await.contains(&"1".to_owned()), "what expires first has left");
    assert_eq!(ids(store, &angle(1.3), 100).await[0], "13");
}

async fn an_empty_store_is_no_error(make: Make<'_>) {
    let store = &*make(10);
    assert!(ids(store, &angle(0.0), 0).await.is_empty());
    store.delete(Which { tenant: TENANT, answers: None }).await.expect("nothing to remove");
    assert_eq!(store.sweep(1).await, Ok(0));
    assert_eq!(store.stats().await.expect("counted").rows, 0);
    store.health().await.expect("well");
}

async fn stores_are_strangers(make: Make<'_>) {
    let (one, other) = (&*make(10), &*make(10));
    put(one, [row("a", angle(0.0), 99)]).await;
    put(other, [row("b", angle(0.0), 99)]).await;
    one.delete(Which { tenant: TENANT, answers: None }).await.expect("removed");
    one.sweep(999).await.expect("swept");
    assert_eq!(ids(other, &angle(0.0), 0).await, ["b"]);
}

/// Random rows, many of them alike or the same: two stores give the same rows in the same order with the same scores.
pub(crate) async fn decide_alike(a: Make<'_>, b: Make<'_>) {
    let mut draw = StdRng::seed_from_u64(5);
    let unit = |draw: &mut StdRng| -> Vec<f32> {
        let numbers: Vec<f32> = (0..LENGTH).map(|_| draw.random::<f32>() - 0.3).collect();
        let length = numbers.iter().map(|x| x * x).sum::<f32>().sqrt();
        numbers.iter().map(|x| x / length).collect()
    };
    let topics: Vec<Vec<f32>> = (0..40).map(|_| unit(&mut draw)).collect();
    let rows: Vec<Row> = (0..600)
        .map(|at| {
            let vector = if draw.random::<f32>() < 0.5 { topics[at % 40].clone() } else { unit(&mut draw) };
            let earlier = (at % 5 == 0).then(|| Earlier { text: "e".into(), vector: unit(&mut draw).into() });
            Row { earlier, ..row(&format!("{at:03}"), vector, draw.random_range(50..150)) }
        })
        .collect();
    let (a, b) = (&*a(10_000), &*b(10_000));
    put(a, rows.clone()).await;
    put(b, rows).await;
    for at in 0..80 {
        let (vector, earlier) = (unit(&mut draw), unit(&mut draw));
        let vector = if at % 2 == 0 { &topics[at / 2] } else { &vector };
        let earlier = (at % 3 == 0).then_some(&*earlier);
        let (of_a, of_b) = (search(a, vector, earlier, 100).await, search(b, vector, earlier, 100).await);
        assert_eq!(of_a.len(), 6);
        assert_eq!(of_a, of_b, "search {at}");
    }
}
