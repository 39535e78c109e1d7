//! Adding settled requests to the sums by day: once by everything they are split by, and by each of that alone.

use crate::connection::DatabaseError;
use crate::generations::Generation;
use crate::store::{Statement, Transaction, groups, places, sql};
use crate::usage::{CUTS, DAY_MS, SUMS};
use std::collections::BTreeMap;

/// In the order of [`SUMS`].
type Sums = [i64; SUMS.len()];

/// What one day's sums are kept by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct UsageKey {
    tenant_id: String,
    day: i64,
    model: String,
    endpoint: String,
    provider: String,
    sold_as: String,
    /// In the order of [`CUTS`].
    cuts: [String; CUTS.len()],
}

/// A key with one of its cuts alone, by its place in [`CUTS`], or with none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct CutKey {
    cut: Option<usize>,
    key: UsageKey,
}

/// What is to be added; sorted, so that gateways lock rows in one order.
#[derive(Debug, Default)]
pub(crate) struct UsageSums(BTreeMap<UsageKey, Sums>);

impl UsageSums {
    /// Adds a request, or takes it out where `sign` is -1.
    pub(crate) fn count(&mut self, g: &Generation, sign: i64) {
        let key = UsageKey {
            tenant_id: g.tenant_id.clone(),
            day: g.created_ms.div_euclid(DAY_MS),
            model: g.model.clone(),
            endpoint: g.endpoint.clone(),
            provider: g.provider.clone(),
            sold_as: g.sold_as.clone(),
            cuts: [g.key_hash.clone(), g.app.clone(), g.step.clone(), g.cache.clone()],
        };
        let sums = [
            1,
            i64::from(g.state == "failed"),
            g.input_tokens + g.cache_read_tokens + g.cache_write_tokens,
            g.output_tokens + g.reasoning_tokens,
            g.reasoning_tokens,
            g.upstream_nano,
            g.charged_nano,
            g.saved_nano,
        ];
        add(self.0.entry(key).or_default(), &sums.map(|sum| sign * sum));
    }

    pub(crate) async fn write(self, transaction: &mut Transaction) -> Result<(), DatabaseError> {
        let days: Vec<(&UsageKey, &Sums)> = self.0.iter().filter(|(_, sums)| **sums != Sums::default()).collect();
        let split = ["model", "endpoint", "provider", "sold_as"];
        let columns = [["tenant_id", "day"].as_slice(), &split, &CUTS].concat();
        upsert(transaction, "usage_days", &columns, &days, |statement, key| {
            key.cuts.iter().fold(bind_split(statement.bind(&key.tenant_id).bind(key.day), key), Statement::bind)
        })
        .await?;
        let cuts = self.cuts();
        let cuts: Vec<(&CutKey, &Sums)> = cuts.iter().filter(|(_, sums)| **sums != Sums::default()).collect();
        let columns = [["tenant_id", "day", "cut", "value"].as_slice(), &split].concat();
        upsert(transaction, "usage_cuts", &columns, &cuts, |statement, CutKey { cut, key }| {
            let (name, value) = cut.map_or(("", ""), |at| (CUTS[at], key.cuts[at].as_str()));
            bind_split(statement.bind(&key.tenant_id).bind(key.day).bind(name).bind(value), key)
        })
        .await
    }

    /// The same by each cut alone, and by none.
    fn cuts(&self) -> BTreeMap<CutKey, Sums> {
        let mut cuts: BTreeMap<CutKey, Sums> = BTreeMap::new();
        for (full, sums) in &self.0 {
            for cut in (0..CUTS.len()).map(Some).chain([None]) {
                let mut key = UsageKey { cuts: Default::default(), ..full.clone() };
                if let Some(at) = cut {
                    key.cuts[at].clone_from(&full.cuts[at]);
                }
                add(cuts.entry(CutKey { cut, key }).or_default(), sums);
            }
        }
        cuts
    }
}

fn add(known: &mut Sums, more: &Sums) {
    known.iter_mut().zip(more).for_each(|(known, more)| *known += more);
}

fn bind_split<'q>(statement: Statement<'q>, key: &'q UsageKey) -> Statement<'q> {
    statement.bind(&key.model).bind(&key.endpoint).bind(&key.provider).bind(&key.sold_as)
}

/// Adds sums to the rows of their keys, which are in `columns`.
async fn upsert<'q, K>(
    transaction: &mut Transaction,
    table: &str,
    columns: &[&str],
    rows: &[(&'q K, &'q Sums)],
    bind: impl Fn(Statement<'q>, &'q K) -> Statement<'q>,
) -> Result<(), DatabaseError> {
    let added: Vec<String> =
        SUMS.iter().map(|column| format!("{column} = {table}.{column} + excluded.{column}")).collect();
    let (keys, sums, added) = (columns.join(", "), SUMS.join(", "), added.join(", "));
    let width = columns.len() + SUMS.len();
    for group in groups(rows, width) {
        let places = places(group.len(), width);
        let text =
            format!("INSERT INTO {table} ({keys}, {sums}) VALUES {places} ON CONFLICT ({keys}) DO UPDATE SET {added}");
        let statement = group
            .iter()
            .fold(sql(text), |statement, (key, sums)| sums.iter().fold(bind(statement, key), |s, sum| s.bind(*sum)));
        statement.execute_in(transaction).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_once_in_each_cut_and_taking_it_out_leaves_nothing() {
        let generation = |step: &str, charged: i64| Generation {
            step: step.into(),
            key_hash: "k".into(),
            charged_nano: charged,
            ..Generation::default()
        };
        let mut sums = UsageSums::default();
        sums.count(&generation("plan", 5), 1);
        sums.count(&generation("write", 7), 1);
        let cuts = sums.cuts();
        let of = |cut: Option<usize>| -> Vec<(String, i64)> {
            let its = cuts.iter().filter(|(key, _)| key.cut == cut);
            its.map(|(key, sums)| (key.key.cuts.concat(), sums[6])).collect()
        };
        assert_eq!(of(None), [(String::new(), 12)]);
        assert_eq!(of(Some(0)), [("k".to_owned(), 12)]);
        assert_eq!(of(Some(2)), [("plan".to_owned(), 5), ("write".to_owned(), 7)]);
        sums.count(&generation("plan", 5), -1);
        sums.count(&generation("write", 7), -1);
        assert!(sums.cuts().values().all(|sums| *sums == Sums::default()));
    }
}
