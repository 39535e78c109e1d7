//! Who waits for an endpoint at its limit: weighted-fair across tenants, by priority within one, bounded.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

/// What one turn costs a tenant of weight 1 (stride scheduling, Waldspurger and Weihl 1995).
const STRIDE: u64 = 1 << 20;
/// The largest weight of a tenant.
pub const WEIGHT_MAX: u32 = 1_000;
/// Lines of tenants that do not wait now are forgotten beyond this many, once their turns are over.
const LINES_KEPT: usize = 256;

/// Where a waiter stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    tenant: String,
    priority: i64,
    number: u64,
}

/// Waiters of type `W`.
#[derive(Debug)]
pub(crate) struct Queue<W> {
    lines: HashMap<String, Line<W>>,
    waiting: usize,
    numbers: u64,
    /// When the last turn began (start-time fair queueing, Goyal, Vin and Cheng 1996): a tenant that comes back starts
    /// from here, or from the end of its own last turn, and can neither claim turns of its absence nor forget those it
    /// had.
    pass: u64,
}

#[derive(Debug)]
struct Line<W> {
    weight: u64,
    pass: u64,
    /// The highest priority first, then the order of arrival.
    waiters: BTreeMap<(Reverse<i64>, u64), W>,
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self { lines: HashMap::new(), waiting: 0, numbers: 0, pass: 0 }
    }
}

impl<W> Queue<W> {
    pub(crate) fn len(&self) -> usize {
        self.waiting
    }

    /// Joins the end of a tenant's line.
    pub(crate) fn push(&mut self, tenant: &str, weight: u32, priority: i64, waiter: W) -> Place {
        self.numbers += 1;
        self.waiting += 1;
        let place = Place { tenant: tenant.to_owned(), priority, number: self.numbers };
        let pass = self.pass;
        if self.lines.len() >= LINES_KEPT {
            self.lines.retain(|_, line| !line.waiters.is_empty() || line.pass > pass);
        }
        let line =
            self.lines.entry(tenant.to_owned()).or_insert_with(|| Line { weight: 1, pass, waiters: BTreeMap::new() });
        line.weight = u64::from(weight.clamp(1, WEIGHT_MAX));
        if line.waiters.is_empty() {
            line.pass = line.pass.max(pass);
        }
        line.waiters.insert((Reverse(priority), self.numbers), waiter);
        place
    }

    /// Leaves; `None` where the waiter has gone already.
    pub(crate) fn remove(&mut self, place: &Place) -> Option<W> {
        let line = self.lines.get_mut(&place.tenant)?;
        let waiter = line.waiters.remove(&(Reverse(place.priority), place.number))?;
        self.waiting -= 1;
        Some(waiter)
    }

    /// Makes room for a request of `tenant` by taking out the last waiter of the tenant that is furthest over its share;
    /// `None` where that is `tenant` itself.
    pub(crate) fn make_room(&mut self, tenant: &str, weight: u32) -> Option<W> {
        let share = |waiting: usize, weight: u64| waiting as u64 * STRIDE / weight;
        let (longest, line) =
            self.lines.iter().max_by_key(|(name, line)| (share(line.waiters.len(), line.weight), *name))?;
        let own = self.lines.get(tenant).map_or(0, |line| line.waiters.len()) + 1;
        if longest == tenant
            || share(line.waiters.len(), line.weight) <= share(own, u64::from(weight.clamp(1, WEIGHT_MAX)))
        {
            return None;
        }
        let (&(Reverse(priority), number), _) = line.waiters.last_key_value()?;
        let place = Place { tenant: longest.clone(), priority, number };
        self.remove(&place)
    }

    /// Gives the next turn to the first waiter, in fair order, that `grant` has something for.
    pub(crate) fn next<G>(&mut self, mut grant: impl FnMut(&W) -> Option<G>) -> Option<(W, G)> {
        let mut order: Vec<(u64, &String)> = self.lines.iter().map(|(name, line)| (line.pass, name)).collect();
        order.sort_unstable();
        let mut passed_over = Vec::new();
        let found = order.into_iter().find_map(|(_, name)| {
            let line = &self.lines[name];
            passed_over.push(name.clone());
            line.waiters.iter().find_map(|(&(Reverse(priority), number), waiter)| {
                grant(waiter).map(|granted| (Place { tenant: name.clone(), priority, number }, granted))
            })
        });
        let (place, granted) = found?;
        let turn = self.lines.get(&place.tenant)?.pass;
        // Who waits for something else saves no turns up meanwhile.
        for name in passed_over {
            if let Some(line) = self.lines.get_mut(&name) {
                line.pass = line.pass.max(turn);
            }
        }
        let line = self.lines.get_mut(&place.tenant)?;
        self.pass = self.pass.max(line.pass);
        line.pass += STRIDE / line.weight;
        self.remove(&place).map(|waiter| (waiter, granted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives `turns` turns while every tenant's line is kept full; counts them by tenant.
    fn turns(weights: &[(&str, u32)], turns: usize) -> Vec<usize> {
        let mut queue = Queue::default();
        for (tenant, weight) in weights {
            (0..turns).for_each(|_| drop(queue.push(tenant, *weight, 0, *tenant)));
        }
        let mut counts = vec![0; weights.len()];
        for _ in 0..turns {
            let (tenant, ()) = queue.next(|_| Some(())).expect("someone waits");
            counts[weights.iter().position(|(name, _)| *name == tenant).expect("known")] += 1;
        }
        counts
    }

    #[test]
    fn turns_follow_the_weights_whoever_has_the_longest_line() {
        assert_eq!(turns(&[("a", 1), ("b", 1)], 100), [50, 50]);
        assert_eq!(turns(&[("a", 3), ("b", 1)], 100), [75, 25]);
    }

    #[test]
    fn a_tenant_that_was_away_has_no_turns_saved_up() {
        let mut queue = Queue::default();
        (0..50).for_each(|_| drop(queue.push("busy", 1, 0, "busy")));
        for _ in 0..40 {
            queue.next(|_| Some(())).expect("someone waits");
        }
        (0..10).for_each(|_| drop(queue.push("back", 1, 0, "back")));
        let next: Vec<&str> = (0..10).filter_map(|_| queue.next(|_| Some(()))).map(|(waiter, ())| waiter).collect();
        let turns = next.iter().filter(|waiter| **waiter == "back").count();
        assert!((5..=6).contains(&turns), "half of ten, or one more: {next:?}");
    }

    #[test]
    fn a_line_that_empties_and_fills_again_has_no_turn_more() {
        let mut queue = Queue::default();
        (0..100).for_each(|_| drop(queue.push("b", 1, 0, "b")));
        let mut turns = 0;
        for _ in 0..40 {
            if queue.lines.get("a").is_none_or(|line| line.waiters.is_empty()) {
                queue.push("a", 1, 0, "a");
            }
            turns += usize::from(queue.next(|_| Some(())).map(|(waiter, ())| waiter) == Some("a"));
        }
        assert_eq!(turns, 20, "half of 40");
    }

    #[test]
    fn a_line_that_waits_for_something_else_saves_no_turns_up() {
        let mut queue = Queue::default();
        (0..100).for_each(|_| drop(queue.push("a", 1, 0, "a")));
        (0..100).for_each(|_| drop(queue.push("b", 1, 0, "b")));
        for _ in 0..50 {
            queue.next(|waiter| (*waiter == "b").then_some(())).expect("b goes on");
        }
        let turns = (0..20).filter_map(|_| queue.next(|_| Some(()))).filter(|(waiter, ())| *waiter == "a").count();
        assert!((10..=11).contains(&turns), "{turns} of 20");
    }

    #[test]
    fn a_higher_priority_goes_first_within_its_tenant() {
        let mut queue = Queue::default();
        queue.push("a", 1, 0, "low");
        queue.push("a", 1, 5, "high");
        assert_eq!(queue.next(|_| Some(())).map(|(waiter, ())| waiter), Some("high"));
        assert_eq!(queue.next(|_| None::<()>), None);
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn room_is_made_by_the_tenant_over_its_share() {
        let mut queue = Queue::default();
        for at in 0..9 {
            queue.push("greedy", 1, 0, format!("greedy {at}"));
        }
        queue.push("small", 1, 0, "small 0".to_owned());
        assert_eq!(queue.make_room("small", 1), Some("greedy 8".to_owned()));
        assert_eq!(queue.make_room("greedy", 1), None);
        assert_eq!(queue.make_room("new", 1), Some("greedy 7".to_owned()));
        let place = queue.push("small", 1, 0, "small 1".to_owned());
        assert_eq!(queue.remove(&place), Some("small 1".to_owned()));
        assert_eq!(queue.remove(&place), None);
    }
}
