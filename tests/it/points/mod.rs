//! Points.

mod at_once;
mod order_points;
