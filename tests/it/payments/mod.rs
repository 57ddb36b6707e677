//! Payments and refunds: channels, the gateway of merchants, statements.

mod channel_faults;
mod channel_query;
mod gateway;
mod refunds;
mod statement;
