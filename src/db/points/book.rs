//! The book of a user: what came and went, grants from outside, and what is spent.

use std::collections::HashSet;

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::{Record, apply, kind_of, lock_standings};
use crate::db::sql::{self, Columns, Val};
use crate::db::{DbError, Tx};
use crate::domain::points::Kind;
use crate::vals;

/// Where a record comes from that no order of the shop made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The record, by its own id.
    pub record_id: i64,
    /// Id of the event, or [`spend_key`].
    pub source: String,
    /// Order that it is for, where there is one.
    pub order_id: Option<i64>,
    /// Why, for people.
    pub reason: String,
}

/// What a wish to spend is known by.
fn spend_key(user_id: i64, key: &str) -> String {
    format!("spend:{user_id}:{key}")
}

/// Which of these sources have a record.
///
/// # Errors
/// The database's.
pub async fn known_sources(conn: &mut AnyConnection, sources: Vec<String>) -> Result<HashSet<String>, DbError> {
    let keys = sources.into_iter().map(Val::Text).collect();
    let rows = sql::select_in(conn, "SELECT source FROM points_source WHERE source", "", &[], keys).await?;
    rows.iter().map(|row| row.text(0)).collect()
}

/// Notes where records come from.
///
/// # Errors
/// The database's; a unique violation when a source has a record already.
pub async fn note_sources(conn: &mut AnyConnection, sources: &[Source]) -> Result<(), DbError> {
    let row = |one: &Source| vals![one.record_id, &one.source, one.order_id, &one.reason];
    let head = "INSERT INTO points_source (record_id, source, order_id, reason)";
    sql::insert(conn, head, sources.iter().map(row).collect(), "").await.map(|_| ())
}

/// What became of a wish to spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spent {
    /// Spent now.
    New {
        /// The record.
        record_id: i64,
        /// What is left.
        balance: i64,
    },
    /// Spent by an earlier request with the same key.
    Replayed {
        /// The record.
        record_id: i64,
        /// What is left now.
        balance: i64,
    },
    /// The key belongs to another number of points.
    KeyReused,
    /// There are only so many.
    TooFew {
        /// What there is.
        balance: i64,
    },
}

/// Spends points of a user, once for each key.
///
/// # Errors
/// The database's.
pub async fn spend(tx: &mut Tx, user_id: i64, points: i64, reason: &str, key: &str) -> Result<Spent, DbError> {
    // Who spends of a user does so one after the other; so the keys are all there to be seen.
    let balance = lock_standings(tx, vec![user_id]).await?.remove(&user_id).unwrap_or_default().balance;
    let source = spend_key(user_id, key);
    let text = "SELECT s.record_id, p.points FROM points_source s JOIN points_record p ON p.order_id = s.record_id \
                AND p.kind = 5 WHERE s.source = ?";
    if let Some(row) = sql::fetch_one(tx, text, vals![&source]).await? {
        let (record_id, spent) = (row.int(0)?, row.int(1)?);
        return Ok(if spent == -points { Spent::Replayed { record_id, balance } } else { Spent::KeyReused });
    }
    if balance < points {
        return Ok(Spent::TooFew { balance });
    }
    let record_id = tx.next_id();
    apply(tx, &[Record { order_id: record_id, kind: Kind::Spend, user_id, points: -points }]).await?;
    note_sources(tx, &[Source { record_id, source, order_id: None, reason: reason.to_owned() }]).await?;
    Ok(Spent::New { record_id, balance: balance - points })
}

/// The place of a record in the book of its user: the next page begins behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Epoch ms.
    pub created_at: i64,
    /// `points_record.order_id`.
    pub order_id: i64,
    /// `points_record.kind`.
    pub kind: i64,
}

impl Place {
    /// Before the newest one.
    pub const NEWEST: Self = Self { created_at: i64::MAX, order_id: 0, kind: 0 };
}

/// A line of the book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What changed.
    pub record: Record,
    /// When, epoch ms.
    pub created_at: i64,
    /// Order that it is for, where there is one.
    pub order_id: Option<i64>,
    /// Why, for people; empty for what orders made.
    pub reason: String,
}

impl Entry {
    /// Where it stands.
    #[must_use]
    pub fn place(&self) -> Place {
        Place { created_at: self.created_at, order_id: self.record.order_id, kind: self.record.kind.code() }
    }
}

/// The records of a user behind a place, newest first.
///
/// # Errors
/// The database's.
pub async fn history(conn: &mut AnyConnection, user_id: i64, after: Place, limit: i64) -> Result<Vec<Entry>, DbError> {
    let text = "SELECT p.order_id, p.kind, p.points, p.created_at, s.order_id, COALESCE(s.reason, '') \
                FROM points_record p LEFT JOIN points_source s ON s.record_id = p.order_id AND p.kind >= 4 \
                WHERE p.user_id = ? AND p.created_at <= ? AND (p.created_at < ? OR p.order_id < ? \
                OR (p.order_id = ? AND p.kind < ?)) \
                ORDER BY p.created_at DESC, p.order_id DESC, p.kind DESC LIMIT ?";
    let Place { created_at, order_id, kind } = after;
    let vals = vals![user_id, created_at, created_at, order_id, order_id, kind, limit];
    let entry = |row: &AnyRow| {
        let kind = kind_of(row.int(0)?, row.int(1)?)?;
        let record = Record { order_id: row.int(0)?, kind, user_id, points: row.int(2)? };
        let own = matches!(kind, Kind::Gift | Kind::Spend);
        let order_id = if own { row.maybe_int(4)? } else { Some(record.order_id) };
        Ok(Entry { record, created_at: row.int(3)?, order_id, reason: row.text(5)? })
    };
    sql::fetch(conn, text, vals).await?.iter().map(entry).collect()
}
