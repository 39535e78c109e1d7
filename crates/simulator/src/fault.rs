//! The ways in which the simulator can fail, and the rules that say when.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// 429 with `Retry-After: 7`, or the rule's `delay_ms` in seconds.
    #[serde(rename = "429")]
    RateLimited,
    /// 429 without a hint.
    #[serde(rename = "429-bare")]
    RateLimitedBare,
    /// 429 above the rule's `per_second`.
    Limited,
    #[serde(rename = "400")]
    Refused,
    #[serde(rename = "401")]
    Credential,
    /// 404: the model is withdrawn.
    #[serde(rename = "404")]
    Withdrawn,
    #[serde(rename = "500")]
    Broken,
    /// 503 with `Retry-After: 1`.
    #[serde(rename = "503")]
    Unavailable,
    /// 529, as Anthropic says that it is overloaded.
    #[serde(rename = "529")]
    Overloaded,
    /// 502 with a page for people.
    #[serde(rename = "html-502")]
    Html,
    /// 307 to another origin.
    Redirect,
    /// 200 without a body.
    #[serde(rename = "empty-200")]
    Empty,
    /// Accepts and never answers.
    Hang,
    /// The first token comes after the rule's `delay_ms`, else a second.
    Slow,
    /// Says something, then nothing for `delay_ms`, else for ever.
    Stall,
    /// Closes the connection before any content.
    CutBefore,
    /// Closes the connection after some content.
    CutAfter,
    /// Promises a whole body in Content-Length and sends half of it.
    CutBody,
    /// Resets the connection after some content.
    Reset,
    /// One event, or the body, is not JSON.
    BadJson,
    /// The stream ends without finish reason and without `[DONE]`; a body ends in the middle.
    NoTerminal,
    /// Bytes come in pieces that split UTF-8 characters and lines.
    Trickle,
    /// Lines end in CR LF.
    Crlf,
    /// Comments between the events.
    Comments,
    /// A whole answer, packed although nobody asked for that.
    Gzip,
    /// An error inside the stream, or in a 200 body, that quotes the credential it was sent.
    ErrorEvent,
    /// The answer stops at its length.
    Length,
    /// The answer stops at a content filter.
    Filter,
    /// No content and no finish reason: an answer of nothing.
    NullContent,
    /// 200,000 tokens.
    Huge,
    /// 128 KiB of response headers.
    BigHeaders,
    /// 200 KB of gzip that unpack to 200 MiB.
    GzipBomb,
    /// A 32 MiB event, or body, without an end.
    BigEvent,
    /// 1,000,000 events that say nothing.
    ManyEvents,
    /// Says that it used 100 times the output it gave: dearer than anyone reserved.
    Overruns,
}

/// All faults with their names, for `GET /control/faults` and the models `sim/fault-NAME`.
pub const FAULTS: [Fault; 35] = [
    Fault::RateLimited,
    Fault::RateLimitedBare,
    Fault::Limited,
    Fault::Refused,
    Fault::Credential,
    Fault::Withdrawn,
    Fault::Broken,
    Fault::Unavailable,
    Fault::Overloaded,
    Fault::Html,
    Fault::Redirect,
    Fault::Empty,
    Fault::Hang,
    Fault::Slow,
    Fault::Stall,
    Fault::CutBefore,
    Fault::CutAfter,
    Fault::CutBody,
    Fault::Reset,
    Fault::BadJson,
    Fault::NoTerminal,
    Fault::Trickle,
    Fault::Crlf,
    Fault::Comments,
    Fault::Gzip,
    Fault::ErrorEvent,
    Fault::Length,
    Fault::Filter,
    Fault::NullContent,
    Fault::Huge,
    Fault::BigHeaders,
    Fault::GzipBomb,
    Fault::BigEvent,
    Fault::ManyEvents,
    Fault::Overruns,
];

impl Fault {
    /// The name in rules, directives, logs and model names.
    pub fn name(self) -> String {
        match serde_json::to_value(self) {
            Ok(Value::String(name)) => name,
            _ => String::new(),
        }
    }
}

/// When a fault happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub fault: Fault,
    /// Share of the calls it happens to.
    #[serde(default = "always")]
    pub percent: u64,
    /// Only the first calls fail; then all is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    /// Of `slow`, `stall` and the hint of `429`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// Of `limited`: calls let through in any second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_second: Option<u64>,
}

fn always() -> u64 {
    100
}

impl Rule {
    /// A fault that always happens.
    pub fn always(fault: Fault) -> Self {
        Self { fault, percent: always(), first: None, delay_ms: None, per_second: None }
    }

    /// Reads the directive of a prompt: `[[fault=slow delay_ms=3000 percent=2]]`, anywhere in it.
    pub fn directive(prompt: &str) -> Option<Self> {
        let inside = prompt.split_once("[[fault=")?.1.split_once("]]")?.0;
        let mut words = inside.split_whitespace();
        let mut rule = serde_json::Map::new();
        rule.insert("fault".to_owned(), Value::from(words.next()?));
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            rule.insert(name.to_owned(), Value::from(value.parse::<u64>().ok()?));
        }
        serde_json::from_value(Value::Object(rule)).ok()
    }

    /// The fault of the `nth` call under this rule, counted from 0, where it has one: the same for the same number, so
    /// that a run can be repeated.
    pub fn fault_of(&self, nth: u64) -> Option<Fault> {
        if self.first.is_some_and(|first| nth >= first) {
            return None;
        }
        (splitmix(nth) % 100 < self.percent).then_some(self.fault)
    }
}

/// SplitMix64's finaliser (Steele, Lea, Flood 2014): spreads successive numbers evenly.
fn splitmix(n: u64) -> u64 {
    let z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_directives_and_shares() {
        for fault in FAULTS {
            let rule = Rule::directive(&format!("please [[fault={}]] now", fault.name()));
            assert_eq!(rule, Some(Rule::always(fault)), "{fault:?}");
        }
        let rule = Rule::directive("[[fault=slow delay_ms=3000 percent=2]]").expect("a rule");
        assert_eq!((rule.delay_ms, rule.percent), (Some(3000), 2));
        assert_eq!(Rule::directive("[[fault=none-such]]"), None);
        let hit = (0..10_000).filter(|nth| rule.fault_of(*nth).is_some()).count();
        assert!((150..250).contains(&hit), "{hit} of 10,000 at 2 %");
        let first = Rule { first: Some(3), ..Rule::always(Fault::Broken) };
        assert_eq!((0..9).filter(|nth| first.fault_of(*nth).is_some()).count(), 3);
    }
}
