//! The warehouse: takes orders, and reports each step of their parcels.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request as Incoming, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Accepted, Request, Sandbox};
use crate::db::delivery::{Delivery, Kind};
use crate::domain::event;
use crate::domain::id::{OrderId, Quantity, Sku, UserId};
use crate::http::Problem;
use crate::roles::reply;

/// Who carries every parcel.
const CARRIER: &str = "RUYI-EXPRESS";

/// The steps of a parcel.
const STEPS: [event::Kind; 4] = [
    event::Kind::OrderFulfillSuccess,
    event::Kind::OrderOutStock,
    event::Kind::OrderDelivery,
    event::Kind::OrderSigned,
];

/// An order to be fulfilled.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "lines are read to be checked; a stand-in packs nothing")]
#[schema(as = SandboxOrder)]
pub(super) struct TakeOrder {
    #[schema(value_type = String)]
    order_id: OrderId,
    #[schema(value_type = String)]
    user_id: UserId,
    lines: Vec<Line>,
    /// One that begins with `sandbox:refuse` is refused at once, with `sandbox:refuse-later` by a call back.
    #[serde(default)]
    address: Option<String>,
}

/// What the stand-in does with an order, by its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Send,
    Refuse,
    RefuseLater,
}

impl Manner {
    fn of(address: Option<&str>) -> Self {
        match address.unwrap_or_default() {
            later if later.starts_with("sandbox:refuse-later") => Self::RefuseLater,
            at_once if at_once.starts_with("sandbox:refuse") => Self::Refuse,
            _ => Self::Send,
        }
    }
}

/// Why it refuses an order.
const NOT_SENT: &str = "we cannot deliver there";

/// Answer to an order that it will not send.
#[derive(Serialize, ToSchema)]
#[schema(as = SandboxRefusal)]
pub(super) struct Refusal {
    /// Always true: the order itself is refused, not the call.
    refused: bool,
    /// Why, for the user.
    reason: &'static str,
}

#[derive(Debug, Deserialize, ToSchema)]
#[expect(dead_code, reason = "read to be checked; a stand-in packs nothing")]
#[schema(as = SandboxOrderLine)]
struct Line {
    #[schema(value_type = String)]
    sku: Sku,
    #[schema(value_type = i64)]
    quantity: Quantity,
}

/// Body of the call back.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Callback<'a> {
    order_id: OrderId,
    event: &'a str,
    occurred_at: i64,
    #[serde(flatten)]
    more: More<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum More<'a> {
    #[serde(rename_all = "camelCase")]
    Parcel {
        carrier: &'a str,
        tracking_no: String,
    },
    Refusal {
        reason: &'a str,
    },
}

/// Takes an order; a call back per step follows. The order id is the idempotency key.
#[utoipa::path(post, path = "/sandbox/warehouse/orders", tag = "sandbox", request_body = TakeOrder,
    responses((status = 202, body = Accepted), (status = 401, body = Problem), (status = 409, body = Refusal), (status = 422, body = Problem)))]
pub(super) async fn take_order(State(sandbox): State<Sandbox>, request: Incoming) -> Result<Response, Problem> {
    let (headers, body) = sandbox.body_of(request).await?;
    let order: TakeOrder = sandbox.read_order(&headers, &body)?;
    let now_ms = sandbox.clock.now_ms();
    let manner = Manner::of(order.address.as_deref());
    if manner == Manner::Refuse {
        return Ok((StatusCode::CONFLICT, Json(Refusal { refused: true, reason: NOT_SENT })).into_response());
    }
    let kinds: &[event::Kind] = if manner == Manner::Send { &STEPS } else { &[event::Kind::OrderFulfillRefused] };
    let calls = steps(order.order_id, kinds, now_ms, sandbox.step_delay_ms, reply::trace(&headers).as_deref())
        .map_err(|error| Problem::internal(&error))?;
    let callbacks = sandbox.submit(Request::Insert(Arc::new(calls))).await?;
    Ok((StatusCode::ACCEPTED, Json(Accepted { callbacks })).into_response())
}

fn steps(
    order_id: OrderId,
    kinds: &[event::Kind],
    now_ms: i64,
    step_delay_ms: i64,
    trace: Option<&str>,
) -> Result<Vec<Delivery>, serde_json::Error> {
    let mut calls = Vec::with_capacity(kinds.len());
    let mut at = now_ms;
    for step in kinds {
        at = at.saturating_add(step_delay_ms);
        let event = step.name();
        let more = match step {
            event::Kind::OrderFulfillRefused => More::Refusal { reason: NOT_SENT },
            _ => More::Parcel { carrier: CARRIER, tracking_no: format!("RY{order_id}") },
        };
        let body = Callback { order_id, event, occurred_at: at, more };
        calls.push(Delivery {
            id: 0,
            kind: Kind::SandboxFulfilment,
            reference: format!("{order_id}:{event}"),
            order_id: order_id.0,
            url: "/fulfil/callback".to_owned(),
            body: serde_json::to_string(&body)?,
            attempts: 0,
            next_at: at,
            trace: trace.map(str::to_owned),
        });
    }
    Ok(calls)
}
