//! What the audit reads of messages: outbox, inbox, what is stuck and what was given up.

use std::collections::{HashMap, HashSet};

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::{ints, texts};
use crate::db::DbError;
use crate::db::outbox;
use crate::db::sql::{self, Columns, Val};
use crate::vals;

/// Outbox events by key: (key, event id, created_at).
///
/// # Errors
/// The database's.
pub async fn events_of_keys(conn: &mut AnyConnection, keys: &[String]) -> Result<Vec<(String, String, i64)>, DbError> {
    let before = "SELECT msg_key, event_id, created_at FROM message_record WHERE msg_key";
    let rows = sql::select_in(conn, before, "", &[], texts(keys)).await?;
    rows.iter().map(|row| Ok((row.text(0)?, row.text(1)?, row.int(2)?))).collect()
}

/// When these events were written to the outbox.
///
/// # Errors
/// The database's.
pub async fn event_times(conn: &mut AnyConnection, event_ids: &[String]) -> Result<HashMap<String, i64>, DbError> {
    let before = "SELECT event_id, created_at FROM message_record WHERE event_id";
    let rows = sql::select_in(conn, before, "", &[], texts(event_ids)).await?;
    rows.iter().map(|row| Ok((row.text(0)?, row.int(1)?))).collect()
}

/// A sent outbox row.
#[derive(Clone, Debug)]
pub struct SentFact {
    /// Row.
    pub id: i64,
    /// Event id.
    pub event_id: String,
    /// Topic.
    pub topic: String,
    /// Business key.
    pub key: String,
    /// Epoch ms.
    pub sent_at: i64,
    /// When consumers could have it: later than `sent_at` where the broker's timer holds it.
    pub due_at: i64,
}

/// The next `limit` outbox rows that were sent, after row `after`.
///
/// # Errors
/// The database's.
pub async fn sent(conn: &mut AnyConnection, after: i64, limit: i64) -> Result<Vec<SentFact>, DbError> {
    let text = "SELECT id, event_id, topic, msg_key, COALESCE(sent_at, 0), \
                CASE WHEN properties LIKE ? THEN properties ELSE NULL END FROM message_record \
                WHERE id > ? AND status = 1 ORDER BY id LIMIT ?";
    let fact = |row: &AnyRow| {
        let sent_at = row.int(4)?;
        let timer = row.maybe_text(5)?.and_then(|properties| outbox::timer_of(&properties));
        Ok(SentFact {
            id: row.int(0)?,
            event_id: row.text(1)?,
            topic: row.text(2)?,
            key: row.text(3)?,
            sent_at,
            due_at: timer.map_or(sent_at, |at| at.max(sent_at)),
        })
    };
    let timed = format!("%\"{}\"%", outbox::TIMER_PROPERTY);
    sql::fetch(conn, text, vals![timed, after, limit]).await?.iter().map(fact).collect()
}

/// Outcomes of messages in a group, by message id.
///
/// # Errors
/// The database's.
pub async fn outcomes(
    conn: &mut AnyConnection,
    group: &str,
    event_ids: &[String],
) -> Result<HashMap<String, i64>, DbError> {
    let before = "SELECT message_id, outcome FROM message_process_log WHERE consumer_group = ? AND message_id";
    let rows = sql::select_in(conn, before, "", &[Val::from(group)], texts(event_ids)).await?;
    rows.iter().map(|row| Ok((row.text(0)?, row.int(1)?))).collect()
}

/// What these groups made of the events of orders: (order, group, topic, `inbox::Outcome` as stored).
///
/// # Errors
/// The database's.
pub async fn handled_of_orders(
    conn: &mut AnyConnection,
    groups: [&str; 3],
    ids: &[i64],
) -> Result<Vec<(i64, String, String, i64)>, DbError> {
    let before = "SELECT msg_key, consumer_group, topic, outcome FROM message_process_log \
                  WHERE consumer_group IN (?, ?, ?) AND msg_key";
    let keys: Vec<String> = ids.iter().map(i64::to_string).collect();
    let rows = sql::select_in(conn, before, "", &groups.map(Val::from), texts(&keys)).await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        if let Ok(order_id) = row.text(0)?.parse() {
            found.push((order_id, row.text(1)?, row.text(2)?, row.int(3)?));
        }
    }
    Ok(found)
}

/// Messages of a group that are, or were, parked.
///
/// # Errors
/// The database's.
pub async fn parked(conn: &mut AnyConnection, group: &str, event_ids: &[String]) -> Result<HashSet<String>, DbError> {
    let before = "SELECT message_id FROM message_retry_log WHERE consumer_group = ? AND message_id";
    let rows = sql::select_in(conn, before, "", &[Val::from(group)], texts(event_ids)).await?;
    rows.iter().map(|row| row.text(0)).collect()
}

/// Which of these events a user was told about.
///
/// # Errors
/// The database's.
pub async fn told(conn: &mut AnyConnection, event_ids: &[String]) -> Result<HashSet<String>, DbError> {
    let rows =
        sql::select_in(conn, "SELECT event_id FROM notification WHERE event_id", "", &[], texts(event_ids)).await?;
    rows.iter().map(|row| row.text(0)).collect()
}

/// Which of these keys have a row on this topic in the outbox.
///
/// # Errors
/// The database's.
pub async fn keys_on_topic(conn: &mut AnyConnection, topic: &str, keys: &[String]) -> Result<HashSet<String>, DbError> {
    let before = "SELECT DISTINCT msg_key FROM message_record WHERE topic = ? AND msg_key";
    let rows = sql::select_in(conn, before, "", &[Val::from(topic)], texts(keys)).await?;
    rows.iter().map(|row| row.text(0)).collect()
}

/// What does not move although it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stuck {
    /// Outbox rows past their time.
    Outbox,
    /// Outbox rows that wait for nothing.
    OutboxLost,
    /// Parked messages past their time.
    Parked,
    /// Parked messages behind nothing.
    ParkedLost,
    /// Outgoing calls past their time.
    Deliveries,
    /// Orders past their time to pay.
    Orders,
    /// Outbox rows that were given up.
    OutboxFailed,
    /// Calls to the warehouse that were given up or refused, of orders that wait for them.
    Warehouse,
    /// Refunds that were refused.
    Refunds,
    /// Refunds of which nobody knows whether their money went back.
    RefundsInDoubt,
    /// Orders that wait to be paid for ever.
    OrdersTimeless,
}

impl Stuck {
    /// All of it.
    pub const ALL: [Self; 11] = [
        Self::Outbox,
        Self::OutboxLost,
        Self::Parked,
        Self::ParkedLost,
        Self::Deliveries,
        Self::Orders,
        Self::OutboxFailed,
        Self::Warehouse,
        Self::Refunds,
        Self::RefundsInDoubt,
        Self::OrdersTimeless,
    ];

    /// What an operator is told.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Outbox => "an outbox row is past its time to be sent",
            Self::OutboxLost => "an outbox row waits without a time to be sent",
            Self::Parked => "a parked message is past its time to be tried",
            Self::ParkedLost => "a parked message waits behind nothing",
            Self::Deliveries => "an outgoing call is past its time to be made",
            Self::Orders => "an order is past its time to pay",
            Self::OutboxFailed => "an outbox row was given up",
            Self::Warehouse => "the call that hands an order to the warehouse was given up or refused",
            Self::Refunds => "a refund was given up",
            Self::RefundsInDoubt => "the money of a refund is in doubt: the channel may have given it back",
            Self::OrdersTimeless => "an order waits to be paid without an end",
        }
    }

    fn sql(self) -> (&'static str, &'static str) {
        match self {
            Self::Outbox => ("event_id, next_at", "FROM message_record WHERE next_at <= ?"),
            Self::OutboxLost => {
                ("event_id, created_at", "FROM message_record WHERE status = 0 AND next_at IS NULL AND created_at <= ?")
            }
            Self::Parked => ("message_id, next_at", "FROM message_retry_log WHERE next_at <= ?"),
            Self::ParkedLost => (
                "message_id, updated_at",
                "FROM message_retry_log w WHERE status = 0 AND next_at IS NULL AND updated_at <= ? AND NOT EXISTS \
                 (SELECT 1 FROM message_retry_log a WHERE a.consumer_group = w.consumer_group \
                 AND a.open_key = w.open_key AND a.next_at IS NOT NULL)",
            ),
            // An alert (kind 6) moves nothing of the business.
            Self::Deliveries => ("ref, next_at", "FROM delivery WHERE next_at <= ? AND kind <> 6"),
            // While its payment is asked it is looked at later, and its time is over all the same.
            Self::Orders => (
                "order_no, expire_time",
                "FROM orders WHERE due_at IS NOT NULL AND (CASE WHEN due_at > expire_time AND EXISTS \
                 (SELECT 1 FROM message_record m WHERE m.msg_key = CAST(orders.id AS CHAR) \
                 AND m.topic = 'PAYMENT_CLOSE_REQUESTED') THEN expire_time ELSE due_at END) <= ?",
            ),
            Self::OutboxFailed => ("event_id, created_at", "FROM message_record WHERE status = 2 AND created_at <= ?"),
            Self::Warehouse => (
                "ref, updated_at",
                "FROM delivery WHERE kind = 3 AND status IN (2, 3) AND updated_at <= ? AND EXISTS \
                 (SELECT 1 FROM orders o WHERE o.id = delivery.order_id AND o.status = 20)",
            ),
            // A part of a live order's money (kind 2) may be asked for again; that of a canceled one has to go back.
            Self::Refunds => (
                "refund_key, updated_at",
                "FROM refund_record WHERE status = 2 AND updated_at <= ? AND (kind <> 2 OR EXISTS \
                 (SELECT 1 FROM payment_record p WHERE p.id = refund_record.payment_id AND p.status = 3))",
            ),
            Self::RefundsInDoubt => ("refund_key, doubt_at", "FROM refund_record WHERE status = 0 AND doubt_at <= ?"),
            Self::OrdersTimeless => {
                ("order_no, updated_at", "FROM orders WHERE status IN (0, 10) AND due_at IS NULL AND updated_at <= ?")
            }
        }
    }
}

/// A row that is stuck.
#[derive(Clone, Debug)]
pub struct StuckRow {
    /// Row.
    pub id: i64,
    /// Its name for people.
    pub name: String,
    /// Since when, epoch ms.
    pub since: i64,
}

/// Rows that have been stuck since before `before_ms`, the next `limit` after row `after`.
///
/// # Errors
/// The database's.
pub async fn stuck(
    conn: &mut AnyConnection,
    what: Stuck,
    before_ms: i64,
    after: i64,
    limit: i64,
) -> Result<Vec<StuckRow>, DbError> {
    let (columns, from) = what.sql();
    let text = format!("SELECT id, {columns} {from} AND id > ? ORDER BY id LIMIT ?");
    let rows = sql::fetch(conn, text, vals![before_ms, after, limit]).await?;
    rows.iter().map(|row| Ok(StuckRow { id: row.int(0)?, name: row.text(1)?, since: row.int(2)? })).collect()
}

/// Which of these rows are still stuck.
///
/// # Errors
/// The database's.
pub async fn still_stuck(
    conn: &mut AnyConnection,
    what: Stuck,
    before_ms: i64,
    ids: &[i64],
) -> Result<Vec<StuckRow>, DbError> {
    let (columns, from) = what.sql();
    let before = format!("SELECT id, {columns} {from} AND id");
    let rows = sql::select_in(conn, &before, "", &[Val::Int(before_ms)], ints(ids)).await?;
    rows.iter().map(|row| Ok(StuckRow { id: row.int(0)?, name: row.text(1)?, since: row.int(2)? })).collect()
}

/// What was given up, and waits for an operator.
pub const GIVEN_UP: [(&str, &str); 6] = [
    ("outbox rows given up", "SELECT COUNT(*) FROM message_record WHERE status = 2"),
    ("dead letters", "SELECT COUNT(*) FROM message_process_log WHERE outcome = 3"),
    ("parked messages given up", "SELECT COUNT(*) FROM message_retry_log WHERE status = 2"),
    ("outgoing calls given up or refused", "SELECT COUNT(*) FROM delivery WHERE status IN (2, 3)"),
    ("refunds given up", "SELECT COUNT(*) FROM refund_record WHERE status = 2"),
    ("refunds in doubt", "SELECT COUNT(*) FROM refund_record WHERE status = 0 AND doubt_at IS NOT NULL"),
];

/// A count.
///
/// # Errors
/// The database's.
pub async fn count(conn: &mut AnyConnection, text: &'static str) -> Result<i64, DbError> {
    sql::fetch_one(conn, text, vec![]).await?.map_or(Ok(0), |row| row.int(0))
}

/// Which of these keys a group has handled an event of this topic for.
///
/// # Errors
/// The database's.
pub async fn keys_consumed(
    conn: &mut AnyConnection,
    group: &str,
    topic: &str,
    keys: &[String],
) -> Result<HashSet<String>, DbError> {
    let before = "SELECT DISTINCT msg_key FROM message_process_log WHERE consumer_group = ? AND topic = ? AND msg_key";
    let rows = sql::select_in(conn, before, "", &[Val::from(group), Val::from(topic)], texts(keys)).await?;
    rows.iter().map(|row| row.text(0)).collect()
}
