//! The one test binary.
#![recursion_limit = "512"]

mod alerts;
mod audit;
mod availability;
mod bad_input;
mod cache;
mod catalogue;
mod cli;
mod client;
mod cluster;
mod config;
mod coupons;
mod coverage;
mod crash;
mod database_away;
mod db;
#[cfg(feature = "embedded")]
mod degraded;
#[cfg(feature = "embedded")]
mod deliveries;
mod delivery;
mod docs;
mod fulfilment;
mod gateway;
mod http;
mod import;
mod interop;
mod kinds;
mod layers;
mod manual;
mod merchants;
mod message_api;
mod model;
mod notices;
mod operator;
mod order_flow;
mod parties;
mod pay_timeout;
mod points;
mod poison;
#[cfg(feature = "embedded")]
mod processes;
mod prune;
mod query;
mod refunds;
mod resend;
mod retry_lane;
mod retry_park_dlq;
#[cfg(feature = "embedded")]
mod rocketmq;
mod rocketmq_rejoin;
mod rocketmq_secured;
mod role_databases;
mod search;
mod servers;
mod serving;
mod shop;
mod shutdown;
mod statement;
mod supply_chain;
mod too_large;
mod trace_context;
mod transaction;
