//! What can go wrong with the database.

use std::time::Duration;

use thiserror::Error;

use super::dialect::Cause;

/// An error of the database layer.
#[derive(Debug, Error)]
pub enum DbError {
    /// The server or the driver refused.
    #[error("database: {0}")]
    Sql(#[from] sqlx::Error),
    /// The session cannot be begun, used or ended, whatever the work on it.
    #[error("database: {0}")]
    Session(sqlx::Error),
    /// No answer within this time: the connection is closed, and what the server made of it is not known.
    #[error("the database has not answered for {} s", .0.as_secs())]
    Silent(Duration),
    /// All connections are in use.
    #[error("all connections to the database are in use (database.max_connections)")]
    Busy,
    /// Somebody else has held a lock that was needed for longer than it is waited for.
    #[error("a row is locked by somebody else")]
    Locked,
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

    /// What it comes from.
    fn cause(&self) -> Cause {
        match self {
            Self::Sql(error) => Cause::of(error),
            Self::Overtaken => Cause::Moment,
            Self::Locked => Cause::Locked,
            Self::Session(_) | Self::Silent(_) | Self::Busy | Self::Injected(_) | Self::NoNode | Self::Away => {
                Cause::Server
            }
            _ => Cause::Work,
        }
    }

    /// The same transaction may succeed at once: it lost a deadlock, or was overtaken.
    #[must_use]
    pub fn is_of_the_moment(&self) -> bool {
        self.cause() == Cause::Moment
    }

    /// The session or the server cannot work, or is busy: any other work would have failed as well, and the same may
    /// succeed later.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self.cause(), Cause::Moment | Cause::Server)
    }

    /// Nobody answers at the address, or only to say that it is not ready: it may come up. A refusal (a wrong password, no
    /// such database) is an answer.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        let refused = match self {
            Self::Session(error) | Self::Sql(error) => {
                let state = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
                state.starts_with("28") || state.starts_with("42")
            }
            // Planned, not met.
            _ => matches!(self, Self::Injected(_)),
        };
        self.is_outage() && !refused
    }

    /// Somebody else holds a lock that this work needs: other work can go on.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.cause() == Cause::Locked
    }

    /// The same work may succeed later as it is: it is no failed attempt of it.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        self.cause() != Cause::Work
    }

    /// A smaller piece of the same work may succeed: it was too much to be answered in time.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Silent(_))
    }

    /// The connection is not to be used again.
    pub(super) fn spoils(&self) -> bool {
        match self {
            Self::Session(_) | Self::Silent(_) => true,
            Self::Sql(error) => matches!(Cause::of(error), Cause::Server | Cause::Unclear),
            _ => false,
        }
    }

    /// What a failed COMMIT or ROLLBACK says about the session: no work can be blamed for that.
    pub(super) fn at_end(error: sqlx::Error) -> Self {
        if matches!(Cause::of(&error), Cause::Moment | Cause::Work) { Self::Sql(error) } else { Self::Session(error) }
    }
}
