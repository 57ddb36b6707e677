//! Messaging: what every role shares of RocketMQ, outbox, inbox, retry and dead letters.

pub mod backlog;
pub mod broker;
pub mod consume;
#[cfg(feature = "embedded")]
pub mod embedded;
pub mod handler;
pub mod health;
pub mod lanes;
pub mod left_behind;
pub mod local;
pub mod message;
pub mod operate;
pub mod owners;
pub mod reader;
pub mod relay;
pub mod retry;
pub mod rocketmq;
pub mod runtime;
mod share;
mod spread;
pub mod sweep;

pub use broker::Broker;
pub use consume::Consumer;
pub use handler::{Event, Handler, Outcome};
