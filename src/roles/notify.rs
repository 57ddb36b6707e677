//! The notify role: points and messages to users.

pub mod api;
pub mod events;
mod gifts;
mod points_of;
