//! What a channel's statement of a time has to have: the payments that it took in it, and the refunds that it made.

use sqlx::AnyConnection;

use super::{COLUMNS, PaymentRow, REFUNDS, RefundRow, RefundStatus, from_row, refund_from_row};
use crate::db::DbError;
use crate::db::sql::{self, Columns};
use crate::domain::id::first_id_of;
use crate::vals;

/// Longest time between the opening of a payment and its money, for [`paid_within`].
const OPEN_AT_MOST_MS: i64 = 30 * 86_400_000;

/// Up to 1,000 payments after this id whose money a channel took in this time (from, to; epoch ms), in the order of ids.
/// Those that were opened more than 30 days before are not looked for.
///
/// # Errors
/// The database's.
pub async fn paid_within(
    conn: &mut AnyConnection,
    channel_id: &str,
    (from_ms, to_ms): (i64, i64),
    after: i64,
) -> Result<Vec<PaymentRow>, DbError> {
    // Ids grow with time: they bound the walk over the primary key.
    let first = first_id_of(from_ms.saturating_sub(OPEN_AT_MOST_MS), 0);
    let text = format!(
        "SELECT {COLUMNS} FROM payment_record WHERE id > ? AND channel_id = ? AND pay_time >= ? AND pay_time < ? \
         ORDER BY id LIMIT 1000"
    );
    let vals = vals![after.max(first), channel_id, from_ms, to_ms];
    sql::fetch(conn, text, vals).await?.iter().map(from_row).collect()
}

/// A refund whose money is back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refunded {
    /// The refund.
    pub refund: RefundRow,
    /// When the channel was first to be asked, epoch ms.
    pub asked_at: i64,
    /// When the channel had said that it was done, epoch ms: it did it between the two.
    pub done_at: i64,
}

/// Up to 1,000 refunds that were done by whichever channel in this time (from, to; epoch ms) and come after this place
/// (time, id), in the order of time and id.
///
/// # Errors
/// The database's.
pub async fn refunded_within(
    conn: &mut AnyConnection,
    (from_ms, to_ms): (i64, i64),
    (after_ms, after): (i64, i64),
) -> Result<Vec<Refunded>, DbError> {
    // A success is final, so the time of its last change is that of the success.
    let text = format!(
        "{REFUNDS}updated_at >= ? AND updated_at < ? AND status = ? AND (updated_at > ? OR id > ?) \
         ORDER BY updated_at, id LIMIT 1000"
    );
    let vals = vals![from_ms.max(after_ms), to_ms, RefundStatus::Success as i64, after_ms, after];
    let rows = sql::fetch(conn, text, vals).await?;
    rows.iter()
        .map(|row| Ok(Refunded { refund: refund_from_row(row)?, asked_at: row.int(10)?, done_at: row.int(11)? }))
        .collect()
}
