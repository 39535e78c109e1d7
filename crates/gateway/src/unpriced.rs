//! What providers bill beside the tokens of a model: the catalogue has no price for it, so the books could not be right.

use protocol::{ChatRequest, FieldError};
use serde_json::Value;

/// Tiers that cost what the catalogue says, or less.
const TIERS: [&str; 4] = ["auto", "default", "flex", "standard_only"];
/// Plugins of OpenRouter's that cost nothing.
const PLUGINS: [&str; 2] = ["moderation", "response-healing"];

/// Refuses what would be billed at prices that nobody here knows.
pub(crate) fn refuse(request: &ChatRequest) -> Result<(), FieldError> {
    let said = |name: &str| {
        let value: Option<Value> = serde_json::from_str(&request.field_json(name)?).ok();
        value.filter(|value| !value.is_null())
    };
    let refused = |field: &str, what: String, fix: &str| {
        Err(FieldError::new(field, format!("{what} is billed beside the tokens, at no price on file; {fix}")))
    };
    if let Some(tier) = said("service_tier").filter(|tier| !tier.as_str().is_some_and(|tier| TIERS.contains(&tier))) {
        return refused("service_tier", format!("{tier}"), "use `auto`, `default` or `flex`");
    }
    if said("web_search_options").is_some() {
        return refused("web_search_options", "a search".to_owned(), "leave it out");
    }
    let listed = |name: &str| said(name).and_then(|value| value.as_array().cloned()).unwrap_or_default();
    let is_free = |plugin: &Value| plugin["id"].as_str().is_some_and(|id| PLUGINS.contains(&id));
    if let Some(plugin) = listed("plugins").iter().find(|plugin| !is_free(plugin)) {
        return refused("plugins", plugin["id"].to_string(), "leave it out");
    }
    if let Some(other) = listed("modalities").iter().find(|modality| *modality != "text") {
        return refused("modalities", other.to_string(), "use [\"text\"]");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn refused(field: &str) -> Option<String> {
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"x"}}],{field}}}"#);
        let request = ChatRequest::parse(&Bytes::from(body)).expect("a request");
        refuse(&request).err().map(|error| error.field.to_string())
    }

    #[test]
    fn what_has_no_price_is_refused_by_name() {
        let rows = [
            (r#""service_tier":"priority""#, Some("service_tier")),
            (r#""service_tier":"flex""#, None),
            (r#""service_tier":null"#, None),
            (r#""plugins":[{"id":"web"}]"#, Some("plugins")),
            (r#""plugins":[{"id":"response-healing"}]"#, None),
            (r#""plugins":[]"#, None),
            (r#""web_search_options":{}"#, Some("web_search_options")),
            (r#""modalities":["text","audio"]"#, Some("modalities")),
            (r#""modalities":["text"]"#, None),
        ];
        for (field, wanted) in rows {
            assert_eq!(refused(field).as_deref(), wanted, "{field}");
        }
    }
}
