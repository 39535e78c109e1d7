//! The vectors of each scope in memory, searched exactly: all of a small scope; of a large one the best by sign code.

use super::{Nearest, Neighbour, Query, Row, StoreError, StoreStats, VectorStore, Which};
use crate::decision::AnswerId;
use async_trait::async_trait;
use protocol::Digest;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Rows of a scope that are all compared; above it sign codes choose.
const EXACT_ROWS: usize = 1_024;
/// Scopes from which on a tenant may be lonely, and rows for each scope under which it is.
const LONELY_SCOPES: usize = 500;
const LONELY_ROWS: f64 = 1.2;
/// Rows up to which a search is done at once, a fifth of a millisecond; in more it is left to another thread.
const INLINE_ROWS: usize = 50_000;
/// Rows that sign codes choose. With 256 the nearest of 100,000 real prompts was among them in 300 of 300 tries.
const PREFILTERED: usize = 256;

/// All rows in memory; clones share them.
#[derive(Debug, Clone)]
pub struct EmbeddedStore(Arc<Index>);

#[derive(Debug)]
struct Index {
    scopes: RwLock<HashMap<Digest, Arc<RwLock<Scope>>>>,
    rows: AtomicUsize,
    rows_max: usize,
    /// Tenants that were told that their prompts share no scopes.
    told: Mutex<HashSet<Arc<str>>>,
}

#[derive(Debug, Default)]
struct Scope {
    rows: Vec<Arc<Row>>,
    /// Where each row is, by its id.
    places: HashMap<AnswerId, u32, foldhash::fast::RandomState>,
    codes: Codes,
}

/// Signs of the vectors around their mean, 64 to a word.
#[derive(Debug, Default)]
struct Codes {
    mean: Vec<f32>,
    words: Vec<u64>,
}

impl EmbeddedStore {
    /// An empty store; over `rows_max` rows, of the tenants with most those that expire first leave.
    pub fn new(rows_max: usize) -> Self {
        let (scopes, rows, told) = (RwLock::default(), AtomicUsize::new(0), Mutex::default());
        Self(Arc::new(Index { scopes, rows, rows_max, told }))
    }

    /// Puts a row in; one with its id that is there already leaves.
    pub fn add(&self, row: Arc<Row>) {
        self.0.add(row);
    }

    /// True where a row with this id is there.
    pub(crate) fn has(&self, row: &Row) -> bool {
        self.0.scope(&row.scope).is_some_and(|scope| read(&scope).places.contains_key(&row.id))
    }

    /// Removes the rows of these ids.
    pub(crate) fn remove(&self, ids: &HashSet<&str>) {
        self.retain(|row| !ids.contains(&*row.id));
    }

    /// Removes the rows for which `keep` is false; returns how many.
    pub(crate) fn retain(&self, keep: impl Fn(&Row) -> bool) -> usize {
        self.0.retain(keep)
    }

    /// The nearest living rows of a scope, as [`VectorStore::search`].
    pub fn nearest(&self, query: &Query<'_>) -> Vec<Neighbour> {
        self.0.scope(query.scope).map(|scope| read(&scope).nearest(query)).unwrap_or_default()
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.0.rows.load(Ordering::Relaxed)
    }

    /// Does what may take milliseconds, too long for an async thread.
    async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Index) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let index = Arc::clone(&self.0);
        let working = tokio::task::spawn_blocking(move || work(&index));
        working.await.map_err(|error| StoreError::Failed(error.to_string()))
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Index {
    fn add(&self, row: Arc<Row>) {
        let known = read(&self.scopes).get(&row.scope).map(|scope| {
            // Under the lock of all scopes, so that none leaves while a row is put into it.
            write(scope).put(Arc::clone(&row))
        });
        let is_new = known.unwrap_or_else(|| write(write(&self.scopes).entry(row.scope).or_default()).put(row));
        if is_new && self.rows.fetch_add(1, Ordering::Relaxed) >= self.rows_max {
            let surplus = self.shrink();
            tracing::info!(surplus, "the semantic level is full: what expires first has left");
        }
    }

    fn retain(&self, keep: impl Fn(&Row) -> bool) -> usize {
        let scopes: Vec<(Digest, Arc<RwLock<Scope>>)> = {
            let scopes = read(&self.scopes);
            scopes.iter().map(|(digest, scope)| (*digest, Arc::clone(scope))).collect()
        };
        let mut removed = 0;
        for (digest, scope) in scopes {
            // Looked at under a shared lock, so that a sweep delays searches only where there is something to sweep.
            let has_any = !read(&scope).rows.iter().all(|row| keep(row));
            if has_any {
                let mut scope = write(&scope);
                let before = scope.rows.len();
                scope.rows.retain(|row| keep(row));
                removed += before - scope.rows.len();
                scope.rebuild();
            }
            let is_empty = read(&scope).rows.is_empty();
            if is_empty {
                let mut scopes = write(&self.scopes);
                let still = |scope: &Arc<RwLock<Scope>>| read(scope).rows.is_empty();
                if scopes.get(&digest).is_some_and(still) {
                    scopes.remove(&digest);
                }
            }
        }
        self.rows.fetch_sub(removed, Ordering::Relaxed);
        removed
    }

    /// Frees a tenth of the allowed number: of the tenants that have most, the rows that expire first. Who has little keeps
    /// it, whatever others do. Returns how many left.
    fn shrink(&self) -> usize {
        let mut lives: HashMap<Arc<str>, Vec<i64>> = HashMap::new();
        for scope in read(&self.scopes).values() {
            for row in &read(scope).rows {
                match lives.get_mut(&row.tenant) {
                    Some(times) => times.push(row.expires_ms),
                    None => drop(lives.insert(Arc::clone(&row.tenant), vec![row.expires_ms])),
                }
            }
        }
        let share = fair_share(lives.values().map(Vec::len).collect(), self.rows_max - self.rows_max / 10);
        let mut leaving: HashMap<Arc<str>, i64> = HashMap::new();
        for (tenant, mut times) in lives {
            if let Some(last) = times.len().checked_sub(share + 1) {
                let (_, until, _) = times.select_nth_unstable(last);
                leaving.insert(tenant, *until);
            }
        }
        self.retain(|row| leaving.get(&row.tenant).is_none_or(|until| row.expires_ms > *until))
    }

    /// Tenants with many scopes that hardly any two prompts share: something in each request is another, a date or a name.
    fn lonely(&self) -> Vec<Arc<str>> {
        let mut counts: HashMap<Arc<str>, (usize, usize)> = HashMap::new();
        for scope in read(&self.scopes).values() {
            let rows = &read(scope).rows;
            if let Some(first) = rows.first() {
                let (scopes, all) = counts.entry(Arc::clone(&first.tenant)).or_default();
                (*scopes, *all) = (*scopes + 1, *all + rows.len());
            }
        }
        let is_lonely = |(_, (scopes, rows)): &(Arc<str>, (usize, usize))| {
            *scopes >= LONELY_SCOPES && (*rows as f64) < LONELY_ROWS * *scopes as f64
        };
        counts.into_iter().filter(is_lonely).map(|(tenant, _)| tenant).collect()
    }

    fn tell_the_lonely(&self) {
        for tenant in self.lonely() {
            if self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(Arc::clone(&tenant)) {
                tracing::warn!(%tenant, "nearly every prompt has a scope of its own and can match nothing: \
                    look for dates, names or numbers in its system prompts, and fold them with `volatile`");
            }
        }
    }

    fn scope(&self, scope: &Digest) -> Option<Arc<RwLock<Scope>>> {
        read(&self.scopes).get(scope).map(Arc::clone)
    }
}

impl Scope {
    /// Puts a row in; false where it took the place of one with its id.
    fn put(&mut self, row: Arc<Row>) -> bool {
        if let Some(at) = self.places.get(&row.id) {
            let at = *at as usize;
            self.codes.set(at, &row.vector);
            self.rows[at] = row;
            return false;
        }
        self.places.insert(Arc::clone(&row.id), self.rows.len() as u32);
        self.codes.push(&row.vector);
        self.rows.push(row);
        // The mean is taken anew whenever the scope has doubled: about two encodings a row over its life.
        if self.rows.len() > EXACT_ROWS && self.rows.len().is_power_of_two() {
            self.encode();
        }
        true
    }

    /// After rows have left.
    fn rebuild(&mut self) {
        self.rows.shrink_to_fit();
        self.places.clear();
        self.places.extend(self.rows.iter().enumerate().map(|(at, row)| (Arc::clone(&row.id), at as u32)));
        self.encode();
    }

    fn encode(&mut self) {
        self.codes = Codes::default();
        let Some(first) = self.rows.first().filter(|_| self.rows.len() > EXACT_ROWS) else { return };
        let mut mean = vec![0.0; first.vector.len()];
        for row in &self.rows {
            mean.iter_mut().zip(&row.vector).for_each(|(sum, x)| *sum += x);
        }
        mean.iter_mut().for_each(|sum| *sum /= self.rows.len() as f32);
        self.codes.mean = mean;
        self.rows.iter().for_each(|row| self.codes.push(&row.vector));
    }

    fn nearest(&self, query: &Query<'_>) -> Vec<Neighbour> {
        let mut nearest = Nearest::default();
        self.within_reach(query.vector).into_iter().for_each(|at| nearest.consider(&self.rows[at], query));
        nearest.0
    }

    /// Positions of the rows worth comparing: all of a small scope, else those whose signs differ least.
    fn within_reach(&self, vector: &[f32]) -> Vec<usize> {
        if self.codes.mean.len() != vector.len() || vector.is_empty() {
            return (0..self.rows.len()).collect();
        }
        let asked = self.codes.code(vector);
        let distances: Vec<u16> =
            self.codes.words.chunks_exact(asked.len()).map(|code| distance(code, &asked)).collect();
        let mut counts = vec![0usize; vector.len() + 64];
        distances.iter().for_each(|distance| counts[usize::from(*distance)] += 1);
        let mut sum = 0;
        let reach = counts.iter().position(|count| {
            sum += count;
            sum >= PREFILTERED
        });
        let reach = reach.unwrap_or(counts.len()) as u16;
        (0..distances.len()).filter(|at| distances[*at] <= reach).collect()
    }
}

/// The most that each may keep so that all together keep no more than `total`: who has less keeps what it has.
fn fair_share(mut counts: Vec<usize>, total: usize) -> usize {
    counts.sort_unstable();
    let (mut left, mut sharing) = (total, counts.len());
    for count in counts {
        if count > left / sharing {
            return left / sharing;
        }
        (left, sharing) = (left - count, sharing - 1);
    }
    usize::MAX - 1
}

#[async_trait]
impl VectorStore for EmbeddedStore {
    async fn ensure_space(&self, _dimensions: usize) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn upsert(&self, rows: &[Arc<Row>]) -> Result<(), StoreError> {
        let rows = rows.to_vec();
        self.off_thread(move |index| rows.into_iter().for_each(|row| index.add(row))).await
    }

    async fn search(&self, query: Query<'_>) -> Result<Vec<Neighbour>, StoreError> {
        let Some(scope) = self.0.scope(query.scope) else { return Ok(Vec::new()) };
        if let Ok(scope) = scope.try_read()
            && scope.rows.len() <= INLINE_ROWS
        {
            return Ok(scope.nearest(&query));
        }
        let (tenant, digest, now_ms) = (query.tenant.to_owned(), *query.scope, query.now_ms);
        let (vector, earlier) = (query.vector.to_vec(), query.earlier.map(<[f32]>::to_vec));
        let search = move |_: &Index| {
            let (vector, earlier) = (&*vector, earlier.as_deref());
            read(&scope).nearest(&Query { tenant: &tenant, scope: &digest, vector, earlier, now_ms })
        };
        self.off_thread(search).await
    }

    async fn delete(&self, which: Which<'_>) -> Result<(), StoreError> {
        let (tenant, answers) = (which.tenant.to_owned(), which.answers.cloned());
        let is_meant =
            move |row: &Row| *row.tenant == *tenant && answers.as_ref().is_none_or(|all| all.contains(&row.answer));
        self.off_thread(move |index| index.retain(|row| !is_meant(row))).await.map(|_| ())
    }

    async fn sweep(&self, now_ms: i64) -> Result<u64, StoreError> {
        self.off_thread(move |index| {
            let removed = index.retain(|row| row.expires_ms > now_ms);
            index.tell_the_lonely();
            removed as u64
        })
        .await
    }

    async fn stats(&self) -> Result<StoreStats, StoreError> {
        Ok(StoreStats { rows: self.len() as u64, scopes: Some(read(&self.0.scopes).len() as u64) })
    }

    async fn health(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

fn distance(a: &[u64], b: &[u64]) -> u16 {
    a.iter().zip(b).map(|(x, y)| (x ^ y).count_ones() as u16).sum()
}

impl Codes {
    /// Adds the code of a vector; nothing while the scope is small.
    fn push(&mut self, vector: &[f32]) {
        let mut code = self.code(vector);
        self.words.append(&mut code);
    }

    fn set(&mut self, at: usize, vector: &[f32]) {
        let code = self.code(vector);
        if let Some(words) = self.words.chunks_exact_mut(code.len().max(1)).nth(at) {
            words.copy_from_slice(&code);
        }
    }

    fn code(&self, vector: &[f32]) -> Vec<u64> {
        let signs = |(xs, means): (&[f32], &[f32])| {
            let bits = xs.iter().zip(means).enumerate();
            bits.fold(0u64, |code, (at, (x, mean))| code | u64::from(x > mean) << at)
        };
        let mut code: Vec<u64> = vector.chunks(64).zip(self.mean.chunks(64)).map(signs).collect();
        code.resize(self.mean.len().div_ceil(64), 0); // a vector of another length, which no search compares
        code
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SCOPE: Digest = Digest([1; 32]);

    fn unit(numbers: &[f32]) -> Vec<f32> {
        let length = numbers.iter().map(|x| x * x).sum::<f32>().sqrt();
        numbers.iter().map(|x| x / length).collect()
    }

    fn row(id: &str, vector: Vec<f32>, expires_ms: i64) -> Arc<Row> {
        Arc::new(Row {
            tenant: "t".into(),
            scope: SCOPE,
            id: id.into(),
            answer: id.into(),
            prompt: "p".into(),
            vector: vector.into(),
            earlier: None,
            principal: 0,
            expires_ms,
        })
    }

    fn nearest(store: &EmbeddedStore, vector: &[f32]) -> Option<AnswerId> {
        let found = store.nearest(&Query { tenant: "t", scope: &SCOPE, vector, earlier: None, now_ms: 0 });
        found.first().map(|neighbour| Arc::clone(&neighbour.row.id))
    }

    #[test]
    fn a_full_store_lets_go_what_expires_first() {
        let store = EmbeddedStore::new(50);
        let angle = |at: i64| vec![(at as f32 / 50.0).cos(), (at as f32 / 50.0).sin()];
        (0..50).for_each(|at| store.add(row(&format!("{at:03}"), angle(at), 100 - at)));
        assert_eq!(store.len(), 50);
        store.add(row("one more", angle(50), 99));
        assert_eq!(store.len(), 45, "a tenth is free again");
        assert_eq!(nearest(&store, &angle(0)).as_deref(), Some("000"));
        assert_eq!(nearest(&store, &angle(49)).as_deref(), Some("one more"), "049 would have expired first");
    }

    #[test]
    fn who_stores_much_pushes_out_nobody_else() {
        let store = EmbeddedStore::new(100);
        let of = |tenant: &str, at: i64| {
            let id = format!("{tenant}{at}");
            Arc::new(Row { tenant: tenant.into(), ..(*row(&id, vec![1.0, 0.0], at)).clone() })
        };
        (0..20).for_each(|at| store.add(of("small", at)));
        (0..500).for_each(|at| store.add(of("greedy", 1_000 + at)));
        assert!((0..20).all(|at| store.has(&of("small", at))), "though they expire before all others");
        assert!(store.len() <= 100 && store.has(&of("greedy", 1_499)) && !store.has(&of("greedy", 1_000)));
        assert_eq!(fair_share(vec![5, 50, 500], 100), 47);
        assert_eq!(fair_share(vec![50, 50, 500], 90), 30);
    }

    #[test]
    fn a_full_store_of_scopes_with_one_row_each_goes_on() {
        let store = EmbeddedStore::new(20);
        for at in 0..200i64 {
            let scope = |at: i64| Digest(std::array::from_fn(|byte| at.to_le_bytes()[byte % 8]));
            let of = |scope, id: &str| Arc::new(Row { scope, ..(*row(id, vec![1.0, 0.0], at)).clone() });
            store.add(of(scope(at), &format!("{at}")));
            store.add(of(scope(-1), &format!("shared {at}")));
        }
        assert!(store.len() <= 20);
        assert!(read(&store.0.scopes).len() <= 11, "empty scopes have left");
    }

    #[test]
    fn tenants_whose_prompts_share_no_scope_are_known() {
        let store = EmbeddedStore::new(usize::MAX);
        for at in 0..600u32 {
            let scope = |at: u32| Digest(std::array::from_fn(|byte| at.to_le_bytes()[byte % 4]));
            let of = |tenant: &str, at: u32, id: &str| {
                let id = format!("{tenant}{id}{at}");
                let row = row(&id, vec![1.0, 0.0], 9);
                store.add(Arc::new(Row { tenant: tenant.into(), scope: scope(at), ..(*row).clone() }));
            };
            of("dated", at, "");
            of("sharing", 10_000 + at, "one");
            of("sharing", 10_000 + at, "two");
            of("plain", 90_000, &at.to_string());
        }
        assert_eq!(store.0.lonely(), ["dated".into()]);
    }

    #[test]
    fn rows_survive_scopes_that_come_and_go() {
        let store = Arc::new(EmbeddedStore::new(usize::MAX));
        let sweeping = Arc::clone(&store);
        let sweeper = std::thread::spawn(move || {
            (0..2_000).for_each(|_| {
                let _removed = sweeping.retain(|row| row.expires_ms > 1);
            })
        });
        for at in 0..2_000 {
            store.add(row("short", vec![1.0, 0.0], 1));
            store.add(row(&format!("{at}"), vec![1.0, 0.0], 99));
            assert!(
                store.has(&row(&format!("{at}"), vec![1.0, 0.0], 99)),
                "row {at} was put into a scope that had left"
            );
            store.retain(|row| row.expires_ms > 99);
        }
        sweeper.join().expect("swept");
        assert_eq!(store.len(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn sign_codes_find_what_looking_at_all_finds(seed in any::<u64>()) {
            let store = EmbeddedStore::new(usize::MAX);
            let mut state = seed | 1;
            let mut draw = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / (1u64 << 24) as f32 - 0.4
            };
            let mut vectors: Vec<Vec<f32>> =
                (0..3_000).map(|_| unit(&(0..96).map(|_| draw()).collect::<Vec<_>>())).collect();
            for (at, vector) in vectors.iter().enumerate() {
                store.add(row(&format!("{at:04}"), vector.clone(), 99));
            }
            // What takes the place of another is found at its new place.
            vectors[97] = unit(&(0..96).map(|_| draw()).collect::<Vec<_>>());
            store.add(row("0097", vectors[97].clone(), 99));
            prop_assert_eq!(store.len(), 3_000);
            for at in (0..3_000).step_by(97) {
                let near: Vec<f32> = vectors[at].iter().map(|x| x + 0.03 * draw()).collect();
                prop_assert_eq!(nearest(&store, &unit(&near)), Some(format!("{at:04}").into()));
            }
        }
    }
}
