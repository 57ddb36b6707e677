//! The payment role: opens payments, takes the channels' word, gives money back.

pub mod api;
pub mod callback;
pub mod channels;
pub mod events;
pub mod refund;
pub mod stuck;
pub mod transaction;
