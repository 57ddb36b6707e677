//! What breaks: the process, the database, the broker, Redis; at random and at every point.

mod cache_invalidation;
mod cache_versions;
mod crash;
mod database_away;
#[cfg(feature = "embedded")]
mod degraded;
mod model;
mod overload;
mod redis;
mod shutdown;
