//! What operators do to stock.

use std::collections::BTreeMap;

use crate::db::stock::{self, Movement, Stocked};
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

/// Who changes stock by hand, and why: what the ledger keeps of it.
#[derive(Clone, Debug)]
pub struct Because {
    /// At most 200 characters.
    pub reason: String,
    /// Name of the API key.
    pub actor: String,
}

/// Changes the available pieces of a SKU, which begins to exist where it did not; `None` when it would fall below 0.
///
/// # Errors
/// The database's.
pub async fn change(db: &Db, sku: Sku, change: Change, because: Because) -> Result<Option<Level>, DbError> {
    let changed = change_all(db, BTreeMap::from([(sku.to_string(), change)]), because).await?;
    Ok(changed.and_then(|levels| levels.into_values().next()).map(|(level, _)| level))
}

/// Changes the available pieces of several SKUs, all of them or, when one would fall below 0, none; the new level of
/// each, and whether it changed.
///
/// # Errors
/// The database's.
pub async fn change_all(
    db: &Db,
    changes: BTreeMap<String, Change>,
    because: Because,
) -> Result<Option<BTreeMap<String, (Level, bool)>>, DbError> {
    db.write("stock_set", move |tx| {
        let (changes, because) = (changes.clone(), because.clone());
        Box::pin(async move { apply(tx, &changes, &because).await })
    })
    .await
}

async fn apply(
    tx: &mut Tx,
    changes: &BTreeMap<String, Change>,
    because: &Because,
) -> Result<Option<BTreeMap<String, (Level, bool)>>, DbError> {
    let now_ms = tx.now_ms();
    let skus: Vec<String> = changes.keys().cloned().collect();
    stock::create(tx, &skus, now_ms).await?;
    let known = stock::lock(tx, skus).await?;
    let mut moved: BTreeMap<&str, Stocked> = BTreeMap::new();
    let (mut ledger, mut levels) = (Vec::new(), BTreeMap::new());
    for (sku, change) in changes {
        let mut stocked = known.get(sku).copied().unwrap_or_default();
        let by = match change {
            Change::To(available) => available - stocked.level.available,
            Change::By(by) => *by,
        };
        if stocked.level.available.checked_add(by).is_none_or(|available| available < 0) {
            return Ok(None);
        }
        let change = Kind::Set.movement(by);
        stocked.level.apply(change);
        levels.insert(sku.clone(), (stocked.level, by != 0));
        if by != 0 {
            moved.insert(sku, stocked);
            let (reason, actor) = (because.reason.clone(), Some(because.actor.clone()));
            ledger.push(Movement { sku: sku.clone(), order_id: 0, kind: Kind::Set, change, reason, actor });
        }
    }
    stock::update(tx, &moved).await?;
    stock::insert_ledger(tx, &ledger).await?;
    Ok(Some(levels))
}
