//! Pages of logs whose ids grow with time, newest first.

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::DbError;
use super::sql::{self, Val};
use crate::domain::id::first_id_of;
use crate::vals;

/// An id is at most so much older than its row.
const ID_SLACK_MS: i64 = 3_600_000;

/// No row that was written at or after this, epoch ms, has a smaller id.
pub(super) fn lowest_of(since_ms: i64) -> i64 {
    first_id_of(since_ms.saturating_sub(ID_SLACK_MS), 0)
}

/// All rows that were written before this, epoch ms, have smaller ids.
pub(super) fn highest_of(until_ms: i64) -> i64 {
    first_id_of(until_ms.saturating_add(ID_SLACK_MS), 0)
}

/// Conditions of a query, which grow as filters add theirs.
pub(super) struct Wanted {
    /// After the first condition each begins with AND.
    pub text: String,
    /// A value for each `?`.
    pub vals: Vec<Val>,
}

impl Wanted {
    /// Rows before row `id`.
    pub fn before(id: i64) -> Self {
        Self { text: String::from("id < ?"), vals: vals![id] }
    }

    /// Where `condition` (`status =`) holds for the value; none: whatever it is.
    pub fn and(&mut self, condition: &str, wanted: Option<impl Into<Val>>) {
        if let Some(wanted) = wanted {
            self.text.push_str(&format!(" AND {condition} ?"));
            self.vals.push(wanted.into());
        }
    }

    /// Written at or after this, epoch ms.
    pub fn since(&mut self, since_ms: Option<i64>) {
        // The first bounds the walk over the primary key, the second is exact.
        self.and("id >=", since_ms.map(lowest_of));
        self.and("created_at >=", since_ms);
    }

    /// Written before this, epoch ms.
    pub fn until(&mut self, until_ms: Option<i64>) {
        // Ids are made after a transaction's time: a little younger than their row, at most.
        self.and("id <", until_ms.map(highest_of));
        self.and("created_at <", until_ms);
    }

    /// What reads the `limit` newest of these rows, newest first, and what is bound; `select` ends with WHERE.
    pub fn statement(mut self, select: &str, limit: i64) -> (String, Vec<Val>) {
        self.vals.push(Val::Int(limit));
        (format!("{select}{} ORDER BY id DESC LIMIT ?", self.text), self.vals)
    }

    /// The `limit` newest of these rows, newest first; `select` ends with WHERE.
    pub async fn newest<T>(
        self,
        conn: &mut AnyConnection,
        select: &str,
        limit: i64,
        row: impl Fn(&AnyRow) -> Result<T, DbError>,
    ) -> Result<Vec<T>, DbError> {
        let (text, vals) = self.statement(select, limit);
        sql::fetch(conn, text, vals).await?.iter().map(row).collect()
    }
}
