//! Where an order is to go, changed before the warehouse has it. The hand-over and the change lock the order's row: the
//! one that comes first decides, and the warehouse is told the address of that moment.

use crate::db::group::Batch;
use crate::db::orders::{self, OrderRow};
use crate::db::{Db, DbError, Tx, addresses};
use crate::domain::order::{Decision, may_redirect};

/// Somebody wants an order to go elsewhere; lengths are checked.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Which order.
    pub order_id: i64,
    /// Where to.
    pub address: String,
    /// Only if it is in this version.
    pub version: Option<i64>,
    /// Name of the API key that asks.
    pub by: String,
    /// W3C trace context of the request.
    pub trace: Option<String>,
}

/// What became of a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redirected {
    /// There is no such order.
    Unknown,
    /// It may not be changed any more.
    Refused(&'static str),
    /// It is in another version.
    Version(i64),
    /// It goes there now, or did before.
    Done(Box<OrderRow>),
}

/// Decides wishes in this order.
///
/// # Errors
/// The database's.
pub async fn change(db: Db, batch: Batch<Wish>) -> Result<Vec<Redirected>, DbError> {
    db.write("order_address", move |tx| {
        let batch = batch.clone();
        Box::pin(async move { change_all(tx, &batch.requests()).await })
    })
    .await
}

async fn change_all(tx: &mut Tx, wishes: &[Wish]) -> Result<Vec<Redirected>, DbError> {
    let mut found = orders::lock(tx, wishes.iter().map(|wish| wish.order_id).collect()).await?;
    let mut answers = Vec::with_capacity(wishes.len());
    for wish in wishes {
        let Some(order) = found.get_mut(&wish.order_id) else {
            answers.push(Redirected::Unknown);
            continue;
        };
        answers.push(match may_redirect(&order.state) {
            // A request that is repeated because its answer was lost.
            _ if order.address == wish.address => Redirected::Done(Box::new(order.clone())),
            Decision::Refuse(why) => Redirected::Refused(why),
            _ if wish.version.is_some_and(|version| version != order.version) => Redirected::Version(order.version),
            _ => {
                addresses::change(tx, order, &wish.address, &wish.by).await?;
                let body = order.synced(order.version, order.updated_at, None);
                orders::tell_version(tx, &body, wish.trace.as_deref())?;
                Redirected::Done(Box::new(order.clone()))
            }
        });
    }
    Ok(answers)
}
