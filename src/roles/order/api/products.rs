//! Products.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State as Extract};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::State;
use crate::db::availability;
use crate::db::products::{self, Product};
use crate::domain::id::Sku;
use crate::domain::money::Money;
use crate::http::{ApiJson, Problem};
use crate::roles::reply::{self, from_db};

/// A product as it is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProductBody {
    /// Name for people, 1 to 200 characters.
    name: String,
    /// Price of one piece.
    #[schema(value_type = f64, example = 59.8)]
    price: Money,
    /// ISO 4217.
    #[serde(default = "cny")]
    currency: String,
    /// May be ordered.
    #[serde(default = "yes")]
    active: bool,
}

fn cny() -> String {
    "CNY".to_owned()
}

fn yes() -> bool {
    true
}

/// A product.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProductView {
    /// SKU.
    sku: String,
    /// Name for people.
    name: String,
    /// Price of one piece.
    #[schema(value_type = f64)]
    price: Money,
    /// ISO 4217.
    currency: String,
    /// May be ordered.
    active: bool,
    /// Pieces that could be sold some moments ago; absent where nobody has told yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    available: Option<i64>,
}

fn view(product: Product, available: Option<i64>) -> Json<ProductView> {
    Json(ProductView {
        available,
        sku: product.sku,
        name: product.name,
        price: product.price,
        currency: product.currency,
        active: product.active,
    })
}

/// Create or change a product. Orders placed before keep their price.
#[utoipa::path(put, path = "/products/{sku}", tag = "order", request_body = ProductBody, params(("sku" = String, Path, description = "SKU")),
    responses((status = 200, body = ProductView), (status = 422, body = Problem)))]
pub(super) async fn put(
    Extract(state): Extract<State>,
    Path(sku): Path<String>,
    ApiJson(body): ApiJson<ProductBody>,
) -> Result<Json<ProductView>, Problem> {
    let sku: Sku = reply::path("sku", &sku)?;
    let product = checked(sku, body)?;
    write(&state, vec![product.clone()]).await?;
    Ok(view(product, None))
}

/// A product that may be written.
fn checked(sku: Sku, body: ProductBody) -> Result<Product, Problem> {
    if body.name.trim().is_empty() || body.name.chars().count() > 200 {
        return Err(Problem::invalid("name must have 1 to 200 characters").field("name", "1 to 200 characters"));
    }
    // Payments of the shop are taken in one currency.
    if body.currency != "CNY" {
        return Err(Problem::invalid("currency must be CNY").field("currency", "must be CNY"));
    }
    Ok(Product {
        sku: sku.to_string(),
        name: body.name,
        price: body.price,
        currency: body.currency,
        active: body.active,
    })
}

/// Writes those that are not so already; how many.
async fn write(state: &State, wanted: Vec<Product>) -> Result<usize, Problem> {
    let written = state.db.write("product_set", move |tx| {
        let mut wanted = wanted.clone();
        Box::pin(async move {
            let now_ms = tx.now_ms();
            let known = products::get(tx, wanted.iter().map(|product| product.sku.clone()).collect()).await?;
            wanted.retain(|product| known.get(&product.sku) != Some(product));
            products::put(tx, &wanted, now_ms).await?;
            Ok(wanted.len())
        })
    });
    written.await.map_err(|error| from_db(&error))
}

/// Products of one request at most.
const AT_ONCE: usize = 500;

/// One of several products.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProductItem {
    /// SKU.
    #[schema(value_type = String)]
    sku: Sku,
    /// Name for people, 1 to 200 characters.
    name: String,
    /// Price of one piece.
    #[schema(value_type = f64, example = 59.8)]
    price: Money,
    /// ISO 4217.
    #[serde(default = "cny")]
    currency: String,
    /// May be ordered.
    #[serde(default = "yes")]
    active: bool,
}

/// Several products as they are to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProductsBody {
    /// 1 to 500, each SKU once.
    items: Vec<ProductItem>,
}

/// What became of the products.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProductsReply {
    /// New, or written anew.
    changed: usize,
    /// As they were.
    unchanged: usize,
}

/// Create or change several products, all of them or none.
#[utoipa::path(put, path = "/products", tag = "order", request_body = ProductsBody,
    responses((status = 200, body = ProductsReply), (status = 422, body = Problem)))]
pub(super) async fn put_all(
    Extract(state): Extract<State>,
    ApiJson(body): ApiJson<ProductsBody>,
) -> Result<Json<ProductsReply>, Problem> {
    let count = body.items.len();
    if count == 0 || count > AT_ONCE {
        return Err(Problem::invalid(format!("items must be 1 to {AT_ONCE}")).field("items", "1 to 500"));
    }
    let mut wanted = BTreeMap::new();
    for item in body.items {
        let ProductItem { sku, name, price, currency, active } = item;
        let product = checked(sku, ProductBody { name, price, currency, active })?;
        if let Some(twice) = wanted.insert(product.sku.clone(), product) {
            let detail = format!("{} stands there twice", twice.sku);
            return Err(Problem::invalid(&detail).field("items", detail));
        }
    }
    let changed = write(&state, wanted.into_values().collect()).await?;
    Ok(Json(ProductsReply { changed, unchanged: count - changed }))
}

/// Read a product.
#[utoipa::path(get, path = "/products/{sku}", tag = "order", params(("sku" = String, Path, description = "SKU")),
    responses((status = 200, body = ProductView), (status = 404, body = Problem)))]
pub(super) async fn get(Extract(state): Extract<State>, Path(sku): Path<String>) -> Result<Json<ProductView>, Problem> {
    let sku: Sku = reply::path("sku", &sku)?;
    let mut conn = state.db.read().await.map_err(|error| from_db(&error))?;
    let found = products::get(&mut conn, vec![sku.to_string()]).await.map_err(|error| from_db(&error))?;
    let product = found.into_values().next().ok_or_else(|| Problem::not_found(format!("there is no product {sku}")))?;
    let known = availability::get(&mut conn, vec![sku.to_string()]).await.map_err(|error| from_db(&error))?;
    Ok(view(product, known.get(sku.as_str()).map(|known| known.available)))
}
