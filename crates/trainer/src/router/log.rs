//! A log of generations, as `sluice content export` writes it, and what scores say of their answers.

use super::outcomes::{Outcome, OutcomeRow, Split};
use crate::data::{DataError, read_rows};
use protocol::digest_of;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Prompt and answer of one generation, one JSON object a line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LoggedAnswer {
    pub id: String,
    pub tenant: String,
    pub created_ms: i64,
    pub policy: String,
    /// The model that answered, by its canonical name.
    pub model: String,
    /// The text of the last user turn.
    pub question: String,
    pub messages: Box<RawValue>,
    pub answer: String,
    pub output_tokens: u64,
    pub cost_usd: f64,
    /// The generation whose question was asked again in the shadow, where it was.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// 0 to 1, by who said so: `client`, `judge`, `agreement`.
    #[serde(default)]
    pub scores: BTreeMap<String, f64>,
}

/// One line of a file of labels: a score for a generation of the log, before all that the log has itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct LabelledAnswer {
    generation_id: String,
    #[serde(deserialize_with = "score")]
    score: f64,
}

fn score<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let score = f64::deserialize(deserializer)?;
    let problem = || serde::de::Error::custom(format!("score {score}; use a number from 0 to 1"));
    (0.0..=1.0).contains(&score).then_some(score).ok_or_else(problem)
}

/// Whose word counts, first to last.
const RATERS: [&str; 3] = ["client", "judge", "agreement"];

/// Reads a log, plain or gzipped, and a file of labels where there is one, as outcomes by prompt: answers to the same
/// messages are one row. Answers that nobody scored, and those to no question, are left out; of a model's several answers
/// the mean counts.
///
/// # Errors
/// When a file cannot be read, is malformed, or a score is not from 0 to 1.
pub fn read_log(log: &Path, labels: Option<&Path>) -> Result<Vec<OutcomeRow>, DataError> {
    let answers: Vec<LoggedAnswer> = read_rows(log)?;
    let labels: Vec<LabelledAnswer> = labels.map(read_rows).transpose()?.unwrap_or_default();
    Ok(outcomes_of(answers, &labels))
}

fn outcomes_of(answers: Vec<LoggedAnswer>, labels: &[LabelledAnswer]) -> Vec<OutcomeRow> {
    let given: HashMap<&str, f64> = labels.iter().map(|label| (label.generation_id.as_str(), label.score)).collect();
    let mut rows: BTreeMap<String, (OutcomeRow, BTreeMap<String, usize>)> = BTreeMap::new();
    for answer in answers.into_iter().filter(|answer| !answer.question.trim().is_empty()) {
        let stored = || RATERS.iter().find_map(|rater| answer.scores.get(*rater)).copied();
        let Some(score) = given.get(answer.id.as_str()).copied().or_else(stored) else { continue };
        let key = format!("{}/{}", answer.tenant, digest_of(answer.messages.get().as_bytes()));
        let (row, counts) = rows.entry(key).or_insert_with(|| (row_of(&answer), BTreeMap::new()));
        let count = counts.entry(answer.model.clone()).or_insert(0);
        *count += 1;
        let share = 1.0 / *count as f64;
        let fresh = (score, answer.output_tokens as f64, answer.cost_usd);
        let Outcome(mean, tokens, cost) =
            row.outcomes.entry(answer.model).or_insert(Outcome(fresh.0, Some(fresh.1), Some(fresh.2)));
        *mean += share * (fresh.0 - *mean);
        for (mean, fresh) in [(tokens, fresh.1), (cost, fresh.2)] {
            *mean = mean.map(|mean| mean + share * (fresh - mean));
        }
    }
    rows.into_values().map(|(row, _)| row).collect()
}

/// Prompts with one question are variants of each other, whatever was said before.
fn row_of(answer: &LoggedAnswer) -> OutcomeRow {
    OutcomeRow {
        source: answer.tenant.clone(),
        category: answer.policy.clone(),
        split: Split::Train,
        group: digest_of(answer.question.as_bytes()).to_string(),
        prompt: answer.question.clone(),
        outcomes: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(id: &str, model: &str, question: &str, scores: &[(&str, f64)]) -> LoggedAnswer {
        let messages = serde_json::json!([{"role": "user", "content": question}]).to_string();
        LoggedAnswer {
            id: id.to_owned(),
            tenant: "acme".to_owned(),
            created_ms: 0,
            policy: "auto".to_owned(),
            model: model.to_owned(),
            question: question.to_owned(),
            messages: RawValue::from_string(messages).expect("JSON"),
            answer: "x".to_owned(),
            output_tokens: 10,
            cost_usd: 0.5,
            source: String::new(),
            scores: scores.iter().map(|(rater, score)| ((*rater).to_owned(), *score)).collect(),
        }
    }

    #[test]
    fn answers_to_the_same_messages_are_one_row_and_a_label_goes_before_the_log() {
        let log = vec![
            answer("g1", "acme/small", "why?", &[("client", 0.0), ("judge", 1.0)]),
            answer("g2", "acme/large", "why?", &[("judge", 0.8)]),
            answer("g3", "acme/small", "why?", &[("agreement", 1.0)]),
            answer("g4", "acme/small", "how?", &[]),
            answer("g5", "acme/small", "when?", &[("judge", 0.2)]),
            answer("g6", "acme/small", " ", &[("judge", 0.2)]),
        ];
        let labels = [LabelledAnswer { generation_id: "g5".to_owned(), score: 1.0 }];
        let rows = outcomes_of(log, &labels);
        let found: Vec<(&str, Vec<(&str, f64)>)> = rows
            .iter()
            .map(|row| {
                (row.prompt.as_str(), row.outcomes.iter().map(|(model, found)| (model.as_str(), found.0)).collect())
            })
            .collect();
        assert_eq!(found.len(), 2, "what nobody scored, and what asks nothing, is left out: {found:?}");
        assert!(found.contains(&("why?", vec![("acme/large", 0.8), ("acme/small", 0.5)])), "{found:?}");
        assert!(found.contains(&("when?", vec![("acme/small", 1.0)])), "{found:?}");
    }
}
