//! Stock: reservations say what orders hold, the ledger says how it got there, levels are the sums.

use std::collections::{BTreeMap, BTreeSet};

use crate::audit::repair::Mended;
use crate::db::audit::{self as facts, MovementFact};
use crate::db::stock::{self, Movement, Reservation, Stocked};
use crate::db::{DbError, Tx};
use crate::domain::order::Decision;
use crate::domain::stock::{Kind, Level, Status};

/// What a correction says in the ledger.
const REASON: &str = "audit --repair";

/// Which movements lead to a state.
fn ways(status: Status) -> &'static [&'static [Kind]] {
    match status {
        Status::Frozen => &[&[Kind::Freeze]],
        Status::Deducted => &[&[Kind::Freeze, Kind::Deduct]],
        Status::Released => &[&[Kind::Freeze, Kind::Release], &[Kind::Freeze, Kind::Deduct, Kind::PutBack]],
        Status::Refused => &[&[]],
    }
}

fn minus(level: Level) -> Level {
    Level { available: -level.available, frozen: -level.frozen, sold: -level.sold }
}

/// The rows that the ledger of an order lacks: movements that are missing, and corrections of those that are there
/// twice.
pub(super) fn corrections(order_id: i64, held: &Reservation, rows: &[MovementFact]) -> Result<Vec<Movement>, String> {
    let skus: BTreeSet<&String> = held.lines.keys().chain(rows.iter().map(|row| &row.sku)).collect();
    let mut found = Vec::new();
    for sku in skus {
        let Some(pieces) = held.lines.get(sku).copied() else {
            return Err(format!("the ledger moved {sku}, which the reservation does not have"));
        };
        let mut there: Vec<(i64, Level)> =
            rows.iter().filter(|row| row.sku == *sku).map(|row| (row.kind, row.change)).collect();
        // What a correction takes back is as if it were not there.
        let corrected: Vec<Level> =
            there.iter().filter(|(kind, _)| *kind == Kind::Set.code()).map(|(_, change)| minus(*change)).collect();
        there.retain(|(kind, _)| *kind != Kind::Set.code());
        for change in corrected {
            let Some(place) = there.iter().rposition(|(_, one)| *one == change) else {
                return Err(format!("a correction of {sku} takes back what never happened"));
            };
            there.remove(place);
        }
        let movement = |kind: Kind, change: Level| Movement {
            sku: sku.clone(),
            order_id,
            kind,
            change,
            reason: REASON.to_owned(),
            actor: None,
        };
        let known: BTreeSet<i64> = there.iter().map(|(kind, _)| *kind).collect();
        let fits = |way: &&&[Kind]| known.iter().all(|code| way.iter().any(|kind| kind.code() == *code));
        let Some(way) = ways(held.status).iter().filter(fits).min_by_key(|way| way.len()) else {
            return Err(format!(
                "the movements of {sku} do not lead to {}",
                super::super::stock::show_status(held.status.code())
            ));
        };
        for kind in *way {
            let mut same: Vec<Level> =
                there.iter().filter(|(code, _)| *code == kind.code()).map(|(_, change)| *change).collect();
            let right = kind.movement(pieces);
            if same.is_empty() {
                found.push(movement(*kind, right));
                continue;
            }
            let Some(place) = same.iter().position(|change| *change == right) else {
                return Err(format!("{pieces} {sku} are reserved, but other numbers were moved"));
            };
            same.remove(place);
            found.extend(same.into_iter().map(|twice| movement(Kind::Set, minus(twice))));
        }
    }
    Ok(found)
}

/// Sets levels to the sums of their ledgers, with `more` on top, and writes `more`; the SKUs are locked. Refused, and
/// nothing written, where a sum is negative.
async fn level(
    tx: &mut Tx,
    levels: &mut BTreeMap<String, Stocked>,
    more: &[Movement],
) -> Result<Result<Vec<String>, String>, DbError> {
    let skus: Vec<String> = levels.keys().cloned().collect();
    let mut sums = facts::ledger_sums(tx, &skus).await?;
    for movement in more {
        sums.entry(movement.sku.clone()).or_default().apply(movement.change);
    }
    let mut changed = Vec::new();
    for (sku, stocked) in levels.iter_mut() {
        let sum = sums.get(sku).copied().unwrap_or_default();
        if sum.available < 0 || sum.frozen < 0 || sum.sold < 0 {
            let text = format!(
                "the ledger of {sku} adds up to available {} frozen {} sold {}: count the pieces, and set them with \
                 `ruyi stock set`",
                sum.available, sum.frozen, sum.sold
            );
            return Ok(Err(text));
        }
        if sum != stocked.level {
            changed.push(format!("{sku}: {:?} → {sum:?}", stocked.level));
            stocked.level = sum;
        }
    }
    stock::insert_ledger(tx, more).await?;
    let write: BTreeMap<&str, Stocked> = levels.iter().map(|(sku, stocked)| (sku.as_str(), *stocked)).collect();
    stock::update(tx, &write).await?;
    Ok(Ok(changed))
}

/// Mends the ledger of an order, and the levels that it touches.
pub(super) async fn movements(tx: &mut Tx, order_id: i64) -> Result<Mended, DbError> {
    let Some(held) = stock::lock_reservations(tx, vec![order_id]).await?.remove(&order_id) else {
        return Ok(Mended::Healed);
    };
    let rows = facts::movements(tx, order_id).await?;
    let more = match corrections(order_id, &held, &rows) {
        Ok(more) if more.is_empty() => return Ok(Mended::Healed),
        Ok(more) => more,
        Err(why) => return Ok(Mended::Left(why)),
    };
    let skus: BTreeSet<String> = more.iter().map(|movement| movement.sku.clone()).collect();
    let mut levels = stock::lock(tx, skus.into_iter().collect()).await?;
    Ok(match level(tx, &mut levels, &more).await? {
        Err(why) => Mended::Left(why),
        Ok(changed) => {
            let written: Vec<String> =
                more.iter().map(|one| format!("{} {:?} {:?}", one.sku, one.kind, one.change)).collect();
            Mended::Done(format!("wrote {}; levels {changed:?}", written.join(", ")))
        }
    })
}

/// Makes the level of a SKU the sum of its ledger.
pub(super) async fn sums(tx: &mut Tx, sku: &str) -> Result<Mended, DbError> {
    let now_ms = tx.now_ms();
    stock::create(tx, &[sku.to_owned()], now_ms).await?;
    let mut levels = stock::lock(tx, vec![sku.to_owned()]).await?;
    Ok(match level(tx, &mut levels, &[]).await? {
        Err(why) => Mended::Left(why),
        Ok(changed) if changed.is_empty() => Mended::Healed,
        Ok(changed) => Mended::Done(changed.join(", ")),
    })
}

/// Releases what is frozen, and nothing that was sold.
pub(super) async fn release_frozen(tx: &mut Tx, order_id: i64) -> Result<Mended, DbError> {
    let held = stock::lock_reservations(tx, vec![order_id]).await?.remove(&order_id);
    match held.map(|held| held.status) {
        Some(Status::Frozen) => settle(tx, order_id, crate::domain::stock::release).await,
        _ => Ok(Mended::Healed),
    }
}

/// Moves the stock of an order as an event would.
pub(super) async fn settle(
    tx: &mut Tx,
    order_id: i64,
    decide: fn(Option<Status>) -> Decision<Status, Kind>,
) -> Result<Mended, DbError> {
    let Some(held) = stock::lock_reservations(tx, vec![order_id]).await?.remove(&order_id) else {
        return Ok(Mended::Healed);
    };
    let Decision::Apply(next, kinds) = decide(Some(held.status)) else { return Ok(Mended::Healed) };
    let mut levels = stock::lock(tx, held.lines.keys().cloned().collect()).await?;
    let mut moved = Vec::new();
    for kind in kinds {
        for (sku, pieces) in &held.lines {
            let change = kind.movement(*pieces);
            levels.entry(sku.clone()).or_default().level.apply(change);
            moved.push(Movement { sku: sku.clone(), order_id, kind, change, reason: REASON.to_owned(), actor: None });
        }
    }
    if levels.values().any(|stocked| stocked.level.frozen < 0 || stocked.level.sold < 0) {
        return Ok(Mended::Left("the levels hold less than the order: mend them first, and run again".to_owned()));
    }
    stock::update_reservations(tx, &[(order_id, next)]).await?;
    let write: BTreeMap<&str, Stocked> = levels.iter().map(|(sku, stocked)| (sku.as_str(), *stocked)).collect();
    stock::update(tx, &write).await?;
    stock::insert_ledger(tx, &moved).await?;
    Ok(Mended::Done(format!("{:?} → {next:?}", held.status)))
}
