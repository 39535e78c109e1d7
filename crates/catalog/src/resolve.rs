//! The catalogue in use: models that can be reached, their endpoints, and what each name means.

use crate::config::ModelConfig;
use crate::endpoint::{Endpoint, Reach, configured, configured_price, is_in_region, listed, with_negotiated};
use crate::listing::{Listing, Makes, ModelRow, RateRow};
use crate::names::{Claim, NameIndex, fine_tuned_base};
use crate::price::Price;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use thiserror::Error;

/// A model and where it can be had.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    pub id: String,
    /// For people.
    pub name: String,
    pub released: Option<String>,
    pub ability: Option<f64>,
    pub makes: Makes,
    /// Its author allows to train other models on its answers; open weights do not say so.
    pub distillable: Option<bool>,
    /// Who answers in its place once it is withdrawn.
    pub successor: Option<String>,
    pub endpoints: Vec<Arc<Endpoint>>,
}

/// What is wrong with a model's table; the position is a byte range of the file it was read from.
#[derive(Debug, Clone, Error, PartialEq)]
#[error("{field}: {problem}")]
pub struct CatalogError {
    pub span: std::ops::Range<usize>,
    pub field: String,
    pub problem: String,
}

/// No model of that name can be reached.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("no model `{name}`")]
pub struct UnknownModel {
    pub name: String,
    /// At most three similar ones.
    pub nearest: Vec<String>,
    /// Where the model is known but no provider of it is configured: variables whose credential would do.
    pub needs: Vec<String>,
}

/// The model that a name means.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    pub model: Arc<Model>,
    /// The withdrawn model that was asked for, where this one answers in its place.
    pub in_place_of: Option<String>,
}

/// All models that can be asked for.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    models: BTreeMap<String, Arc<Model>>,
    names: NameIndex,
    /// Withdrawn models and who answers for them.
    successors: HashMap<String, String>,
    listing: Option<Arc<Listing>>,
}

impl Catalog {
    /// Adds one model of the operator's; `place` is its position for messages, as `models[2]`, `reach` its providers by
    /// name. Every mistake is returned.
    pub fn add(&mut self, config: &ModelConfig, place: &str, reach: &[Reach]) -> Vec<CatalogError> {
        let mut errors = Vec::new();
        let id = config.id.get_ref();
        let mut complain = |span: std::ops::Range<usize>, field: String, problem: String| {
            errors.push(CatalogError { span, field, problem });
        };
        if id.split_once('/').is_none_or(|(author, slug)| author.is_empty() || slug.is_empty()) {
            let problem = format!("`{id}` is not of the form author/slug");
            complain(config.id.span(), format!("{place}.id"), problem);
        }
        if self.models.contains_key(id) {
            complain(config.id.span(), format!("{place}.id"), format!("`{id}` is configured twice"));
        }
        if config.endpoints.is_empty() && config.successor.is_none() {
            let problem = format!("`{id}` has no [[models.endpoints]]; add one with provider, name and prices");
            complain(config.id.span(), format!("{place}.endpoints"), problem);
        }
        let mut endpoints: Vec<Arc<Endpoint>> = Vec::new();
        for (at, endpoint) in config.endpoints.iter().enumerate() {
            let place = format!("{place}.endpoints[{at}]");
            let price = configured_price(endpoint, &place, &mut complain);
            let provider = endpoint.provider.get_ref();
            let made = configured(id, endpoint, price, reach.iter().find(|reach| reach.provider == *provider));
            if endpoints.iter().any(|known| known.id == made.id) {
                let problem = format!("`{id}` has two endpoints at `{provider}`; give each a `tag`");
                complain(endpoint.provider.span(), format!("{place}.provider"), problem);
            }
            endpoints.push(Arc::new(made));
        }
        if let Some(ability) = config.ability.filter(|ability| !(-20.0..=20.0).contains(ability)) {
            let (field, problem) = (format!("{place}.ability"), format!("{ability}; use logits from -20 to 20"));
            errors.push(CatalogError { span: 0..0, field, problem });
        }
        if errors.is_empty() {
            for alias in &config.aliases {
                self.names.claim(alias, id, Claim::Operator);
            }
            if let Some(successor) = &config.successor {
                self.successors.insert(id.clone(), successor.clone());
            }
            let endpoints = endpoints.into_iter().flat_map(|endpoint| with_negotiated(endpoint, reach)).collect();
            self.insert(Model {
                id: id.clone(),
                name: id.clone(),
                released: config.released.clone(),
                ability: config.ability,
                makes: Makes::Chat,
                distillable: config.distillable,
                successor: config.successor.clone(),
                endpoints,
            });
        }
        errors
    }

    /// Joins every listed model with an endpoint at a reachable provider; the operator's own models stay as they are.
    pub fn join(&mut self, listing: &Arc<Listing>, reach: &[Reach]) {
        let by_name: HashMap<&str, &Reach> = reach.iter().map(|reach| (reach.provider.as_str(), reach)).collect();
        let mut found: BTreeMap<&str, Vec<Arc<Endpoint>>> = BTreeMap::new();
        for row in &listing.endpoints {
            let is_own = self.models.get(&row.model).is_some_and(|model| !model.endpoints.is_empty());
            let Some(reach) = by_name.get(row.provider.as_str()).filter(|_| !is_own) else { continue };
            self.names.claim(&row.name, &row.model, Claim::Native);
            self.names.claim(&format!("{}/{}", row.provider, row.name), &row.model, Claim::Known);
            let here = reach.aws_region.as_deref();
            if let (Some(tag), Some(region)) = (&row.tag, here)
                && !is_in_region(tag, region)
            {
                continue;
            }
            let endpoint = Arc::new(listed(row, reach));
            found.entry(&row.model).or_default().extend(with_negotiated(endpoint, std::slice::from_ref(reach)));
        }
        for endpoints in found.values_mut() {
            // Where a model has inference profiles, its bare name is refused.
            let tagged = endpoints.iter().filter(|endpoint| endpoint.tag.is_some());
            let profiled: Vec<String> = tagged.map(|endpoint| endpoint.provider.clone()).collect();
            endpoints.retain(|endpoint| endpoint.tag.is_some() || !profiled.contains(&endpoint.provider));
        }
        for (id, endpoints) in found {
            if let Some(row) = listing.models.get(id) {
                row.aliases.iter().for_each(|alias| self.names.claim(alias, id, Claim::Known));
                self.insert(model_of(row, listing.names.successors.get(id), endpoints));
            }
        }
        for (alias, model) in &listing.names.aliases {
            self.names.claim(alias, model, Claim::Written);
        }
        for (model, successor) in &listing.names.successors {
            self.successors.entry(model.clone()).or_insert_with(|| successor.clone());
            // Its other spellings mean the withdrawn one, not a model that happens to be spelled like it.
            self.names.claim(model, model, Claim::Written);
        }
        self.listing = Some(Arc::clone(listing));
    }

    fn insert(&mut self, model: Model) {
        self.names.claim(&model.id, &model.id, Claim::Canonical);
        if let Some((author, slug)) = model.id.split_once('/') {
            // A reseller's own name of a model does not take the name from its author's.
            let resold = model.endpoints.iter().any(|endpoint| endpoint.provider == author && endpoint.aggregator);
            self.names.claim(slug, &model.id, if resold { Claim::Native } else { Claim::Known });
        }
        self.models.insert(model.id.clone(), Arc::new(model));
    }

    /// Finds the model that a name means; a withdrawn one is its successor.
    ///
    /// # Errors
    /// With the nearest names, or the credentials that are missing.
    pub fn resolve(&self, name: &str) -> Result<Resolved, UnknownModel> {
        self.find(name).ok_or_else(|| self.unknown(name, self.meant(name)))
    }

    /// The same for names that may well mean nothing: looking for what else was meant takes time.
    pub fn find(&self, name: &str) -> Option<Resolved> {
        let served = |id: &str| self.models.get(id).filter(|model| !model.endpoints.is_empty()).cloned();
        if let Some(model) = served(name) {
            return Some(Resolved { model, in_place_of: None });
        }
        let meant = self.meant(name);
        if let Some(model) = served(meant).or_else(|| self.fine_tuned(name)) {
            return Some(Resolved { model, in_place_of: None });
        }
        let (withdrawn, model) = self.successor_of(meant)?;
        Some(Resolved { model: Arc::clone(model), in_place_of: Some(withdrawn.to_owned()) })
    }

    /// A fine-tuned model: where its base is served, under its own name and at its own price, where that is known.
    fn fine_tuned(&self, name: &str) -> Option<Arc<Model>> {
        let prices = &self.listing.as_ref()?.names.fine_tuned;
        let dated = fine_tuned_base(name)?;
        let (base, rates) = [dated, without_date(dated)].into_iter().find_map(|base| {
            let model = self.models.get(self.names.model(base).unwrap_or(base))?;
            Some((model, prices.get(&model.id)?))
        })?;
        let upstream = name.strip_prefix("openai/").unwrap_or(name);
        let at_author =
            base.endpoints.iter().filter(|endpoint| endpoint.provider == "openai" && endpoint.tag.is_none());
        let endpoints = at_author.map(|endpoint| {
            let id = format!("{upstream}@{}", endpoint.provider);
            let price = Price::flat(RateRow::rates(rates));
            Arc::new(Endpoint {
                id,
                name: upstream.to_owned(),
                model: name.to_owned(),
                price,
                ..Endpoint::clone(endpoint)
            })
        });
        let endpoints: Vec<Arc<Endpoint>> = endpoints.collect();
        let model = Model { id: name.to_owned(), endpoints, ..Model::clone(base) };
        (!model.endpoints.is_empty()).then(|| Arc::new(model))
    }

    /// What a name means where it is an alias, else the name itself.
    pub fn meant<'a>(&'a self, name: &'a str) -> &'a str {
        self.names.model(name).unwrap_or(name)
    }

    /// The model that answers for a withdrawn one, and the withdrawn one's canonical name.
    pub fn successor_of(&self, id: &str) -> Option<(&str, &Arc<Model>)> {
        let (withdrawn, mut next) = self.successors.get_key_value(id)?;
        for _ in 0..SUCCESSIONS_MAX {
            match self.models.get(next).filter(|model| !model.endpoints.is_empty()) {
                Some(model) => return Some((withdrawn, model)),
                None => next = self.successors.get(next)?,
            }
        }
        None
    }

    fn unknown(&self, name: &str, meant: &str) -> UnknownModel {
        let mut needs: Vec<String> = Vec::new();
        if let Some(listing) = &self.listing {
            let known = listing.models.contains_key(meant).then_some(meant);
            let id = known.or_else(|| listing.names.aliases.get(meant).map(String::as_str));
            for row in id.into_iter().flat_map(|id| listing.endpoints_of(id)) {
                let variables = listing.providers.get(&row.provider).and_then(|provider| provider.env.first());
                needs.extend(variables.filter(|variable| !needs.contains(variable)).cloned());
            }
            // Direct providers have few models each: the likeliest credentials first.
            needs.truncate(NEEDS_MAX);
        }
        let nearest = if needs.is_empty() { nearest(name, self.models.keys()) } else { Vec::new() };
        UnknownModel { name: name.to_owned(), nearest, needs }
    }

    /// All models in order of their names.
    pub fn models(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.models.values()
    }

    /// The list that was joined.
    pub fn listing(&self) -> Option<&Arc<Listing>> {
        self.listing.as_ref()
    }

    /// True where nothing can be asked for.
    pub fn is_empty(&self) -> bool {
        self.models.is_empty()
    }
}

/// `gpt-4o-mini` of `gpt-4o-mini-2024-07-18`.
fn without_date(name: &str) -> &str {
    let date_at = name.len().checked_sub("-2024-07-18".len());
    let split = date_at.and_then(|at| name.split_at_checked(at));
    let is_date = |text: &str| text.chars().all(|c| c.is_ascii_digit() || c == '-');
    split.filter(|(_, date)| date.starts_with('-') && is_date(date)).map_or(name, |(stem, _)| stem)
}

/// A successor may have been withdrawn too, so many times over.
const SUCCESSIONS_MAX: usize = 8;
/// Credentials named in a message.
const NEEDS_MAX: usize = 5;

fn model_of(row: &ModelRow, successor: Option<&String>, endpoints: Vec<Arc<Endpoint>>) -> Model {
    Model {
        id: row.id.clone(),
        name: row.name.clone(),
        released: row.released.clone(),
        ability: None,
        makes: row.makes,
        distillable: None,
        successor: successor.cloned(),
        endpoints,
    }
}

/// At most three of `known` that a person could have meant by `name`, best first.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Vec<String> {
    const SIMILAR_ENOUGH: f64 = 0.75;
    let likeness = |id: &str| {
        let slug = id.split_once('/').map_or(id, |(_, slug)| slug);
        strsim::jaro_winkler(name, id).max(strsim::jaro_winkler(name, slug))
    };
    let mut scored: Vec<(f64, &String)> = known.map(|id| (likeness(id), id)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    scored.into_iter().filter(|(score, _)| *score >= SIMILAR_ENOUGH).take(3).map(|(_, id)| id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Negotiated;
    use crate::kind::Billing;
    use crate::price::Rates;
    use protocol::dialect::Quirks;

    /// A catalogue that reaches every provider of the shipped list.
    fn everything() -> (Catalog, Arc<Listing>) {
        let listing = Listing::shipped().expect("reads");
        let mut catalog = Catalog::default();
        let all: Vec<Reach> = listing.providers.values().map(reach).collect();
        catalog.join(&listing, &all);
        (catalog, listing)
    }

    fn reach(row: &crate::ProviderRow) -> Reach {
        Reach {
            provider: row.id.clone(),
            kind: row.kind,
            facts: row.facts.clone(),
            aggregator: row.aggregator,
            fee: row.fee,
            billing: row.billing,
            quirks: Quirks::default(),
            names: Arc::default(),
            elsewhere: false,
            negotiated: Vec::new(),
            all_negotiated: false,
            aws_region: None,
        }
    }

    #[track_caller]
    fn check(catalog: &Catalog, name: &str, model: &str, in_place_of: Option<&str>) {
        let resolved = catalog.resolve(name).unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!((resolved.model.id.as_str(), resolved.in_place_of.as_deref()), (model, in_place_of), "{name}");
    }

    #[test]
    fn names_that_people_use_find_their_model_or_its_successor() {
        let (catalog, _) = everything();
        let rows = [
            ("openai/gpt-4o", "openai/gpt-4o", None),
            ("gpt-4o", "openai/gpt-4o", None),
            ("openai/gpt-5.1", "openai/gpt-5.1", None),
            ("openai/gpt-5-1", "openai/gpt-5.1", None),
            ("gpt-5.1-chat-latest", "openai/gpt-5.1-chat", None),
            ("anthropic/claude-sonnet-4.6", "anthropic/claude-sonnet-4.6", None),
            ("claude-sonnet-4-6", "anthropic/claude-sonnet-4.6", None),
            ("claude-sonnet-4-5-20250929", "anthropic/claude-sonnet-4.5", None),
            ("anthropic.claude-sonnet-4-6", "anthropic/claude-sonnet-4.6", None),
            ("groq/llama-3.3-70b-versatile", "groq/llama-3.3-70b-versatile", None),
            ("meta-llama/Llama-3.3-70B-Instruct", "meta-llama/llama-3.3-70b-instruct", None),
            ("~anthropic/claude-sonnet-latest", "anthropic/claude-sonnet-5", None),
            ("anthropic/claude-3.5-sonnet", "anthropic/claude-sonnet-4.6", Some("anthropic/claude-3.5-sonnet")),
            ("anthropic/claude-3-5-sonnet", "anthropic/claude-sonnet-4.6", Some("anthropic/claude-3.5-sonnet")),
            ("google/gemini-2.0-flash", "google/gemini-2.0-flash", None),
            ("google/gemini-2.0-flash-001", "google/gemini-2.0-flash", None),
            ("google/gemini-3-pro", "google/gemini-3-pro-preview", None),
            ("x-ai/grok-4", "x-ai/grok-4.3", Some("x-ai/grok-4")),
            ("openrouter/auto", "auto", None),
        ];
        for (name, model, in_place_of) in rows {
            match model {
                "auto" => assert_eq!(catalog.meant(name), "auto"),
                _ => check(&catalog, name, model, in_place_of),
            }
        }
        assert!(catalog.successor_of("google/gemini-2.0-flash").is_some(), "it has one for the day it is gone");
        let unknown = catalog.resolve("openai/gtp-4o").expect_err("a typing error");
        assert!(unknown.nearest.contains(&"openai/gpt-4o".to_owned()), "{unknown:?}");
        assert!(catalog.resolve("zzz").expect_err("unknown").nearest.is_empty());
    }

    #[test]
    fn every_name_of_openrouter_and_every_reviewed_name_resolves() {
        let (catalog, listing) = everything();
        let of_openrouter: Vec<&str> =
            listing.endpoints.iter().filter(|row| row.provider == "openrouter").map(|row| row.name.as_str()).collect();
        assert!(of_openrouter.len() > 300);
        let reviewed = listing.names.aliases.keys().chain(listing.names.successors.keys()).map(String::as_str);
        for name in of_openrouter.into_iter().chain(reviewed) {
            assert!(catalog.meant(name) == "auto" || catalog.resolve(name).is_ok(), "{name}");
        }
        for target in listing.names.aliases.values().chain(listing.names.successors.values()) {
            assert!(
                target == "auto"
                    || listing.models.contains_key(target)
                    || listing.names.successors.contains_key(target),
                "{target}"
            );
        }
    }

    #[test]
    fn a_known_model_without_a_credential_names_those_that_would_do() {
        let listing = Listing::shipped().expect("reads");
        let mut catalog = Catalog::default();
        catalog.join(&listing, &[reach(&listing.providers["cohere"])]);
        let unknown = catalog.resolve("anthropic/claude-sonnet-4.6").expect_err("nobody serves it");
        assert!(!unknown.needs.is_empty() && unknown.nearest.is_empty(), "{unknown:?}");
        assert!(catalog.resolve("cohere/command-a").is_ok() || catalog.models().count() > 5);
    }

    #[test]
    fn a_fine_tuned_model_has_its_own_name_and_price_or_is_refused() {
        let (catalog, _) = everything();
        let name = "ft:gpt-4o-mini-2024-07-18:acme::abc";
        let tuned = catalog.resolve(name).expect("its base's price is known").model;
        let [endpoint] = tuned.endpoints.as_slice() else { panic!("{tuned:?}") };
        assert_eq!((endpoint.provider.as_str(), endpoint.name.as_str()), ("openai", name));
        assert_eq!((endpoint.price.base.input, endpoint.price.base.output), (300_000_000, 1_200_000_000));
        assert!(catalog.resolve("ft:gpt-4.1-2025-04-14:acme::abc").is_err(), "a price nobody knows is not the base's");
    }

    #[test]
    fn the_shipped_list_is_sound() {
        let (catalog, listing) = everything();
        let mut chats = 0;
        for model in catalog.models() {
            for endpoint in &model.endpoints {
                let rates = endpoint.price.base;
                let is_free = rates.input == 0 && rates.output == 0;
                assert!(!is_free || endpoint.billing != Billing::PerToken, "{} is free unsaid", endpoint.id);
                assert!(endpoint.billing != Billing::Free || model.id.ends_with(":free"), "{}", endpoint.id);
                assert!(endpoint.context_tokens > 0, "{}", endpoint.id);
                assert!(endpoint.price.tiers.is_sorted_by_key(|tier| tier.over_tokens), "{}", endpoint.id);
            }
            chats += usize::from(model.makes == Makes::Chat);
        }
        assert!(chats >= 400 && listing.providers.len() >= 60, "{chats} models, {} providers", listing.providers.len());
        let openrouter = catalog.resolve("openai/gpt-4o").expect("known").model;
        let of = |provider: &str| {
            openrouter.endpoints.iter().find(|endpoint| endpoint.provider == provider).expect("served")
        };
        assert_eq!(
            of("openrouter").price.base.input * 1_000,
            of("openai").price.base.input * 1_055,
            "5.5 % are in the price"
        );
        assert!(of("openrouter").aggregator && !of("openai").aggregator);
    }

    #[test]
    fn a_credential_with_prices_of_its_own_is_an_endpoint_of_its_own() {
        let listing = Listing::shipped().expect("reads");
        let own = |credential: &str, discount: f64| Negotiated {
            credential: credential.to_owned(),
            discount,
            prices: BTreeMap::from([("openai/gpt-4o".to_owned(), Rates::of(1, 2))]),
        };
        let mut reach = reach(&listing.providers["openai"]);
        reach.negotiated = vec![own("KEY_A", 0.5)];
        let mut catalog = Catalog::default();
        catalog.join(&listing, std::slice::from_ref(&reach));
        let priced = |catalog: &Catalog, model: &str| -> Vec<(Option<String>, u64)> {
            let model = catalog.resolve(model).expect("known").model;
            model.endpoints.iter().map(|endpoint| (endpoint.credential.clone(), endpoint.price.base.input)).collect()
        };
        let a = || Some("KEY_A".to_owned());
        assert_eq!(priced(&catalog, "openai/gpt-4o"), [(a(), 1), (None, 2_500_000_000)]);
        assert_eq!(priced(&catalog, "openai/gpt-4o-mini"), [(a(), 75_000_000), (None, 150_000_000)]);
        reach.all_negotiated = true;
        let mut catalog = Catalog::default();
        catalog.join(&listing, &[reach]);
        assert_eq!(priced(&catalog, "openai/gpt-4o"), [(a(), 1)]);
    }
}
