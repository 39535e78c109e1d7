//! Word lists of the guard. They only ever add refusals or, for fillers and synonyms, undo the refusal of a word that
//! changes nothing; names and numbers are recognised by form, never by list.

use foldhash::{HashMap, HashMapExt, HashSet};
use std::sync::LazyLock;

const TEXT: &str = include_str!("lexicon.txt");

/// The lists, read once.
pub(crate) static LEXICON: LazyLock<Lexicon> = LazyLock::new(|| Lexicon::read(TEXT));

pub(crate) struct Lexicon {
    pub stopwords: HashSet<&'static str>,
    pub fillers: HashSet<&'static str>,
    pub negations: HashSet<&'static str>,
    pub negative_prefixes: HashSet<&'static str>,
    pub switching_on: HashSet<&'static str>,
    pub switching_off: HashSet<&'static str>,
    pub directions: HashSet<&'static str>,
    antonyms: HashSet<(&'static str, &'static str)>,
    units: HashMap<&'static str, usize>,
    /// A word can stand in several rows.
    synonyms: HashMap<&'static str, Vec<usize>>,
    numbers: HashMap<&'static str, &'static str>,
}

impl Lexicon {
    fn read(text: &'static str) -> Self {
        let mut sections: HashMap<&str, Vec<Vec<&'static str>>> = HashMap::new();
        let mut section = "";
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                Some(name) => section = name,
                None => sections.entry(section).or_default().push(line.split_whitespace().collect()),
            }
        }
        let rows = |name: &str| sections.get(name).cloned().unwrap_or_default();
        let set = |name: &str| rows(name).into_iter().flatten().collect();
        let pairs = |name: &str| rows(name).into_iter().filter_map(|row| Some((*row.first()?, *row.get(1)?)));
        let mut synonyms: HashMap<&str, Vec<usize>> = HashMap::new();
        for (at, row) in rows("synonyms").into_iter().enumerate() {
            row.into_iter().for_each(|word| synonyms.entry(word).or_default().push(at));
        }
        let units = rows("units").into_iter().enumerate();
        Self {
            stopwords: set("stopwords"),
            fillers: set("fillers"),
            negations: set("negations"),
            negative_prefixes: set("negative prefixes"),
            switching_on: set("switching on"),
            switching_off: set("switching off"),
            directions: set("directions"),
            antonyms: pairs("antonyms").flat_map(|(a, b)| [(a, b), (b, a)]).collect(),
            units: units.flat_map(|(at, row)| row.into_iter().map(move |word| (word, at))).collect(),
            synonyms,
            numbers: pairs("numbers").collect(),
        }
    }

    pub(crate) fn are_antonyms(&self, a: &str, b: &str) -> bool {
        self.antonyms.contains(&(a, b))
    }

    /// Which unit, currency or part of the calendar a word names; spellings of one are the same.
    pub(crate) fn unit(&self, word: &str) -> Option<usize> {
        self.units.get(word).copied()
    }

    /// The rows of words that may stand for each other in which a word is.
    pub(crate) fn synonym_rows(&self, word: &str) -> &[usize] {
        self.synonyms.get(word).map_or(&[], Vec::as_slice)
    }

    /// The digits of a number word; `one` has none, because it mostly is a pronoun.
    pub(crate) fn number(&self, word: &str) -> Option<&'static str> {
        self.numbers.get(word).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_is_read() {
        let lists = [
            &LEXICON.stopwords,
            &LEXICON.fillers,
            &LEXICON.negations,
            &LEXICON.negative_prefixes,
            &LEXICON.switching_on,
            &LEXICON.switching_off,
            &LEXICON.directions,
        ];
        assert!(lists.iter().all(|list| list.len() >= 10));
        assert!(LEXICON.are_antonyms("on", "off") && LEXICON.are_antonyms("off", "on"));
        assert_eq!(LEXICON.unit("km"), LEXICON.unit("kilometers"));
        assert_ne!(LEXICON.unit("am"), LEXICON.unit("pm"));
        assert_eq!(LEXICON.synonym_rows("buy"), LEXICON.synonym_rows("purchase"));
        assert_eq!((LEXICON.number("seven"), LEXICON.number("one")), (Some("7"), None));
    }
}
