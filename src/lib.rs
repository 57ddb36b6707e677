//! ruyi: an order → stock → payment → fulfilment → notification business on RocketMQ with exactly-once effects.
//!
//! Imports point down only: `cmd` → `roles` → {`mq`, `delivery`, `http`} → `db` → `domain`.
#![recursion_limit = "512"]

pub mod alert;
pub mod audit;
pub mod cache;
pub mod client;
pub mod clock;
pub mod cmd;
pub mod config;
pub mod db;
pub mod delivery;
pub mod domain;
pub mod fault;
pub mod http;
pub mod mq;
pub mod output;
pub mod process;
pub mod progress;
pub mod prune;
pub mod roles;
pub mod shutdown;
pub mod telemetry;
pub mod watchdog;
