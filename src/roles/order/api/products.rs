//! Products.

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
    if body.name.trim().is_empty() || body.name.chars().count() > 200 {
        return Err(Problem::invalid("name must have 1 to 200 characters").field("name", "1 to 200 characters"));
    }
    // Payments of the shop are taken in one currency.
    if body.currency != "CNY" {
        return Err(Problem::invalid("currency must be CNY").field("currency", "must be CNY"));
    }
    let product = Product {
        sku: sku.to_string(),
        name: body.name,
        price: body.price,
        currency: body.currency,
        active: body.active,
    };
    let row = product.clone();
    let written = state.db.write("product_set", move |tx| {
        let row = row.clone();
        Box::pin(async move {
            let now_ms = tx.now_ms();
            products::put(tx, &[row], now_ms).await
        })
    });
    written.await.map_err(|error| from_db(&error))?;
    Ok(view(product, None))
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
