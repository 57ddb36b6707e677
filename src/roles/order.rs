//! The order role: accepts orders, moves them, and hands them to the warehouse.

pub mod address;
pub mod api;
pub mod availability;
pub mod cancel;
mod coupons;
pub mod events;
pub mod flow;
pub mod gate;
pub mod pay_timeout;
pub mod place;
pub mod refunds;
pub mod refusal;
pub mod timeout;
pub mod view;
