//! The pay gateway over HTTP: what a merchant's own systems call.

use axum::extract::{Path, State as Extract};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{RefundView, State};
use crate::db::gateway;
use crate::db::payments;
use crate::domain::id::{MerchantId, PaymentId, UserId};
use crate::domain::merchant::is_name;
use crate::domain::money::Money;
use crate::domain::payment::Status;
use crate::http::{ApiJson, Caller, Problem, of_another_merchant};
use crate::roles::payment::gateway::{Act, Acted, Open, Opened, Payment, act};
use crate::roles::reply::{self, from_db, not_written};

/// What the columns hold, in characters and in bytes.
const EXTRA_MAX: usize = 200;
const URL_MAX: usize = 500;
const REASON_MAX: usize = 200;

/// A payment that a merchant wants.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct OpenBody {
    /// Merchant.
    #[schema(value_type = String)]
    merchant_id: MerchantId,
    /// The merchant's own number, 1 to 64 characters out of A-Z a-z 0-9 . _ -: repeated, it is the same payment.
    out_order_no: String,
    /// What is to be paid, at least 0.01.
    #[schema(value_type = f64, example = 59.80)]
    amount: Money,
    /// Product, one that the merchant may use with the channel.
    product_id: String,
    /// Channel.
    channel_id: String,
    /// Where to tell what became of it; by default where the merchant is told.
    #[serde(default)]
    notify_url: Option<String>,
    /// What the merchant counts by, at most 200 characters; it stands in the statistics of the day.
    #[serde(default)]
    extra_arg: String,
    /// Who pays, where the merchant says so.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    user_id: Option<UserId>,
}

/// A payment of a merchant's own order.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct GatewayView {
    /// Payment.
    #[schema(value_type = String)]
    payment_id: PaymentId,
    /// Merchant.
    #[schema(value_type = String)]
    merchant_id: MerchantId,
    /// The merchant's own number.
    out_order_no: String,
    /// What is to be paid.
    #[schema(value_type = f64)]
    amount: Money,
    /// ISO 4217.
    currency: String,
    /// Product.
    product_id: String,
    /// Channel that takes it.
    channel_id: String,
    /// Tenant of the merchant.
    tenant_id: String,
    /// PENDING, SUCCESS, CLOSED, REFUNDING or REFUNDED.
    #[schema(value_type = String)]
    status: Status,
    /// The channel's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_no: Option<String>,
    /// When the channel took it, epoch ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pay_time: Option<i64>,
    /// Money on its way back.
    refunds: Vec<RefundView>,
}

impl GatewayView {
    fn of(payment: Payment, refunds: Vec<payments::RefundRow>) -> Self {
        let Payment { row, gateway } = payment;
        Self {
            payment_id: PaymentId(row.id),
            merchant_id: MerchantId(gateway.merchant_id),
            out_order_no: gateway.out_order_no,
            amount: row.state.amount,
            currency: row.state.currency,
            product_id: gateway.product_id,
            channel_id: row.channel_id,
            tenant_id: gateway.tenant_id,
            status: row.state.status,
            transaction_no: row.state.transaction_no,
            pay_time: row.pay_time,
            refunds: refunds.into_iter().map(RefundView::from).collect(),
        }
    }
}

fn wrong(field: &'static str, detail: &str) -> Problem {
    Problem::invalid(format!("{field} {detail}")).field(field, detail)
}

fn check(state: &State, body: &OpenBody) -> Result<(), Problem> {
    let names = "must have 1 to 64 characters out of A-Z a-z 0-9 . _ -";
    let fields = [("outOrderNo", &body.out_order_no), ("productId", &body.product_id), ("channelId", &body.channel_id)];
    for (field, text) in fields {
        if !is_name(text) {
            return Err(wrong(field, names));
        }
    }
    if body.amount == Money::ZERO {
        return Err(wrong("amount", "must be at least 0.01"));
    }
    if body.extra_arg.chars().count() > EXTRA_MAX {
        return Err(wrong("extraArg", "must have at most 200 characters"));
    }
    if let Some(url) = body.notify_url.as_deref().filter(|url| !url.is_empty()) {
        if url.len() > URL_MAX {
            return Err(wrong("notifyUrl", "must have at most 500 bytes"));
        }
        state.targets.check_given(url).map_err(|why| wrong("notifyUrl", &why))?;
    }
    Ok(())
}

/// Open a payment for a merchant. The channel is asked for it at once, and the merchant told what became of it
/// (ORDER_NOTIFY). Repeated with the same merchantId and outOrderNo it is the same payment.
#[utoipa::path(post, path = "/payments", tag = "payment", request_body = OpenBody,
    responses((status = 201, body = GatewayView), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 422, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn open(
    Extract(state): Extract<State>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    ApiJson(body): ApiJson<OpenBody>,
) -> Result<Response, Problem> {
    let merchant_id = body.merchant_id;
    if let Some(own) = caller.merchant.filter(|own| *own != merchant_id) {
        return Err(of_another_merchant(own));
    }
    check(&state, &body)?;
    let wish = Open {
        merchant_id: merchant_id.0,
        out_order_no: body.out_order_no,
        amount: body.amount,
        product_id: body.product_id,
        channel_id: body.channel_id,
        notify_url: body.notify_url,
        extra_arg: body.extra_arg,
        user_id: body.user_id.map_or(0, |id| id.0),
        trace: reply::trace(&headers),
    };
    let channel_id = wish.channel_id.clone();
    match state.open.submit(wish).await.map_err(|error| not_written(&error))? {
        Opened::New(payment) => Ok((StatusCode::CREATED, Json(GatewayView::of(*payment, vec![]))).into_response()),
        Opened::Replayed(payment) => {
            Ok((StatusCode::CREATED, reply::REPLAYED, Json(GatewayView::of(*payment, vec![]))).into_response())
        }
        Opened::Different => Err(Problem::conflict(
            "this outOrderNo belongs to a payment of another amount, product, channel, user, extraArg or notifyUrl",
        )),
        Opened::Unknown => Err(Problem::not_found(format!(
            "no merchant {merchant_id} is known to the payment role: PUT /merchants/{merchant_id} tells the notify role, of \
             which the payment role hears within moments; try again then"
        ))),
        Opened::Closed => Err(Problem::conflict("this merchant may open no payments: it is not active")),
        Opened::Refused(why) => Err(Problem::invalid(why.to_string())),
        Opened::NoChannel => Err(Problem::conflict(state.channels.why_not(&channel_id))),
    }
}

fn number(merchant_id: &str, out_order_no: String) -> Result<(i64, String), Problem> {
    let merchant_id: MerchantId = reply::path("merchantId", merchant_id)?;
    let number = (merchant_id.0, out_order_no);
    // What was never a name has no payment, whatever a database takes for equal.
    if is_name(&number.1) { Ok(number) } else { Err(unknown(&number)) }
}

fn unknown((merchant_id, out_order_no): &(i64, String)) -> Problem {
    Problem::not_found(format!("merchant {merchant_id} has no payment {out_order_no:?}"))
}

/// Read a payment by a merchant's own number.
#[utoipa::path(get, path = "/merchants/{merchantId}/payments/{outOrderNo}", tag = "payment",
    params(("merchantId" = String, Path, description = "Merchant id"), ("outOrderNo" = String, Path, description = "The merchant's own number")),
    responses((status = 200, body = GatewayView), (status = 404, body = Problem)))]
pub(super) async fn get(
    Extract(state): Extract<State>,
    Path((merchant_id, out_order_no)): Path<(String, String)>,
) -> Result<Json<GatewayView>, Problem> {
    let number = number(&merchant_id, out_order_no)?;
    let mut conn = state.db.read().await.map_err(|error| from_db(&error))?;
    let found = gateway::by_number(&mut conn, std::slice::from_ref(&number)).await;
    let gateway = found.map_err(|error| from_db(&error))?.remove(&number).ok_or_else(|| unknown(&number))?;
    let id = gateway.payment_id;
    let mut rows = payments::find(&mut conn, vec![id]).await.map_err(|error| from_db(&error))?;
    let row = rows.remove(&id).ok_or_else(|| unknown(&number))?;
    let refunds = payments::refunds_of_order(&mut conn, row.order_id).await.map_err(|error| from_db(&error))?;
    Ok(Json(GatewayView::of(Payment { row, gateway }, refunds)))
}

async fn acted(state: &State, number: (i64, String), wish: Act) -> Result<GatewayView, Problem> {
    let done = act(&state.db, &state.channels, number.clone(), wish).await.map_err(|error| from_db(&error))?;
    match done {
        Acted::Unknown => Err(unknown(&number)),
        Acted::Conflict(why) => Err(Problem::conflict(why)),
        Acted::Done(payment, refunds) => Ok(GatewayView::of(*payment, refunds)),
    }
}

/// Close a payment that is not paid: money that still comes goes back.
#[utoipa::path(post, path = "/merchants/{merchantId}/payments/{outOrderNo}/close", tag = "payment",
    params(("merchantId" = String, Path, description = "Merchant id"), ("outOrderNo" = String, Path, description = "The merchant's own number")),
    responses((status = 200, body = GatewayView), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn close(
    Extract(state): Extract<State>,
    Path((merchant_id, out_order_no)): Path<(String, String)>,
) -> Result<Json<GatewayView>, Problem> {
    acted(&state, number(&merchant_id, out_order_no)?, Act::Close).await.map(Json)
}

/// How much is to go back.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = GatewayRefundBody)]
pub(super) struct RefundBody {
    /// How much; without it all that is left.
    #[serde(default)]
    #[schema(value_type = Option<f64>)]
    amount: Option<Money>,
    /// Why, at most 200 characters.
    #[serde(default)]
    reason: String,
}

/// Give money of a payment back, in parts or all of it. Needs an `Idempotency-Key`: repeated, it is the same refund.
#[utoipa::path(post, path = "/merchants/{merchantId}/payments/{outOrderNo}/refund", tag = "payment", request_body = RefundBody,
    params(("merchantId" = String, Path, description = "Merchant id"), ("outOrderNo" = String, Path, description = "The merchant's own number"),
        ("Idempotency-Key" = String, Header, description = "1 to 128 visible ASCII characters")),
    responses((status = 202, body = GatewayView), (status = 400, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn refund(
    Extract(state): Extract<State>,
    Path((merchant_id, out_order_no)): Path<(String, String)>,
    headers: HeaderMap,
    ApiJson(body): ApiJson<RefundBody>,
) -> Result<(StatusCode, Json<GatewayView>), Problem> {
    let number = number(&merchant_id, out_order_no)?;
    let key = reply::idempotency_key(&headers)?.ok_or_else(|| {
        let detail = "is needed: repeated with the same one it is the same refund";
        Problem::bad_request(format!("Idempotency-Key {detail}")).field("Idempotency-Key", detail)
    })?;
    if body.amount == Some(Money::ZERO) {
        return Err(wrong("amount", "must be at least 0.01"));
    }
    if body.reason.chars().count() > REASON_MAX {
        return Err(wrong("reason", "must have at most 200 characters"));
    }
    let RefundBody { amount, reason } = body;
    let view = acted(&state, number, Act::Refund { amount, reason, key }).await?;
    Ok((StatusCode::ACCEPTED, Json(view)))
}
