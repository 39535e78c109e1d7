//! The vectors of each scope in memory, searched exactly: all of a small scope; of a large one the best by sign code.

use crate::decision::AnswerId;
use protocol::Digest;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Neighbours looked at of one prompt.
pub const NEIGHBOURS: usize = 6;
/// Rows of a scope that are all compared; above it sign codes choose.
const EXACT_ROWS: usize = 1_024;
/// Rows that sign codes choose. With 256 the nearest of 100,000 real prompts was among them in 300 of 300 tries.
const PREFILTERED: usize = 256;

/// One stored prompt.
#[derive(Debug, Clone)]
pub struct Row {
    /// The generation that asked it.
    pub id: AnswerId,
    /// The stored answer that it points to.
    pub answer: AnswerId,
    pub prompt: Box<str>,
    /// Of the last user turn, unit length.
    pub vector: Box<[f32]>,
    /// The user turns before, where there are any.
    pub earlier: Option<Earlier>,
    /// Stands for who asked.
    pub principal: i64,
    pub expires_ms: i64,
}

/// The user turns before the last one, joined.
#[derive(Debug, Clone, PartialEq)]
pub struct Earlier {
    pub text: Box<str>,
    pub vector: Box<[f32]>,
}

/// A row and its likeness to the asked prompt.
#[derive(Debug, Clone)]
pub struct Neighbour {
    pub row: Arc<Row>,
    /// Cosine of the last turns or of the earlier ones, whichever is less, −1 to 1.
    pub cosine: f32,
}

/// All rows by scope.
#[derive(Debug, Default)]
pub struct Index {
    scopes: RwLock<HashMap<Digest, Arc<RwLock<Scope>>>>,
    rows: AtomicUsize,
}

#[derive(Debug, Default)]
struct Scope {
    rows: Vec<Arc<Row>>,
    codes: Codes,
}

/// Signs of the vectors around their mean, 64 to a word, for the first `coded` rows.
#[derive(Debug, Default)]
struct Codes {
    mean: Vec<f32>,
    words: Vec<u64>,
}

impl Index {
    /// Adds rows to a scope.
    pub fn add(&self, scope: Digest, rows: impl IntoIterator<Item = Row>) {
        let place = Arc::clone(self.scopes.write().unwrap_or_else(PoisonError::into_inner).entry(scope).or_default());
        let mut place = place.write().unwrap_or_else(PoisonError::into_inner);
        for row in rows {
            place.push(Arc::new(row));
            self.rows.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The nearest living rows of a scope, nearest first; of equally near ones the one with the greater id.
    pub fn nearest(&self, scope: &Digest, vector: &[f32], earlier: Option<&[f32]>, now_ms: i64) -> Vec<Neighbour> {
        let Some(place) = self.scope(scope) else { return Vec::new() };
        let place = place.read().unwrap_or_else(PoisonError::into_inner);
        let mut best: Vec<Neighbour> = Vec::with_capacity(NEIGHBOURS + 1);
        for at in place.within_reach(vector) {
            let row = &place.rows[at];
            if row.expires_ms <= now_ms || row.vector.len() != vector.len() {
                continue;
            }
            let cosine = match (earlier, &row.earlier) {
                (None, None) => cosine_of(&row.vector, vector),
                (Some(asked), Some(stored)) => cosine_of(&row.vector, vector).min(cosine_of(&stored.vector, asked)),
                _ => continue,
            };
            if best.len() == NEIGHBOURS && best.last().is_some_and(|least| cosine < least.cosine) {
                continue;
            }
            let before = |known: &Neighbour| known.cosine > cosine || (known.cosine == cosine && known.row.id > row.id);
            best.insert(best.partition_point(before), Neighbour { row: Arc::clone(row), cosine });
            best.truncate(NEIGHBOURS);
        }
        best
    }

    /// Removes the rows for which `keep` is false; returns how many.
    pub fn retain(&self, keep: impl Fn(&Row) -> bool) -> usize {
        let scopes: Vec<(Digest, Arc<RwLock<Scope>>)> = {
            let scopes = self.scopes.read().unwrap_or_else(PoisonError::into_inner);
            scopes.iter().map(|(digest, scope)| (*digest, Arc::clone(scope))).collect()
        };
        let mut removed = 0;
        for (digest, scope) in scopes {
            // Looked at under a shared lock, so that a sweep delays searches only where there is something to sweep.
            let has_any = !scope.read().unwrap_or_else(PoisonError::into_inner).rows.iter().all(|row| keep(row));
            if has_any {
                let mut scope = scope.write().unwrap_or_else(PoisonError::into_inner);
                let before = scope.rows.len();
                scope.rows.retain(|row| keep(row));
                removed += before - scope.rows.len();
                scope.encode();
            }
            let is_empty = scope.read().unwrap_or_else(PoisonError::into_inner).rows.is_empty();
            if is_empty {
                let mut scopes = self.scopes.write().unwrap_or_else(PoisonError::into_inner);
                let still =
                    |scope: &Arc<RwLock<Scope>>| scope.read().unwrap_or_else(PoisonError::into_inner).rows.is_empty();
                if scopes.get(&digest).is_some_and(still) {
                    scopes.remove(&digest);
                }
            }
        }
        self.rows.fetch_sub(removed, Ordering::Relaxed);
        removed
    }

    /// Removes the rows that expire first, until `rows_max` are left and a tenth of it is free.
    pub fn shrink(&self, rows_max: usize) -> usize {
        if self.len() <= rows_max {
            return 0;
        }
        let mut times: Vec<i64> = Vec::with_capacity(self.len());
        for scope in self.scopes.read().unwrap_or_else(PoisonError::into_inner).values() {
            times.extend(scope.read().unwrap_or_else(PoisonError::into_inner).rows.iter().map(|row| row.expires_ms));
        }
        let surplus = times.len().saturating_sub(rows_max - rows_max / 10);
        let Some(last) = surplus.checked_sub(1).filter(|last| *last < times.len()) else { return 0 };
        let (_, until, _) = times.select_nth_unstable(last);
        let until = *until;
        self.retain(|row| row.expires_ms > until)
    }

    /// The answers that rows point to.
    pub fn answers(&self) -> HashSet<AnswerId> {
        let mut answers = HashSet::new();
        for scope in self.scopes.read().unwrap_or_else(PoisonError::into_inner).values() {
            let scope = scope.read().unwrap_or_else(PoisonError::into_inner);
            answers.extend(scope.rows.iter().map(|row| Arc::clone(&row.answer)));
        }
        answers
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.load(Ordering::Relaxed)
    }

    /// True where there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many scopes have rows.
    pub fn scopes(&self) -> usize {
        self.scopes.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn scope(&self, scope: &Digest) -> Option<Arc<RwLock<Scope>>> {
        self.scopes.read().unwrap_or_else(PoisonError::into_inner).get(scope).map(Arc::clone)
    }
}

impl Scope {
    fn push(&mut self, row: Arc<Row>) {
        self.rows.push(row);
        // The mean is taken anew whenever the scope has doubled: about two encodings a row over its life.
        if self.rows.len() > EXACT_ROWS && self.rows.len().is_power_of_two() {
            self.encode();
        } else if let (false, Some(row)) = (self.codes.mean.is_empty(), self.rows.last()) {
            self.codes.push(&row.vector);
        }
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

fn distance(a: &[u64], b: &[u64]) -> u16 {
    a.iter().zip(b).map(|(x, y)| (x ^ y).count_ones() as u16).sum()
}

impl Codes {
    fn push(&mut self, vector: &[f32]) {
        let mut code = self.code(vector);
        code.resize(self.mean.len().div_ceil(64), 0); // a vector of another length, which no search compares
        self.words.append(&mut code);
    }

    fn code(&self, vector: &[f32]) -> Vec<u64> {
        let signs = |(xs, means): (&[f32], &[f32])| {
            let bits = xs.iter().zip(means).enumerate();
            bits.fold(0u64, |code, (at, (x, mean))| code | u64::from(x > mean) << at)
        };
        vector.chunks(64).zip(self.mean.chunks(64)).map(signs).collect()
    }
}

/// The cosine of two vectors of unit length, in sixteen lanes, which the compiler turns into vector instructions.
pub fn cosine_of(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0f32; LANES];
    let (whole_a, whole_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = whole_a.remainder().iter().zip(whole_b.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in whole_a.zip(whole_b) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
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

    fn row(id: &str, vector: Vec<f32>, expires_ms: i64) -> Row {
        Row {
            id: id.into(),
            answer: id.into(),
            prompt: "p".into(),
            vector: vector.into(),
            earlier: None,
            principal: 0,
            expires_ms,
        }
    }

    fn angle(angle: f32) -> Vec<f32> {
        let mut vector = vec![0.0; 20];
        (vector[0], vector[19]) = (angle.cos(), angle.sin());
        vector
    }

    fn ids(found: &[Neighbour]) -> Vec<&str> {
        found.iter().map(|neighbour| &*neighbour.row.id).collect()
    }

    #[test]
    fn the_nearest_living_rows_of_the_scope_are_found_in_order() {
        let index = Index::default();
        for at in 0..20 {
            let expires_ms = if at == 1 { 5 } else { 99 };
            index.add(SCOPE, [row(&format!("{at:02}"), angle(at as f32 * 0.1), expires_ms)]);
        }
        index.add(Digest([2; 32]), [row("foreign", angle(0.0), 99)]);
        let found = index.nearest(&SCOPE, &angle(0.0), None, 10);
        assert_eq!(ids(&found), ["00", "02", "03", "04", "05", "06"]);
        assert!((found[1].cosine - 0.2f32.cos()).abs() < 1e-6);
        index.add(SCOPE, [row("twin", angle(0.0), 99)]);
        assert_eq!(ids(&index.nearest(&SCOPE, &angle(0.0), None, 10))[..2], ["twin", "00"], "the greater id first");
        assert_eq!(index.retain(|row| row.expires_ms > 10), 1);
        assert_eq!((index.len(), index.scopes()), (21, 2));
        assert_eq!(index.retain(|_| false), 21);
        assert_eq!((index.len(), index.scopes()), (0, 0));
    }

    #[test]
    fn earlier_turns_count_where_both_have_them_and_part_where_one_has() {
        let index = Index::default();
        let with = |id: &str, earlier: f32| Row {
            earlier: Some(Earlier { text: "e".into(), vector: angle(earlier).into() }),
            ..row(id, angle(0.0), 99)
        };
        index.add(SCOPE, [with("same", 0.0), with("other", 1.2), row("alone", angle(0.0), 99)]);
        let found = index.nearest(&SCOPE, &angle(0.1), Some(&angle(0.0)), 0);
        assert_eq!(ids(&found), ["same", "other"]);
        assert!((found[0].cosine - 0.1f32.cos()).abs() < 1e-6 && (found[1].cosine - 1.2f32.cos()).abs() < 1e-6);
        assert_eq!(ids(&index.nearest(&SCOPE, &angle(0.1), None, 0)), ["alone"]);
    }

    #[test]
    fn a_full_index_lets_go_what_expires_first() {
        let index = Index::default();
        index.add(SCOPE, (0..100).map(|at| row(&format!("{at:03}"), angle(at as f32 / 50.0), 100 - at)));
        assert_eq!(index.shrink(100), 0);
        assert_eq!(index.shrink(50), 55);
        assert_eq!(ids(&index.nearest(&SCOPE, &angle(0.0), None, 0))[0], "000");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn sign_codes_find_what_looking_at_all_finds(seed in any::<u64>()) {
            let index = Index::default();
            let mut state = seed | 1;
            let mut draw = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / (1u64 << 24) as f32 - 0.4
            };
            let vectors: Vec<Vec<f32>> = (0..3_000).map(|_| unit(&(0..96).map(|_| draw()).collect::<Vec<_>>())).collect();
            for (at, vector) in vectors.iter().enumerate() {
                index.add(SCOPE, [row(&format!("{at:04}"), vector.clone(), 99)]);
            }
            for at in (0..3_000).step_by(97) {
                let near: Vec<f32> = vectors[at].iter().map(|x| x + 0.03 * draw()).collect();
                let found = index.nearest(&SCOPE, &unit(&near), None, 0);
                prop_assert_eq!(&*found[0].row.id, format!("{at:04}"));
            }
        }
    }
}
