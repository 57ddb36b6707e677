//! Levels, reservations and the ledger.

use std::collections::BTreeMap;

use super::{About, Auditor, Suspect};
use crate::db::DbError;
use crate::db::audit::{self as facts, Balance};
use crate::domain::stock::{Level, Status};

/// SKUs whose level is not the sum of their ledger.
pub(super) async fn levels(auditor: &Auditor<'_>, skus: &[String]) -> Result<Vec<Suspect<String>>, DbError> {
    let mut conn = auditor.dbs.stock.read().await?;
    Ok(wrong(facts::balances(&mut conn, skus).await?))
}

fn wrong(balances: Vec<Balance>) -> Vec<Suspect<String>> {
    let negative = |level: Level| level.available < 0 || level.frozen < 0 || level.sold < 0;
    balances
        .into_iter()
        .filter(|balance| balance.level != balance.ledger || negative(balance.level))
        .map(|balance| Suspect {
            key: balance.sku.clone(),
            about: About::Sku(balance.sku.clone()),
            evidence: format!("level {}, ledger {}", show(balance.level), show(balance.ledger)),
            id: balance.sku,
        })
        .collect()
}

/// A level, for people.
pub(super) fn show(level: Level) -> String {
    format!("available {} frozen {} sold {}", level.available, level.frozen, level.sold)
}

/// Each reservation against its own movements. With the levels being the sums of all movements, what is frozen of a
/// SKU is then what its frozen reservations hold, and what is sold is what its deducted ones hold: without adding up
/// reservations that change meanwhile.
pub(super) async fn reservations(auditor: &Auditor<'_>, ids: &[i64]) -> Result<Vec<Suspect<i64>>, DbError> {
    let moment = auditor.moment();
    let mut conn = auditor.dbs.stock.read().await?;
    let mut found = facts::reservations(&mut conn, ids).await?;
    found.retain(|_, reservation| moment.settled(reservation.updated_at));
    let settled: Vec<i64> = found.keys().copied().collect();
    let mut moved = facts::ledger_of_orders(&mut conn, &settled).await?;
    let mut suspects = Vec::new();
    for (order_id, reservation) in found {
        let moved = moved.remove(&order_id).unwrap_or_default();
        let Some(lines) = reservation.lines else {
            suspects.push(Suspect::of(order_id, "the lines of the reservation cannot be read"));
            continue;
        };
        let level = |pieces: i64| match Status::from_code(reservation.status) {
            Some(Status::Frozen) => Some(Level { available: -pieces, frozen: pieces, sold: 0 }),
            Some(Status::Deducted) => Some(Level { available: -pieces, frozen: 0, sold: pieces }),
            Some(Status::Released | Status::Refused) => Some(Level::default()),
            None => None,
        };
        let mut wanted: BTreeMap<String, Level> = BTreeMap::new();
        for (sku, pieces) in &lines {
            match level(*pieces) {
                Some(level) => wanted.insert(sku.clone(), level),
                None => wanted.insert(sku.clone(), Level { available: i64::MIN, ..Level::default() }),
            };
        }
        let skus: std::collections::BTreeSet<&String> = wanted.keys().chain(moved.keys()).collect();
        for sku in skus {
            let (want, have) = (wanted.get(sku), moved.get(sku).copied().unwrap_or_default());
            if want.copied().unwrap_or_default() != have {
                let state = show_status(reservation.status);
                let pieces = lines.get(sku).copied().unwrap_or(0);
                let evidence = format!("reservation {state} of {pieces} {sku}, moved: {}", show(have));
                suspects.push(Suspect::of(order_id, evidence));
            }
        }
    }
    Ok(suspects)
}

/// The state of a reservation, for people.
pub(super) fn show_status(code: i64) -> String {
    super::named(Status::from_code(code), code, |status| match status {
        Status::Frozen => "FROZEN",
        Status::Deducted => "DEDUCTED",
        Status::Released => "RELEASED",
        Status::Refused => "REFUSED",
    })
}
