//! HTTP that every role has: what was sent, handled and parked in the databases of the process, and another try for
//! what is parked or was given up.
//!
//! Pages are newest first. `next` goes on from there at any depth; page numbers reach over the newest rows only, since a
//! database has to pass over all that comes before. A filter without an index looks through so many rows at once.

mod pages;
mod views;

use std::sync::Arc;

use axum::extract::{Path, Query, State as Extract};
use axum::{Extension, Json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::pages::{Page, Window, by_id, merge};
use self::views::{ConsumeQuery, ConsumeRecord, RetryQuery, RetryRecord, SendQuery, SendRecord, one_of};
use crate::config::Scope;
use crate::db::inbox::{self, log as handled};
use crate::db::outbox::{self, log as sent};
use crate::db::retry::log::Again;
use crate::db::retry::{self, log as parked};
use crate::db::{Db, DbError, look};
use crate::domain::event::Group;
use crate::domain::id::parse_id;
use crate::http::{Auth, Caller, Problem, guarded, require};
use crate::roles::reply::from_db;

/// Rows that one request looks through at most, of each table and group, where no index leads to those it wants.
const LOOK: i64 = 20_000;

/// The databases of the process, each once.
type Databases = Arc<[Db]>;

/// The routes, on the databases of a process.
#[must_use]
pub fn router(databases: Vec<Db>, auth: &Auth) -> OpenApiRouter {
    let read = OpenApiRouter::new()
        .routes(routes!(send_records))
        .routes(routes!(consume_records))
        .routes(routes!(retry_records));
    let read = guarded(read, require(Scope::MessageRead, auth));
    let write = OpenApiRouter::new().routes(routes!(try_again));
    read.merge(guarded(write, require(Scope::MessageWrite, auth))).with_state(databases.into())
}

/// List what was written to be sent: the send log.
///
/// Newest first. A page may have fewer rows than asked for and still a `next`: one request with a filter looks through
/// 20,000 rows at most.
#[utoipa::path(get, path = "/message/send-records", tag = "message", params(SendQuery),
    responses((status = 200, body = Page<SendRecord>), (status = 400, body = Problem)))]
async fn send_records(
    Extract(databases): Extract<Databases>,
    Query(query): Query<SendQuery>,
) -> Result<Json<Page<SendRecord>>, Problem> {
    let window = Window::of(&query.ask())?;
    let status =
        one_of("status", query.status.as_deref(), outbox::Status::from_name, "PENDING, SENT, FAILED, CANCELED")?;
    let before = window.before_id()?;
    let wanted = sent::Filter { status, topic: query.topic, key: query.key, ..sent::Filter::default() };
    let filtered = wanted.status.is_some() || wanted.topic.is_some();
    let mut sources = Vec::new();
    for db in databases.iter() {
        let mut conn = db.read().await.map_err(|error| from_db(&error))?;
        let from_id = if filtered && wanted.key.is_none() {
            look::floor(&mut conn, "message_record", before, LOOK).await.map_err(|error| from_db(&error))?
        } else {
            None
        };
        let filter = sent::Filter { from_id, ..wanted.clone() };
        let rows = sent::newest(&mut conn, &filter, before, window.rows()).await.map_err(|error| from_db(&error))?;
        sources.push((rows, from_id.map(by_id)));
    }
    Ok(Json(merge(&window, sources, |row| by_id(row.id)).map(SendRecord::of)))
}

/// List what consumer groups have handled: the inbox.
///
/// In descending order of the message id, which begins with that of the order (or other thing) it is about: the newest
/// orders come first. A page may have fewer rows than asked for and still a `next`: one request with a filter looks
/// through 20,000 rows of each group at most.
#[utoipa::path(get, path = "/message/consume-records", tag = "message", params(ConsumeQuery),
    responses((status = 200, body = Page<ConsumeRecord>), (status = 400, body = Problem)))]
async fn consume_records(
    Extract(databases): Extract<Databases>,
    Query(query): Query<ConsumeQuery>,
) -> Result<Json<Page<ConsumeRecord>>, Problem> {
    let window = Window::of(&query.ask())?;
    let outcome = one_of("status", query.status.as_deref(), inbox::Outcome::from_name, "DONE, IGNORED, PARKED, DEAD")?;
    let group = views::group(query.consumer_group.as_deref())?;
    let before = window.before_message()?;
    let filtered = outcome.is_some() || query.topic.is_some();
    let mut sources = Vec::new();
    for db in databases.iter() {
        let mut conn = db.read().await.map_err(|error| from_db(&error))?;
        for one in Group::ALL.into_iter().filter(|one| group.is_none_or(|group| group == *one)) {
            let mut filter = handled::Filter {
                before: before.as_ref().map(|(id, _)| id.clone()),
                // Of the message that the page before ended with, the groups that come after the one named there.
                and_this: before.as_ref().is_some_and(|(_, last)| one.name() > last.as_str()),
                from: None,
                topic: query.topic.clone(),
                outcome,
                key: query.key.clone(),
            };
            if filtered && query.key.is_none() {
                filter.from =
                    handled::floor(&mut conn, one.name(), &filter, LOOK).await.map_err(|error| from_db(&error))?;
            }
            let rows = handled::last(&mut conn, one.name(), &filter, window.rows()).await;
            let rows = rows.map_err(|error| from_db(&error))?;
            let floor = filter.from.map(|id| pages::by_message(&id, one.name()));
            sources.push((rows.into_iter().map(|row| (one.name(), row)).collect(), floor));
        }
    }
    let page = merge(&window, sources, |(group, row)| pages::by_message(&row.message_id, group));
    Ok(Json(page.map(|(group, row)| ConsumeRecord::of(group, row))))
}

/// List the messages that wait for another try, and those that did.
///
/// Newest first.
#[utoipa::path(get, path = "/message/retry-records", tag = "message", params(RetryQuery),
    responses((status = 200, body = Page<RetryRecord>), (status = 400, body = Problem)))]
async fn retry_records(
    Extract(databases): Extract<Databases>,
    Query(query): Query<RetryQuery>,
) -> Result<Json<Page<RetryRecord>>, Problem> {
    let window = Window::of(&query.ask())?;
    let status = one_of("status", query.status.as_deref(), retry::Status::from_name, "WAITING, DONE, DEAD")?;
    let group = views::group(query.consumer_group.as_deref())?.map(|group| group.name().to_owned());
    let before = window.before_id()?;
    let wanted = parked::Filter { from_id: None, topic: query.topic, group, status, key: query.key };
    let filtered = wanted != parked::Filter::default();
    let mut sources = Vec::new();
    for db in databases.iter() {
        let mut conn = db.read().await.map_err(|error| from_db(&error))?;
        let from_id = if filtered {
            look::floor(&mut conn, "message_retry_log", before, LOOK).await.map_err(|error| from_db(&error))?
        } else {
            None
        };
        let filter = parked::Filter { from_id, ..wanted.clone() };
        let rows = parked::newest(&mut conn, &filter, before, window.rows()).await.map_err(|error| from_db(&error))?;
        sources.push((rows, from_id.map(by_id)));
    }
    let now_ms = databases.first().map_or(0, |db| db.clock().now_ms());
    Ok(Json(merge(&window, sources, |row| by_id(row.id)).map(|row| RetryRecord::of(row, now_ms))))
}

/// Have a parked message tried now, or one that was given up.
///
/// A retry lane of any process on this database takes it at once, or within five seconds. What was given up is handled as
/// something new; its dead letter stays where it is, and a replay of that is a duplicate then.
#[utoipa::path(post, path = "/message/retry/{retryId}", tag = "message",
    params(("retryId" = String, Path, description = "retryId of a retry record")),
    responses((status = 200, body = RetryRecord), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn try_again(
    Extract(databases): Extract<Databases>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<Json<RetryRecord>, Problem> {
    let unknown = || Problem::not_found(format!("there is no parked message {}", shortened(&text)));
    let id = parse_id("retryId", &text).map_err(|_| unknown())?;
    for db in databases.iter() {
        // Ids of different databases differ.
        match again(db, id).await.map_err(|error| from_db(&error))? {
            Again::Unknown => {}
            Again::Due(row) => {
                tracing::info!(
                    retry_id = id,
                    group = row.group,
                    event_id = row.message_id,
                    caller = &*caller.name,
                    "a parked message is to be tried now"
                );
                return Ok(Json(RetryRecord::of(*row, db.clock().now_ms())));
            }
            Again::Running => return Err(Problem::conflict("it is being tried right now")),
            Again::Done => return Err(Problem::conflict("it has been handled")),
            Again::Elsewhere => {
                return Err(Problem::conflict("it was given up, and taken up again since by way of its dead letter"));
            }
            Again::Behind(first) => {
                let text = format!("it waits for an earlier message of the same key: try {first} first");
                return Err(Problem::conflict(text));
            }
        }
    }
    Err(unknown())
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

async fn again(db: &Db, id: i64) -> Result<Again, DbError> {
    db.write("retry_again", move |tx| Box::pin(async move { parked::again(tx, id).await })).await
}
