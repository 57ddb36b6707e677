//! The harness: servers, shops and parties that the tests of all subjects use. No test is here.

pub mod broker_bench;
#[cfg(feature = "embedded")]
pub mod client_bench;
pub mod clustered_roles;
pub mod crashed_process;
pub mod dead_letters;
pub mod documented;
pub mod event_cases;
pub mod failing_handler;
pub mod fake_api;
pub mod held_news;
pub mod holding_handler;
#[cfg(feature = "embedded")]
pub mod keyed_order;
pub mod lanes_bench;
pub mod mail_server;
pub mod meeting;
pub mod merchant_accounts;
pub mod message_rows;
pub mod notice_shop;
#[cfg(feature = "embedded")]
pub mod operated_broker;
pub mod operators;
pub mod outbound;
pub mod parties;
pub mod probe;
pub mod program;
pub mod proxy;
pub mod recovery;
pub mod role_books;
pub mod servers;
pub mod serving;
#[cfg(feature = "embedded")]
pub mod shared_broker;
pub mod shop;
pub mod shoppers;
pub mod small_shop;
pub mod sources;
pub mod transaction_brokers;
pub mod waiting;

/// The number that the environment variable `name` holds, if it is set.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}
