//! The canonical whole answer.

use crate::event::chars;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A complete answer; fields that Sluice does not interpret travel in `extra`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    #[serde(default)]
    pub id: String,
    #[serde(default = "object")]
    pub object: String,
    #[serde(default)]
    pub created: u64,
    #[serde(default)]
    pub model: String,
    pub choices: Vec<Choice>,
    /// The provider's own `usage` object, unknown counters included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Value>,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

fn object() -> String {
    "chat.completion".to_owned()
}

/// One alternative of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    #[serde(default)]
    pub index: u32,
    pub message: AssistantMessage,
    #[serde(default)]
    pub finish_reason: Option<String>,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What the model said or wants called.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AssistantMessage {
    #[serde(default = "assistant")]
    pub role: String,
    #[serde(default)]
    pub content: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<Value>,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

fn assistant() -> String {
    "assistant".to_owned()
}

impl Default for AssistantMessage {
    fn default() -> Self {
        Self { role: assistant(), content: None, refusal: None, tool_calls: Vec::new(), extra: Map::new() }
    }
}

impl Reply {
    /// Characters of everything that was made: texts, refusals, reasoning, arguments of tool calls.
    pub fn text_chars(&self) -> usize {
        let made = |choice: &Choice| {
            let message = &choice.message;
            let texts = [message.content.as_deref(), message.refusal.as_deref()];
            chars(texts.into_iter().flatten(), message.tool_calls.iter(), &message.extra)
        };
        self.choices.iter().map(made).sum()
    }

    /// The text of the first choice; empty where it has none.
    pub fn first_text(&self) -> &str {
        self.choices.first().and_then(|choice| choice.message.content.as_deref()).unwrap_or_default()
    }

    /// True where no choice says anything and none says why it ended: an answer of nothing.
    pub fn is_empty(&self) -> bool {
        self.choices.iter().all(|choice| {
            let message = &choice.message;
            choice.finish_reason.is_none()
                && message.content.as_deref().unwrap_or("").is_empty()
                && message.refusal.is_none()
                && message.tool_calls.is_empty()
                && message.extra.values().all(Value::is_null)
        })
    }

    /// True where the answer may be stored and given again: one choice, stopped by itself, with text, neither refused
    /// nor asking for a tool.
    pub fn is_complete_text(&self) -> bool {
        let [choice] = self.choices.as_slice() else { return false };
        choice.finish_reason.as_deref() == Some("stop")
            && choice.message.tool_calls.is_empty()
            && choice.message.refusal.is_none()
            && choice.message.content.as_deref().is_some_and(|text| !text.trim().is_empty())
    }
}
