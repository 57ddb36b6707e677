//! `sku_availability`: what the stock role last told of each SKU, for the order role.

use std::collections::{BTreeMap, HashMap};

use sqlx::AnyConnection;

use super::sql::{self, Column, Columns, Val};
use super::{DbError, Tx};
use crate::domain::event::InventorySync;
use crate::vals;

/// What is known of a SKU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Pieces that may be sold.
    pub available: i64,
    /// Grows with each change of the SKU.
    pub version: i64,
}

/// Writes what is newer than what is known; the SKUs that it was for.
///
/// # Errors
/// The database's.
pub async fn learn(tx: &mut Tx, told: &[InventorySync]) -> Result<BTreeMap<String, i64>, DbError> {
    let mut newest: BTreeMap<&str, &InventorySync> = BTreeMap::new();
    for one in told {
        let known = newest.entry(&one.sku).or_insert(one);
        if one.version > known.version {
            *known = one;
        }
    }
    let now_ms = tx.now_ms();
    // A row that is not there cannot be locked: so it is made first, older than anything that is told. One that is there
    // is locked as well.
    let rows = newest.keys().map(|sku| vals![*sku, 0_i64, 0_i64, 0_i64, -1_i64, now_ms]).collect();
    let columns = "sku_availability (sku, available, frozen, sold, version, updated_at)";
    sql::insert_ignore(tx, columns, rows).await?.or_known();
    let keys = newest.keys().map(|sku| Val::from(*sku)).collect();
    let after = format!(" ORDER BY sku{}", tx.dialect().for_update());
    for row in sql::select_in(tx, "SELECT sku, version FROM sku_availability WHERE sku", &after, &[], keys).await? {
        let (sku, version) = (row.text(0)?, row.int(1)?);
        if newest.get(sku.as_str()).is_some_and(|one| one.version <= version) {
            newest.remove(sku.as_str());
        }
    }
    let rows =
        newest.values().map(|one| vals![&one.sku, one.available, one.frozen, one.sold, one.version, now_ms]).collect();
    let columns = ["available", "frozen", "sold", "version", "updated_at"].map(Column::Set);
    sql::update(tx, "sku_availability", "sku", &columns, rows).await?;
    Ok(newest.into_iter().map(|(sku, one)| (sku.to_owned(), one.version)).collect())
}

/// What is known of SKUs; those never heard of are missing.
///
/// # Errors
/// The database's.
pub async fn get(conn: &mut AnyConnection, mut skus: Vec<String>) -> Result<HashMap<String, Known>, DbError> {
    skus.sort_unstable();
    skus.dedup();
    let before = "SELECT sku, available, version FROM sku_availability WHERE version >= 0 AND sku";
    let rows = sql::select_in(conn, before, "", &[], skus.into_iter().map(Val::Text).collect()).await?;
    rows.iter().map(|row| Ok((row.text(0)?, Known { available: row.int(1)?, version: row.int(2)? }))).collect()
}
