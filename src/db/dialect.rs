//! What SQLite and MySQL/MariaDB say differently.

use sqlx::AnyConnection;
use sqlx::mysql::MySqlDatabaseError;

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

    /// End of a SELECT that takes rows nobody else has taken. TiDB reads the words and waits for the others all the
    /// same: then it takes what they have left, only not at the same time.
    #[must_use]
    pub fn skip_locked(self) -> &'static str {
        match self {
            Self::MySql => " FOR UPDATE SKIP LOCKED",
            Self::Sqlite => "",
        }
    }

    /// One UPDATE of `rows` rows, each with its own values: binds `key, columns...` row by row. `assign` makes the
    /// right side of an assignment from the column's new value.
    #[must_use]
    pub fn update_rows(self, table: &str, key: &str, columns: &[super::sql::Column], rows: usize) -> String {
        let assign = |prefix: &str| {
            let parts: Vec<String> = columns
                .iter()
                .map(|column| match column {
                    super::sql::Column::Set(name) => format!("{prefix}{name} = v.{name}"),
                    super::sql::Column::Add(name) => format!("{prefix}{name} = {table}.{name} + v.{name}"),
                })
                .collect();
            parts.join(", ")
        };
        let names: Vec<&str> = columns.iter().map(super::sql::Column::name).collect();
        match self {
            Self::Sqlite => {
                let row = format!("({}?)", "?,".repeat(columns.len()));
                let values = vec![row; rows].join(",");
                format!(
                    "WITH v (k,{}) AS (VALUES {values}) UPDATE {table} SET {} FROM v WHERE {table}.{key} = v.k",
                    names.join(","),
                    assign("")
                )
            }
            Self::MySql => {
                let first: Vec<String> = names.iter().map(|name| format!("? AS {name}")).collect();
                let others = format!(" UNION ALL SELECT {}?", "?,".repeat(columns.len())).repeat(rows - 1);
                format!(
                    "UPDATE {table} JOIN (SELECT ? AS k, {}{others}) v ON {table}.{key} = v.k SET {}",
                    first.join(", "),
                    assign(&format!("{table}."))
                )
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
