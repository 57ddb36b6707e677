//! The one test binary.
#![recursion_limit = "512"]

mod cli;
mod config;
mod delivery;
mod http;
#[cfg(feature = "embedded")]
mod rocketmq;
mod shutdown;
