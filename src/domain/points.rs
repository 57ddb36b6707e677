//! Points: one for each full unit of currency that was paid.

use super::money::Money;

/// Points that a payment of `paid` earns.
#[must_use]
pub fn earned(paid: Money) -> i64 {
    paid.minor() / 100
}

/// The largest number of points that is granted from outside or spent at once.
pub const MOST: i64 = 1_000_000_000;

/// What a user has, and what is owed. Points that are taken back after they were spent leave a shortfall, which later
/// grants pay back first; so one of the two is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// May be spent.
    pub balance: i64,
    /// Taken back, but spent before.
    pub shortfall: i64,
}

impl Standing {
    /// That of a user whose records add up to `sum`.
    #[must_use]
    pub fn of(sum: i64) -> Self {
        Self { balance: sum.max(0), shortfall: sum.saturating_neg().max(0) }
    }

    /// What the records add up to.
    #[must_use]
    pub fn sum(self) -> i64 {
        self.balance - self.shortfall
    }
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
    /// Granted by a system outside (`POINTS_GRANT`).
    Gift = 4,
    /// Spent.
    Spend = 5,
}

impl Kind {
    /// As stored.
    #[must_use]
    pub fn code(self) -> i64 {
        self as i64
    }

    /// As in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Grant => "GRANT",
            Self::Reverse => "REVERSE",
            Self::Correct => "CORRECT",
            Self::Gift => "GIFT",
            Self::Spend => "SPEND",
        }
    }

    /// From the stored code.
    #[must_use]
    pub fn from_code(code: i64) -> Option<Self> {
        [Self::Grant, Self::Reverse, Self::Correct, Self::Gift, Self::Spend]
            .into_iter()
            .find(|kind| kind.code() == code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever comes and goes: nothing is lost, nothing is spent twice.
        #[test]
        fn a_standing_is_the_sum_of_its_records(changes in proptest::collection::vec(-1_000_i64..1_000, 0..50)) {
            let mut standing = Standing::default();
            for change in &changes {
                standing = Standing::of(standing.sum() + change);
                prop_assert!(standing.balance >= 0 && standing.shortfall >= 0);
                prop_assert!(standing.balance == 0 || standing.shortfall == 0);
            }
            prop_assert_eq!(standing.sum(), changes.iter().sum::<i64>());
        }
    }
}
