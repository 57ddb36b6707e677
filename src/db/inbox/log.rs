//! The inbox as an operator reads it: which group has handled which message, and how that went.

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::Outcome;
use crate::db::DbError;
use crate::db::sql::{self, Columns, Val};
use crate::vals;

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Done, Self::Ignored, Self::Parked, Self::Dead];

    /// As operators call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Ignored => "ignored",
            Self::Parked => "parked",
            Self::Dead => "dead",
        }
    }

    /// By its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.name() == name)
    }
}

/// A row of the inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handled {
    /// Event id.
    pub message_id: String,
    /// Topic.
    pub topic: String,
    /// Business key.
    pub key: String,
    /// How it went.
    pub outcome: Outcome,
    /// Why it changed nothing, waits, or was given up.
    pub reason: Option<String>,
    /// Epoch ms.
    pub consumed_at: i64,
}

fn handled(row: &AnyRow) -> Result<Handled, DbError> {
    let (message_id, code) = (row.text(0)?, row.int(3)?);
    let known = Outcome::ALL.into_iter().find(|outcome| *outcome as i64 == code);
    let outcome = known.ok_or_else(|| DbError::Row {
        table: "message_process_log",
        key: message_id.clone(),
        what: format!("unknown outcome {code}"),
    })?;
    Ok(Handled {
        message_id,
        topic: row.text(1)?,
        key: row.text(2)?,
        outcome,
        reason: row.maybe_text(4)?,
        consumed_at: row.int(5)?,
    })
}

/// Which rows of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only messages whose id comes before this one; those with this very id too with [`Filter::and_this`].
    pub before: Option<String>,
    /// See [`Filter::before`].
    pub and_this: bool,
    /// Only messages whose id is not before this one.
    pub from: Option<String>,
    /// Of this topic.
    pub topic: Option<String>,
    /// That went so.
    pub outcome: Option<Outcome>,
    /// Of this business key.
    pub key: Option<String>,
}

/// The `limit` last rows of `group` by message id, last first: ids begin with those of orders, which grow with time.
///
/// # Errors
/// The database's.
pub async fn last(conn: &mut AnyConnection, group: &str, filter: &Filter, limit: i64) -> Result<Vec<Handled>, DbError> {
    let mut text = String::from(
        "SELECT message_id, topic, msg_key, outcome, reason, consumed_at FROM message_process_log \
         WHERE consumer_group = ?",
    );
    let mut vals = vals![group];
    put_before(filter, &mut text, &mut vals);
    for (condition, wanted) in [("message_id >=", &filter.from), ("topic =", &filter.topic), ("msg_key =", &filter.key)]
    {
        if let Some(wanted) = wanted {
            text.push_str(&format!(" AND {condition} ?"));
            vals.push(Val::from(wanted));
        }
    }
    if let Some(outcome) = filter.outcome {
        text.push_str(" AND outcome = ?");
        vals.push(Val::Int(outcome as i64));
    }
    text.push_str(" ORDER BY message_id DESC LIMIT ?");
    vals.push(Val::Int(limit));
    sql::fetch(conn, text, vals).await?.iter().map(handled).collect()
}

fn put_before(filter: &Filter, text: &mut String, vals: &mut Vec<Val>) {
    if let Some(before) = &filter.before {
        text.push_str(if filter.and_this { " AND message_id <= ?" } else { " AND message_id < ?" });
        vals.push(Val::from(before));
    }
}

/// The id of the message that is `depth` messages of `group` before the beginning of `filter`; `None` when there are
/// not so many.
///
/// # Errors
/// The database's.
pub async fn floor(
    conn: &mut AnyConnection,
    group: &str,
    filter: &Filter,
    depth: i64,
) -> Result<Option<String>, DbError> {
    let mut text = String::from("SELECT message_id FROM message_process_log WHERE consumer_group = ?");
    let mut vals = vals![group];
    put_before(filter, &mut text, &mut vals);
    text.push_str(" ORDER BY message_id DESC LIMIT 1 OFFSET ?");
    vals.push(Val::Int(depth));
    sql::fetch_one(conn, text, vals).await?.map(|row| row.text(0)).transpose()
}
