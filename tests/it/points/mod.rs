//! Points.

mod order_points;
