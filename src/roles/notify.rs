//! The notify role: points, messages to users and merchants, statistics.

pub mod api;
pub mod events;
mod gifts;
pub mod merchants;
pub mod notices;
pub mod order_view;
mod points_of;
pub mod secrets;
pub mod statistics;
