//! How much a request asks the model to think, and what that is in tokens.

use serde_json::Value;

/// What a request says about thinking.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Thinking {
    Unsaid,
    Off,
    Tokens(u64),
    /// `minimal`, `low`, `medium`, `high`, `xhigh` or newer.
    Effort(String),
}

/// Fewer tokens no provider accepts as a budget (platform.claude.com/docs/en/build-with-claude/extended-thinking).
const TOKENS_MIN: u64 = 1_024;

impl Thinking {
    /// Reads OpenRouter's `reasoning` object and OpenAI's `reasoning_effort`.
    pub(crate) fn of(reasoning: Option<&Value>, effort: Option<&Value>) -> Self {
        let reasoning = reasoning.unwrap_or(&Value::Null);
        let effort = reasoning["effort"].as_str().or_else(|| effort.and_then(Value::as_str));
        match (reasoning["enabled"].as_bool(), reasoning["max_tokens"].as_u64(), effort) {
            (Some(false), ..) | (_, Some(0), _) | (_, None, Some("none")) => Self::Off,
            (_, Some(tokens), _) => Self::Tokens(tokens),
            (_, None, Some(effort)) => Self::Effort(effort.to_owned()),
            (Some(true), None, None) => Self::Effort("medium".to_owned()),
            (None, None, None) => Self::Unsaid,
        }
    }

    /// The budget under an output cap, by OpenRouter's shares of it
    /// (openrouter.ai/docs/use-cases/reasoning-tokens); `None` where no thinking is asked for.
    pub(crate) fn budget(&self, cap: u64) -> Option<u64> {
        match self {
            Self::Unsaid | Self::Off => None,
            Self::Tokens(tokens) => Some(*tokens),
            Self::Effort(effort) => Some(cap.saturating_mul(percent(effort)) / 100),
        }
    }

    /// The same where the provider asks for a least budget below the cap; `None` also where there is no room for it.
    pub(crate) fn bounded_budget(&self, cap: u64) -> Option<u64> {
        self.budget(cap).filter(|_| cap > TOKENS_MIN).map(|tokens| tokens.clamp(TOKENS_MIN, cap - 1))
    }

    /// The effort in words; a budget is named by its share of the cap.
    pub(crate) fn effort(&self, cap: u64) -> Option<&str> {
        match self {
            Self::Unsaid => None,
            Self::Off => Some("none"),
            Self::Effort(effort) => Some(effort),
            Self::Tokens(tokens) if tokens.saturating_mul(100) >= cap.saturating_mul(80) => Some("high"),
            Self::Tokens(tokens) if tokens.saturating_mul(100) >= cap.saturating_mul(40) => Some("medium"),
            Self::Tokens(_) => Some("low"),
        }
    }
}

/// Efforts by rising strength.
const EFFORTS: [&str; 7] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];

impl Thinking {
    /// The effort in a word that the endpoint knows, the nearest one where the list is not empty; `None` where none is to
    /// be sent: the endpoint's own choice comes nearest to `none` where that is unknown to it.
    pub(crate) fn known_effort(&self, cap: u64, known: &[String]) -> Option<String> {
        let wanted = self.effort(cap)?;
        let place = |word: &str| EFFORTS.iter().position(|effort| *effort == word);
        if known.is_empty() || known.iter().any(|effort| effort == wanted) {
            return Some(wanted.to_owned());
        }
        if wanted == "none" {
            return None;
        }
        let wanted = place(wanted)?;
        let near = |effort: &&String| place(effort).map_or(usize::MAX, |at| at.abs_diff(wanted));
        known.iter().filter(|effort| *effort != "none").min_by_key(near).cloned()
    }
}

fn percent(effort: &str) -> u64 {
    match effort {
        "minimal" => 10,
        "low" => 20,
        "high" => 80,
        "xhigh" | "max" => 95,
        _ => 50,
    }
}
