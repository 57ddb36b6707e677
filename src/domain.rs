//! The business, pure: values that cannot be wrong, state machines, and the catalogue of events.
//! Knows std, serde and thiserror; no runtime, no database, no clock.

pub mod doc;
pub mod event;
pub mod id;
pub mod money;
pub mod order;
pub mod payment;
pub mod points;
pub mod stock;
