//! Messaging: what every role shares of RocketMQ, outbox, inbox, retry and dead letters.

#[cfg(feature = "embedded")]
pub mod embedded;
pub mod message;
pub mod rocketmq;
pub mod runtime;
