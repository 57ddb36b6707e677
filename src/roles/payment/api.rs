//! HTTP of the payment role.

mod gateway;

use std::sync::Arc;

use axum::extract::{Path, Request, State as Extract};
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::callback::{self, Callback, Confirmed, PayAnswer, PayRequest, Untaken};
use super::channels::{Channels, SandboxWish};
use super::gateway::{Open, Opened};
use super::transaction::{self, Publish};
use crate::config::{Config, Scope};
use crate::db::group::{Batch, Group};
use crate::db::payments::{self, PaymentRow, RefundRow};
use crate::db::{Db, DbError};
use crate::delivery::{Targets, sign};
use crate::domain::event::RefundKind;
use crate::domain::id::{MerchantId, OrderId, PaymentId, RefundId, UserId};
use crate::domain::money::Money;
use crate::domain::payment::Status;
use crate::http::{ApiJson, Auth, Caller, Problem, guarded, parse_json, require};
use crate::roles::order::api::Writers;
use crate::roles::reply::{self, from_db, not_written};
use crate::telemetry::Seldom;

/// Requests written in one transaction at most.
const BATCH: usize = 256;
/// Callbacks for channels that are not configured are a line in the log at most so often, ms: anybody can send them.
const UNKNOWN_MS: i64 = 60_000;
/// So much of the name of such a channel is logged.
const NAME_CHARS: usize = 64;

/// What the handlers need. A cheap clone.
#[derive(Clone)]
pub struct State {
    db: Db,
    channels: Channels,
    tolerance_ms: i64,
    confirm: Group<Callback, Confirmed>,
    pay: Group<PayRequest, PayAnswer>,
    open: Group<Open, Opened>,
    targets: Targets,
    /// Callbacks for channels that are not configured.
    unknown: Arc<Seldom>,
}

impl State {
    /// The state of the API, and the writers behind it.
    #[must_use]
    pub fn new(db: &Db, config: &Config, targets: &Targets, publish: Publish) -> (Self, Writers) {
        let channels = Channels::of(config);
        let (for_confirm, for_pay) = ((db.clone(), channels.clone()), (db.clone(), channels.clone()));
        let bounds = reply::bounds(config, BATCH);
        let part = |name: &str| db.watchdog().part(name);
        let (confirm, confirming) = Group::new(part("confirmations"), bounds, move |batch| {
            confirm_by(for_confirm.0.clone(), for_confirm.1.clone(), publish.clone(), batch)
        });
        let (pay, paying) = Group::new(part("submissions"), bounds, move |batch| {
            callback::pay(for_pay.0.clone(), for_pay.1.clone(), batch)
        });
        let for_open = (db.clone(), channels.clone());
        let (open, opening) = Group::new(part("opening of payments"), bounds, move |batch| {
            super::gateway::open(for_open.0.clone(), for_open.1.clone(), batch)
        });
        let tolerance_ms = config.payment.callback_tolerance.ms();
        let (targets, unknown) = (targets.clone(), Arc::new(Seldom::every(UNKNOWN_MS)));
        let state = Self { db: db.clone(), channels, tolerance_ms, confirm, pay, open, targets, unknown };
        (state, vec![Box::pin(confirming), Box::pin(paying), Box::pin(opening)])
    }
}

async fn confirm_by(
    db: Db,
    channels: Channels,
    publish: Publish,
    batch: Batch<Callback>,
) -> Result<Vec<Confirmed>, DbError> {
    match publish {
        Publish::Outbox => callback::confirm(db, channels, batch).await,
        Publish::Transaction(via) => transaction::confirm(db, channels, via, batch.requests()).await,
    }
}

/// The routes.
#[must_use]
pub fn router(state: State, auth: &Auth) -> OpenApiRouter {
    let read = OpenApiRouter::new().routes(routes!(get)).routes(routes!(gateway::get));
    let pay = OpenApiRouter::new().routes(routes!(pay));
    let of_merchants = OpenApiRouter::new().routes(routes!(gateway::open)).routes(routes!(gateway::close));
    let refund = OpenApiRouter::new().routes(routes!(gateway::refund));
    let for_refund = require(Scope::RefundWrite, auth).since(vec![Scope::PaymentWrite]).of_merchants();
    // Authenticated by its own signature.
    let callbacks = OpenApiRouter::new().routes(routes!(confirm));
    guarded(read, require(Scope::PaymentRead, auth).of_merchants())
        .merge(guarded(pay, require(Scope::PaymentWrite, auth)))
        .merge(guarded(of_merchants, require(Scope::PaymentWrite, auth).of_merchants()))
        .merge(guarded(refund, for_refund))
        .merge(callbacks)
        .with_state(state)
}

/// A refund.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = PaymentRefundView)]
struct RefundView {
    /// Refund.
    #[schema(value_type = String)]
    refund_id: RefundId,
    /// How much.
    #[schema(value_type = f64)]
    amount: Money,
    /// ORDER: of a canceled order. PART: of an order that goes on. EXTRA: of money that was paid more than once.
    #[schema(value_type = String)]
    kind: RefundKind,
    /// PENDING, IN_DOUBT (nobody knows whether the channel gave it back: it is asked), SUCCESS or FAILED.
    status: &'static str,
    /// Why.
    reason: String,
    /// Why it failed, or is in doubt.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Transaction whose money goes back.
    transaction_no: String,
}

impl From<RefundRow> for RefundView {
    fn from(refund: RefundRow) -> Self {
        Self {
            refund_id: RefundId(refund.id),
            amount: refund.amount,
            kind: refund.kind,
            status: refund.status.name(),
            reason: refund.reason,
            error: refund.error,
            transaction_no: refund.transaction_no,
        }
    }
}

/// A payment.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct PaymentView {
    /// Payment.
    #[schema(value_type = String)]
    payment_id: PaymentId,
    /// Order that it pays.
    #[schema(value_type = String)]
    order_id: OrderId,
    /// Its number for people.
    order_no: String,
    /// Who pays.
    #[schema(value_type = String)]
    user_id: UserId,
    /// What is to be paid.
    #[schema(value_type = f64)]
    amount: Money,
    /// ISO 4217.
    currency: String,
    /// Who gets it.
    #[schema(value_type = String)]
    merchant_id: MerchantId,
    /// Channel that takes it.
    channel_id: String,
    /// PENDING, SUCCESS, CLOSED, REFUNDING or REFUNDED.
    #[schema(value_type = String)]
    status: Status,
    /// The channel's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_no: Option<String>,
    /// Card, wallet, ...
    #[serde(skip_serializing_if = "Option::is_none")]
    payment_method: Option<String>,
    /// When the channel took it, epoch ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pay_time: Option<i64>,
    /// When its order times out, epoch ms.
    expire_time: i64,
    /// Money on its way back.
    refunds: Vec<RefundView>,
}

impl PaymentView {
    fn of(payment: PaymentRow, refunds: Vec<RefundRow>) -> Self {
        Self {
            payment_id: PaymentId(payment.id),
            order_id: OrderId(payment.order_id),
            order_no: payment.order_no,
            user_id: UserId(payment.user_id),
            amount: payment.state.amount,
            currency: payment.state.currency,
            merchant_id: MerchantId(payment.state.merchant_id),
            channel_id: payment.channel_id,
            status: payment.state.status,
            transaction_no: payment.state.transaction_no,
            payment_method: payment.payment_method,
            pay_time: payment.pay_time,
            expire_time: payment.expire_time,
            refunds: refunds.into_iter().map(RefundView::from).collect(),
        }
    }
}

fn not_open(order_id: OrderId) -> Problem {
    Problem::not_found(format!(
        "order {order_id} has no payment: it opens as soon as the order's stock is frozen; try again, or check the order"
    ))
}

/// Read the payment of an order.
#[utoipa::path(get, path = "/payments/{orderId}", tag = "payment", params(("orderId" = String, Path, description = "Order id")),
    responses((status = 200, body = PaymentView), (status = 404, body = Problem)))]
async fn get(
    Extract(state): Extract<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<PaymentView>, Problem> {
    let order_id: OrderId = reply::path("orderId", &id)?;
    let mut conn = state.db.read().await.map_err(|error| from_db(&error))?;
    let payment = payments::of_order(&mut conn, order_id.0).await.map_err(|error| from_db(&error))?;
    let payment = payment.filter(|payment| caller.acts_for(MerchantId(payment.state.merchant_id)));
    let payment = payment.ok_or_else(|| not_open(order_id))?;
    let refunds = payments::refunds_of_order(&mut conn, order_id.0).await.map_err(|error| from_db(&error))?;
    Ok(Json(PaymentView::of(payment, refunds)))
}

/// How to pay.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PayBody {
    /// Card, wallet, ...; at most 32 characters. Another one than before is refused (409) while the channel may take
    /// the money by that one.
    #[serde(default = "card")]
    method: String,
    /// How the sandbox channel is to behave; refused for payments of other channels.
    #[serde(default)]
    sandbox: Option<SandboxWish>,
}

fn card() -> String {
    "card".to_owned()
}

/// The answer to an attempt to pay.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct PayReply {
    /// Payment.
    #[schema(value_type = String)]
    payment_id: PaymentId,
    /// Order.
    #[schema(value_type = String)]
    order_id: OrderId,
    /// PENDING until the channel has confirmed it.
    #[schema(value_type = String)]
    status: Status,
    /// What is to be paid.
    #[schema(value_type = f64)]
    amount: Money,
}

/// Pay an order: submits its payment to the channel, which calls back when it has the money.
#[utoipa::path(post, path = "/payments/{orderId}/pay", tag = "payment", request_body = PayBody, params(("orderId" = String, Path, description = "Order id")),
    responses((status = 202, body = PayReply), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
async fn pay(
    Extract(state): Extract<State>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Option<ApiJson<PayBody>>,
) -> Result<(StatusCode, Json<PayReply>), Problem> {
    let order_id: OrderId = reply::path("orderId", &id)?;
    let body = body.map_or_else(|| PayBody { method: card(), sandbox: None }, |ApiJson(body)| body);
    if body.method.chars().count() > 32 {
        return Err(Problem::invalid("method has more than 32 characters").field("method", "at most 32 characters"));
    }
    let trace = reply::trace(&headers);
    let request = PayRequest { order_id, method: body.method, sandbox: body.sandbox, trace };
    match state.pay.submit(request).await.map_err(|error| not_written(&error))? {
        PayAnswer::NotOpen => Err(not_open(order_id)),
        PayAnswer::Closed => Err(Problem::conflict("the order was canceled: its payment is closed")),
        PayAnswer::NoChannel(why) => Err(Problem::conflict(why)),
        PayAnswer::OtherMethod(method) => Err(Problem::conflict(format!(
            "the payment was submitted with the method {method:?}, by which its channel may still take the money: pay \
             with {method:?}, or cancel the order and place it anew to pay by another method"
        ))),
        PayAnswer::NoSandbox(channel) => {
            let detail = format!("the channel {channel:?} of this payment is no sandbox: leave out `sandbox`");
            Err(Problem::invalid(detail).field("sandbox", "only for payments of a sandbox channel"))
        }
        PayAnswer::Submitted(payment) => Ok((
            StatusCode::ACCEPTED,
            Json(PayReply {
                payment_id: PaymentId(payment.id),
                order_id,
                status: payment.state.status,
                amount: payment.state.amount,
            }),
        )),
    }
}

/// The answer to a callback.
#[derive(Debug, Serialize, ToSchema)]
struct CallbackReply {
    /// Always "success".
    result: &'static str,
}

/// Confirm money (a channel calls this).
///
/// Signed with the channel's secret: `X-Ruyi-Timestamp` in epoch seconds, and `X-Ruyi-Signature`, hex HMAC-SHA256 of `<timestamp>.<body>`.
#[utoipa::path(post, path = "/payments/callback/{channel}", tag = "payment", request_body = Callback, params(("channel" = String, Path, description = "Channel id")),
    responses((status = 200, body = CallbackReply), (status = 401, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
async fn confirm(
    Extract(state): Extract<State>,
    Path(channel): Path<String>,
    request: Request,
) -> Result<Json<CallbackReply>, Problem> {
    let now_ms = state.db.clock().now_ms();
    let Some(known) = state.channels.get(&channel) else {
        if let Some(unsaid) = state.unknown.say(now_ms) {
            let channel: String = channel.chars().take(NAME_CHARS).collect();
            tracing::warn!(
                channel,
                unsaid,
                "callbacks come for a channel that is not configured: none of them is taken"
            );
        }
        return Err(Problem::not_found(format!("there is no channel {channel:?}")));
    };
    let (headers, body) = reply::signed_body(request, now_ms, state.tolerance_ms).await?;
    sign::verify_any(known.secrets(), &headers, &body, now_ms, state.tolerance_ms)
        .map_err(|error| Problem::unauthorized(error.to_string()))?;
    let mut callback: Callback = match parse_json(&body) {
        Ok(callback) => callback,
        Err(problem) => {
            report(&state, Untaken::unreadable(&channel, &body, problem.detail.as_deref().unwrap_or_default())).await?;
            return Err(problem);
        }
    };
    callback.trace = reply::trace(&headers);
    callback.channel_id = channel.clone();
    if let Err((field, why)) = callback.check(now_ms) {
        let detail = format!("{field} {why}");
        report(&state, Untaken::of(&callback, &detail)).await?;
        return Err(Problem::invalid(detail).field(field, why));
    }
    let payment_id = callback.payment_id;
    // In doubt the channel is told to try again, never that it failed.
    match state.confirm.submit(callback).await.map_err(|error| not_written(&error))? {
        Confirmed::Yes => Ok(Json(CallbackReply { result: "success" })),
        Confirmed::Again => Err(Problem::unavailable("the payment could not be published: try again", 1)),
        Confirmed::Unknown => Err(Problem::not_found(format!("there is no payment {payment_id}"))),
        Confirmed::Refused(why) => Err(Problem::invalid(why)),
    }
}

/// Tells people of money that a channel has signed for, and that is not taken.
async fn report(state: &State, untaken: Untaken) -> Result<(), Problem> {
    callback::report(&state.db, untaken).await.map_err(|error| from_db(&error))
}
