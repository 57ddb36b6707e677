//! HTTP of the stock role.

mod ledger;

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Extension, Path, State as Extract};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::flow::{self, Adjusted, Because, Change};
use crate::config::Scope;
use crate::db::{Db, stock};
use crate::domain::event::CacheKind;
use crate::domain::id::Sku;
use crate::domain::stock::Level;
use crate::http::{ApiJson, Auth, Caller, Problem, guarded, require};
use crate::roles::reply::{self, from_db};

/// Pieces of one SKU at most: sums over all SKUs stay far inside an i64.
const MOST: i64 = 1_000_000_000;

/// The routes.
#[must_use]
pub fn router(db: Db, auth: &Auth) -> OpenApiRouter {
    let read = OpenApiRouter::new().routes(routes!(get)).routes(routes!(ledger::list));
    let write = OpenApiRouter::new().routes(routes!(set)).routes(routes!(set_all)).routes(routes!(adjust));
    let read = guarded(read, require(Scope::StockRead, auth));
    read.merge(guarded(write, require(Scope::StockWrite, auth))).with_state(db)
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
    responses((status = 200, body = StockView), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn set(
    Extract(db): Extract<Db>,
    Extension(caller): Extension<Caller>,
    Path(sku): Path<String>,
    ApiJson(body): ApiJson<SetBody>,
) -> Result<Json<StockView>, Problem> {
    let sku: Sku = reply::path("sku", &sku)?;
    in_range("available", body.available)?;
    let level = flow::change(&db, sku.clone(), Change::To(body.available), because("set", &caller)).await;
    match level.map_err(|error| from_db(&error))? {
        Some(level) => Ok(view(&sku, level)),
        None => Err(Problem::conflict("the available pieces cannot fall below 0")),
    }
}

fn in_range(field: &str, available: i64) -> Result<(), Problem> {
    if (0..=MOST).contains(&available) {
        return Ok(());
    }
    let detail = format!("{field} must be 0 to {MOST}");
    Err(Problem::invalid(&detail).field(field, detail))
}

fn because(reason: &str, caller: &Caller) -> Because {
    Because { reason: reason.to_owned(), actor: caller.name.chars().take(100).collect() }
}

fn reason_of(reason: &str) -> Result<&str, Problem> {
    let reason = reason.trim();
    if reason.is_empty() || reason.chars().count() > 200 {
        return Err(Problem::invalid("reason must have 1 to 200 characters").field("reason", "1 to 200 characters"));
    }
    Ok(reason)
}

/// SKUs of one request at most.
const AT_ONCE: usize = 500;

/// The available pieces of a SKU.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SetItem {
    /// SKU.
    #[schema(value_type = String)]
    sku: Sku,
    /// 0 to 1000000000.
    available: i64,
}

/// How many pieces of several SKUs are to be available.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SetAllBody {
    /// 1 to 500, each SKU once.
    items: Vec<SetItem>,
    /// Why; it stands in the ledger. 1 to 200 characters.
    reason: String,
}

/// What became of the SKUs.
#[derive(Debug, Serialize, ToSchema)]
struct SetAllReply {
    /// SKUs whose available pieces changed.
    changed: usize,
    /// SKUs that had so many before.
    unchanged: usize,
}

/// Set the available pieces of several SKUs, all of them or none.
#[utoipa::path(put, path = "/stock", tag = "stock", request_body = SetAllBody,
    responses((status = 200, body = SetAllReply), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn set_all(
    Extract(db): Extract<Db>,
    Extension(caller): Extension<Caller>,
    ApiJson(body): ApiJson<SetAllBody>,
) -> Result<Json<SetAllReply>, Problem> {
    let because = because(reason_of(&body.reason)?, &caller);
    if body.items.is_empty() || body.items.len() > AT_ONCE {
        return Err(Problem::invalid(format!("items must be 1 to {AT_ONCE}")).field("items", "1 to 500"));
    }
    let mut changes = BTreeMap::new();
    for (number, item) in body.items.iter().enumerate() {
        in_range(&format!("items[{number}].available"), item.available)?;
        if changes.insert(item.sku.to_string(), Change::To(item.available)).is_some() {
            let detail = format!("{} stands there twice", item.sku);
            return Err(Problem::invalid(&detail).field(format!("items[{number}].sku"), detail));
        }
    }
    let levels = flow::change_all(&db, changes, because).await.map_err(|error| from_db(&error))?;
    let levels = levels.ok_or_else(|| Problem::conflict("the available pieces cannot fall below 0"))?;
    let changed = levels.values().filter(|(_, changed)| *changed).count();
    Ok(Json(SetAllReply { changed, unchanged: levels.len() - changed }))
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

/// Change the available pieces of a SKU by so many.
///
/// Send an `Idempotency-Key` header to be able to repeat a request safely.
#[utoipa::path(post, path = "/stock/{sku}/adjust", tag = "stock", request_body = AdjustBody,
    params(("sku" = String, Path, description = "SKU"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 128 visible ASCII characters; a repeated key gets the first answer again")),
    responses((status = 200, body = StockView), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn adjust(
    Extract(db): Extract<Db>,
    Extension(caller): Extension<Caller>,
    Path(sku): Path<String>,
    headers: HeaderMap,
    ApiJson(body): ApiJson<AdjustBody>,
) -> Result<Response, Problem> {
    let sku: Sku = reply::path("sku", &sku)?;
    if body.change == 0 || !(-MOST..=MOST).contains(&body.change) {
        let detail = format!("change must be -{MOST} to {MOST}, and not 0");
        return Err(Problem::invalid(&detail).field("change", detail));
    }
    let reason = reason_of(&body.reason)?;
    let request = format!("{sku} {} {reason}", body.change);
    let key = reply::request_key("stock_adjust", &caller, &headers, &request)?;
    let adjusted = flow::adjust(&db, sku.clone(), body.change, because(reason, &caller), key).await;
    match adjusted.map_err(|error| from_db(&error))? {
        Adjusted::Done(level) => Ok(view(&sku, level).into_response()),
        Adjusted::Replayed(level) => Ok((reply::REPLAYED, view(&sku, level)).into_response()),
        Adjusted::KeyReused => Err(reply::key_reused()),
        Adjusted::TooFew => Err(Problem::conflict("the available pieces cannot fall below 0")),
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
