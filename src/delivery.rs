//! Outgoing calls, HTTP and SMTP: recorded by the roles in their own transactions, made here, outside any transaction.
//!
//! A call is claimed for the length of a lease, made, and what came of many calls is recorded in one transaction
//! together with the effects that their kinds have. What happens between a call and its record is made good by the
//! call being made again, with the same `Idempotency-Key`.

mod answer;
mod breaker;
mod call;
mod engine;
mod guard;
mod hand;
mod lanes;
pub mod mask;
mod notice;
mod post;
mod providers;
mod query;
mod record;
mod schedule;
pub mod sign;
mod target;
pub mod webhook;

pub use engine::{BuildError, Engine, EngineConfig};
pub use guard::Resolve;
pub use hand::{cancel, resend};
pub use post::Poster;
pub use providers::Providers;
pub use record::{Answered, Effects, Said, Settled, Verdict, no_effects, record_answers};
pub use target::{SandboxCall, Targets, channel_of};
