//! How much of an order's money may go back, and how many of its points with it.

use super::money::Money;
use super::order::{OrderState, Status};

/// Why a part of the money is not given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The order is not in a state for it: why.
    State(&'static str),
    /// Only so much is left.
    TooMuch(Money),
}

/// What is left of `paid` when `promised` went back, or is on its way.
#[must_use]
pub fn left(paid: Money, promised: impl IntoIterator<Item = Money>) -> Money {
    let promised: Money = promised.into_iter().sum();
    Money::from_minor(paid.minor().saturating_sub(promised.minor())).unwrap_or(Money::ZERO)
}

/// Whether a no ends a refund, so that its money is free again. It does where the channel itself `says_no`, and each of
/// the requests before had an answer that proves that it was not carried out.
#[must_use]
pub fn refusal_is_final(says_no: bool, unanswered: i64) -> bool {
    says_no && unanswered == 0
}

/// How much goes back when `amount` of an order's money is asked for (none: the rest), of which `promised` went back or is
/// on its way. The order goes on; all of the money of one that the warehouse does not have yet is a cancel.
///
/// # Errors
/// [`Refusal`].
pub fn part(order: &OrderState, promised: Money, amount: Option<Money>) -> Result<Money, Refusal> {
    match order.status {
        Status::Created | Status::Reserved => return Err(Refusal::State("the order is not paid")),
        Status::Canceled => return Err(Refusal::State("the order is canceled: its money goes back by itself")),
        _ => {}
    }
    let left = left(order.total, [promised]);
    let amount = amount.unwrap_or(left);
    if left == Money::ZERO {
        return Err(Refusal::State("all of its money went back, or is on its way"));
    }
    if amount > left {
        return Err(Refusal::TooMuch(left));
    }
    if amount == left && order.status == Status::Paid && !order.handed_over {
        return Err(Refusal::State(
            "the warehouse does not have the order yet: cancel it, then all of its money goes back",
        ));
    }
    Ok(amount)
}

/// Points of `granted` that are taken back when `back` of `paid` went back: in proportion, rounded down, so that all that
/// was granted is taken back when all of the money is, in however many parts.
#[must_use]
pub fn points_back(granted: i64, back: i64, paid: i64) -> i64 {
    if back >= paid {
        return granted;
    }
    let share = i128::from(granted.max(0)) * i128::from(back.max(0)) / i128::from(paid);
    i64::try_from(share).unwrap_or(granted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::order::RefundState;

    fn order(status: Status, total: i64) -> OrderState {
        let handed_over = status > Status::Paid;
        let total = Money::from_minor(total).unwrap();
        OrderState { status, refund: RefundState::None, handed_over, total, payment_id: None }
    }

    fn money(minor: i64) -> Money {
        Money::from_minor(minor).unwrap()
    }

    #[test]
    fn only_a_paid_order_gives_parts_of_its_money_back() {
        for status in Status::ALL {
            let asked = part(&order(status, 100), Money::ZERO, Some(money(40)));
            assert_eq!(asked.is_ok(), status.is_paid(), "{status:?} {asked:?}");
        }
        let signed = order(Status::Signed, 100);
        assert_eq!(part(&signed, money(40), None), Ok(money(60)));
        assert_eq!(part(&signed, money(40), Some(money(61))), Err(Refusal::TooMuch(money(60))));
        assert!(matches!(part(&signed, money(100), None), Err(Refusal::State(_))));
    }

    #[test]
    fn all_of_it_is_a_cancel_until_the_warehouse_has_the_order() {
        let paid = order(Status::Paid, 100);
        assert!(matches!(part(&paid, Money::ZERO, None), Err(Refusal::State(_))));
        assert!(matches!(part(&paid, money(40), Some(money(60))), Err(Refusal::State(_))));
        assert_eq!(part(&paid, money(40), Some(money(59))), Ok(money(59)));
        let handed = OrderState { handed_over: true, ..paid };
        assert_eq!(part(&handed, money(40), None), Ok(money(60)));
    }

    proptest! {
        /// However the money is asked for, some of it failing: what is promised and what is left is what was paid.
        #[test]
        fn no_minor_unit_is_made_or_lost(total in 1_i64..1_000_000_000, wishes in prop::collection::vec((any::<u32>(), any::<bool>(), any::<bool>()), 1..40)) {
            let order = order(Status::Signed, total);
            let mut promised = Vec::new();
            for (wish, rest, fails) in wishes {
                let amount = (!rest).then(|| money(i64::from(wish) % (total * 2) + 1));
                let sum: Money = promised.iter().copied().sum();
                match part(&order, sum, amount) {
                    Ok(part) if fails => prop_assert!(part > Money::ZERO && part <= left(order.total, [sum])),
                    Ok(part) => promised.push(part),
                    Err(Refusal::TooMuch(left)) => prop_assert!(amount.unwrap() > left),
                    Err(Refusal::State(_)) => prop_assert_eq!(sum, order.total),
                }
                let sum: Money = promised.iter().copied().sum();
                prop_assert_eq!(sum.minor() + left(order.total, promised.iter().copied()).minor(), total);
            }
        }

        /// In any number of parts and any order: never more than was granted, never given back again, and all of it in the end.
        #[test]
        fn points_follow_the_money(total in 1_i64..1_000_000_000_000, cuts in prop::collection::vec(any::<u64>(), 0..40)) {
            let granted = crate::domain::points::earned(money(total));
            let mut cuts: Vec<i64> = cuts.into_iter().map(|cut| i64::try_from(cut % u64::try_from(total).unwrap()).unwrap()).collect();
            cuts.push(total);
            cuts.sort_unstable();
            let (mut before, mut taken) = (0, 0);
            for cut in cuts {
                let now = points_back(granted, cut, total);
                prop_assert!(now >= before && now <= granted);
                taken += now - before;
                before = now;
            }
            prop_assert_eq!(taken, granted);
        }
    }
}
