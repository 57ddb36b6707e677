//! What to run, and why it does not start.

use std::net::SocketAddr;
use std::time::Duration;

use crate::clock::Clock;
use crate::db::DbError;
use crate::domain::event::Role;
use crate::fault::Faults;
use crate::http;
use crate::mq::rocketmq::MqError;

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which roles.
    pub roles: Vec<Role>,
    /// What is done for them.
    pub work: Work,
    /// Where to listen, if at all.
    pub listen: Option<SocketAddr>,
    /// Start the broker inside this process where no outside one is configured.
    pub embed_broker: bool,
    /// Planned failures.
    pub faults: Faults,
    /// Source of "now".
    pub clock: Clock,
}

/// What a process does for its roles. The events of whatever it writes it sends in any case, and it sweeps up those
/// that others left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Answers their HTTP API; probes and metrics it answers wherever it listens.
    pub api: bool,
    /// Consumes the messages of their groups.
    pub consume: bool,
    /// Tries parked messages again.
    pub retry: bool,
    /// Cancels what was not paid in time.
    pub timeouts: bool,
    /// Makes outgoing calls.
    pub deliveries: bool,
}

impl Work {
    /// `ruyi serve`.
    pub const SERVE: Self = Self { api: true, consume: true, retry: true, timeouts: true, deliveries: true };
    /// `ruyi worker retry`.
    pub const RETRY: Self = Self { api: false, consume: false, retry: true, timeouts: false, deliveries: false };
    /// `ruyi worker timeout`.
    pub const TIMEOUT: Self = Self { api: false, consume: false, retry: false, timeouts: true, deliveries: false };
}

impl Plan {
    /// `work` for `roles`, on the machine's clock and without planned failures. Serving several roles, it brings its
    /// own broker where none is configured.
    #[must_use]
    pub fn new(roles: &[Role], work: Work, listen: Option<SocketAddr>) -> Self {
        Self {
            roles: roles.to_vec(),
            work,
            listen,
            embed_broker: work.consume && roles.len() > 1,
            faults: Faults::none(),
            clock: Clock::system(),
        }
    }
}

/// Why a process does not start. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process works on the same data directory.
    #[error("another ruyi process uses the data directory {0}: stop it, or choose another with --set data_dir=...")]
    Locked(String),
    /// The data directory cannot be used.
    #[error("cannot use the data directory {path}: {source}")]
    DataDir {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The schema is older than this program.
    #[error("the database misses {0} migrations: run `ruyi db migrate` first")]
    NotMigrated(usize),
    /// The server of the tables was not there, however long it was waited for.
    #[error(
        "the database {shown} was not there within {} s (database.wait): start it, or correct database.url",
        .waited.as_secs()
    )]
    NoDatabase {
        /// Its URL, without a password.
        shown: String,
        /// How long.
        waited: Duration,
        /// The last error.
        source: DbError,
    },
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The broker.
    #[error(transparent)]
    Mq(#[from] MqError),
    /// There is no broker to be found.
    #[error("{0}")]
    NoBroker(String),
    /// The HTTP address.
    #[error(transparent)]
    Listen(#[from] http::ListenError),
    /// Anything else that does not start.
    #[error("{0}")]
    Other(String),
}
