//! The one test binary.
#![recursion_limit = "512"]

mod config;
mod http;
