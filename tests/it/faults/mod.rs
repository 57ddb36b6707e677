//! What breaks: the process, the database, the broker, Redis; at random and at every point.

mod cache_invalidation;
mod cache_versions;
mod crash;
mod database_away;
mod database_hangs;
mod database_start;
#[cfg(feature = "embedded")]
mod degraded;
mod failover;
mod locked_rows;
mod model;
mod overload;
mod redis;
mod rolled_back;
mod shutdown;
mod standing;
mod wrong_clock;
