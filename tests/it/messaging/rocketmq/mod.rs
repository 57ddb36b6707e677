//! The client of RocketMQ, on the embedded broker and on Apache RocketMQ.

#[cfg(feature = "embedded")]
mod backlog;
#[cfg(feature = "embedded")]
mod client;
mod compressed;
mod fresh_topics;
#[cfg(feature = "embedded")]
mod moved;
#[cfg(feature = "embedded")]
mod outage;
mod rejoin;
mod secured;
