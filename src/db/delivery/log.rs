//! Outgoing calls as people see them: the list, one with its attempts, made once more or taken back by hand.

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::{CALL, Delivery, GIVEN_UP, Kind, Status, among, call, kind};
use crate::db::page::Wanted;
use crate::db::sql::{self, Columns, Val};
use crate::db::{DbError, Tx};
use crate::vals;

impl Status {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Pending, Self::Done, Self::Dead, Self::Refused, Self::Canceled, Self::Unsent];

    /// As people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Done => "done",
            Self::Dead => "dead",
            Self::Refused => "refused",
            Self::Canceled => "canceled",
            Self::Unsent => "unsent",
        }
    }

    /// By its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }

    pub(super) fn from_code(code: i64, id: i64) -> Result<Self, DbError> {
        let what = format!("unknown status {code}");
        let known = Self::ALL.into_iter().find(|status| *status as i64 == code);
        known.ok_or_else(|| DbError::Row { table: "delivery", key: id.to_string(), what })
    }
}

/// Where the body of a call begins to name its channel, up to the name.
const NAMES: &str = "\"channelId\":";

/// A call as it stands, without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Row.
    pub id: i64,
    /// What for.
    pub kind: Kind,
    /// Idempotency key.
    pub reference: String,
    /// What it is about, see [`Logged::order`].
    pub order_id: i64,
    /// Where to, with what may be secret in it.
    pub url: String,
    /// Of a call to a channel its body, which names the channel; of others nothing.
    pub named: String,
    /// Where it stands.
    pub status: Status,
    /// Attempts made.
    pub attempts: i64,
    /// When it is made next, epoch ms.
    pub next_at: Option<i64>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// Epoch ms.
    pub created_at: i64,
    /// Epoch ms.
    pub updated_at: i64,
}

impl Logged {
    /// As [`Delivery::order`].
    #[must_use]
    pub fn order(&self) -> i64 {
        self.order_id.max(0)
    }
}

fn logged_text() -> String {
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| kind.channel_path().is_some()).collect();
    let named = among(&kinds);
    format!(
        "SELECT id, kind, ref, order_id, url, status, attempts, next_at, last_error, created_at, updated_at, \
         CASE WHEN {named} THEN body ELSE NULL END FROM delivery WHERE "
    )
}

fn logged(row: &AnyRow) -> Result<Logged, DbError> {
    let id = row.int(0)?;
    Ok(Logged {
        id,
        kind: kind(row.int(1)?, id)?,
        reference: row.text(2)?,
        order_id: row.int(3)?,
        url: row.text(4)?,
        status: Status::from_code(row.int(5)?, id)?,
        attempts: row.int(6)?,
        next_at: row.maybe_int(7)?.filter(|at| *at != GIVEN_UP),
        last_error: row.maybe_text(8)?,
        created_at: row.int(9)?,
        updated_at: row.int(10)?,
        named: row.maybe_text(11)?.unwrap_or_default(),
    })
}

/// Calls whose rows do not say where they go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// Of this kind.
    pub kind: Kind,
    /// And to this channel; none: all of the kind.
    pub channel: Option<String>,
    /// Whether that is where they are looked for.
    pub goes: bool,
}

impl Elsewhere {
    /// The condition that a call is one of them, and what it binds.
    fn condition(&self) -> (String, Option<Val>) {
        let of_kind = among(&[self.kind]);
        match &self.channel {
            None => (of_kind, None),
            Some(id) => {
                let named = Val::Text(format!("{NAMES}{}", serde_json::Value::from(id.as_str())));
                (format!("({of_kind} AND INSTR(body, ?) > 0)"), Some(named))
            }
        }
    }
}

/// Which calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of one of these kinds; none: of any.
    pub kinds: Option<Vec<Kind>>,
    /// Standing so.
    pub status: Option<Status>,
    /// To this `host` or `host:port`; `own` for this process.
    pub target: Option<String>,
    /// Calls whose rows do not say where they go, and whether that is `target`.
    pub elsewhere: Vec<Elsewhere>,
    /// Recorded at or after this, epoch ms.
    pub since_ms: Option<i64>,
    /// About this order.
    pub order_id: Option<i64>,
}

impl Filter {
    /// By URLs like these `patterns`, but for the calls that do not go where their rows say.
    fn put_target(&self, wanted: &mut Wanted, patterns: Vec<String>) {
        let conditions = |chosen: &dyn Fn(&Elsewhere) -> bool| {
            let found = self.elsewhere.iter().filter(|one| chosen(one)).map(Elsewhere::condition);
            let (texts, vals): (Vec<String>, Vec<Option<Val>>) = found.unzip();
            (texts.join(" OR "), vals.into_iter().flatten().collect::<Vec<_>>())
        };
        let ((all, of_all), (there, of_there)) = (conditions(&|_| true), conditions(&|one| one.goes));

        let by_url = format!("({})", vec!["url LIKE ?"; patterns.len()].join(" OR "));
        let by_url = if all.is_empty() { by_url } else { format!("({by_url} AND NOT ({all}))") };
        let text = if there.is_empty() { by_url } else { format!("({by_url} OR {there})") };
        wanted.text.push_str(&format!(" AND {text}"));
        wanted.vals.extend(patterns.into_iter().map(Val::Text).chain(of_all).chain(of_there));
    }

    fn put(&self, wanted: &mut Wanted) {
        match self.kinds.as_deref() {
            None => {}
            Some([]) => wanted.text.push_str(" AND id < 0"),
            Some(kinds) => wanted.text.push_str(&format!(" AND {}", among(kinds))),
        }
        wanted.and("status =", self.status.map(|status| status as i64));
        wanted.since(self.since_ms);
        wanted.and("order_id =", self.order_id);
        match self.target.as_deref() {
            None => {}
            Some("own") => self.put_target(wanted, vec!["/%".to_owned()]),
            Some(target) => {
                // A port may follow the host; then comes the path, or nothing.
                let ends = ["", "/%", "?%", ":%"];
                let patterns = ["http", "https", "smtp"]
                    .iter()
                    .flat_map(|scheme| ends.map(|end| format!("{scheme}://{target}{end}")));
                self.put_target(wanted, patterns.collect());
            }
        }
    }
}

/// The `limit` newest calls before row `before`, newest first.
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
    wanted.newest(conn, &logged_text(), limit, logged).await
}

/// These calls as they stand, in the order of their ids.
///
/// # Errors
/// The database's.
pub async fn of_ids(conn: &mut AnyConnection, ids: Vec<i64>) -> Result<Vec<Logged>, DbError> {
    let keys = ids.into_iter().map(Val::Int).collect();
    let rows = sql::select_in(conn, &(logged_text() + "id"), "", &[], keys).await?;
    let mut calls = rows.iter().map(logged).collect::<Result<Vec<_>, _>>()?;
    calls.sort_unstable_by_key(|call| call.id);
    Ok(calls)
}

/// An attempt on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Which, from 1.
    pub attempt: i64,
    /// When it began, epoch ms.
    pub started_at: i64,
    /// How long it took.
    pub duration_ms: i64,
    /// HTTP status of the answer, if there was one.
    pub http_status: Option<i64>,
    /// Why it failed.
    pub error: Option<String>,
    /// What was sent, as people may see it.
    pub request: Option<String>,
    /// What was answered, as people may see it.
    pub answer: Option<String>,
}

/// The attempts of a call, oldest first.
///
/// # Errors
/// The database's.
pub async fn attempts(conn: &mut AnyConnection, id: i64) -> Result<Vec<Tried>, DbError> {
    let text = "SELECT attempt, started_at, duration_ms, http_status, error, request, answer FROM delivery_attempt \
                WHERE delivery_id = ? ORDER BY attempt";
    let tried = |row: &AnyRow| {
        Ok(Tried {
            attempt: row.int(0)?,
            started_at: row.int(1)?,
            duration_ms: row.int(2)?,
            http_status: row.maybe_int(3)?,
            error: row.maybe_text(4)?,
            request: row.maybe_text(5)?,
            answer: row.maybe_text(6)?,
        })
    };
    sql::fetch(conn, text, vals![id]).await?.iter().map(tried).collect()
}

/// Whether such a call may be made once more by hand (see [`Kind::is_refund`]).
#[must_use]
pub fn may_resend(kind: Kind, status: Status) -> bool {
    !kind.is_refund() || matches!(status, Status::Pending | Status::Done | Status::Dead)
}

/// Makes these calls due now, wherever they stand, with the same idempotency keys; the schedule of those that were
/// settled begins anew. Which ones.
///
/// # Errors
/// The database's.
pub async fn resend(tx: &mut Tx, ids: Vec<i64>) -> Result<Vec<i64>, DbError> {
    let now_ms = tx.now_ms();
    let (mut settled, mut waiting) = (Vec::new(), Vec::new());
    for (id, kind, status) in lock(tx, ids).await? {
        if !may_resend(kind, status) {
            continue;
        }
        if status == Status::Pending { waiting.push(id) } else { settled.push(id) }
    }
    let keys = |ids: &[i64]| ids.iter().copied().map(Val::Int).collect();
    let text = "UPDATE delivery SET status = 0, next_at = ?, armed_at = ?, base_attempts = attempts, updated_at = ? \
                WHERE id";
    sql::execute_in(tx, text, "", &[Val::Int(now_ms), Val::Int(now_ms), Val::Int(now_ms)], keys(&settled)).await?;
    let text = "UPDATE delivery SET next_at = ?, held_by = NULL WHERE id";
    sql::execute_in(tx, text, "", &[Val::Int(now_ms)], keys(&waiting)).await?;
    tx.wake_deliveries();
    settled.extend(waiting);
    settled.sort_unstable();
    Ok(settled)
}

/// Takes back those of these calls that are still to be made; which ones. One that is being made just now still counts
/// when it is answered well.
///
/// # Errors
/// The database's.
pub async fn cancel(tx: &mut Tx, ids: Vec<i64>, why: &str) -> Result<Vec<Delivery>, DbError> {
    let now_ms = tx.now_ms();
    let pending: Vec<Val> = lock(tx, ids)
        .await?
        .into_iter()
        .filter(|(_, kind, status)| *status == Status::Pending && !kind.is_refund())
        .map(|(id, ..)| Val::Int(id))
        .collect();
    let fixed = [Val::Int(Status::Canceled as i64), Val::Text(crate::db::retry::shorten(why)), Val::Int(now_ms)];
    let text =
        "UPDATE delivery SET status = ?, next_at = NULL, held_by = NULL, last_error = ?, updated_at = ? WHERE id";
    sql::execute_in(tx, text, "", &fixed, pending.clone()).await?;
    let rows = sql::select_in(tx, &format!("{CALL} WHERE id"), "", &[], pending).await?;
    let mut calls = rows.iter().map(call).collect::<Result<Vec<_>, _>>()?;
    calls.sort_unstable_by_key(|call| call.id);
    super::release_next(tx, calls.iter()).await?;
    Ok(calls)
}

/// These calls, locked, and where each stands.
async fn lock(tx: &mut Tx, mut ids: Vec<i64>) -> Result<Vec<(i64, Kind, Status)>, DbError> {
    ids.sort_unstable();
    ids.dedup();
    let after = format!(" ORDER BY id{}", tx.dialect().for_update());
    let keys = ids.into_iter().map(Val::Int).collect();
    let rows = sql::select_in(tx, "SELECT id, kind, status FROM delivery WHERE id", &after, &[], keys).await?;
    let standing = |row: &AnyRow| {
        let id = row.int(0)?;
        Ok((id, kind(row.int(1)?, id)?, Status::from_code(row.int(2)?, id)?))
    };
    rows.iter().map(standing).collect()
}
