//! Telling merchants what became of their money: the notify role says so (ORDER_NOTIFY), and a call carries it.

use std::collections::{HashMap, HashSet};

use futures_util::future::BoxFuture;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::db::delivery::{self, Delivery};
use crate::db::merchants::{self, Merchant};
use crate::db::tx::Draft;
use crate::db::{DbError, Tx, outbox};
use crate::delivery::webhook;
use crate::domain::call;
use crate::domain::event::{Group, Kind, OrderNotify, PaidOrderSuccess, RefundKind, RefundSuccess};
use crate::domain::id::{MerchantId, OrderId, is_given_out, unpadded};
use crate::mq::{Event, Handler, Outcome};

/// The money of an order is there.
const PAID: &str = "PAID";
/// All of it went back.
const REFUNDED: &str = "REFUNDED";
/// A part of it went back.
const PART_REFUNDED: &str = "PART_REFUNDED";

/// Longest address and longest reference of a call.
const URL_MAX: usize = 500;
const REFERENCE_MAX: usize = 128;

/// ORDER_NOTIFY, and what tells several of one order apart.
fn notice(event: &Event) -> Option<(OrderNotify, String)> {
    let of =
        |order_id: OrderId, order_no, merchant_id: Option<MerchantId>, money, status: &str, refund_id| OrderNotify {
            order_id: order_id.to_string(),
            order_no,
            out_order_no: String::new(),
            money,
            status: status.to_owned(),
            notify_url: String::new(),
            retry_count: 0,
            merchant_id,
            refund_id,
        };
    match event.kind {
        Kind::PaidOrderSuccess => {
            let body: PaidOrderSuccess = event.read().ok()?;
            let notify = of(body.order_id, body.order_no, body.merchant_id, body.pay_amount, PAID, None);
            Some((notify, PAID.to_owned()))
        }
        Kind::RefundSuccess => {
            let body: RefundSuccess = event.read().ok()?;
            // Money that came twice was never the merchant's.
            if body.kind == RefundKind::Extra {
                return None;
            }
            // A part that was on its way when the order was canceled may be back after the rest.
            let (status, apart) = match body.all_back.unwrap_or(body.kind == RefundKind::Order) {
                true => (REFUNDED, REFUNDED.to_owned()),
                false => (PART_REFUNDED, format!("{PART_REFUNDED}:{}", body.refund_id)),
            };
            let refund_id = Some(body.refund_id);
            Some((of(body.order_id, body.order_no, body.merchant_id, body.amount, status, refund_id), apart))
        }
        _ => None,
    }
}

/// Writes ORDER_NOTIFY for those of `events` that say something about a merchant's money, where the merchant wants to
/// know.
///
/// # Errors
/// The database's.
pub(super) async fn tell<'e>(tx: &mut Tx, events: impl Iterator<Item = &'e Event>) -> Result<(), DbError> {
    let notices: Vec<(&Event, OrderNotify, String)> = events
        .filter_map(|event| notice(event).map(|(notify, apart)| (event, notify, apart)))
        .filter(|(_, notify, _)| notify.merchant_id.is_some())
        .collect();
    if notices.is_empty() {
        return Ok(());
    }
    let ids = notices.iter().filter_map(|(_, notify, _)| notify.merchant_id).map(|id| id.0).collect();
    let known = merchants::get(tx, ids).await?;
    let wanted = |notify: &OrderNotify| {
        let merchant = notify.merchant_id.and_then(|id| known.get(&id.0));
        merchant.is_some_and(|merchant| merchant.profile.active && !merchant.profile.notify_url.is_empty())
    };
    let notices: Vec<_> = notices.into_iter().filter(|(_, notify, _)| wanted(notify)).collect();
    let id_of = |notify: &OrderNotify, apart: &str| format!("{}:{apart}", Kind::OrderNotify.event_id(&notify.order_id));
    // A handler that runs again for an event does not tell again.
    let mut written =
        outbox::existing(tx, notices.iter().map(|(_, notify, apart)| id_of(notify, apart)).collect()).await?;
    for (event, notify, apart) in &notices {
        if written.insert(id_of(notify, apart)) {
            let draft = Draft::new(Kind::OrderNotify, &notify.order_id, notify, event.trace.as_deref());
            tx.emit(&Draft { discriminator: apart, ..draft })?;
        }
    }
    Ok(())
}

/// `order-notify-consumer-group`: records the calls that tell merchants, one for each event.
#[derive(Clone, Copy, Debug, Default)]
pub struct OrderNotifies;

#[derive(Deserialize)]
struct Sent {
    #[serde(default)]
    timestamp: Option<i64>,
}

impl Handler for OrderNotifies {
    fn group(&self) -> Group {
        Group::OrderNotify
    }

    fn handle<'a>(&'a self, tx: &'a mut Tx, events: &'a [Event]) -> BoxFuture<'a, Result<Vec<Outcome>, DbError>> {
        Box::pin(async move {
            let bodies: Vec<Result<OrderNotify, Outcome>> = events.iter().map(Event::read).collect();
            let sellers = sellers(tx, &bodies).await?;
            let mut over = overtaken(tx, events, &bodies, &sellers).await?;
            let mut calls = Vec::new();
            let mut outcomes = Vec::with_capacity(events.len());
            for (event, body) in events.iter().zip(bodies) {
                let call = body.and_then(|body| call(tx, event, &body, &sellers, &mut over));
                outcomes.push(match call {
                    Err(outcome) => outcome,
                    Ok(call) => {
                        calls.push(call);
                        Outcome::Done
                    }
                });
            }
            // One call for each event, however often that comes.
            delivery::insert(tx, &calls).await?.or_known();
            Ok(outcomes)
        })
    }
}

/// Who is meant: by id, or by the address at which exactly one is told.
struct Sellers {
    by_id: HashMap<i64, Merchant>,
    by_url: HashMap<String, i64>,
}

impl Sellers {
    fn of(&self, body: &OrderNotify) -> Option<&Merchant> {
        let id = body.merchant_id.map(|id| id.0).or_else(|| self.by_url.get(&body.notify_url).copied());
        id.and_then(|id| self.by_id.get(&id))
    }
}

async fn sellers(tx: &mut Tx, bodies: &[Result<OrderNotify, Outcome>]) -> Result<Sellers, DbError> {
    let mut by_url = HashMap::new();
    for body in bodies.iter().flatten().filter(|body| body.merchant_id.is_none() && !body.notify_url.is_empty()) {
        if let [only] = merchants::with_url(tx, &body.notify_url).await?.as_slice() {
            by_url.insert(body.notify_url.clone(), *only);
        }
    }
    let named = bodies.iter().flatten().filter_map(|body| body.merchant_id).map(|id| id.0);
    let by_id = merchants::get(tx, named.chain(by_url.values().copied()).collect()).await?;
    Ok(Sellers { by_id, by_url })
}

/// What a call is about: an order or payment of ours, by its id. Other systems have numbers of their own, of which two
/// may have the same, so a negative number stands for this order of this merchant: its calls keep their order, and no
/// other merchant waits for them.
fn subject(event: &Event, body: &OrderNotify, merchant_id: i64) -> i64 {
    let is_own = event.properties.iter().any(|(name, value)| (name.as_str(), value.as_str()) == outbox::SOURCE);
    match body.order_id.parse::<OrderId>() {
        Ok(OrderId(id)) if is_own && is_given_out(id) => id,
        _ => {
            let digest = Sha256::digest(format!("{merchant_id}:{}", unpadded(&body.order_id)));
            digest.iter().take(8).fold(0_i64, |number, byte| (number << 8) | i64::from(*byte)) | i64::MIN
        }
    }
}

/// The subjects of which it was told already that all the money went back.
async fn overtaken(
    tx: &mut Tx,
    events: &[Event],
    bodies: &[Result<OrderNotify, Outcome>],
    sellers: &Sellers,
) -> Result<HashSet<i64>, DbError> {
    let mut paid: Vec<(String, i64)> = Vec::new();
    for (event, body) in events.iter().zip(bodies) {
        if let Ok(body) = body
            && body.status == PAID
            && let Some(merchant) = sellers.of(body)
        {
            let reference = format!("{}:{REFUNDED}", Kind::OrderNotify.event_id(&body.order_id));
            paid.push((reference, subject(event, body, merchant.id)));
        }
    }
    let references = paid.iter().map(|(reference, _)| reference.clone()).collect();
    let told = delivery::subjects(tx, call::Kind::Merchant, references).await?;
    // Calls from before numbers stood for orders of other systems have the order's own number, or 0.
    paid.retain(|(reference, about)| told.get(reference).is_some_and(|known| known == about || *known >= 0));
    Ok(paid.into_iter().map(|(_, about)| about).collect())
}

fn call(
    tx: &Tx,
    event: &Event,
    body: &OrderNotify,
    sellers: &Sellers,
    over: &mut HashSet<i64>,
) -> Result<Delivery, Outcome> {
    let reject = |why: &str| Err(Outcome::Reject(why.to_owned()));
    let Some(merchant) = sellers.of(body) else {
        return reject(
            "it is not known which merchant is to be told: no such merchant_id, nor one with this notify_url",
        );
    };
    if !merchant.profile.active {
        return Err(Outcome::Ignored("the merchant is closed".to_owned()));
    }
    let url = [&body.notify_url, &merchant.profile.notify_url].into_iter().find(|url| !url.is_empty());
    let Some(url) = url else {
        return Err(Outcome::Ignored("the merchant wants to be told nothing".to_owned()));
    };
    if url.len() > URL_MAX || event.id.len() > REFERENCE_MAX {
        return reject("notify_url has more than 500 bytes, or the event id more than 128");
    }
    if body.status.is_empty() || body.status.len() > 32 {
        return reject("status must have 1 to 32 characters");
    }
    let about = subject(event, body, merchant.id);
    if body.status == PAID && over.contains(&about) {
        return Err(Outcome::Ignored("told already that all of the money went back".to_owned()));
    }
    if body.status == REFUNDED {
        over.insert(about);
    }
    let at_ms = event.read::<Sent>().ok().and_then(|sent| sent.timestamp).unwrap_or_else(|| tx.now_ms());
    let text = webhook::payload(body, MerchantId(merchant.id), at_ms);
    Ok(Delivery {
        id: tx.next_id(),
        kind: call::Kind::Merchant,
        reference: event.id.clone(),
        order_id: about,
        url: url.clone(),
        body: text.map_err(|error| Outcome::Reject(error.to_string()))?,
        attempts: 0,
        next_at: tx.now_ms(),
        trace: event.trace.clone(),
    })
}
