//! The statements that loops run all the time, whether there is work or not: a test looks at what they read over a long
//! history.

use super::delivery::{self, Kind, held};
use super::sql::Val;
use super::{orders, outbox, retry};
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
    let kinds = [Kind::ChannelSubmit, Kind::ChannelRefund, Kind::ChannelQuery, Kind::Merchant];
    vec![
        hot("calls that are due", &delivery::due_text(&kinds), vals![now_ms, 256_i64]),
        hot("the next call", &delivery::next_due_text(&kinds), vals![delivery::GIVEN_UP]),
        hot("endpoints that calls wait for", held::NEXT_ENDPOINT, vals![i64::MIN]),
        hot("calls that wait for an endpoint", held::OF_ENDPOINT, vals![1_i64, 2_i64]),
        hot("rows that are due", outbox::DUE, vals![now_ms, 256_i64]),
        hot("the next row", outbox::NEXT_DUE, vals![]),
        hot("messages that are due", retry::DUE, vals!["g", now_ms, 64_i64]),
        hot("the next message", retry::NEXT_DUE, vals!["g"]),
        hot("orders that are due", orders::DUE, vals![now_ms, 256_i64]),
        hot("the next order", orders::NEXT_DUE, vals![]),
    ]
}
