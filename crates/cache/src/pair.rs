//! What two prompts have in common, in numbers.

use crate::guard::Form;
use crate::sketch::{Sketch, Token};

/// How many features there are of a pair.
pub const FEATURE_COUNT: usize = 25;
/// Counted up when a feature changes: an artefact belongs to one version.
pub const FEATURES_VERSION: u32 = 2;

/// The features of a pair, each named where it is computed.
pub type Features = [f32; FEATURE_COUNT];

/// Positions that the decision looks at beside the pair's score.
pub(crate) const WEIGHTIEST_UNMATCHED: usize = 13;
pub(crate) const SLOT: usize = 17;
pub(crate) const NARROWER: usize = 18;

/// Compares a prompt with a stored one of this cosine and form.
pub(crate) fn features(asked: &Sketch, stored: &Sketch, cosine: f32, form: Form) -> Features {
    let (a, b) = (&asked.tokens, &stored.tokens);
    let (set_a, set_b) = (distinct(a), distinct(b));
    let shared: f32 = set_a.iter().filter(|token| has(&set_b, token)).map(|token| token.weight).sum();
    let shared_count = set_a.iter().filter(|token| has(&set_b, token)).count() as f32;
    let sum = |tokens: &[Token]| tokens.iter().map(|token| token.weight).sum::<f32>();
    let (weight_a, weight_b) = (sum(&set_a), sum(&set_b));
    let (own_a, own_b) = (unmatched(a, &set_b), unmatched(b, &set_a));
    let weightiest = own_a.iter().chain(&own_b).fold(0.0f32, |most, token| most.max(token.weight));
    let (long, short) = (a.len().max(b.len()) as f32, a.len().min(b.len()) as f32);
    let (numbers_a, numbers_b) = (&asked.reading.numbers, &stored.reading.numbers);
    let both = numbers_a.iter().filter(|number| numbers_b.contains(number)).count() as f32;
    let first = |sketch: &Sketch| sketch.reading.words.first().map(|word| word.text.clone());
    let flag = |applies: bool| f32::from(u8::from(applies));
    [
        10.0 * (cosine - 0.85),                                                      // cosine
        share(shared_count, set_a.len() as f32 + set_b.len() as f32 - shared_count), // shared words
        share(shared, weight_a + weight_b - shared),                                 // shared words by weight
        share(shared, weight_a.max(weight_b)),                                       // containment in the larger
        share(shared, weight_a.min(weight_b)),                                       // containment in the smaller
        common(&asked.trigrams, &stored.trigrams),                                   // shared trigrams
        share(short, long),                                                          // ratio of lengths
        (long - short) / 10.0,                                                       // difference of lengths
        flag(first(asked) == first(stored)),                                         // same first word
        both,                                                                        // numbers of both
        own_a.len().min(own_b.len()) as f32 / 5.0,                                   // unmatched words, the fewer
        own_a.len().max(own_b.len()) as f32 / 5.0,                                   // unmatched words, the more
        (sum(&own_a) + sum(&own_b)) / 5.0,                                           // unmatched weight
        weightiest,                                                                  // weightiest unmatched word
        order(a, b),                                                                 // order of shared words
        common(&bigrams(a), &bigrams(b)),                                            // shared bigrams
        flag(form.asks_otherwise),                                                   // asks otherwise
        flag(form.is_slot),                                                          // slot
        flag(form.is_narrower),                                                      // narrower
        flag(form.numbers_differ),                                                   // numbers differ
        flag(form.units_differ),                                                     // units differ
        flag(form.negations_differ),                                                 // negations differ
        flag(form.turns_round),                                                      // turned round
        flag(form.names_differ),                                                     // names differ
        flag(form.literals_differ),                                                  // literals differ
    ]
}

/// A part of a whole, 1 of nothing.
fn share(part: f32, whole: f32) -> f32 {
    if whole > 0.0 { part / whole } else { 1.0 }
}

/// Sorted by stem, each once.
fn distinct(tokens: &[Token]) -> Vec<Token> {
    let mut distinct = tokens.to_vec();
    distinct.sort_unstable_by_key(|token| token.stem);
    distinct.dedup_by_key(|token| token.stem);
    distinct
}

fn has(distinct: &[Token], token: &Token) -> bool {
    distinct.binary_search_by_key(&token.stem, |known| known.stem).is_ok()
}

fn unmatched(tokens: &[Token], other: &[Token]) -> Vec<Token> {
    tokens.iter().filter(|token| !has(other, token)).copied().collect()
}

/// Sorted pairs of neighbouring stems, each once.
fn bigrams(tokens: &[Token]) -> Vec<u64> {
    let mut bigrams: Vec<u64> = tokens.windows(2).map(|two| two[0].stem.rotate_left(1) ^ two[1].stem).collect();
    bigrams.sort_unstable();
    bigrams.dedup();
    bigrams
}

/// Jaccard's index of two sorted sets.
fn common(a: &[u64], b: &[u64]) -> f32 {
    let (mut at, mut other, mut both) = (0, 0, 0usize);
    while let (Some(x), Some(y)) = (a.get(at), b.get(other)) {
        both += usize::from(x == y);
        at += usize::from(x <= y);
        other += usize::from(y <= x);
    }
    share(both as f32, (a.len() + b.len() - both) as f32)
}

/// Kendall's rank correlation of where shared stems first stand, −1 to 1; 1 where fewer than two are shared. Of long
/// prompts the first words count.
fn order(a: &[Token], b: &[Token]) -> f32 {
    const WORDS_MAX: usize = 64;
    let mut places: Vec<usize> = Vec::new();
    let (a, b) = (&a[..a.len().min(WORDS_MAX)], &b[..b.len().min(WORDS_MAX)]);
    for (at, token) in a.iter().enumerate() {
        let is_first = !a[..at].iter().any(|earlier| earlier.stem == token.stem);
        if let (true, Some(place)) = (is_first, b.iter().position(|other| other.stem == token.stem)) {
            places.push(place);
        }
    }
    let pairs = places.len() * places.len().saturating_sub(1) / 2;
    let rising = (0..places.len()).map(|at| places[at + 1..].iter().filter(|later| **later > places[at]).count());
    if pairs == 0 { 1.0 } else { 2.0 * rising.sum::<usize>() as f32 / pairs as f32 - 1.0 }
}
