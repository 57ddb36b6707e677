//! Coupons: what one takes off an order, and what may become of one that a user holds. All arithmetic is in minor units.

use std::fmt;
use std::str::FromStr;

use super::id::{ParseError, is_code};
use super::money::Money;

/// What an order costs at least when a coupon takes something off: no channel takes a payment of nothing, and an order
/// is paid by a payment.
pub const LEAST_TO_PAY_MINOR: i64 = 1;
/// A whole, in basis points.
pub const WHOLE_BASIS_POINTS: i64 = 10_000;

/// How a coupon reduces a total, as stored (`coupon.kind`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// By an amount.
    Amount = 1,
    /// By a percentage.
    Percent = 2,
    /// By an amount, from another amount on.
    Threshold = 3,
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
        [Self::Amount, Self::Percent, Self::Threshold].into_iter().find(|kind| kind.code() == code)
    }

    /// As in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Amount => "AMOUNT",
            Self::Percent => "PERCENT",
            Self::Threshold => "THRESHOLD",
        }
    }
}

/// What a coupon takes off, and from which orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How.
    pub kind: Kind,
    /// Amount and threshold: so much.
    pub amount_off: Money,
    /// Percent: so much of the total, 1 to 10000.
    pub basis_points: i64,
    /// Percent: not more than this.
    pub max_off: Option<Money>,
    /// Only from orders of at least this.
    pub min_amount: Money,
}

impl Terms {
    /// The terms make sense.
    ///
    /// # Errors
    /// The field that does not, as in JSON, and why.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        match self.kind {
            Kind::Amount | Kind::Threshold if self.amount_off == Money::ZERO => {
                Err(("amountOff", "must be more than 0 for this kind"))
            }
            Kind::Amount | Kind::Threshold if self.basis_points != 0 || self.max_off.is_some() => {
                Err(("kind", "basisPoints and maxOff belong to PERCENT"))
            }
            Kind::Threshold if self.min_amount <= self.amount_off => {
                Err(("minAmount", "must be more than amountOff for a threshold"))
            }
            Kind::Percent if self.amount_off != Money::ZERO => Err(("amountOff", "does not belong to PERCENT")),
            Kind::Percent if !(1..=WHOLE_BASIS_POINTS).contains(&self.basis_points) => {
                Err(("basisPoints", "must be 1 to 10000 for PERCENT"))
            }
            Kind::Percent if self.max_off == Some(Money::ZERO) => Err(("maxOff", "must be more than 0")),
            _ => Ok(()),
        }
    }

    /// What comes off a total. A percentage is rounded down to a whole minor unit, and at least
    /// [`LEAST_TO_PAY_MINOR`] is left to be paid.
    ///
    /// # Errors
    /// [`Refused::BelowMinimum`], or [`Refused::Nothing`] when nothing would come off: a coupon is not spent in vain.
    pub fn discount(&self, total: Money) -> Result<Money, Refused> {
        if total < self.min_amount {
            return Err(Refused::BelowMinimum(self.min_amount));
        }
        let off = match self.kind {
            Kind::Amount | Kind::Threshold => self.amount_off.minor(),
            // At most 10^12 times 10^4: far from the end of an i64.
            Kind::Percent => {
                let part = total.minor() * self.basis_points / WHOLE_BASIS_POINTS;
                self.max_off.map_or(part, |most| part.min(most.minor()))
            }
        };
        let off = off.min(total.minor() - LEAST_TO_PAY_MINOR);
        match Money::from_minor(off) {
            Ok(off) if off > Money::ZERO => Ok(off),
            _ => Err(Refused::Nothing),
        }
    }
}

/// State of a coupon, as stored (`coupon.state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// May be used, while it is valid.
    Free = 0,
    /// An open order has it.
    Locked = 1,
    /// A paid order has used it up.
    Used = 2,
}

impl State {
    /// As stored.
    #[must_use]
    pub fn code(self) -> i64 {
        self as i64
    }

    /// From the stored code.
    #[must_use]
    pub fn from_code(code: i64) -> Option<Self> {
        [Self::Free, Self::Locked, Self::Used].into_iter().find(|state| state.code() == code)
    }

    /// As in JSON. A free coupon whose time is over is shown as EXPIRED.
    #[must_use]
    pub fn name(self, valid_until: i64, now_ms: i64) -> &'static str {
        match self {
            Self::Free if valid_until <= now_ms => "EXPIRED",
            Self::Free => "AVAILABLE",
            Self::Locked => "LOCKED",
            Self::Used => "USED",
        }
    }
}

/// What decides whether a coupon may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// State.
    pub state: State,
    /// The order that it is locked or used by.
    pub order_id: Option<i64>,
    /// What it takes off.
    pub terms: Terms,
    /// Usable from, epoch ms.
    pub valid_from: i64,
    /// Usable before, epoch ms.
    pub valid_until: i64,
}

impl Held {
    /// Locks it for an order of `total` that is placed now; what comes off. Only the moment of ordering counts: a coupon
    /// whose time ends while its order waits to be paid stays good for that order.
    ///
    /// # Errors
    /// [`Refused`]; then nothing has changed.
    pub fn lock(&mut self, order_id: i64, total: Money, now_ms: i64) -> Result<Money, Refused> {
        match self.state {
            State::Locked => return Err(Refused::Locked),
            State::Used => return Err(Refused::Used),
            State::Free if now_ms < self.valid_from => return Err(Refused::NotYet),
            State::Free if now_ms >= self.valid_until => return Err(Refused::Expired),
            State::Free => {}
        }
        let off = self.terms.discount(total)?;
        (self.state, self.order_id) = (State::Locked, Some(order_id));
        Ok(off)
    }

    /// Its order moved; whether that changed it. What comes a second time, or for another order, changes nothing.
    pub fn settle(&mut self, order_id: i64, change: Change) -> bool {
        if self.order_id != Some(order_id) {
            return false;
        }
        match (change, self.state) {
            (Change::Use, State::Locked) => self.state = State::Used,
            // Also when its time is over: it is nobody's then, and shown as expired.
            (Change::Release, State::Locked | State::Used) => (self.state, self.order_id) = (State::Free, None),
            _ => return false,
        }
        true
    }
}

/// What the way of an order means for its coupon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is paid.
    Use,
    /// It is canceled, or all its money goes back.
    Release,
}

/// Why an order cannot have a coupon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The user has no such coupon.
    Unknown,
    /// Another open order has it.
    Locked,
    /// Another order has used it up.
    Used,
    /// Its time has not begun.
    NotYet,
    /// Its time is over.
    Expired,
    /// The order is too small.
    BelowMinimum(Money),
    /// It would take nothing off.
    Nothing,
}

/// Name of a template: 1 to 64 characters out of A-Z a-z 0-9 . _ -.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateName(String);

impl TemplateName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TemplateName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if is_code(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseError::Template(text.chars().take(40).collect()))
        }
    }
}

impl fmt::Display for TemplateName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn money(minor: i64) -> Money {
        Money::from_minor(minor).unwrap()
    }

    fn amount(off: i64, min: i64) -> Terms {
        let kind = if min > 0 { Kind::Threshold } else { Kind::Amount };
        Terms { kind, amount_off: money(off), basis_points: 0, max_off: None, min_amount: money(min) }
    }

    fn percent(basis_points: i64, max_off: Option<i64>) -> Terms {
        let max_off = max_off.map(money);
        Terms { kind: Kind::Percent, amount_off: Money::ZERO, basis_points, max_off, min_amount: Money::ZERO }
    }

    fn any_terms() -> impl Strategy<Value = Terms> {
        let off = 1..=Money::MAX_MINOR / 2;
        prop_oneof![
            off.clone().prop_map(|off| amount(off, 0)),
            (off.clone(), 1..=Money::MAX_MINOR / 2).prop_map(|(off, more)| amount(off, off + more)),
            (1..=WHOLE_BASIS_POINTS, proptest::option::of(off)).prop_map(|(points, most)| percent(points, most)),
        ]
    }

    proptest! {
        #[test]
        fn what_is_left_and_what_comes_off_are_the_total(terms in any_terms(), total in prop_oneof![0..2_000_i64, 0..=Money::MAX_MINOR]) {
            prop_assert_eq!(terms.check(), Ok(()));
            let Ok(off) = terms.discount(money(total)) else {
                let in_vain = total <= LEAST_TO_PAY_MINOR || total * terms.basis_points < WHOLE_BASIS_POINTS;
                prop_assert!(total < terms.min_amount.minor() || in_vain);
                return Ok(());
            };
            let left = total - off.minor();
            prop_assert!(off.minor() > 0 && left >= LEAST_TO_PAY_MINOR && left + off.minor() == total);
            prop_assert!(total >= terms.min_amount.minor());
            match terms.kind {
                Kind::Amount | Kind::Threshold => prop_assert!(off <= terms.amount_off),
                Kind::Percent => {
                    // Never more than the percentage, and less by less than one minor unit unless a limit holds.
                    let (exact, given) = (total * terms.basis_points, off.minor() * WHOLE_BASIS_POINTS);
                    prop_assert!(given <= exact);
                    let limited = terms.max_off == Some(off) || left == LEAST_TO_PAY_MINOR;
                    prop_assert!(limited || exact - given < WHOLE_BASIS_POINTS);
                    prop_assert!(terms.max_off.is_none_or(|most| off <= most));
                }
            }
        }
    }

    #[test]
    fn amounts_in_figures() {
        let off = |terms: Terms, total| terms.discount(money(total)).map(Money::minor);
        assert_eq!(off(amount(500, 0), 5_980), Ok(500));
        assert_eq!(off(amount(500, 0), 500), Ok(499), "a cent is left to be paid");
        assert_eq!(off(amount(500, 0), 1), Err(Refused::Nothing));
        assert_eq!(off(amount(500, 0), 0), Err(Refused::Nothing));
        assert_eq!(off(amount(2_000, 10_000), 10_000), Ok(2_000));
        assert_eq!(off(amount(2_000, 10_000), 9_999), Err(Refused::BelowMinimum(money(10_000))));
        assert_eq!(off(percent(1_250, None), 999), Ok(124), "124.875 is rounded down");
        assert_eq!(off(percent(1_250, Some(100)), 999), Ok(100));
        assert_eq!(off(percent(10_000, None), 999), Ok(998));
        assert_eq!(off(percent(1, None), 9_999), Err(Refused::Nothing));
        assert_eq!(off(percent(9_999, None), Money::MAX_MINOR), Ok(999_900_000_000));
    }

    #[test]
    fn terms_that_make_no_sense_are_named() {
        for (terms, field) in [
            (amount(0, 0), "amountOff"),
            (amount(500, 500), "minAmount"),
            (Terms { basis_points: 1, ..amount(500, 0) }, "kind"),
            (percent(0, None), "basisPoints"),
            (percent(10_001, None), "basisPoints"),
            (percent(1, Some(0)), "maxOff"),
            (Terms { amount_off: money(1), ..percent(1, None) }, "amountOff"),
        ] {
            assert_eq!(terms.check().map_err(|(field, _)| field), Err(field));
        }
    }

    #[test]
    fn a_coupon_belongs_to_one_order_at_a_time() {
        let mut held =
            Held { state: State::Free, order_id: None, terms: amount(500, 0), valid_from: 10, valid_until: 20 };
        let total = money(5_980);
        assert_eq!(held.lock(1, total, 9), Err(Refused::NotYet));
        assert_eq!(held.lock(1, total, 20), Err(Refused::Expired));
        assert_eq!(held.lock(1, total, 19), Ok(money(500)));
        assert_eq!(held.lock(2, total, 19), Err(Refused::Locked));
        assert!(!held.settle(2, Change::Release) && !held.settle(2, Change::Use));
        assert!(held.settle(1, Change::Use) && !held.settle(1, Change::Use));
        assert_eq!(held.lock(2, total, 19), Err(Refused::Used));
        assert!(held.settle(1, Change::Release) && !held.settle(1, Change::Release));
        assert_eq!(held.lock(2, total, 19), Ok(money(500)));
        assert!(held.settle(2, Change::Release));
        assert_eq!((held.state.name(20, 19), held.state.name(20, 20)), ("AVAILABLE", "EXPIRED"));
    }
}
