//! The roles: what `ruyi serve` serves.

pub mod sandbox;
