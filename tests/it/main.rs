//! The one test binary.
#![recursion_limit = "512"]

mod audit;
mod cli;
mod config;
mod crash;
mod db;
mod delivery;
mod http;
mod layers;
#[cfg(feature = "embedded")]
mod rocketmq;
mod servers;
mod shutdown;
