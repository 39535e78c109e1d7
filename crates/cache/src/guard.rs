//! The guard: reasons why two prompts that look alike must not share an answer. Each rule reads form and difference,
//! not topics, so that names and numbers nobody has seen before are caught too.

use crate::lexicon::LEXICON;
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
    /// One asks who, why, when or where and the other does not.
    Question,
    /// Different quotations, code, formulas, URLs or identifiers.
    Literals,
    /// One word of an otherwise equal sentence exchanged.
    Slot,
    /// One asks the same with a condition more.
    Scope,
}

/// What the guard makes of two prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They must not share an answer.
    Vetoed(Veto),
    /// Each has weighty words that the other lacks, and no rule objects.
    Reworded,
    /// They say the same words, fillers and synonyms aside.
    SameWords,
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
            Self::Question => "question",
            Self::Literals => "literals",
            Self::Slot => "slot",
            Self::Scope => "scope",
        }
    }
}

/// Compares prompts by form; knows the embedder's vocabulary, whose absence marks a word as rare.
#[derive(Debug, Clone)]
pub struct Guard {
    vocabulary: Arc<HashSet<String>>,
}

impl Guard {
    /// A guard for an embedder with this vocabulary of lower-case words.
    pub fn new(vocabulary: Arc<HashSet<String>>) -> Self {
        Self { vocabulary }
    }

    /// Compares a prompt with the one that a stored answer was made for.
    pub fn compare(&self, asked: &str, stored: &str) -> Verdict {
        let (a, b) = (Reading::of(asked), Reading::of(stored));
        let difference = Difference::between(&a, &b);
        let rules: [(Veto, bool); 10] = [
            (Veto::Literals, a.literals != b.literals || a.operators != b.operators),
            (Veto::Question, questions(&a) != questions(&b)),
            (Veto::Numbers, a.numbers != b.numbers),
            (Veto::Units, units(&a) != units(&b)),
            (Veto::Negation, negations(&a) != negations(&b)),
            (Veto::Direction, has_antonyms(&a, &b) || is_exchanged(&a, &b)),
            (Veto::Entities, self.has_lone_name(&a, &b) || self.has_lone_name(&b, &a)),
            (Veto::WordOrder, is_reordered(&a, &b)),
            (Veto::Slot, difference.is_slot()),
            (Veto::Scope, difference.is_scope()),
        ];
        match rules.into_iter().find(|(_, applies)| *applies) {
            Some((veto, _)) => Verdict::Vetoed(veto),
            None if difference.only_a > 0 => Verdict::Reworded,
            None => Verdict::SameWords,
        }
    }

    /// A name or rare word of `a` that `b` lacks.
    fn has_lone_name(&self, a: &Reading, b: &Reading) -> bool {
        let same = |x: &Word, y: &Word| x.text == y.text || x.stem == y.stem || (!x.name_like && are_synonyms(x, y));
        let lone = |word: &&Word| !b.words.iter().any(|other| same(word, other));
        a.words
            .iter()
            .filter(|word| word.is_content() && (word.name_like || self.is_rare(word)))
            .any(|word| lone(&word))
    }

    fn is_rare(&self, word: &Word) -> bool {
        let known = |text: &str| self.vocabulary.contains(text);
        let alphabetic = word.text.chars().all(char::is_alphabetic);
        let listed = word.is_filler() || !LEXICON.synonym_rows(&word.text).is_empty();
        alphabetic
            && !listed
            && word.text.chars().count() >= 3
            && !known(&word.text)
            && !known(&word.stem)
            && !known(&format!("{}e", word.stem))
    }
}

/// Every unit, currency or time named, by its row in the table.
fn units(reading: &Reading) -> BTreeSet<usize> {
    let named = |text: &str| LEXICON.unit(text);
    let signs = reading.signs.iter().filter_map(|sign| named(sign.encode_utf8(&mut [0; 4])));
    reading.words.iter().filter_map(|word| named(&word.text)).chain(signs).collect()
}

/// Question words that cannot stand for each other; what, which and how often can.
fn questions(reading: &Reading) -> BTreeSet<&str> {
    let asking = |text: &&str| ["who", "whom", "whose", "why", "when", "where"].contains(text);
    reading.words.iter().map(|word| word.text.as_str()).filter(asking).collect()
}

fn negations(reading: &Reading) -> usize {
    reading.words.iter().filter(|word| LEXICON.negations.contains(word.text.as_str())).count()
}

/// Opposites among the words that only one side has.
fn has_antonyms(a: &Reading, b: &Reading) -> bool {
    let only = |this: &Reading, other: &Reading| -> Vec<Word> {
        let missing = |word: &&Word| !other.words.iter().any(|known| known.text == word.text);
        this.words.iter().filter(missing).cloned().collect()
    };
    let (only_a, only_b) = (only(a, b), only(b, a));
    let opposite = |x: &Word, y: &Word| {
        let forms = |word: &Word| [word.text.clone(), word.stem.clone()];
        let listed = forms(x).iter().any(|x| forms(y).iter().any(|y| LEXICON.are_antonyms(x, y)));
        let negated = |long: &str, short: &str| {
            long.strip_suffix(short).is_some_and(|prefix| LEXICON.negative_prefixes.contains(prefix)) && short.len() > 3
        };
        listed
            || negated(&x.text, &y.text)
            || negated(&y.text, &x.text)
            || negated(&x.stem, &y.stem)
            || negated(&y.stem, &x.stem)
    };
    let says = |words: &[Word], list: &HashSet<&str>| words.iter().any(|word| list.contains(word.text.as_str()));
    only_a.iter().any(|x| only_b.iter().any(|y| opposite(x, y)))
        || (says(&only_a, &LEXICON.switching_on) && says(&only_b, &LEXICON.switching_off))
        || (says(&only_b, &LEXICON.switching_on) && says(&only_a, &LEXICON.switching_off))
}

/// The other side of a relation exchanged: `from A to B` against `from B to A`, `A before B` against `B before A`.
fn is_exchanged(a: &Reading, b: &Reading) -> bool {
    let relations = |reading: &Reading| -> Vec<(String, String)> {
        let mut found = Vec::new();
        for (at, word) in reading.words.iter().enumerate() {
            if LEXICON.directions.contains(word.text.as_str())
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

/// The same content words, arranged so that they can mean something else.
fn is_reordered(a: &Reading, b: &Reading) -> bool {
    let common = |this: &Reading, other: &Reading| -> Vec<usize> {
        let has = |stem: &str| other.words.iter().any(|word| word.is_weighty() && word.stem == stem);
        let words = this.words.iter().enumerate();
        words.filter(|(_, word)| word.is_weighty() && has(&word.stem)).map(|(at, _)| at).collect()
    };
    let (places_a, places_b) = (common(a, b), common(b, a));
    let stems = |reading: &Reading, places: &[usize]| -> Vec<String> {
        places.iter().map(|at| reading.words[*at].stem.clone()).collect()
    };
    let (in_a, in_b) = (stems(a, &places_a), stems(b, &places_b));
    let (mut sorted_a, mut sorted_b) = (in_a.clone(), in_b.clone());
    sorted_a.sort_unstable();
    sorted_b.sort_unstable();
    let weighty = |reading: &Reading| reading.words.iter().filter(|word| word.is_weighty()).count();
    let unmatched = weighty(a) + weighty(b) - in_a.len() - in_b.len();
    if sorted_a != sorted_b || in_a == in_b || unmatched > 1 {
        return false;
    }
    match moved_block(&in_a, &in_b) {
        None => true,
        Some((first, second)) => {
            // In `a` the block `first` stands before `second`, in `b` after it.
            let in_a = (&places_a[first.clone()], &places_a[second.clone()]);
            let start = first.start;
            let second_in_b = &places_b[start..start + second.len()];
            let first_in_b = &places_b[start + second.len()..start + second.len() + first.len()];
            !(is_same_phrase((a, in_a.0, in_a.1), (b, first_in_b, second_in_b))
                || is_same_phrase((b, second_in_b, first_in_b), (a, in_a.1, in_a.0)))
        }
    }
}

/// The two adjacent ranges of `a` whose exchange makes it `b`, if there are such.
fn moved_block(a: &[String], b: &[String]) -> Option<(std::ops::Range<usize>, std::ops::Range<usize>)> {
    let start = a.iter().zip(b).position(|(x, y)| x != y)?;
    let same_tail = a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count();
    let end = a.len() - same_tail;
    (start + 1..end)
        .find(|middle| a[*middle..end].iter().chain(&a[start..*middle]).eq(&b[start..end]))
        .map(|middle| (start..middle, middle..end))
}

/// Prepositions by which a noun is attached to the one before it, as a genitive or compound does the other way round.
const ATTACHING: &[&str] = &["of", "on", "in", "at", "for"];
/// Words that may stand between a preposition and its noun, or between two nouns of a compound.
const DETERMINERS: &[&str] = &["a", "an", "the", "my", "our", "your", "their", "his", "her", "its", "this", "that"];

/// True where moving `second` before `first` says the same: `code at the office` and `office code`, a phrase that keeps
/// its preposition (`on Saturdays`), or an adverb.
fn is_same_phrase(a: (&Reading, &[usize], &[usize]), b: (&Reading, &[usize], &[usize])) -> bool {
    let preposition = |reading: &Reading, place: usize| -> Option<String> {
        let before = reading.words[..place].iter().rev().find(|word| !DETERMINERS.contains(&word.text.as_str()))?;
        (ATTACHING.contains(&before.text.as_str()) || before.text == "with").then(|| before.text.clone())
    };
    let ((in_a, _, second_a), (in_b, first_b, second_b)) = (a, b);
    let (Some(&from), Some(&to), Some(&to_last), Some(&next)) =
        (second_a.first(), second_b.first(), second_b.last(), first_b.first())
    else {
        return false;
    };
    let attached = preposition(in_a, from);
    let adjacent =
        to_last < next && in_b.words[to_last + 1..next].iter().all(|word| DETERMINERS.contains(&word.text.as_str()));
    let genitive = attached.as_deref().is_some_and(|word| ATTACHING.contains(&word)) && adjacent;
    let kept = attached.is_some() && attached == preposition(in_b, to);
    let adverb = second_a.len() == 1 && [&in_a.words[from], &in_b.words[to]].iter().any(|word| is_adverb(word));
    genitive || kept || adverb
}

fn is_adverb(word: &Word) -> bool {
    word.text.len() > 4 && word.text.ends_with("ly") && word.text != "only"
}

/// How the content words of two prompts differ; a word said twice counts twice.
struct Difference {
    /// Weighty words that only one side has.
    only_a: usize,
    only_b: usize,
    matched: usize,
    /// Each side's own words stand in one run, between equal words.
    exchanged: bool,
}

/// Content words above which a prompt is a document: then every word that differs may be the one that matters.
const LONG_WORDS: usize = 30;

impl Difference {
    fn between(a: &Reading, b: &Reading) -> Self {
        let weighty = |reading: &Reading| -> Vec<Word> {
            reading.words.iter().filter(|word| word.is_weighty()).cloned().collect()
        };
        let (a, b) = (weighty(a), weighty(b));
        let same = |x: &Word, y: &Word| x.text == y.text || x.stem == y.stem || are_synonyms(x, y);
        let mut taken = vec![false; b.len()];
        let mut own_a = Vec::new();
        for (at, word) in a.iter().enumerate() {
            match (0..b.len()).find(|other| !taken[*other] && same(word, &b[*other])) {
                Some(other) => taken[other] = true,
                None => own_a.push(at),
            }
        }
        let own_b: Vec<usize> = (0..b.len()).filter(|at| !taken[*at]).collect();
        let neighbours_agree = |x: Option<&Word>, y: Option<&Word>| match (x, y) {
            (Some(x), Some(y)) => same(x, y),
            (None, None) => true,
            _ => false,
        };
        let exchanged = match (run(&own_a), run(&own_b)) {
            (Some((from_a, to_a)), Some((from_b, to_b))) => {
                let before = |words: &[Word], from: usize| from.checked_sub(1).map(|at| words[at].clone());
                neighbours_agree(before(&a, from_a).as_ref(), before(&b, from_b).as_ref())
                    && neighbours_agree(a.get(to_a + 1), b.get(to_b + 1))
            }
            _ => false,
        };
        Self { only_a: own_a.len(), only_b: own_b.len(), matched: a.len() - own_a.len(), exchanged }
    }

    /// Something exchanged between equal neighbours while the rest agrees: the usual form of a parameter.
    fn is_slot(&self) -> bool {
        let both = self.only_a > 0 && self.only_b > 0;
        both && self.matched >= 1 && (self.exchanged || (self.only_a == 1 && self.only_b == 1))
    }

    /// One side says all the other says, and something more that is not a filler; in a long text, any difference.
    fn is_scope(&self) -> bool {
        let differs = self.only_a + self.only_b > 0;
        (self.only_a == 0) != (self.only_b == 0) || (differs && self.matched >= LONG_WORDS)
    }
}

/// First and last of positions that follow each other without a gap.
fn run(positions: &[usize]) -> Option<(usize, usize)> {
    let (first, last) = (*positions.first()?, *positions.last()?);
    (last - first + 1 == positions.len()).then_some((first, last))
}

fn are_synonyms(x: &Word, y: &Word) -> bool {
    let rows = |word: &Word| [LEXICON.synonym_rows(&word.text), LEXICON.synonym_rows(&word.stem)].concat();
    let of_y = rows(y);
    rows(x).iter().any(|row| of_y.contains(row))
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
        let veto = |a: &str, b: &str| match guard().compare(a, b) {
            Verdict::Vetoed(veto) => Some(veto),
            Verdict::Reworded | Verdict::SameWords => None,
        };
        assert_eq!(veto(a, b), expected, "{a} | {b}");
        assert_eq!(veto(b, a), expected, "{b} | {a}");
    }

    #[test]
    fn every_rule_has_its_case() {
        check("Refund order 1234", "Refund order 1243", Some(Veto::Numbers));
        check("Is two enough?", "Is 2 enough?", None);
        check("Why is the order late?", "When is the order late?", Some(Veto::Question));
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
                let vetoed = |x: &str, y: &str| matches!(guard.compare(x, y), Verdict::Vetoed(_));
                prop_assert!(vetoed(&x, &y), "{} | {}", x, y);
                prop_assert_eq!(n != m, vetoed(&a.replace("{}", &n.to_string()), &a.replace("{}", &m.to_string())));
            }
        }
    }
}
