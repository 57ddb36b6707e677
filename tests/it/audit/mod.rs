//! The audit, and its repairs.

mod checks;
mod halted_orders;
mod repair;
mod trust;
mod unknown_orders;
