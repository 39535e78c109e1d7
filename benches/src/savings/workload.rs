//! The day's requests, and what each model is recorded to make of them.

use catalog::Listing;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use simulator::{KnownAnswer, Row};
use std::collections::HashMap;
use std::path::Path;
use trainer::router::{Outcome, OutcomeRow, read_outcomes};

/// Where the prompts are from.
const SOURCES: [&str; 3] = ["zeroeval_gsm", "zeroeval_crux", "zeroeval_math_l5"];
/// Share of the requests that ask again what was asked before: half word for word, half in other words of courtesy.
pub(crate) const ASKED_AGAIN: f64 = 0.2;
/// Share of the questions whose recorded answer by [`MIDDLE`] is right.
pub(crate) const SIMPLE: f64 = 0.8;

/// A model: its name in the records, its canonical one, and where its price is from.
pub(crate) struct Priced {
    pub recorded: &'static str,
    pub id: &'static str,
    provider: &'static str,
    name: &'static str,
}

pub(crate) const MODELS: [Priced; 3] = [
    Priced {
        recorded: "gpt-4o-2024-08-06",
        id: "openai/gpt-4o-2024-08-06",
        provider: "openai",
        name: "gpt-4o-2024-08-06",
    },
    Priced { recorded: "gpt-4o-mini-2024-07-18", id: "openai/gpt-4o-mini", provider: "openai", name: "gpt-4o-mini" },
    Priced {
        recorded: "llama-3.1-8b-instruct",
        id: "meta-llama/llama-3.1-8b-instruct",
        provider: "groq",
        name: "llama-3.1-8b-instant",
    },
];
pub(crate) const STRONG: &str = MODELS[0].id;
pub(crate) const MIDDLE: &str = MODELS[1].id;
pub(crate) const SMALL: &str = MODELS[2].id;

impl Priced {
    /// Its table in a configuration, at the shipped list's price.
    pub(crate) fn table(&self, listing: &Listing) -> String {
        let is_it = |row: &&catalog::EndpointRow| row.provider == self.provider && row.name == self.name;
        let row = listing.endpoints.iter().find(is_it).unwrap_or_else(|| panic!("{} has no price", self.id));
        let (input, output) = (row.rates.input, row.rates.output);
        format!(
            "[[models]]\nid = \"{0}\"\n[[models.endpoints]]\nprovider = \"simulated\"\nname = \"{0}\"\n\
             input_usd_per_mtok = {input:?}\noutput_usd_per_mtok = {output:?}\ncontext_tokens = 128000\n\
             output_tokens_max = 16384\n",
            self.id
        )
    }

    pub(crate) fn price(&self, listing: &Listing) -> String {
        let is_it = |row: &&catalog::EndpointRow| row.provider == self.provider && row.name == self.name;
        let row = listing.endpoints.iter().find(is_it).unwrap_or_else(|| panic!("{} has no price", self.id));
        format!("{} {}/{} ({})", self.id, row.rates.input, row.rates.output, self.provider)
    }
}

/// One question, in one half of the data: the labels of the other half are known.
pub(crate) struct Question {
    pub class: u64,
    pub half: usize,
    pub row: OutcomeRow,
}

/// One request of the day.
pub(crate) struct Request {
    /// The place of its question.
    pub question: usize,
    pub prompt: String,
}

/// Four of five questions are simple; groups of variants stay in one half.
pub(crate) fn questions(data: &Path, seed: u64) -> Vec<Question> {
    let rows = read_outcomes(data, &SOURCES).unwrap_or_else(|error| panic!("{error}"));
    let mut rows: Vec<OutcomeRow> =
        rows.into_iter().filter(|row| MODELS.iter().all(|model| row.outcomes.contains_key(model.recorded))).collect();
    let mut random = StdRng::seed_from_u64(seed);
    rows.shuffle(&mut random);
    let (simple, hard): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.outcomes[MODELS[1].recorded].0 >= 0.5);
    let hard_count = (simple.len() as f64 * (1.0 - SIMPLE) / SIMPLE).round() as usize;
    assert!(hard.len() >= hard_count, "{} hard questions for {} simple ones", hard.len(), simple.len());
    let mut half_of: HashMap<String, usize> = HashMap::new();
    let mut chosen: Vec<OutcomeRow> = simple.into_iter().chain(hard.into_iter().take(hard_count)).collect();
    chosen.shuffle(&mut random);
    let name = |row: OutcomeRow| OutcomeRow {
        outcomes: MODELS.iter().map(|model| (model.id.to_owned(), row.outcomes[model.recorded])).collect(),
        ..row
    };
    let place = |(class, row): (usize, OutcomeRow)| {
        let next = half_of.len() % 2;
        let half = *half_of.entry(row.group.clone()).or_insert(next);
        Question { class: class as u64, half, row: name(row) }
    };
    chosen.into_iter().enumerate().map(place).collect()
}

/// The requests of one half, in order.
pub(crate) fn requests(questions: &[Question], half: usize, seed: u64) -> Vec<Request> {
    let mut random = StdRng::seed_from_u64(seed ^ half as u64);
    let own: Vec<usize> = (0..questions.len()).filter(|at| questions[*at].half == half).collect();
    let again = (own.len() as f64 * ASKED_AGAIN / (1.0 - ASKED_AGAIN)).round() as usize;
    let mut places: Vec<(f64, usize, bool)> = own.iter().map(|at| (random.random(), *at, false)).collect();
    for nth in 0..again {
        let (asked, question, _) = places[random.random_range(0..own.len())];
        places.push((random.random_range(asked..1.0), question, nth % 2 == 1));
    }
    places.sort_by(|a, b| a.0.total_cmp(&b.0));
    let request = |(_, question, reworded): (f64, usize, bool)| {
        let prompt = &questions[question].row.prompt;
        let prompt = if reworded { courteous(prompt) } else { prompt.clone() };
        Request { question, prompt }
    };
    places.into_iter().map(request).collect()
}

fn courteous(prompt: &str) -> String {
    format!("Hello! Could you please help me with this one?\n\n{prompt}\n\nThank you very much!")
}

/// What the simulator says: right answers to one question are the same text, wrong ones another for each model; as long as
/// recorded.
pub(crate) fn answers(questions: &[Question]) -> Vec<Row> {
    let answer = |question: &Question, (at, model): (usize, &Priced)| {
        let Outcome(score, tokens, _) = question.row.outcomes[model.id];
        let said = if score >= 0.5 { question.class } else { 1_000_000 * (at as u64 + 1) + question.class };
        let text = format!("The answer is {said}.");
        let output_tokens = tokens.unwrap_or(100.0).round().max(1.0) as u64;
        (model.id.to_owned(), KnownAnswer { text, score, output_tokens })
    };
    let row = |question: &Question| {
        let answers: HashMap<String, KnownAnswer> =
            MODELS.iter().enumerate().map(|model| answer(question, model)).collect();
        [question.row.prompt.clone(), courteous(&question.row.prompt)].map(|prompt| Row {
            prompt,
            class: question.class,
            kind: String::new(),
            answers: answers.clone(),
        })
    };
    questions.iter().flat_map(row).collect()
}
