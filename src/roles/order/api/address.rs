//! Where an order is to go.

use axum::extract::{Extension, Path, State as Extract};
use axum::http::HeaderMap;
use axum::{Json, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::State;
use super::orders::unknown;
use crate::db::addresses;
use crate::domain::id::OrderId;
use crate::http::{ApiJson, Caller, Problem};
use crate::roles::order::address::{Redirected, Wish};
use crate::roles::order::view::OrderView;
use crate::roles::reply::{self, from_db, not_written};

/// Where an order is to go instead.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AddressBody {
    /// 1 to 500 characters.
    address: String,
    /// Only if the order is still in this version, as it was read.
    #[serde(default)]
    version: Option<i64>,
}

/// A change of an address.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AddressChangeView {
    /// Version of the order with it.
    version: i64,
    /// Where it was to go.
    before: String,
    /// Where it is to go.
    after: String,
    /// Name of the API key that asked for it; `local` where there are none.
    changed_by: String,
    /// Epoch ms.
    created_at: i64,
}

/// The changes of an address.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AddressChanges {
    /// Oldest first.
    items: Vec<AddressChangeView>,
}

/// Change where an order is to go, until the warehouse is told of it.
///
/// The call to the warehouse carries the address of the moment at which it was recorded; from then on this is refused.
#[utoipa::path(put, path = "/orders/{id}/address", tag = "order", request_body = AddressBody, params(("id" = String, Path, description = "Order id")),
    responses((status = 200, body = OrderView), (status = 404, body = Problem), (status = 409, body = Problem), (status = 412, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn put(
    Extract(state): Extract<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
    ApiJson(body): ApiJson<AddressBody>,
) -> Result<Json<OrderView>, Problem> {
    let order_id: OrderId = reply::path("id", &id)?;
    let address = body.address.trim().to_owned();
    if address.is_empty() || address.chars().count() > 500 {
        return Err(Problem::invalid("address must have 1 to 500 characters").field("address", "1 to 500 characters"));
    }
    let by = caller.name.chars().take(100).collect();
    let wish = Wish { order_id: order_id.0, address, version: body.version, by, trace: reply::trace(&headers) };
    match state.address.submit(wish).await.map_err(|error| not_written(&error))? {
        Redirected::Unknown => Err(unknown(order_id)),
        Redirected::Refused(why) => Err(Problem::conflict(why)),
        Redirected::Version(version) => {
            let detail = format!("the order is in version {version} by now: read it again");
            Err(Problem::new(StatusCode::PRECONDITION_FAILED, "version", detail))
        }
        Redirected::Done(order) => Ok(Json(OrderView::of(*order, None))),
    }
}

/// List the changes of an order's address, oldest first.
#[utoipa::path(get, path = "/orders/{id}/addresses", tag = "order", params(("id" = String, Path, description = "Order id")),
    responses((status = 200, body = AddressChanges), (status = 400, body = Problem)))]
pub(super) async fn list(
    Extract(state): Extract<State>,
    Path(id): Path<String>,
) -> Result<Json<AddressChanges>, Problem> {
    let order_id: OrderId = reply::path("id", &id)?;
    let mut conn = state.db.read().await.map_err(|error| from_db(&error))?;
    let rows = addresses::of_order(&mut conn, order_id.0).await.map_err(|error| from_db(&error))?;
    let view = |row: addresses::AddressChange| AddressChangeView {
        version: row.version,
        before: row.before,
        after: row.after,
        changed_by: row.by,
        created_at: row.at_ms,
    };
    Ok(Json(AddressChanges { items: rows.into_iter().map(view).collect() }))
}
