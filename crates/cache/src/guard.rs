//! The guard: reasons why two prompts that look alike must not share an answer. Each rule reads form and difference,
//! not topics, so that names and numbers nobody has seen before are caught too.

use crate::lexicon::LEXICON;
use crate::text::{Reading, Word};
use foldhash::HashSet;
use serde::Serialize;
use std::collections::BTreeSet;

/// Why a stored answer may not serve a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Veto {
    /// Different numbers, dates or versions, or the same in another order.
    Numbers,
    /// Different units, currencies, days or times.
    Units,
    /// One says not.
    Negation,
    /// An antonym, a comparative turned round, or the two sides of a relation exchanged.
    Direction,
    /// The same words in another order.
    WordOrder,
    /// A name that only one of them has.
    Entities,
    /// Different quotations, code, formulas, URLs or identifiers.
    Literals,
    /// Letters of different scripts.
    Language,
    /// So few words that each must be the same.
    TooShort,
}

/// How two prompts differ in form, where no rule objects: what is no reason to refuse is evidence all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Form {
    /// One asks who, why, when or where and the other does not.
    pub asks_otherwise: bool,
    /// One run of words of an otherwise equal sentence is exchanged: the usual form of a parameter.
    pub is_slot: bool,
    /// One asks the same with a condition more.
    pub is_narrower: bool,
    pub numbers_differ: bool,
    pub units_differ: bool,
    pub negations_differ: bool,
    pub turns_round: bool,
    pub names_differ: bool,
    pub literals_differ: bool,
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
            Self::Language => "language",
            Self::TooShort => "too_short",
        }
    }
}

/// Compares a prompt with the one that a stored answer was made for. What contradicts, such as another number, is
/// refused; what only one of them says, and words turned round, only where the rest agrees: in prompts that are
/// worded otherwise throughout it says little.
///
/// # Errors
/// With the first rule that objects.
pub(crate) fn compare(a: &Reading, b: &Reading) -> Result<Form, Veto> {
    if a.script != b.script {
        return Err(Veto::Language);
    }
    let difference = Difference::between(a, b);
    let (near, copy) = (difference.is_near(), difference.is_copy());
    let literals = Own::between(&a.literals, &b.literals);
    let numbers = Own::between(&counted(&a.numbers), &counted(&b.numbers));
    let units = Own::between(&units(a), &units(b));
    let names = Own { a: has_lone_name(a, b), b: has_lone_name(b, a) };
    let form = Form {
        asks_otherwise: questions(a) != questions(b),
        is_slot: difference.is_slot(),
        is_narrower: difference.is_narrower(),
        numbers_differ: a.numbers != b.numbers,
        units_differ: units.any(),
        negations_differ: negations(a) != negations(b),
        turns_round: has_antonyms(a, b) || is_exchanged(a, b) || persons(a) != persons(b),
        names_differ: names.any(),
        literals_differ: literals.any() || a.operators != b.operators,
    };
    let rules = [
        (Veto::Literals, literals.both() || copy && form.literals_differ),
        (Veto::Numbers, numbers.both() || copy && form.numbers_differ),
        (Veto::Units, units.both() || copy && form.units_differ),
        (Veto::Negation, copy && form.negations_differ),
        (Veto::Direction, near && form.turns_round),
        (Veto::Entities, names.both() || copy && form.names_differ),
        (Veto::WordOrder, is_reordered(a, b)),
        (Veto::TooShort, is_too_short(a, b, &difference)),
    ];
    match rules.into_iter().find(|(_, applies)| *applies) {
        Some((veto, _)) => Err(veto),
        None => Ok(form),
    }
}

/// A name or rare word of `a` that `b` lacks.
fn has_lone_name(a: &Reading, b: &Reading) -> bool {
    let same = |x: &Word, y: &Word| x.is_form_of(y) || (!x.name_like && x.is_synonym_of(y));
    let lone = |word: &Word| !b.words.iter().any(|other| same(word, other));
    let misspelt = |word: &Word| b.words.iter().any(|other| word.is_misspelling_of(other));
    let is_name = |word: &Word| word.name_like || (word.is_rare() && !misspelt(word));
    a.words.iter().any(|word| word.is_content && is_name(word) && lone(word))
}

/// Who has something that the other lacks.
#[derive(Clone, Copy)]
struct Own {
    a: bool,
    b: bool,
}

impl Own {
    fn between<T: Ord>(a: &BTreeSet<T>, b: &BTreeSet<T>) -> Self {
        Self { a: a.difference(b).next().is_some(), b: b.difference(a).next().is_some() }
    }

    fn both(self) -> bool {
        self.a && self.b
    }

    fn any(self) -> bool {
        self.a || self.b
    }
}

/// Numbers, each with how often it was said before.
fn counted(numbers: &[String]) -> BTreeSet<(&str, usize)> {
    let before = |at: usize| numbers[..at].iter().filter(|number| **number == numbers[at]).count();
    numbers.iter().enumerate().map(|(at, number)| (number.as_str(), before(at))).collect()
}

/// Every unit, currency or time named, by its row in the table.
fn units(reading: &Reading) -> BTreeSet<usize> {
    let named = |text: &str| LEXICON.unit(text);
    let signs = reading.signs.iter().filter_map(|sign| named(sign.encode_utf8(&mut [0; 4])));
    let is_time = |word: &&Word| word.follows_number || !["am", "pm"].contains(&word.text.as_str());
    reading.words.iter().filter(is_time).filter_map(|word| named(&word.text)).chain(signs).collect()
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
    let (only_a, only_b) = (only(a, b), only(b, a));
    let is_negated = |long: &str, short: &str| {
        let prefix = long.strip_suffix(short).filter(|_| short.len() > 3);
        prefix.is_some_and(|prefix| LEXICON.negative_prefixes.contains(prefix))
    };
    let opposite = |x: &Word, y: &Word| {
        let forms = [(&x.text, &y.text), (&x.text, &y.stem), (&x.stem, &y.text), (&x.stem, &y.stem)];
        forms.into_iter().any(|(x, y)| LEXICON.are_antonyms(x, y))
            || [(&x.text, &y.text), (&x.stem, &y.stem)].into_iter().any(|(x, y)| is_negated(x, y) || is_negated(y, x))
    };
    let says = |words: &[&Word], list: &HashSet<&str>| words.iter().any(|word| list.contains(word.text.as_str()));
    only_a.iter().any(|x| only_b.iter().any(|y| opposite(x, y)))
        || (says(&only_a, &LEXICON.switching_on) && says(&only_b, &LEXICON.switching_off))
        || (says(&only_b, &LEXICON.switching_on) && says(&only_a, &LEXICON.switching_off))
}

/// Who is spoken of by pronouns, in order: `he … her` against `she … him` is somebody else's question.
fn persons(reading: &Reading) -> Vec<char> {
    let person = |word: &Word| match word.text.as_str() {
        "he" | "him" | "his" | "himself" => Some('m'),
        "she" | "her" | "hers" | "herself" => Some('f'),
        _ => None,
    };
    reading.words.iter().filter_map(person).collect()
}

/// The words of `this` that `other` lacks.
fn only<'a>(this: &'a Reading, other: &Reading) -> Vec<&'a Word> {
    this.words.iter().filter(|word| !other.words.iter().any(|known| known.text == word.text)).collect()
}

/// The other side of a relation exchanged: `from A to B` against `from B to A`, `A before B` against `B before A`.
fn is_exchanged(a: &Reading, b: &Reading) -> bool {
    let relations = |reading: &Reading| -> Vec<(String, String)> {
        let mut found = Vec::new();
        for (at, word) in reading.words.iter().enumerate() {
            if LEXICON.directions.contains(word.text.as_str())
                && let Some(side) = reading.words[at + 1..].iter().find(|word| word.is_content)
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

/// The same words throughout, arranged so that they can mean something else.
fn is_reordered<'a>(a: &'a Reading, b: &'a Reading) -> bool {
    let said = |reading: &'a Reading| -> Vec<&'a str> {
        let words = reading.words.iter().map(|word| word.text.as_str());
        let mut said: Vec<&str> = words.filter(|word| !DETERMINERS.contains(word)).collect();
        said.sort_unstable();
        said
    };
    if said(a) != said(b) {
        return false;
    }
    let places = |reading: &Reading| -> Vec<usize> {
        let words = reading.words.iter().enumerate();
        words.filter(|(_, word)| word.is_weighty()).map(|(at, _)| at).collect()
    };
    let (places_a, places_b) = (places(a), places(b));
    let stems = |reading: &'a Reading, places: &[usize]| -> Vec<&'a str> {
        places.iter().map(|at| reading.words[*at].stem.as_str()).collect()
    };
    let (in_a, in_b) = (stems(a, &places_a), stems(b, &places_b));
    if in_a == in_b {
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
fn moved_block(a: &[&str], b: &[&str]) -> Option<(std::ops::Range<usize>, std::ops::Range<usize>)> {
    let start = a.iter().zip(b).position(|(x, y)| x != y)?;
    let same_tail = a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count();
    let end = a.len() - same_tail;
    (start + 1..end)
        .find(|middle| a[*middle..end].iter().chain(&a[start..*middle]).eq(&b[start..end]))
        .map(|middle| (start..middle, middle..end))
}

/// Words up to which a prompt is a heading, not a question.
const FEW_WORDS: usize = 2;

/// True where one prompt has so few words that one more or another makes it another question, as `password` and `new
/// password`, or none that weighs anything, as `Who is it?` and `What is it?`.
fn is_too_short(a: &Reading, b: &Reading, difference: &Difference) -> bool {
    match weighty(a).len().min(weighty(b).len()) {
        0 => !a.words.iter().map(|word| &word.text).eq(b.words.iter().map(|word| &word.text)),
        1 => a.words.len().min(b.words.len()) <= FEW_WORDS && difference.only_a + difference.only_b > 0,
        _ => false,
    }
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
    fn between<'a>(a: &'a Reading, b: &'a Reading) -> Self {
        let slip = |x: &Word, y: &Word| x.is_misspelling_of(y);
        let (a, b) = (weighty(a), weighty(b));
        let same = |x: &Word, y: &Word| x.is_form_of(y) || x.is_synonym_of(y);
        let mut taken = vec![false; b.len()];
        let mut own_a: Vec<usize> = (0..a.len()).collect();
        for alike in [&same as &dyn Fn(&Word, &Word) -> bool, &slip] {
            own_a.retain(|at| match (0..b.len()).find(|other| !taken[*other] && alike(a[*at], b[*other])) {
                Some(other) => {
                    taken[other] = true;
                    false
                }
                None => true,
            });
        }
        let own_b: Vec<usize> = (0..b.len()).filter(|at| !taken[*at]).collect();
        let neighbours_agree = |x: Option<&Word>, y: Option<&Word>| match (x, y) {
            (Some(x), Some(y)) => same(x, y),
            (None, None) => true,
            _ => false,
        };
        let exchanged = match (run(&own_a), run(&own_b)) {
            (Some((from_a, to_a)), Some((from_b, to_b))) => {
                let at = |words: &[&'a Word], at: Option<usize>| at.and_then(|at| words.get(at).copied());
                neighbours_agree(at(&a, from_a.checked_sub(1)), at(&b, from_b.checked_sub(1)))
                    && neighbours_agree(at(&a, Some(to_a + 1)), at(&b, Some(to_b + 1)))
            }
            _ => false,
        };
        Self { only_a: own_a.len(), only_b: own_b.len(), matched: a.len() - own_a.len(), exchanged }
    }

    /// The shorter says all but one of its weighty words as the longer does.
    fn is_near(&self) -> bool {
        let fewer = self.only_a.min(self.only_b);
        fewer == 0 || (fewer == 1 && self.matched > 0)
    }

    /// Each says all but one of its weighty words as the other does.
    fn is_copy(&self) -> bool {
        let more = self.only_a.max(self.only_b);
        more == 0 || (more == 1 && self.matched > 0)
    }

    /// Something exchanged between equal neighbours while the rest agrees: the usual form of a parameter.
    fn is_slot(&self) -> bool {
        let both = self.only_a > 0 && self.only_b > 0;
        both && self.matched >= 1 && (self.exchanged || (self.only_a == 1 && self.only_b == 1))
    }

    /// One side says all the other says, and something more that is not a filler; in a long text, any difference.
    fn is_narrower(&self) -> bool {
        let differs = self.only_a + self.only_b > 0;
        (self.only_a == 0) != (self.only_b == 0) || (differs && self.matched >= LONG_WORDS)
    }
}

/// First and last of positions that follow each other without a gap.
fn run(positions: &[usize]) -> Option<(usize, usize)> {
    let (first, last) = (*positions.first()?, *positions.last()?);
    (last - first + 1 == positions.len()).then_some((first, last))
}

/// The words of a prompt whose exchange can change what is asked.
fn weighty(reading: &Reading) -> Vec<&Word> {
    reading.words.iter().filter(|word| word.is_weighty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Words;
    use proptest::prelude::*;

    /// Enough common words for the sentences below; everything else is rare.
    fn words() -> Words {
        let common = "how do does i reset change my password the what is can you turn on off dark mode cancel order not \
            convert miles kilometers to from flight report me money back refund policy for digital goods a of in email \
            address meeting at work tell about please weather like delivery take long shipping subscription user update";
        common.split_whitespace().map(|word| (word.to_owned(), 0.5)).collect()
    }

    #[track_caller]
    fn check(a: &str, b: &str, expected: Option<Veto>) {
        let veto = |a: &str, b: &str| compare(&Reading::of(a, &words()), &Reading::of(b, &words())).err();
        assert_eq!(veto(a, b), expected, "{a} | {b}");
        assert_eq!(veto(b, a), expected, "{b} | {a}");
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
        check("Can he call her?", "Can she call him?", Some(Veto::Direction));
        check(
            "Who sees the report with just my user?",
            "Who sees just the report with my user?",
            Some(Veto::Direction),
        );
        check("Can I cancel my order?", "Можно отменить мой заказ?", Some(Veto::Language));
        check("password", "update password", Some(Veto::TooShort));
        check("What is it?", "What was it?", Some(Veto::TooShort));
        check("x", "y", Some(Veto::Entities));
        check("How do I sort a list in R?", "How can a list be sorted in C?", Some(Veto::Entities));
        check("how do i sort a list in c++", "how can a list be sorted in c#", Some(Veto::Literals));
        check("password", "Password?", None);
    }

    #[test]
    fn what_is_no_reason_to_refuse_is_evidence() {
        let form =
            |a: &str, b: &str| compare(&Reading::of(a, &words()), &Reading::of(b, &words())).expect("no rule objects");
        assert!(form("Why is the order late?", "When is the order late?").asks_otherwise);
        assert!(form("How do I change my password?", "How do I change my email?").is_slot);
        assert!(form("What is the refund policy?", "What is the refund policy for digital goods?").is_narrower);
        let reworded = form("Can I reset the password?", "I do not like my password, change order please");
        assert!(reworded.negations_differ && !reworded.is_slot);
    }

    #[test]
    fn a_slip_of_the_keyboard_is_no_name_and_two_unknown_words_are() {
        check("Can I cancel my subscription?", "Can I cancel my subscripton?", None);
        check("Does the zentro report the order?", "Does the zentra report the order?", Some(Veto::Entities));
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
            let words = words();
            let stemmer = rust_stemmers::Stemmer::create(rust_stemmers::Algorithm::English);
            prop_assume!(stemmer.stem(&first) != stemmer.stem(&second));
            prop_assume!(!words.contains_key(&first) && !words.contains_key(&second));
            let name = |text: &str| if capital { text[..1].to_uppercase() + &text[1..] } else { text.to_owned() };
            for (a, b) in [("what is the weather like in {}", "tell me about the weather in {} please"),
                           ("how long does shipping to {} take", "delivery to {} how long"),
                           ("can i cancel the order of {}", "how do i cancel my order for {}")] {
                let (x, y) = (a.replace("{}", &name(&first)), b.replace("{}", &name(&second)));
                let vetoed = |x: &str, y: &str| compare(&Reading::of(x, &words), &Reading::of(y, &words)).is_err();
                prop_assert!(vetoed(&x, &y), "{} | {}", x, y);
                prop_assert_eq!(n != m, vetoed(&a.replace("{}", &n.to_string()), &a.replace("{}", &m.to_string())));
            }
        }
    }
}
