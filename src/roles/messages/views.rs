//! What is asked, and what is shown.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::pages::Ask;
use crate::db::inbox::log::Handled;
use crate::db::outbox::{HELD, log as sent};
use crate::db::retry::{Status, log as parked};
use crate::domain::event::Group;
use crate::http::Problem;

/// A query of one of the three lists: its own fields, and those that say which page.
macro_rules! query {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Deserialize, IntoParams)]
        #[into_params(parameter_in = Query)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        pub(super) struct $name {
            /// Page, from 1. It reaches over the newest 10,000 rows; `before` goes on at any depth.
            page: Option<i64>,
            /// Rows of a page, 1 to 200; 20 where it is not given.
            size: Option<i64>,
            /// Only what comes after this: the `next` of the page before.
            before: Option<String>,
            $($(#[$field_doc])* pub $field: Option<String>,)*
        }

        impl $name {
            /// Which page.
            pub fn ask(&self) -> Ask {
                Ask { page: self.page, size: self.size, before: self.before.clone() }
            }
        }
    };
}

query! {
    /// Which rows of the send log.
    SendQuery {
        /// Only this topic: the name of an event, or `%DLQ%<group>`.
        topic,
        /// PENDING, SENT, FAILED (given up) or CANCELED.
        status,
        /// Only this business key: an order, a SKU.
        key,
    }
}

query! {
    /// Which rows of the inbox.
    ConsumeQuery {
        /// Only this consumer group.
        consumer_group,
        /// Only this topic.
        topic,
        /// DONE, IGNORED (nothing to do), PARKED (to be tried again) or DEAD (given up).
        status,
        /// Only this business key.
        key,
    }
}

query! {
    /// Which parked messages.
    RetryQuery {
        /// Only this consumer group.
        consumer_group,
        /// Only this topic.
        topic,
        /// WAITING, DONE or DEAD (given up).
        status,
        /// Only this business key.
        key,
    }
}

/// One of a closed set of words, in either case.
pub(super) fn one_of<T>(
    field: &str,
    text: Option<&str>,
    read: impl Fn(&str) -> Option<T>,
    words: &str,
) -> Result<Option<T>, Problem> {
    let Some(text) = text else { return Ok(None) };
    match read(&text.to_ascii_lowercase()) {
        Some(value) => Ok(Some(value)),
        None => Err(Problem::bad_request(format!("{field} is one of {words}")).field(field, format!("one of {words}"))),
    }
}

/// A consumer group by its name.
pub(super) fn group(text: Option<&str>) -> Result<Option<Group>, Problem> {
    one_of("consumerGroup", text, Group::from_name, &Group::ALL.map(Group::name).join(", "))
}

/// A row of the send log, without its body.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SendRecord {
    /// Row.
    id: String,
    /// Id of the event.
    event_id: String,
    /// Name of the event, or `%DLQ%<group>`.
    topic: String,
    /// Business key.
    key: String,
    /// PENDING, SENT, FAILED (given up) or CANCELED.
    status: String,
    /// Sends that failed.
    attempts: i64,
    /// When it is sent, or tried next, epoch ms; null where it is not, or as soon as a broker is there.
    next_at: Option<i64>,
    /// It waits for a broker: it was handed to the handlers of a process without one.
    held: bool,
    /// Why it was not sent.
    last_error: Option<String>,
    /// Epoch ms.
    created_at: i64,
    /// Epoch ms.
    sent_at: Option<i64>,
    /// Until when the broker keeps it back, epoch ms.
    deliver_at: Option<i64>,
}

impl SendRecord {
    pub fn of(row: sent::Logged) -> Self {
        Self {
            id: row.id.to_string(),
            event_id: row.event_id,
            topic: row.topic,
            key: row.key,
            status: row.status.name().to_ascii_uppercase(),
            attempts: row.attempts,
            next_at: row.next_at.filter(|at| *at != HELD),
            held: row.next_at == Some(HELD),
            last_error: row.last_error,
            created_at: row.created_at,
            sent_at: row.sent_at,
            deliver_at: row.timer_at,
        }
    }
}

/// A message that a consumer group has handled.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConsumeRecord {
    /// Which group.
    consumer_group: String,
    /// Id of the event.
    message_id: String,
    /// Topic.
    topic: String,
    /// Business key.
    key: String,
    /// DONE, IGNORED (nothing to do), PARKED (to be tried again) or DEAD (given up).
    status: String,
    /// Why it changed nothing, or was given up.
    reason: Option<String>,
    /// Epoch ms.
    consumed_at: i64,
}

impl ConsumeRecord {
    pub fn of(group: &str, row: Handled) -> Self {
        Self {
            consumer_group: group.to_owned(),
            message_id: row.message_id,
            topic: row.topic,
            key: row.key,
            status: row.outcome.name().to_ascii_uppercase(),
            reason: row.reason,
            consumed_at: row.consumed_at,
        }
    }
}

/// A message that waits for another try, or did.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RetryRecord {
    /// Row: what POST /message/retry/{retryId} takes.
    retry_id: String,
    /// Who is to handle it.
    consumer_group: String,
    /// Id of the event.
    message_id: String,
    /// Topic.
    topic: String,
    /// Business key.
    key: String,
    /// WAITING, DONE or DEAD (given up).
    status: String,
    /// Attempts that failed.
    attempts: i64,
    /// When it is tried next, epoch ms; null: never, or not before an earlier message of its key is through.
    next_at: Option<i64>,
    /// It is being tried.
    running: bool,
    /// When it failed first, epoch ms.
    first_failed_at: i64,
    /// Why.
    last_error: String,
    /// Epoch ms.
    updated_at: i64,
}

impl RetryRecord {
    pub fn of(row: parked::Logged, now_ms: i64) -> Self {
        Self {
            retry_id: row.id.to_string(),
            consumer_group: row.group,
            message_id: row.message_id,
            topic: row.topic,
            key: row.key,
            status: row.status.name().to_ascii_uppercase(),
            attempts: row.attempts,
            next_at: row.next_at,
            running: row.status == Status::Waiting && row.leased_until.is_some_and(|until| until > now_ms),
            first_failed_at: row.first_failed_at,
            last_error: row.last_error,
            updated_at: row.updated_at,
        }
    }
}
