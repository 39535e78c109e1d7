//! Do two answers say the same? Without a judge: what is certain either way, and else nothing.

use crate::text::{Reading, Words};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};

/// What a comparison of two answers found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agreement {
    Same,
    Different,
    /// Neither is certain.
    Unknown,
}

/// Share of the words' weight that answers have in common, from which on they say the same if nothing contradicts, and
/// under which they do not.
const SAME_WORDS: f32 = 0.75;
const OTHER_WORDS: f32 = 0.15;
/// The same for the cosine of their vectors, with some words in common.
const SAME_MEANING: f32 = 0.93;
const SOME_WORDS: f32 = 0.35;
const OTHER_MEANING: f32 = 0.60;

/// Compares a fresh answer with a stored one; `cosine` is that of their vectors, where both were short enough for one.
pub fn agreement(fresh: &str, stored: &str, words: &Words, cosine: Option<f32>) -> Agreement {
    if normal(fresh) == normal(stored) {
        return Agreement::Same;
    }
    if let (Ok(fresh), Ok(stored)) = (serde_json::from_str::<Value>(fresh), serde_json::from_str::<Value>(stored)) {
        return if fresh == stored { Agreement::Same } else { Agreement::Different };
    }
    let (a, b) = (Reading::of(fresh, words), Reading::of(stored, words));
    if polarity(&a) != polarity(&b) || numbers(&a) != numbers(&b) || a.script != b.script {
        return Agreement::Different;
    }
    let shared = shared_weight(&a, &b);
    match cosine {
        _ if shared >= SAME_WORDS => Agreement::Same,
        Some(cosine) if cosine >= SAME_MEANING && shared >= SOME_WORDS => Agreement::Same,
        Some(cosine) if cosine < OTHER_MEANING => Agreement::Different,
        _ if shared < OTHER_WORDS => Agreement::Different,
        _ => Agreement::Unknown,
    }
}

/// Without case, punctuation and spacing.
fn normal(text: &str) -> String {
    let kept = text.chars().map(|c| if c.is_alphanumeric() { c } else { ' ' }).flat_map(char::to_lowercase);
    kept.collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether an answer begins with yes or no.
fn polarity(answer: &Reading) -> Option<bool> {
    match answer.words.first()?.text.as_str() {
        "yes" | "yeah" | "correct" | "true" => Some(true),
        "no" | "nope" | "incorrect" | "false" => Some(false),
        _ => None,
    }
}

fn numbers(answer: &Reading) -> BTreeSet<&str> {
    answer.numbers.iter().map(String::as_str).collect()
}

/// Jaccard's index of the stems by weight.
fn shared_weight(a: &Reading, b: &Reading) -> f32 {
    let weighed = |answer: &Reading| -> HashMap<String, f32> {
        answer.words.iter().map(|word| (word.stem.clone(), word.weight)).collect()
    };
    let (a, b) = (weighed(a), weighed(b));
    let both: f32 = a.iter().filter(|(stem, _)| b.contains_key(*stem)).map(|(_, weight)| weight).sum();
    let all = a.values().sum::<f32>() + b.values().sum::<f32>() - both;
    if all > 0.0 { both / all } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(fresh: &str, stored: &str, expected: Agreement) {
        assert_eq!(agreement(fresh, stored, &Words::default(), None), expected, "{fresh} | {stored}");
    }

    #[test]
    fn certain_agreement_and_contradiction_are_told_from_doubt() {
        check("Open *Settings*, then Reset.", "open settings then reset", Agreement::Same);
        check(r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#, Agreement::Same);
        check(r#"{"a":1}"#, r#"{"a":2}"#, Agreement::Different);
        check("Yes, you can cancel it.", "No, you can not cancel it.", Agreement::Different);
        check("It takes 3 days.", "It takes 5 days.", Agreement::Different);
        check("Berlin is the capital of Germany", "Whales are mammals", Agreement::Different);
        check(
            "Reset the password in the settings page",
            "Use the settings page for passwords, please",
            Agreement::Unknown,
        );
    }
}
