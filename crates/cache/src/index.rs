//! The vectors of each scope in memory, searched exactly.

use protocol::Digest;
use std::collections::{HashMap, VecDeque};

/// Neighbours looked at of one prompt.
pub(crate) const NEIGHBOURS: usize = 6;

/// One answer that can be found by meaning.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub id: String,
    pub prompt: String,
    pub expires_ms: i64,
    pub vector: Box<[f32]>,
}

/// A row and its likeness to the prompt.
#[derive(Debug, Clone)]
pub(crate) struct Neighbour {
    pub id: String,
    pub prompt: String,
    /// Cosine of the two vectors, −1 to 1.
    pub cosine: f32,
}

/// All rows by scope; the oldest leave when there are too many.
#[derive(Debug)]
pub(crate) struct Index {
    scopes: HashMap<Digest, Vec<Row>>,
    /// Scope of every row in order of arrival.
    arrivals: VecDeque<Digest>,
    entries_max: usize,
}

impl Index {
    pub(crate) fn new(entries_max: usize) -> Self {
        Self { scopes: HashMap::new(), arrivals: VecDeque::new(), entries_max: entries_max.max(1) }
    }

    /// Adds a row.
    pub(crate) fn add(&mut self, scope: Digest, row: Row) {
        self.scopes.entry(scope).or_default().push(row);
        self.arrivals.push_back(scope);
        while self.arrivals.len() > self.entries_max {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some(scope) = self.arrivals.pop_front() else { return };
        if let Some(rows) = self.scopes.get_mut(&scope) {
            if !rows.is_empty() {
                rows.remove(0); // rows of a scope stand in order of arrival
            }
            if rows.is_empty() {
                self.scopes.remove(&scope);
            }
        }
    }

    /// The nearest living rows of a scope, nearest first; of equally near ones the newest.
    pub(crate) fn nearest(&self, scope: &Digest, vector: &[f32], now_ms: i64) -> Vec<Neighbour> {
        let Some(rows) = self.scopes.get(scope) else { return Vec::new() };
        let mut best: Vec<(f32, &Row)> = Vec::with_capacity(NEIGHBOURS + 1);
        for row in rows.iter().filter(|row| row.expires_ms > now_ms) {
            let cosine = dot(&row.vector, vector);
            if best.len() == NEIGHBOURS && best.last().is_some_and(|(least, _)| cosine < *least) {
                continue;
            }
            let at = best.partition_point(|(known, other)| *known > cosine || (*known == cosine && other.id > row.id));
            best.insert(at, (cosine, row));
            best.truncate(NEIGHBOURS);
        }
        let neighbour =
            |(cosine, row): (f32, &Row)| Neighbour { id: row.id.clone(), prompt: row.prompt.clone(), cosine };
        best.into_iter().map(neighbour).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.arrivals.len()
    }
}

/// Dot product in eight lanes, which the compiler turns into vector instructions.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
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

    fn scope(name: u8) -> Digest {
        Digest([name; 32])
    }

    fn unit(angle: f32) -> Vec<f32> {
        let mut vector = vec![0.0; 12];
        (vector[0], vector[11]) = (angle.cos(), angle.sin());
        vector
    }

    fn row(id: &str, prompt: &str, angle: f32, expires_ms: i64) -> Row {
        Row { id: id.into(), prompt: prompt.into(), expires_ms, vector: unit(angle).into() }
    }

    #[test]
    fn the_nearest_living_rows_of_the_scope_are_found_in_order() {
        let mut index = Index::new(100);
        for at in 0..20 {
            let expires_ms = if at == 1 { 5 } else { 99 };
            index.add(scope(1), row(&format!("{at:02}"), &format!("p{at}"), at as f32 * 0.1, expires_ms));
        }
        index.add(scope(2), row("foreign", "p", 0.0, 99));
        let found = index.nearest(&scope(1), &unit(0.0), 10);
        let ids: Vec<&str> = found.iter().map(|neighbour| neighbour.id.as_str()).collect();
        assert_eq!(ids, ["00", "02", "03", "04", "05", "06"]);
        assert!((found[1].cosine - 0.2f32.cos()).abs() < 1e-6);
    }

    #[test]
    fn the_oldest_rows_leave_and_of_equal_ones_the_newest_comes_first() {
        let mut index = Index::new(2);
        for (id, prompt) in [("a", "x"), ("b", "y"), ("c", "y"), ("d", "z")] {
            index.add(scope(1), row(id, prompt, 0.0, 99));
        }
        assert_eq!(index.len(), 2);
        let ids: Vec<String> = index.nearest(&scope(1), &unit(0.0), 0).into_iter().map(|n| n.id).collect();
        assert_eq!(ids, ["d", "c"]);
    }
}
