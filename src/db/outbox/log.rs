//! The outbox as an operator sees it: the log of what was sent, and what is to be sent again from it.

use std::collections::BTreeMap;

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::Status;
use crate::db::page::Wanted;
use crate::db::sql::{self, Columns, Val};
use crate::db::{DbError, Tx};
use crate::vals;

impl Status {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Sent, Self::Failed, Self::Canceled];

    /// As operators call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }

    /// By its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }

    /// By the code that is stored.
    ///
    /// # Errors
    /// There is no such code.
    fn from_code(code: i64, id: i64) -> Result<Self, DbError> {
        let known = Self::ALL.into_iter().find(|status| *status as i64 == code);
        known.ok_or_else(|| DbError::Row {
            table: "message_record",
            key: id.to_string(),
            what: format!("unknown status {code}"),
        })
    }
}

/// A row of the send log, without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Row.
    pub id: i64,
    /// Id of the event.
    pub event_id: String,
    /// Topic: a catalogue name or `%DLQ%<group>`.
    pub topic: String,
    /// Business key.
    pub key: String,
    /// Where it stands.
    pub status: Status,
    /// Failed sends.
    pub attempts: i64,
    /// When it is tried next, epoch ms; [`super::HELD`] waits for a broker; none when it is not tried by itself.
    pub next_at: Option<i64>,
    /// Why it was not sent.
    pub last_error: Option<String>,
    /// Epoch ms.
    pub created_at: i64,
    /// Epoch ms.
    pub sent_at: Option<i64>,
    /// Until when the broker keeps it back, epoch ms.
    pub timer_at: Option<i64>,
}

const LOGGED: &str = "SELECT id, event_id, topic, msg_key, status, attempts, next_at, last_error, created_at, \
                      sent_at, properties FROM message_record WHERE ";

fn logged(row: &AnyRow) -> Result<Logged, DbError> {
    let id = row.int(0)?;
    Ok(Logged {
        id,
        event_id: row.text(1)?,
        topic: row.text(2)?,
        key: row.text(3)?,
        status: Status::from_code(row.int(4)?, id)?,
        attempts: row.int(5)?,
        next_at: row.maybe_int(6)?.filter(|at| *at != super::GIVEN_UP),
        last_error: row.maybe_text(7)?,
        created_at: row.int(8)?,
        sent_at: row.maybe_int(9)?,
        timer_at: super::timer_of(&row.text(10)?),
    })
}

/// Which rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Standing so.
    pub status: Option<Status>,
    /// Written at or after this, epoch ms.
    pub since_ms: Option<i64>,
    /// Of this topic.
    pub topic: Option<String>,
    /// Of this business key.
    pub key: Option<String>,
    /// Only rows from this one on.
    pub from_id: Option<i64>,
}

impl Filter {
    fn put(&self, wanted: &mut Wanted) {
        wanted.and("status =", self.status.map(|status| status as i64));
        wanted.since(self.since_ms);
        wanted.and("id >=", self.from_id);
        wanted.and("topic =", self.topic.as_ref());
        wanted.and("msg_key =", self.key.as_ref());
    }
}

/// The `limit` newest rows before row `before`, newest first.
///
/// # Errors
/// The database's.
pub async fn newest(
    conn: &mut AnyConnection,
    filter: &Filter,
    before: i64,
    limit: i64,
) -> Result<Vec<Logged>, DbError> {
    let mut wanted = Wanted::before(before);
    filter.put(&mut wanted);
    wanted.newest(conn, LOGGED, limit, logged).await
}

/// The rows of these events.
///
/// # Errors
/// The database's.
pub async fn of_events(conn: &mut AnyConnection, event_ids: Vec<String>) -> Result<Vec<Logged>, DbError> {
    let keys = event_ids.into_iter().map(Val::Text).collect();
    let rows = sql::select_in(conn, &format!("{LOGGED}event_id"), "", &[], keys).await?;
    let mut rows = rows.iter().map(logged).collect::<Result<Vec<_>, _>>()?;
    rows.sort_by_key(|row| row.id);
    Ok(rows)
}

/// The rows of a business key, in the order in which they were written.
///
/// # Errors
/// The database's.
pub async fn of_key(conn: &mut AnyConnection, key: &str) -> Result<Vec<Logged>, DbError> {
    let text = format!("{LOGGED}msg_key = ? ORDER BY id");
    sql::fetch(conn, text, vals![key]).await?.iter().map(logged).collect()
}

/// Rows that may be sent again: those that a broker has taken, and those that were given up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Again {
    /// Sent (or, given up, written) at or after this, epoch ms.
    pub since_ms: i64,
    /// Sent before this, epoch ms: whoever sent a row just now may still be about to say so.
    pub before_ms: i64,
    /// Only those sent, or only those given up.
    pub status: Option<Status>,
    /// Of this topic.
    pub topic: Option<String>,
    /// Of this business key.
    pub key: Option<String>,
    /// Dead letters as well.
    pub dead_letters: bool,
}

impl Again {
    fn sql(&self) -> (String, Vec<Val>) {
        let text = String::from(
            "((status = 1 AND sent_at >= ? AND sent_at < ?) OR (status = 2 AND created_at >= ? AND created_at < ?))",
        );
        let mut wanted = Wanted { text, vals: vals![self.since_ms, self.before_ms, self.since_ms, self.before_ms] };
        let (topic, key) = (self.topic.clone(), self.key.clone());
        let rest = Filter { status: self.status, topic, key, ..Filter::default() };
        rest.put(&mut wanted);
        if !self.dead_letters {
            wanted.text.push_str(" AND topic NOT LIKE '|%DLQ|%%' ESCAPE '|'");
        }
        (wanted.text, wanted.vals)
    }
}

/// How many rows of a topic there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Topic.
    pub topic: String,
    /// Rows.
    pub rows: i64,
    /// When the oldest was written, epoch ms.
    pub oldest_ms: i64,
    /// When the newest was written, epoch ms.
    pub newest_ms: i64,
}

/// What there is to send again, by topic.
///
/// # Errors
/// The database's.
pub async fn shares(conn: &mut AnyConnection, again: &Again) -> Result<Vec<Share>, DbError> {
    let (condition, vals) = again.sql();
    let text = format!(
        "SELECT topic, COUNT(*), MIN(created_at), MAX(created_at) FROM message_record WHERE {condition} \
         GROUP BY topic ORDER BY topic"
    );
    let share = |row: &AnyRow| {
        Ok(Share { topic: row.text(0)?, rows: row.int(1)?, oldest_ms: row.int(2)?, newest_ms: row.int(3)? })
    };
    sql::fetch(conn, text, vals).await?.iter().map(share).collect()
}

/// The next `limit` rows to send again after row `after`, in the order in which they were written.
///
/// # Errors
/// The database's.
pub async fn next_again(conn: &mut AnyConnection, again: &Again, after: i64, limit: i64) -> Result<Vec<i64>, DbError> {
    let (condition, mut vals) = again.sql();
    vals.extend(vals![after, limit]);
    let text = format!("SELECT id FROM message_record WHERE {condition} AND id > ? ORDER BY id LIMIT ?");
    sql::fetch(conn, text, vals).await?.iter().map(|row| row.int(0)).collect()
}

/// Makes these rows pending and due, if a broker has taken them before `before_ms` or they were given up: whoever
/// sweeps this outbox sends them, in their order, with the same event ids. What is pending already, claimed or taken
/// back stays as it is. How many of each topic.
///
/// # Errors
/// The database's.
pub async fn send_again(tx: &mut Tx, ids: &[i64], before_ms: i64) -> Result<Vec<(String, i64)>, DbError> {
    let now_ms = tx.now_ms();
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids.dedup();
    let keys = ids.iter().copied().map(Val::Int).collect();
    let before = "SELECT id, topic FROM message_record WHERE (status = 2 OR (status = 1 AND sent_at < ?)) AND id";
    let after = format!(" ORDER BY id{}", tx.dialect().for_update());
    let rows = sql::select_in(tx, before, &after, &[Val::Int(before_ms)], keys).await?;
    let mut shares: BTreeMap<String, i64> = BTreeMap::new();
    let mut due = Vec::with_capacity(rows.len());
    for row in &rows {
        due.push(Val::Int(row.int(0)?));
        *shares.entry(row.text(1)?).or_default() += 1;
    }
    let set = "UPDATE message_record SET status = 0, attempts = 0, next_at = ?, last_error = NULL WHERE id";
    sql::execute_in(tx, set, "", &[Val::Int(now_ms)], due).await?;
    Ok(shares.into_iter().collect())
}
