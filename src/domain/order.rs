//! What an order may do: its states, and which event moves it where.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::id::PaymentId;
use super::money::Money;

/// The state of an order, as stored (`orders.status`). Fulfilment states only move forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// Accepted; the stock is being frozen.
    Created = 0,
    /// Stock frozen; payable.
    Reserved = 10,
    /// Paid; about to be handed to the warehouse.
    Paid = 20,
    /// Taken over by the warehouse.
    Fulfill = 30,
    /// Left the warehouse.
    OutStock = 40,
    /// With the carrier.
    Delivery = 50,
    /// Signed for: an end.
    Signed = 60,
    /// Canceled: an end, or on its way to refunded (see [`RefundState`]).
    Canceled = 90,
}

impl Status {
    /// Every state, in order.
    pub const ALL: [Self; 8] = [
        Self::Created,
        Self::Reserved,
        Self::Paid,
        Self::Fulfill,
        Self::OutStock,
        Self::Delivery,
        Self::Signed,
        Self::Canceled,
    ];

    /// As stored.
    #[must_use]
    pub fn code(self) -> i64 {
        self as i64
    }

    /// From the stored code; `None` for a code this version does not know.
    #[must_use]
    pub fn from_code(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.code() == code)
    }

    /// As in JSON and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "CREATED",
            Self::Reserved => "RESERVED",
            Self::Paid => "PAID",
            Self::Fulfill => "FULFILL",
            Self::OutStock => "OUT_STOCK",
            Self::Delivery => "DELIVERY",
            Self::Signed => "SIGNED",
            Self::Canceled => "CANCELED",
        }
    }

    /// Paid, and not canceled since.
    #[must_use]
    pub fn is_paid(self) -> bool {
        (Self::Paid..=Self::Signed).contains(&self)
    }
}

/// How far the money of a canceled order is on its way back (`orders.refund_status`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RefundState {
    /// Nothing to give back.
    #[default]
    None = 0,
    /// Asked for.
    Requested = 1,
    /// Back with the payer.
    Done = 2,
}

impl RefundState {
    /// As stored.
    #[must_use]
    pub fn code(self) -> i64 {
        self as i64
    }

    /// From the stored code.
    #[must_use]
    pub fn from_code(code: i64) -> Option<Self> {
        [Self::None, Self::Requested, Self::Done].into_iter().find(|state| state.code() == code)
    }
}

/// How an order ends, or that it has not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Outcome {
    /// Not at an end.
    Open,
    /// The goods were signed for.
    Signed,
    /// Canceled, no money was taken.
    Canceled,
    /// Canceled, and the money went back.
    Refunded,
}

impl Outcome {
    /// From its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Open, Self::Signed, Self::Canceled, Self::Refunded].into_iter().find(|one| one.name() == name)
    }

    /// As in JSON and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "OPEN",
            Self::Signed => "SIGNED",
            Self::Canceled => "CANCELED",
            Self::Refunded => "REFUNDED",
        }
    }
}

/// Who canceled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CancelType {
    /// The user asked for it.
    User,
    /// Not paid in time.
    Timeout,
    /// The stock could not be frozen.
    Stock,
    /// Risk control or an operator (`ORDER_AUTO_CANCEL`).
    Auto,
    /// The warehouse refused to send it.
    Warehouse,
}

impl CancelType {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::User, Self::Timeout, Self::Stock, Self::Auto, Self::Warehouse];

    /// As stored and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "USER",
            Self::Timeout => "TIMEOUT",
            Self::Stock => "STOCK",
            Self::Auto => "AUTO",
            Self::Warehouse => "WAREHOUSE",
        }
    }
}

/// What of an order decides where it may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderState {
    /// State.
    pub status: Status,
    /// Where its refund stands.
    pub refund: RefundState,
    /// The warehouse was asked to send it: from here on a cancel is refused.
    pub handed_over: bool,
    /// What is to be paid.
    pub total: Money,
    /// The payment that paid it.
    pub payment_id: Option<PaymentId>,
}

impl OrderState {
    /// Where the order ended, if it did.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match (self.status, self.refund) {
            (Status::Signed, _) => Outcome::Signed,
            (Status::Canceled, RefundState::None) => Outcome::Canceled,
            (Status::Canceled, RefundState::Done) => Outcome::Refunded,
            _ => Outcome::Open,
        }
    }
}

/// What can happen to an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Its stock is frozen.
    StockFrozen,
    /// Its stock could not be frozen.
    FreezeFailed,
    /// Its payment succeeded.
    Paid {
        /// Which payment.
        payment_id: PaymentId,
        /// How much was paid.
        amount: Money,
    },
    /// Somebody wants it canceled.
    Cancel(CancelType),
    /// It is its turn to go to the warehouse.
    HandOver,
    /// The warehouse reports that it reached this state.
    Fulfilment(Status),
    /// The warehouse will not send it.
    Declined,
    /// Money of it went back.
    Refunded {
        /// It is a part of the money of an order that goes on.
        part: bool,
        /// With that, all of it is back.
        all: bool,
    },
}

/// What else has to happen when an order moves; the flow turns each into one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// `PAID_ORDER_SUCCESS`.
    TellPaid,
    /// `INVENTORY_DEDUCT`.
    AskDeduct,
    /// `ORDER_CANCELED`.
    TellCanceled,
    /// `INVENTORY_RELEASE`.
    AskRelease,
    /// `REFUND_REQUESTED`.
    AskRefund,
    /// The call to the warehouse.
    CallWarehouse,
}

/// The answer of a state machine to an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<S, E> {
    /// Move to this state, and cause these effects.
    Apply(S, Vec<E>),
    /// Already there or past it: a recorded no-op.
    Ignore(&'static str),
    /// Something that has to come first has not come yet: try again later.
    Early(&'static str),
    /// It can never apply.
    Refuse(&'static str),
}

/// Decides what `input` does to an order.
#[must_use]
pub fn decide(order: &OrderState, input: &Input) -> Decision<OrderState, Effect> {
    match input {
        Input::StockFrozen => stock_frozen(order),
        Input::FreezeFailed => freeze_failed(order),
        Input::Paid { payment_id, amount } => paid(order, *payment_id, *amount),
        Input::Cancel(by) => cancel(order, *by),
        Input::HandOver => hand_over(order),
        Input::Fulfilment(reached) => fulfilment(order, *reached),
        Input::Declined => declined(order),
        Input::Refunded { part, all } => refunded(order, *part, *all),
    }
}

/// The same decision about an order all of whose money went back before, in parts: a cancel has nothing to ask for, and
/// ends it at once. Nobody would tell of a rest that there is not.
#[must_use]
pub fn with_all_back(decision: Decision<OrderState, Effect>) -> Decision<OrderState, Effect> {
    match decision {
        Decision::Apply(next, effects) if next.refund == RefundState::Requested => {
            let effects = effects.into_iter().filter(|effect| *effect != Effect::AskRefund).collect();
            Decision::Apply(OrderState { refund: RefundState::Done, ..next }, effects)
        }
        other => other,
    }
}

fn stock_frozen(order: &OrderState) -> Decision<OrderState, Effect> {
    match order.status {
        Status::Created => Decision::Apply(OrderState { status: Status::Reserved, ..order.clone() }, vec![]),
        Status::Canceled => Decision::Ignore("the order is canceled; its release undoes the freeze"),
        _ => Decision::Ignore("already reserved"),
    }
}

fn freeze_failed(order: &OrderState) -> Decision<OrderState, Effect> {
    match order.status {
        // No release: a failed freeze holds nothing.
        Status::Created => {
            Decision::Apply(OrderState { status: Status::Canceled, ..order.clone() }, vec![Effect::TellCanceled])
        }
        Status::Canceled => Decision::Ignore("already canceled"),
        _ => Decision::Refuse("the stock of this order was frozen before: a failed freeze contradicts it"),
    }
}

fn paid(order: &OrderState, payment_id: PaymentId, amount: Money) -> Decision<OrderState, Effect> {
    match order.status {
        // CREATED as well: a payment exists only after the freeze, so the freeze's own news is merely late.
        Status::Created | Status::Reserved => {
            if amount != order.total {
                return Decision::Refuse("the amount paid is not the amount of the order");
            }
            let next = OrderState { status: Status::Paid, payment_id: Some(payment_id), ..order.clone() };
            Decision::Apply(next, vec![Effect::TellPaid, Effect::AskDeduct])
        }
        Status::Canceled if order.refund == RefundState::None => {
            let next = OrderState { refund: RefundState::Requested, payment_id: Some(payment_id), ..order.clone() };
            Decision::Apply(next, vec![Effect::AskRefund])
        }
        Status::Canceled => Decision::Ignore("canceled, and its refund is under way"),
        _ if order.payment_id == Some(payment_id) => Decision::Ignore("already paid"),
        _ => Decision::Refuse("the order was paid by another payment"),
    }
}

fn cancel(order: &OrderState, by: CancelType) -> Decision<OrderState, Effect> {
    match order.status {
        Status::Created | Status::Reserved => Decision::Apply(
            OrderState { status: Status::Canceled, ..order.clone() },
            vec![Effect::TellCanceled, Effect::AskRelease],
        ),
        Status::Canceled => Decision::Ignore("already canceled"),
        _ if by == CancelType::Timeout => Decision::Ignore("paid in time"),
        Status::Paid if !order.handed_over => Decision::Apply(
            OrderState { status: Status::Canceled, refund: RefundState::Requested, ..order.clone() },
            vec![Effect::TellCanceled, Effect::AskRelease, Effect::AskRefund],
        ),
        _ => Decision::Refuse("the order was handed to the warehouse and can no longer be canceled"),
    }
}

fn hand_over(order: &OrderState) -> Decision<OrderState, Effect> {
    match order.status {
        Status::Created | Status::Reserved => Decision::Early("the order is not paid yet"),
        Status::Paid if !order.handed_over => {
            Decision::Apply(OrderState { handed_over: true, ..order.clone() }, vec![Effect::CallWarehouse])
        }
        Status::Canceled => Decision::Ignore("the order is canceled"),
        _ => Decision::Ignore("already with the warehouse"),
    }
}

fn fulfilment(order: &OrderState, reached: Status) -> Decision<OrderState, Effect> {
    match order.status {
        Status::Created | Status::Reserved => Decision::Early("the order is not paid yet"),
        Status::Canceled => Decision::Refuse("the warehouse moved an order that is canceled"),
        // A later step may jump ahead; the earlier one is then a no-op.
        current if reached > current => {
            Decision::Apply(OrderState { status: reached, handed_over: true, ..order.clone() }, vec![])
        }
        _ => Decision::Ignore("already at or past this step"),
    }
}

fn declined(order: &OrderState) -> Decision<OrderState, Effect> {
    match order.status {
        Status::Created | Status::Reserved => Decision::Early("the order is not paid yet"),
        // Handed over or not: it has nothing of it, so that the stock can go back.
        Status::Paid => Decision::Apply(
            OrderState {
                status: Status::Canceled,
                refund: RefundState::Requested,
                handed_over: false,
                ..order.clone()
            },
            vec![Effect::TellCanceled, Effect::AskRelease, Effect::AskRefund],
        ),
        Status::Canceled => Decision::Ignore("already canceled"),
        _ => Decision::Refuse("the warehouse took this order over before: its refusal contradicts that"),
    }
}

/// Whether an order may still go to another address: until the call to the warehouse is recorded.
#[must_use]
pub fn may_redirect(order: &OrderState) -> Decision<(), ()> {
    match order.status {
        Status::Created | Status::Reserved | Status::Paid if !order.handed_over => Decision::Apply((), vec![]),
        Status::Canceled => Decision::Refuse("the order is canceled"),
        _ => Decision::Refuse("the order was handed to the warehouse: its address can no longer be changed"),
    }
}

fn refunded(order: &OrderState, part: bool, all: bool) -> Decision<OrderState, Effect> {
    match (order.status, order.refund) {
        (_, RefundState::Done) => Decision::Ignore("already refunded"),
        // Also from None: payment gives the money of a canceled order back by itself, and its news may overtake
        // the news of the payment.
        (Status::Canceled, _) if all => {
            Decision::Apply(OrderState { refund: RefundState::Done, ..order.clone() }, vec![])
        }
        (Status::Canceled, _) => Decision::Ignore("noted: a part went back, the rest is on its way"),
        (Status::Created | Status::Reserved, _) => Decision::Early("the order is not canceled yet"),
        _ if part => Decision::Ignore("noted: a part of the money went back, and the order goes on"),
        _ => Decision::Refuse("money of a live order went back"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(status: Status) -> OrderState {
        OrderState {
            status,
            refund: RefundState::None,
            handed_over: status > Status::Paid && status != Status::Canceled,
            total: Money::from_minor(100).unwrap(),
            payment_id: status.is_paid().then_some(PaymentId(7)),
        }
    }

    fn inputs() -> Vec<Input> {
        let amount = Money::from_minor(100).unwrap();
        let mut all = vec![
            Input::StockFrozen,
            Input::FreezeFailed,
            Input::Paid { payment_id: PaymentId(7), amount },
            Input::HandOver,
            Input::Declined,
            Input::Refunded { part: false, all: true },
            Input::Refunded { part: true, all: true },
            Input::Refunded { part: true, all: false },
        ];
        all.extend(CancelType::ALL.map(Input::Cancel));
        all.extend([Status::Fulfill, Status::OutStock, Status::Delivery, Status::Signed].map(Input::Fulfilment));
        all
    }

    /// Applying an input a second time never does anything: the heart of "duplicates are harmless".
    #[test]
    fn every_input_applies_at_most_once() {
        for status in Status::ALL {
            for input in inputs() {
                if let Decision::Apply(next, _) = decide(&order(status), &input) {
                    let again = decide(&next, &input);
                    assert!(
                        matches!(again, Decision::Ignore(_) | Decision::Refuse(_)),
                        "{status:?} {input:?} {again:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn ends_are_final() {
        for input in inputs() {
            assert!(!matches!(decide(&order(Status::Signed), &input), Decision::Apply(..)), "{input:?}");
        }
        let mut refunded = order(Status::Canceled);
        refunded.refund = RefundState::Done;
        for input in inputs() {
            assert!(!matches!(decide(&refunded, &input), Decision::Apply(..)), "{input:?}");
        }
    }

    #[test]
    fn states_never_go_back() {
        for status in Status::ALL {
            for input in inputs() {
                if let Decision::Apply(next, _) = decide(&order(status), &input) {
                    assert!(next.status >= status, "{status:?} {input:?}");
                }
            }
        }
    }

    #[test]
    fn a_late_payment_of_a_canceled_order_asks_for_its_refund_once() {
        let amount = Money::from_minor(100).unwrap();
        let input = Input::Paid { payment_id: PaymentId(7), amount };
        let Decision::Apply(next, effects) = decide(&order(Status::Canceled), &input) else { panic!() };
        assert_eq!(effects, [Effect::AskRefund]);
        assert_eq!(next.outcome(), Outcome::Open);
        assert!(matches!(decide(&next, &input), Decision::Ignore(_)));
    }

    #[test]
    fn the_warehouse_may_refuse_until_it_took_it_over() {
        for handed_over in [false, true] {
            let paid = OrderState { handed_over, ..order(Status::Paid) };
            let Decision::Apply(next, effects) = decide(&paid, &Input::Declined) else { panic!() };
            assert_eq!((next.status, next.refund, next.handed_over), (Status::Canceled, RefundState::Requested, false));
            assert_eq!(effects, [Effect::TellCanceled, Effect::AskRelease, Effect::AskRefund]);
            // Too late for anything else of the warehouse.
            let late = decide(&next, &Input::Fulfilment(Status::Fulfill));
            assert!(matches!(late, Decision::Refuse(_)));
        }
        for status in [Status::Fulfill, Status::OutStock, Status::Delivery, Status::Signed] {
            assert!(matches!(decide(&order(status), &Input::Declined), Decision::Refuse(_)), "{status:?}");
        }
    }

    #[test]
    fn a_cancel_without_money_left_ends_the_order() {
        let handed = OrderState { handed_over: true, ..order(Status::Paid) };
        for (paid, input) in [(handed, Input::Declined), (order(Status::Paid), Input::Cancel(CancelType::User))] {
            let Decision::Apply(next, effects) = with_all_back(decide(&paid, &input)) else { panic!() };
            assert_eq!(next.outcome(), Outcome::Refunded);
            assert_eq!(effects, [Effect::TellCanceled, Effect::AskRelease]);
        }
        // What asks for no money stays as it is.
        for status in [Status::Reserved, Status::Signed, Status::Canceled] {
            let decision = decide(&order(status), &Input::Cancel(CancelType::User));
            assert_eq!(with_all_back(decision.clone()), decision);
        }
    }

    #[test]
    fn the_address_changes_until_the_warehouse_has_it() {
        for status in Status::ALL {
            let may = matches!(may_redirect(&order(status)), Decision::Apply(..));
            assert_eq!(may, status <= Status::Paid, "{status:?}");
            let handed = OrderState { handed_over: true, ..order(status) };
            assert!(matches!(may_redirect(&handed), Decision::Refuse(_)), "{status:?}");
        }
    }

    #[test]
    fn a_cancel_after_paying_is_refused_once_the_warehouse_has_it() {
        let mut handed = order(Status::Paid);
        handed.handed_over = true;
        assert!(matches!(decide(&handed, &Input::Cancel(CancelType::User)), Decision::Refuse(_)));
        let Decision::Apply(_, effects) = decide(&order(Status::Paid), &Input::Cancel(CancelType::User)) else {
            panic!()
        };
        assert_eq!(effects, [Effect::TellCanceled, Effect::AskRelease, Effect::AskRefund]);
    }
}
