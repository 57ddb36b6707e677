//! The stock role: holds, sells and releases pieces.

pub mod api;
pub mod events;
pub mod flow;
pub mod sync;
