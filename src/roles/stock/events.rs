//! `stock-consumer-group`: freezes, deducts and releases, a batch of orders at a time. The rows of the batch's
//! reservations and SKUs are locked in order, the pieces are given out in memory in arrival order, and each row is
//! written once: a SKU that everybody wants costs one UPDATE per batch.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures_util::future::BoxFuture;

use crate::db::stock::{self, Movement, Reservation, Stocked};
use crate::db::tx::Draft;
use crate::db::{DbError, Tx};
use crate::domain::event::{Group, Inventory, Kind, OrderCreated, StockFreezeFailed, StockFrozen};
use crate::domain::order::Decision;
use crate::domain::stock::{self as domain, Kind as MovementKind, Lines, Status};
use crate::mq::{Event, Handler, Outcome};

/// `stock-consumer-group`.
#[derive(Clone, Copy, Debug, Default)]
pub struct StockEvents;

impl Handler for StockEvents {
    fn group(&self) -> Group {
        Group::Stock
    }

    fn handle<'a>(&'a self, tx: &'a mut Tx, events: &'a [Event]) -> BoxFuture<'a, Result<Vec<Outcome>, DbError>> {
        Box::pin(async move {
            let bodies: Vec<Result<Body, Outcome>> = events.iter().map(read).collect();
            let mut batch = Batch::load(tx, &bodies).await?;
            let mut outcomes = Vec::with_capacity(events.len());
            for (event, body) in events.iter().zip(bodies) {
                outcomes.push(match body {
                    Err(outcome) => outcome,
                    Ok(Body::Created(order)) => batch.freeze(tx, event, &order)?,
                    Ok(Body::Deduct(order)) => batch.settle(order.order_id.0, domain::deduct),
                    Ok(Body::Release(order)) => batch.settle(order.order_id.0, domain::release),
                });
            }
            batch.write(tx).await?;
            Ok(outcomes)
        })
    }
}

enum Body {
    Created(Box<OrderCreated>),
    Deduct(Inventory),
    Release(Inventory),
}

fn read(event: &Event) -> Result<Body, Outcome> {
    match event.kind {
        Kind::OrderCreated => {
            let order: OrderCreated = event.read()?;
            let sane = |(sku, pieces): (&String, &i64)| !sku.is_empty() && sku.len() <= 64 && *pieces > 0;
            if order.product_quantity_map.is_empty() || !order.product_quantity_map.iter().all(sane) {
                return Err(Outcome::Reject("productQuantityMap needs SKUs with positive quantities".to_owned()));
            }
            Ok(Body::Created(Box::new(order)))
        }
        Kind::InventoryDeduct => Ok(Body::Deduct(event.read()?)),
        Kind::InventoryRelease => Ok(Body::Release(event.read()?)),
        other => Err(Outcome::Reject(format!("{} does not move stock", other.name()))),
    }
}

/// What a batch has locked, and what it has changed so far.
struct Batch {
    reservations: HashMap<i64, Reservation>,
    levels: BTreeMap<String, Stocked>,
    new: Vec<i64>,
    changed: BTreeSet<i64>,
    moved: BTreeSet<String>,
    ledger: Vec<Movement>,
}

impl Batch {
    async fn load(tx: &mut Tx, bodies: &[Result<Body, Outcome>]) -> Result<Self, DbError> {
        let mut order_ids = Vec::with_capacity(bodies.len());
        let mut skus: BTreeSet<String> = BTreeSet::new();
        for body in bodies.iter().flatten() {
            match body {
                Body::Created(order) => {
                    order_ids.push(order.order_id.0);
                    skus.extend(order.product_quantity_map.keys().cloned());
                }
                Body::Deduct(order) | Body::Release(order) => order_ids.push(order.order_id.0),
            }
        }
        let reservations = stock::lock_reservations(tx, order_ids).await?;
        skus.extend(reservations.values().flat_map(|reservation| reservation.lines.keys().cloned()));
        let levels = stock::lock(tx, skus.into_iter().collect()).await?;
        Ok(Self {
            reservations,
            levels,
            new: Vec::new(),
            changed: BTreeSet::new(),
            moved: BTreeSet::new(),
            ledger: Vec::new(),
        })
    }

    fn freeze(&mut self, tx: &mut Tx, event: &Event, order: &OrderCreated) -> Result<Outcome, DbError> {
        let order_id = order.order_id.0;
        if let Some(known) = self.reservations.get(&order_id) {
            if known.status == Status::Released && known.lines.is_empty() {
                // The tombstone of a release that came first.
                fail(tx, event, order, "the order was canceled")?;
                return Ok(Outcome::Ignored("released before it was frozen".to_owned()));
            }
            return Ok(Outcome::Ignored("already decided".to_owned()));
        }
        let lines = &order.product_quantity_map;
        let verdict = domain::can_freeze(lines, |sku| self.levels.get(sku).map(|stocked| stocked.level));
        match verdict {
            Ok(()) => {
                self.insert(order_id, Status::Frozen, lines.clone(), String::new());
                self.shift(order_id, MovementKind::Freeze);
                let body = StockFrozen {
                    order_id: order.order_id,
                    order_no: order.order_no.clone(),
                    user_id: order.user_id,
                    total_amount: order.total_amount,
                    expire_time: order.expire_time,
                    merchant_id: order.merchant_id,
                    channel_id: order.channel_id.clone(),
                };
                tx.emit(&Draft::new(Kind::StockFrozen, order_id, &body, event.trace.as_deref()))?;
            }
            Err(reason) => {
                self.insert(order_id, Status::Refused, lines.clone(), reason.clone());
                fail(tx, event, order, &reason)?;
            }
        }
        Ok(Outcome::Done)
    }

    fn settle(&mut self, order_id: i64, decide: fn(Option<Status>) -> Decision<Status, MovementKind>) -> Outcome {
        let decision = decide(self.reservations.get(&order_id).map(|reservation| reservation.status));
        if let Decision::Apply(next, kinds) = &decision {
            match self.reservations.get_mut(&order_id) {
                Some(reservation) => {
                    reservation.status = *next;
                    self.changed.insert(order_id);
                }
                None => self.insert(order_id, *next, Lines::new(), "released before it was frozen".to_owned()),
            }
            for kind in kinds {
                self.shift(order_id, *kind);
            }
        }
        Outcome::from(&decision)
    }

    fn insert(&mut self, order_id: i64, status: Status, lines: Lines, reason: String) {
        self.reservations.insert(order_id, Reservation { status, lines, reason });
        self.new.push(order_id);
    }

    /// Moves all lines of a reservation.
    fn shift(&mut self, order_id: i64, kind: MovementKind) {
        let Some(reservation) = self.reservations.get(&order_id) else { return };
        for (sku, pieces) in &reservation.lines {
            let change = kind.movement(*pieces);
            self.levels.entry(sku.clone()).or_default().level.apply(change);
            self.moved.insert(sku.clone());
            self.ledger.push(Movement { sku: sku.clone(), order_id, kind, change, reason: String::new(), actor: None });
        }
    }

    async fn write(&self, tx: &mut Tx) -> Result<(), DbError> {
        let new: Vec<(i64, &Reservation)> =
            self.new.iter().filter_map(|id| self.reservations.get(id).map(|reservation| (*id, reservation))).collect();
        stock::insert_reservations(tx, &new).await?;
        // What is new in this batch was inserted with its last state.
        let changed: Vec<(i64, Status)> = self
            .changed
            .iter()
            .filter(|id| !self.new.contains(id))
            .filter_map(|id| self.reservations.get(id).map(|reservation| (*id, reservation.status)))
            .collect();
        stock::update_reservations(tx, &changed).await?;
        let levels: BTreeMap<&str, Stocked> =
            self.moved.iter().filter_map(|sku| self.levels.get(sku).map(|level| (sku.as_str(), *level))).collect();
        stock::update(tx, &levels).await?;
        stock::insert_ledger(tx, &self.ledger).await
    }
}

fn fail(tx: &mut Tx, event: &Event, order: &OrderCreated, reason: &str) -> Result<(), DbError> {
    let body =
        StockFreezeFailed { order_id: order.order_id, order_no: order.order_no.clone(), reason: reason.to_owned() };
    tx.emit(&Draft::new(Kind::StockFreezeFailed, order.order_id.0, &body, event.trace.as_deref()))
}
