//! What operators do to stock.

use std::collections::BTreeMap;

use crate::db::stock::{self, Movement};
use crate::db::{Db, DbError, Tx};
use crate::domain::id::Sku;
use crate::domain::stock::{Kind, Level};

/// How the available pieces of a SKU are to change.
#[derive(Clone, Debug)]
pub enum Change {
    /// To so many.
    To(i64),
    /// By so many.
    By(i64),
}

/// Changes the available pieces of a SKU, which begins to exist where it did not; `None` when it would fall below 0.
///
/// # Errors
/// The database's.
pub async fn change(db: &Db, sku: Sku, change: Change, reason: String) -> Result<Option<Level>, DbError> {
    db.write("stock_set", move |tx| {
        let (sku, change, reason) = (sku.clone(), change.clone(), reason.clone());
        Box::pin(async move { apply(tx, sku.as_str(), &change, reason).await })
    })
    .await
}

async fn apply(tx: &mut Tx, sku: &str, change: &Change, reason: String) -> Result<Option<Level>, DbError> {
    let now_ms = tx.now_ms();
    stock::create(tx, &[sku.to_owned()], now_ms).await?;
    let mut stocked = stock::lock(tx, vec![sku.to_owned()]).await?.remove(sku).unwrap_or_default();
    let by = match change {
        Change::To(available) => available - stocked.level.available,
        Change::By(by) => *by,
    };
    if stocked.level.available.checked_add(by).is_none_or(|available| available < 0) {
        return Ok(None);
    }
    let moved = Kind::Set.movement(by);
    stocked.level.apply(moved);
    if by != 0 {
        stock::update(tx, &BTreeMap::from([(sku, stocked)])).await?;
        let movement = Movement { sku: sku.to_owned(), order_id: 0, kind: Kind::Set, change: moved, reason };
        stock::insert_ledger(tx, &[movement]).await?;
    }
    Ok(Some(stocked.level))
}
