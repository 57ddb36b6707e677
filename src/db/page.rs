//! Pages of logs whose ids grow with time, newest first.

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::DbError;
use super::sql::{self, Val};
use crate::domain::id::first_id_of;
use crate::vals;

/// An id is at most so much older than its row.
const ID_SLACK_MS: i64 = 3_600_000;

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
        self.and("id >=", since_ms.map(|at_ms| first_id_of(at_ms.saturating_sub(ID_SLACK_MS), 0)));
        self.and("created_at >=", since_ms);
    }

    /// Written before this, epoch ms.
    pub fn until(&mut self, until_ms: Option<i64>) {
        // Ids are made after a transaction's time: a little younger than their row, at most.
        self.and("id <", until_ms.map(|at_ms| first_id_of(at_ms.saturating_add(ID_SLACK_MS), 0)));
        self.and("created_at <", until_ms);
    }

    /// The `limit` newest of these rows, newest first; `select` ends with WHERE.
    pub async fn newest<T>(
        mut self,
        conn: &mut AnyConnection,
        select: &str,
        limit: i64,
        row: impl Fn(&AnyRow) -> Result<T, DbError>,
    ) -> Result<Vec<T>, DbError> {
        self.vals.push(Val::Int(limit));
        let text = format!("{select}{} ORDER BY id DESC LIMIT ?", self.text);
        sql::fetch(conn, text, self.vals).await?.iter().map(row).collect()
    }
}
