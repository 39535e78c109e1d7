//! Money as integer nano-dollars, and what tokens cost.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub, SubAssign};

/// An amount in nano-dollars (10⁻⁹ USD); negative where something is owed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NanoUsd(pub i64);

const NANO_PER_USD: f64 = 1e9;

impl NanoUsd {
    pub const ZERO: Self = Self(0);

    /// Rounds dollars to nano-dollars; for reading configuration and requests only. `None` when not finite or beyond
    /// about nine billion dollars.
    pub fn from_usd(usd: f64) -> Option<Self> {
        let nano = (usd * NANO_PER_USD).round();
        (nano.is_finite() && nano.abs() < 9e18).then_some(Self(nano as i64))
    }

    /// Dollars as a float, for JSON only.
    pub fn as_usd(self) -> f64 {
        self.0 as f64 / NANO_PER_USD
    }
}

impl fmt::Display for NanoUsd {
    /// Dollars with nine decimals, exact.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let nano = self.0.unsigned_abs();
        write!(formatter, "{sign}{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000)
    }
}

impl Add for NanoUsd {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for NanoUsd {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl AddAssign for NanoUsd {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for NanoUsd {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Sum for NanoUsd {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

/// Prices of one endpoint in nano-dollars per million tokens, which keeps every published price exact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Price {
    pub input_nano_per_mtok: u64,
    pub cache_read_nano_per_mtok: u64,
    pub output_nano_per_mtok: u64,
}

impl Price {
    /// What these tokens cost, each class rounded up to a whole nano-dollar.
    pub fn cost(&self, input_tokens: u64, cache_read_tokens: u64, output_tokens: u64) -> NanoUsd {
        times(input_tokens, self.input_nano_per_mtok)
            + times(cache_read_tokens, self.cache_read_nano_per_mtok)
            + times(output_tokens, self.output_nano_per_mtok)
    }

    /// The most output tokens that `money` buys after `input_tokens`; `None` when the input alone is too dear.
    pub fn affordable_output_tokens(&self, money: NanoUsd, input_tokens: u64) -> Option<u64> {
        let left = money - self.cost(input_tokens, 0, 0);
        if left < NanoUsd::ZERO {
            return None;
        }
        if self.output_nano_per_mtok == 0 {
            return Some(u64::MAX);
        }
        let tokens = i128::from(left.0) * 1_000_000 / i128::from(self.output_nano_per_mtok);
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

    const PRICE: Price = Price {
        input_nano_per_mtok: 37_500_000,
        cache_read_nano_per_mtok: 9_000_000,
        output_nano_per_mtok: 150_000_000,
    };

    proptest! {
        #[test]
        fn cost_is_additive_up_to_rounding_and_never_below_the_exact_value(a in 0u64..10_000_000, b in 0u64..10_000_000) {
            let (whole, split) = (PRICE.cost(a + b, 0, 0), PRICE.cost(a, 0, 0) + PRICE.cost(b, 0, 0));
            prop_assert!(whole <= split && split.0 - whole.0 <= 1);
            prop_assert!(i128::from(whole.0) * 1_000_000 >= i128::from(a + b) * 37_500_000);
        }

        #[test]
        fn what_is_affordable_is_affordable_and_one_token_more_is_not(money in 0i64..10_000_000_000, input in 0u64..100_000) {
            if let Some(output) = PRICE.affordable_output_tokens(NanoUsd(money), input) {
                prop_assert!(PRICE.cost(input, 0, output) <= NanoUsd(money));
                prop_assert!(PRICE.cost(input, 0, output + 1) > NanoUsd(money));
            } else {
                prop_assert!(PRICE.cost(input, 0, 0) > NanoUsd(money));
            }
        }
    }

    #[test]
    fn amounts_print_exactly() {
        assert_eq!(NanoUsd(1_000_000_001).to_string(), "1.000000001");
        assert_eq!(NanoUsd(-5).to_string(), "-0.000000005");
        assert_eq!(NanoUsd::from_usd(0.1), Some(NanoUsd(100_000_000)));
        assert_eq!(NanoUsd::from_usd(f64::NAN), None);
    }
}
