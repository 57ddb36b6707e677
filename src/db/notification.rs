//! `notification`: what users were told inside the application.

use std::collections::HashMap;

use sqlx::AnyConnection;

use super::sql::{self, Columns, Val};
use super::{DbError, Tx};
use crate::domain::event::Kind;
use crate::domain::notice::OWN_TEXTS;
use crate::vals;

/// A message to a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Event that caused it: one message per event.
    pub event_id: String,
    /// Whom.
    pub user_id: i64,
    /// About which order.
    pub order_id: i64,
    /// Name of the text.
    pub template: String,
    /// JSON that fills the text.
    pub params: String,
}

/// Writes messages; those of an event that has one already are left out.
///
/// # Errors
/// The database's.
pub async fn insert(tx: &mut Tx, notifications: &[Notification]) -> Result<(), DbError> {
    let now_ms = tx.now_ms();
    let rows = notifications
        .iter()
        .map(|one| vals![tx.next_id(), &one.event_id, one.user_id, one.order_id, &one.template, &one.params, now_ms])
        .collect();
    let columns = "notification (id, event_id, user_id, order_id, template, params, created_at)";
    // An event tells its user one thing, whoever was first to write it.
    sql::insert_ignore(tx, columns, rows).await?.or_known();
    Ok(())
}

/// What ruyi tells the user of an order by itself. What other systems have told may be for anybody.
fn is_own(template: &str) -> bool {
    let without_text = [Kind::OrderFulfillSuccess, Kind::OrderOutStock].map(Kind::name);
    without_text.contains(&template) || OWN_TEXTS.iter().any(|(own, _)| *own == template)
}

/// Whose these orders are, as far as ruyi told their users anything yet: whoever was told first.
///
/// # Errors
/// The database's.
pub async fn users_of_orders(conn: &mut AnyConnection, order_ids: Vec<i64>) -> Result<HashMap<i64, i64>, DbError> {
    let before = "SELECT order_id, user_id, template FROM notification WHERE order_id";
    let keys = order_ids.into_iter().map(Val::Int).collect();
    let mut users = HashMap::new();
    for row in sql::select_in(conn, before, " ORDER BY id", &[], keys).await? {
        if is_own(&row.text(2)?) {
            users.entry(row.int(0)?).or_insert(row.int(1)?);
        }
    }
    Ok(users)
}

/// A message as it is listed.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Id; the list goes down from it.
    pub id: i64,
    /// About which order.
    pub order_id: i64,
    /// Name of the text.
    pub template: String,
    /// JSON that fills the text.
    pub params: String,
    /// Epoch ms.
    pub created_at: i64,
}

/// Messages of a user, newest first, older than `before_id`.
///
/// # Errors
/// The database's.
pub async fn of_user(
    conn: &mut AnyConnection,
    user_id: i64,
    before_id: i64,
    limit: i64,
) -> Result<Vec<Listed>, DbError> {
    let text = "SELECT id, order_id, template, params, created_at FROM notification \
                WHERE user_id = ? AND id < ? ORDER BY id DESC LIMIT ?";
    let rows = sql::fetch(conn, text, vals![user_id, before_id, limit]).await?;
    rows.iter()
        .map(|row| {
            Ok(Listed {
                id: row.int(0)?,
                order_id: row.int(1)?,
                template: row.text(2)?,
                params: row.text(3)?,
                created_at: row.int(4)?,
            })
        })
        .collect()
}
