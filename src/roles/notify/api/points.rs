//! Points of users.

use axum::Json;
use axum::extract::{Path, Query, State as Extract};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::PAGE;
use crate::db::Db;
use crate::db::points::{self, Entry, Place, Spent};
use crate::domain::id::{OrderId, UserId};
use crate::domain::points::MOST;
use crate::http::{ApiJson, Problem};
use crate::roles::reply::{self, from_db};

/// A change of a balance.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RecordView {
    /// Order that earned it, or that it is for; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    order_id: Option<OrderId>,
    /// GRANT (an order was paid), REVERSE (its money went back), CORRECT (by an operator), GIFT (from outside) or SPEND.
    kind: &'static str,
    /// Points, negative where they were spent or taken back.
    points: i64,
    /// Why; absent for what orders made.
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    /// Epoch ms.
    created_at: i64,
}

impl From<Entry> for RecordView {
    fn from(entry: Entry) -> Self {
        Self {
            order_id: entry.order_id.map(OrderId),
            kind: entry.record.kind.name(),
            points: entry.record.points,
            reason: entry.reason,
            created_at: entry.created_at,
        }
    }
}

/// Points of a user.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PointsView {
    /// User.
    #[schema(value_type = String)]
    user_id: UserId,
    /// May be spent; never negative.
    balance: i64,
    /// Points that were spent before they were taken back: what is granted next pays these back first. The balance without
    /// them is the sum of all records.
    shortfall: i64,
    /// The newest 100.
    records: Vec<RecordView>,
}

/// Read the points of a user.
#[utoipa::path(get, path = "/points/{userId}", tag = "notify", params(("userId" = String, Path, description = "User id")),
    responses((status = 200, body = PointsView)))]
pub(super) async fn balance(Extract(db): Extract<Db>, Path(id): Path<String>) -> Result<Json<PointsView>, Problem> {
    let user_id: UserId = reply::path("userId", &id)?;
    let mut conn = db.read().await.map_err(|error| from_db(&error))?;
    let standing = points::standing(&mut conn, user_id.0).await.map_err(|error| from_db(&error))?;
    let records = points::history(&mut conn, user_id.0, Place::NEWEST, PAGE).await.map_err(|error| from_db(&error))?;
    let records = records.into_iter().map(RecordView::from).collect();
    Ok(Json(PointsView { user_id, balance: standing.balance, shortfall: standing.shortfall, records }))
}

/// Which records to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct HistoryQuery {
    /// Only older than this: the `next` of the page before.
    before: Option<String>,
    /// 1 to 100.
    limit: Option<i64>,
}

/// A page of records.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RecordPage {
    /// Newest first.
    items: Vec<RecordView>,
    /// Pass it as `before` to get the next page; null: that was all.
    next: Option<String>,
}

fn place(text: &str) -> Option<Place> {
    let mut parts = text.split('-').map(str::parse::<i64>);
    let mut next = || parts.next()?.ok();
    let place = Place { created_at: next()?, order_id: next()?, kind: next()? };
    parts.next().is_none().then_some(place)
}

/// List what came and went, newest first.
#[utoipa::path(get, path = "/points/{userId}/records", tag = "notify",
    params(("userId" = String, Path, description = "User id"), HistoryQuery),
    responses((status = 200, body = RecordPage), (status = 400, body = Problem)))]
pub(super) async fn records(
    Extract(db): Extract<Db>,
    Path(id): Path<String>,
    Query(query): Query<HistoryQuery>,
) -> Result<Json<RecordPage>, Problem> {
    let user_id: UserId = reply::path("userId", &id)?;
    let unknown = || Problem::bad_request("before is not the next of a page").field("before", "not the next of a page");
    let after = match &query.before {
        Some(text) => place(text).ok_or_else(unknown)?,
        None => Place::NEWEST,
    };
    let limit = reply::limit(query.limit, PAGE)?;
    let mut conn = db.read().await.map_err(|error| from_db(&error))?;
    let rows = points::history(&mut conn, user_id.0, after, limit).await.map_err(|error| from_db(&error))?;
    let next = reply::next(&rows, limit, |row| {
        let Place { created_at, order_id, kind } = row.place();
        format!("{created_at}-{order_id}-{kind}")
    });
    Ok(Json(RecordPage { items: rows.into_iter().map(RecordView::from).collect(), next }))
}

/// Points to spend.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SpendBody {
    /// How many, 1 to 1000000000.
    #[schema(example = 50)]
    points: i64,
    /// What for, at most 200 characters.
    #[serde(default)]
    reason: String,
}

/// Points that were spent.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SpentView {
    /// The record of it.
    record_id: String,
    /// Whose.
    #[schema(value_type = String)]
    user_id: UserId,
    /// How many.
    points: i64,
    /// What is left now.
    balance: i64,
}

/// Spend points of a user.
///
/// The `Idempotency-Key` header is required; a repeated request spends nothing more.
#[utoipa::path(post, path = "/points/{userId}/spend", tag = "notify", request_body = SpendBody,
    params(("userId" = String, Path, description = "User id"), ("Idempotency-Key" = String, Header, description = "1 to 128 characters")),
    responses((status = 201, body = SpentView), (status = 400, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn spend(
    Extract(db): Extract<Db>,
    Path(id): Path<String>,
    headers: HeaderMap,
    ApiJson(body): ApiJson<SpendBody>,
) -> Result<Response, Problem> {
    let user_id: UserId = reply::path("userId", &id)?;
    let key = reply::idempotency_key(&headers)?.ok_or_else(|| {
        let detail = "Idempotency-Key is required: it makes a repetition harmless";
        Problem::bad_request(detail).field("Idempotency-Key", detail)
    })?;
    let SpendBody { points, reason } = body;
    if !(1..=MOST).contains(&points) {
        let detail = format!("points must be 1 to {MOST}");
        return Err(Problem::invalid(&detail).field("points", detail));
    }
    if reason.chars().count() > 200 {
        return Err(Problem::invalid("reason has more than 200 characters").field("reason", "at most 200 characters"));
    }
    let written = db.write("points_spend", move |tx| {
        let (reason, key) = (reason.clone(), key.clone());
        Box::pin(async move { points::spend(tx, user_id.0, points, &reason, &key).await })
    });
    let spent =
        |record_id: i64, balance| Json(SpentView { record_id: record_id.to_string(), user_id, points, balance });
    match written.await.map_err(|error| from_db(&error))? {
        Spent::New { record_id, balance } => Ok((StatusCode::CREATED, spent(record_id, balance)).into_response()),
        Spent::Replayed { record_id, balance } => {
            Ok((StatusCode::CREATED, reply::REPLAYED, spent(record_id, balance)).into_response())
        }
        Spent::KeyReused => Err(Problem::invalid("this Idempotency-Key was used for another number of points")
            .field("Idempotency-Key", "belongs to another request")),
        Spent::TooFew { balance } => {
            let detail = format!("user {user_id} has {balance} points");
            Err(Problem::new(StatusCode::CONFLICT, "too-few-points", &detail).field("points", detail))
        }
    }
}
