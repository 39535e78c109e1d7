//! Bringing a list up to date from a published one: what is new, repriced, deprecated and gone, and what is too odd to be
//! true.

use crate::document::{Document, Offered, OfferedModel};
use crate::kind::Billing;
use crate::listing::{EndpointRow, Listing, Makes, ModelRow, RateRow, Status};
use crate::names::spelled;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
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
#[derive(Debug, Clone, Error, PartialEq)]
pub enum MergeError {
    #[error("{provider}: {left} of its {known} models are left; a list this short is not believed")]
    TooShort { provider: String, known: usize, left: usize },
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
        let mut merge = Merge { models: self.models.clone(), kept: Vec::new(), events: Vec::new(), day };
        let names = self.spellings();
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
                Some(Offered::Priced(offered)) => merge.priced(provider, &known, offered, &names)?,
            }
        }
        let Merge { models, mut kept, events, .. } = merge;
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
            providers: self.providers.clone(),
            names: self.names.clone(),
        };
        Ok((merged, events))
    }

    /// Changes from an older list to this one.
    pub fn changes_since(&self, older: &Self) -> Vec<Event> {
        let of = |listing: &Self| -> BTreeMap<String, EndpointRow> {
            listing.endpoints.iter().map(|row| (row.id(), row.clone())).collect()
        };
        let (before, after) = (of(older), of(self));
        let mut events = Vec::new();
        let mut note =
            |id: &str, change| events.push(Event { day: self.as_of.clone(), endpoint: id.to_owned(), change });
        for (id, row) in &after {
            match before.get(id) {
                None => note(id, Change::New { input: row.rates.input, output: row.rates.output }),
                Some(old) if old.rates != row.rates => {
                    note(id, Change::Repriced { before: old.rates, after: row.rates })
                }
                Some(old) if old.status != row.status && row.status == Status::Deprecated => {
                    note(id, Change::Deprecated)
                }
                Some(_) => {}
            }
        }
        before.keys().filter(|id| !after.contains_key(*id)).for_each(|id| note(id, Change::Gone));
        events
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
    day: &'a str,
}

impl Merge<'_> {
    fn note(&mut self, endpoint: String, change: Change) {
        self.events.push(Event { day: self.day.to_owned(), endpoint, change });
    }

    fn names_only(&mut self, provider: &str, known: &[&EndpointRow], offered: &[String]) -> Result<(), MergeError> {
        let offered: BTreeSet<&str> = offered.iter().map(String::as_str).collect();
        // Fine-tuned and snapshot names come and go; what we list must be there.
        let left = known.iter().filter(|row| offered.contains(row.name.as_str())).count();
        believable(provider, known.len(), left)?;
        for row in known {
            if offered.contains(row.name.as_str()) {
                self.kept.push((*row).clone());
            } else {
                self.note(row.id(), Change::Gone);
            }
        }
        let listed: BTreeSet<&str> = known.iter().map(|row| row.name.as_str()).collect();
        for name in offered.into_iter().filter(|name| !listed.contains(name)) {
            self.note(format!("{name}@{provider}"), Change::Unpriced);
        }
        Ok(())
    }

    fn priced(
        &mut self,
        provider: &str,
        known: &[&EndpointRow],
        offered: &BTreeMap<String, Option<OfferedModel>>,
        names: &HashMap<String, &str>,
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
        let taken: BTreeSet<String> = known.iter().map(|row| row.id()).collect();
        for (name, model) in offered.iter().filter(|(name, _)| !listed.contains(name.as_str())) {
            match model {
                Some(model) => self.added(provider, name, model, names, &taken),
                None => self.note(format!("{name}@{provider}"), Change::Unpriced),
            }
        }
        Ok(())
    }

    /// Takes over prices, limits and status of an endpoint; what was reviewed by hand stays. False where the price is not
    /// believed.
    fn updated(&mut self, row: &EndpointRow, new: &EndpointRow) -> bool {
        let is_free = |rates: &RateRow| rates.input == 0.0 && rates.output == 0.0;
        let odd = |price: f64| !price.is_finite() || price < 0.0;
        let rates = &new.rates;
        let unbelievable = odd(rates.input) || odd(rates.output) || is_free(rates) && !is_free(&row.rates);
        if unbelievable {
            self.note(row.id(), Change::Refused { before: row.rates, after: new.rates });
            self.kept.push(row.clone());
            return false;
        }
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

    fn added(
        &mut self,
        provider: &str,
        name: &str,
        model: &OfferedModel,
        names: &HashMap<String, &str>,
        taken: &BTreeSet<String>,
    ) {
        if model.makes != Makes::Chat && model.makes != Makes::Embeddings && provider != "openrouter"
            || name.starts_with('~')
        {
            return;
        }
        let slug = name.rsplit('/').next().unwrap_or(name);
        let known = names.get(&spelled(slug)).map(|id| (*id).to_owned());
        let id = match provider {
            "openrouter" => name.to_owned(),
            _ => known.unwrap_or_else(|| format!("{provider}/{name}")),
        };
        let mut row = EndpointRow { model: id.clone(), ..model.endpoint.clone() };
        if row.rates.input == 0.0 && row.rates.output == 0.0 && !id.ends_with(":free") {
            row.billing = Billing::FlatRate;
        }
        if taken.contains(&row.id()) {
            return; // the same model under a second name
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
        assert_eq!(merged.changes_since(&before).len(), 4, "what is not listed cannot have changed");
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
