//! What moved of a SKU.

use axum::Json;
use axum::extract::{Path, Query, State as Extract};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::db::{Db, stock};
use crate::domain::id::Sku;
use crate::http::Problem;
use crate::roles::reply::{self, from_db};

/// Movements of one page at most.
const PAGE: i64 = 200;

/// Which movements.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LedgerQuery {
    /// Only older than this one: the `next` of the page before.
    before: Option<String>,
    /// 1 to 200.
    limit: Option<i64>,
}

/// A movement.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct MovementView {
    /// Its number.
    id: String,
    /// SET (by hand), FREEZE, DEDUCT, RELEASE or PUT_BACK.
    kind: &'static str,
    /// Of which order; null: by hand.
    order_id: Option<String>,
    /// Change of what may be sold.
    available: i64,
    /// Change of what is held for orders.
    frozen: i64,
    /// Change of what is paid for.
    sold: i64,
    /// Why, where somebody said so.
    reason: String,
    /// Name of the API key of whoever did it by hand; `local` where there are none.
    actor: Option<String>,
    /// Epoch ms.
    created_at: i64,
}

/// A page of movements.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LedgerPage {
    /// Newest first.
    items: Vec<MovementView>,
    /// Pass it as `before` to get the next page; null: that was all.
    next: Option<String>,
}

/// List the movements of a SKU, newest first.
#[utoipa::path(get, path = "/stock/{sku}/ledger", tag = "stock", params(("sku" = String, Path, description = "SKU"), LedgerQuery),
    responses((status = 200, body = LedgerPage), (status = 400, body = Problem)))]
pub(super) async fn list(
    Extract(db): Extract<Db>,
    Path(sku): Path<String>,
    Query(query): Query<LedgerQuery>,
) -> Result<Json<LedgerPage>, Problem> {
    let sku: Sku = reply::path("sku", &sku)?;
    let limit = reply::limit(query.limit, PAGE)?;
    let before = reply::before(query.before.as_deref())?;
    let mut conn = db.read().await.map_err(|error| from_db(&error))?;
    let rows = stock::ledger(&mut conn, sku.as_str(), before, limit).await.map_err(|error| from_db(&error))?;
    let next = reply::next(&rows, limit, |row| row.id.to_string());
    let view = |row: stock::Entry| MovementView {
        id: row.id.to_string(),
        kind: row.movement.kind.name(),
        order_id: (row.movement.order_id != 0).then(|| row.movement.order_id.to_string()),
        available: row.movement.change.available,
        frozen: row.movement.change.frozen,
        sold: row.movement.change.sold,
        reason: row.movement.reason,
        actor: row.movement.actor,
        created_at: row.created_at,
    };
    Ok(Json(LedgerPage { items: rows.into_iter().map(view).collect(), next }))
}
