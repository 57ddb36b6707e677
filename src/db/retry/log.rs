//! Parked messages as an operator sees them, and one that is to be tried again now.

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::{Status, wake_lost};
use crate::db::inbox::{self, Outcome};
use crate::db::page::Wanted;
use crate::db::sql::{self, Columns};
use crate::db::{DbError, Tx};
use crate::vals;

impl Status {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Waiting, Self::Done, Self::Dead];

    /// As operators call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Done => "done",
            Self::Dead => "dead",
        }
    }

    /// By its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }
}

/// A message that is, or was, parked; without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Row.
    pub id: i64,
    /// Who is to handle it.
    pub group: String,
    /// Event id.
    pub message_id: String,
    /// Topic.
    pub topic: String,
    /// Business key.
    pub key: String,
    /// Where it stands.
    pub status: Status,
    /// Failed attempts.
    pub attempts: i64,
    /// When it is tried next, epoch ms; none: not before the one ahead of it is through, or never.
    pub next_at: Option<i64>,
    /// Until when a retry lane holds it, epoch ms: it is being tried.
    pub leased_until: Option<i64>,
    /// When it failed first, epoch ms.
    pub first_failed_at: i64,
    /// Why.
    pub last_error: String,
    /// Epoch ms.
    pub updated_at: i64,
}

const LOGGED: &str = "SELECT id, consumer_group, message_id, topic, msg_key, status, attempts, next_at, leased_until, \
                      first_failed_at, last_error, updated_at FROM message_retry_log WHERE ";

fn logged(row: &AnyRow) -> Result<Logged, DbError> {
    let (id, code) = (row.int(0)?, row.int(5)?);
    let known = Status::ALL.into_iter().find(|status| *status as i64 == code);
    let status = known.ok_or_else(|| DbError::Row {
        table: "message_retry_log",
        key: id.to_string(),
        what: format!("unknown status {code}"),
    })?;
    Ok(Logged {
        id,
        group: row.text(1)?,
        message_id: row.text(2)?,
        topic: row.text(3)?,
        key: row.text(4)?,
        status,
        attempts: row.int(6)?,
        next_at: row.maybe_int(7)?,
        leased_until: row.maybe_int(8)?,
        first_failed_at: row.int(9)?,
        last_error: row.text(10)?,
        updated_at: row.int(11)?,
    })
}

/// Which rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only rows from this one on.
    pub from_id: Option<i64>,
    /// Of this topic.
    pub topic: Option<String>,
    /// Of this group.
    pub group: Option<String>,
    /// Standing so.
    pub status: Option<Status>,
    /// Of this business key.
    pub key: Option<String>,
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
    wanted.and("id >=", filter.from_id);
    wanted.and("status =", filter.status.map(|status| status as i64));
    wanted.and("topic =", filter.topic.as_ref());
    wanted.and("consumer_group =", filter.group.as_ref());
    wanted.and("msg_key =", filter.key.as_ref());
    wanted.newest(conn, LOGGED, limit, logged).await
}

/// What became of the wish to try a message again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Again {
    /// There is no such row.
    Unknown,
    /// It is due.
    Due(Box<Logged>),
    /// A lane is at it.
    Running,
    /// It was handled.
    Done,
    /// It was given up, and handled, taken up again or forgotten since, by way of its dead letter.
    Elsewhere,
    /// Its turn comes after this one of the same key.
    Behind(i64),
}

/// Makes a message that waits, or that was given up, due now; one that is due already stays as it is. What was given
/// up is handled as something new: its attempts count from the beginning, and nothing waits behind it, since later
/// messages of its key have passed it.
///
/// # Errors
/// The database's.
pub async fn again(tx: &mut Tx, id: i64) -> Result<Again, DbError> {
    let lock = tx.dialect().for_update();
    let Some(row) = sql::fetch_one(tx, format!("{LOGGED}id = ?{lock}"), vals![id]).await? else {
        return Ok(Again::Unknown);
    };
    let row = logged(&row)?;
    let now_ms = tx.now_ms();
    match row.status {
        Status::Done => return Ok(Again::Done),
        Status::Waiting if row.leased_until.is_some_and(|until| until > now_ms) => return Ok(Again::Running),
        Status::Waiting => match row.next_at {
            Some(at) if at <= now_ms => return Ok(Again::Due(Box::new(row))),
            Some(_) => {
                let text = "UPDATE message_retry_log SET next_at = ? WHERE id = ?";
                sql::execute(tx, text, vals![now_ms, id]).await?;
            }
            None if wake_lost(tx, id).await? == 0 => return ahead_of(tx, &row).await,
            None => {}
        },
        Status::Dead => {
            let known = inbox::lock_outcome(tx, &row.group, &row.message_id).await?;
            if known != Some(Outcome::Dead as i64) {
                return Ok(Again::Elsewhere);
            }
            let text = "UPDATE message_retry_log SET status = 0, blocks = 0, attempts = 0, next_at = ?, \
                        open_key = msg_key, leased_until = NULL, updated_at = ? WHERE id = ?";
            sql::execute(tx, text, vals![now_ms, now_ms, id]).await?;
            inbox::set_outcome(tx, &row.group, vec![row.message_id.clone()], Outcome::Parked, None).await?;
        }
    }
    tx.wake_retries();
    let attempts = if row.status == Status::Dead { 0 } else { row.attempts };
    Ok(Again::Due(Box::new(Logged {
        status: Status::Waiting,
        attempts,
        next_at: Some(now_ms),
        leased_until: None,
        ..row
    })))
}

/// The first message of the key, which the others wait for.
async fn ahead_of(tx: &mut Tx, row: &Logged) -> Result<Again, DbError> {
    let text = "SELECT MIN(id) FROM message_retry_log WHERE consumer_group = ? AND open_key = ?";
    let first =
        sql::fetch_one(tx, text, vals![&row.group, &row.key]).await?.map_or(Ok(None), |row| row.maybe_int(0))?;
    Ok(Again::Behind(first.unwrap_or(row.id)))
}
