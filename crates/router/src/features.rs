//! What the predictor sees of a prompt: hashed words and word pairs, and counts that tell hard from easy.

use std::collections::HashSet;

/// Changes whenever the numbers below change; an artefact of another version is refused.
pub const FEATURES_VERSION: u32 = 2;
/// Buckets of the hashed 1- and 2-grams.
pub const SPARSE_COUNT: usize = 1 << 15;
/// Length of [`Features::dense`].
pub const DENSE_COUNT: usize = 24;

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
        let text: String = prompt.chars().take(CHARS_MAX).collect();
        let words = words(&text);
        Self { sparse: hashed_grams(&words), dense: dense(&text, &words) }
    }
}

/// Lower-case runs of letters, runs of digits as `#`, and single signs that carry meaning in code and mathematics.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut current = String::new();
    let mut in_number = false;
    for c in text.chars() {
        let numeric = c.is_ascii_digit();
        if !current.is_empty() && (!c.is_alphanumeric() || numeric != in_number) {
            words.push(std::mem::take(&mut current));
        }
        if c.is_alphanumeric() {
            in_number = numeric;
            match numeric {
                true if current.is_empty() => current.push('#'),
                true => {}
                false => current.extend(c.to_lowercase()),
            }
        } else if "+*/=^<>$\\{}[]()_|%".contains(c) {
            words.push(c.to_string());
        }
    }
    if !current.is_empty() {
        words.push(current);
    }
    words
}

fn hashed_grams(words: &[String]) -> Vec<(u32, f32)> {
    let mut buckets: Vec<u32> = words.iter().map(|word| bucket(&[word])).collect();
    buckets.extend(words.windows(2).map(|pair| bucket(&[&pair[0], &pair[1]])));
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
    counted
}

/// FNV-1a, 64 bits (isthe.com/chongo/tech/comp/fnv), folded to a bucket: stable across versions of the standard library.
fn bucket(parts: &[&str]) -> u32 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts.iter().flat_map(|part| part.bytes().chain([b' '])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    ((hash ^ (hash >> 32)) % SPARSE_COUNT as u64) as u32
}

fn dense(text: &str, words: &[String]) -> [f32; DENSE_COUNT] {
    let chars = text.chars().count().max(1) as f32;
    let word_count = words.len().max(1) as f32;
    let share = |test: fn(char) -> bool| text.chars().filter(|c| test(*c)).count() as f32 / chars;
    let count_words = |wanted: &[&str]| words.iter().filter(|word| wanted.contains(&word.as_str())).count() as f32;
    let count_text = |wanted: &[&str]| wanted.iter().map(|mark| text.matches(mark).count()).sum::<usize>() as f32;
    let letters: usize = words.iter().map(|word| word.chars().count()).sum();
    let numbers = numbers(text);
    let long = words.iter().filter(|word| word.chars().count() >= 9).count() as f32;
    [
        chars.ln(),
        word_count.ln(),
        share(|c| c.is_ascii_digit()),
        (1.0 + count_words(&["#"])).ln(),
        (1.0 + count_text(&["+", "*", "/", "=", "^", "<", ">"])).ln(),
        (1.0 + count_text(&["$", "\\", "{", "}"])).ln(),
        (1.0 + count_text(&["```", "def ", "return ", "assert ", "    ", "();", "import "])).ln(),
        options(text),
        (1.0 + count_words(&["not", "no", "never", "except", "without", "neither", "incorrect", "false"])).ln(),
        (1.0 + count_text(&["?"])).ln(),
        (1.0 + count_text(&["\n"])).ln(),
        letters as f32 / word_count,
        long / word_count,
        share(char::is_uppercase),
        share(|c| !c.is_ascii()),
        (1.0 + count_words(&[
            "if", "each", "per", "then", "total", "how", "many", "much", "times", "percent", "prove", "find",
        ]))
        .ln(),
        (1.0 + sentences(text)).ln(),
        (1.0 + numbers.len() as f32).ln(),
        (1.0 + numbers.iter().copied().fold(0.0, f32::max)).ln(),
        words.iter().collect::<HashSet<_>>().len() as f32 / word_count,
        (1.0 + count_text(&[","])).ln(),
        (1.0 + count_text(&["%"])).ln(),
        (1.0 + count_words(&PARTS)).ln(),
        (1.0 + capitalised(text)).ln(),
    ]
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
        matches!((chars.next(), chars.next()), (Some('A'..='J'), Some('.' | ')' | ':')))
    };
    text.lines().filter(is_option).count() as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_one_word_and_grams_are_normalised() {
        assert_eq!(words("Add 12+345, x2!"), ["add", "#", "+", "#", "x", "#"]);
        let features = Features::of("one two two");
        let length: f32 = features.sparse.iter().map(|(_, weight)| weight * weight).sum();
        assert!((length - 1.0).abs() < 1e-5);
        assert_eq!((sentences("One. Two? 3.5 three"), capitalised("A Robe takes iPod Blue")), (2.0, 2.0));
        assert_eq!(numbers("1,200 of 3.5, then 3.5 and 7."), [1_200.0, 3.5, 7.0]);
        assert_eq!(options("Q?\nA. x\nB) y\nAnswer: z"), 2.0);
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
