//! The cache with a vector store in another process: what is missed while it is away, and what is there again afterwards.

use ::cache::{
    Cache, CacheConfig, CacheModel, Filter, Look, Owner, Placed, Put, Question, StoreError, StoreKind, Words,
};
use database::{CacheFile, CacheWrite};
use protocol::{Digest, Reply, digest_of};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tests::eventually;
use tests::qdrant::Server;

const TENANT: &str = "acme";

/// A folder for the cache's file.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("cache.db")
    }
}

/// A cache with a patience that a busy machine does not exhaust.
async fn open(file: &Path, url: &str) -> Cache {
    open_with(file, url, 1_000).await
}

async fn open_with(file: &Path, url: &str, store_budget_ms: u64) -> Cache {
    let mut config = CacheConfig::default();
    config.semantic.store = StoreKind::Qdrant;
    config.semantic.url = Some(url.to_owned());
    config.semantic.confirm = false;
    config.semantic.store_budget_ms = store_budget_ms;
    let file = CacheFile::open(file).await.expect("a file");
    let model = CacheModel::shipped().expect("a model");
    Cache::open(&config, Some(file), Some(("embedder", Arc::new(Words::default()))), model).await.expect("a cache")
}

/// Closes a cache once all it was told is in its file.
async fn close(cache: Cache) {
    let writing = cache.take_writing().expect("it has a file");
    drop(cache);
    writing.await.expect("written");
}

fn question(at: usize) -> Question {
    let mut vector = vec![0.0; 64];
    vector[at] = 1.0;
    Question { prompt: format!("how do I reset number {at}?"), vector, earlier: None, principal: 1, link: at as u64 }
}

fn keep(cache: &Cache, at: usize) {
    let id = format!("gen-{at}");
    let reply: Reply =
        serde_json::from_value(serde_json::json!({"choices": [{"message": {"content": id}}]})).expect("a reply");
    cache.put(Put {
        id: id.clone(),
        tenant: TENANT.to_owned(),
        fingerprint: digest_of(id.as_bytes()),
        reply: Arc::new(reply),
        model: "m".to_owned(),
        provider: "p".to_owned(),
        tags: Vec::new(),
        ttl_s: None,
    });
    cache.place(&id, TENANT, Placed { scope: scope(), question: question(at), same: Vec::new() });
}

fn scope() -> Digest {
    digest_of(b"scope")
}

async fn look(cache: &Cache, at: usize) -> Result<Option<Look>, StoreError> {
    let owner = Owner { tenant: TENANT.to_owned(), policy: String::new() };
    cache.look(&owner, &scope(), &question(at), 0.01).await
}

/// The answer that the nearest prompt leads to, where it is this very prompt.
async fn finds(cache: &Cache, at: usize) -> bool {
    match look(cache, at).await {
        Ok(Some(look)) => look.case.is_some_and(|case| *case.answer == *format!("gen-{at}") && case.cosine > 0.99),
        _ => false,
    }
}

#[tokio::test]
async fn what_is_kept_is_found_at_once_and_after_a_restart_and_is_nobody_elses() {
    let (server, place, other) = (Server::start(0).await, Place::new(), Place::new());
    let cache = open(&place.file(), &server.url).await;
    server.delay(Duration::from_millis(5));
    for at in 0..10 {
        keep(&cache, at);
        assert!(finds(&cache, at).await, "{at} is found before the server has it");
    }
    eventually("the server has them all", async || server.points() == [10]).await;
    server.delay(Duration::ZERO);
    assert_eq!(cache.sizes().await.prompts, Some(10));
    close(cache).await;
    let cache = open(&place.file(), &server.url).await;
    assert!(finds(&cache, 3).await);
    let stranger = open(&other.file(), &server.url).await;
    assert_eq!(look(&stranger, 3).await.expect("an answer").map(|look| look.cosine), None, "another installation's");
    keep(&stranger, 20);
    eventually("it has a collection of its own", async || server.points().len() == 2).await;
    assert!(!finds(&cache, 20).await);
}

#[tokio::test]
async fn a_dead_server_is_a_miss_and_what_came_meanwhile_is_found_later() {
    let place = Place::new();
    let server = Server::start(0).await;
    let (url, port) = (server.url.clone(), server.url.rsplit(':').next().expect("a port").parse().expect("a number"));
    drop(server);
    let cache = open(&place.file(), &url).await;
    let begun = Instant::now();
    eventually("it is noticed", async || matches!(look(&cache, 1).await, Err(StoreError::Down))).await;
    assert!(cache.problem().is_some());
    keep(&cache, 1);
    assert!(matches!(look(&cache, 1).await, Err(StoreError::Down)), "nobody waits for it");
    let server = Server::start(port).await;
    eventually("it is used again", async || finds(&cache, 1).await).await;
    assert!(cache.problem().is_none() && begun.elapsed() < Duration::from_secs(30));
    assert_eq!(server.points(), [1]);
}

#[tokio::test]
async fn a_slow_server_costs_no_more_than_the_budget() {
    let (server, place) = (Server::start(0).await, Place::new());
    let cache = open_with(&place.file(), &server.url, 20).await;
    keep(&cache, 1);
    eventually("it is stored", async || server.points() == [1]).await;
    server.delay(Duration::from_secs(3));
    let mut outcomes = Vec::new();
    for _ in 0..6 {
        let begun = Instant::now();
        outcomes.push(look(&cache, 1).await.map(|_| ()));
        assert!(begun.elapsed() < Duration::from_millis(2_500), "{:?}", begun.elapsed());
    }
    let late = Err(StoreError::Late(Duration::from_millis(20)));
    assert_eq!(outcomes[..5], vec![late; 5]);
    assert_eq!(outcomes[5], Err(StoreError::Down), "then it is left alone");
    server.delay(Duration::ZERO);
    eventually("it is used again", async || finds(&cache, 1).await).await;
}

#[tokio::test]
async fn a_server_that_lost_its_points_gets_them_again_from_the_file() {
    let (server, place) = (Server::start(0).await, Place::new());
    let cache = open(&place.file(), &server.url).await;
    (0..8).for_each(|at| keep(&cache, at));
    eventually("they are stored", async || server.points() == [8]).await;
    server.wipe();
    assert!(!finds(&cache, 3).await);
    keep(&cache, 9);
    eventually("all are there again", async || server.points() == [9] && finds(&cache, 3).await).await;
    close(cache).await;
    server.wipe();
    let cache = open(&place.file(), &server.url).await;
    assert!(finds(&cache, 3).await && server.points() == [9], "at start, too");
}

#[tokio::test]
async fn a_collection_from_before_is_used_though_the_file_knows_no_prompt_any_more() {
    let (server, place) = (Server::start(0).await, Place::new());
    let cache = open(&place.file(), &server.url).await;
    keep(&cache, 1);
    eventually("it is stored", async || server.points() == [1]).await;
    close(cache).await;
    let file = CacheFile::open(&place.file()).await.expect("a file");
    let epoch = CacheWrite::Epoch { tenant_id: TENANT.to_owned(), epoch: 0 };
    file.apply(&[epoch]).await.expect("emptied");
    file.close().await;
    let cache = open(&place.file(), &server.url).await;
    keep(&cache, 2);
    eventually("it is stored, and on its way no more", async || {
        server.points() == [2] && cache.sizes().await.prompts == Some(2)
    })
    .await;
    assert!(finds(&cache, 2).await);
}

#[tokio::test]
async fn what_is_forgotten_during_an_outage_leaves_the_server_afterwards() {
    let (server, place) = (Server::start(0).await, Place::new());
    let cache = open(&place.file(), &server.url).await;
    (0..3).for_each(|at| keep(&cache, at));
    eventually("they are stored", async || server.points() == [3]).await;
    server.set_broken(true);
    let filter = Filter { id: Some("gen-1".to_owned()), ..Filter::default() };
    assert_eq!(cache.forget(TENANT, &filter).await.expect("forgotten").len(), 1);
    server.set_broken(false);
    eventually("it has left", async || server.points() == [2]).await;
}

#[tokio::test]
async fn damaged_points_are_left_out() {
    let (server, place) = (Server::start(0).await, Place::new());
    let cache = open(&place.file(), &server.url).await;
    keep(&cache, 1);
    eventually("it is stored", async || server.points() == [1]).await;
    let is_left_out = async || {
        server.lose("answer"); // once more, where it was put in again meanwhile
        !finds(&cache, 1).await
    };
    eventually("it is left out", is_left_out).await;
    keep(&cache, 2);
    eventually("the other is stored", async || server.points() == [2]).await;
    assert!(finds(&cache, 2).await);
    server.set_broken(true);
    assert!(matches!(look(&cache, 2).await, Err(StoreError::Failed(_))));
}

#[tokio::test]
async fn what_is_forgotten_leaves_the_server() {
    let (server, place) = (Server::start(0).await, Place::new());
    let cache = open(&place.file(), &server.url).await;
    (0..5).for_each(|at| keep(&cache, at));
    cache.unite(TENANT, &["gen-0".into(), "gen-1".into()]).expect("one");
    eventually("they are stored", async || server.points() == [5]).await;
    let filter = Filter { id: Some("gen-0".to_owned()), ..Filter::default() };
    let other = Filter { id: Some("gen-1".to_owned()), ..Filter::default() };
    assert_eq!(cache.forget(TENANT, &filter).await.expect("forgotten").len(), 1);
    cache.forget(TENANT, &other).await.expect("forgotten");
    eventually("both have left, and the prompts that lead to them", async || server.points() == [3]).await;
    cache.begin_epoch(TENANT).await;
    eventually("all have left", async || server.points() == [0]).await;
}
