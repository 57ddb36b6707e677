//! Closing the payment of an order that is to be canceled. What is closed takes no money for the order any more, and lets
//! the order be canceled; what has its money by then pays the order. So no order is canceled only because the news of its
//! money is late.

use std::collections::{BTreeMap, HashMap};

use super::events::CURRENCY;
use super::query;
use crate::db::payments::{self, PaymentRow};
use crate::db::tx::Draft;
use crate::db::{DbError, Tx, outbox};
use crate::domain::event::{Kind, PaymentCloseRequested, PaymentCloseResult};
use crate::domain::id::{MerchantId, PaymentId};
use crate::domain::money::Money;
use crate::domain::order::Decision;
use crate::domain::payment::{self, Input, PaymentState, Status};
use crate::mq::{Event, Outcome};

/// The money of an order whose payment was not closed, since it has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Payment.
    pub payment_id: PaymentId,
    /// How much.
    pub amount: Money,
    /// When the channel took it, epoch ms.
    pub pay_time: i64,
}

/// Closes the payments of these orders (order → user), or says which have their money. For whoever shares the database
/// with payments, and cancels in the same transaction. Channels are asked about what is closed `ask_after_ms` later.
///
/// # Errors
/// The database's; a unique violation when one of the payments is opened in the same moment: then all is to be done again.
pub async fn close(
    tx: &mut Tx,
    orders: &BTreeMap<i64, i64>,
    ask_after_ms: Option<i64>,
) -> Result<HashMap<i64, Taken>, DbError> {
    let mut found = payments::lock_by_order(tx, orders.keys().copied().collect()).await?;
    let missing = orders.iter().filter(|(id, _)| !found.contains_key(id));
    let new: Vec<PaymentRow> = missing.map(|(id, user_id)| tombstone(tx, *id, *user_id)).collect();
    payments::insert(tx, &new).await?;

    let changed: Vec<&PaymentRow> =
        found.values_mut().filter_map(|payment| close_one(payment).then_some(&*payment)).collect();
    payments::update(tx, &changed).await?;
    query::ask_closed(tx, ask_after_ms, &changed).await?;
    Ok(found.values().filter_map(|payment| taken(payment).map(|money| (payment.order_id, money))).collect())
}

/// Closes a payment that waits for its payer; whether it did.
pub(super) fn close_one(payment: &mut PaymentRow) -> bool {
    let Decision::Apply(next, _) = payment::decide(&payment.state, &Input::CloseRequested) else { return false };
    payment.state = next;
    true
}

/// The money of a payment, unless it is on its way back already: then it pays nothing any more.
fn taken(payment: &PaymentRow) -> Option<Taken> {
    let money = Taken {
        payment_id: PaymentId(payment.id),
        amount: payment.state.amount,
        pay_time: payment.pay_time.unwrap_or(0),
    };
    (payment.state.status == Status::Success).then_some(money)
}

/// A payment that was closed before it was opened: the freeze's news, when it comes, must not open one any more.
pub(super) fn tombstone(tx: &Tx, order_id: i64, user_id: i64) -> PaymentRow {
    PaymentRow {
        id: tx.next_id(),
        order_id,
        order_no: String::new(),
        user_id,
        state: PaymentState {
            status: Status::Closed,
            amount: Money::ZERO,
            currency: CURRENCY.to_owned(),
            merchant_id: MerchantId::SHOP.0,
            transaction_no: None,
        },
        channel_id: String::new(),
        expire_time: 0,
        payment_method: None,
        pay_time: None,
        trace: None,
    }
}

/// A question of the order role, and the payment as it is by now.
pub(super) struct Asked {
    pub body: PaymentCloseRequested,
    /// Tells the answers to the questions about one order apart.
    pub apart: String,
    pub trace: Option<String>,
}

impl Asked {
    pub fn of(event: &Event, body: PaymentCloseRequested) -> Self {
        let asked = Kind::PaymentCloseRequested.event_id(body.order_id);
        let apart = event.id.strip_prefix(&asked).unwrap_or_default().trim_start_matches(':').to_owned();
        Self { body, apart, trace: event.trace.clone() }
    }
}

/// PAYMENT_CLOSE_RESULT for each question, once.
///
/// # Errors
/// The database's.
pub(super) async fn answer(
    tx: &mut Tx,
    payments: &HashMap<i64, PaymentRow>,
    questions: &[Asked],
) -> Result<(), DbError> {
    let kind = Kind::PaymentCloseResult;
    let id = |asked: &Asked| match asked.apart.as_str() {
        "" => kind.event_id(asked.body.order_id),
        apart => format!("{}:{apart}", kind.event_id(asked.body.order_id)),
    };
    let mut written = outbox::existing(tx, questions.iter().map(id).collect()).await?;
    for asked in questions {
        if !written.insert(id(asked)) {
            continue;
        }
        let money = payments.get(&asked.body.order_id.0).and_then(taken);
        let body = PaymentCloseResult {
            order_id: asked.body.order_id,
            cancel_type: asked.body.cancel_type,
            reason: asked.body.reason.clone(),
            payment_id: money.map(|money| money.payment_id),
            amount: money.map(|money| money.amount),
            pay_time: money.map_or(0, |money| money.pay_time),
        };
        let draft = Draft::new(kind, asked.body.order_id, &body, asked.trace.as_deref());
        tx.emit(&Draft { discriminator: &asked.apart, ..draft })?;
    }
    Ok(())
}

/// What became of a question.
pub(super) fn outcome(is_closed_now: bool) -> Outcome {
    if is_closed_now { Outcome::Done } else { Outcome::Ignored("answered as it is".to_owned()) }
}
