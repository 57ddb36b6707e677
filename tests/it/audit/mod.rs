//! The audit, and its repairs.

mod checks;
mod copies;
mod halted_orders;
mod repair;
mod trust;
mod unknown_orders;
