//! The notify role: points and messages to users.

pub mod api;
pub mod events;
mod points_of;
