//! Coupons.

mod order_coupons;
