//! The catalogue in use: models by canonical name, aliases, and the nearest name for a typing error.

use crate::config::{AbilityName, EndpointConfig, ModelConfig};
use crate::money::{NanoUsd, Price};
use std::collections::{BTreeMap, HashMap};
use thiserror::Error;

/// A model and where it can be had.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    pub id: String,
    pub released: Option<String>,
    pub ability: Option<f64>,
    pub endpoints: Vec<Endpoint>,
}

/// One model at one provider.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// `model id@provider`, unique in a catalogue.
    pub id: String,
    pub model: String,
    pub provider: String,
    /// The provider's own name of the model.
    pub name: String,
    pub price: Price,
    pub context_tokens: u64,
    pub output_tokens_max: u64,
    pub output_tokens_reserved_max: u64,
    pub max_tokens_field: String,
    pub abilities: Vec<AbilityName>,
    pub rejects: Vec<String>,
    /// In place of the provider's.
    pub first_token_timeout_ms: Option<u64>,
    pub idle_timeout_ms: Option<u64>,
    pub total_timeout_ms: Option<u64>,
}

/// What is wrong with a model's table; the position is a byte range of the file it was read from.
#[derive(Debug, Clone, Error, PartialEq)]
#[error("{field}: {problem}")]
pub struct CatalogError {
    pub span: std::ops::Range<usize>,
    pub field: String,
    pub problem: String,
}

/// No model of that name; `nearest` holds at most three similar ones.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("no model `{name}`")]
pub struct UnknownModel {
    pub name: String,
    pub nearest: Vec<String>,
}

/// All models that can be asked for.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    models: BTreeMap<String, Model>,
    aliases: HashMap<String, String>,
}

impl Catalog {
    /// Adds one model; `place` is its position for messages, as `models[2]`. Every mistake is returned.
    pub fn add(&mut self, config: &ModelConfig, place: &str) -> Vec<CatalogError> {
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
        if config.endpoints.is_empty() {
            let problem = format!("`{id}` has no [[models.endpoints]]; add one with provider, name and prices");
            complain(config.id.span(), format!("{place}.endpoints"), problem);
        }
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for (at, endpoint) in config.endpoints.iter().enumerate() {
            let place = format!("{place}.endpoints[{at}]");
            let price = price(endpoint, &place, &mut complain);
            let endpoint_id = format!("{id}@{}", endpoint.provider.get_ref());
            if endpoints.iter().any(|known| known.id == endpoint_id) {
                let problem = format!("`{id}` has two endpoints at `{}`", endpoint.provider.get_ref());
                complain(endpoint.provider.span(), format!("{place}.provider"), problem);
            }
            endpoints.push(Endpoint {
                id: endpoint_id,
                model: id.clone(),
                provider: endpoint.provider.get_ref().clone(),
                name: endpoint.name.clone(),
                price,
                context_tokens: endpoint.context_tokens,
                output_tokens_max: endpoint.output_tokens_max,
                output_tokens_reserved_max: endpoint.output_tokens_reserved_max,
                max_tokens_field: endpoint.max_tokens_field.clone(),
                abilities: endpoint.abilities.clone(),
                rejects: endpoint.rejects.clone(),
                first_token_timeout_ms: endpoint.first_token_timeout_ms,
                idle_timeout_ms: endpoint.idle_timeout_ms,
                total_timeout_ms: endpoint.total_timeout_ms,
            });
        }
        if errors.is_empty() {
            for alias in &config.aliases {
                self.aliases.entry(alias.clone()).or_insert_with(|| id.clone()); // the operator's models come first
            }
            let model = Model { id: id.clone(), released: config.released.clone(), ability: config.ability, endpoints };
            self.models.insert(id.clone(), model);
        }
        errors
    }

    /// Finds a model by its canonical name or an alias.
    ///
    /// # Errors
    /// With the nearest names when there is none.
    pub fn resolve(&self, name: &str) -> Result<&Model, UnknownModel> {
        let by_alias = || self.models.get(self.aliases.get(name)?);
        self.models
            .get(name)
            .or_else(by_alias)
            .ok_or_else(|| UnknownModel { name: name.to_owned(), nearest: nearest(name, self.models.keys()) })
    }

    /// All models in order of their names.
    pub fn models(&self) -> impl Iterator<Item = &Model> {
        self.models.values()
    }

    /// True where nothing can be asked for.
    pub fn is_empty(&self) -> bool {
        self.models.is_empty()
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

fn price(
    endpoint: &EndpointConfig,
    place: &str,
    complain: &mut impl FnMut(std::ops::Range<usize>, String, String),
) -> Price {
    let mut read = |value: &toml::Spanned<f64>, field: &str| {
        let usd = *value.get_ref();
        match NanoUsd::from_usd(usd).and_then(|nano| u64::try_from(nano.0).ok()) {
            Some(nano) => nano,
            None => {
                let problem = format!("{usd} is no price; write USD per million tokens, 0 or more");
                complain(value.span(), format!("{place}.{field}"), problem);
                0
            }
        }
    };
    let input = read(&endpoint.input_usd_per_mtok, "input_usd_per_mtok");
    let output = read(&endpoint.output_usd_per_mtok, "output_usd_per_mtok");
    let cached = endpoint.cache_read_usd_per_mtok.as_ref().map(|value| read(value, "cache_read_usd_per_mtok"));
    Price {
        input_nano_per_mtok: input,
        cache_read_nano_per_mtok: cached.unwrap_or(input),
        output_nano_per_mtok: output,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::builtin_pages;

    fn builtin() -> Catalog {
        let mut catalog = Catalog::default();
        for page in builtin_pages().expect("pages parse") {
            for (at, model) in page.models.iter().enumerate() {
                assert_eq!(catalog.add(model, &format!("models[{at}]")), vec![]);
            }
        }
        catalog
    }

    #[test]
    fn the_builtin_pages_are_valid_and_priced() {
        let catalog = builtin();
        assert!(catalog.models().count() >= 20);
        for endpoint in catalog.models().flat_map(|model| &model.endpoints) {
            assert!(
                endpoint.price.input_nano_per_mtok > 0 && endpoint.price.output_nano_per_mtok > 0,
                "{}",
                endpoint.id
            );
            assert!(endpoint.price.cache_read_nano_per_mtok <= endpoint.price.input_nano_per_mtok, "{}", endpoint.id);
        }
    }

    #[test]
    fn names_aliases_and_typing_errors_find_the_model() {
        let catalog = builtin();
        assert_eq!(catalog.resolve("gpt-4o").map(|model| model.id.as_str()), Ok("openai/gpt-4o"));
        let unknown = catalog.resolve("openai/gtp-4o").expect_err("a typing error");
        assert!(unknown.nearest.contains(&"openai/gpt-4o".to_owned()), "{unknown:?}");
        assert!(catalog.resolve("zzz").expect_err("unknown").nearest.is_empty());
    }

    #[test]
    fn every_mistake_of_a_table_is_named() {
        let text = "[[models]]\nid = \"small\"\n[[models.endpoints]]\nprovider = \"p\"\nname = \"n\"\ninput_usd_per_mtok = -1.0\noutput_usd_per_mtok = 1.0\ncontext_tokens = 1\noutput_tokens_max = 1\n";
        #[derive(serde::Deserialize)]
        struct File {
            models: Vec<ModelConfig>,
        }
        let file: File = toml::from_str(text).expect("parses");
        let errors = Catalog::default().add(&file.models[0], "models[0]");
        let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(fields, ["models[0].id", "models[0].endpoints[0].input_usd_per_mtok"]);
        assert_eq!(&text[errors[1].span.clone()], "-1.0");
    }
}
