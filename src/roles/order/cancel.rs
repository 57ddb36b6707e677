//! Canceling orders that may be paid by now. The news of the money may be late, so payment is asked first: it closes the
//! payment, and the order is canceled, or it has the money, and the order is paid.
//!
//! Roles that share a database do it in one transaction. Otherwise PAYMENT_CLOSE_REQUESTED asks and PAYMENT_CLOSE_RESULT
//! answers. Whichever of the answer and PAYMENT_SUCCESS comes first, and however often: the payment says the same to both,
//! and an order that is paid or canceled already stays so.

use std::collections::{BTreeMap, HashMap};

use super::flow::{self, Moved, Note, Step};
use crate::config::Config;
use crate::db::orders::{self, OrderRow};
use crate::db::tx::Draft;
use crate::db::{DbError, Tx, outbox};
use crate::domain::event::{Kind, PaymentCloseRequested, PaymentCloseResult, Role};
use crate::domain::id::{OrderId, UserId};
use crate::domain::order::{CancelType, Input, Status};
use crate::roles::payment::channels::Channels;
use crate::roles::payment::close::{self, Taken};

/// An order whose payment was asked, or that could not be moved, is looked at again after this, ms.
const LOOK_AGAIN_MS: i64 = 300_000;

/// How orders are canceled. A cheap copy.
#[derive(Clone, Copy, Debug)]
pub struct Cancels {
    /// Payments are in the same database.
    together: bool,
    /// So long after a payment was closed its channel is asked what became of it, ms; none: never.
    ask_after_ms: Option<i64>,
}

/// Somebody wants an order canceled.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Which order.
    pub order_id: i64,
    /// Who wants it.
    pub by: CancelType,
    /// Why, for the user.
    pub reason: Option<String>,
    /// W3C trace context of the cause.
    pub trace: Option<String>,
}

/// What is to happen to an order.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// These steps, of which the last one counts.
    Steps(Vec<Step>),
    /// A cancel.
    Cancel(Wish),
}

impl Wanted {
    fn wish(&self) -> Option<&Wish> {
        match self {
            Self::Cancel(wish) => Some(wish),
            Self::Steps(_) => None,
        }
    }
}

impl Wish {
    /// What is to be done once payment has said whether it has the money: that is taken note of, and what was canceled by
    /// time only is paid then.
    fn steps(&self, money: Option<&Taken>) -> Vec<Step> {
        let step = |input, note| Step { order_id: self.order_id, input, note };
        let trace = self.trace.clone();
        let paid = money.map(|money| {
            let input = Input::Paid { payment_id: money.payment_id, amount: money.amount };
            step(input, Note { pay_time: Some(money.pay_time), trace: trace.clone(), ..Note::default() })
        });
        let is_over = paid.is_some() && self.by == CancelType::Timeout;
        let note = Note { reason: self.reason.clone(), trace: trace.clone(), ..Note::default() };
        paid.into_iter().chain((!is_over).then(|| step(Input::Cancel(self.by), note))).collect()
    }
}

/// What is to be done now that payment has answered.
#[must_use]
pub fn answered(body: &PaymentCloseResult, trace: Option<String>) -> Wanted {
    let money = body.payment_id.zip(body.amount);
    let money = money.map(|(payment_id, amount)| Taken { payment_id, amount, pay_time: body.pay_time });
    let reason = Some(body.reason.chars().take(500).collect());
    let wish = Wish { order_id: body.order_id.0, by: body.cancel_type, reason, trace };
    Wanted::Steps(wish.steps(money.as_ref()))
}

impl Cancels {
    /// As configured.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let together = config.databases(&[Role::Order, Role::Payment]).len() == 1;
        Self { together, ask_after_ms: Channels::of(config).query_after_ms() }
    }

    /// Does what is wanted, in this order; one answer for each.
    ///
    /// # Errors
    /// The database's; a unique violation when one of the payments is opened in the same moment: then all is to be done
    /// again.
    pub async fn advance(self, tx: &mut Tx, wanted: &[Wanted]) -> Result<Vec<Moved>, DbError> {
        let open = open(tx, wanted).await?;
        let money = if self.together { take(tx, &open, self.ask_after_ms).await? } else { HashMap::new() };
        let waits = |wish: &Wish| !self.together && open.get(&wish.order_id).is_some_and(|order| must_ask(order, wish));

        let mut plans: Vec<Vec<Step>> = Vec::with_capacity(wanted.len());
        for one in wanted {
            plans.push(match one {
                Wanted::Steps(steps) => steps.clone(),
                Wanted::Cancel(wish) if waits(wish) => Vec::new(),
                Wanted::Cancel(wish) => wish.steps(money.get(&wish.order_id)),
            });
        }
        let mut moved = flow::advance(tx, &plans.concat()).await?.into_iter();
        let mut answers = Vec::with_capacity(wanted.len());
        for (one, steps) in wanted.iter().zip(plans) {
            let last = moved.by_ref().take(steps.len()).last();
            let asked = one.wish().and_then(|wish| open.get(&wish.order_id));
            answers.push(match (last, asked) {
                (Some(last), _) => last,
                (None, Some(order)) => Moved::Asked(Box::new(order.clone())),
                (None, None) => Moved::Unknown,
            });
        }

        let asking: Vec<&Wish> = wanted.iter().filter_map(Wanted::wish).filter(|wish| waits(wish)).collect();
        ask(tx, &asking, &open).await?;
        look_again(tx, wanted, &answers).await?;
        Ok(answers)
    }
}

/// The orders that somebody wants canceled, and that may be paid by now, locked.
async fn open(tx: &mut Tx, wanted: &[Wanted]) -> Result<HashMap<i64, OrderRow>, DbError> {
    let ids: Vec<i64> = wanted.iter().filter_map(Wanted::wish).map(|wish| wish.order_id).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let mut found = orders::lock(tx, ids).await?;
    found.retain(|_, order| is_open(order));
    Ok(found)
}

fn is_open(order: &OrderRow) -> bool {
    matches!(order.state.status, Status::Created | Status::Reserved)
}

/// Whether payment is asked by an event. Hardly anybody can have paid what is not known to be in stock, and whoever wants
/// that canceled need not wait: money that comes all the same goes back, as after every cancel of his.
fn must_ask(order: &OrderRow, wish: &Wish) -> bool {
    wish.by == CancelType::Timeout || order.state.status != Status::Created
}

/// The money of those orders whose payment has it; the payments of the others are closed.
async fn take(
    tx: &mut Tx,
    open: &HashMap<i64, OrderRow>,
    ask_after_ms: Option<i64>,
) -> Result<HashMap<i64, Taken>, DbError> {
    if open.is_empty() {
        return Ok(HashMap::new());
    }
    let users: BTreeMap<i64, i64> = open.values().map(|order| (order.id, order.user_id)).collect();
    close::close(tx, &users, ask_after_ms).await
}

/// Asks payment, once in a while for each order and whoever wants it canceled.
async fn ask(tx: &mut Tx, wishes: &[&Wish], open: &HashMap<i64, OrderRow>) -> Result<(), DbError> {
    let turn = tx.now_ms() / LOOK_AGAIN_MS;
    let apart = |wish: &Wish| format!("{}-{turn}", wish.by.name());
    let id = |wish: &Wish| format!("{}:{}", Kind::PaymentCloseRequested.event_id(wish.order_id), apart(wish));
    let mut written = outbox::existing(tx, wishes.iter().map(|wish| id(wish)).collect()).await?;
    for wish in wishes {
        let Some(order) = open.get(&wish.order_id).filter(|_| written.insert(id(wish))) else { continue };
        let body = PaymentCloseRequested {
            order_id: OrderId(order.id),
            user_id: UserId(order.user_id),
            cancel_type: wish.by,
            reason: wish.reason.clone().unwrap_or_default(),
        };
        let (apart, draft) =
            (apart(wish), Draft::new(Kind::PaymentCloseRequested, order.id, &body, wish.trace.as_deref()));
        tx.emit(&Draft { discriminator: &apart, ..draft })?;
    }
    Ok(())
}

/// What is past its time and stays open for now must not be the first that the walk finds, again and again.
async fn look_again(tx: &mut Tx, wanted: &[Wanted], answers: &[Moved]) -> Result<(), DbError> {
    let is_late = |one: &Wanted| one.wish().is_some_and(|wish| wish.by == CancelType::Timeout);
    let stays = wanted.iter().zip(answers).filter(|(one, _)| is_late(one)).filter_map(|(_, moved)| match moved {
        Moved::Asked(order) | Moved::Decided(_, order) if is_open(order) => Some(order.id),
        _ => None,
    });
    let ids: Vec<i64> = stays.collect();
    let at_ms = tx.now_ms() + LOOK_AGAIN_MS;
    orders::look_again(tx, ids, at_ms).await
}
