//! `product`: what is sold, at which price.

use std::collections::HashMap;

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::sql::{self, Columns, Val};
use super::{DbError, Dialect};
use crate::domain::money::Money;
use crate::vals;

/// A product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    /// SKU.
    pub sku: String,
    /// Name for people.
    pub name: String,
    /// Price of one piece.
    pub price: Money,
    /// ISO 4217.
    pub currency: String,
    /// May be ordered.
    pub active: bool,
}

fn from_row(row: &AnyRow) -> Result<Product, DbError> {
    let sku = row.text(0)?;
    let price = Money::from_minor(row.int(2)?).map_err(|error| DbError::Row {
        table: "product",
        key: sku.clone(),
        what: error.to_string(),
    })?;
    Ok(Product { sku, name: row.text(1)?, price, currency: row.text(3)?, active: row.int(4)? != 0 })
}

/// Products by SKU; those that do not exist are missing.
///
/// # Errors
/// The database's.
pub async fn get(conn: &mut AnyConnection, mut skus: Vec<String>) -> Result<HashMap<String, Product>, DbError> {
    skus.sort_unstable();
    skus.dedup();
    let before = "SELECT sku, name, price, currency, active FROM product WHERE sku";
    let rows = sql::select_in(conn, before, "", &[], skus.into_iter().map(Val::Text).collect()).await?;
    rows.iter().map(|row| from_row(row).map(|product| (product.sku.clone(), product))).collect()
}

/// Creates or changes products, each SKU once.
///
/// # Errors
/// The database's.
pub async fn put(conn: &mut AnyConnection, products: &[Product], now_ms: i64) -> Result<(), DbError> {
    let mut rows: Vec<Vec<Val>> = products
        .iter()
        .map(|product| {
            vals![&product.sku, &product.name, product.price.minor(), &product.currency, product.active, 1_i64, now_ms]
        })
        .collect();
    rows.sort_by(|a, b| format!("{:?}", a.first()).cmp(&format!("{:?}", b.first())));
    let set = ["name", "price", "currency", "active", "updated_at"];
    let tail = Dialect::of(conn).on_conflict("sku", &set, &["version"]);
    let head = "INSERT INTO product (sku, name, price, currency, active, version, updated_at)";
    sql::insert(conn, head, rows, &tail).await.map(|_| ())
}
