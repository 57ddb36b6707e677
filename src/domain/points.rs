//! Points: one for each full unit of currency that was paid.

use super::money::Money;

/// Points that a payment of `paid` earns.
#[must_use]
pub fn earned(paid: Money) -> i64 {
    paid.minor() / 100
}

/// Kind of a row in `points_record`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Earned by an order that was paid.
    Grant = 1,
    /// Taken back because the order's money went back. With 0 points: nothing had been granted by then, and the row
    /// keeps a late grant from counting.
    Reverse = 2,
    /// An operator put right what was granted or taken back wrongly.
    Correct = 3,
}

impl Kind {
    /// As stored.
    #[must_use]
    pub fn code(self) -> i64 {
        self as i64
    }

    /// From the stored code.
    #[must_use]
    pub fn from_code(code: i64) -> Option<Self> {
        [Self::Grant, Self::Reverse, Self::Correct].into_iter().find(|kind| kind.code() == code)
    }
}
