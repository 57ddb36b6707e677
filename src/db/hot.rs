//! The statements that loops run all the time, whether there is work or not, and those that a request or a message runs:
//! a test looks at what they read over a long history.

use super::delivery::{self, Kind, held};
use super::sql::Val;
use super::{merchants, node, order_view, orders, outbox, payments, retry, stock};
use crate::domain::id::first_id_of;
use crate::domain::order::Status;
use crate::vals;

/// A statement as it is run.
#[derive(Clone, Debug)]
pub struct Hot {
    /// Whose it is.
    pub name: &'static str,
    /// Its text.
    pub text: String,
    /// What is bound.
    pub vals: Vec<Val>,
}

/// All of them, at `now_ms`.
#[must_use]
pub fn statements(now_ms: i64) -> Vec<Hot> {
    let hot = |name, text: &str, vals| Hot { name, text: text.to_owned(), vals };
    let kinds = [Kind::Merchant, Kind::Sms, Kind::Email];
    let bound = |name, (text, vals): (String, Vec<Val>)| Hot { name, text, vals };
    // A state that no order is in, and one that all orders are in.
    let (rare, usual) = (Some(Status::Delivery), Some(Status::Signed));
    let listed = |user_id, status| orders::listed(&orders::Filter { user_id, status, before_id: None, limit: 16 });
    let of_term = format!("{} IN (?)", order_view::OF_TERM);
    let submit = Kind::ChannelSubmit as i64;
    vec![
        hot("calls that are due", &delivery::due_text(), vals![Kind::Merchant as i64, now_ms, 256_i64]),
        hot("the next call", &delivery::next_due_text(&kinds), vec![Val::Int(delivery::GIVEN_UP); kinds.len()]),
        hot("endpoints that calls wait for", held::NEXT_ENDPOINT, vals![i64::MIN]),
        hot("calls that wait for an endpoint", held::OF_ENDPOINT, vals![1_i64, 2_i64]),
        hot("rows that are due", outbox::DUE, vals![now_ms, 256_i64]),
        hot("the next row", outbox::NEXT_DUE, vals![]),
        hot("messages that are due", retry::DUE, vals!["g", now_ms, 64_i64]),
        hot("the next message", retry::NEXT_DUE, vals!["g"]),
        hot("orders that are due", orders::DUE, vals![now_ms, 256_i64]),
        hot("the next order", orders::NEXT_DUE, vals![]),
        hot("rows that wait for a broker", outbox::OF_TIME, vals![outbox::HELD, 256_i64]),
        hot("the count of rows that are due", outbox::COUNT_DUE, vals![now_ms, outbox::COUNTED]),
        hot("the count of rows that wait for a broker", outbox::COUNT_OF_TIME, vals![outbox::HELD, outbox::COUNTED]),
        hot("groups with parked messages", retry::NEXT_GROUP, vals![""]),
        hot("the count of parked messages", retry::COUNT_OPEN, vals!["g", outbox::COUNTED]),
        hot("levels that are to be told", stock::SYNC_DUE, vals!["", now_ms, 256_i64]),
        hot("the level that waits the longest", stock::SYNC_OLDEST, vals![]),
        hot("the next submission", payments::FIRST_SUBMISSION, vals![first_id_of(now_ms, 0), i64::MAX, submit]),
        hot("the lease of a node number", node::RENEW, vals![now_ms, 1_i64, "nobody"]),
        bound("orders in a state", listed(None, rare)),
        bound("orders of a user", listed(Some(1), None)),
        bound("orders of a user in a state", listed(Some(1), usual)),
        bound("found orders of a user", order_view::of_user(1, None, 16)),
        bound("found orders of a user in a state", order_view::of_user(1, usual, 16)),
        hot("orders with a SKU", order_view::WITH_TERM, vals!["sku:tea", i64::MAX, 8_i64]),
        hot("which orders have a SKU", &of_term, vals!["sku:tea", 1_i64]),
        hot("who is told at an address", merchants::WITH_URL, vals!["https://shop.example/1"]),
    ]
}
