//! Outgoing calls, and alerts.

mod alerts;
mod breaker;
mod by_hand;
mod calls;
#[cfg(feature = "embedded")]
mod deliveries_api;
mod guard;
mod refund_calls;
mod sandbox;
