//! HTTP of the stock role.

use axum::Json;
use axum::extract::{Path, State as Extract};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::flow::{self, Change};
use crate::config::Scope;
use crate::db::{Db, stock};
use crate::domain::event::CacheKind;
use crate::domain::id::Sku;
use crate::domain::stock::Level;
use crate::http::{ApiJson, Auth, Problem, require};
use crate::roles::reply::{self, from_db};

/// Pieces of one SKU at most: sums over all SKUs stay far inside an i64.
const MOST: i64 = 1_000_000_000;

/// The routes.
#[must_use]
pub fn router(db: Db, auth: &Auth) -> OpenApiRouter {
    let read = OpenApiRouter::new().routes(routes!(get)).route_layer(require(Scope::StockRead, auth));
    let write =
        OpenApiRouter::new().routes(routes!(set)).routes(routes!(adjust)).route_layer(require(Scope::StockWrite, auth));
    read.merge(write).with_state(db)
}

/// Pieces of a SKU, by where they are.
#[derive(Debug, Serialize, ToSchema)]
struct StockView {
    /// SKU.
    sku: String,
    /// May be sold.
    available: i64,
    /// Held for orders that are not paid yet.
    frozen: i64,
    /// Paid for.
    sold: i64,
}

fn view(sku: &Sku, level: Level) -> Json<StockView> {
    Json(StockView { sku: sku.to_string(), available: level.available, frozen: level.frozen, sold: level.sold })
}

/// How many pieces are to be available.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SetBody {
    /// 0 to 1000000000.
    available: i64,
}

/// Set the available pieces of a SKU, which begins to exist where it did not.
#[utoipa::path(put, path = "/stock/{sku}", tag = "stock", request_body = SetBody, params(("sku" = String, Path, description = "SKU")),
    responses((status = 200, body = StockView), (status = 422, body = Problem)))]
async fn set(
    Extract(db): Extract<Db>,
    Path(sku): Path<String>,
    ApiJson(body): ApiJson<SetBody>,
) -> Result<Json<StockView>, Problem> {
    let sku: Sku = reply::path("sku", &sku)?;
    if !(0..=MOST).contains(&body.available) {
        let detail = format!("available must be 0 to {MOST}");
        return Err(Problem::invalid(&detail).field("available", detail));
    }
    let level = flow::change(&db, sku.clone(), Change::To(body.available), "set".to_owned()).await;
    match level.map_err(|error| from_db(&error))? {
        Some(level) => Ok(view(&sku, level)),
        None => Err(Problem::conflict("the available pieces cannot fall below 0")),
    }
}

/// By how much the available pieces change.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AdjustBody {
    /// -1000000000 to 1000000000, not 0.
    change: i64,
    /// Why; it stands in the ledger. 1 to 200 characters.
    reason: String,
}

/// Change the available pieces of a SKU.
#[utoipa::path(post, path = "/stock/{sku}/adjust", tag = "stock", request_body = AdjustBody, params(("sku" = String, Path, description = "SKU")),
    responses((status = 200, body = StockView), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn adjust(
    Extract(db): Extract<Db>,
    Path(sku): Path<String>,
    ApiJson(body): ApiJson<AdjustBody>,
) -> Result<Json<StockView>, Problem> {
    let sku: Sku = reply::path("sku", &sku)?;
    if body.change == 0 || !(-MOST..=MOST).contains(&body.change) {
        let detail = format!("change must be -{MOST} to {MOST}, and not 0");
        return Err(Problem::invalid(&detail).field("change", detail));
    }
    if body.reason.trim().is_empty() || body.reason.chars().count() > 200 {
        return Err(Problem::invalid("reason must have 1 to 200 characters").field("reason", "1 to 200 characters"));
    }
    let level = flow::change(&db, sku.clone(), Change::By(body.change), body.reason).await;
    match level.map_err(|error| from_db(&error))? {
        Some(level) => Ok(view(&sku, level)),
        None => Err(Problem::conflict("the available pieces cannot fall below 0")),
    }
}

/// Read the pieces of a SKU.
#[utoipa::path(get, path = "/stock/{sku}", tag = "stock", params(("sku" = String, Path, description = "SKU")),
    responses((status = 200, body = StockView), (status = 404, body = Problem)))]
async fn get(Extract(db): Extract<Db>, Path(sku): Path<String>) -> Result<Response, Problem> {
    let sku: Sku = reply::path("sku", &sku)?;
    let load = async {
        let mut conn = db.read().await.map_err(|error| from_db(&error))?;
        let found = stock::get(&mut conn, vec![sku.to_string()]).await.map_err(|error| from_db(&error))?;
        let stocked = found.get(sku.as_str());
        stocked.map(|stocked| reply::versioned(stocked.version, &*view(&sku, stocked.level))).transpose()
    };
    let body = reply::cached(&db, CacheKind::Stock, sku.as_str(), load).await?;
    body.ok_or_else(|| Problem::not_found(format!("there is no stock of {sku}")))
}
