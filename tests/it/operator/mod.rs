//! The commands of operators.

mod check;
#[cfg(feature = "embedded")]
mod delivery;
mod dlq;
mod doctor;
mod healthcheck;
mod keyless;
#[cfg(feature = "embedded")]
mod lost;
mod messages;
mod offsets;
#[cfg(feature = "embedded")]
mod outbox;
mod plan;
mod prune;
#[cfg(feature = "embedded")]
mod restore;
mod standing;
mod topics;
#[cfg(feature = "embedded")]
mod trace;
