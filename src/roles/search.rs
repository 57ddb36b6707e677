//! `GET /orders?q=`: orders as ORDER_DATA_SYNC told of them, searched. The notify role has the view; a process that has
//! the order role as well answers with the view what asks for one, and everything else with the orders themselves.

use axum::Json;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::config::Scope;
use crate::db::Db;
use crate::db::order_view::{self, Found, Search};
use crate::domain::event::OrderDataSync;
use crate::domain::id::UserId;
use crate::domain::order::{Outcome, Status};
use crate::http::{Auth, Problem, guarded, require};
use crate::roles::reply::{self, from_db};

/// Orders of one page at most.
const PAGE: i64 = 100;
/// The longest text to search for, in characters.
const TEXT: usize = 200;

/// Where the view is, and whether it is kept up to date.
#[derive(Clone)]
pub struct View {
    /// The notify role's database.
    pub db: Db,
    /// `order.data_sync`.
    pub fed: bool,
}

/// What to search for.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SearchQuery {
    /// An order id or number, a SKU, or how the remark begins; case does not matter.
    pub q: Option<String>,
    /// Only in this state.
    pub status: Option<String>,
    /// Only of this user.
    pub user_id: Option<String>,
    /// Only accepted at or after this, epoch ms.
    pub from: Option<i64>,
    /// Only accepted before this, epoch ms.
    pub to: Option<i64>,
    /// Only older than this order: the `next` of the page before.
    pub before: Option<String>,
    /// 1 to 100.
    pub limit: Option<i64>,
}

/// An order as the search shows it: a moment old, and without its lines.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FoundOrder {
    /// Order.
    pub order_id: String,
    /// Its number for people.
    pub order_no: String,
    /// Who ordered.
    pub user_id: String,
    /// CREATED, RESERVED, PAID, FULFILL, OUT_STOCK, DELIVERY, SIGNED or CANCELED.
    #[schema(value_type = String)]
    pub status: Status,
    /// How it ended: OPEN, SIGNED, CANCELED or REFUNDED.
    #[schema(value_type = String)]
    pub outcome: Outcome,
    /// Grows with each change.
    pub version: i64,
    /// What is to be paid.
    #[schema(value_type = f64)]
    pub total_amount: crate::domain::money::Money,
    /// ISO 4217.
    pub currency: String,
    /// Free text of the user.
    pub remark: String,
    /// Who sells.
    pub merchant_id: String,
    /// Channel that is to take the money.
    pub channel_id: String,
    /// Why it was canceled; empty: it was not.
    pub cancel_reason: String,
    /// Epoch ms.
    pub created_at: i64,
    /// Epoch ms.
    pub updated_at: i64,
}

impl From<OrderDataSync> for FoundOrder {
    fn from(told: OrderDataSync) -> Self {
        Self {
            order_id: told.order_id.to_string(),
            order_no: told.order_no,
            user_id: told.user_id.to_string(),
            status: told.status,
            outcome: told.outcome,
            version: told.version,
            total_amount: told.total_amount,
            currency: told.currency,
            remark: told.remark,
            merchant_id: told.merchant_id.to_string(),
            channel_id: told.channel_id,
            cancel_reason: told.cancel_reason,
            created_at: told.created_at,
            updated_at: told.updated_at,
        }
    }
}

/// A page of orders that were found.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FoundPage {
    /// Newest first.
    pub items: Vec<FoundOrder>,
    /// Pass it as `before` to get the next page; null: that was all.
    pub next: Option<String>,
}

/// Reads the name of a state.
///
/// # Errors
/// A 400 problem.
pub fn status(name: Option<&str>) -> Result<Option<Status>, Problem> {
    let find = |name: &str| {
        let found = Status::ALL.into_iter().find(|status| status.name() == name);
        found.ok_or_else(|| Problem::bad_request(format!("there is no status {name}")).field("status", "unknown"))
    };
    name.map(find).transpose()
}

/// Searches the view.
///
/// # Errors
/// A problem: of the query, or of the database.
pub async fn search(view: &View, query: &SearchQuery) -> Result<FoundPage, Problem> {
    if !view.fed {
        return Err(Problem::conflict("order.data_sync is off: nothing feeds the search"));
    }
    let text = query.q.as_deref().map(str::trim).filter(|text| !text.is_empty());
    if text.is_some_and(|text| text.chars().count() > TEXT) {
        let detail = format!("q has more than {TEXT} characters");
        return Err(Problem::bad_request(&detail).field("q", detail));
    }
    let limit = reply::limit(query.limit, PAGE)?;
    let user_id = query.user_id.as_deref().map(|id| reply::path::<UserId>("userId", id)).transpose()?;
    let wanted = Search {
        text: text.map(str::to_owned),
        user_id: user_id.map(|id| id.0),
        status: status(query.status.as_deref())?,
        from_ms: query.from,
        to_ms: query.to,
        before_id: reply::before(query.before.as_deref())?,
        limit,
    };
    let mut conn = view.db.read().await.map_err(|error| from_db(&error))?;
    match order_view::search(&mut conn, &wanted).await.map_err(|error| from_db(&error))? {
        Found::Orders(rows) => {
            let next = reply::next(&rows, limit, |row| row.order_id.to_string());
            Ok(FoundPage { items: rows.into_iter().map(FoundOrder::from).collect(), next })
        }
        Found::TooMany => {
            let detail = format!("more than {} remarks begin with this: say more of it", order_view::MOST);
            Err(Problem::invalid(&detail).field("q", detail))
        }
    }
}

/// The routes of a process that has the view, and not the order role.
#[must_use]
pub fn router(view: View, auth: &Auth) -> OpenApiRouter {
    let routes = OpenApiRouter::new().routes(routes!(find));
    guarded(routes, require(Scope::OrderRead, auth)).with_state(view)
}

/// Search orders, newest first.
#[utoipa::path(get, path = "/orders", tag = "notify", params(SearchQuery),
    responses((status = 200, body = FoundPage), (status = 400, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn find(State(view): State<View>, Query(query): Query<SearchQuery>) -> Result<Json<FoundPage>, Problem> {
    search(&view, &query).await.map(Json)
}
