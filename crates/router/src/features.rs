//! What the predictor sees of a prompt: hashed words and word pairs, and counts that tell hard from easy.

use std::collections::HashMap;
use std::sync::LazyLock;

/// Changes whenever the numbers below change; an artefact of another version is refused.
pub const FEATURES_VERSION: u32 = 3;
/// Buckets of the hashed 1- and 2-grams.
pub const SPARSE_COUNT: usize = 1 << 15;
/// Length of [`Features::dense`].
pub const DENSE_COUNT: usize = 24;

/// Places of what is counted of letters' case.
const UPPERCASE: usize = 13;
const CAPITALISED: usize = 23;

/// Characters read of a prompt; longer ones are hard for other reasons than their tail.
const CHARS_MAX: usize = 8_000;

/// Different numbers counted of a prompt.
const NUMBERS_MAX: usize = 64;

/// The features of one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// Bucket and weight; weights have unit length.
    pub sparse: Vec<(u32, f32)>,
    pub dense: [f32; DENSE_COUNT],
}

impl Features {
    /// Reads a prompt.
    pub fn of(prompt: &str) -> Self {
        let end = prompt.char_indices().nth(CHARS_MAX).map_or(prompt.len(), |(at, _)| at);
        let text = &prompt[..end];
        let words = Words::of(text);
        let (sparse, different) = hashed_grams(&words);
        Self { dense: dense(text, &words, different), sparse }
    }

    /// The dense features with mean 0 and deviation 1, cut at three deviations: a prompt unlike all training data must not be
    /// extrapolated to. Where all letters are small, their case says how somebody types and nothing of the question.
    pub fn standardised<'a>(&'a self, mean: &'a [f32], deviation: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
        let has_case = self.dense[UPPERCASE] > 0.0;
        let scaled = self.dense.iter().zip(mean.iter().zip(deviation)).enumerate();
        scaled.map(move |(at, (x, (mean, deviation)))| match at {
            UPPERCASE | CAPITALISED if !has_case => 0.0,
            _ => ((x - mean) / deviation).clamp(-3.0, 3.0),
        })
    }
}

/// The words of a text, in one buffer.
struct Words {
    lower: String,
    ends: Vec<usize>,
}

impl Words {
    /// Lower-case runs of letters, runs of digits as `#`, and single signs that carry meaning in code and mathematics.
    fn of(text: &str) -> Self {
        let mut words = Self { lower: String::with_capacity(text.len()), ends: Vec::with_capacity(text.len() / 4) };
        let mut in_number = false;
        for c in text.chars() {
            let (numeric, is_word) = (c.is_ascii_digit(), c.is_alphanumeric());
            if !is_word || numeric != in_number {
                words.end();
            }
            if is_word {
                in_number = numeric;
                match numeric {
                    true if words.is_between() => words.lower.push('#'),
                    true => {}
                    false if c.is_ascii() => words.lower.push(c.to_ascii_lowercase()),
                    false => words.lower.extend(c.to_lowercase()),
                }
            } else if "+*/=^<>$\\{}[]()_|%".contains(c) {
                words.lower.push(c);
                words.end();
            }
        }
        words.end();
        words
    }

    fn is_between(&self) -> bool {
        self.lower.len() == self.ends.last().copied().unwrap_or(0)
    }

    fn end(&mut self) {
        if !self.is_between() {
            self.ends.push(self.lower.len());
        }
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn iter(&self) -> impl Iterator<Item = &str> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        begins.zip(&self.ends).map(|(begin, end)| &self.lower[begin..*end])
    }
}

/// The grams by bucket, and how many different words there are.
fn hashed_grams(words: &Words) -> (Vec<(u32, f32)>, usize) {
    let mut buckets: Vec<u32> = Vec::with_capacity(2 * words.len());
    let mut singles: Vec<u64> = Vec::with_capacity(words.len());
    for word in words.iter() {
        let single = hashed(OFFSET, word);
        buckets.push(bucket(single));
        buckets.extend(singles.last().map(|before| bucket(hashed(*before, word))));
        singles.push(single);
    }
    singles.sort_unstable();
    singles.dedup();
    buckets.sort_unstable();
    let mut counted: Vec<(u32, f32)> = Vec::new();
    for bucket in buckets {
        match counted.last_mut() {
            Some((last, count)) if *last == bucket => *count += 1.0,
            _ => counted.push((bucket, 1.0)),
        }
    }
    counted.iter_mut().for_each(|(_, count)| *count = 1.0 + count.ln());
    let length = counted.iter().map(|(_, weight)| weight * weight).sum::<f32>().sqrt().max(1e-6);
    counted.iter_mut().for_each(|(_, weight)| *weight /= length);
    (counted, singles.len())
}

/// FNV-1a, 64 bits (isthe.com/chongo/tech/comp/fnv): stable across versions of the standard library.
const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

fn hashed(from: u64, word: &str) -> u64 {
    word.bytes().chain([b' ']).fold(from, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

fn bucket(hash: u64) -> u32 {
    ((hash ^ (hash >> 32)) % SPARSE_COUNT as u64) as u32
}

fn dense(text: &str, words: &Words, different: usize) -> [f32; DENSE_COUNT] {
    let counted = Counted::of(text, words);
    let chars = counted.chars.max(1) as f32;
    let word_count = words.len().max(1) as f32;
    let share = |count: u32| count as f32 / chars;
    let signs = |signs: &str| signs.bytes().map(|sign| counted.ascii[sign as usize & 127]).sum::<u32>() as f32;
    let log = |count: f32| (1.0 + count).ln();
    let (letters, long) = words
        .iter()
        .map(|word| word.chars().count())
        .fold((0, 0.0), |(letters, long), length| (letters + length, if length >= 9 { long + 1.0 } else { long }));
    let numbers = numbers(text);
    [
        chars.ln(),
        word_count.ln(),
        share(signs("0123456789") as u32),
        log(counted.lists[NUMBER]),
        log(signs("+*/=^<>")),
        log(signs("$\\{}")),
        log(code_marks(text)),
        options(text),
        log(counted.lists[NEGATION]),
        log(signs("?")),
        log(signs("\n")),
        letters as f32 / word_count,
        long / word_count,
        share(counted.uppercase),
        share(counted.beyond_ascii),
        log(counted.lists[QUESTION]),
        log(sentences(text)),
        log(numbers.len() as f32),
        log(numbers.iter().copied().fold(0.0, f32::max)),
        different as f32 / word_count,
        log(signs(",")),
        log(signs("%")),
        log(counted.lists[PART]),
        log(capitalised(text)),
    ]
}

/// Marks of code; those of one kind do not overlap.
const CODE: [&str; 7] = ["```", "def ", "return ", "assert ", "    ", "();", "import "];

fn code_marks(text: &str) -> f32 {
    let mut count = 0.0;
    let mut free_from = [0; CODE.len()];
    for (at, byte) in text.bytes().enumerate() {
        if !matches!(byte, b'`' | b'd' | b'r' | b'a' | b' ' | b'(' | b'i') {
            continue;
        }
        for (mark, free) in CODE.iter().zip(&mut free_from) {
            if at >= *free && text.as_bytes()[at..].starts_with(mark.as_bytes()) {
                count += 1.0;
                *free = at + mark.len();
            }
        }
    }
    count
}

/// What one pass over the characters and one over the words count.
struct Counted {
    chars: u32,
    uppercase: u32,
    beyond_ascii: u32,
    ascii: [u32; 128],
    /// Words on each of [`LISTS`].
    lists: [f32; LISTS.len()],
}

const NUMBER: usize = 0;
const NEGATION: usize = 1;
const QUESTION: usize = 2;
const PART: usize = 3;
/// Words that are counted, by what they tell.
const LISTS: [&[&str]; 4] = [
    &["#"],
    &["not", "no", "never", "except", "without", "neither", "incorrect", "false"],
    &["if", "each", "per", "then", "total", "how", "many", "much", "times", "percent", "prove", "find"],
    &PARTS,
];

impl Counted {
    fn of(text: &str, words: &Words) -> Self {
        static KNOWN: LazyLock<HashMap<&str, Vec<usize>>> = LazyLock::new(|| {
            let mut known: HashMap<&str, Vec<usize>> = HashMap::new();
            for (list, words) in LISTS.iter().enumerate() {
                words.iter().for_each(|word| known.entry(word).or_default().push(list));
            }
            known
        });
        let mut counted = Self { chars: 0, uppercase: 0, beyond_ascii: 0, ascii: [0; 128], lists: [0.0; LISTS.len()] };
        for c in text.chars() {
            counted.chars += 1;
            counted.uppercase += u32::from(c.is_uppercase());
            match counted.ascii.get_mut(c as usize) {
                Some(count) => *count += 1,
                None => counted.beyond_ascii += 1,
            }
        }
        for list in words.iter().filter_map(|word| KNOWN.get(word)).flatten() {
            counted.lists[*list] += 1.0;
        }
        counted
    }
}

/// Words of shares, multiples and comparisons: arithmetic in disguise.
const PARTS: [&str; 19] = [
    "half",
    "third",
    "quarter",
    "twice",
    "double",
    "triple",
    "fraction",
    "ratio",
    "percent",
    "average",
    "more",
    "less",
    "fewer",
    "remaining",
    "left",
    "rest",
    "than",
    "each",
    "every",
];

fn sentences(text: &str) -> f32 {
    let mut chars = text.chars().peekable();
    let mut count = 0.0;
    while let Some(c) = chars.next() {
        if ".!?".contains(c) && chars.peek().is_none_or(|next| next.is_whitespace()) {
            count += 1.0;
        }
    }
    count
}

/// The different numbers of a text, thousands separated by commas or not.
fn numbers(text: &str) -> Vec<f32> {
    let mut found = Vec::new();
    for run in text.split(|c: char| !c.is_ascii_digit() && c != ',' && c != '.') {
        let digits: String = run.trim_matches(['.', ',']).chars().filter(|c| *c != ',').collect();
        if let Ok(number) = digits.parse::<f32>()
            && number.is_finite()
            && !found.contains(&number)
        {
            found.push(number);
            if found.len() == NUMBERS_MAX {
                break;
            }
        }
    }
    found
}

/// Words that begin with a capital and go on in small letters.
fn capitalised(text: &str) -> f32 {
    let is_capitalised = |word: &&str| {
        let mut chars = word.chars();
        chars.next().is_some_and(char::is_uppercase) && chars.next().is_some_and(char::is_lowercase)
    };
    text.split(|c: char| !c.is_alphanumeric()).filter(is_capitalised).count() as f32
}

/// How many answers a multiple-choice prompt offers: lines that begin with a letter and a full stop or bracket.
fn options(text: &str) -> f32 {
    let is_option = |line: &&str| {
        let mut chars = line.trim_start().chars();
        matches!((chars.next(), chars.next()), (Some('A'..='J' | 'a'..='j'), Some('.' | ')' | ':')))
    };
    text.lines().filter(is_option).count() as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_one_word_and_grams_are_normalised() {
        assert_eq!(Words::of("Add 12+345, x2!").iter().collect::<Vec<_>>(), ["add", "#", "+", "#", "x", "#"]);
        let features = Features::of("one two two");
        let length: f32 = features.sparse.iter().map(|(_, weight)| weight * weight).sum();
        assert!((length - 1.0).abs() < 1e-5);
        assert_eq!((sentences("One. Two? 3.5 three"), capitalised("A Robe takes iPod Blue")), (2.0, 2.0));
        assert_eq!(numbers("1,200 of 3.5, then 3.5 and 7."), [1_200.0, 3.5, 7.0]);
        assert_eq!(options("Q?\nA. x\nb) y\nAnswer: z"), 2.0);
        let places = Features::of("A Robe").dense;
        assert!(places[UPPERCASE] > 0.0 && places[CAPITALISED] > 0.0, "{places:?}");
    }

    #[test]
    fn small_letters_throughout_say_nothing_of_case() {
        let (mean, deviation) = ([0.5; DENSE_COUNT], [0.1; DENSE_COUNT]);
        let of = |text: &str| Features::of(text).standardised(&mean, &deviation).collect::<Vec<_>>();
        let (small, usual) = (of("which river runs through rome?"), of("Which river runs through Rome?"));
        let differs: Vec<usize> = (0..DENSE_COUNT).filter(|at| small[*at] != usual[*at]).collect();
        assert_eq!(differs, [UPPERCASE, CAPITALISED]);
        assert_eq!((small[UPPERCASE], small[CAPITALISED]), (0.0, 0.0));
    }

    proptest! {
        #[test]
        fn any_text_has_finite_features(text in ".{0,300}") {
            let features = Features::of(&text);
            prop_assert!(features.dense.iter().all(|value| value.is_finite()));
            prop_assert!(features.sparse.iter().all(|(bucket, weight)| (*bucket as usize) < SPARSE_COUNT && weight.is_finite()));
        }
    }
}
