//! The business, pure: values that cannot be wrong, state machines, and the catalogue of events.
//! Knows std, serde, thiserror, the calendar of jiff and the schemas of utoipa; no runtime, no database, no clock.

pub mod asyncapi;
pub mod call;
pub mod coupon;
pub mod doc;
pub mod event;
pub mod id;
pub mod loose;
pub mod merchant;
pub mod money;
pub mod notice;
pub mod order;
pub mod payment;
pub mod points;
pub mod refund;
pub mod schema;
pub mod statistics;
pub mod stock;
pub mod time;
