//! HTTP of the notify role.

mod contacts;
mod merchants;
mod points;
mod statistics;

use axum::Json;
use axum::extract::{Query, State as Extract};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::config::Scope;
use crate::db::{Db, notification};
use crate::delivery::Targets;
use crate::domain::id::{OrderId, UserId};
use crate::http::{Auth, Problem, guarded, require};
use crate::roles::reply::{self, from_db};

/// Rows of one page at most.
const PAGE: i64 = 100;

/// The routes.
#[must_use]
pub fn router(db: Db, targets: &Targets, auth: &Auth) -> OpenApiRouter {
    let of_merchants = merchants::router(db.clone(), targets.clone(), auth);
    let read = OpenApiRouter::new()
        .routes(routes!(points::balance))
        .routes(routes!(points::records))
        .routes(routes!(notifications))
        .routes(routes!(statistics::day))
        .routes(routes!(contacts::get));
    let read = guarded(read, require(Scope::NotifyRead, auth));
    let write = OpenApiRouter::new().routes(routes!(points::spend)).routes(routes!(contacts::put));
    read.merge(guarded(write, require(Scope::NotifyWrite, auth))).with_state(db).merge(of_merchants)
}

/// Which messages to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListQuery {
    /// Whose.
    user_id: String,
    /// Only older than this: the `next` of the page before.
    before: Option<String>,
    /// 1 to 100.
    limit: Option<i64>,
}

/// A message to a user.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NotificationView {
    /// Message.
    id: String,
    /// About which order.
    #[schema(value_type = String)]
    order_id: OrderId,
    /// Name of the text.
    template: String,
    /// What the text is filled with.
    params: serde_json::Value,
    /// Epoch ms.
    created_at: i64,
}

/// A page of messages.
#[derive(Debug, Serialize, ToSchema)]
struct NotificationPage {
    /// Newest first.
    items: Vec<NotificationView>,
    /// Pass it as `before` to get the next page; null: that was all.
    next: Option<String>,
}

/// List the messages to a user, newest first.
#[utoipa::path(get, path = "/notifications", tag = "notify", params(ListQuery),
    responses((status = 200, body = NotificationPage), (status = 400, body = Problem)))]
async fn notifications(
    Extract(db): Extract<Db>,
    Query(query): Query<ListQuery>,
) -> Result<Json<NotificationPage>, Problem> {
    let user_id: UserId = reply::path("userId", &query.user_id)?;
    let before = reply::before(query.before.as_deref())?;
    let limit = reply::limit(query.limit, PAGE)?;
    let mut conn = db.read().await.map_err(|error| from_db(&error))?;
    let rows = notification::of_user(&mut conn, user_id.0, before, limit).await;
    let rows = rows.map_err(|error| from_db(&error))?;
    let next = reply::next(&rows, limit, |row| row.id.to_string());
    let items = rows
        .into_iter()
        .map(|row| NotificationView {
            id: row.id.to_string(),
            order_id: OrderId(row.order_id),
            template: row.template,
            params: serde_json::from_str(&row.params).unwrap_or_default(),
            created_at: row.created_at,
        })
        .collect();
    Ok(Json(NotificationPage { items, next }))
}
