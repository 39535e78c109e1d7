//! The `[cache]` tables, and which requests the semantic level may answer.

use protocol::{ChatRequest, Message, Role};
use serde::Deserialize;

/// The `[cache]` table.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheConfig {
    #[serde(default)]
    pub exact: ExactConfig,
    #[serde(default)]
    pub semantic: SemanticConfig,
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
    /// Answers that can be found by meaning, over all tenants; the oldest leave first.
    pub entries_max: usize,
}

impl Default for SemanticConfig {
    fn default() -> Self {
        Self { enabled: true, temperature_max: 0.3, turns_max: 8, entries_max: 200_000 }
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
        }
    }
}

/// 256 tokens of any script are shorter.
const QUESTION_BYTES_MAX: usize = 8_192;

impl SemanticConfig {
    /// Decides whether the semantic level may answer a request.
    ///
    /// # Errors
    /// With the first reason why not.
    pub fn eligible(&self, request: &ChatRequest) -> Result<(), Ineligible> {
        let has_tools = |message: &Message| message.tool_calls.is_some() || message.role == Role::Tool;
        let question = request.last_user_text();
        let reasons = [
            (Ineligible::Disabled, !self.enabled),
            (Ineligible::Sampled, request.n > 1 || request.temperature.is_some_and(|t| t > self.temperature_max)),
            (Ineligible::Reproducible, request.has_seed || request.wants_logprobs),
            (Ineligible::Tools, !request.tools.is_empty() || request.messages.iter().any(has_tools)),
            (Ineligible::Media, request.messages.iter().any(Message::has_media)),
            (Ineligible::TooManyTurns, request.messages.len() > self.turns_max),
            (Ineligible::TooLong, question.as_ref().is_some_and(|text| text.len() > QUESTION_BYTES_MAX)),
            (Ineligible::NoQuestion, question.is_none_or(|text| text.trim().is_empty())),
        ];
        match reasons.into_iter().find(|(_, applies)| *applies) {
            Some((reason, _)) => Err(reason),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[track_caller]
    fn check(extra: &str, expected: Result<(), Ineligible>) {
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hello"}}]{extra}}}"#);
        let request = ChatRequest::parse(&Bytes::copy_from_slice(body.as_bytes())).expect("valid");
        assert_eq!(SemanticConfig::default().eligible(&request), expected, "{extra}");
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
    fn media_long_talks_and_foreign_last_turns_are_not() {
        let parse = |messages: String| {
            ChatRequest::parse(&Bytes::from(format!(r#"{{"model":"m","messages":[{messages}]}}"#))).expect("valid")
        };
        let check = |messages: String, expected| {
            assert_eq!(SemanticConfig::default().eligible(&parse(messages.clone())), Err(expected), "{messages}");
        };
        check(r#"{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}"#.into(), Ineligible::Media);
        check([r#"{"role":"user","content":"x"}"#; 9].join(","), Ineligible::TooManyTurns);
        check(r#"{"role":"user","content":"x"},{"role":"assistant","content":"y"}"#.into(), Ineligible::NoQuestion);
        check(r#"{"role":"user","content":"  "}"#.into(), Ineligible::NoQuestion);
        check(r#"{"role":"user","content":"x"},{"role":"tool","content":"1","tool_call_id":"a"},{"role":"user","content":"x"}"#.into(), Ineligible::Tools);
    }
}
