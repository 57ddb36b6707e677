//! The one test binary.
#![recursion_limit = "512"]

mod cli;
mod client;
mod config;
mod http;
#[cfg(feature = "embedded")]
mod rocketmq;
mod shutdown;
