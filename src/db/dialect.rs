//! What SQLite and MySQL/MariaDB say differently.

use sqlx::AnyConnection;
use sqlx::mysql::MySqlDatabaseError;

use super::claim::Claim;
use super::pace::Pace;
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
        let counted = claim.counted.map(|(count, first)| {
            let value = format!("COALESCE({table}.{count}, {table}.{first}) + 1");
            format!("{} = {value}", name(count))
        });
        let set = bound.chain(emptied).chain(counted).collect::<Vec<_>>().join(", ");
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

    /// A server that guesses the type of a bound value in a select list may take it for a DOUBLE.
    #[test]
    fn numbers_in_lists_of_rows_have_their_type() {
        let columns = [Column::Set("status"), Column::Set("reason")];
        let text = Dialect::MySql.update_rows("t", "id", &columns, &[true, true, false], 2);
        let wanted = "UPDATE t JOIN (SELECT CAST(? AS SIGNED) AS k, CAST(? AS SIGNED) AS status, ? AS reason \
                      UNION ALL SELECT CAST(? AS SIGNED), CAST(? AS SIGNED), ?) v ON t.id = v.k \
                      SET t.status = v.status, t.reason = v.reason";
        assert_eq!(text, wanted);
        let counted = Some(("claims", "attempts"));
        let claim = Claim { table: "t", until: &["next_at"], emptied: &["held_by"], counted };
        let text = Dialect::MySql.claim_rows(&claim, 2);
        assert_eq!(text.matches('?').count() - text.matches("CAST(? AS SIGNED)").count(), 2, "{text}");
        let set = "SET t.claim_id = ?, t.next_at = ?, t.held_by = NULL, t.claims = COALESCE(t.claims, t.attempts) + 1";
        assert!(text.ends_with(set), "{text}");
    }
}
