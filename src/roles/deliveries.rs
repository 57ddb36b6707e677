//! Outgoing calls over HTTP, on the process of the role that makes them: list, look, make once more, take back.

use axum::extract::{Path, Query, State as Extract};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::reply::{self, from_db};
use crate::config::Scope;
use crate::db::delivery::log::{self, Filter, Logged};
use crate::db::delivery::{self, Kind, Status};
use crate::db::{Db, DbError};
use crate::delivery::{Effects, Providers, mask};
use crate::domain::event::Role;
use crate::domain::id::parse_id;
use crate::http::{ApiJson, Auth, Caller, Problem, guarded, require, require_any};

/// Calls of one page at most.
const PAGE: i64 = 100;

/// The databases of a process with the roles that share each, and what follows from calls taken back.
#[derive(Clone)]
pub struct State {
    /// Each database once.
    pub databases: Vec<(Db, Vec<Role>)>,
    /// See [`Effects`].
    pub effects: Effects,
    /// Where calls go now.
    pub providers: Providers,
}

/// The routes.
#[must_use]
pub fn router(state: State, auth: &Auth) -> OpenApiRouter {
    let roles = || state.databases.iter().flat_map(|(_, roles)| roles.iter().copied());
    let read = OpenApiRouter::new().routes(routes!(list)).routes(routes!(show));
    let read = guarded(read, require_any(roles().map(reading).collect(), auth));
    let write = OpenApiRouter::new().routes(routes!(resend)).routes(routes!(cancel));
    let to_write = require(Scope::DeliveryWrite, auth).since(roles().map(writing).collect());
    read.merge(guarded(write, to_write)).with_state(state)
}

fn reading(role: Role) -> Scope {
    match role {
        Role::Order => Scope::OrderRead,
        Role::Payment => Scope::PaymentRead,
        Role::Stock => Scope::StockRead,
        Role::Notify => Scope::NotifyRead,
    }
}

fn writing(role: Role) -> Scope {
    match role {
        Role::Order => Scope::OrderWrite,
        Role::Payment => Scope::PaymentWrite,
        Role::Stock => Scope::StockWrite,
        Role::Notify => Scope::NotifyWrite,
    }
}

/// Who may see calls of this kind: whoever may read their role.
fn may_see(caller: &Caller, kind: Kind) -> bool {
    caller.may(kind.role().map_or(Scope::Admin, reading))
}

/// Who may make them once more, or take them back.
fn may_change(caller: &Caller, kind: Kind) -> bool {
    caller.may_since(Scope::DeliveryWrite, kind.role().map_or(Scope::Admin, writing))
}

/// Which calls to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListQuery {
    /// merchant, warehouse, channel_submit, channel_refund, ...
    kind: Option<String>,
    /// pending, done, dead, refused, canceled or unsent.
    state: Option<String>,
    /// Host, or host:port.
    target: Option<String>,
    /// Recorded at or after this, epoch ms.
    since: Option<i64>,
    /// About this order.
    order_id: Option<String>,
    /// Only older than this: the `next` of the page before.
    before: Option<String>,
    /// 1 to 100.
    limit: Option<i64>,
}

/// An outgoing call.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct CallView {
    /// Call.
    id: String,
    /// What for.
    kind: &'static str,
    /// pending, done, dead, refused, canceled or unsent.
    state: &'static str,
    /// Idempotency key.
    reference: String,
    /// The order that it is about; 0: none.
    order_id: String,
    /// Host and port that it goes to now.
    target: String,
    /// Attempts made.
    attempts: i64,
    /// When it is made next, epoch ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_at: Option<i64>,
    /// Why the last attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    /// Epoch ms.
    created_at: i64,
}

impl CallView {
    fn of(call: Logged, providers: &Providers) -> Self {
        Self {
            id: call.id.to_string(),
            kind: call.kind.name(),
            state: call.status.name(),
            target: providers.target(call.kind, &call.url, &call.named).to_string(),
            order_id: call.order().to_string(),
            reference: call.reference,
            attempts: call.attempts,
            next_at: call.next_at,
            last_error: call.last_error,
            created_at: call.created_at,
        }
    }
}

/// A page of calls.
#[derive(Debug, Serialize, ToSchema)]
struct CallPage {
    /// Newest first.
    items: Vec<CallView>,
    /// Pass it as `before` to get the next page; null: that was all.
    next: Option<String>,
}

/// List outgoing calls, newest first.
#[utoipa::path(get, path = "/deliveries", tag = "deliveries", params(ListQuery),
    responses((status = 200, body = CallPage), (status = 400, body = Problem)))]
async fn list(
    Extract(state): Extract<State>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<ListQuery>,
) -> Result<Json<CallPage>, Problem> {
    let limit = reply::limit(query.limit, PAGE)?;
    let before = reply::before(query.before.as_deref())?;
    let named = named("kind", query.kind.as_deref(), Kind::from_name)?;
    let kinds = Kind::ALL.into_iter().filter(|kind| named.is_none_or(|named| named == *kind));
    let target = query.target.as_deref().map(str::to_ascii_lowercase);
    if target.as_deref().is_some_and(|target| target.contains(['%', '/', '?'])) {
        return Err(Problem::bad_request("target is a host, or host:port").field("target", "no host"));
    }
    let filter = Filter {
        kinds: Some(kinds.filter(|kind| may_see(&caller, *kind)).collect()),
        status: self::named("state", query.state.as_deref(), Status::from_name)?,
        elsewhere: target.as_deref().map(|target| state.providers.going_to(target)).unwrap_or_default(),
        target,
        since_ms: query.since,
        order_id: id("orderId", query.order_id.as_deref())?,
    };
    let mut calls = Vec::new();
    for (db, _) in &state.databases {
        let read = async { log::newest(&mut *db.read().await?, &filter, before, limit).await };
        calls.extend(read.await.map_err(|error| from_db(&error))?);
    }
    calls.sort_unstable_by_key(|call| std::cmp::Reverse(call.id));
    calls.truncate(usize::try_from(limit).unwrap_or(0));
    let next = reply::next(&calls, limit, |call| call.id.to_string());
    let items = calls.into_iter().map(|call| CallView::of(call, &state.providers)).collect();
    Ok(Json(CallPage { items, next }))
}

fn id(field: &'static str, text: Option<&str>) -> Result<Option<i64>, Problem> {
    let read = text.map(|text| parse_id(field, text)).transpose();
    read.map_err(|error| Problem::bad_request(error.to_string()).field(field, error.to_string()))
}

fn named<T>(field: &'static str, text: Option<&str>, of: fn(&str) -> Option<T>) -> Result<Option<T>, Problem> {
    let read = |text: &str| {
        of(text).ok_or_else(|| Problem::bad_request(format!("there is no {field} {text:?}")).field(field, "not known"))
    };
    text.map(read).transpose()
}

/// An attempt.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct AttemptView {
    /// Which, from 1.
    attempt: i64,
    /// When it began, epoch ms.
    started_at: i64,
    /// Host and port that it went to; missing where nothing was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    /// How long it took.
    duration_ms: i64,
    /// Status of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    http_status: Option<i64>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// What was sent, without secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<String>,
    /// What was answered, without secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<String>,
}

/// An outgoing call with its attempts.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct WholeView {
    #[serde(flatten)]
    call: CallView,
    /// Where it goes now, without secrets.
    url: String,
    /// What is sent, without secrets.
    body: String,
    /// Oldest first.
    tried: Vec<AttemptView>,
}

/// Read an outgoing call with its attempts.
#[utoipa::path(get, path = "/deliveries/{id}", tag = "deliveries", params(("id" = String, Path, description = "Call")),
    responses((status = 200, body = WholeView), (status = 404, body = Problem)))]
async fn show(
    Extract(state): Extract<State>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<Json<WholeView>, Problem> {
    let (db, call) = find(&state, &caller, &text, may_see).await?;
    let id = call.id;
    let read = async {
        let mut conn = db.read().await?;
        let body = delivery::by_ids(&mut conn, vec![id]).await?.pop().map(|call| call.body);
        Ok::<_, DbError>((body.unwrap_or_default(), log::attempts(&mut conn, id).await?))
    };
    let (body, tried) = read.await.map_err(|error| from_db(&error))?;
    let tried = tried.into_iter().map(|one| AttemptView {
        attempt: one.attempt,
        started_at: one.started_at,
        target: one.request.as_deref().and_then(mask::sent_to),
        duration_ms: one.duration_ms,
        http_status: one.http_status,
        error: one.error,
        request: one.request,
        answer: one.answer,
    });
    let (url, body) = (state.providers.shown(call.kind, &call.url, &body), mask::body(&body));
    let call = CallView::of(call, &state.providers);
    Ok(Json(WholeView { url, body, tried: tried.collect(), call }))
}

/// The call and its database; 404 where the caller may not see it.
async fn find<'s>(
    state: &'s State,
    caller: &Caller,
    text: &str,
    may: fn(&Caller, Kind) -> bool,
) -> Result<(&'s Db, Logged), Problem> {
    let wanted = id("id", Some(text))?.unwrap_or(0);
    for (db, _) in &state.databases {
        let read = async { log::of_ids(&mut *db.read().await?, vec![wanted]).await };
        let found = read.await.map_err(|error| from_db(&error))?.pop();
        if let Some(call) = found.filter(|call| may(caller, call.kind)) {
            return Ok((db, call));
        }
    }
    Err(Problem::not_found(format!("there is no call {text}, or another process makes it")))
}

/// Make a call once more, now, with the same Idempotency-Key.
#[utoipa::path(post, path = "/deliveries/{id}/resend", tag = "deliveries",
    params(("id" = String, Path, description = "Call")),
    responses((status = 200, body = CallView), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn resend(
    Extract(state): Extract<State>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<Json<CallView>, Problem> {
    let (db, call) = find(&state, &caller, &text, may_change).await?;
    tracing::info!(delivery_id = call.id, was = call.status.name(), by = &*caller.name, "call made once more by hand");
    if crate::delivery::resend(db, vec![call.id]).await.map_err(|error| from_db(&error))?.is_empty() {
        return Err(Problem::conflict("this refund has failed: ask for it anew"));
    }
    again(db, call.id, &state.providers).await
}

/// Why a call is taken back.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CancelBody {
    /// For the record.
    reason: Option<String>,
}

/// Take back a call that is still to be made.
#[utoipa::path(post, path = "/deliveries/{id}/cancel", tag = "deliveries", request_body = Option<CancelBody>,
    params(("id" = String, Path, description = "Call")),
    responses((status = 200, body = CallView), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn cancel(
    Extract(state): Extract<State>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    body: Option<ApiJson<CancelBody>>,
) -> Result<Json<CallView>, Problem> {
    let (db, call) = find(&state, &caller, &text, may_change).await?;
    let reason = body.and_then(|ApiJson(body)| body.reason);
    let why = format!("{} ({})", reason.as_deref().unwrap_or("by hand"), caller.name);
    let done = crate::delivery::cancel(db, vec![call.id], &why, state.effects.clone()).await;
    if done.map_err(|error| from_db(&error))?.is_empty() && call.status != Status::Canceled {
        let why = if call.kind.is_refund() { "a refund may be paid already" } else { call.status.name() };
        return Err(Problem::conflict(format!("the call is not taken back: {why}")));
    }
    tracing::info!(delivery_id = call.id, by = &*caller.name, "call taken back by hand");
    again(db, call.id, &state.providers).await
}

async fn again(db: &Db, id: i64, providers: &Providers) -> Result<Json<CallView>, Problem> {
    let read = async { log::of_ids(&mut *db.read().await?, vec![id]).await };
    let call = read.await.map_err(|error| from_db(&error))?.pop();
    call.map(|call| Json(CallView::of(call, providers))).ok_or_else(|| Problem::not_found("the call is gone"))
}
