//! What SQLite and MySQL/MariaDB say differently.

use sqlx::AnyConnection;
use sqlx::mysql::MySqlDatabaseError;

use super::pace::Pace;

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

    /// Statements for every new connection of a pool, beside [`Dialect::session_init`]. A lock is waited for as long as a
    /// request can wait, for rows as for tables. A session whose client is gone without a word, and the locks that it
    /// holds, end within a minute; on MariaDB ten seconds after its last statement.
    #[must_use]
    pub fn serving_init(self) -> &'static str {
        match self {
            Self::MySql => {
                "SET SESSION innodb_lock_wait_timeout = 2, SESSION lock_wait_timeout = 3, SESSION wait_timeout = 60 \
                 /*M!100300 , SESSION idle_transaction_timeout = 10 */"
            }
            Self::Sqlite => "",
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
}

/// What an error of the database comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Another transaction was in the way: run again at once, it may succeed.
    Moment,
    /// A lock of somebody else was not given up in time, or the server stopped a statement that took too long.
    Locked,
    /// The session or the server cannot work.
    Server,
    /// The server says that it cannot do this, and nobody can tell whether it could do anything else.
    Unclear,
    /// What was to be written or read.
    Work,
}

impl Cause {
    /// By the class of the error first: the numbers are only those whose class says too little or the wrong thing. What
    /// is in no class is unclear and not guessed.
    pub fn of(error: &sqlx::Error) -> Self {
        use sqlx::Error as E;
        let Some(database) = error.as_database_error() else {
            return match error {
                E::Io(_) | E::Tls(_) | E::Protocol(_) | E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed => {
                    Self::Server
                }
                E::BeginFailed | E::InvalidSavePointStatement | E::Configuration(_) => Self::Server,
                _ => Self::Work,
            };
        };
        match database.try_downcast_ref::<MySqlDatabaseError>() {
            Some(mysql) => Self::of_mysql(mysql.number(), mysql.code().unwrap_or_default()),
            None => Self::of_sqlite(database.code().and_then(|code| code.parse().ok()).unwrap_or_default()),
        }
    }

    /// `state` is the SQLSTATE, whose first two characters are the class.
    fn of_mysql(number: u16, state: &str) -> Self {
        match number {
            // MariaDB: the row was changed since it was read. TiDB: a write conflict, and a schema that was changed
            // meanwhile, some of it told only at the commit, which then has not happened.
            1020 | 8002 | 8022 | 8028 | 9007 => return Self::Moment,
            // A wait for a lock, a lock that was not waited for, a SELECT over the server's limit (the others are 70100).
            1205 | 3024 | 3572 => return Self::Locked,
            // Disk full or broken (errors of the engine are 1030), table full, shutting down, killed, read-only in all
            // its forms, too many prepared statements, connections of a user or uses of it; TiDB: store or placement
            // driver away, busy, or without a leader.
            1021
            | 1026
            | 1030
            | 1036
            | 1037
            | 1038
            | 1041
            | 1053
            | 1105
            | 1114
            | 1129
            | 1135
            | 1180
            | 1203
            | 1226
            | 1290
            | 1461
            | 1836
            | 1874
            | 1927
            | 2006
            | 2013
            | 4031
            | 9001..=9006
            | 9009
            | 9010
            | 9012
            | 9013 => {
                return Self::Server;
            }
            // Too large for the server (1153 has the class of a broken connection), or a value it does not take; TiDB:
            // a row or a transaction over its limits.
            1118 | 1153 | 1267 | 1364 | 1366 | 1390 | 1411 | 3988 | 8004 | 8025 => return Self::Work,
            _ => {}
        }
        match state.get(..2).unwrap_or_default() {
            // Rolled back: a deadlock, or a cluster of servers that did not agree.
            "40" => Self::Moment,
            // Stopped by somebody, or by the server's own limit of time.
            "70" => Self::Locked,
            // Connection, authorization, no database chosen, state of the transaction (as read-only), resources,
            // intervention of an operator.
            "08" | "25" | "28" | "3D" | "53" | "57" | "58" => Self::Server,
            // Cardinality, value, constraint, check option.
            "21" | "22" | "23" | "44" => Self::Work,
            _ => Self::Unclear,
        }
    }

    /// `code` may be an extended one: its lowest byte is the class.
    fn of_sqlite(code: i32) -> Self {
        match code & 0xff {
            // BUSY, LOCKED, SCHEMA.
            5 | 6 | 17 => Self::Moment,
            // PERM, NOMEM, READONLY, INTERRUPT, IOERR, CORRUPT, FULL, CANTOPEN, PROTOCOL, NOLFS, AUTH, NOTADB.
            3 | 7..=11 | 13..=15 | 22 | 23 | 26 => Self::Server,
            // TOOBIG, CONSTRAINT, MISMATCH, RANGE.
            18..=20 | 25 => Self::Work,
            _ => Self::Unclear,
        }
    }
}

/// How long the statements of a session wait for locks that others hold on rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LockWait {
    /// As [`Dialect::serving_init`] says.
    Usual,
    /// Not at all on MariaDB; one second where the server knows nothing shorter.
    Short,
}

impl LockWait {
    /// Of work at this pace.
    pub fn of(pace: Pace) -> Self {
        if pace == Pace::Hurried { Self::Short } else { Self::Usual }
    }

    /// `opening` (ROLLBACK or [`Dialect::begin`]) on a session that has waited otherwise until now.
    pub fn before(self, opening: &str) -> &'static str {
        match (self, opening == Dialect::MySql.begin()) {
            (Self::Usual, true) => "SET SESSION innodb_lock_wait_timeout = 2; BEGIN",
            (Self::Usual, false) => "SET SESSION innodb_lock_wait_timeout = 2; ROLLBACK",
            (Self::Short, true) => "SET SESSION innodb_lock_wait_timeout = 1 /*M!100300 - 1 */; BEGIN",
            (Self::Short, false) => "SET SESSION innodb_lock_wait_timeout = 1 /*M!100300 - 1 */; ROLLBACK",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_a_server_by_class() {
        for (number, state, cause) in [
            (1213, "40001", Cause::Moment),
            (3101, "40000", Cause::Moment),
            (9007, "HY000", Cause::Moment),
            (1205, "HY000", Cause::Locked),
            (1969, "70100", Cause::Locked),
            (1792, "25006", Cause::Server),
            (1290, "HY000", Cause::Server),
            (1047, "08S01", Cause::Server),
            (1040, "08004", Cause::Server),
            (1045, "28000", Cause::Server),
            (1927, "70100", Cause::Server),
            (1146, "42S02", Cause::Unclear),
            (1142, "42000", Cause::Unclear),
            (4711, "HY000", Cause::Unclear),
            (1406, "22001", Cause::Work),
            (1062, "23000", Cause::Work),
            (1153, "08S01", Cause::Work),
        ] {
            assert_eq!(Cause::of_mysql(number, state), cause, "{number} ({state})");
        }
    }

    #[test]
    fn errors_of_a_file_by_class() {
        for (code, cause) in [
            (5, Cause::Moment),
            (517, Cause::Moment),
            (13, Cause::Server),
            (778, Cause::Server),
            (1032, Cause::Server),
            (2067, Cause::Work),
            (1, Cause::Unclear),
        ] {
            assert_eq!(Cause::of_sqlite(code), cause, "{code}");
        }
    }
}
