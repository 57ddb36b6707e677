//! Money in minor units. Never a float inside; in JSON a number (or string) with at most two places.

use std::fmt;
use std::iter::Sum;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::id::ParseError;

/// An amount, 0 or more, in minor units (fen, cents).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Money(i64);

impl Money {
    /// Largest amount: 10^12 minor units. Any sum of an order's 64 lines of it still fits in an i64, and every value
    /// up to it is exact as a JSON number.
    pub const MAX_MINOR: i64 = 1_000_000_000_000;
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// From a sum of amounts, minor units, which may be over the limit of one.
    #[must_use]
    pub const fn of_sum(minor: i64) -> Self {
        Self(minor)
    }

    /// From minor units.
    ///
    /// # Errors
    /// When it is negative or over [`Money::MAX_MINOR`].
    pub fn from_minor(minor: i64) -> Result<Self, ParseError> {
        if minor < 0 {
            Err(ParseError::Money("an amount must not be negative"))
        } else if minor > Self::MAX_MINOR {
            Err(ParseError::Money("an amount must be at most 10000000000.00"))
        } else {
            Ok(Self(minor))
        }
    }

    /// In minor units.
    #[must_use]
    pub fn minor(self) -> i64 {
        self.0
    }

    /// This amount `pieces` times.
    ///
    /// # Errors
    /// When the product is over [`Money::MAX_MINOR`].
    pub fn times(self, pieces: i64) -> Result<Self, ParseError> {
        self.0
            .checked_mul(pieces)
            .map_or(Err(ParseError::Money("an amount must be at most 10000000000.00")), Self::from_minor)
    }
}

impl Sum for Money {
    /// Saturates far above anything that passes [`Money::from_minor`]; callers check the total.
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        Self(amounts.fold(0_i64, |total, amount| total.saturating_add(amount.0)))
    }
}

impl fmt::Display for Money {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

impl FromStr for Money {
    type Err = ParseError;

    /// Digits, perhaps a point and digits, perhaps an exponent (Java's `BigDecimal` writes 100 as `1E+2` once its zeros
    /// are stripped). Zeros beyond the second place change nothing; other digits there are refused, never rounded.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        const SHAPE: ParseError = ParseError::Money("an amount has digits and at most two places, like 59.80");
        let (decimal, exponent) = match text.split_once(['e', 'E']) {
            Some((decimal, exponent)) => (decimal, exponent.parse::<i32>().map_err(|_| SHAPE)?),
            None => (text, 0),
        };
        let (whole, places) = decimal.split_once('.').unwrap_or((decimal, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(places) || text.len() > 400 || exponent.abs() > 400 {
            return Err(SHAPE);
        }
        // The amount is `digits` with the point so many digits further to the right than it belongs in minor units.
        let mut digits = format!("{whole}{places}");
        let places = i32::try_from(places.len()).map_err(|_| SHAPE)?;
        let shift = places - exponent - 2;
        for _ in 0..shift {
            // A digit that is no longer there is a zero as well.
            if !matches!(digits.pop(), None | Some('0')) {
                return Err(SHAPE);
            }
        }
        let digits = digits.trim_start_matches('0');
        if digits.is_empty() {
            return Ok(Self::ZERO);
        }
        let zeros = usize::try_from(-shift).unwrap_or(0);
        let minor: i64 = format!("{digits}{}", "0".repeat(zeros)).parse().unwrap_or(i64::MAX);
        Self::from_minor(minor)
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 % 100 == 0 {
            return serializer.serialize_i64(self.0 / 100);
        }
        // Exact: up to MAX_MINOR the nearest double prints back as these two places.
        #[expect(clippy::cast_precision_loss, reason = "at most 10^12, a double holds 2^53")]
        serializer.serialize_f64(self.0 as f64 / 100.0)
    }
}

struct MoneyVisitor;

impl Visitor<'_> for MoneyVisitor {
    type Value = Money;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an amount with at most two places, like 59.80")
    }

    fn visit_u64<E: de::Error>(self, whole: u64) -> Result<Money, E> {
        whole.to_string().parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, whole: i64) -> Result<Money, E> {
        whole.to_string().parse().map_err(E::custom)
    }

    fn visit_f64<E: de::Error>(self, amount: f64) -> Result<Money, E> {
        // The shortest decimal that reads back as this double is what the sender wrote: 0.3 stays 0.3.
        amount.to_string().parse().map_err(E::custom)
    }

    fn visit_str<E: de::Error>(self, amount: &str) -> Result<Money, E> {
        amount.parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MoneyVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_amount_survives_json(minor in 0..=Money::MAX_MINOR) {
            let money = Money::from_minor(minor).unwrap();
            let json = serde_json::to_string(&money).unwrap();
            prop_assert_eq!(serde_json::from_str::<Money>(&json).unwrap(), money);
            prop_assert_eq!(money.to_string().parse::<Money>().unwrap(), money);
        }
    }

    #[test]
    fn what_is_not_an_amount_is_refused() {
        for (good, minor) in [
            ("0", 0),
            ("0.1", 10),
            ("59.80", 5_980),
            ("\"59.8\"", 5_980),
            ("1e2", 10_000),
            ("\"1E+2\"", 10_000),
            ("\"5980E-2\"", 5_980),
            ("\"0E-8\"", 0),
            ("99.900", 9_990),
            ("\"99.9000\"", 9_990),
            ("\"10000000000.00\"", Money::MAX_MINOR),
        ] {
            assert_eq!(serde_json::from_str::<Money>(good).unwrap().minor(), minor, "{good}");
        }
        for bad in ["\"1E\"", "\"E2\"", "\"1e400\"", "\"1E+99999999999\"", "\"1 \"", "\"+1\"", "\"0.0010\""] {
            assert!(serde_json::from_str::<Money>(bad).is_err(), "{bad}");
        }
        for bad in ["-1", "0.001", "1e300", "\"1.\"", "\".5\"", "\"1,5\"", "true", "null", "10000000000.01", "1e-7"] {
            assert!(serde_json::from_str::<Money>(bad).is_err(), "{bad}");
        }
    }
}
