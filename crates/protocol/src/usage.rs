//! Token usage in disjoint classes, so that no token can be billed twice.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Counts the tokens of one answer; every token is in exactly one class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Input tokens that were neither read from nor written to the provider's prompt cache.
    pub input_tokens: u64,
    /// Input tokens read from the provider's prompt cache.
    pub cache_read_tokens: u64,
    /// Input tokens written to the provider's prompt cache for its usual time.
    #[serde(default)]
    pub cache_write_tokens: u64,
    /// Input tokens written to it for an hour, where that has its own price.
    #[serde(default)]
    pub cache_write_1h_tokens: u64,
    /// Visible output tokens.
    pub output_tokens: u64,
    /// Hidden reasoning tokens, billed as output.
    pub reasoning_tokens: u64,
    /// True where a cut stream made us estimate instead of reading the provider's figures.
    #[serde(default)]
    pub estimated: bool,
}

/// No answer has more tokens of a class; larger counts are a provider's mistake and would overflow sums of money.
const TOKENS_MAX: u64 = 1_000_000_000;

impl Usage {
    /// Reads OpenAI's `usage` object, whose `prompt_tokens` include cached and whose `completion_tokens` include
    /// reasoning tokens (platform.openai.com/docs/api-reference/chat/object); `cache_write_tokens` is OpenRouter's,
    /// `cache_write_1h_tokens`, which are some of those, ours. `None` when a count is missing.
    pub fn from_openai(value: &Value) -> Option<Self> {
        let count = |path: &str| value.pointer(path).and_then(Value::as_u64).map(|count| count.min(TOKENS_MAX));
        let prompt = count("/prompt_tokens")?;
        let completion = count("/completion_tokens")?;
        let cached = count("/prompt_tokens_details/cached_tokens").unwrap_or(0).min(prompt);
        let written = count("/prompt_tokens_details/cache_write_tokens").unwrap_or(0).min(prompt - cached);
        let for_an_hour = count("/prompt_tokens_details/cache_write_1h_tokens").unwrap_or(0).min(written);
        let reasoning = count("/completion_tokens_details/reasoning_tokens").unwrap_or(0).min(completion);
        Some(Self {
            input_tokens: prompt - cached - written,
            cache_read_tokens: cached,
            cache_write_tokens: written - for_an_hour,
            cache_write_1h_tokens: for_an_hour,
            output_tokens: completion - reasoning,
            reasoning_tokens: reasoning,
            estimated: false,
        })
    }

    /// The usage of an answer whose provider did not state it, at about 4 bytes of the prompt, and 4
    /// characters of the answer, a token.
    pub fn estimate(prompt_bytes: usize, text_chars: usize) -> Self {
        Self {
            input_tokens: prompt_bytes.div_ceil(4) as u64,
            output_tokens: text_chars.div_ceil(4) as u64,
            estimated: true,
            ..Self::default()
        }
    }

    /// Writes OpenAI's `usage` object; the inverse of [`Usage::from_openai`].
    pub fn to_openai(self) -> Map<String, Value> {
        let prompt = self.prompt_tokens();
        let completion = self.completion_tokens();
        let object = json!({
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {
                "cached_tokens": self.cache_read_tokens,
                "cache_write_tokens": self.cache_write_tokens + self.cache_write_1h_tokens,
                "cache_write_1h_tokens": self.cache_write_1h_tokens,
            },
            "completion_tokens_details": { "reasoning_tokens": self.reasoning_tokens },
        });
        match object {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }

    /// All input tokens.
    pub fn prompt_tokens(self) -> u64 {
        self.input_tokens + self.cache_read_tokens + self.cache_write_tokens + self.cache_write_1h_tokens
    }

    /// All output tokens, reasoning included.
    pub fn completion_tokens(self) -> u64 {
        self.output_tokens + self.reasoning_tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn openai_usage_survives_both_directions(counts in proptest::array::uniform6(0u64..1_000_000)) {
            let [input_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens] = counts;
            let usage = Usage { input_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens, estimated: false };
            let wire = Value::Object(usage.to_openai());
            prop_assert_eq!(Usage::from_openai(&wire), Some(usage));
            prop_assert_eq!(wire["total_tokens"].as_u64(), Some(counts.iter().sum()));
        }
    }

    #[test]
    fn more_cached_than_prompt_tokens_cannot_underflow() {
        let wire = json!({"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 9}});
        assert_eq!(Usage::from_openai(&wire).map(Usage::prompt_tokens), Some(5));
    }
}
