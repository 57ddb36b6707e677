//! Identifiers and other small values, parsed once at the edge.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// Why a value was refused at the edge. The text is written for the person who sent it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ParseError {
    /// Not a positive 64-bit integer.
    #[error("{what} must be a positive integer of at most 19 digits, as a JSON string or number; got {got:?}")]
    Id {
        /// What was being read.
        what: &'static str,
        /// What stood there instead, shortened.
        got: String,
    },
    /// Not a SKU.
    #[error("a SKU is 1 to 64 characters out of A-Z a-z 0-9 . _ -; got {0:?}")]
    Sku(String),
    /// Not a quantity.
    #[error("a quantity is a whole number from 1 to {max}; got {got}")]
    Quantity {
        /// Largest quantity allowed.
        max: i64,
        /// What stood there.
        got: i64,
    },
    /// Not the name of a coupon template.
    #[error("the name of a coupon template is 1 to 64 characters out of A-Z a-z 0-9 . _ -; got {0:?}")]
    Template(String),
    /// Not the number of a transaction.
    #[error("must have 1 to 64 characters besides the blanks around it, none of them a control character; got {0:?}")]
    TransactionNo(String),
    /// Not an amount of money.
    #[error("{0}")]
    Money(&'static str),
}

/// At most 40 characters of what was refused, so that an error never echoes a megabyte.
fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

/// A text that identifies, as it is compared and as it becomes a key: without the blanks around it. MariaDB does not count
/// blanks at the end when it compares, SQLite does, and whoever repeats a text may have padded it. This is the one rule for
/// all of them, so that what a database thinks of blanks does not matter.
#[must_use]
pub fn unpadded(text: &str) -> &str {
    text.trim()
}

/// Reads an [`unpadded`] text.
///
/// # Errors
/// It is no text.
pub fn unpadded_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    String::deserialize(deserializer).map(|text| unpadded(&text).to_owned())
}

/// Parses a positive 64-bit integer.
///
/// # Errors
/// [`ParseError::Id`] when it is anything else.
pub fn parse_id(what: &'static str, text: &str) -> Result<i64, ParseError> {
    match text.parse::<i64>() {
        Ok(id) if id > 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(id),
        _ => Err(ParseError::Id { what, got: shorten(text) }),
    }
}

struct IdVisitor(&'static str);

impl Visitor<'_> for IdVisitor {
    type Value = i64;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} as a string or number", self.0)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<i64, E> {
        if value > 0 { Ok(value) } else { Err(E::custom(ParseError::Id { what: self.0, got: value.to_string() })) }
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<i64, E> {
        i64::try_from(value)
            .ok()
            .filter(|id| *id > 0)
            .ok_or_else(|| E::custom(ParseError::Id { what: self.0, got: value.to_string() }))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<i64, E> {
        parse_id(self.0, value).map_err(E::custom)
    }
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        /// A JSON string (JavaScript numbers lose digits past 2^53); a number is read as well.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }

        impl FromStr for $name {
            type Err = ParseError;

            fn from_str(text: &str) -> Result<Self, ParseError> {
                parse_id($what, text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(IdVisitor($what)).map(Self)
            }
        }
    };
}

id_type!(
    /// An order.
    OrderId,
    "an order id"
);
id_type!(
    /// A payment record.
    PaymentId,
    "a payment id"
);
id_type!(
    /// A refund record.
    RefundId,
    "a refund id"
);
id_type!(
    /// A user; numbers are given out by the shop's user system.
    UserId,
    "a user id"
);
id_type!(
    /// A coupon that a user holds.
    CouponId,
    "a coupon id"
);
id_type!(
    /// A merchant; 1 is the shop itself.
    MerchantId,
    "a merchant id"
);

impl MerchantId {
    /// The shop itself.
    pub const SHOP: Self = Self(1);
}

/// Stock keeping unit: 1 to 64 characters of `A-Z a-z 0-9 . _ -`. Trailing spaces and case folding would make
/// databases disagree about equality, so neither can occur.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Sku(String);

impl Sku {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// 1 to 64 characters out of A-Z a-z 0-9 . _ -, which stand in a URL as they are; `.` and `..` would not.
pub(super) fn is_code(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=64).contains(&text.len()) && text.bytes().all(allowed) && !matches!(text, "." | "..")
}

impl FromStr for Sku {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if is_code(text) { Ok(Self(text.to_owned())) } else { Err(ParseError::Sku(shorten(text))) }
    }
}

impl fmt::Display for Sku {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Sku {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A channel's own number of a transaction: 1 to 64 characters, none of them a control character, [`unpadded`]. Money that
/// comes under another number is other money, and goes back.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct TransactionNo(String);

impl TransactionNo {
    /// Most characters, which is what its column holds.
    pub const MAX: usize = 64;

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a text that was kept names this transaction; rows of before may have blanks around it.
    #[must_use]
    pub fn is(&self, kept: &str) -> bool {
        self.0 == unpadded(kept)
    }
}

impl FromStr for TransactionNo {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let number = unpadded(text);
        let fits = (1..=Self::MAX).contains(&number.chars().count()) && !number.chars().any(char::is_control);
        if fits { Ok(Self(number.to_owned())) } else { Err(ParseError::TransactionNo(shorten(text))) }
    }
}

impl fmt::Display for TransactionNo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TransactionNo {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Pieces of one SKU in one order line: 1 to [`Quantity::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Quantity(i64);

impl Quantity {
    /// Largest quantity of one line.
    pub const MAX: i64 = 9_999;

    /// The number of pieces.
    #[must_use]
    pub fn get(self) -> i64 {
        self.0
    }
}

impl TryFrom<i64> for Quantity {
    type Error = ParseError;

    fn try_from(pieces: i64) -> Result<Self, ParseError> {
        if (1..=Self::MAX).contains(&pieces) {
            Ok(Self(pieces))
        } else {
            Err(ParseError::Quantity { max: Self::MAX, got: pieces })
        }
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(i64::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// Bits of an id that count within one millisecond.
const SEQUENCE_BITS: u32 = 12;
/// Bits of an id that tell one process from another.
const NODE_BITS: u32 = 10;
/// Ids count milliseconds from 2024-01-01T00:00:00Z, so that 41 bits last until 2093.
const EPOCH_MS: i64 = 1_704_067_200_000;

/// How many node numbers there are. The last one is never leased: it is for what writes without a lease.
pub const NODES: i64 = 1 << NODE_BITS;

/// Where the next id starts: packs a time and a node number into the smallest id of that millisecond. Times that no id
/// can have, which people may ask for, count as the first and the last one that an id can have.
#[must_use]
pub fn first_id_of(now_ms: i64, node: i64) -> i64 {
    let since_epoch = now_ms.saturating_sub(EPOCH_MS).clamp(0, i64::MAX >> (NODE_BITS + SEQUENCE_BITS));
    (since_epoch << (NODE_BITS + SEQUENCE_BITS)) | ((node % NODES) << SEQUENCE_BITS)
}

/// The millisecond that an id carries.
#[must_use]
pub fn millisecond_of(id: i64) -> i64 {
    (id >> (NODE_BITS + SEQUENCE_BITS)) + EPOCH_MS
}

/// Whether a number can be an id that some process gave out. Those of the first millisecond are the small numbers with
/// which other systems count.
#[must_use]
pub fn is_given_out(id: i64) -> bool {
    millisecond_of(id) > EPOCH_MS
}

/// One of the ids that belong to `id`, each under a number of its own (12 bits of it count): the same whenever it is made,
/// and none that a process with a lease gives out.
#[must_use]
pub fn derived_id(id: i64, number: u16) -> i64 {
    first_id_of(millisecond_of(id), NODES - 1) | (i64::from(number) & ((1 << SEQUENCE_BITS) - 1))
}

/// The id after `last`, given that the clock says `now_ms`: strictly larger than `last`, also when the clock stands
/// still or goes back (then it borrows from the next millisecond).
#[must_use]
pub fn next_id(last: i64, now_ms: i64, node: i64) -> i64 {
    let fresh = first_id_of(now_ms, node);
    if fresh > last {
        return fresh;
    }
    let sequence_mask = (1 << SEQUENCE_BITS) - 1;
    if last & sequence_mask == sequence_mask {
        // The millisecond is used up: same node, next millisecond.
        let millisecond = (last >> (NODE_BITS + SEQUENCE_BITS)) + 1;
        (millisecond << (NODE_BITS + SEQUENCE_BITS)) | ((node % NODES) << SEQUENCE_BITS)
    } else {
        last + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_ids_are_the_same_again_and_nobody_elses() {
        let id = first_id_of(EPOCH_MS + 12_345, 17) + 9;
        let derived: Vec<i64> = (0..4096).map(|number| derived_id(id, number)).collect();
        assert_eq!(derived_id(id, 4096 + 5), derived[5]);
        assert!(derived.iter().all(|one| millisecond_of(*one) == millisecond_of(id)));
        assert!(derived.windows(2).all(|pair| pair[0] < pair[1]));
        let leased = first_id_of(EPOCH_MS + 12_345, NODES - 2) + 4095;
        assert!(derived[0] > leased && derived[4095] < first_id_of(EPOCH_MS + 12_346, 0));
    }

    #[test]
    fn ids_grow_even_when_the_clock_does_not() {
        let mut last = 0;
        for step in 0..20_000 {
            let next = next_id(last, 1_800_000_000_000 - step / 7, 5);
            assert!(next > last);
            assert_eq!((next >> SEQUENCE_BITS) % NODES, 5);
            last = next;
        }
    }

    #[test]
    fn times_beyond_all_ids_are_the_first_or_the_last() {
        assert_eq!([i64::MIN, -1, 0, EPOCH_MS].map(|ms| first_id_of(ms, 0)), [0; 4]);
        let last = first_id_of(i64::MAX, 0);
        assert!(last > first_id_of(3_800_000_000_000, 0) && millisecond_of(last) > 3_800_000_000_000);
    }

    #[test]
    fn small_and_negative_numbers_were_not_given_out() {
        assert!([i64::MIN, -1, 0, 1, 4_000_000].into_iter().all(|number| !is_given_out(number)));
        assert!(is_given_out(next_id(0, EPOCH_MS + 1, 0)) && is_given_out(i64::MAX));
    }

    #[test]
    fn ids_are_strings_in_json_and_read_from_both() {
        assert_eq!(serde_json::to_string(&OrderId(12)).unwrap(), "\"12\"");
        assert_eq!(serde_json::from_str::<OrderId>("\"12\"").unwrap(), OrderId(12));
        assert_eq!(serde_json::from_str::<OrderId>("12").unwrap(), OrderId(12));
        for bad in ["0", "-1", "\"\"", "\"+5\"", "\"1e3\"", "1.5", "null", "\"99999999999999999999\""] {
            assert!(serde_json::from_str::<OrderId>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn blanks_around_a_transaction_number_do_not_count() {
        let number: TransactionNo = "T1".parse().unwrap();
        for same in ["T1", "T1 ", " T1", "  T1\t", "T1\u{a0}"] {
            assert_eq!(same.parse::<TransactionNo>().unwrap(), number, "{same:?}");
            assert_eq!(serde_json::from_value::<TransactionNo>(same.into()).unwrap(), number, "{same:?}");
            assert!(number.is(same), "{same:?}");
        }
        assert_eq!(serde_json::to_string(&number).unwrap(), "\"T1\"");
        for other in ["T2", "t1", "T 1", "T1."] {
            assert!(other.parse::<TransactionNo>().unwrap() != number && !number.is(other), "{other}");
        }
    }

    #[test]
    fn what_is_no_transaction_number_is_refused() {
        let longest = "é".repeat(TransactionNo::MAX);
        assert_eq!(format!(" {longest} ").parse::<TransactionNo>().unwrap().as_str(), longest);
        for bad in ["", " ", "\t \n", "T\u{7}1", "T\n1", &"t".repeat(65)] {
            assert!(bad.parse::<TransactionNo>().is_err(), "{bad:?}");
        }
        assert!(serde_json::from_str::<TransactionNo>("12").is_err());
    }

    #[test]
    fn skus_and_quantities_are_checked() {
        assert!("SKU-001_a.b".parse::<Sku>().is_ok());
        for bad in ["", " ", "a b", "a ", "é", &"x".repeat(65)] {
            assert!(bad.parse::<Sku>().is_err(), "{bad}");
        }
        assert!(Quantity::try_from(0).is_err() && Quantity::try_from(10_000).is_err());
        assert_eq!(Quantity::try_from(9_999).unwrap().get(), 9_999);
    }
}
