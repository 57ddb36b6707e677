//! What an operator wants to know of a database server and its tables. No row is written.

use sqlx::AnyConnection;

use super::sql::{self, Columns};
use super::{DbError, Dialect};
use crate::vals;

/// Settings of a MySQL or MariaDB server that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Largest statement or row that it takes, bytes.
    pub max_packet: i64,
    /// 1: what was committed is on the disk.
    pub flush_at_commit: i64,
    /// Writes are refused.
    pub read_only: bool,
    /// Connections that it takes at most.
    pub max_connections: i64,
}

/// What the server calls itself.
///
/// # Errors
/// The database's.
pub async fn version(conn: &mut AnyConnection) -> Result<String, DbError> {
    let text = match Dialect::of(conn) {
        Dialect::Sqlite => "SELECT 'SQLite ' || sqlite_version()",
        Dialect::MySql => "SELECT VERSION()",
    };
    sql::fetch_one(conn, text, vec![]).await?.map_or_else(|| Ok(String::new()), |row| row.text(0))
}

/// The server's clock, epoch ms; `None` for SQLite, which has none of its own.
///
/// # Errors
/// The database's.
pub async fn now_ms(conn: &mut AnyConnection) -> Result<Option<i64>, DbError> {
    if Dialect::of(conn) == Dialect::Sqlite {
        return Ok(None);
    }
    let text = "SELECT CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)";
    sql::fetch_one(conn, text, vec![]).await?.map_or(Ok(None), |row| row.maybe_int(0))
}

/// The largest body that one row may have, in bytes: a statement with it, and with the other columns, has to fit into
/// one packet of the server. SQLite takes whatever a message can be.
///
/// # Errors
/// The database's.
pub(super) async fn body_max(conn: &mut AnyConnection) -> Result<usize, DbError> {
    const OTHER_COLUMNS: usize = 128 << 10;
    if Dialect::of(conn) == Dialect::Sqlite {
        return Ok(usize::MAX);
    }
    let row = sql::fetch_one(conn, "SELECT CAST(@@max_allowed_packet AS SIGNED)", vec![]).await?;
    let packet = row.map_or(Ok(0), |row| row.int(0))?;
    let packet = usize::try_from(packet).unwrap_or(0);
    Ok(packet - OTHER_COLUMNS.min(packet / 2))
}

/// Its settings; `None` for SQLite.
///
/// # Errors
/// The database's.
pub async fn settings(conn: &mut AnyConnection) -> Result<Option<Settings>, DbError> {
    if Dialect::of(conn) == Dialect::Sqlite {
        return Ok(None);
    }
    let text = "SELECT CAST(@@max_allowed_packet AS SIGNED), CAST(@@innodb_flush_log_at_trx_commit AS SIGNED), \
                CAST(@@read_only AS SIGNED), CAST(@@max_connections AS SIGNED)";
    let row = sql::fetch_one(conn, text, vec![]).await?;
    row.map(|row| {
        Ok(Settings {
            max_packet: row.int(0)?,
            flush_at_commit: row.int(1)?,
            read_only: row.int(2)? != 0,
            max_connections: row.int(3)?,
        })
    })
    .transpose()
}

/// Fails where rows could not be written: every statement here touches none, and the transaction is rolled back.
///
/// # Errors
/// What the database said.
pub async fn may_write(conn: &mut AnyConnection) -> Result<(), DbError> {
    const TOUCH_NOTHING: [&str; 3] = [
        "INSERT INTO node_lease (node, owner, lease_until) SELECT node, owner, lease_until FROM node_lease WHERE 1 = 0",
        "UPDATE message_record SET attempts = attempts WHERE 1 = 0",
        "DELETE FROM message_record WHERE 1 = 0",
    ];
    let begin = Dialect::of(conn).begin();
    sql::run(conn, begin).await?;
    let mut result = Ok(());
    for text in TOUCH_NOTHING {
        result = sql::run(conn, text).await;
        if result.is_err() {
            break;
        }
    }
    sql::run(conn, "ROLLBACK").await?;
    result
}

/// The id of the row that is `depth` rows before row `before` of a table of messages; `None` when there are not so many.
///
/// # Errors
/// The database's.
pub async fn floor(
    conn: &mut AnyConnection,
    table: &'static str,
    before: i64,
    depth: i64,
) -> Result<Option<i64>, DbError> {
    let text = format!("SELECT id FROM {table} WHERE id < ? ORDER BY id DESC LIMIT 1 OFFSET ?");
    sql::fetch_one(conn, text, vals![before, depth]).await?.map(|row| row.int(0)).transpose()
}
