//! OpenRouter's `provider` object: who may serve a request, and who rather
//! (openrouter.ai/docs/features/provider-routing).

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};

/// The whole object; an unknown field is refused, because a data policy that is silently ignored is worse than an error.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProviderPreferences {
    #[serde(deserialize_with = "or_default")]
    pub order: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub only: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub ignore: Vec<String>,
    pub allow_fallbacks: Option<bool>,
    /// Only endpoints that take every parameter of the request.
    pub require_parameters: Option<bool>,
    pub data_collection: Option<DataCollection>,
    /// Only endpoints that keep no prompts.
    pub zdr: Option<bool>,
    /// Only models whose author allows to train others on their answers.
    pub enforce_distillable_text: Option<bool>,
    #[serde(deserialize_with = "or_default")]
    pub quantizations: Vec<String>,
    /// Only endpoints that process prompts there; ours.
    pub region: Option<String>,
    pub sort: Option<Sort>,
    pub preferred_min_throughput: Option<Cutoffs>,
    pub preferred_max_latency: Option<Cutoffs>,
    pub max_price: Option<MaxPrice>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataCollection {
    Allow,
    Deny,
}

/// What endpoints are ordered by, and whether across models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sort {
    pub by: SortBy,
    /// True where endpoints of all named models are ordered together (`partition: "none"`).
    pub across_models: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SortBy {
    Price,
    Throughput,
    Latency,
    /// By how well tools are called.
    Exacto,
}

/// Bounds of percentiles; one number bounds the median. Latency in seconds, throughput in tokens a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cutoffs {
    pub p50: Option<f64>,
    pub p75: Option<f64>,
    pub p90: Option<f64>,
    pub p99: Option<f64>,
}

/// The most that may be paid: USD per million tokens, and per request or picture.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MaxPrice {
    #[serde(deserialize_with = "number")]
    pub prompt: Option<f64>,
    #[serde(deserialize_with = "number")]
    pub completion: Option<f64>,
    #[serde(deserialize_with = "number")]
    pub request: Option<f64>,
    #[serde(deserialize_with = "number")]
    pub image: Option<f64>,
    #[serde(deserialize_with = "number")]
    pub audio: Option<f64>,
}

fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A number, or a text that is one: OpenRouter takes both.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(f64),
        Text(String),
    }
    let found = match Option::deserialize(deserializer)? {
        None => return Ok(None),
        Some(Either::Number(number)) => Ok(number),
        Some(Either::Text(text)) => text.trim().parse().map_err(|_| format!("`{text}` is not a number")),
    };
    let found = found.and_then(|number: f64| {
        if number.is_finite() && number >= 0.0 { Ok(number) } else { Err(format!("{number}; use 0 or more")) }
    });
    found.map(Some).map_err(D::Error::custom)
}

impl<'de> Deserialize<'de> for Sort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Partition {
            Model,
            None,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Object {
            #[serde(default)]
            by: Option<SortBy>,
            #[serde(default)]
            partition: Option<Partition>,
        }
        let value = serde_json::Value::deserialize(deserializer)?;
        if value.is_string() {
            let by = SortBy::deserialize(value).map_err(D::Error::custom)?;
            return Ok(Self { by, across_models: false });
        }
        let object = Object::deserialize(value).map_err(D::Error::custom)?;
        let across_models = matches!(object.partition, Some(Partition::None));
        Ok(Self { by: object.by.unwrap_or(SortBy::Price), across_models })
    }
}

impl<'de> Deserialize<'de> for Cutoffs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields, default)]
        #[derive(Default)]
        struct Object {
            p50: Option<f64>,
            p75: Option<f64>,
            p90: Option<f64>,
            p99: Option<f64>,
        }
        let value = serde_json::Value::deserialize(deserializer)?;
        if let Some(median) = value.as_f64() {
            return Ok(Self { p50: Some(median), ..Self::default() });
        }
        let Object { p50, p75, p90, p99 } = Object::deserialize(value).map_err(D::Error::custom)?;
        Ok(Self { p50, p75, p90, p99 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openrouters_whole_object_is_read_and_nothing_else() {
        let text = r#"{"order":["a"],"only":null,"ignore":["b"],"allow_fallbacks":false,"require_parameters":true,
            "data_collection":"deny","zdr":true,"enforce_distillable_text":true,"quantizations":["fp8"],"region":"eu",
            "sort":{"by":"latency","partition":"none"},"preferred_min_throughput":50,
            "preferred_max_latency":{"p90":2.5},"max_price":{"prompt":"1.5","completion":2}}"#;
        let read: ProviderPreferences = serde_json::from_str(text).expect("reads");
        assert_eq!(read.sort, Some(Sort { by: SortBy::Latency, across_models: true }));
        assert_eq!(read.preferred_min_throughput.and_then(|cutoffs| cutoffs.p50), Some(50.0));
        assert_eq!(read.preferred_max_latency.and_then(|cutoffs| cutoffs.p90), Some(2.5));
        let max = read.max_price.expect("a price");
        assert_eq!((max.prompt, max.completion), (Some(1.5), Some(2.0)));
        for wrong in [
            r#"{"zrd":true}"#,
            r#"{"sort":"cheap"}"#,
            r#"{"max_price":{"prompt":"much"}}"#,
            r#"{"max_price":{"prompt":-1}}"#,
            r#"{"data_collection":"maybe"}"#,
            r#"{"preferred_max_latency":{"p95":1}}"#,
        ] {
            assert!(serde_json::from_str::<ProviderPreferences>(wrong).is_err(), "{wrong}");
        }
    }
}
