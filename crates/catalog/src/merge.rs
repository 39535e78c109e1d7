//! Bringing a list up to date from a published one: what is new, repriced, deprecated and gone, and what is too odd to be
//! true.

use crate::document::{Document, Offered, OfferedModel};
use crate::kind::Billing;
use crate::listing::{EndpointRow, Listing, ListingError, Makes, ModelRow, RateRow, Status};
use crate::names::spelled;
use crate::review::{Meaning, Review};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use thiserror::Error;

/// One change of the list, and its day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// `YYYY-MM-DD`.
    pub day: String,
    /// The endpoint's id.
    pub endpoint: String,
    pub change: Change,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    New {
        input: f64,
        output: f64,
    },
    Repriced {
        before: RateRow,
        after: RateRow,
    },
    Deprecated,
    Gone,
    /// It is offered, but nobody says at what price: left out.
    Unpriced,
    /// Its new price is not believed, and the old one stays: a priced model does not become free without a word.
    Refused {
        before: RateRow,
        after: RateRow,
    },
}

/// Says that a document is not merged at all.
#[derive(Debug, Clone, Error)]
pub enum MergeError {
    #[error("{provider}: {left} of its {known} models are left; a list this short is not believed")]
    TooShort { provider: String, known: usize, left: usize },
    #[error("{0}")]
    Review(#[from] ListingError),
    #[error("{provider}: {odd} of {seen} prices became 0 or no price; the list is not believed")]
    Worthless { provider: String, odd: usize, seen: usize },
}

/// A list that keeps less than this share of a provider's models is a broken list.
const LEFT_SHARE_MIN: f64 = 0.5;
/// Refused prices beyond this share are not slips.
const REFUSED_SHARE_MAX: f64 = 0.2;
/// Providers with fewer models may lose as many as they like.
const FEW: usize = 5;

impl Listing {
    /// The list with what a document says, and the changes. Providers that the document does not cover stay as they are.
    ///
    /// # Errors
    /// When the document would lose most of a provider's models, or make many prices nothing.
    pub fn merged(&self, document: &Document, day: &str) -> Result<(Self, Vec<Event>), MergeError> {
        let mut merge = Merge {
            models: self.models.clone(),
            kept: Vec::new(),
            events: Vec::new(),
            gone: self.gone.clone(),
            unpriced: self.unpriced.clone(),
            pool: self.pool(),
            names: self.spellings(),
            review: Review::shipped()?,
            day,
        };
        let mut by_provider: HashMap<&str, Vec<&EndpointRow>> = HashMap::new();
        for row in &self.endpoints {
            by_provider.entry(&row.provider).or_default().push(row);
        }
        let known_providers: BTreeSet<&str> =
            by_provider.keys().copied().chain(self.providers.keys().map(String::as_str)).collect();
        for provider in known_providers.into_iter().filter(|provider| self.providers.contains_key(*provider)) {
            let known = by_provider.remove(provider).unwrap_or_default();
            match document.providers.get(provider) {
                None => merge.kept.extend(known.into_iter().cloned()),
                Some(Offered::Named(offered)) => merge.names_only(provider, &known, offered)?,
                Some(Offered::Priced(offered)) => merge.priced(provider, &known, offered)?,
            }
        }
        let Merge { models, mut kept, events, gone, unpriced, .. } = merge;
        kept.sort_by(|a, b| (&a.model, &a.provider, &a.tag).cmp(&(&b.model, &b.provider, &b.tag)));
        // A document about a few providers does not make all prices newer.
        let priced = document
            .providers
            .iter()
            .filter(|(id, offered)| matches!(offered, Offered::Priced(_)) && self.providers.contains_key(*id));
        let is_whole = priced.count() * 2 >= self.providers.len();
        let (source, as_of) =
            if is_whole { (document.source.as_str(), day) } else { (self.source.as_str(), self.as_of.as_str()) };
        let merged = Self {
            source: source.to_owned(),
            as_of: as_of.to_owned(),
            models,
            endpoints: kept,
            gone,
            unpriced,
            providers: self.providers.clone(),
            names: self.names.clone(),
        };
        Ok((merged, events))
    }

    /// The output prices of each model, for telling slips.
    fn pool(&self) -> HashMap<String, Vec<f64>> {
        let mut pool: HashMap<String, Vec<f64>> = HashMap::new();
        for row in self.endpoints.iter().filter(|row| row.rates.output > 0.0) {
            pool.entry(row.model.clone()).or_default().push(row.rates.output);
        }
        pool
    }

    /// The canonical model of each spelling of a slug, for telling which model a new endpoint serves.
    fn spellings(&self) -> HashMap<String, &str> {
        let mut names: HashMap<String, Option<&str>> = HashMap::new();
        for id in self.models.keys() {
            let slug = id.split_once('/').map_or(id.as_str(), |(_, slug)| slug);
            names.entry(spelled(slug)).and_modify(|known| *known = None).or_insert(Some(id));
        }
        names.into_iter().filter_map(|(name, id)| Some((name, id?))).collect()
    }
}

struct Merge<'a> {
    models: BTreeMap<String, ModelRow>,
    kept: Vec<EndpointRow>,
    events: Vec<Event>,
    gone: BTreeSet<String>,
    unpriced: BTreeSet<String>,
    /// The output prices of each model.
    pool: HashMap<String, Vec<f64>>,
    names: HashMap<String, &'a str>,
    review: Arc<Review>,
    day: &'a str,
}

/// A price more than so many times off is a slip: of its own past, or of the middle of `POOL_MIN` others.
const OFF_MAX: f64 = 10.0;
const POOL_MIN: usize = 4;

fn is_off(price: f64, from: f64) -> bool {
    from > 0.0 && !(from / OFF_MAX..=from * OFF_MAX).contains(&price)
}

impl Merge<'_> {
    fn note(&mut self, endpoint: String, change: Change) {
        self.events.push(Event { day: self.day.to_owned(), endpoint, change });
    }

    /// A provider's own list says what it has and has not; what it calls by a date is the same.
    fn names_only(&mut self, provider: &str, known: &[&EndpointRow], offered: &[String]) -> Result<(), MergeError> {
        let bare = |name: &str| without_date(name).to_lowercase();
        let has: BTreeSet<String> = offered.iter().flat_map(|name| [name.to_lowercase(), bare(name)]).collect();
        let aliases =
            |row: &EndpointRow| self.models.get(&row.model).map(|model| model.aliases.clone()).unwrap_or_default();
        let is_there = |row: &EndpointRow| {
            let names = [vec![row.name.clone()], aliases(row)].concat();
            names.iter().any(|name| has.contains(&name.to_lowercase()) || has.contains(&bare(name)))
        };
        let (there, lacking): (Vec<&EndpointRow>, Vec<&EndpointRow>) =
            known.iter().copied().partition(|row| is_there(row));
        believable(provider, known.len(), there.len())?;
        for row in there {
            self.gone.remove(&key(provider, &row.name));
            self.kept.push(row.clone());
        }
        for row in lacking {
            self.gone.insert(key(provider, &row.name));
            self.note(row.id(), Change::Gone);
        }
        let listed: BTreeSet<String> =
            known.iter().flat_map(|row| [row.name.to_lowercase(), bare(&row.name)]).collect();
        for name in offered {
            self.gone.remove(&key(provider, name));
            if !listed.contains(&name.to_lowercase()) && !listed.contains(&bare(name)) {
                self.note_unpriced(provider, name);
            }
        }
        Ok(())
    }

    fn note_unpriced(&mut self, provider: &str, name: &str) {
        let is_left_out = self.review.meaning(provider, name) == Meaning::LeftOut;
        if !is_left_out && self.unpriced.insert(key(provider, name)) {
            self.note(format!("{name}@{provider}"), Change::Unpriced);
        }
    }

    fn priced(
        &mut self,
        provider: &str,
        known: &[&EndpointRow],
        offered: &BTreeMap<String, Option<OfferedModel>>,
    ) -> Result<(), MergeError> {
        let left = known.iter().filter(|row| offered.contains_key(&row.name)).count();
        believable(provider, known.len(), left)?;
        let mut refused = 0;
        for row in known {
            match offered.get(&row.name) {
                None => self.note(row.id(), Change::Gone),
                Some(None) => {
                    refused += usize::from(row.rates.input > 0.0);
                    self.kept.push((*row).clone());
                }
                Some(Some(model)) => refused += usize::from(!self.updated(row, &model.endpoint)),
            }
        }
        if known.len() > FEW && refused as f64 > REFUSED_SHARE_MAX * known.len() as f64 {
            return Err(MergeError::Worthless { provider: provider.to_owned(), odd: refused, seen: known.len() });
        }
        let listed: BTreeSet<&str> = known.iter().map(|row| row.name.as_str()).collect();
        let mut taken: BTreeSet<String> = known.iter().map(|row| row.id()).collect();
        for (name, model) in offered.iter().filter(|(name, _)| !listed.contains(name.as_str())) {
            match model {
                _ if self.gone.contains(&key(provider, name)) => {}
                Some(model) => self.added(provider, name, model, &mut taken),
                None => self.note_unpriced(provider, name),
            }
        }
        Ok(())
    }

    /// Takes over prices, limits and status of an endpoint; what was reviewed by hand stays. False where the price is not
    /// believed.
    fn updated(&mut self, row: &EndpointRow, new: &EndpointRow) -> bool {
        let odd = |price: f64| !price.is_finite() || price < 0.0;
        let (old, rates) = (&row.rates, &new.rates);
        let pairs = [
            (Some(old.input), Some(rates.input)),
            (Some(old.output), Some(rates.output)),
            (old.cache_read, rates.cache_read),
            (old.cache_write, rates.cache_write),
        ];
        let off = pairs.iter().any(|(before, after)| match (before, after) {
            (Some(before), Some(after)) => odd(*after) || is_off(*after, *before),
            _ => false,
        });
        // A plan's prices are 0 whatever the list says.
        if row.billing == Billing::FlatRate {
            self.kept.push(row.clone());
            return true;
        }
        if off || row.billing == Billing::Free && (rates.input > 0.0 || rates.output > 0.0) {
            self.note(row.id(), Change::Refused { before: row.rates, after: new.rates });
            self.kept.push(row.clone());
            return false;
        }
        // What a list is silent about has not changed.
        let new = &EndpointRow {
            rates: RateRow {
                cache_read: rates.cache_read.or(old.cache_read),
                cache_write: rates.cache_write.or(old.cache_write),
                ..*rates
            },
            tiers: if new.tiers.is_empty() { row.tiers.clone() } else { new.tiers.clone() },
            ..new.clone()
        };
        if row.rates != new.rates || row.tiers != new.tiers {
            self.note(row.id(), Change::Repriced { before: row.rates, after: new.rates });
        }
        if row.status != new.status && new.status == Status::Deprecated {
            self.note(row.id(), Change::Deprecated);
        }
        self.kept.push(EndpointRow {
            rates: new.rates,
            tiers: new.tiers.clone(),
            context: new.context,
            output_max: new.output_max,
            status: new.status,
            ..row.clone()
        });
        true
    }

    fn added(&mut self, provider: &str, name: &str, model: &OfferedModel, taken: &mut BTreeSet<String>) {
        let makes_text = matches!(model.makes, Makes::Chat | Makes::Embeddings);
        if !makes_text && provider != "openrouter" {
            return;
        }
        let own = || format!("{provider}/{name}");
        let id = match self.review.meaning(provider, name) {
            Meaning::LeftOut => return,
            Meaning::Own => own(),
            Meaning::Model(id) => id,
            Meaning::BySpelling => {
                let slug = without_date(name.rsplit('/').next().unwrap_or(name));
                self.names.get(&spelled(slug)).map_or_else(own, |id| (*id).to_owned())
            }
        };
        let mut row = EndpointRow { model: id.clone(), ..model.endpoint.clone() };
        let rates = &row.rates;
        let is_unpaid = rates.input == 0.0 && rates.output == 0.0;
        if is_unpaid {
            row.billing = if id.ends_with(":free") { Billing::Free } else { Billing::FlatRate };
        }
        let odd = !(rates.input.is_finite() && rates.output.is_finite() && rates.input >= 0.0 && rates.output >= 0.0);
        if odd || !is_unpaid && middle(self.pool.get(&id)).is_some_and(|middle| is_off(rates.output, middle)) {
            self.note(row.id(), Change::Refused { before: row.rates, after: row.rates });
            return;
        }
        if !self.review.apply(&mut row) || !taken.insert(row.id()) {
            return; // not to be listed, or the same model under a second name
        }
        self.models.entry(id.clone()).or_insert_with(|| ModelRow {
            id,
            name: model.name.clone(),
            released: model.released.clone(),
            makes: model.makes,
            open_weights: false,
            knowledge: None,
            aliases: Vec::new(),
        });
        self.note(row.id(), Change::New { input: row.rates.input, output: row.rates.output });
        self.kept.push(row);
    }
}

fn key(provider: &str, name: &str) -> String {
    format!("{provider}/{name}")
}

/// A name without the day at its end, as `-20250929`, `-2024-07-18` or `@20250929`.
fn without_date(name: &str) -> &str {
    let digits = |text: &str| text.chars().filter(char::is_ascii_digit).count();
    for bytes in ["-20250929".len(), "-2024-07-18".len()] {
        let Some((stem, day)) = name.len().checked_sub(bytes).and_then(|at| name.split_at_checked(at)) else {
            continue;
        };
        let plain = day[1..].chars().all(|c| c.is_ascii_digit() || c == '-');
        if day.starts_with(['-', '@']) && plain && digits(day) == 8 && !stem.is_empty() {
            return stem;
        }
    }
    name
}

fn middle(prices: Option<&Vec<f64>>) -> Option<f64> {
    let mut prices = prices.filter(|prices| prices.len() >= POOL_MIN)?.clone();
    prices.sort_by(f64::total_cmp);
    Some(prices[prices.len() / 2])
}

fn believable(provider: &str, known: usize, left: usize) -> Result<(), MergeError> {
    if known > FEW && (left as f64) < LEFT_SHARE_MIN * known as f64 {
        return Err(MergeError::TooShort { provider: provider.to_owned(), known, left });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn model(input: f64, output: f64) -> Value {
        json!({"name": "M", "release_date": "2026-01-01", "cost": {"input": input, "output": output},
            "limit": {"context": 1_000, "output": 100}, "modalities": {"input": ["text"], "output": ["text"]}, "tool_call": true})
    }

    fn document(models: &[(&str, Value)]) -> Document {
        let models: serde_json::Map<String, Value> =
            models.iter().map(|(name, model)| ((*name).to_owned(), model.clone())).collect();
        let text = json!({"groq": {"models": models}}).to_string();
        Document::read("test", text.as_bytes(), None).expect("a document")
    }

    fn listing(models: &[(&str, f64)]) -> Listing {
        let shipped = Listing::shipped().expect("reads");
        let empty = Listing::default().completed(&shipped);
        let offered: Vec<(&str, Value)> = models.iter().map(|(name, price)| (*name, model(*price, *price))).collect();
        empty.merged(&document(&offered), "2026-01-01").expect("merges").0
    }

    fn changes(before: &Listing, document: &Document) -> Result<Vec<(String, String)>, MergeError> {
        let (_, events) = before.merged(document, "2026-02-02")?;
        let word = |event: &Event| match &event.change {
            Change::New { .. } => "new",
            Change::Repriced { .. } => "repriced",
            Change::Deprecated => "deprecated",
            Change::Gone => "gone",
            Change::Unpriced => "unpriced",
            Change::Refused { .. } => "refused",
        };
        Ok(events.iter().map(|event| (event.endpoint.clone(), word(event).to_owned())).collect())
    }

    #[test]
    fn what_is_new_repriced_deprecated_and_gone_is_an_event() {
        let before = listing(&[("a", 1.0), ("b", 1.0), ("c", 1.0), ("d", 1.0)]);
        let mut old = model(1.0, 1.0);
        old["status"] = json!("deprecated");
        let mut unpriced = model(1.0, 1.0);
        unpriced["cost"] = Value::Null;
        let after = document(&[
            ("a", model(0.5, 1.0)),
            ("b", old),
            ("c", model(1.0, 1.0)),
            ("e", model(2.0, 2.0)),
            ("f", unpriced),
        ]);
        let of = |name: &str, word: &str| (format!("groq/{name}@groq"), word.to_owned());
        let expected = [
            of("a", "repriced"),
            of("b", "deprecated"),
            of("d", "gone"),
            of("e", "new"),
            ("f@groq".to_owned(), "unpriced".to_owned()),
        ];
        let found = changes(&before, &after).expect("merges");
        assert_eq!(found, expected);
        let (merged, events) = before.merged(&after, "2026-02-02").expect("merges");
        assert!(events.iter().all(|event| event.day == "2026-02-02"));
        assert_eq!(merged.endpoints.len(), 4);
    }

    #[test]
    fn a_list_too_odd_to_be_true_changes_nothing() {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let before = listing(&names.map(|name| (name, 1.0)));
        let short = document(&[("a", model(1.0, 1.0))]);
        assert!(matches!(changes(&before, &short), Err(MergeError::TooShort { left: 1, .. })));
        let zeroed = document(&names.map(|name| (name, model(0.0, 0.0))));
        assert!(matches!(changes(&before, &zeroed), Err(MergeError::Worthless { odd: 8, .. })));
        let mut one = names.map(|name| (name, model(1.0, 1.0)));
        one[0].1 = model(0.0, 0.0);
        assert_eq!(
            changes(&before, &document(&one)).expect("merges"),
            [("groq/a@groq".to_owned(), "refused".to_owned())]
        );
        let (merged, _) = before.merged(&document(&one), "2026-02-02").expect("merges");
        assert_eq!(merged.endpoints[0].rates.input, 1.0, "the old price stays");
    }

    #[test]
    fn a_providers_own_list_says_what_is_gone() {
        let before = listing(&[("a", 1.0), ("b", 1.0)]);
        let own = json!({"data": [{"id": "a"}, {"id": "z"}]}).to_string();
        let own = Document::read("groq", own.as_bytes(), Some("groq")).expect("a document");
        let expected = [("groq/b@groq".to_owned(), "gone".to_owned()), ("z@groq".to_owned(), "unpriced".to_owned())];
        assert_eq!(changes(&before, &own).expect("merges"), expected);
        let (after, _) = before.merged(&own, "2026-02-02").expect("merges");
        let both = document(&[("a", model(1.0, 1.0)), ("b", model(1.0, 1.0))]);
        assert_eq!(
            changes(&after, &both).expect("merges"),
            [],
            "another list does not bring back what its provider lacks"
        );
        assert_eq!(changes(&after, &own).expect("merges"), [], "and nothing is said twice");
    }

    #[test]
    fn openrouters_own_list_is_read_with_its_prices_per_token() {
        let text = json!({"data": [{"id": "a/b", "name": "B", "context_length": 1_000, "pricing": {"prompt": "0.00000015", "completion": "0.0000006"},
            "architecture": {"input_modalities": ["text", "image"], "output_modalities": ["text"]}, "supported_parameters": ["tools"]},
            {"id": "openrouter/auto", "pricing": {"prompt": "-1", "completion": "-1"}, "context_length": 1}]});
        let document = Document::read("or", text.to_string().as_bytes(), None).expect("a document");
        let Some(Offered::Priced(rows)) = document.providers.get("openrouter") else { panic!("{document:?}") };
        let row = rows["a/b"].as_ref().expect("priced");
        assert_eq!((row.endpoint.rates.input, row.endpoint.rates.output), (0.15, 0.6));
        assert_eq!(rows["openrouter/auto"], None);
        for wrong in ["", "[]", "{}", "{\"data\": []}", "{\"data\": 3}"] {
            assert!(Document::read("x", wrong.as_bytes(), None).is_err(), "{wrong}");
        }
    }
}
