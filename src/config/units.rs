//! Durations and sizes as people write them: `"30s"`, `"1h30m"`, `"200ms"`, `"7d"`; `"512B"`, `"4KiB"`, `"1MiB"`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text is not a duration or a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not {wanted}")]
pub struct UnitError {
    found: String,
    wanted: &'static str,
}

/// A length of time in whole milliseconds, never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(i64);

/// Longest unit first, which is also how a value is printed.
const TIME_UNITS: [(&str, i64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const TIME_WANTED: &str = "a duration of at most 36500d: write a whole number with ms, s, m, h or d, for example \
                           \"200ms\", \"30s\" or \"10m\"";
/// A hundred years.
const LONGEST_MS: i64 = 36_500 * 86_400_000;

impl Millis {
    /// `ms` milliseconds; a negative number counts as zero.
    #[must_use]
    pub const fn new(ms: i64) -> Self {
        Self(if ms < 0 { 0 } else { ms })
    }

    /// Milliseconds, for database columns and arithmetic on epoch milliseconds.
    #[must_use]
    pub const fn ms(self) -> i64 {
        self.0
    }

    /// For timers.
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0.unsigned_abs())
    }

    /// True for a length of nothing.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl FromStr for Millis {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError { found: text.to_owned(), wanted: TIME_WANTED };
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(wrong());
        }
        let mut total: i64 = 0;
        while !rest.is_empty() {
            let (number, after) = digits(rest);
            let unit_len = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
            let (unit, left) = after.split_at(unit_len);
            let each = TIME_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, ms)| *ms).ok_or_else(wrong)?;
            let part = number.parse::<i64>().ok().and_then(|n| n.checked_mul(each)).ok_or_else(wrong)?;
            total = total.checked_add(part).ok_or_else(wrong)?;
            rest = left;
        }
        // Clocks and caches count on from now, and none of them counts for ever.
        if total > LONGEST_MS { Err(wrong()) } else { Ok(Self(total)) }
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0;
        for (unit, each) in TIME_UNITS {
            let count = rest / each;
            rest %= each;
            if count > 0 {
                write!(f, "{count}{unit}")?;
            }
        }
        Ok(())
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

const SIZE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const SIZE_WANTED: &str =
    "a size: write a whole number with B, KiB, MiB or GiB, for example \"512B\", \"4KiB\" or \"1MiB\"";

impl ByteSize {
    /// `bytes` bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Bytes as a length in memory.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError { found: text.to_owned(), wanted: SIZE_WANTED };
        let (number, unit) = digits(text.trim());
        let each = SIZE_UNITS.iter().find(|(name, _)| *name == unit.trim()).map(|(_, n)| *n).ok_or_else(wrong)?;
        number.parse::<u64>().ok().and_then(|n| n.checked_mul(each)).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, each) = SIZE_UNITS
            .into_iter()
            .find(|(_, each)| self.0 >= *each && self.0.is_multiple_of(*each))
            .unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / each)
    }
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// Written as text in both directions; a bare number has no unit and is refused with an example.
macro_rules! serde_as_text {
    ($kind:ty, $wanted:expr) => {
        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = $kind;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($wanted)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$kind, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    };
}

serde_as_text!(Millis, TIME_WANTED);
serde_as_text!(ByteSize, SIZE_WANTED);
