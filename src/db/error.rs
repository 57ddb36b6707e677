//! What can go wrong with the database.

use super::Dialect;
use thiserror::Error;

/// An error of the database layer.
#[derive(Debug, Error)]
pub enum DbError {
    /// The server or the driver refused.
    #[error("database: {0}")]
    Sql(#[from] sqlx::Error),
    /// A row holds what this version cannot read.
    #[error("{table} {key}: {what}")]
    Row {
        /// Table.
        table: &'static str,
        /// Key of the row.
        key: String,
        /// What is wrong with it.
        what: String,
    },
    /// A value could not be written as JSON.
    #[error("cannot write JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// An event that no broker would take: its row is not written, and trying again changes nothing.
    #[error("{event_id} is {bytes} bytes, and mq.producer.max_message is {max_bytes}")]
    TooLarge {
        /// Event.
        event_id: String,
        /// Body and properties, as encoded.
        bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// An event whose properties a message cannot carry: its row is not written either.
    #[error("{event_id} cannot be a message: {what}")]
    Unsendable {
        /// Event.
        event_id: String,
        /// Why not.
        what: String,
    },
    /// The transaction's code panicked or was stopped; nothing of it was written.
    #[error("the transaction stopped: {0}")]
    Stopped(String),
    /// A test made it fail.
    #[error("fault injected at {0}")]
    Injected(String),
    /// Another transaction wrote what this one had found missing: it is to be run again, on what is there now.
    #[error("another transaction came first")]
    Overtaken,
    /// The address cannot be used.
    #[error("{0}")]
    Config(String),
    /// The lease of the node number ran out, so no ids can be given out until there is another.
    #[error("this process has no node number: the database was away for longer than its lease holds")]
    NoNode,
    /// The server has not answered lately, and somebody else is waiting for it already.
    #[error("the database does not answer")]
    Away,
    /// Migrations could not be run.
    #[error("{0}")]
    Migrate(String),
}

impl DbError {
    /// A row with this key exists already.
    #[must_use]
    pub fn is_unique_violation(&self) -> bool {
        matches!(self, Self::Sql(error) if error.as_database_error().is_some_and(|error| error.is_unique_violation()))
    }

    /// The same work can never succeed, and nothing is wrong with the database.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::Unsendable { .. })
    }

    /// The same transaction may succeed at once: it lost a deadlock, or was overtaken.
    #[must_use]
    pub fn is_of_the_moment(&self) -> bool {
        match self {
            Self::Overtaken => true,
            Self::Sql(error) => Dialect::is_retryable(error),
            _ => false,
        }
    }

    /// The database is away or busy: the same work may succeed later, and nothing is wrong with the work itself.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Injected(_) | Self::NoNode | Self::Away | Self::Overtaken => true,
            Self::Sql(error) => {
                matches!(
                    error,
                    sqlx::Error::Io(_)
                        | sqlx::Error::PoolTimedOut
                        | sqlx::Error::PoolClosed
                        | sqlx::Error::WorkerCrashed
                        | sqlx::Error::Tls(_)
                        | sqlx::Error::Protocol(_)
                ) || Dialect::is_retryable(error)
                    || is_server_state(error)
            }
            _ => false,
        }
    }
}

/// The server says that it cannot work now: shutting down, too many connections, read-only, disk full.
fn is_server_state(error: &sqlx::Error) -> bool {
    let Some(database) = error.as_database_error() else { return false };
    if let Some(mysql) = database.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        return matches!(
            mysql.number(),
            1021 | 1040 | 1053 | 1077 | 1079 | 1105 | 1129 | 1152 | 1290 | 1317 | 1927 | 2006 | 2013
                // TiDB: placement driver or store away, busy, or without a leader.
                | 9001..=9006 | 9009 | 9010 | 9012 | 9013
        );
    }
    // SQLITE_IOERR (10 and its extended codes), SQLITE_FULL (13), SQLITE_READONLY (8).
    database.code().and_then(|code| code.parse::<i32>().ok()).is_some_and(|code| matches!(code & 0xff, 8 | 10 | 13))
}
