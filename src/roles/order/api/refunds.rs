//! Giving money of an order back, and what went back.

use axum::Json;
use axum::extract::{Path, State as Extract};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::State;
use super::orders::unknown;
use crate::db::orders;
use crate::db::refunds::{self as rows, OrderRefund, Standing};
use crate::domain::id::{OrderId, RefundId, unpadded};
use crate::domain::money::Money;
use crate::domain::refund::{Refusal, left};
use crate::http::{ApiJson, Problem};
use crate::roles::order::refunds::{Asked, Wish, back, promised};
use crate::roles::reply::{self, from_db, not_written};

/// Money that is to go back.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RefundBody {
    /// How much; without it all that is left.
    #[serde(default)]
    #[schema(value_type = Option<f64>, example = 9.9)]
    amount: Option<Money>,
    /// Why, at most 200 characters.
    #[serde(default)]
    reason: String,
    /// Number of the refund, as the `Idempotency-Key` header, which counts where both are given.
    #[serde(default)]
    refund_no: Option<String>,
}

/// A refund of an order.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RefundView {
    /// Refund.
    #[schema(value_type = String)]
    refund_id: RefundId,
    /// Number that whoever asked gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    refund_no: Option<String>,
    /// How much.
    #[schema(value_type = f64)]
    amount: Money,
    /// Why.
    reason: String,
    /// REQUESTED, SUCCESS or FAILED.
    status: &'static str,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Epoch ms.
    created_at: i64,
    /// Epoch ms.
    updated_at: i64,
}

impl From<OrderRefund> for RefundView {
    fn from(refund: OrderRefund) -> Self {
        Self {
            refund_id: RefundId(refund.id),
            refund_no: refund.refund_no,
            amount: refund.amount,
            reason: refund.reason,
            status: match refund.status {
                Standing::Requested => "REQUESTED",
                Standing::Success => "SUCCESS",
                Standing::Failed => "FAILED",
            },
            error: refund.error,
            created_at: refund.created_at,
            updated_at: refund.updated_at,
        }
    }
}

/// The money of an order.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RefundsView {
    /// Order.
    #[schema(value_type = String)]
    order_id: OrderId,
    /// What was to be paid.
    #[schema(value_type = f64)]
    total_amount: Money,
    /// What went back.
    #[schema(value_type = f64)]
    refunded_amount: Money,
    /// What may still be asked for: of an order that is paid, and neither back nor on its way.
    #[schema(value_type = f64)]
    refundable_amount: Money,
    /// Oldest first. Of a canceled order that of the rest is here once it is back.
    refunds: Vec<RefundView>,
}

/// Give money of a paid order back: all that is left, or a part.
///
/// The order goes on, and keeps its state. All of the money of an order that the warehouse does not have yet is a cancel.
/// Send an `Idempotency-Key` (or `refundNo`) to be able to repeat a request safely: of one order, a number is one refund.
#[utoipa::path(post, path = "/orders/{id}/refund", tag = "order", request_body = RefundBody,
    params(("id" = String, Path, description = "Order id"), ("Idempotency-Key" = Option<String>, Header, description = "At most 128 characters")),
    responses((status = 202, body = RefundView), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn refund(
    Extract(state): Extract<State>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Option<ApiJson<RefundBody>>,
) -> Result<Response, Problem> {
    let order_id: OrderId = reply::path("id", &id)?;
    let body = body.map(|ApiJson(body)| body).unwrap_or_default();
    if body.reason.chars().count() > 200 {
        return Err(Problem::invalid("reason has more than 200 characters").field("reason", "at most 200 characters"));
    }
    if body.amount == Some(Money::ZERO) {
        return Err(Problem::invalid("amount must be more than 0").field("amount", "more than 0"));
    }
    let refund_no = match (reply::idempotency_key(&headers)?, body.refund_no) {
        (Some(key), _) => Some(key),
        (None, Some(number)) if (1..=128).contains(&number.len()) && unpadded(&number) == number => Some(number),
        (None, Some(_)) => {
            let detail = "1 to 128 characters, without spaces around them";
            return Err(Problem::invalid(format!("refundNo must have {detail}")).field("refundNo", detail));
        }
        (None, None) => None,
    };
    let trace = reply::trace(&headers);
    let wish = Wish { order_id: order_id.0, refund_no, amount: body.amount, reason: body.reason, trace };
    match state.refund.submit(wish).await.map_err(|error| not_written(&error))? {
        Asked::Unknown => Err(unknown(order_id)),
        Asked::Refused(Refusal::State(why)) => Err(Problem::conflict(why)),
        Asked::Refused(Refusal::TooMuch(left)) => Err(Problem::conflict(format!("only {left} is left to go back"))),
        Asked::NumberUsed => Err(Problem::invalid("this number was used for another refund of this order")),
        Asked::Taken(refund) => Ok((StatusCode::ACCEPTED, Json(RefundView::from(*refund))).into_response()),
        Asked::Again(refund) => {
            Ok((StatusCode::ACCEPTED, reply::REPLAYED, Json(RefundView::from(*refund))).into_response())
        }
    }
}

/// Read what of an order's money went back, and what is on its way.
#[utoipa::path(get, path = "/orders/{id}/refunds", tag = "order", params(("id" = String, Path, description = "Order id")),
    responses((status = 200, body = RefundsView), (status = 404, body = Problem)))]
pub(super) async fn list(Extract(state): Extract<State>, Path(id): Path<String>) -> Result<Json<RefundsView>, Problem> {
    let order_id: OrderId = reply::path("id", &id)?;
    let mut conn = state.db.read().await.map_err(|error| from_db(&error))?;
    let order = orders::get(&mut conn, order_id.0).await.map_err(|error| from_db(&error))?;
    let order = order.ok_or_else(|| unknown(order_id))?;
    let all = rows::of_orders(&mut conn, vec![order.id]).await.map_err(|error| from_db(&error))?;
    let refunds = all.into_values().next().unwrap_or_default();
    let refundable_amount =
        if order.state.status.is_paid() { left(order.state.total, [promised(&refunds)]) } else { Money::ZERO };
    Ok(Json(RefundsView {
        order_id,
        total_amount: order.state.total,
        refunded_amount: back(&refunds),
        refundable_amount,
        refunds: refunds.into_iter().map(RefundView::from).collect(),
    }))
}
