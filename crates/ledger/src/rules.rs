//! What a virtual key may ask for, and how often.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Rules of a key; an empty list and a number that is left out allow everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// Models that may answer; `author/*` is all of an author.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// Providers that may answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub providers: Vec<String>,
    /// Policies that may be asked for; where some are named, models may not be asked for by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// Addresses that requests may come from, as `10.0.0.0/8` or `2001:db8::1/128`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ip_ranges: Vec<IpNet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// Input and output, as they turn out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams_max: Option<u32>,
    /// Of each end `user` that its requests name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_requests_per_minute: Option<u32>,
}

/// Entries of one list that are accepted.
const ENTRIES_MAX: usize = 200;

impl Rules {
    /// As they were stored. Rules that cannot be read allow nothing: that is safer than everything.
    pub(crate) fn stored(key_hash: &str, json: &str) -> Self {
        serde_json::from_str(json).unwrap_or_else(|error| {
            tracing::error!(key_hash, %error, "the rules of a key cannot be read; it may ask for nothing");
            Self { models: vec![String::new()], ..Self::default() }
        })
    }

    /// What is wrong with them: the field and the problem.
    pub fn problem(&self) -> Option<(&'static str, String)> {
        let lists = [
            ("models", self.models.len(), self.models.iter().any(String::is_empty)),
            ("providers", self.providers.len(), self.providers.iter().any(String::is_empty)),
            ("policies", self.policies.len(), self.policies.iter().any(String::is_empty)),
            ("ip_ranges", self.ip_ranges.len(), false),
        ];
        for (field, count, has_empty) in lists {
            if count > ENTRIES_MAX {
                return Some((field, format!("{count} entries; use at most {ENTRIES_MAX}")));
            }
            if has_empty {
                return Some((field, "an empty entry; name one, or leave the list out".to_owned()));
            }
        }
        let limits = [
            ("requests_per_minute", self.requests_per_minute.map(u64::from)),
            ("tokens_per_minute", self.tokens_per_minute),
            ("streams_max", self.streams_max.map(u64::from)),
            ("user_requests_per_minute", self.user_requests_per_minute.map(u64::from)),
        ];
        let zero = limits.into_iter().find(|(_, limit)| *limit == Some(0));
        zero.map(|(field, _)| (field, "0 allows nothing; disable the key instead, or leave the limit out".to_owned()))
    }

    /// True where the model may answer.
    pub fn allow_model(&self, model: &str) -> bool {
        let allows = |entry: &String| match entry.strip_suffix("/*") {
            Some(author) => model.split_once('/').is_some_and(|(own, _)| own == author),
            None => entry == model,
        };
        self.models.is_empty() || self.models.iter().any(allows)
    }

    /// True where the provider may answer.
    pub fn allow_provider(&self, provider: &str) -> bool {
        self.providers.is_empty() || self.providers.iter().any(|entry| entry == provider)
    }

    /// True where the policy may be asked for; `None` is a model by its name.
    pub fn allow_policy(&self, policy: Option<&str>) -> bool {
        self.policies.is_empty() || policy.is_some_and(|policy| self.policies.iter().any(|entry| entry == policy))
    }

    /// True where requests may come from the address; one that is not known may only where every address may.
    pub fn allow_address(&self, address: Option<IpAddr>) -> bool {
        let address = address.map(|address| address.to_canonical());
        self.ip_ranges.is_empty()
            || address.is_some_and(|address| self.ip_ranges.iter().any(|range| range.contains(&address)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_allow_what_they_name_and_without_names_everything() {
        let none = Rules::default();
        assert!(none.allow_model("acme/one") && none.allow_policy(None) && none.allow_address(None));
        let json = r#"{"models": ["acme/*", "local/small"], "policies": ["support"], "ip_ranges": ["10.0.0.0/8"]}"#;
        let rules: Rules = serde_json::from_str(json).expect("rules");
        assert_eq!(rules.problem(), None);
        let models = ["acme/one", "acmeco/one", "local/small", "local/smaller"].map(|model| rules.allow_model(model));
        assert_eq!(models, [true, false, true, false]);
        assert_eq!(
            [Some("support"), Some("other"), None].map(|policy| rules.allow_policy(policy)),
            [true, false, false]
        );
        let addresses = ["10.1.2.3", "::ffff:10.1.2.3", "11.0.0.1"].map(|text| text.parse().ok());
        assert_eq!(addresses.map(|address| rules.allow_address(address)), [true, true, false]);
        assert!(!rules.allow_address(None), "an address that is not known is none of these");
    }

    #[test]
    fn rules_that_cannot_be_read_allow_nothing() {
        assert!(!Rules::stored("hash", "{broken").allow_model("acme/one"));
    }

    #[test]
    fn a_limit_of_nothing_and_an_empty_name_are_mistakes() {
        let zero = Rules { requests_per_minute: Some(0), ..Rules::default() };
        assert_eq!(zero.problem().map(|(field, _)| field), Some("requests_per_minute"));
        let empty = Rules { models: vec![String::new()], ..Rules::default() };
        assert_eq!(empty.problem().map(|(field, _)| field), Some("models"));
    }
}
