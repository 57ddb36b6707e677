//! What operators do to stock.

use std::collections::BTreeMap;

use crate::db::requests::{self, Known, RequestKey};
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

/// What became of a wish to change the available pieces of a SKU by so many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adjusted {
    /// It has this level now.
    Done(Level),
    /// It was changed by an earlier request with the same key, and had this level then.
    Replayed(Level),
    /// The key belongs to another request.
    KeyReused,
    /// It would fall below 0.
    TooFew,
}

/// Changes the available pieces of a SKU by so many, once for each key.
///
/// # Errors
/// The database's.
pub async fn adjust(
    db: &Db,
    sku: Sku,
    by: i64,
    because: Because,
    key: Option<RequestKey>,
) -> Result<Adjusted, DbError> {
    let changes = BTreeMap::from([(sku.to_string(), Change::By(by))]);
    db.write("stock_set", move |tx| {
        let (changes, because, key) = (changes.clone(), because.clone(), key.clone());
        Box::pin(async move {
            match &key {
                Some(key) => adjust_once(tx, &changes, &because, key).await,
                None => adjust_in(tx, &changes, &because).await,
            }
        })
    })
    .await
}

async fn adjust_in(tx: &mut Tx, changes: &BTreeMap<String, Change>, because: &Because) -> Result<Adjusted, DbError> {
    let levels = apply(tx, changes, because).await?;
    let level = levels.and_then(|levels| levels.into_values().next());
    Ok(level.map_or(Adjusted::TooFew, |(level, _)| Adjusted::Done(level)))
}

async fn adjust_once(
    tx: &mut Tx,
    changes: &BTreeMap<String, Change>,
    because: &Because,
    key: &RequestKey,
) -> Result<Adjusted, DbError> {
    match requests::claim(tx, key).await? {
        Known::New => {}
        Known::Other => return Ok(Adjusted::KeyReused),
        Known::Answered(text) => {
            let (available, frozen, sold) = serde_json::from_str(&text)?;
            return Ok(Adjusted::Replayed(Level { available, frozen, sold }));
        }
    }

    let adjusted = adjust_in(tx, changes, because).await?;

    match &adjusted {
        Adjusted::Done(level) => {
            let text = serde_json::to_string(&(level.available, level.frozen, level.sold))?;
            requests::answer(tx, key, &text).await?;
        }
        // There may be enough when the request is repeated.
        _ => requests::give_back(tx, key).await?,
    }
    Ok(adjusted)
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
