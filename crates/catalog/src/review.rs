//! What was decided by hand about the shipped list (`config/catalog/review.toml`, `left_out.tsv`), for endpoints that a
//! refresh finds: the same rules that made the shipped rows.

use crate::config::AbilityName;
use crate::kind::Facts;
use crate::listing::{EndpointRow, ListingError};
use protocol::dialect::{Dialect, ReasoningForm};
use regex_lite::Regex;
use serde::Deserialize;
use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

/// The rules, ready to be asked.
#[derive(Debug)]
pub(crate) struct Review {
    variants: Regex,
    not_chat: Regex,
    floating: Regex,
    not_the_same: Vec<(Regex, Option<String>)>,
    endpoints: Vec<(Regex, Regex, Option<Regex>, Rule)>,
    left_out: HashSet<&'static str>,
}

/// Which model a new name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Not to be listed.
    LeftOut,
    /// A model by its canonical name.
    Model(String),
    /// To be found by its spelling.
    BySpelling,
    /// A product of its own.
    Own,
}

#[derive(Debug, Deserialize)]
struct File {
    variants: String,
    not_chat: String,
    floating: String,
    not_the_same: Vec<NotTheSame>,
    endpoints: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
struct NotTheSame {
    name: String,
    #[serde(default)]
    slug: Option<String>,
}

/// What endpoints of a provider need beyond their row.
#[derive(Debug, Clone, Deserialize)]
struct Rule {
    provider: String,
    name: String,
    #[serde(default)]
    but_not: Option<String>,
    #[serde(default)]
    skip: bool,
    #[serde(default)]
    adds: Option<AbilityName>,
    #[serde(default)]
    dialect: Option<Dialect>,
    #[serde(default)]
    reasoning: Option<ReasoningForm>,
    #[serde(default)]
    efforts: Vec<String>,
    #[serde(default)]
    thinking_tokens: Option<[u64; 2]>,
    #[serde(default)]
    always_thinks: bool,
    #[serde(default)]
    rejects: Vec<String>,
    #[serde(default)]
    request_fee: bool,
    #[serde(flatten)]
    facts: Facts,
}

impl Review {
    /// The shipped rules, read once.
    ///
    /// # Errors
    /// When the file is malformed.
    pub(crate) fn shipped() -> Result<Arc<Self>, ListingError> {
        static SHIPPED: OnceLock<Result<Arc<Review>, ListingError>> = OnceLock::new();
        SHIPPED.get_or_init(|| Self::read().map(Arc::new)).clone()
    }

    fn read() -> Result<Self, ListingError> {
        let fail = |problem: String| ListingError { file: "review.toml".to_owned(), line: 0, problem };
        let text = include_str!("../../../config/catalog/review.toml");
        let file: File = toml::from_str(text).map_err(|error| fail(error.to_string()))?;
        let pattern = |text: &str| Regex::new(text).map_err(|error| fail(format!("{text}: {error}")));
        let not_the_same = file
            .not_the_same
            .into_iter()
            .map(|rule| Ok((pattern(&rule.name)?, rule.slug)))
            .collect::<Result<_, _>>()?;
        let mut endpoints = Vec::new();
        for rule in file.endpoints {
            let but_not = rule.but_not.as_deref().map(pattern).transpose()?;
            endpoints.push((pattern(&rule.provider)?, pattern(&rule.name)?, but_not, rule));
        }
        Ok(Self {
            variants: pattern(&file.variants)?,
            not_chat: pattern(&file.not_chat)?,
            floating: pattern(&file.floating)?,
            not_the_same,
            endpoints,
            left_out: include_str!("../../../config/catalog/left_out.tsv").lines().collect(),
        })
    }

    /// Which model a provider's name means, as far as rules tell.
    pub(crate) fn meaning(&self, provider: &str, name: &str) -> Meaning {
        let bare = name.rsplit('/').next().unwrap_or(name).to_lowercase();
        let left_out = self.left_out.contains(format!("{provider}\t{name}").as_str());
        if left_out || self.floating.is_match(name) || name.starts_with("openrouter/") && provider != "openrouter" {
            return Meaning::LeftOut;
        }
        if provider == "openrouter" {
            return Meaning::Model(name.to_owned());
        }
        if self.not_chat.is_match(&name.to_lowercase()) {
            return Meaning::LeftOut;
        }
        for (pattern, slug) in &self.not_the_same {
            let Some(found) = pattern.captures(&bare) else { continue };
            let Some(slug) = slug else { return Meaning::LeftOut };
            let group = found.get(1).map_or("", |group| group.as_str());
            return Meaning::Model(slug.replace("\\1", group));
        }
        // A refresh cannot tell whether a variant is its stem; by itself it cannot be mistaken.
        if self.variants.is_match(&bare)
            || bare.ends_with("-latest")
            || bare.ends_with("-free")
            || bare.ends_with(":free")
        {
            return Meaning::Own;
        }
        Meaning::BySpelling
    }

    /// Adds to a row what the rules say of its endpoint; false where it is not to be listed.
    pub(crate) fn apply(&self, row: &mut EndpointRow) -> bool {
        for (provider, name, but_not, rule) in &self.endpoints {
            let applies = provider.is_match(&row.provider) && name.is_match(&row.name);
            if !applies || but_not.as_ref().is_some_and(|pattern| pattern.is_match(&row.name)) {
                continue;
            }
            if rule.skip {
                return false;
            }
            row.abilities.extend(rule.adds);
            row.dialect = rule.dialect.or(row.dialect);
            row.reasoning = rule.reasoning.or(row.reasoning);
            row.thinking_tokens = rule.thinking_tokens.or(row.thinking_tokens);
            row.always_thinks |= rule.always_thinks;
            row.request_fee |= rule.request_fee;
            row.rejects.extend(rule.rejects.iter().cloned());
            if !rule.efforts.is_empty() {
                row.efforts.clone_from(&rule.efforts);
            }
            row.facts = rule.facts.or(&row.facts);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_reviewed_holds_for_what_a_refresh_finds() {
        let review = Review::shipped().expect("reads");
        let model = |id: &str| Meaning::Model(id.to_owned());
        let rows = [
            ("deepseek", "deepseek-chat", Meaning::LeftOut),
            ("nano-gpt", "huihui-ai/DeepSeek-R1-Distill-Qwen-32B-abliterated", Meaning::LeftOut),
            ("groq", "meta-llama/llama-prompt-guard-2-22m", Meaning::LeftOut),
            ("google", "gemini-9-flash-latest", Meaning::Own),
            ("openai", "gpt-5.9-chat-latest", model("openai/gpt-5.9-chat")),
            ("openrouter", "x/y", model("x/y")),
            ("openrouter", "~anthropic/claude-sonnet-latest", Meaning::LeftOut),
            ("anthropic", "claude-sonnet-7", Meaning::BySpelling),
            ("anthropic", "claude-sonnet-7-fast", Meaning::Own),
        ];
        for (provider, name, expected) in rows {
            assert_eq!(review.meaning(provider, name), expected, "{provider} {name}");
        }
    }
}
