//! The one test binary.
#![recursion_limit = "512"]

mod cli;
mod config;
mod http;
mod shutdown;
