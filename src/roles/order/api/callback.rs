//! What the warehouse reports: each step becomes an event, exactly once however often it is reported.

use std::collections::HashSet;

use axum::Json;
use axum::extract::{Request, State as Extract};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::State;
use crate::db::group::Batch;
use crate::db::tx::Draft;
use crate::db::{Db, DbError, Tx, orders, outbox};
use crate::delivery::sign;
use crate::domain::event::{FulfilRefused, Fulfilment, Kind};
use crate::domain::id::{OrderId, UserId};
use crate::http::Problem;
use crate::roles::order::refusal;
use crate::roles::reply::{self, not_written};

/// A step of a parcel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub(super) enum ParcelStep {
    /// Taken over.
    #[serde(rename = "ORDER_FULFILL_SUCCESS")]
    Fulfill,
    /// Left the warehouse.
    #[serde(rename = "ORDER_OUT_STOCK")]
    OutStock,
    /// With the carrier.
    #[serde(rename = "ORDER_DELIVERY")]
    Delivery,
    /// Signed for.
    #[serde(rename = "ORDER_SIGNED")]
    Signed,
    /// It will not be sent: only before it was taken over.
    #[serde(rename = "ORDER_FULFILL_REFUSED", alias = "REFUSED")]
    Refused,
}

impl ParcelStep {
    fn kind(self) -> Kind {
        match self {
            Self::Fulfill => Kind::OrderFulfillSuccess,
            Self::OutStock => Kind::OrderOutStock,
            Self::Delivery => Kind::OrderDelivery,
            Self::Signed => Kind::OrderSigned,
            Self::Refused => Kind::OrderFulfillRefused,
        }
    }
}

/// What the warehouse reports.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// Order.
    #[schema(value_type = String)]
    order_id: OrderId,
    /// Which step.
    event: ParcelStep,
    /// When, epoch ms.
    occurred_at: i64,
    /// Carrier's name.
    #[serde(default)]
    carrier: Option<String>,
    /// Carrier's number.
    #[serde(default)]
    tracking_no: Option<String>,
    /// Of a refusal: why, for the user; of which 500 characters are kept.
    #[serde(default)]
    reason: String,
    /// W3C trace context of the request.
    #[serde(skip)]
    trace: Option<String>,
}

/// The answer to a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reported {
    /// It is an event, now or before.
    Yes,
    /// There is no such order.
    Unknown,
}

/// The answer to a report.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReportReply {
    /// Always true.
    accepted: bool,
}

/// Report a step of a parcel (the warehouse calls this).
///
/// Signed with `warehouse.secret`: `X-Ruyi-Timestamp` and `X-Ruyi-Signature`, hex HMAC-SHA256 of `<timestamp>.<body>`.
#[utoipa::path(post, path = "/fulfil/callback", tag = "order", request_body = Report,
    responses((status = 200, body = ReportReply), (status = 401, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn fulfil(Extract(state): Extract<State>, request: Request) -> Result<Json<ReportReply>, Problem> {
    let (settings, now_ms) = (&state.settings, state.db.clock().now_ms());
    let (headers, body) = reply::signed_body(request, now_ms, settings.tolerance_ms).await?;
    sign::verify(&settings.warehouse_secret, &headers, &body, now_ms, settings.tolerance_ms)
        .map_err(|error| Problem::unauthorized(error.to_string()))?;
    let mut report: Report = crate::http::parse_json(&body)?;
    report.trace = reply::trace(&headers);
    let order_id = report.order_id;
    match state.report.submit(report).await.map_err(|error| not_written(&error))? {
        Reported::Yes => Ok(Json(ReportReply { accepted: true })),
        Reported::Unknown => Err(Problem::not_found(format!("there is no order {order_id}"))),
    }
}

/// Writes the events of reports in one transaction.
pub(super) async fn write(db: Db, batch: Batch<Report>) -> Result<Vec<Reported>, DbError> {
    db.write("fulfil_callback", move |tx| {
        let batch = batch.clone();
        Box::pin(async move { write_all(tx, &batch.requests()).await })
    })
    .await
}

async fn write_all(tx: &mut Tx, reports: &[Report]) -> Result<Vec<Reported>, DbError> {
    let users = orders::users(tx, reports.iter().map(|report| report.order_id.0).collect()).await?;
    let ids = reports.iter().map(|report| report.event.kind().event_id(report.order_id)).collect();
    let mut written: HashSet<String> = outbox::existing(tx, ids).await?;
    let mut answers = Vec::with_capacity(reports.len());
    for report in reports {
        let Some(user_id) = users.get(&report.order_id.0) else {
            answers.push(Reported::Unknown);
            continue;
        };
        let kind = report.event.kind();
        let is_new = written.insert(kind.event_id(report.order_id));
        if is_new && report.event == ParcelStep::Refused {
            let (order_id, occurred_at) = (report.order_id, report.occurred_at);
            let body = FulfilRefused { order_id, occurred_at, reason: refusal::text(&report.reason) };
            tx.emit(&Draft::new(kind, order_id, &body, report.trace.as_deref()))?;
        } else if is_new {
            let body = Fulfilment {
                order_id: report.order_id,
                occurred_at: report.occurred_at,
                carrier: report.carrier.clone(),
                tracking_no: report.tracking_no.clone(),
                user_id: Some(UserId(*user_id)),
            };
            tx.emit(&Draft::new(kind, report.order_id.0, &body, report.trace.as_deref()))?;
        }
        answers.push(Reported::Yes);
    }
    Ok(answers)
}
