//! The payment channel: takes payments and refunds, and calls back.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request as Incoming, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{Accepted, Request, SILENT_UNTIL, Sandbox};
use crate::db::DbError;
use crate::db::delivery::{self, Delivery, Kind};
use crate::delivery::SandboxCall;
use crate::delivery::sign::{self, SIGNATURE_HEADER};
use crate::domain::id::{MerchantId, OrderId, PaymentId, RefundId};
use crate::domain::money::Money;
use crate::http::Problem;
use crate::roles::reply;

/// The channel that bodies without `channelId` belong to.
const DEFAULT_CHANNEL: &str = "sandbox";

/// Calls back of one payment at most.
const REPEAT_MAX: u32 = 100;

/// Longest wait before a call back: a week, ms.
const DELAY_MAX_MS: i64 = 604_800_000;

/// Longest transaction number; with it the reference of a call back still fits its column.
const TRANSACTION_NO_MAX: usize = 64;

/// A payment to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SandboxPay)]
pub(super) struct Pay {
    #[schema(value_type = String)]
    payment_id: PaymentId,
    #[schema(value_type = String)]
    order_id: OrderId,
    #[schema(value_type = f64)]
    amount: Money,
    currency: String,
    #[schema(value_type = String)]
    merchant_id: MerchantId,
    channel_id: String,
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    sandbox: Option<Behaviour>,
}

/// How the sandbox is to behave: by default it calls back once, at once, rightly.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[schema(as = SandboxBehaviour)]
pub(super) struct Behaviour {
    /// Wait before the call back, ms.
    delay_ms: i64,
    /// Calls back, each the same.
    repeat: u32,
    /// Do not call back before `POST /sandbox/channel/payments/{paymentId}/callback`.
    silent: bool,
    /// Call back with an amount that is off by so many minor units.
    amount_delta: i64,
    /// Sign wrongly.
    bad_signature: bool,
    /// The channel's own number; by default made from the payment id, so that a repeated request has the same.
    transaction_no: Option<String>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { delay_ms: 0, repeat: 1, silent: false, amount_delta: 0, bad_signature: false, transaction_no: None }
    }
}

/// Body of the call back.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Callback<'a> {
    payment_id: PaymentId,
    order_id: OrderId,
    transaction_no: &'a str,
    amount: Money,
    currency: &'a str,
    merchant_id: MerchantId,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    pay_time: i64,
}

/// Named before it is verified: it says which secret to verify with.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NamesChannel {
    #[serde(default)]
    channel_id: Option<String>,
}

fn channel_of(body: &[u8]) -> String {
    let named = serde_json::from_slice::<NamesChannel>(body).ok().and_then(|named| named.channel_id);
    named.unwrap_or_else(|| DEFAULT_CHANNEL.to_owned())
}

impl Pay {
    /// The calls back that this payment wants.
    fn callbacks(&self, now_ms: i64, trace: &Option<String>) -> Result<Vec<Delivery>, Problem> {
        let usual = Behaviour::default();
        let behaviour = self.sandbox.as_ref().unwrap_or(&usual);
        let wrong = |field: &str, detail: &str| {
            Problem::invalid("the sandbox cannot do this").field(format!("sandbox.{field}"), detail)
        };
        if !(0..=DELAY_MAX_MS).contains(&behaviour.delay_ms) {
            return Err(wrong("delayMs", "must be from 0 to 604800000"));
        }
        if !(1..=REPEAT_MAX).contains(&behaviour.repeat) {
            return Err(wrong("repeat", "must be from 1 to 100"));
        }
        let number = behaviour.transaction_no.clone().unwrap_or_else(|| format!("SBX{}", self.payment_id));
        if !is_transaction_no(&number) {
            return Err(wrong("transactionNo", "must be 1 to 64 of A-Z a-z 0-9 . _ -"));
        }
        let amount = Money::from_minor(self.amount.minor().saturating_add(behaviour.amount_delta))
            .map_err(|error| wrong("amountDelta", &error.to_string()))?;
        let callback = Callback {
            payment_id: self.payment_id,
            order_id: self.order_id,
            transaction_no: &number,
            amount,
            currency: &self.currency,
            merchant_id: self.merchant_id,
            method: self.method.as_deref(),
            pay_time: now_ms,
        };
        let internal = |error: serde_json::Error| Problem::internal(&error);
        let call = SandboxCall {
            channel_id: self.channel_id.clone(),
            bad_signature: behaviour.bad_signature,
            send: serde_json::to_value(&callback).map_err(internal)?,
        };
        let body = serde_json::to_string(&call).map_err(internal)?;
        let next_at = if behaviour.silent { SILENT_UNTIL } else { now_ms + behaviour.delay_ms };
        let one = |n| Delivery {
            id: 0,
            kind: Kind::SandboxPayment,
            reference: format!("{}:{number}:{n}", self.payment_id),
            order_id: self.order_id.0,
            url: format!("/payments/callback/{}", self.channel_id),
            body: body.clone(),
            attempts: 0,
            next_at,
            trace: trace.clone(),
        };
        Ok((1..=behaviour.repeat).map(one).collect())
    }
}

fn is_transaction_no(text: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=TRANSACTION_NO_MAX).contains(&text.len()) && text.bytes().all(fine)
}

/// Takes a payment; the call back follows.
#[utoipa::path(post, path = "/sandbox/channel/pay", tag = "sandbox", request_body = Pay,
    responses((status = 202, body = Accepted), (status = 401, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn pay(
    State(sandbox): State<Sandbox>,
    request: Incoming,
) -> Result<(StatusCode, Json<Accepted>), Problem> {
    let (headers, body) = sandbox.body_of(request).await?;
    let pay: Pay = sandbox.read_channel(&channel_of(&body), &headers, &body)?;
    let calls = pay.callbacks(sandbox.clock.now_ms(), &reply::trace(&headers))?;
    let callbacks = sandbox.submit(Request::Insert(Arc::new(calls))).await?;
    Ok((StatusCode::ACCEPTED, Json(Accepted { callbacks })))
}

/// A refund to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "read to be checked; a stand-in moves no money")]
#[schema(as = SandboxRefund)]
pub(super) struct Refund {
    #[schema(value_type = String)]
    refund_id: RefundId,
    #[schema(value_type = String)]
    payment_id: PaymentId,
    transaction_no: String,
    #[schema(value_type = f64)]
    amount: Money,
    #[serde(default)]
    reason: String,
}

/// Takes a refund: there is no money, so it is done at once, however often it is asked for.
#[utoipa::path(post, path = "/sandbox/channel/refund", tag = "sandbox", request_body = Refund,
    responses((status = 200), (status = 401, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn refund(
    State(sandbox): State<Sandbox>,
    request: Incoming,
) -> Result<Json<serde_json::Value>, Problem> {
    let (headers, body) = sandbox.body_of(request).await?;
    let _: Refund = sandbox.read_channel(&channel_of(&body), &headers, &body)?;
    Ok(Json(json!({"refunded": true})))
}

/// A question about a payment.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SandboxQuery)]
pub(super) struct Query {
    #[schema(value_type = String)]
    payment_id: PaymentId,
    /// A refund of it, where that is the question.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    refund_id: Option<RefundId>,
    /// What was to go back.
    #[serde(default)]
    #[schema(value_type = Option<f64>)]
    amount: Option<Money>,
}

/// Says where a payment, or a refund of it, stands: SUCCESS with the fields of a call back, PENDING or UNKNOWN. The answer
/// is signed as calls back are.
#[utoipa::path(post, path = "/sandbox/channel/query", tag = "sandbox", request_body = Query,
    responses((status = 200, body = Object), (status = 401, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn query(State(sandbox): State<Sandbox>, request: Incoming) -> Result<(HeaderMap, String), Problem> {
    let (headers, body) = sandbox.body_of(request).await?;
    let channel_id = channel_of(&body);
    let query: Query = sandbox.read_channel(&channel_id, &headers, &body)?;
    if let Some(refund_id) = query.refund_id {
        let found = find_refund(&sandbox, refund_id).await.map_err(|error| reply::from_db(&error))?;
        // What it was asked for it has done.
        let status = if found.is_some_and(|call| call.attempts > 0) { "SUCCESS" } else { "UNKNOWN" };
        let answer = json!({"status": status, "refundId": refund_id, "amount": query.amount});
        return sign_answer(&sandbox, &channel_id, &answer, false);
    }
    let (now_ms, key) = (sandbox.clock.now_ms(), query.payment_id.to_string());
    let read = async { delivery::first_with_prefix(&mut *sandbox.db.read().await?, Kind::SandboxPayment, &key).await };
    let found = read.await.map_err(|error| reply::from_db(&error))?;
    let (mut answer, mut spoil) = (json!({"status": "UNKNOWN", "paymentId": key}), false);
    if let Some((next_at, attempts, call)) = found {
        let call: SandboxCall = serde_json::from_str(&call).map_err(|error| Problem::internal(&error))?;
        // A silent payment is made, and nobody says so; one that is delayed is made when its time has come.
        let made = attempts > 0 || next_at.is_none_or(|at| at <= now_ms || at >= SILENT_UNTIL);
        spoil = call.bad_signature;
        if made && let Value::Object(fields) = call.send {
            answer = Value::Object(fields);
        }
        answer["status"] = Value::from(if made { "SUCCESS" } else { "PENDING" });
    }
    sign_answer(&sandbox, &channel_id, &answer, spoil)
}

async fn find_refund(sandbox: &Sandbox, id: RefundId) -> Result<Option<delivery::State>, DbError> {
    let mut conn = sandbox.db.read().await?;
    delivery::find(&mut conn, Kind::ChannelRefund, &id.to_string()).await
}

/// An answer with its signature, which is a wrong one when it is to be spoilt.
fn sign_answer(
    sandbox: &Sandbox,
    channel_id: &str,
    answer: &Value,
    spoil: bool,
) -> Result<(HeaderMap, String), Problem> {
    let text = answer.to_string();
    let secret = sandbox.targets.channel_secret(channel_id).ok_or_else(|| Problem::not_found("no such channel"))?;
    let mut signed = sign::headers(secret, sandbox.clock.now_ms() / 1000, text.as_bytes());
    signed.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if spoil {
        signed.insert(SIGNATURE_HEADER, HeaderValue::from_static("00"));
    }
    Ok((signed, text))
}

/// Makes a silent payment call back now. Unsigned: whoever tries things out by hand calls it, and it can only do what
/// a signed request has asked for.
#[utoipa::path(post, path = "/sandbox/channel/payments/{paymentId}/callback", tag = "sandbox",
    params(("paymentId" = String, Path)),
    responses((status = 200, body = Accepted), (status = 404, body = Problem)))]
pub(super) async fn call_back(
    State(sandbox): State<Sandbox>,
    Path(payment_id): Path<String>,
) -> Result<Json<Accepted>, Problem> {
    let id: PaymentId = payment_id.parse().map_err(|_| Problem::not_found("that is no payment id"))?;
    let callbacks = sandbox.submit(Request::Release(id.0)).await?;
    if callbacks == 0 {
        return Err(Problem::not_found(format!("payment {id} has no silent call back")));
    }
    Ok(Json(Accepted { callbacks }))
}
