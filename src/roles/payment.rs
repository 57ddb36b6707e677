//! The payment role: opens payments, of shop orders and of merchants, takes the channels' word, gives money back.

pub mod api;
pub mod callback;
pub mod channels;
pub mod close;
pub mod doubt;
pub mod events;
pub mod gateway;
pub mod merchants;
pub mod query;
pub mod refund;
pub mod stuck;
mod tell;
pub mod transaction;
pub mod unasked;
