//! What stock may do: three heaps per SKU, and one reservation per order that moves pieces between them.

use std::collections::BTreeMap;

use super::order::Decision;

/// Pieces of one SKU, by where they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// May be sold.
    pub available: i64,
    /// Held for orders that are not paid yet.
    pub frozen: i64,
    /// Paid for.
    pub sold: i64,
}

impl Level {
    /// Adds a movement.
    pub fn apply(&mut self, movement: Level) {
        self.available += movement.available;
        self.frozen += movement.frozen;
        self.sold += movement.sold;
    }
}

/// State of an order's reservation, as stored (`stock_reservation.status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// All lines are held.
    Frozen = 1,
    /// All lines are sold.
    Deducted = 2,
    /// All lines went back. Without lines: the tombstone of a release that came before its freeze.
    Released = 3,
    /// It could not be held.
    Refused = 4,
}

impl Status {
    /// As stored.
    #[must_use]
    pub fn code(self) -> i64 {
        self as i64
    }

    /// From the stored code.
    #[must_use]
    pub fn from_code(code: i64) -> Option<Self> {
        [Self::Frozen, Self::Deducted, Self::Released, Self::Refused].into_iter().find(|status| status.code() == code)
    }
}

/// Kind of a row in `stock_ledger`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An operator set the level.
    Set = 1,
    /// available → frozen.
    Freeze = 2,
    /// frozen → sold.
    Deduct = 3,
    /// frozen → available.
    Release = 4,
    /// sold → available.
    PutBack = 5,
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
        [Self::Set, Self::Freeze, Self::Deduct, Self::Release, Self::PutBack].into_iter().find(|one| one.code() == code)
    }

    /// As in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Set => "SET",
            Self::Freeze => "FREEZE",
            Self::Deduct => "DEDUCT",
            Self::Release => "RELEASE",
            Self::PutBack => "PUT_BACK",
        }
    }

    /// What `pieces` of this kind do to a level.
    #[must_use]
    pub fn movement(self, pieces: i64) -> Level {
        match self {
            Self::Set => Level { available: pieces, frozen: 0, sold: 0 },
            Self::Freeze => Level { available: -pieces, frozen: pieces, sold: 0 },
            Self::Deduct => Level { available: 0, frozen: -pieces, sold: pieces },
            Self::Release => Level { available: pieces, frozen: -pieces, sold: 0 },
            Self::PutBack => Level { available: pieces, frozen: 0, sold: -pieces },
        }
    }
}

/// Lines of a reservation: SKU → pieces, in SKU order.
pub type Lines = BTreeMap<String, i64>;

/// Whether `lines` can be held on these levels: all or none.
///
/// # Errors
/// The reason, for the user, when they cannot.
pub fn can_freeze(lines: &Lines, level_of: impl Fn(&str) -> Option<Level>) -> Result<(), String> {
    for (sku, pieces) in lines {
        match level_of(sku) {
            None => return Err(format!("{sku} is not in stock")),
            Some(level) if level.available < *pieces => {
                return Err(format!("{sku}: {pieces} wanted, {} available", level.available.max(0)));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// What a deduct does to a reservation.
#[must_use]
pub fn deduct(reservation: Option<Status>) -> Decision<Status, Kind> {
    match reservation {
        None => Decision::Early("the order's stock is not frozen yet"),
        Some(Status::Frozen) => Decision::Apply(Status::Deducted, vec![Kind::Deduct]),
        Some(Status::Deducted) => Decision::Ignore("already deducted"),
        Some(Status::Released) => Decision::Ignore("already released"),
        Some(Status::Refused) => Decision::Refuse("the order's stock was never frozen"),
    }
}

/// What a release does to a reservation. A release that comes first leaves a tombstone, so that a late freeze fails.
#[must_use]
pub fn release(reservation: Option<Status>) -> Decision<Status, Kind> {
    match reservation {
        None => Decision::Apply(Status::Released, vec![]),
        Some(Status::Frozen) => Decision::Apply(Status::Released, vec![Kind::Release]),
        Some(Status::Deducted) => Decision::Apply(Status::Released, vec![Kind::PutBack]),
        Some(Status::Released) => Decision::Ignore("already released"),
        Some(Status::Refused) => Decision::Ignore("nothing was frozen"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn movements_keep_the_sum_except_for_a_set() {
        for kind in [Kind::Freeze, Kind::Deduct, Kind::Release, Kind::PutBack] {
            let moved = kind.movement(7);
            assert_eq!(moved.available + moved.frozen + moved.sold, 0, "{kind:?}");
        }
    }

    #[test]
    fn deduct_and_release_end_the_same_in_either_order() {
        let ends = [[deduct as fn(Option<Status>) -> _, release], [release, deduct]].map(|steps| {
            let mut level = Level { available: 0, frozen: 3, sold: 0 };
            let mut status = Some(Status::Frozen);
            for step in steps {
                if let Decision::Apply(next, kinds) = step(status) {
                    status = Some(next);
                    kinds.into_iter().for_each(|kind| level.apply(kind.movement(3)));
                }
            }
            (level, status)
        });
        assert_eq!(ends[0], ends[1]);
        assert_eq!(ends[0].0, Level { available: 3, frozen: 0, sold: 0 });
    }
}
