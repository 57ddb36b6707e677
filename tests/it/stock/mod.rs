//! Products and stock.

mod availability;
mod import;
mod sold_out_gate;
