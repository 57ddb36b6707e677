//! Placing orders: many requests become one multi-row transaction, and each gets its own answer after the commit.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::coupons::{self, Coupons};
use super::pay_timeout::Reminders;
use crate::db::group::Batch;
use crate::db::orders::{self, Item, OrderRow};
use crate::db::products::{self, Product};
use crate::db::tx::Draft;
use crate::db::{Db, DbError, Tx};
use crate::domain::coupon::Refused;
use crate::domain::event::Kind;
use crate::domain::id::{MerchantId, Quantity, Sku, UserId};
use crate::domain::money::Money;
use crate::domain::order::{OrderState, RefundState, Status};
use crate::domain::stock::Lines;

/// An order that somebody wants to place; every value is checked already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewOrder {
    /// Who orders.
    pub user_id: UserId,
    /// What, each SKU once.
    pub items: Vec<(Sku, Quantity)>,
    /// Free text.
    pub remark: String,
    /// Where to.
    pub address: String,
    /// Channel that is to take the money.
    pub channel_id: String,
    /// Coupon that is to reduce it.
    pub coupon_id: Option<i64>,
    /// Wait between payment and fulfilment.
    pub hold_ms: i64,
    /// Time to pay.
    pub pay_within_ms: i64,
    /// `Idempotency-Key` of the request.
    pub idempotency_key: Option<String>,
    /// W3C trace context of the request.
    pub trace: Option<String>,
}

impl NewOrder {
    /// What is stored of the key: keys of different users never meet.
    pub(super) fn stored_key(&self) -> Option<String> {
        self.idempotency_key.as_ref().map(|key| format!("{}:{key}", self.user_id))
    }

    /// Tells a replay from another request under the same key.
    fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        for (sku, quantity) in &self.items {
            hasher.update(format!("{sku}={};", quantity.get()));
        }
        let rest = (&self.remark, &self.address, &self.channel_id, self.hold_ms, self.pay_within_ms);
        hasher.update(format!("{rest:?}"));
        if let Some(id) = self.coupon_id {
            hasher.update(format!("coupon={id}"));
        }
        hex::encode(hasher.finalize())
    }
}

/// The answer to one request.
#[derive(Clone, Debug)]
pub enum Placed {
    /// Written now.
    Created(Box<OrderRow>),
    /// Written by an earlier request with the same key.
    Replayed(Box<OrderRow>),
    /// The key belongs to another request.
    KeyReused,
    /// These SKUs are not sold.
    UnknownSkus(Vec<String>),
    /// The lines are priced in different currencies.
    MixedCurrencies,
    /// The total is more than an order may have.
    TooExpensive,
    /// It costs nothing: no channel takes such a payment.
    Free,
    /// It cannot have the coupon that it names.
    Coupon(Refused),
}

/// Writes orders in one transaction, each with its reminder of the time to pay where the broker holds these.
///
/// # Errors
/// The database's.
pub async fn place(db: Db, reminders: Option<Reminders>, batch: Batch<NewOrder>) -> Result<Vec<Placed>, DbError> {
    let again = batch.clone();
    let run = |batch: Batch<NewOrder>| {
        db.write("create_order", move |tx| {
            let batch = batch.clone();
            Box::pin(async move { place_all(tx, reminders, &batch.requests()).await })
        })
    };
    match run(batch).await {
        // Another writer took a key between our look and our insert: now it is there to be seen.
        Err(error) if error.is_unique_violation() => run(again).await,
        done => done,
    }
}

async fn place_all(tx: &mut Tx, reminders: Option<Reminders>, requests: &[NewOrder]) -> Result<Vec<Placed>, DbError> {
    // Before the keys are looked up: an order that another writer places with the same key and coupon is there then.
    let mut coupons = Coupons::lock(tx, requests).await?;
    let keys = requests.iter().filter_map(NewOrder::stored_key).collect();
    let known = orders::by_idempotency_keys(tx, keys).await?;
    let mut by_key: HashMap<String, OrderRow> =
        known.into_iter().filter_map(|order| order.idempotency_key.clone().map(|key| (key, order))).collect();
    let skus = requests.iter().flat_map(|request| request.items.iter().map(|(sku, _)| sku.as_str().to_owned()));
    let products = products::get(tx, skus.collect()).await?;

    let mut answers = Vec::with_capacity(requests.len());
    let mut rows = Vec::with_capacity(requests.len());
    for request in requests {
        let key = request.stored_key();
        if let Some(earlier) = key.as_ref().and_then(|key| by_key.get(key)) {
            let same = earlier.request_hash.as_deref() == Some(request.hash().as_str());
            answers.push(if same { Placed::Replayed(Box::new(earlier.clone())) } else { Placed::KeyReused });
            continue;
        }
        let priced = price(tx, request, &products).and_then(|(mut order, items)| {
            coupons.reduce(&mut order, request.coupon_id, tx.now_ms()).map_err(Placed::Coupon)?;
            Ok((order, items))
        });
        match priced {
            Err(refusal) => answers.push(refusal),
            Ok((order, items)) => {
                announce(tx, request, &order)?;
                coupons::tell_locked(tx, &order, request.trace.as_deref())?;
                if let Some(reminders) = reminders {
                    reminders.first(tx, &order, request.trace.as_deref())?;
                }
                if let Some(key) = key {
                    by_key.insert(key, order.clone());
                }
                answers.push(Placed::Created(Box::new(order.clone())));
                rows.push((order, items));
            }
        }
    }
    orders::insert(tx, &rows).await?;
    coupons.write(tx).await?;
    Ok(answers)
}

/// Prices come from the product table, never from the client.
fn price(tx: &Tx, request: &NewOrder, products: &HashMap<String, Product>) -> Result<(OrderRow, Vec<Item>), Placed> {
    let sold = |sku: &Sku| products.get(sku.as_str()).filter(|product| product.active);
    let unknown: Vec<String> =
        request.items.iter().filter(|(sku, _)| sold(sku).is_none()).map(|(sku, _)| sku.to_string()).collect();
    if !unknown.is_empty() {
        return Err(Placed::UnknownSkus(unknown));
    }
    let mut items = Vec::with_capacity(request.items.len());
    let mut total = Money::ZERO;
    let mut currency: Option<&str> = None;
    for (sku, quantity) in &request.items {
        let Some(product) = sold(sku) else { continue };
        if *currency.get_or_insert(&product.currency) != product.currency {
            return Err(Placed::MixedCurrencies);
        }
        let line = product.price.times(quantity.get()).map_err(|_| Placed::TooExpensive)?;
        total =
            Money::from_minor([total, line].into_iter().sum::<Money>().minor()).map_err(|_| Placed::TooExpensive)?;
        items.push(Item { sku: sku.to_string(), quantity: quantity.get(), unit_price: product.price });
    }
    if total == Money::ZERO {
        return Err(Placed::Free);
    }
    let (id, now_ms) = (tx.next_id(), tx.now_ms());
    let order = OrderRow {
        id,
        order_no: format!("RY{id}"),
        user_id: request.user_id.0,
        state: OrderState {
            status: Status::Created,
            refund: RefundState::None,
            handed_over: false,
            total,
            payment_id: None,
        },
        version: 1,
        coupon: None,
        currency: currency.unwrap_or("CNY").to_owned(),
        merchant_id: MerchantId::SHOP.0,
        channel_id: request.channel_id.clone(),
        remark: request.remark.clone(),
        address: request.address.clone(),
        hold_ms: request.hold_ms,
        idempotency_key: request.stored_key(),
        request_hash: request.idempotency_key.as_ref().map(|_| request.hash()),
        expire_time: now_ms + request.pay_within_ms,
        pay_time: None,
        cancel_type: None,
        cancel_reason: None,
        carrier: None,
        tracking_no: None,
        created_at: now_ms,
        updated_at: now_ms,
    };
    Ok((order, items))
}

fn announce(tx: &mut Tx, request: &NewOrder, order: &OrderRow) -> Result<(), DbError> {
    let trace = request.trace.as_deref();
    let lines: Lines = request.items.iter().map(|(sku, quantity)| (sku.to_string(), quantity.get())).collect();
    tx.emit(&Draft::new(Kind::OrderCreated, order.id, &order.created(lines.clone()), trace))?;
    orders::tell_version(tx, &order.synced(order.version, order.updated_at, Some(lines)), trace)
}
