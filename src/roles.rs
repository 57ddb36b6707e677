//! The roles: each has its flow (the transactions), its events (messages in) and its API (HTTP in).

pub mod deliveries;
pub mod messages;
pub mod notify;
pub mod order;
pub mod payment;
pub mod reply;
pub mod sandbox;
pub mod search;
pub mod stock;
