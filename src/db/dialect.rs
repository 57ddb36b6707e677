//! What SQLite and MySQL/MariaDB say differently.

use sqlx::AnyConnection;
use sqlx::mysql::MySqlDatabaseError;

use super::claim::Claim;
use super::sql::Column;

/// The SQL dialect of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// MySQL, MariaDB, TiDB.
    MySql,
    /// SQLite.
    Sqlite,
}

impl Dialect {
    /// The dialect that a connection speaks.
    #[must_use]
    pub fn of(conn: &AnyConnection) -> Self {
        if conn.backend_name() == "SQLite" { Self::Sqlite } else { Self::MySql }
    }

    /// Opens a transaction that may write. SQLite takes the write lock at once: a deferred transaction that turns
    /// into a writer fails with SQLITE_BUSY_SNAPSHOT, whatever the busy timeout.
    #[must_use]
    pub fn begin(self) -> &'static str {
        match self {
            Self::MySql => "BEGIN",
            Self::Sqlite => "BEGIN IMMEDIATE",
        }
    }

    /// Statements for every new connection.
    #[must_use]
    pub fn session_init(self) -> &'static str {
        match self {
            // The collation of literals and derived tables has to be that of the columns.
            Self::MySql => {
                "SET NAMES utf8mb4 COLLATE utf8mb4_bin; SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
            }
            Self::Sqlite => {
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 15000; \
                 PRAGMA cache_size = -32000; PRAGMA temp_store = MEMORY"
            }
        }
    }

    /// `INSERT` that skips rows whose key exists, as (beginning, end) around `INTO t ... VALUES ...`.
    #[must_use]
    pub fn insert_ignore(self) -> (&'static str, &'static str) {
        match self {
            Self::MySql => ("INSERT IGNORE", ""),
            Self::Sqlite => ("INSERT", " ON CONFLICT DO NOTHING"),
        }
    }

    /// End of an insert that, where `key` exists, sets `set` and adds to `add`.
    #[must_use]
    pub fn on_conflict(self, key: &str, set: &[&str], add: &[&str]) -> String {
        let new = |column: &&str| match self {
            Self::MySql => format!("VALUES({column})"),
            Self::Sqlite => format!("excluded.{column}"),
        };
        let mut parts: Vec<String> = set.iter().map(|column| format!("{column} = {}", new(column))).collect();
        parts.extend(add.iter().map(|column| format!("{column} = {column} + {}", new(column))));
        match self {
            Self::MySql => format!(" ON DUPLICATE KEY UPDATE {}", parts.join(", ")),
            Self::Sqlite => format!(" ON CONFLICT ({key}) DO UPDATE SET {}", parts.join(", ")),
        }
    }

    /// End of an insert into `table` that, where `key` exists, sets `set` and `version` if the new version is greater,
    /// and else changes nothing.
    #[must_use]
    pub fn on_newer(self, table: &str, key: &str, version: &str, set: &[&str]) -> String {
        match self {
            Self::MySql => {
                let newer =
                    |column: &&str| format!("{column} = IF(VALUES({version}) > {version}, VALUES({column}), {column})");
                // Assigned from the left: what the others are compared with has to be last.
                let parts: Vec<String> = set.iter().chain(&[version]).map(newer).collect();
                format!(" ON DUPLICATE KEY UPDATE {}", parts.join(", "))
            }
            Self::Sqlite => {
                let parts: Vec<String> =
                    set.iter().chain(&[version]).map(|column| format!("{column} = excluded.{column}")).collect();
                let parts = parts.join(", ");
                format!(" ON CONFLICT ({key}) DO UPDATE SET {parts} WHERE excluded.{version} > {table}.{version}")
            }
        }
    }

    /// End of a SELECT whose rows nobody else may change until the commit. SQLite has one writer: nothing to say.
    #[must_use]
    pub fn for_update(self) -> &'static str {
        match self {
            Self::MySql => " FOR UPDATE",
            Self::Sqlite => "",
        }
    }

    /// End of a SELECT that leaves out rows which somebody else has locked. It takes nothing: TiDB reads the words and
    /// locks no row, so [`super::claim`] compares.
    #[must_use]
    pub fn skip_locked(self) -> &'static str {
        match self {
            Self::MySql => " FOR UPDATE SKIP LOCKED",
            Self::Sqlite => "",
        }
    }

    /// One UPDATE of `rows` rows, each with its own values: binds `key, columns...` row by row. `numbers` says which of
    /// these are numbers: a server that guesses the type of a `?` may compare ids as DOUBLE, which holds 15 digits.
    #[must_use]
    pub fn update_rows(self, table: &str, key: &str, columns: &[Column], numbers: &[bool], rows: usize) -> String {
        let assign = |prefix: &str| {
            let parts: Vec<String> = columns
                .iter()
                .map(|column| match column {
                    Column::Set(name) => format!("{prefix}{name} = v.{name}"),
                    Column::Add(name) => format!("{prefix}{name} = {table}.{name} + v.{name}"),
                })
                .collect();
            parts.join(", ")
        };
        let names: Vec<&str> = std::iter::once("k").chain(columns.iter().map(Column::name)).collect();
        let set = match self {
            Self::Sqlite => assign(""),
            Self::MySql => assign(&format!("{table}.")),
        };
        self.update_from(table, &set, &format!("{table}.{key} = v.k"), (&names, numbers, rows))
    }

    /// One UPDATE that claims `rows` rows of a table: binds `id` and `next_at` as it was read, row by row, then the
    /// number of the claim, and the end of its lease for each column that takes it.
    #[must_use]
    pub(super) fn claim_rows(self, claim: &Claim, rows: usize) -> String {
        let table = claim.table;
        let name = |column: &str| match self {
            Self::Sqlite => column.to_owned(),
            Self::MySql => format!("{table}.{column}"),
        };
        let bound = std::iter::once(&"claim_id").chain(claim.until).map(|column| format!("{} = ?", name(column)));
        let emptied = claim.emptied.iter().map(|column| format!("{} = NULL", name(column)));
        let set = bound.chain(emptied).collect::<Vec<_>>().join(", ");
        let unchanged = format!("{table}.id = v.k AND {table}.next_at = v.was");
        self.update_from(table, &set, &unchanged, (&["k", "was"], &[true, true], rows))
    }

    /// An UPDATE of `table` from a list `v` of `rows` bound rows, with these names of columns, of which some are numbers.
    fn update_from(self, table: &str, set: &str, on: &str, list: (&[&str], &[bool], usize)) -> String {
        let (names, numbers, rows) = list;
        match self {
            Self::Sqlite => {
                let row = format!("({}?)", "?,".repeat(names.len() - 1));
                let (names, values) = (names.join(","), vec![row; rows].join(","));
                format!("WITH v ({names}) AS (VALUES {values}) UPDATE {table} SET {set} FROM v WHERE {on}")
            }
            Self::MySql => {
                let types = numbers.iter().map(|number| if *number { "CAST(? AS SIGNED)" } else { "?" });
                let types: Vec<&str> = types.collect();
                let first: Vec<String> =
                    types.iter().zip(names).map(|(value, name)| format!("{value} AS {name}")).collect();
                let others = format!(" UNION ALL SELECT {}", types.join(", ")).repeat(rows - 1);
                format!("UPDATE {table} JOIN (SELECT {}{others}) v ON {on} SET {set}", first.join(", "))
            }
        }
    }

    /// The same transaction may succeed if it is run again: deadlock, lock wait, busy; on TiDB, where some of it shows
    /// only at the commit, which then has not happened, also a write conflict (9007, 8022, 8002) and a schema that was
    /// changed meanwhile (8028).
    #[must_use]
    pub fn is_retryable(error: &sqlx::Error) -> bool {
        let Some(database) = error.as_database_error() else { return false };
        if let Some(mysql) = database.try_downcast_ref::<MySqlDatabaseError>() {
            return matches!(mysql.number(), 1205 | 1213 | 8002 | 8022 | 8028 | 9007);
        }
        matches!(database.code().as_deref(), Some("5" | "6" | "261" | "517"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that guesses the type of a bound value in a select list may take it for a DOUBLE.
    #[test]
    fn numbers_in_lists_of_rows_have_their_type() {
        let columns = [Column::Set("status"), Column::Set("reason")];
        let text = Dialect::MySql.update_rows("t", "id", &columns, &[true, true, false], 2);
        let wanted = "UPDATE t JOIN (SELECT CAST(? AS SIGNED) AS k, CAST(? AS SIGNED) AS status, ? AS reason \
                      UNION ALL SELECT CAST(? AS SIGNED), CAST(? AS SIGNED), ?) v ON t.id = v.k \
                      SET t.status = v.status, t.reason = v.reason";
        assert_eq!(text, wanted);
        let claim = Claim { table: "t", until: &["next_at"], emptied: &["held_by"] };
        let text = Dialect::MySql.claim_rows(&claim, 2);
        assert_eq!(text.matches('?').count() - text.matches("CAST(? AS SIGNED)").count(), 2, "{text}");
        assert!(text.ends_with("SET t.claim_id = ?, t.next_at = ?, t.held_by = NULL"), "{text}");
    }
}
