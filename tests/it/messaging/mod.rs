//! Messages: brokers, transaction messages, retries, and the services of others.

#[cfg(feature = "embedded")]
mod catching_up;
#[cfg(feature = "embedded")]
mod embedded_store;
mod event_coverage;
mod foreign_bodies;
mod java_consumer;
mod java_services;
#[cfg(feature = "embedded")]
mod lanes_without_database;
mod last_resort;
mod message_api;
mod message_kinds;
mod pay_timeout;
mod poison;
mod resend;
mod retry_lane;
mod retry_park_dlq;
mod rocketmq;
#[cfg(feature = "embedded")]
mod role_processes;
mod slow_broker;
#[cfg(feature = "embedded")]
mod standing_lane;
mod too_large;
mod trace_context;
mod transaction;
