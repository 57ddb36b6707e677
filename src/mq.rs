//! Messaging: what every role shares of RocketMQ, outbox, inbox, retry and dead letters.

pub mod message;
