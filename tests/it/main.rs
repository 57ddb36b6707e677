//! The one test binary: `support` is the harness, each other folder holds the tests of one subject.
#![recursion_limit = "512"]
// The harness is test code, but none of clippy's tests: it may fail a test by panicking.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod audit;
mod cluster;
mod contract;
mod coupons;
mod database;
mod faults;
mod merchants;
mod messaging;
mod notices;
mod operator;
mod orders;
mod outbound;
mod payments;
mod points;
mod stock;
mod support;
