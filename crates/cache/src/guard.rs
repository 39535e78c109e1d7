//! The guard: reasons why two prompts that look alike must not share an answer. Each rule reads form and difference,
//! not topics, so that names and numbers nobody has seen before are caught too.

use crate::lexicon::{ANTONYMS, DIRECTIONS, NEGATIONS, NEGATIVE_PREFIXES, SYNONYMS, UNITS};
use crate::text::{Reading, Word};
use serde::Serialize;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// Why a stored answer may not serve a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Veto {
    /// Different numbers, or the same in another order.
    Numbers,
    /// Different units, currencies, days or times.
    Units,
    /// One says not.
    Negation,
    /// An antonym, or the two sides of a relation exchanged.
    Direction,
    /// The same words in another order.
    WordOrder,
    /// A name that only one of them has.
    Entities,
    /// Different quotations, code, URLs or identifiers.
    Literals,
    /// One word of an otherwise equal sentence exchanged.
    Slot,
    /// One asks the same with a condition more.
    Scope,
}

impl Veto {
    /// The name in traces and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Numbers => "numbers",
            Self::Units => "units",
            Self::Negation => "negation",
            Self::Direction => "direction",
            Self::WordOrder => "word_order",
            Self::Entities => "entities",
            Self::Literals => "literals",
            Self::Slot => "slot",
            Self::Scope => "scope",
        }
    }
}

/// Compares prompts; knows the embedder's vocabulary, whose absence marks a word as rare.
#[derive(Debug, Clone)]
pub struct Guard {
    vocabulary: Arc<HashSet<String>>,
}

impl Guard {
    /// A guard for an embedder with this vocabulary of lower-case words.
    pub fn new(vocabulary: Arc<HashSet<String>>) -> Self {
        Self { vocabulary }
    }

    /// The first reason why the answer to `stored` may not serve `asked`; `None` when no rule objects.
    pub fn veto(&self, asked: &str, stored: &str) -> Option<Veto> {
        let (a, b) = (Reading::of(asked), Reading::of(stored));
        let difference = Difference::between(&a, &b);
        let rules: [(Veto, bool); 9] = [
            (Veto::Literals, a.literals != b.literals),
            (Veto::Numbers, a.numbers != b.numbers),
            (Veto::Units, units(&a) != units(&b)),
            (Veto::Negation, negations(&a) != negations(&b)),
            (Veto::Direction, has_antonyms(&a, &b) || is_exchanged(&a, &b)),
            (Veto::Entities, self.has_lone_name(&a, &b) || self.has_lone_name(&b, &a)),
            (Veto::WordOrder, is_reordered(&a, &b)),
            (Veto::Slot, difference.is_slot()),
            (Veto::Scope, difference.is_scope()),
        ];
        rules.into_iter().find(|(_, applies)| *applies).map(|(veto, _)| veto)
    }

    /// A name or rare word of `a` that `b` lacks.
    fn has_lone_name(&self, a: &Reading, b: &Reading) -> bool {
        let lone = |word: &&Word| !b.words.iter().any(|other| other.text == word.text || other.stem == word.stem);
        a.words.iter().filter(|word| word.is_content() && (word.name_like || self.is_rare(word))).any(|word| lone(&word))
    }

    fn is_rare(&self, word: &Word) -> bool {
        let known = |text: &str| self.vocabulary.contains(text);
        let alphabetic = word.text.chars().all(char::is_alphabetic);
        alphabetic
            && word.text.chars().count() >= 3
            && !known(&word.text)
            && !known(&word.stem)
            && !known(&format!("{}e", word.stem))
    }
}

/// Every unit, currency or time named, by its row in the table.
fn units(reading: &Reading) -> BTreeSet<usize> {
    let named = |text: &str| UNITS.iter().position(|row| row.contains(&text));
    let signs = reading.signs.iter().filter_map(|sign| named(sign.encode_utf8(&mut [0; 4])));
    reading.words.iter().filter_map(|word| named(&word.text)).chain(signs).collect()
}

fn negations(reading: &Reading) -> usize {
    reading.words.iter().filter(|word| NEGATIONS.contains(&word.text.as_str())).count()
}

/// Opposites among the words that only one side has.
fn has_antonyms(a: &Reading, b: &Reading) -> bool {
    let only = |this: &Reading, other: &Reading| -> Vec<Word> {
        let missing = |word: &&Word| !other.words.iter().any(|known| known.text == word.text);
        this.words.iter().filter(missing).cloned().collect()
    };
    let (only_a, only_b) = (only(a, b), only(b, a));
    let opposite = |x: &Word, y: &Word| {
        let is = |word: &Word, text: &str| word.text == text || word.stem == text;
        let listed = ANTONYMS.iter().any(|(p, q)| (is(x, p) && is(y, q)) || (is(x, q) && is(y, p)));
        let negated = |long: &str, short: &str| {
            long.strip_suffix(short).is_some_and(|prefix| NEGATIVE_PREFIXES.contains(&prefix)) && short.len() > 3
        };
        listed || negated(&x.text, &y.text) || negated(&y.text, &x.text) || negated(&x.stem, &y.stem) || negated(&y.stem, &x.stem)
    };
    only_a.iter().any(|x| only_b.iter().any(|y| opposite(x, y)))
}

/// The other side of a relation exchanged: `from A to B` against `from B to A`, `A before B` against `B before A`.
fn is_exchanged(a: &Reading, b: &Reading) -> bool {
    let relations = |reading: &Reading| -> Vec<(String, String)> {
        let mut found = Vec::new();
        for (at, word) in reading.words.iter().enumerate() {
            if DIRECTIONS.contains(&word.text.as_str())
                && let Some(side) = reading.words[at + 1..].iter().find(|word| word.is_content())
            {
                found.push((word.text.clone(), side.stem.clone()));
            }
        }
        found
    };
    let has = |reading: &Reading, stem: &str| reading.words.iter().any(|word| word.stem == stem);
    let (in_a, in_b) = (relations(a), relations(b));
    in_a.iter().any(|(relation, side)| {
        let other = in_b.iter().find(|(other, _)| other == relation);
        let already = in_b.iter().any(|(other, known)| other == relation && known == side);
        !already && other.is_some_and(|(_, other)| has(b, side) && has(a, other))
    })
}

/// The same content words, differently arranged.
fn is_reordered(a: &Reading, b: &Reading) -> bool {
    let stems = |reading: &Reading| -> Vec<String> {
        reading.content().iter().filter(|word| !word.is_filler()).map(|word| word.stem.clone()).collect()
    };
    let (a, b) = (stems(a), stems(b));
    let common = |this: &[String], other: &[String]| -> Vec<String> {
        this.iter().filter(|stem| other.contains(stem)).cloned().collect()
    };
    let (in_a, in_b) = (common(&a, &b), common(&b, &a));
    let (mut sorted_a, mut sorted_b) = (in_a.clone(), in_b.clone());
    sorted_a.sort_unstable();
    sorted_b.sort_unstable();
    let unmatched = a.len() + b.len() - in_a.len() - in_b.len();
    sorted_a == sorted_b && in_a != in_b && unmatched <= 1
}

/// The content words that each side has and the other lacks, with where they stand.
struct Difference {
    only_a: Vec<Word>,
    only_b: Vec<Word>,
    /// Words exchanged one for one at the same place.
    exchanged: Vec<(Word, Word)>,
    matched: usize,
}

impl Difference {
    fn between(a: &Reading, b: &Reading) -> Self {
        let (content_a, content_b) = (a.content(), b.content());
        let same = |x: &Word, y: &Word| x.text == y.text || x.stem == y.stem || are_synonyms(x, y);
        let only = |this: &[&Word], other: &[&Word]| -> Vec<Word> {
            this.iter().filter(|word| !other.iter().any(|known| same(word, known))).map(|word| (*word).clone()).collect()
        };
        let (only_a, only_b) = (only(&content_a, &content_b), only(&content_b, &content_a));
        let mut exchanged = Vec::new();
        for (at_a, word) in content_a.iter().enumerate().filter(|(_, word)| only_a.contains(word)) {
            let around_a = around(&content_a, at_a);
            for (at_b, other) in content_b.iter().enumerate().filter(|(_, word)| only_b.contains(word)) {
                let around_b = around(&content_b, at_b);
                let fits = |x: Option<&Word>, y: Option<&Word>| match (x, y) {
                    (Some(x), Some(y)) => same(x, y),
                    (None, None) => true,
                    _ => false,
                };
                if fits(around_a.0, around_b.0) && fits(around_a.1, around_b.1) {
                    exchanged.push(((*word).clone(), (*other).clone()));
                }
            }
        }
        let matched = content_a.len() - only_a.len();
        Self { only_a, only_b, exchanged, matched }
    }

    /// One word exchanged between equal neighbours while the rest agrees: the usual form of a parameter.
    fn is_slot(&self) -> bool {
        let weighty = |words: &[Word]| words.iter().filter(|word| !word.is_filler()).count();
        let (a, b) = (weighty(&self.only_a), weighty(&self.only_b));
        let parameter = |(x, y): &(Word, Word)| !x.is_filler() && !y.is_filler();
        self.exchanged.iter().any(parameter) || (a == 1 && b == 1 && self.matched >= 2)
    }

    /// One side says all the other says, and something more that is not a filler.
    fn is_scope(&self) -> bool {
        let weighty = |words: &[Word]| words.iter().any(|word| !word.is_filler());
        weighty(&self.only_a) != weighty(&self.only_b)
    }
}

/// The weighty neighbours of a word.
fn around<'a>(words: &[&'a Word], at: usize) -> (Option<&'a Word>, Option<&'a Word>) {
    let before = words[..at].iter().rev().find(|word| !word.is_filler()).copied();
    let after = words[at + 1..].iter().find(|word| !word.is_filler()).copied();
    (before, after)
}

fn are_synonyms(x: &Word, y: &Word) -> bool {
    let is = |word: &Word, text: &&str| word.text == *text || word.stem == *text;
    SYNONYMS.iter().any(|row| row.iter().any(|text| is(x, text)) && row.iter().any(|text| is(y, text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Enough common words for the sentences below; everything else is rare.
    fn guard() -> Guard {
        let common = "how do does i reset change my password the what is can you turn on off dark mode cancel order not \
            convert miles kilometers to from flight report me money back refund policy for digital goods a of in email \
            address meeting at work tell about please weather like delivery take long shipping subscription user update";
        Guard::new(Arc::new(common.split_whitespace().map(str::to_owned).collect()))
    }

    #[track_caller]
    fn check(a: &str, b: &str, expected: Option<Veto>) {
        assert_eq!(guard().veto(a, b), expected, "{a} | {b}");
        assert_eq!(guard().veto(b, a), expected, "{b} | {a}");
    }

    #[test]
    fn every_rule_has_its_case() {
        check("Refund order 1234", "Refund order 1243", Some(Veto::Numbers));
        check("Is two enough?", "Is 2 enough?", None);
        check("Meeting at 7 am", "Meeting at 7 pm", Some(Veto::Units));
        check("How do I cancel my order?", "How do I not cancel my order?", Some(Veto::Negation));
        check("Don't cancel my order", "Do not cancel my order", None);
        check("Turn on dark mode", "Turn off dark mode", Some(Veto::Direction));
        check("convert miles to kilometers", "convert kilometers to miles", Some(Veto::Direction));
        check("Is the user subscribed?", "Is the user unsubscribed?", Some(Veto::Direction));
        check("does the user report the order", "does the order report the user", Some(Veto::WordOrder));
        check("What is the weather in Paris?", "What is the weather in London?", Some(Veto::Entities));
        check("what is the weather in qorvast", "what is the weather in brimdel", Some(Veto::Entities));
        check("What does \"refund\" mean?", "What does \"order\" mean?", Some(Veto::Literals));
        check("How do I change my password?", "How do I change my email?", Some(Veto::Slot));
        check("What is the refund policy?", "What is the refund policy for digital goods?", Some(Veto::Scope));
    }

    #[test]
    fn rewordings_pass() {
        check("How do I reset my password?", "How can I reset my password, please?", None);
        check("What is the refund policy?", "Tell me about the refund policy", None);
        check("How do I change my password?", "How can I update the password?", None);
    }

    proptest! {
        #[test]
        fn unseen_names_and_numbers_never_share_an_answer(
            first in "[a-z]{2,4}[bcdfgklmnprtvz][aeiou][a-z]{2,5}", second in "[a-z]{2,4}[bcdfgklmnprtvz][aeiou][a-z]{2,5}",
            n in 0u32..100_000, m in 0u32..100_000, capital in any::<bool>(),
        ) {
            let guard = guard();
            let stemmer = rust_stemmers::Stemmer::create(rust_stemmers::Algorithm::English);
            prop_assume!(stemmer.stem(&first) != stemmer.stem(&second));
            prop_assume!(!guard.vocabulary.contains(&first) && !guard.vocabulary.contains(&second));
            let name = |text: &str| if capital { text[..1].to_uppercase() + &text[1..] } else { text.to_owned() };
            for (a, b) in [("what is the weather like in {}", "tell me about the weather in {} please"),
                           ("how long does shipping to {} take", "delivery to {} how long"),
                           ("can i cancel the order of {}", "how do i cancel my order for {}")] {
                let (x, y) = (a.replace("{}", &name(&first)), b.replace("{}", &name(&second)));
                prop_assert!(guard.veto(&x, &y).is_some(), "{} | {}", x, y);
                prop_assert_eq!(n != m, guard.veto(&a.replace("{}", &n.to_string()), &a.replace("{}", &m.to_string())).is_some());
            }
        }
    }
}
