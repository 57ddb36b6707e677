//! The one test binary.
#![recursion_limit = "512"]

#[cfg(feature = "embedded")]
mod rocketmq;
