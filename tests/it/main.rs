//! The one test binary.
#![recursion_limit = "512"]

mod audit;
mod cli;
mod config;
mod db;
mod delivery;
mod http;
mod model;
mod order_flow;
mod retry_park_dlq;
#[cfg(feature = "embedded")]
mod rocketmq;
mod servers;
mod shop;
mod shutdown;
