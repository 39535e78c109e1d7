//! Lists of models that others publish: models.dev's, OpenRouter's, and a provider's own, read into rows.

use crate::config::AbilityName;
use crate::kind::Billing;
use crate::listing::{EndpointRow, Makes, RateRow, Status, TierRow};
use serde_json::Value;
use std::collections::BTreeMap;
use thiserror::Error;

/// What a document says about the providers it covers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Document {
    pub source: String,
    pub providers: BTreeMap<String, Offered>,
}

/// What one provider offers, by its own name of each model.
#[derive(Debug, Clone, PartialEq)]
pub enum Offered {
    /// With prices; models without a known price are `None`.
    Priced(BTreeMap<String, Option<OfferedModel>>),
    /// Names only.
    Named(Vec<String>),
}

/// One model at one provider; `endpoint.model` is empty until it is known which model it is.
#[derive(Debug, Clone, PartialEq)]
pub struct OfferedModel {
    pub endpoint: EndpointRow,
    /// For people.
    pub name: String,
    pub released: Option<String>,
    pub makes: Makes,
}

/// Says that a document is none that can be read.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("{source_name}: {problem}")]
pub struct DocumentError {
    pub source_name: String,
    pub problem: String,
}

impl Document {
    /// Reads a document of any of the three shapes. `provider` says whose own list it is, where it is one.
    ///
    /// # Errors
    /// When it is no JSON, of no known shape, or says nothing.
    pub fn read(source: &str, text: &[u8], provider: Option<&str>) -> Result<Self, DocumentError> {
        let fail = |problem: String| DocumentError { source_name: source.to_owned(), problem };
        let value: Value = serde_json::from_slice(text).map_err(|error| fail(format!("no JSON: {error}")))?;
        let providers = match (&value["data"], provider, &value) {
            (Value::Array(models), Some(provider), _) => {
                let names = models.iter().filter_map(|model| model["id"].as_str().map(str::to_owned)).collect();
                BTreeMap::from([(provider.to_owned(), Offered::Named(names))])
            }
            (Value::Array(models), None, _) => {
                let rows =
                    models.iter().filter_map(|model| Some((model["id"].as_str()?.to_owned(), openrouter(model))));
                BTreeMap::from([("openrouter".to_owned(), Offered::Priced(rows.collect()))])
            }
            (_, None, Value::Object(providers)) => providers
                .iter()
                .filter_map(|(id, provider)| {
                    let models = provider["models"].as_object()?;
                    let rows = models.iter().map(|(name, model)| (name.clone(), models_dev(id, name, model)));
                    Some((id.clone(), Offered::Priced(rows.collect())))
                })
                .collect(),
            _ => return Err(fail("neither models.dev's list nor a list of models under `data`".to_owned())),
        };
        let says_something = providers.values().any(|offered| match offered {
            Offered::Priced(rows) => !rows.is_empty(),
            Offered::Named(names) => !names.is_empty(),
        });
        if !says_something {
            return Err(fail("it lists no model".to_owned()));
        }
        Ok(Self { source: source.to_owned(), providers })
    }
}

/// A model of models.dev's `api.json` (models.dev, MIT).
fn models_dev(provider: &str, name: &str, model: &Value) -> Option<OfferedModel> {
    let price = |cost: &Value| {
        let some = |field: &str| cost[field].as_f64().filter(|price| *price > 0.0);
        let (input, output) = (cost["input"].as_f64()?, cost["output"].as_f64()?);
        let thinking = some("reasoning").filter(|price| *price > output);
        Some(RateRow { input, output, cache_read: some("cache_read"), cache_write: some("cache_write"), thinking })
    };
    let rates = price(&model["cost"])?;
    let tier = |tier: &Value| {
        let mut cost = model["cost"].clone();
        if let (Value::Object(cost), Value::Object(own)) = (&mut cost, tier) {
            cost.extend(own.clone());
        }
        Some(TierRow { over: tier.pointer("/tier/size").or(tier.get("size"))?.as_u64()?, rates: price(&cost)? })
    };
    let mut tiers: Vec<TierRow> = model["cost"]["tiers"].as_array().into_iter().flatten().filter_map(tier).collect();
    if let Some(over) = price(&model["cost"]["context_over_200k"]) {
        tiers.push(TierRow { over: 200_000, rates: over });
    }
    let takes =
        |kind: &str| model["modalities"]["input"].as_array().is_some_and(|kinds| kinds.iter().any(|k| k == kind));
    let flag = |field: &str| model[field] == Value::Bool(true);
    let abilities = [
        (AbilityName::Tools, flag("tool_call")),
        (AbilityName::JsonSchema, flag("structured_output")),
        (AbilityName::Images, takes("image")),
        (AbilityName::Pdf, takes("pdf")),
        (AbilityName::Reasoning, flag("reasoning")),
    ];
    Some(OfferedModel {
        endpoint: EndpointRow {
            model: String::new(),
            provider: provider.to_owned(),
            name: name.to_owned(),
            rates,
            tiers,
            context: model["limit"]["context"].as_u64()?,
            output_max: model["limit"]["output"].as_u64().filter(|most| *most > 0)?,
            input_max: model["limit"]["input"].as_u64(),
            abilities: able(&abilities),
            no_sampling: model["temperature"] == Value::Bool(false),
            status: if model["status"] == "deprecated" { Status::Deprecated } else { Status::Active },
            ..EndpointRow::default()
        },
        name: model["name"].as_str().unwrap_or(name).to_owned(),
        released: model["release_date"].as_str().map(str::to_owned),
        makes: makes(name, &model["modalities"]["output"])?,
    })
}

/// A model of OpenRouter's `GET /models`; prices are texts in dollars per token.
fn openrouter(model: &Value) -> Option<OfferedModel> {
    let name = model["id"].as_str()?;
    let price = |field: &str| model["pricing"][field].as_str()?.parse::<f64>().ok().map(per_million);
    let (input, output) = (price("prompt")?, price("completion")?);
    if input < 0.0 || output < 0.0 {
        return None; // its routers cost what they choose
    }
    let some = |field: &str| price(field).filter(|price| *price > 0.0);
    let takes = |kind: &str| {
        model["architecture"]["input_modalities"].as_array().is_some_and(|kinds| kinds.iter().any(|k| k == kind))
    };
    let parameter = |wanted: &str| {
        model["supported_parameters"].as_array().is_some_and(|names| names.iter().any(|name| name == wanted))
    };
    let abilities = [
        (AbilityName::Tools, parameter("tools")),
        (AbilityName::JsonSchema, parameter("structured_outputs")),
        (AbilityName::Images, takes("image")),
        (AbilityName::Pdf, takes("file")),
        (AbilityName::Reasoning, parameter("reasoning")),
    ];
    let context = model["context_length"].as_u64()?;
    let tier = |tier: &Value| {
        let own = |field: &str| tier[field].as_str()?.parse::<f64>().ok().map(per_million);
        let thinking = own("internal_reasoning").or_else(|| some("internal_reasoning"));
        let output = own("completion").unwrap_or(output);
        Some(TierRow {
            over: (tier["min_prompt_tokens"].as_f64()? as u64).saturating_sub(1),
            rates: RateRow {
                input: own("prompt").unwrap_or(input),
                output,
                cache_read: own("input_cache_read").or_else(|| some("input_cache_read")),
                cache_write: own("input_cache_write").or_else(|| some("input_cache_write")),
                thinking: thinking.filter(|price| *price > output),
            },
        })
    };
    let overrides = model["pricing"]["overrides"].as_array().into_iter().flatten().filter_map(tier);
    let free = name.ends_with(":free");
    Some(OfferedModel {
        endpoint: EndpointRow {
            model: name.to_owned(),
            provider: "openrouter".to_owned(),
            name: name.to_owned(),
            rates: RateRow {
                input,
                output,
                cache_read: some("input_cache_read"),
                cache_write: some("input_cache_write"),
                thinking: some("internal_reasoning").filter(|price| *price > output),
            },
            tiers: overrides.collect(),
            context,
            output_max: model["top_provider"]["max_completion_tokens"].as_u64().unwrap_or(context),
            abilities: able(&abilities),
            no_sampling: !parameter("temperature"),
            status: if model["expiration_date"].is_string() { Status::Deprecated } else { Status::Active },
            billing: if free { Billing::Free } else { Billing::PerToken },
            ..EndpointRow::default()
        },
        name: model["name"].as_str().unwrap_or(name).to_owned(),
        released: None,
        makes: makes(name, &model["architecture"]["output_modalities"])?,
    })
}

/// Dollars per token to dollars per million, without the noise of the multiplication.
fn per_million(usd: f64) -> f64 {
    (usd * 1e15).round() / 1e9
}

fn able(flags: &[(AbilityName, bool)]) -> Vec<AbilityName> {
    flags.iter().filter(|(_, flag)| *flag).map(|(ability, _)| *ability).collect()
}

/// What a model makes; `None` where that is neither text nor beside text.
fn makes(name: &str, output: &Value) -> Option<Makes> {
    let made = |kind: &str| output.as_array().is_some_and(|kinds| kinds.iter().any(|k| k == kind));
    match (made("text"), made("image"), made("audio")) {
        (true, false, false) if name.to_lowercase().contains("embed") => Some(Makes::Embeddings),
        (true, false, false) => Some(Makes::Chat),
        (true, true, _) => Some(Makes::Images),
        (true, _, true) => Some(Makes::Audio),
        _ => None,
    }
}
