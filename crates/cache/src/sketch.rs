//! A prompt taken apart once, for every comparison with another.

use crate::text::{RARE, Reading, Words};
use foldhash::fast::FixedState;
use std::hash::BuildHasher;

/// What comparisons need of a prompt.
#[derive(Debug, Clone, Default)]
pub struct Sketch {
    pub(crate) reading: Reading,
    /// Stems of the words, then the numbers, in order.
    pub(crate) tokens: Vec<Token>,
    /// Hashes of the text's character trigrams, sorted, without repetition.
    pub(crate) trigrams: Vec<u64>,
}

/// A word's stem or a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Token {
    pub stem: u64,
    /// How much it says, 0 to 1.
    pub weight: f32,
}

impl Sketch {
    /// Takes a prompt apart; `words` are the embedder's.
    pub(crate) fn of(prompt: &str, words: &Words) -> Self {
        let reading = Reading::of(prompt, words);
        let said = reading.words.iter().map(|word| Token { stem: hash(&word.stem), weight: word.weight });
        let numbers = reading.numbers.iter().map(|number| Token { stem: hash(number), weight: RARE });
        let tokens = said.chain(numbers).collect();
        Self { trigrams: trigrams(prompt), tokens, reading }
    }
}

/// The same for the same word, as long as the process lives.
fn hash(word: &str) -> u64 {
    FixedState::default().hash_one(word)
}

fn trigrams(prompt: &str) -> Vec<u64> {
    let letters: Vec<char> = prompt.chars().flat_map(char::to_lowercase).collect();
    let code = |three: &[char]| three.iter().fold(0, |code, letter| code << 21 | u64::from(u32::from(*letter)));
    let mut trigrams: Vec<u64> = letters.windows(3).map(code).collect();
    trigrams.sort_unstable();
    trigrams.dedup();
    trigrams
}
