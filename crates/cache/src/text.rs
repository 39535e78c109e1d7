//! Reading a prompt as the guard compares it: words with stems, numbers, quoted parts.

use crate::lexicon::LEXICON;
use foldhash::HashMap;
use rust_stemmers::{Algorithm, Stemmer};
use std::collections::BTreeSet;

/// One word of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Word {
    /// Lower-case, without possessive.
    pub text: String,
    pub stem: String,
    /// Written like a name: a capital inside a sentence, several capitals, letters and digits or signs mixed (`c++`), or
    /// a letter alone.
    pub name_like: bool,
    /// Carries meaning of its own.
    pub is_content: bool,
    pub is_filler: bool,
    /// Stands behind a number, as units do.
    pub follows_number: bool,
    /// Rows of words that may stand for it.
    pub synonyms: Vec<usize>,
    /// The embedder knows it as one piece.
    pub is_known: bool,
    /// How much it says, 0 to 1.
    pub weight: f32,
}

/// Words that an embedder knows, lower-case, each with how much it says, 0 to 1.
pub type Words = HashMap<String, f32>;

/// What a word says that the embedder does not know, and a number.
pub(crate) const RARE: f32 = 1.0;

/// A prompt taken apart.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reading {
    pub words: Vec<Word>,
    /// Numbers in order, number words and ordinals included.
    pub numbers: Vec<String>,
    /// What stands in quotes or backticks, URLs, paths and identifiers.
    pub literals: BTreeSet<String>,
    /// Signs of formulas and code in order.
    pub operators: String,
    /// Signs of currency and percent.
    pub signs: BTreeSet<char>,
    /// What most letters are written in.
    pub script: Script,
}

/// A family of letters, told apart by the blocks of Unicode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Script {
    /// No letters at all.
    #[default]
    None,
    Latin,
    Greek,
    Cyrillic,
    Hebrew,
    Arabic,
    Indic,
    Thai,
    Hangul,
    Kana,
    Han,
    Other,
}

impl Script {
    fn of(prompt: &str) -> Self {
        let mut counts = [(0usize, Self::None); 11];
        for letter in prompt.chars().filter(|c| c.is_alphabetic()) {
            let script = Self::of_letter(letter);
            counts[script as usize - 1] = (counts[script as usize - 1].0 + 1, script);
        }
        counts.into_iter().max().map_or(Self::None, |(_, script)| script)
    }

    fn of_letter(letter: char) -> Self {
        match u32::from(letter) {
            0..=0x24f | 0x1e00..=0x1eff => Self::Latin,
            0x370..=0x3ff | 0x1f00..=0x1fff => Self::Greek,
            0x400..=0x52f => Self::Cyrillic,
            0x590..=0x5ff => Self::Hebrew,
            0x600..=0x77f => Self::Arabic,
            0x900..=0xdff => Self::Indic,
            0xe00..=0xe7f => Self::Thai,
            0x1100..=0x11ff | 0xac00..=0xd7af => Self::Hangul,
            0x3040..=0x30ff => Self::Kana,
            0x3400..=0x9fff | 0xf900..=0xfaff | 0x20000..=0x3ffff => Self::Han,
            _ => Self::Other,
        }
    }
}

impl Word {
    fn new(text: String, stem: String, (name_like, follows_number): (bool, bool), words: &Words) -> Self {
        let is_filler = LEXICON.fillers.contains(text.as_str()) || LEXICON.fillers.contains(stem.as_str());
        let mut synonyms = LEXICON.synonym_rows(&text).to_vec();
        if stem != text {
            synonyms.extend_from_slice(LEXICON.synonym_rows(&stem));
        }
        let weight = words.get(&text).or_else(|| words.get(&stem)).copied();
        Self {
            is_content: !LEXICON.stopwords.contains(text.as_str()),
            is_known: weight.is_some() || words.contains_key(&format!("{stem}e")),
            weight: weight.unwrap_or(RARE),
            is_filler,
            follows_number,
            synonyms,
            text,
            stem,
            name_like,
        }
    }

    /// True where nobody knows the word: it may be a name in small letters.
    pub(crate) fn is_rare(&self) -> bool {
        let alphabetic = self.text.chars().all(char::is_alphabetic);
        let listed = self.is_filler || !self.synonyms.is_empty();
        alphabetic && !listed && !self.is_known && self.text.chars().count() >= 3
    }

    /// True where one of two longer words, which nobody knows, is the other, which is known, but for a slip of the
    /// keyboard. Two unknown words may be names, and so may two known ones.
    pub(crate) fn is_misspelling_of(&self, other: &Self) -> bool {
        let (a, b) = (self.text.as_str(), other.text.as_str());
        let slips = match a.len().min(b.len()) {
            0..=4 => return false,
            5..=8 => 1,
            _ => 2,
        };
        let may_be = !self.name_like && !other.name_like && self.is_known != other.is_known;
        may_be && a.len().abs_diff(b.len()) <= slips && strsim::osa_distance(a, b) <= slips
    }

    /// True where exchanging the word can change what is asked.
    pub(crate) fn is_weighty(&self) -> bool {
        self.is_content && !self.is_filler
    }

    /// True where either may stand for the other.
    pub(crate) fn is_synonym_of(&self, other: &Self) -> bool {
        self.synonyms.iter().any(|row| other.synonyms.contains(row))
    }

    /// True where both are forms of one word.
    pub(crate) fn is_form_of(&self, other: &Self) -> bool {
        self.stem == other.stem || self.text == other.text
    }
}

impl Reading {
    pub(crate) fn of(prompt: &str, words: &Words) -> Self {
        let stemmer = Stemmer::create(Algorithm::English);
        let mut reading = Self {
            literals: quoted(prompt),
            operators: operators(prompt),
            script: Script::of(prompt),
            ..Self::default()
        };
        let (mut starts_sentence, mut follows_number) = (true, false);
        for raw in prompt.split_whitespace() {
            let trimmed = raw.trim_matches(|c: char| !c.is_alphanumeric() && !"$€£¥%+#".contains(c));
            reading.signs.extend(trimmed.chars().filter(|c| "$€£¥%".contains(*c)));
            if is_identifier(trimmed) {
                reading.literals.insert(trimmed.to_lowercase());
            }
            for piece in pieces(trimmed) {
                let numbers = reading.numbers.len();
                // A letter alone, not a part of `e-mail`, is a name: of a language, a vitamin, a variable.
                let is_letter = piece.len() == 1 && trimmed.len() == 1 && !["a", "i"].contains(&&*piece.to_lowercase());
                reading.add(&piece, (starts_sentence, follows_number), (&stemmer, words));
                if let (true, Some(word)) = (is_letter && reading.numbers.len() == numbers, reading.words.last_mut()) {
                    word.name_like = true;
                }
                (starts_sentence, follows_number) = (false, reading.numbers.len() > numbers);
            }
            starts_sentence = starts_sentence || raw.ends_with(['.', '!', '?', ':', '\n']);
        }
        reading
    }

    fn add(&mut self, piece: &str, place: (bool, bool), (stemmer, words): (&Stemmer, &Words)) {
        let (starts_sentence, follows_number) = place;
        if let Some(number) = number(piece) {
            self.numbers.push(number);
            return;
        }
        let lower = piece.to_lowercase();
        if let Some(number) = LEXICON.number(&lower) {
            self.numbers.push(number.to_owned());
            return;
        }
        let capitals = piece.chars().filter(|c| c.is_uppercase()).count();
        let has_digit = piece.chars().any(|c| c.is_ascii_digit());
        let shouted = capitals > 1;
        let has_sign = piece.contains(['+', '#']);
        let name_like =
            has_digit || has_sign || shouted || (capitals == 1 && !starts_sentence && piece.chars().count() > 1);
        for text in expand(&lower) {
            let stem = stemmer.stem(&text).into_owned();
            self.words.push(Word::new(text, stem, (name_like, follows_number), words));
        }
    }
}

/// Signs that calculate or compare; a hyphen inside a word is none.
fn operators(prompt: &str) -> String {
    let chars: Vec<char> = prompt.chars().collect();
    let is_letter = |at: Option<usize>| at.and_then(|at| chars.get(at)).is_some_and(|c| c.is_alphabetic());
    let counts = |(at, c): &(usize, &char)| match c {
        '+' | '*' | '=' | '^' | '<' | '>' | '×' | '÷' | '−' | '≤' | '≥' | '≠' | '√' => true,
        '-' | '/' => !(is_letter(at.checked_sub(1)) && is_letter(Some(at + 1))),
        _ => false,
    };
    chars.iter().enumerate().filter(counts).map(|(_, c)| if *c == '−' { '-' } else { *c }).collect()
}

/// Splits at hyphens, slashes and between digits and letters (`7pm`, `$5`), keeping decimals and thousands together.
fn pieces(token: &str) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut current = String::new();
    let chars: Vec<char> = token.chars().collect();
    for (at, &c) in chars.iter().enumerate() {
        let previous = at.checked_sub(1).and_then(|before| chars.get(before));
        let inside_number = ".,".contains(c)
            && previous.is_some_and(char::is_ascii_digit)
            && chars.get(at + 1).is_some_and(char::is_ascii_digit);
        let begins_unit = c.is_alphabetic() && current.chars().next().is_some_and(|first| first.is_ascii_digit());
        if c.is_alphanumeric() || inside_number || "'’".contains(c) || (c == '+' || c == '#') && !current.is_empty() {
            if begins_unit && current.chars().all(|c| c.is_ascii_digit() || ".,".contains(c)) {
                pieces.push(std::mem::take(&mut current));
            }
            current.push(if c == '’' { '\'' } else { c });
        } else if !current.is_empty() {
            pieces.push(std::mem::take(&mut current));
        }
    }
    if !current.is_empty() {
        pieces.push(current);
    }
    pieces
}

/// The value of a piece made of digits; `1,000` and `1000` are the same, an ordinal's ending was split off before.
fn number(piece: &str) -> Option<String> {
    let digits: String = piece.chars().filter(|c| *c != ',').collect();
    let is_number =
        digits.starts_with(|c: char| c.is_ascii_digit()) && digits.chars().all(|c| c.is_ascii_digit() || c == '.');
    let normal = digits.trim_start_matches('0');
    is_number.then(|| if normal.is_empty() { "0".to_owned() } else { normal.to_owned() })
}

/// Undoes contractions, so that `don't` and `do not` read alike, and drops possessives.
fn expand(lower: &str) -> Vec<String> {
    let owned = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect();
    match lower {
        "can't" | "cannot" => return owned(&["can", "not"]),
        "won't" => return owned(&["will", "not"]),
        "dont" | "doesnt" | "didnt" => return owned(&["do", "not"]),
        "cant" => return owned(&["can", "not"]),
        "isnt" | "arent" => return owned(&["is", "not"]),
        "whats" => return owned(&["what", "is"]),
        _ => {}
    }
    if let Some(verb) = lower.strip_suffix("n't") {
        return owned(&[verb, "not"]);
    }
    let bare = lower.split('\'').next().unwrap_or(lower);
    if bare.is_empty() { Vec::new() } else { vec![bare.to_owned()] }
}

/// URLs, paths, dotted or underscored names, flags.
fn is_identifier(token: &str) -> bool {
    let inner = token.trim_matches(|c: char| !c.is_alphanumeric());
    let has = |c: char| inner.contains(c);
    inner.contains("://")
        || has('_')
        || has('\\')
        || has('@')
        || (has('.') && !inner.ends_with('.') && number(inner).is_none())
}

/// The parts between matching quotes or backticks.
fn quoted(prompt: &str) -> BTreeSet<String> {
    let mut literals = BTreeSet::new();
    for (open, close) in [('"', '"'), ('`', '`'), ('“', '”')] {
        let mut rest = prompt;
        while let Some(begin) = rest.find(open) {
            let inside = &rest[begin + open.len_utf8()..];
            let Some(end) = inside.find(close) else { break };
            literals.insert(inside[..end].trim().to_lowercase());
            rest = &inside[end + close.len_utf8()..];
        }
    }
    literals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_numbers_and_names_are_read_by_form() {
        let reading = Reading::of("Don't send Vorland's 7pm order of $1,250.50 to B-52, ok?", &Words::default());
        let words: Vec<&str> = reading.words.iter().map(|word| word.text.as_str()).collect();
        assert_eq!(words, ["do", "not", "send", "vorland", "pm", "order", "of", "to", "b", "ok"]);
        assert_eq!(reading.numbers, ["7", "1250.50", "52"]);
        assert!(reading.words[3].name_like && !reading.words[0].name_like);
        assert!(reading.signs.contains(&'$'));
    }

    #[test]
    fn literals_are_quotes_and_identifiers() {
        let reading =
            Reading::of("Why does `git pull` fail in src/main.rs with \"Permission denied\"?", &Words::default());
        let literals: Vec<&str> = reading.literals.iter().map(String::as_str).collect();
        assert_eq!(literals, ["git pull", "permission denied", "src/main.rs"]);
    }
}
