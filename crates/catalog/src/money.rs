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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_print_exactly() {
        assert_eq!(NanoUsd(1_000_000_001).to_string(), "1.000000001");
        assert_eq!(NanoUsd(-5).to_string(), "-0.000000005");
        assert_eq!(NanoUsd::from_usd(0.1), Some(NanoUsd(100_000_000)));
        assert_eq!(NanoUsd::from_usd(f64::NAN), None);
    }
}
