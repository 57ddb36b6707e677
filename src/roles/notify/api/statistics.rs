//! Statistics of payments by day.

use axum::Json;
use axum::extract::{Query, State as Extract};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::db::Db;
use crate::db::statistics::{self, Filter, Line};
use crate::domain::money::Money;
use crate::domain::statistics::parse_day;
use crate::http::Problem;
use crate::roles::reply::{self, from_db};

/// Lines of one page at most.
const PAGE: i64 = 1_000;

/// Which days, and of which payments.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DayQuery {
    /// First day, like 2026-01-31.
    from: String,
    /// Last day; by default the first.
    to: Option<String>,
    /// Only of this product of the gateway; empty: of the shop.
    product_id: Option<String>,
    /// Only of this channel.
    channel_id: Option<String>,
    /// Only of this tenant.
    tenant_id: Option<String>,
    /// Only what comes after this: the `next` of the page before.
    after: Option<String>,
    /// 1 to 1000.
    limit: Option<i64>,
}

/// The payments of a day, product, channel and tenant.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DayView {
    /// Day (`statistics.time_zone` of the payment role).
    date: String,
    /// Product of the gateway; empty: of the shop.
    product_id: String,
    /// Channel.
    channel_id: String,
    /// Tenant.
    tenant_id: String,
    /// Payments that were opened.
    submit_count: i64,
    /// Payments that got their money; what goes back later does not change it.
    success_count: i64,
    /// How much that was.
    #[schema(value_type = f64)]
    success_money: Money,
    /// What senders counted by beside this.
    #[serde(skip_serializing_if = "String::is_empty")]
    extra_arg: String,
}

/// A page of statistics.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DayPage {
    /// By day, product, channel and tenant.
    items: Vec<DayView>,
    /// Pass it as `after` to get the next page; null: that was all.
    next: Option<String>,
}

fn view(line: Line) -> DayView {
    DayView {
        date: line.date,
        product_id: line.product_id,
        channel_id: line.channel_id,
        tenant_id: line.tenant_id,
        submit_count: line.submit_count,
        success_count: line.success_count,
        success_money: Money::of_sum(line.success_money),
        extra_arg: line.extra_arg,
    }
}

/// Read how many payments were opened and paid, by day.
#[utoipa::path(get, path = "/statistics/day", tag = "notify", params(DayQuery),
    responses((status = 200, body = DayPage), (status = 400, body = Problem)))]
pub(super) async fn day(Extract(db): Extract<Db>, Query(query): Query<DayQuery>) -> Result<Json<DayPage>, Problem> {
    let day = |field: &'static str, text: &str| {
        let detail = format!("{field} must be a day like 2026-01-31");
        parse_day(text).ok_or_else(|| Problem::bad_request(&detail).field(field, detail))
    };
    let from = day("from", &query.from)?;
    let to = query.to.as_deref().map_or_else(|| Ok(from.clone()), |text| day("to", text))?;
    let limit = reply::limit(query.limit, PAGE)?;
    let after: Option<[String; 4]> = query.after.as_deref().map(serde_json::from_str).transpose().map_err(|_| {
        Problem::bad_request("after is not the next of a page").field("after", "not the next of a page")
    })?;
    let DayQuery { product_id, channel_id, tenant_id, .. } = query;
    let filter = Filter { from, to, product_id, channel_id, tenant_id };
    let mut conn = db.read().await.map_err(|error| from_db(&error))?;
    let lines = statistics::lines(&mut conn, &filter, after.as_ref(), limit).await.map_err(|error| from_db(&error))?;
    let place = |line: &Line| [&line.date, &line.product_id, &line.channel_id, &line.tenant_id].map(String::clone);
    let next = reply::next(&lines, limit, |line| serde_json::to_string(&place(line)).unwrap_or_default());
    Ok(Json(DayPage { items: lines.into_iter().map(view).collect(), next }))
}
