//! The `[cache]` tables, and which requests the semantic level may answer.

use protocol::{ChatRequest, Message, Role};
use regex_lite::Regex;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The `[cache]` table.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheConfig {
    #[serde(default)]
    pub exact: ExactConfig,
    #[serde(default)]
    pub semantic: SemanticConfig,
    /// What is different for a policy's requests.
    #[serde(default)]
    pub policies: BTreeMap<String, PolicyRules>,
    /// An expired answer is given for so long while a fresh one is fetched.
    #[serde(default)]
    pub stale_while_revalidate_s: u64,
    /// An expired answer is given for so long when no provider answers.
    #[serde(default)]
    pub stale_if_error_s: u64,
}

/// A `[cache.policies.<name>]` table.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyRules {
    /// Life of an answer, where it is shorter than `[cache.exact] ttl_s`.
    pub ttl_s: Option<u64>,
    /// As in `[cache.semantic]`, where it is smaller.
    pub error_max: Option<f64>,
    /// Answers are for one end user: `user` is part of what a match must share.
    pub personal: bool,
    /// Patterns of what changes in system prompts without mattering, such as dates and names.
    pub volatile: Vec<String>,
}

impl CacheConfig {
    /// What is different for a policy's requests; `None` stands for requests to named models.
    pub fn policy(&self, name: Option<&str>) -> &PolicyRules {
        static PLAIN: PolicyRules = PolicyRules { ttl_s: None, error_max: None, personal: false, volatile: Vec::new() };
        name.and_then(|name| self.policies.get(name)).unwrap_or(&PLAIN)
    }

    /// How long an answer is kept beyond its life.
    pub fn stale_ms(&self) -> i64 {
        let longest_s = self.stale_while_revalidate_s.max(self.stale_if_error_s);
        i64::try_from(longest_s.saturating_mul(1_000)).unwrap_or(i64::MAX / 2)
    }

    /// Everything in the tables that cannot be meant, with the field it stands in.
    pub fn mistakes(&self) -> Vec<(String, String)> {
        let mut mistakes = Vec::new();
        let shares =
            [("error_max", self.semantic.error_max), ("audit_cost_share_max", self.semantic.audit_cost_share_max)];
        for (field, value) in shares {
            if !(0.0..=1.0).contains(&value) {
                mistakes.push((format!("cache.semantic.{field}"), format!("{value}; use a share from 0 to 1")));
            }
        }
        mistakes
            .extend(self.semantic.store_mistake().map(|(field, problem)| (format!("cache.semantic.{field}"), problem)));
        if !(0.0..0.5).contains(&self.semantic.evidence_error) {
            let problem = format!("{}; use a share from 0 to under 0.5", self.semantic.evidence_error);
            mistakes.push(("cache.semantic.evidence_error".to_owned(), problem));
        }
        if !(0.5..=0.999).contains(&self.semantic.confidence) {
            let problem = format!("{}; use a share from 0.5 to 0.999", self.semantic.confidence);
            mistakes.push(("cache.semantic.confidence".to_owned(), problem));
        }
        for (name, rules) in &self.policies {
            if let Some(value) = rules.error_max.filter(|value| !(0.0..=1.0).contains(value)) {
                mistakes
                    .push((format!("cache.policies.{name}.error_max"), format!("{value}; use a share from 0 to 1")));
            }
            for (at, pattern) in rules.volatile.iter().enumerate() {
                if let Err(error) = Regex::new(pattern) {
                    mistakes.push((format!("cache.policies.{name}.volatile[{at}]"), format!("`{pattern}`: {error}")));
                }
            }
        }
        mistakes
    }
}

/// Takes what changes without mattering out of system prompts.
#[derive(Debug, Clone, Default)]
pub struct Fold(Vec<Regex>);

impl Fold {
    /// Reads patterns; what is no pattern was reported with the configuration.
    pub fn new(patterns: &[String]) -> Self {
        Self(patterns.iter().filter_map(|pattern| Regex::new(pattern).ok()).collect())
    }

    /// The text with every match replaced by the same mark.
    pub fn fold(&self, text: &str) -> String {
        let mut folded = text.to_owned();
        for pattern in &self.0 {
            folded = pattern.replace_all(&folded, "\u{fffc}").into_owned();
        }
        folded
    }
}

/// The `[cache.exact]` table.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExactConfig {
    pub enabled: bool,
    /// Life of a stored answer, from its making; reading does not prolong it.
    pub ttl_s: u64,
    /// Memory for answers; the least useful leave first.
    pub bytes_max: u64,
}

impl Default for ExactConfig {
    fn default() -> Self {
        Self { enabled: true, ttl_s: 3_600, bytes_max: 268_435_456 }
    }
}

/// The `[cache.semantic]` table.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SemanticConfig {
    pub enabled: bool,
    /// Above it a request is meant to vary and only the exact level answers; an omitted temperature is eligible.
    pub temperature_max: f64,
    /// Longer conversations are answered by the exact level only.
    pub turns_max: usize,
    /// Prompts that can be found by meaning, over all tenants.
    pub entries_max: usize,
    /// Wrong answers / requests that the level could answer, at the most, for each tenant and policy.
    pub error_max: f64,
    /// How often that is to hold, chance included.
    pub confidence: f64,
    /// What an omitted temperature means for the level.
    pub unset_temperature: UnsetTemperature,
    /// An answer serves other virtual keys of its tenant only after a second one got the same.
    pub confirm: bool,
    /// Audits of hits may cost this share of what hits save.
    pub audit_cost_share_max: f64,
    /// How often comparing two answers says the opposite of what is true, where somebody has counted it.
    pub evidence_error: f64,
    /// A question about the present may be answered by meaning where answers live no longer than this.
    pub present_ttl_s_max: u64,
    /// Where vectors are kept.
    pub store: StoreKind,
    /// Address of the Qdrant server's gRPC port.
    pub url: Option<String>,
    /// Variable that holds the key of the Qdrant server, where it wants one.
    pub api_key_env: Option<String>,
    /// A search that takes longer is a miss.
    pub store_budget_ms: u64,
}

/// A kind of vector store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// In the memory of the gateway, from the rows of the cache's file.
    #[default]
    Embedded,
    Qdrant,
}

/// What an omitted temperature means for the semantic level.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnsetTemperature {
    /// The caller does not care: the level may answer.
    #[default]
    Eligible,
    /// The caller wants the model's default, which varies.
    Exact,
}

impl Default for SemanticConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            temperature_max: 0.3,
            turns_max: 8,
            entries_max: 200_000,
            error_max: 0.01,
            confidence: 0.95,
            unset_temperature: UnsetTemperature::default(),
            confirm: true,
            audit_cost_share_max: 0.25,
            evidence_error: 0.0,
            present_ttl_s_max: 300,
            store: StoreKind::default(),
            url: None,
            api_key_env: None,
            store_budget_ms: 20,
        }
    }
}

/// Why a request is left to the exact level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ineligible {
    Disabled,
    /// Temperature above the limit, or several alternatives asked for.
    Sampled,
    /// A seed or log probabilities: the caller wants this very computation.
    Reproducible,
    Tools,
    Media,
    TooManyTurns,
    /// The last message is not the user's, or has no text.
    NoQuestion,
    /// More text than the embedder reads.
    TooLong,
    /// About the present, with answers that live longer.
    Present,
}

impl Ineligible {
    /// The name in traces and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Sampled => "sampled",
            Self::Reproducible => "reproducible",
            Self::Tools => "tools",
            Self::Media => "media",
            Self::TooManyTurns => "too_many_turns",
            Self::NoQuestion => "no_question",
            Self::TooLong => "too_long",
            Self::Present => "present",
        }
    }
}

/// 256 tokens of any script are shorter.
const QUESTION_BYTES_MAX: usize = 8_192;

impl SemanticConfig {
    fn store_mistake(&self) -> Option<(&'static str, String)> {
        let is_address = |url: &str| url.starts_with("http://") || url.starts_with("https://");
        match (self.store, &self.url) {
            (StoreKind::Embedded, Some(_)) => Some(("url", "is for store = \"qdrant\"".to_owned())),
            (StoreKind::Embedded, None) if self.api_key_env.is_some() => {
                Some(("api_key_env", "is for store = \"qdrant\"".to_owned()))
            }
            (StoreKind::Qdrant, None) => {
                Some(("url", "is missing; the gRPC port, as http://127.0.0.1:6334".to_owned()))
            }
            (StoreKind::Qdrant, Some(url)) if !is_address(url) => {
                Some(("url", format!("`{url}` is no address; write http://… or https://…")))
            }
            (StoreKind::Qdrant, _) if self.store_budget_ms == 0 => {
                Some(("store_budget_ms", "0 would make every search a miss".to_owned()))
            }
            _ => None,
        }
    }

    /// Decides whether the semantic level may answer a request whose answer would live so long.
    ///
    /// # Errors
    /// With the first reason why not.
    pub fn eligible(&self, request: &ChatRequest, ttl_s: u64) -> Result<(), Ineligible> {
        let has_tools = |message: &Message| message.tool_calls.is_some() || message.role == Role::Tool;
        let question = request.last_user_text();
        let is_sampled = match request.temperature {
            Some(temperature) => temperature > self.temperature_max,
            None => self.unset_temperature == UnsetTemperature::Exact,
        };
        let is_present = |text: &str| ttl_s > self.present_ttl_s_max && asks_about_the_present(text);
        let reasons = [
            (Ineligible::Disabled, !self.enabled),
            (Ineligible::Sampled, request.n > 1 || is_sampled),
            (Ineligible::Reproducible, request.has_seed || request.wants_logprobs),
            (Ineligible::Tools, !request.tools.is_empty() || request.messages.iter().any(has_tools)),
            (Ineligible::Media, request.messages.iter().any(Message::has_media)),
            (Ineligible::TooManyTurns, request.messages.len() > self.turns_max),
            (Ineligible::TooLong, question.as_ref().is_some_and(|text| text.len() > QUESTION_BYTES_MAX)),
            (Ineligible::Present, question.as_ref().is_some_and(|text| is_present(text))),
            (Ineligible::NoQuestion, question.is_none_or(|text| !text.chars().any(char::is_alphanumeric))),
        ];
        match reasons.into_iter().find(|(_, applies)| *applies) {
            Some((reason, _)) => Err(reason),
            None => Ok(()),
        }
    }
}

/// True of questions whose right answer is another one soon: an answer that was right an hour ago is not what is asked.
fn asks_about_the_present(text: &str) -> bool {
    const ALONE: [&str; 5] = ["currently", "latest", "nowadays", "tonight", "forecast"];
    const TOGETHER: [[&str; 2]; 12] = [
        ["right", "now"],
        ["what", "time"],
        ["what", "day"],
        ["what", "date"],
        ["the", "weather"],
        ["stock", "price"],
        ["exchange", "rate"],
        ["the", "news"],
        ["today's", "date"],
        ["this", "week"],
        ["this", "month"],
        ["as", "of"],
    ];
    let lower = text.to_lowercase();
    let words: Vec<&str> =
        lower.split(|c: char| !c.is_alphanumeric() && c != '\'').filter(|word| !word.is_empty()).collect();
    words.iter().any(|word| ALONE.contains(word)) || words.windows(2).any(|two| TOGETHER.iter().any(|pair| two == pair))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[track_caller]
    fn check(extra: &str, expected: Result<(), Ineligible>) {
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hello"}}]{extra}}}"#);
        let request = ChatRequest::parse(&Bytes::copy_from_slice(body.as_bytes())).expect("valid");
        assert_eq!(SemanticConfig::default().eligible(&request, 3_600), expected, "{extra}");
    }

    #[test]
    fn only_plain_repeatable_questions_are_eligible() {
        check("", Ok(()));
        check(r#","temperature":0"#, Ok(()));
        check(r#","temperature":0.3"#, Ok(()));
        check(r#","temperature":0.31"#, Err(Ineligible::Sampled));
        check(r#","n":2"#, Err(Ineligible::Sampled));
        check(r#","seed":0"#, Err(Ineligible::Reproducible));
        check(r#","logprobs":true"#, Err(Ineligible::Reproducible));
        check(r#","tools":[{"type":"function","function":{"name":"f"}}]"#, Err(Ineligible::Tools));
    }

    #[test]
    fn shares_that_cannot_be_meant_are_named() {
        let good = SemanticConfig::default;
        for (semantic, field) in [
            (SemanticConfig { error_max: 1.5, ..good() }, "error_max"),
            (SemanticConfig { confidence: 1.0, ..good() }, "confidence"),
            (SemanticConfig { evidence_error: 0.5, ..good() }, "evidence_error"),
        ] {
            let mistakes = CacheConfig { semantic, ..CacheConfig::default() }.mistakes();
            let fields: Vec<&str> = mistakes.iter().map(|(field, _)| field.as_str()).collect();
            assert_eq!(fields, [format!("cache.semantic.{field}")]);
        }
    }

    #[test]
    fn media_long_talks_and_foreign_last_turns_are_not() {
        let parse = |messages: String| {
            ChatRequest::parse(&Bytes::from(format!(r#"{{"model":"m","messages":[{messages}]}}"#))).expect("valid")
        };
        let check = |messages: String, expected| {
            assert_eq!(
                SemanticConfig::default().eligible(&parse(messages.clone()), 3_600),
                Err(expected),
                "{messages}"
            );
        };
        check(r#"{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}"#.into(), Ineligible::Media);
        check([r#"{"role":"user","content":"x"}"#; 9].join(","), Ineligible::TooManyTurns);
        check(r#"{"role":"user","content":"x"},{"role":"assistant","content":"y"}"#.into(), Ineligible::NoQuestion);
        check(r#"{"role":"user","content":"  "}"#.into(), Ineligible::NoQuestion);
        check(r#"{"role":"user","content":"x"},{"role":"tool","content":"1","tool_call_id":"a"},{"role":"user","content":"x"}"#.into(), Ineligible::Tools);
    }
}
