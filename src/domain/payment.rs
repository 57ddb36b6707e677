//! What a payment may do.

use serde::{Deserialize, Serialize};

use super::id::TransactionNo;
use super::money::Money;
use super::order::Decision;

/// The state of a payment, as stored (`payment_record.status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// Waiting for the payer.
    Pending = 0,
    /// The channel confirmed the money.
    Success = 1,
    /// Its order was canceled before the money came. Money may still come late.
    Closed = 2,
    /// The money is on its way back.
    Refunding = 3,
    /// The money is back.
    Refunded = 4,
}

impl Status {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Success, Self::Closed, Self::Refunding, Self::Refunded];

    /// As stored.
    #[must_use]
    pub fn code(self) -> i64 {
        self as i64
    }

    /// From the stored code.
    #[must_use]
    pub fn from_code(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.code() == code)
    }

    /// As in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Success => "SUCCESS",
            Self::Closed => "CLOSED",
            Self::Refunding => "REFUNDING",
            Self::Refunded => "REFUNDED",
        }
    }

    /// The channel has confirmed money for it, wherever it is now.
    #[must_use]
    pub fn has_money(self) -> bool {
        matches!(self, Self::Success | Self::Refunding | Self::Refunded)
    }
}

/// What of a payment decides where it may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaymentState {
    /// State.
    pub status: Status,
    /// What is to be paid; zero for the tombstone of an order that was canceled before its payment was opened.
    pub amount: Money,
    /// ISO 4217.
    pub currency: String,
    /// Who gets the money.
    pub merchant_id: i64,
    /// The channel's number of the transaction that paid it.
    pub transaction_no: Option<String>,
}

/// What a channel reports in a callback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmation {
    /// The channel's transaction number.
    pub transaction_no: TransactionNo,
    /// Amount that it took.
    pub amount: Money,
    /// ISO 4217.
    pub currency: String,
    /// For whom.
    pub merchant_id: i64,
}

/// What can happen to a payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The channel took the money.
    Confirmed(Confirmation),
    /// Its order is to be canceled, unless its money is there.
    CloseRequested,
    /// Its order was canceled.
    OrderCanceled,
    /// Its order asks for the money to go back.
    RefundRequested,
    /// The channel gave money of it back.
    RefundDone {
        /// With that, all of it is back.
        all: bool,
    },
}

/// What else has to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// `PAYMENT_SUCCESS`.
    TellSuccess,
    /// Give the money of this payment back.
    Refund,
    /// The payer paid a second time, in this transaction: give that money back.
    RefundExtra(TransactionNo),
}

/// Decides what `input` does to a payment.
#[must_use]
pub fn decide(payment: &PaymentState, input: &Input) -> Decision<PaymentState, Effect> {
    let with = |status| PaymentState { status, ..payment.clone() };
    match (input, payment.status) {
        (Input::Confirmed(confirmation), _) => confirmed(payment, confirmation),
        (Input::CloseRequested | Input::OrderCanceled, Status::Pending) => {
            Decision::Apply(with(Status::Closed), vec![])
        }
        (Input::CloseRequested, Status::Closed) => Decision::Ignore("already closed"),
        // The order learns of it, and is paid.
        (Input::CloseRequested, _) => Decision::Ignore("its money is there"),
        (Input::OrderCanceled | Input::RefundRequested, Status::Success) => {
            Decision::Apply(with(Status::Refunding), vec![Effect::Refund])
        }
        (Input::OrderCanceled, _) => Decision::Ignore("already closed or being refunded"),
        (Input::RefundRequested, Status::Refunding | Status::Refunded) => Decision::Ignore("already being refunded"),
        (Input::RefundRequested, Status::Pending | Status::Closed) => {
            Decision::Early("there is no money to give back yet")
        }
        (Input::RefundDone { all: true }, Status::Refunding) => Decision::Apply(with(Status::Refunded), vec![]),
        (Input::RefundDone { .. }, Status::Refunded) => Decision::Ignore("already refunded"),
        // A payment keeps its place while its order goes on, however much of it went back.
        (Input::RefundDone { .. }, Status::Refunding | Status::Success) => Decision::Ignore("a part went back"),
        (Input::RefundDone { .. }, _) => Decision::Refuse("no refund was asked for"),
    }
}

fn confirmed(payment: &PaymentState, confirmation: &Confirmation) -> Decision<PaymentState, Effect> {
    if confirmation.amount != payment.amount {
        return Decision::Refuse("the amount is not the amount of this payment");
    }
    if confirmation.currency != payment.currency {
        return Decision::Refuse("the currency is not the currency of this payment");
    }
    if confirmation.merchant_id != payment.merchant_id {
        return Decision::Refuse("the merchant is not the merchant of this payment");
    }
    if payment.status.has_money() {
        return if payment.transaction_no.as_deref().is_some_and(|own| confirmation.transaction_no.is(own)) {
            Decision::Ignore("already confirmed by this transaction")
        } else {
            Decision::Apply(payment.clone(), vec![Effect::RefundExtra(confirmation.transaction_no.clone())])
        };
    }
    // From CLOSED as well: the money is there, and the order, being canceled, will ask for it to go back.
    let next = PaymentState {
        status: Status::Success,
        transaction_no: Some(confirmation.transaction_no.to_string()),
        ..payment.clone()
    };
    Decision::Apply(next, vec![Effect::TellSuccess])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payment(status: Status) -> PaymentState {
        PaymentState {
            status,
            amount: Money::from_minor(500).unwrap(),
            currency: "CNY".into(),
            merchant_id: 1,
            transaction_no: status.has_money().then(|| "T1".into()),
        }
    }

    fn confirmation(transaction: &str) -> Confirmation {
        Confirmation {
            transaction_no: transaction.parse().unwrap(),
            amount: Money::from_minor(500).unwrap(),
            currency: "CNY".into(),
            merchant_id: 1,
        }
    }

    #[test]
    fn a_confirmation_counts_once_and_a_second_transaction_goes_back() {
        let Decision::Apply(paid, effects) = decide(&payment(Status::Pending), &Input::Confirmed(confirmation("T1")))
        else {
            panic!()
        };
        assert_eq!(effects, [Effect::TellSuccess]);
        assert!(matches!(decide(&paid, &Input::Confirmed(confirmation("T1"))), Decision::Ignore(_)));
        let Decision::Apply(same, effects) = decide(&paid, &Input::Confirmed(confirmation("T2"))) else { panic!() };
        assert_eq!((same, effects), (paid, vec![Effect::RefundExtra("T2".parse().unwrap())]));
    }

    #[test]
    fn blanks_make_no_second_transaction() {
        for kept in ["T1", "T1 ", " T1"] {
            let paid = PaymentState { transaction_no: Some(kept.into()), ..payment(Status::Success) };
            for said in ["T1", "T1 ", " T1"] {
                let decision = decide(&paid, &Input::Confirmed(confirmation(said)));
                assert!(matches!(decision, Decision::Ignore(_)), "{kept:?} {said:?}");
            }
        }
    }

    #[test]
    fn money_that_comes_after_the_cancel_is_taken_and_given_back_once() {
        let Decision::Apply(late, effects) = decide(&payment(Status::Closed), &Input::Confirmed(confirmation("T1")))
        else {
            panic!()
        };
        assert_eq!(effects, [Effect::TellSuccess]);
        let Decision::Apply(back, effects) = decide(&late, &Input::RefundRequested) else { panic!() };
        assert_eq!(effects, [Effect::Refund]);
        assert!(matches!(decide(&back, &Input::RefundRequested), Decision::Ignore(_)));
        assert!(matches!(decide(&back, &Input::OrderCanceled), Decision::Ignore(_)));
    }

    #[test]
    fn only_a_payment_without_money_is_closed() {
        for status in Status::ALL {
            let closes = matches!(decide(&payment(status), &Input::CloseRequested), Decision::Apply(next, effects)
                if next.status == Status::Closed && effects.is_empty());
            assert_eq!(closes, status == Status::Pending, "{status:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_in_every_state() {
        for status in Status::ALL {
            for wrong in [
                Confirmation { amount: Money::from_minor(499).unwrap(), ..confirmation("T1") },
                Confirmation { currency: "USD".into(), ..confirmation("T1") },
                Confirmation { merchant_id: 2, ..confirmation("T1") },
            ] {
                assert!(matches!(decide(&payment(status), &Input::Confirmed(wrong)), Decision::Refuse(_)));
            }
        }
    }
}
