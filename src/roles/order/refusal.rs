//! The warehouse's no in its answer to the call: the same event as its callback's.

use std::collections::BTreeMap;

use crate::db::tx::Draft;
use crate::db::{DbError, Tx, outbox};
use crate::domain::event::{FulfilRefused, Kind};
use crate::domain::id::OrderId;

/// As much of a reason as an order keeps, 500 characters.
#[must_use]
pub fn text(reason: &str) -> String {
    let reason: String = reason.trim().chars().take(500).collect();
    if reason.is_empty() { "the warehouse refused the order".to_owned() } else { reason }
}

/// ORDER_FULFILL_REFUSED for these orders (reason, trace context), unless it was written before.
///
/// # Errors
/// The database's.
pub async fn tell(tx: &mut Tx, refused: &BTreeMap<i64, (String, Option<String>)>) -> Result<(), DbError> {
    let kind = Kind::OrderFulfillRefused;
    let written = outbox::existing(tx, refused.keys().map(|id| kind.event_id(id)).collect()).await?;
    for (order_id, (reason, trace)) in refused.iter().filter(|(id, _)| !written.contains(&kind.event_id(id))) {
        let (order, reason) = (OrderId(*order_id), text(reason));
        let body = FulfilRefused { order_id: order, occurred_at: tx.now_ms(), reason };
        tx.emit(&Draft::new(kind, order_id, &body, trace.as_deref()))?;
    }
    Ok(())
}
