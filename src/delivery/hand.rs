//! Calls made once more, or taken back, by hand.

use std::sync::Arc;

use super::record::{Effects, Settled, Verdict};
use super::target::Targets;
use crate::db::delivery::{Delivery, log};
use crate::db::{Db, DbError};

/// Makes these calls due now; which ones there were. What was delivered already is sent with the same idempotency key:
/// the other side tells it as a repetition, and its effects here are there already.
///
/// # Errors
/// The database's.
pub async fn resend(db: &Db, ids: Vec<i64>) -> Result<Vec<i64>, DbError> {
    let ids = Arc::new(ids);
    db.write("delivery_again", move |tx| {
        let ids = ids.to_vec();
        Box::pin(async move { log::resend(tx, ids).await })
    })
    .await
}

/// Takes back those of these calls that are still to be made, with what follows from that; which ones.
///
/// # Errors
/// The database's.
pub async fn cancel(db: &Db, ids: Vec<i64>, why: &str, effects: Effects) -> Result<Vec<i64>, DbError> {
    let (ids, why) = (Arc::new(ids), format!("taken back: {why}"));
    db.write("delivery_cancel", move |tx| {
        let (ids, why, effects) = (ids.to_vec(), why.clone(), Arc::clone(&effects));
        Box::pin(async move {
            let calls = log::cancel(tx, ids, &why).await?;
            let settled = |call: Delivery| Settled {
                target: Targets::name(&call.url),
                delivery: call,
                verdict: Verdict::Canceled,
                error: Some(why.clone()),
                said: None,
            };
            let settled: Vec<Settled> = calls.into_iter().map(settled).collect();
            if !settled.is_empty() {
                effects(tx, &settled).await?;
            }
            Ok(settled.iter().map(|one| one.delivery.id).collect())
        })
    })
    .await
}
