//! PAYMENT_SUCCESS as a transaction message.

mod broker;
mod crash;
mod local;
mod stuck;
