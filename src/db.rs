//! The database: pools, the one way to write, and one file per table with its SQL in plain sight.
//!
//! One path over `sqlx::Any` serves SQLite and MySQL/MariaDB; what differs goes through [`Dialect`]. Columns are
//! BIGINT, SMALLINT, VARCHAR, TEXT and LONGBLOB only, because `Any` fails on others, and only at run time.

pub mod addresses;
pub mod audit;
pub mod availability;
mod bodies;
pub mod claim;
mod connection;
pub mod contacts;
pub mod coupons;
pub mod delivery;
pub mod dialect;
pub mod error;
mod gate;
pub mod gateway;
pub mod group;
mod health;
pub mod hot;
mod ids;
pub mod inbox;
pub mod look;
pub mod merchants;
pub mod migrate;
pub mod node;
pub mod notification;
pub mod order_view;
pub mod orders;
pub mod outbox;
pub mod pace;
mod page;
pub mod payments;
pub mod points;
pub mod pool;
pub mod products;
pub mod prune;
pub mod refunds;
pub mod requests;
pub mod retry;
mod server_time;
pub mod sql;
pub mod statistics;
pub mod stock;
pub mod trace;
pub mod tx;
pub mod tx_state;
pub mod walk;

/// What sqlx logs (slow statements, slow acquisition of connections) is no news for people: what comes of it is told in our
/// own words.
pub const NOISY_TARGETS: &[&str] = &["sqlx"];

pub use connection::Conn;
pub use dialect::Dialect;
pub use error::DbError;
pub use ids::Ids;
pub use pool::{Db, Options};
pub use tx::Tx;
