//! What tokens cost at an endpoint.

use crate::money::NanoUsd;
use protocol::Usage;

/// Nano-dollars per million tokens of each class, which keeps every published price exact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    pub input: u64,
    /// Tokens read from the provider's prompt cache.
    pub cache_read: u64,
    /// Tokens written to it for its usual time, and for an hour.
    pub cache_write: u64,
    pub cache_write_1h: u64,
    pub output: u64,
    /// Of all output tokens of an answer that was thought about, where that is dearer (Alibaba's hybrid models).
    pub output_thinking: u64,
}

/// How long a request may ask its provider to remember the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    Usual,
    /// For an hour, which is dearer.
    Hour,
}

/// Prices of one endpoint; a prompt above a tier's size is billed at the tier's rates as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Price {
    pub base: Rates,
    /// By rising size.
    pub tiers: Vec<Tier>,
}

/// The rates of long prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tier {
    pub over_tokens: u64,
    pub rates: Rates,
}

impl Rates {
    /// Rates of which only input and output are known: what is not known costs what input or output costs.
    pub fn of(input: u64, output: u64) -> Self {
        Self { input, cache_read: input, cache_write: input, cache_write_1h: input, output, output_thinking: output }
    }

    /// The same with a price for writing to the prompt cache. Who sells that sells keeping a prompt for an hour at twice
    /// the price of input (platform.claude.com/docs/en/build-with-claude/prompt-caching).
    pub fn with_cache_write(self, cache_write: u64) -> Self {
        let cache_write_1h =
            if cache_write > self.input { self.input.saturating_mul(2).max(cache_write) } else { self.input };
        Self { cache_write, cache_write_1h, ..self }
    }

    /// Each rate times `1 + share`, rounded up; a negative share is a discount.
    pub fn scaled(self, share: f64) -> Self {
        let scale = |rate: u64| (rate as f64 * (1.0 + share)).ceil().max(0.0) as u64;
        Self {
            input: scale(self.input),
            cache_read: scale(self.cache_read),
            cache_write: scale(self.cache_write),
            cache_write_1h: scale(self.cache_write_1h),
            output: scale(self.output),
            output_thinking: scale(self.output_thinking),
        }
    }

    /// Each rate and `nano_per_mtok` on top.
    fn raised(self, nano_per_mtok: u64) -> Self {
        let raise = |rate: u64| rate.saturating_add(nano_per_mtok);
        Self {
            input: raise(self.input),
            cache_read: raise(self.cache_read),
            cache_write: raise(self.cache_write),
            cache_write_1h: raise(self.cache_write_1h),
            output: raise(self.output),
            output_thinking: raise(self.output_thinking),
        }
    }

    fn cost(&self, usage: Usage) -> NanoUsd {
        let output = if usage.reasoning_tokens > 0 { self.output_thinking } else { self.output };
        times(usage.input_tokens, self.input)
            + times(usage.cache_read_tokens, self.cache_read)
            + times(usage.cache_write_tokens, self.cache_write)
            + times(usage.cache_write_1h_tokens, self.cache_write_1h)
            + times(usage.completion_tokens(), output)
    }

    /// The dearest that an input token and an output token can be.
    fn dearest(&self, keeping: Keeping) -> (u64, u64) {
        let input = self.input.max(self.cache_read).max(self.cache_write);
        let input = if keeping == Keeping::Hour { input.max(self.cache_write_1h) } else { input };
        (input, self.output.max(self.output_thinking))
    }
}

impl Price {
    /// One rate for each class, whatever the prompt's length.
    pub fn flat(base: Rates) -> Self {
        Self { base, tiers: Vec::new() }
    }

    /// The same for all rates.
    pub fn scaled(&self, share: f64) -> Self {
        let tiers = self.tiers.iter().map(|tier| Tier { rates: tier.rates.scaled(share), ..*tier });
        Self { base: self.base.scaled(share), tiers: tiers.collect() }
    }

    /// All rates with so many nano-dollars for a million tokens on top.
    pub fn raised(&self, nano_per_mtok: u64) -> Self {
        let tiers = self.tiers.iter().map(|tier| Tier { rates: tier.rates.raised(nano_per_mtok), ..*tier });
        Self { base: self.base.raised(nano_per_mtok), tiers: tiers.collect() }
    }

    /// The rates of a prompt of so many tokens.
    pub fn rates(&self, prompt_tokens: u64) -> &Rates {
        let reached = self.tiers.iter().rev().find(|tier| prompt_tokens > tier.over_tokens);
        reached.map_or(&self.base, |tier| &tier.rates)
    }

    /// What these tokens cost, each class rounded up to a whole nano-dollar.
    pub fn cost(&self, usage: Usage) -> NanoUsd {
        self.rates(usage.prompt_tokens()).cost(usage)
    }

    /// What a request is expected to cost with nothing cached.
    pub fn expected(&self, input_tokens: u64, output_tokens: u64) -> NanoUsd {
        self.cost(Usage { input_tokens, output_tokens, ..Usage::default() })
    }

    /// The most that so many tokens can cost, whichever class they turn out to be.
    pub fn bound(&self, input_tokens: u64, output_tokens: u64, keeping: Keeping) -> NanoUsd {
        let (input, output) = self.rates(input_tokens).dearest(keeping);
        times(input_tokens, input) + times(output_tokens, output)
    }

    /// The most output tokens that `money` buys after `input_tokens`; `None` when the input alone is too dear.
    pub fn affordable_output_tokens(&self, money: NanoUsd, input_tokens: u64, keeping: Keeping) -> Option<u64> {
        let left = money - self.bound(input_tokens, 0, keeping);
        if left < NanoUsd::ZERO {
            return None;
        }
        let (_, output) = self.rates(input_tokens).dearest(keeping);
        if output == 0 {
            return Some(u64::MAX);
        }
        let tokens = i128::from(left.0) * 1_000_000 / i128::from(output);
        Some(u64::try_from(tokens).unwrap_or(u64::MAX))
    }
}

fn times(tokens: u64, nano_per_mtok: u64) -> NanoUsd {
    let nano = (u128::from(tokens) * u128::from(nano_per_mtok)).div_ceil(1_000_000);
    NanoUsd(i64::try_from(nano).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn price() -> Price {
        let base = Rates { cache_read: 9_000_000, ..Rates::of(37_500_000, 150_000_000).with_cache_write(46_875_000) };
        Price { base, tiers: vec![Tier { over_tokens: 200_000, rates: base.scaled(1.0) }] }
    }

    proptest! {
        #[test]
        fn cost_is_additive_up_to_rounding_and_never_below_the_exact_value(a in 0u64..100_000, b in 0u64..100_000) {
            let price = price();
            let (whole, split) = (price.expected(a + b, 0), price.expected(a, 0) + price.expected(b, 0));
            prop_assert!(whole <= split && split.0 - whole.0 <= 1);
            prop_assert!(i128::from(whole.0) * 1_000_000 >= i128::from(a + b) * 37_500_000);
        }

        #[test]
        fn what_is_affordable_is_affordable_and_one_token_more_is_not(money in 0i64..10_000_000_000, input in 0u64..400_000) {
            let price = price();
            if let Some(output) = price.affordable_output_tokens(NanoUsd(money), input, Keeping::Usual) {
                prop_assert!(price.bound(input, output, Keeping::Usual) <= NanoUsd(money));
                prop_assert!(price.bound(input, output + 1, Keeping::Usual) > NanoUsd(money));
            } else {
                prop_assert!(price.bound(input, 0, Keeping::Usual) > NanoUsd(money));
            }
        }

        #[test]
        fn no_split_of_a_prompt_into_classes_costs_more_than_the_bound(counts in proptest::array::uniform6(0u64..80_000)) {
            let [input_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens] = counts;
            let usage = Usage {
                input_tokens,
                cache_read_tokens,
                cache_write_tokens,
                cache_write_1h_tokens,
                output_tokens,
                reasoning_tokens,
                estimated: false,
            };
            let bound = price().bound(usage.prompt_tokens(), usage.completion_tokens(), Keeping::Hour);
            prop_assert!(price().cost(usage).0 <= bound.0 + 5); // each class is rounded up
            let usual = Usage { cache_write_1h_tokens: 0, ..usage };
            let bound = price().bound(usual.prompt_tokens(), usual.completion_tokens(), Keeping::Usual);
            prop_assert!(price().cost(usual).0 <= bound.0 + 5);
        }
    }

    #[test]
    fn a_prompt_above_a_tier_is_billed_at_it_as_a_whole() {
        let price = price();
        assert_eq!(price.expected(200_000, 0).0, 7_500_000);
        assert_eq!(price.expected(200_001, 0).0, 15_000_075);
        let thought = Usage { output_tokens: 500_000, reasoning_tokens: 500_000, ..Usage::default() };
        let dearer = Price::flat(Rates { output_thinking: 900_000_000, ..price.base });
        assert_eq!((price.cost(thought).0, dearer.cost(thought).0), (150_000_000, 900_000_000));
    }
}
