//! The payer pays, and the channel says so: both come over HTTP, and are written in groups.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::channels::{Channels, SandboxWish, Told};
use super::tell::{self, News};
use super::{query, refund};
use crate::alert::Alert;
use crate::config::ChannelKind;
use crate::db::delivery::{self, Delivery};
use crate::db::group::Batch;
use crate::db::payments::{self, PaymentRow};
use crate::db::tx::Draft;
use crate::db::{Db, DbError, Tx};
use crate::domain::event::{Kind, PaymentSuccess};
use crate::domain::id::{MerchantId, OrderId, PaymentId, TransactionNo, UserId};
use crate::domain::money::Money;
use crate::domain::order::Decision;
use crate::domain::payment::{self, Confirmation, Effect, Input, PaymentState, Status};
use crate::domain::statistics::Type;

/// Body of a channel's callback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Callback {
    /// Payment.
    #[schema(value_type = String)]
    pub payment_id: PaymentId,
    /// The channel's number.
    #[schema(value_type = String)]
    pub transaction_no: TransactionNo,
    /// What it took.
    #[schema(value_type = f64)]
    pub amount: Money,
    /// ISO 4217.
    pub currency: String,
    /// For whom.
    #[schema(value_type = String)]
    pub merchant_id: MerchantId,
    /// Card, wallet, ...
    #[serde(default)]
    pub method: String,
    /// When, epoch ms.
    pub pay_time: i64,
    /// The channel that says so.
    #[serde(skip)]
    pub channel_id: String,
    /// W3C trace context of the request.
    #[serde(skip)]
    pub trace: Option<String>,
}

impl Callback {
    /// What is wrong with it by itself: the field, and why.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self, now_ms: i64) -> Result<(), (&'static str, &'static str)> {
        // Money is counted by the day of its time: seconds, or a wrong clock, would count it decades away.
        if !(EARLIEST_MS..=now_ms.saturating_add(AHEAD_MS)).contains(&self.pay_time) {
            return Err(("payTime", "must be in epoch milliseconds, after 2001, and not more than a day ahead"));
        }
        Ok(())
    }
}

/// Characters of what a channel names in a statement that cannot be read.
const NAMED: usize = 64;
/// Characters of why it cannot.
const WHY: usize = 200;
/// No money was taken before: 2001-09-09, epoch ms.
const EARLIEST_MS: i64 = 1_000_000_000_000;
/// Clocks of channels may be wrong by so much.
const AHEAD_MS: i64 = 86_400_000;

/// The answer to a callback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// Taken, now or before.
    Yes,
    /// There is no such payment.
    Unknown,
    /// It does not fit the payment.
    Refused(&'static str),
    /// Nothing is known for certain: the channel is to call again.
    Again,
}

/// Takes the word of channels; the signatures are checked already.
///
/// # Errors
/// The database's.
pub async fn confirm(db: Db, channels: Channels, batch: Batch<Callback>) -> Result<Vec<Confirmed>, DbError> {
    db.write("pay_callback", move |tx| {
        let (channels, batch) = (channels.clone(), batch.clone());
        Box::pin(async move {
            let callbacks = batch.requests();
            let answers = confirm_by_outbox(tx, &channels, &callbacks).await?;
            report_refused(tx, &callbacks, &answers);
            Ok(answers)
        })
    })
    .await
}

/// [`confirm`] within a transaction.
///
/// # Errors
/// The database's.
pub(super) async fn confirm_by_outbox(
    tx: &mut Tx,
    channels: &Channels,
    callbacks: &[Callback],
) -> Result<Vec<Confirmed>, DbError> {
    let ids = callbacks.iter().map(|callback| callback.payment_id.0).collect();
    let found = payments::lock_by_id(tx, ids).await?;
    confirm_in(tx, channels, callbacks, found, |tx, _, payment, callback| {
        let body = success(payment, callback);
        tx.emit(&Draft::new(Kind::PaymentSuccess, payment.order_id, &body, trace(payment, callback)))?;
        Ok(true)
    })
    .await
}

/// Money that a channel has signed for, and that is not taken: nobody but a person can find out whose it is.
#[derive(Clone, Debug)]
pub(super) struct Untaken {
    /// The channel that says so.
    pub channel_id: String,
    /// Payment, transaction and amount: as the channel names them, or nothing where it cannot be read.
    pub payment_id: String,
    pub transaction_no: String,
    pub amount: String,
    /// Why it is not taken.
    pub why: String,
    /// Tells it apart from others that cannot be read either.
    pub apart: String,
}

impl Untaken {
    pub fn of(callback: &Callback, why: &str) -> Self {
        Self {
            channel_id: callback.channel_id.clone(),
            payment_id: callback.payment_id.to_string(),
            transaction_no: callback.transaction_no.to_string(),
            amount: format!("{} {}", callback.amount, callback.currency.chars().take(8).collect::<String>()),
            why: why.to_owned(),
            apart: String::new(),
        }
    }

    /// A statement that cannot be read, and why; what it names all the same helps whoever looks for the money.
    pub fn unreadable(channel_id: &str, body: &[u8], why: &str) -> Self {
        let said: Value = serde_json::from_slice(body).unwrap_or_default();
        let named = |field: &str| {
            let text = match &said[field] {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                _ => String::new(),
            };
            text.chars().take(NAMED).collect()
        };
        Self {
            channel_id: channel_id.to_owned(),
            payment_id: named("paymentId"),
            transaction_no: named("transactionNo"),
            amount: named("amount"),
            why: format!("what the channel says cannot be read: {}", why.chars().take(WHY).collect::<String>()),
            apart: hex::encode(Sha256::digest(body)),
        }
    }

    /// Tells people; a channel that repeats itself is told of once.
    fn alert(self, tx: &mut Tx) {
        let Self { channel_id, payment_id, transaction_no, amount, why, apart } = self;
        let what = Sha256::digest(format!("{channel_id} {payment_id} {transaction_no} {amount} {why} {apart}"));
        let alert_time = tx.now_ms();
        let alert =
            Alert::MoneyNotTaken { channel_id, payment_id, transaction_no, amount, error_message: why, alert_time };
        tx.alert(format!("money:{}", hex::encode(what)), alert);
    }
}

/// Tells people of money that a channel has signed for, and that is not taken.
///
/// # Errors
/// The database's.
pub(super) async fn report(db: &Db, untaken: Untaken) -> Result<(), DbError> {
    db.write("pay_callback", move |tx| {
        let untaken = untaken.clone();
        Box::pin(async move {
            untaken.alert(tx);
            Ok(())
        })
    })
    .await
}

/// Tells people of those of these callbacks that were answered with a no.
pub(super) fn report_refused(tx: &mut Tx, callbacks: &[Callback], answers: &[Confirmed]) {
    for (callback, answer) in callbacks.iter().zip(answers) {
        let why = match answer {
            Confirmed::Yes | Confirmed::Again => continue,
            Confirmed::Unknown => "there is no such payment",
            Confirmed::Refused(why) => why,
        };
        Untaken::of(callback, why).alert(tx);
    }
}

/// The trace that a payment's success belongs to: a channel that passes none on leaves that of the order.
pub(super) fn trace<'a>(payment: &'a PaymentRow, callback: &'a Callback) -> Option<&'a str> {
    callback.trace.as_deref().or(payment.trace.as_deref())
}

/// What a callback does to its payment. A channel speaks of its own payments only.
pub(super) fn decide(payment: &PaymentRow, callback: &Callback) -> Decision<PaymentState, Effect> {
    if payment.channel_id != callback.channel_id {
        return Decision::Refuse("the payment is one of another channel");
    }
    let input = Input::Confirmed(Confirmation {
        transaction_no: callback.transaction_no.clone(),
        amount: callback.amount,
        currency: callback.currency.clone(),
        merchant_id: callback.merchant_id.0,
    });
    payment::decide(&payment.state, &input)
}

/// The body of PAYMENT_SUCCESS.
pub(super) fn success(payment: &PaymentRow, callback: &Callback) -> PaymentSuccess {
    PaymentSuccess {
        payment_id: PaymentId(payment.id),
        order_id: OrderId(payment.order_id),
        order_no: payment.order_no.clone(),
        user_id: UserId(payment.user_id),
        amount: callback.amount,
        payment_method: callback.method.clone(),
        transaction_no: callback.transaction_no.to_string(),
        pay_time: callback.pay_time,
    }
}

/// Writes what `callbacks` do to the payments in `found`, which are locked. `tell` is asked, with the callback's
/// index, to see to it that a success is told; when it says false, that payment stays as it is.
pub(super) async fn confirm_in<T>(
    tx: &mut Tx,
    channels: &Channels,
    callbacks: &[Callback],
    mut found: HashMap<i64, PaymentRow>,
    mut tell: T,
) -> Result<Vec<Confirmed>, DbError>
where
    T: FnMut(&mut Tx, usize, &PaymentRow, &Callback) -> Result<bool, DbError>,
{
    let gateways = tell::gateways(tx, found.values()).await?;
    let mut changed = BTreeSet::new();
    let mut back = Back::default();
    let mut answers = Vec::with_capacity(callbacks.len());
    for (index, callback) in callbacks.iter().enumerate() {
        let Some(payment) = found.get_mut(&callback.payment_id.0) else {
            answers.push(Confirmed::Unknown);
            continue;
        };
        let (next, effects) = match decide(payment, callback) {
            Decision::Refuse(why) => {
                answers.push(Confirmed::Refused(why));
                continue;
            }
            Decision::Ignore(_) | Decision::Early(_) => {
                answers.push(Confirmed::Yes);
                continue;
            }
            Decision::Apply(next, effects) => (next, effects),
        };
        if effects.contains(&Effect::TellSuccess) {
            let gateway = gateways.get(&payment.id);
            if gateway.is_none() && !tell(tx, index, payment, callback)? {
                answers.push(Confirmed::Again);
                continue;
            }
            let trace = trace(payment, callback);
            tell::count(tx, channels, Type::Success, payment, gateway, callback.pay_time, trace)?;
            if let Some(gateway) = gateway {
                if payment.state.status == Status::Closed {
                    back.late.push((payment.id, callback.trace.clone()));
                } else {
                    tell::merchant(tx, payment, gateway, News::Paid, trace)?;
                }
            }
            payment.payment_method = Some(callback.method.chars().take(32).collect());
            payment.pay_time = Some(callback.pay_time);
            changed.insert(payment.id);
        }
        for effect in effects {
            if let Effect::RefundExtra(transaction_no) = effect {
                back.extra.push((payment.id, transaction_no, callback.trace.clone()));
            }
        }
        payment.state = next;
        if back.late.iter().any(|(id, _)| *id == payment.id) {
            payment.state.status = Status::Refunding;
        }
        answers.push(Confirmed::Yes);
    }
    write(tx, channels, &found, &changed, back).await?;
    Ok(answers)
}

/// Money that goes back at once: by payment, with the trace of the callback.
#[derive(Default)]
struct Back {
    /// It came a second time, in this transaction.
    extra: Vec<(i64, TransactionNo, Option<String>)>,
    /// Its merchant had closed the payment.
    late: Vec<(i64, Option<String>)>,
}

async fn write(
    tx: &mut Tx,
    channels: &Channels,
    found: &HashMap<i64, PaymentRow>,
    changed: &BTreeSet<i64>,
    back: Back,
) -> Result<(), DbError> {
    let rows: Vec<&PaymentRow> = changed.iter().filter_map(|id| found.get(id)).collect();
    payments::update(tx, &rows).await?;
    query::take_back(tx, changed.iter().copied()).await?;
    for (payment_id, trace) in back.late {
        let Some(payment) = found.get(&payment_id) else { continue };
        refund::rest(tx, channels, payment, &refund::Wish { reason: "paid after it was closed".to_owned(), trace })
            .await?;
    }
    for (payment_id, transaction_no, trace) in back.extra {
        let Some(payment) = found.get(&payment_id) else { continue };
        let wish = refund::Wish { reason: "paid more than once".to_owned(), trace };
        refund::extra(tx, channels, payment, transaction_no.as_str(), &wish).await?;
    }
    Ok(())
}

/// A payer's attempt to pay an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayRequest {
    /// Which order.
    pub order_id: OrderId,
    /// Card, wallet, ...
    pub method: String,
    /// How the sandbox is to behave.
    pub sandbox: Option<SandboxWish>,
    /// W3C trace context of the request.
    pub trace: Option<String>,
}

/// The answer to an attempt to pay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PayAnswer {
    /// The order has no payment (yet).
    NotOpen,
    /// The order was canceled.
    Closed,
    /// Its channel is not there: why.
    NoChannel(String),
    /// It was submitted by this method before, and its channel may take the money by that.
    OtherMethod(String),
    /// Its channel is no sandbox, and takes no wishes of how it is to behave.
    NoSandbox(String),
    /// Submitted to the channel, now or before, or paid already; the payment as it is.
    Submitted(Box<PaymentRow>),
}

/// Submits payments to their channels.
///
/// # Errors
/// The database's.
pub async fn pay(db: Db, channels: Channels, batch: Batch<PayRequest>) -> Result<Vec<PayAnswer>, DbError> {
    db.write("pay", move |tx| {
        let (channels, batch) = (channels.clone(), batch.clone());
        Box::pin(async move { pay_all(tx, &channels, &batch.requests()).await })
    })
    .await
}

async fn pay_all(tx: &mut Tx, channels: &Channels, requests: &[PayRequest]) -> Result<Vec<PayAnswer>, DbError> {
    let found = payments::lock_by_order(tx, requests.iter().map(|request| request.order_id.0).collect()).await?;
    let mut told = told_before(tx, found.values()).await?;
    let (mut calls, mut questions) = (Vec::new(), Vec::<Delivery>::new());
    let mut answers = Vec::with_capacity(requests.len());
    for request in requests {
        let Some(payment) = found.get(&request.order_id.0) else {
            answers.push(PayAnswer::NotOpen);
            continue;
        };
        if let Some(refused) = refusal(channels, payment, request.sandbox.as_ref()) {
            answers.push(refused);
            continue;
        }
        let is_pending = payment.state.status == Status::Pending;
        // A payment that has its money is not submitted again, unless the sandbox is to be paid in another transaction.
        if is_pending || transaction(request).is_some() {
            let call = submission(tx, channels, payment, request)?;
            let before = told.entry(call.reference.clone()).or_insert_with(|| Told::by(&request.method));
            if before.is_other(&request.method) {
                let next = before.next(&request.method);
                if !change_method(tx, &next, payment, request).await? {
                    answers.push(PayAnswer::OtherMethod(before.method().to_owned()));
                    continue;
                }
                *before = next;
            }
            calls.push(call);
        }
        if is_pending {
            questions.extend(query::question(tx, channels, payment)?);
        }
        answers.push(PayAnswer::Submitted(Box::new(payment.clone())));
    }
    if !calls.is_empty() {
        let references = calls.iter().map(|call| call.reference.clone()).collect();
        let asked = questions.iter().map(|question| question.reference.clone()).collect();
        calls.append(&mut questions);
        // A payer who tries again after the channel could not be reached is submitted again, under the same key.
        delivery::insert(tx, &calls).await?.or_known();
        delivery::revive(tx, delivery::Kind::ChannelSubmit, references).await?;
        query::ask_anew(tx, channels, asked).await?;
    }
    Ok(answers)
}

/// Why a payment cannot be submitted.
fn refusal(channels: &Channels, payment: &PaymentRow, wish: Option<&SandboxWish>) -> Option<PayAnswer> {
    if payment.state.status == Status::Closed {
        return Some(PayAnswer::Closed);
    }
    match channels.get(&payment.channel_id).map(|channel| channel.kind) {
        None => Some(PayAnswer::NoChannel(channels.why_not(&payment.channel_id))),
        // Another transaction number would make a real channel take the money a second time.
        Some(kind) if wish.is_some() && kind != ChannelKind::Sandbox => {
            Some(PayAnswer::NoSandbox(payment.channel_id.clone()))
        }
        Some(_) => None,
    }
}

/// The transaction in which the sandbox is to be paid, where the payer has a wish.
fn transaction(request: &PayRequest) -> Option<&TransactionNo> {
    request.sandbox.as_ref().and_then(|wish| wish.transaction_no.as_ref())
}

/// The call that submits a payment for the first time.
fn submission(tx: &Tx, channels: &Channels, payment: &PaymentRow, request: &PayRequest) -> Result<Delivery, DbError> {
    Ok(Delivery {
        id: tx.next_id(),
        kind: delivery::Kind::ChannelSubmit,
        reference: transaction(request).map_or(payment.id.to_string(), |no| format!("{}:{no}", payment.id)),
        order_id: payment.order_id,
        url: channels.url(&payment.channel_id, "pay"),
        body: Channels::submission(payment, &request.method, request.sandbox.as_ref(), None)?,
        attempts: 0,
        next_at: tx.now_ms(),
        trace: request.trace.clone().or_else(|| payment.trace.clone()),
    })
}

/// What the channels of those of these payments that are open were told before, by the reference of the submission. One
/// that cannot be read is left out: it is found, and told of, when it is to be sent.
async fn told_before<'p>(
    tx: &mut Tx,
    payments: impl Iterator<Item = &'p PaymentRow>,
) -> Result<HashMap<String, Told>, DbError> {
    let open = payments.filter(|payment| payment.state.status == Status::Pending);
    let references: Vec<String> = open.map(|payment| payment.id.to_string()).collect();
    let calls = delivery::by_references(tx, delivery::Kind::ChannelSubmit, references).await?;
    Ok(calls.into_iter().filter_map(|call| Told::of(&call.body).ok().map(|told| (call.reference, told))).collect())
}

/// The payer of a submitted payment wants to pay by another method. The channel is told of `next` instead where it
/// cannot have taken what it was told before: nobody has told it yet, or it has refused it. False where it may have:
/// then two methods would be open for one payment, and both might be paid.
async fn change_method(tx: &mut Tx, next: &Told, payment: &PaymentRow, request: &PayRequest) -> Result<bool, DbError> {
    let body = Channels::submission(payment, next.method(), request.sandbox.as_ref(), next.attempt())?;
    delivery::reword(tx, delivery::Kind::ChannelSubmit, payment.id.to_string(), body).await
}
