//! Placing, reading and canceling orders.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::{Path, Query, State as Extract};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{AnyOfBuilder, Schema};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::{CancelRequest, State, coupons};
use crate::cache::{Taken, Verdict};
use crate::db::orders::{self, Filter};
use crate::domain::event::CacheKind;
use crate::domain::id::{CouponId, OrderId, Quantity, Sku, UserId};
use crate::domain::order::{CancelType, Decision};
use crate::http::{ApiJson, Problem};
use crate::roles::order::flow::Moved;
use crate::roles::order::place::{NewOrder, Placed};
use crate::roles::order::view::{Accepted, OrderPage, OrderView};
use crate::roles::reply::{self, from_db, not_written};
use crate::roles::search::{self, FoundPage, SearchQuery};

/// Orders of one page at most.
const PAGE: i64 = 100;
/// The longest wait between payment and fulfilment, and the longest time to pay.
const LONGEST_S: i64 = 30 * 24 * 3_600;

/// A line of an order.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewItem {
    /// SKU.
    #[schema(value_type = String, example = "SKU-001")]
    sku: Sku,
    /// Pieces, 1 to 9999.
    #[schema(value_type = i64, example = 2)]
    quantity: Quantity,
}

/// An order to be placed. Prices are not asked for: they come from the product table.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewOrderBody {
    /// Who orders.
    #[schema(value_type = String, example = "1001")]
    user_id: UserId,
    /// 1 to 64 lines, each SKU once.
    items: Vec<NewItem>,
    /// Free text, at most 500 characters.
    #[serde(default)]
    remark: String,
    /// Where to, at most 500 characters.
    #[serde(default)]
    address: String,
    /// Channel that is to take the money. It may be left out only where nothing but the sandbox is configured.
    #[serde(default)]
    channel_id: Option<String>,
    /// Coupon of the user that is to reduce it; locked with the order.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    coupon_id: Option<CouponId>,
    /// Seconds between payment and fulfilment; the order can be canceled until then.
    #[serde(default)]
    hold_seconds: i64,
    /// Seconds to pay, instead of `order.timeout.after`.
    #[serde(default)]
    pay_within_seconds: Option<i64>,
}

/// Place an order.
///
/// The reply comes after the commit. Send an `Idempotency-Key` header to be able to repeat a request safely.
#[utoipa::path(post, path = "/orders", tag = "order", request_body = NewOrderBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "At most 128 characters; a repeated key gets the first reply again")),
    responses((status = 201, body = Accepted), (status = 400, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn create(
    Extract(state): Extract<State>,
    headers: HeaderMap,
    ApiJson(body): ApiJson<NewOrderBody>,
) -> Result<Response, Problem> {
    let order = check(&state, &headers, body)?;
    let taken = enter(&state, &order).await?;
    let placed = state.place.submit(order).await;
    if let (Some(gate), false) = (&state.gate, matches!(placed, Ok(Placed::Created(_)))) {
        gate.leave(&taken).await;
    }
    match placed.map_err(|error| not_written(&error))? {
        Placed::Created(order) => Ok((StatusCode::CREATED, Json(Accepted::from(&*order))).into_response()),
        Placed::Replayed(order) => {
            Ok((StatusCode::CREATED, reply::REPLAYED, Json(Accepted::from(&*order))).into_response())
        }
        Placed::KeyReused => Err(reply::key_reused()),
        Placed::UnknownSkus(skus) => {
            let detail = format!("not sold here: {}", skus.join(", "));
            Err(skus.iter().fold(Problem::invalid(detail), |problem, sku| {
                problem.field("items.sku", format!("{sku} is not sold here"))
            }))
        }
        Placed::MixedCurrencies => Err(Problem::invalid("the lines are priced in different currencies")),
        Placed::TooExpensive => Err(Problem::invalid("the total is more than an order may have")),
        Placed::Free => {
            Err(Problem::invalid("an order must cost at least 0.01: no channel takes a payment of nothing"))
        }
        Placed::Coupon(refused) => Err(coupons::refusal(refused)),
    }
}

/// Through the sold-out gate.
async fn enter(state: &State, order: &NewOrder) -> Result<Taken, Problem> {
    let Some(gate) = &state.gate else { return Ok(Taken::default()) };
    match gate.enter(order).await.map_err(|error| from_db(&error))? {
        Verdict::Pass(taken) => Ok(taken),
        Verdict::SoldOut(skus) => {
            let detail = format!("sold out: {}", skus.join(", "));
            let problem = Problem::new(StatusCode::CONFLICT, "sold-out", detail);
            Err(skus.iter().fold(problem, |problem, sku| problem.field("items.sku", format!("{sku} is sold out"))))
        }
    }
}

fn check(state: &State, headers: &HeaderMap, body: NewOrderBody) -> Result<NewOrder, Problem> {
    let lines = body.items.len();
    let max_lines = state.settings.max_lines;
    if lines == 0 || lines > max_lines {
        let detail = format!("an order has 1 to {max_lines} lines, this one has {lines}");
        return Err(Problem::invalid(&detail).field("items", detail));
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = body.items.iter().find(|item| !seen.insert(item.sku.as_str())) {
        let detail = format!("{} stands in two lines: add up the quantities", twice.sku);
        return Err(Problem::invalid(&detail).field("items.sku", detail));
    }
    for (field, text) in [("remark", &body.remark), ("address", &body.address)] {
        if text.chars().count() > 500 {
            return Err(Problem::invalid(format!("{field} has more than 500 characters"))
                .field(field, "at most 500 characters"));
        }
    }
    let most = state.settings.max_quantity;
    if let Some(item) = body.items.iter().find(|item| item.quantity.get() > most) {
        let detail = format!("{} of {}: a line has at most {most} (order.max_quantity)", item.quantity.get(), item.sku);
        return Err(Problem::invalid(&detail).field("items.quantity", detail));
    }
    let channel_id = channel(state, body.channel_id)?;
    let pay_within_ms = match body.pay_within_seconds {
        None => state.settings.pay_within_ms,
        Some(seconds) => seconds_ms("payWithinSeconds", 1, seconds)?,
    };
    Ok(NewOrder {
        user_id: body.user_id,
        items: body.items.into_iter().map(|item| (item.sku, item.quantity)).collect(),
        remark: body.remark,
        address: body.address,
        channel_id,
        coupon_id: body.coupon_id.map(|id| id.0),
        hold_ms: seconds_ms("holdSeconds", 0, body.hold_seconds)?,
        pay_within_ms,
        idempotency_key: reply::idempotency_key(headers)?,
        trace: reply::trace(headers),
    })
}

/// The channel that an order names, or the only one that there is for orders that name none.
fn channel(state: &State, named: Option<String>) -> Result<String, Problem> {
    let known = &state.settings.channels;
    let hint = named.as_deref().and_then(|id| state.settings.left_out.hint(id));
    let channel_id = named.or_else(|| state.settings.default_channel.clone());
    channel_id.filter(|id| known.contains(id)).ok_or_else(|| {
        let detail = match known.join(", ") {
            none if none.is_empty() => "no payment channel is configured: nothing can be ordered here".to_owned(),
            names => format!("channelId must be one of {names}"),
        };
        let detail = match hint {
            Some(hint) => format!("{detail}; {hint}"),
            None => detail,
        };
        Problem::invalid(&detail).field("channelId", detail)
    })
}

fn seconds_ms(field: &str, least: i64, seconds: i64) -> Result<i64, Problem> {
    if (least..=LONGEST_S).contains(&seconds) {
        return Ok(seconds * 1_000);
    }
    let detail = format!("{field} must be {least} to {LONGEST_S}");
    Err(Problem::invalid(&detail).field(field, detail))
}

pub(super) fn unknown(order_id: OrderId) -> Problem {
    Problem::not_found(format!("there is no order {order_id}"))
}

/// Read an order.
#[utoipa::path(get, path = "/orders/{id}", tag = "order", params(("id" = String, Path, description = "Order id")),
    responses((status = 200, body = OrderView), (status = 404, body = Problem)))]
pub(super) async fn get(Extract(state): Extract<State>, Path(id): Path<String>) -> Result<Response, Problem> {
    let order_id: OrderId = reply::path("id", &id)?;
    let load = async {
        let mut conn = state.db.read().await.map_err(|error| from_db(&error))?;
        let Some(order) = orders::get(&mut conn, order_id.0).await.map_err(|error| from_db(&error))? else {
            return Ok(None);
        };
        let version = order.version;
        let items = orders::items(&mut conn, &[order_id.0]).await.map_err(|error| from_db(&error))?;
        let view = OrderView::of(order, Some(items.into_values().next().unwrap_or_default()));
        reply::versioned(version, &view).map(Some)
    };
    let body = reply::cached(&state.db, CacheKind::Order, &order_id.to_string(), load).await?;
    body.ok_or_else(|| unknown(order_id))
}

/// Which orders to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ListQuery {
    /// Only of this user.
    #[param(value_type = Option<String>)]
    user_id: Option<String>,
    /// Only in this state.
    status: Option<String>,
    /// Only older than this order: the `next` of the page before.
    before: Option<String>,
    /// 1 to 100.
    limit: Option<i64>,
    /// Exactly these orders, up to 100 ids between commas; nothing else may be given then.
    ids: Option<String>,
    /// Search: an order id or number, a SKU, or how the remark begins; case does not matter.
    q: Option<String>,
    /// Search: only accepted at or after this, epoch ms.
    from: Option<i64>,
    /// Search: only accepted before this, epoch ms.
    to: Option<i64>,
}

/// A page of the orders themselves, or of a search.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Listed {
    Orders(OrderPage),
    Found(FoundPage),
}

/// An empty page is both, so it is any of them and not one.
impl PartialSchema for Listed {
    fn schema() -> RefOr<Schema> {
        let page = |name| Ref::from_schema_name(name);
        AnyOfBuilder::new().item(page(OrderPage::name())).item(page(FoundPage::name())).into()
    }
}

impl ToSchema for Listed {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((OrderPage::name().into(), OrderPage::schema()));
        schemas.push((FoundPage::name().into(), FoundPage::schema()));
        OrderPage::schemas(schemas);
        FoundPage::schemas(schemas);
    }
}

/// List orders, newest first.
///
/// With `q`, `from` or `to` they are searched in the view of the notify role, a moment old; a process without that role
/// refuses these.
#[utoipa::path(get, path = "/orders", tag = "order", params(ListQuery),
    responses((status = 200, body = Listed), (status = 400, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn list(
    Extract(state): Extract<State>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Listed>, Problem> {
    if let Some(ids) = &query.ids {
        return by_ids(&state, ids).await;
    }
    if query.q.is_some() || query.from.is_some() || query.to.is_some() {
        let elsewhere = || Problem::bad_request("q, from and to: ask the notify role, which has the view");
        let view = state.view.as_ref().ok_or_else(elsewhere)?;
        let ListQuery { user_id, status, before, limit, q, from, to, ids: _ } = query;
        let wanted = SearchQuery { q, status, user_id, from, to, before, limit };
        return search::search(view, &wanted).await.map(|page| Json(Listed::Found(page)));
    }
    let limit = reply::limit(query.limit, PAGE)?;
    let filter = Filter {
        user_id: query.user_id.as_deref().map(|id| reply::path::<UserId>("userId", id)).transpose()?.map(|id| id.0),
        status: search::status(query.status.as_deref())?,
        before_id: query.before.as_deref().map(|id| reply::path::<OrderId>("before", id)).transpose()?.map(|id| id.0),
        limit,
    };
    let mut conn = state.db.read().await.map_err(|error| from_db(&error))?;
    let rows = orders::list(&mut conn, &filter).await.map_err(|error| from_db(&error))?;
    let next = reply::next(&rows, limit, |order| order.id.to_string());
    Ok(page(rows, next))
}

fn page(rows: Vec<orders::OrderRow>, next: Option<String>) -> Json<Listed> {
    let items = rows.into_iter().map(|order| OrderView::of(order, None)).collect();
    Json(Listed::Orders(OrderPage { items, next }))
}

async fn by_ids(state: &State, ids: &str) -> Result<Json<Listed>, Problem> {
    let ids = ids
        .split(',')
        .map(|id| reply::path::<OrderId>("ids", id.trim()).map(|id| id.0))
        .collect::<Result<Vec<_>, _>>()?;
    if ids.len() > 100 {
        return Err(Problem::bad_request("at most 100 ids at once").field("ids", "too many"));
    }
    let mut conn = state.db.read().await.map_err(|error| from_db(&error))?;
    let rows = orders::by_ids(&mut conn, ids).await.map_err(|error| from_db(&error))?;
    Ok(page(rows, None))
}

/// Why an order is canceled.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CancelBody {
    /// At most 500 characters.
    #[serde(default)]
    reason: Option<String>,
}

/// Cancel an order; money that was paid goes back.
///
/// 202: payment is asked first whether it has the money; the order is canceled in a moment, unless the warehouse has it
/// by then.
#[utoipa::path(post, path = "/orders/{id}/cancel", tag = "order", request_body = CancelBody, params(("id" = String, Path, description = "Order id")),
    responses((status = 200, body = OrderView), (status = 202, body = OrderView), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn cancel(
    Extract(state): Extract<State>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Option<ApiJson<CancelBody>>,
) -> Result<(StatusCode, Json<OrderView>), Problem> {
    let order_id: OrderId = reply::path("id", &id)?;
    let reason = body.and_then(|ApiJson(body)| body.reason);
    if reason.as_ref().is_some_and(|reason| reason.chars().count() > 500) {
        return Err(Problem::invalid("reason has more than 500 characters").field("reason", "at most 500 characters"));
    }
    let (by, trace) = (CancelType::User, reply::trace(&headers));
    let request = CancelRequest { order_id: order_id.0, by, reason, trace };
    match state.cancel.submit(request).await.map_err(|error| not_written(&error))? {
        Moved::Unknown => Err(unknown(order_id)),
        Moved::Decided(Decision::Refuse(why) | Decision::Early(why), _) => Err(Problem::conflict(why)),
        Moved::Decided(_, order) => Ok((StatusCode::OK, Json(OrderView::of(*order, None)))),
        Moved::Asked(order) => Ok((StatusCode::ACCEPTED, Json(OrderView::of(*order, None)))),
    }
}
