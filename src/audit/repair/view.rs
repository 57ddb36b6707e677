//! The view that is searched: the order decides.

use super::{Action, Plan};
use crate::audit::RoleDbs;
use crate::db::{DbError, order_view, orders};
use crate::domain::event::OrderDataSync;

/// An order as it is now, with its lines.
pub(super) async fn as_it_is(dbs: &RoleDbs, order_id: i64) -> Result<Option<OrderDataSync>, DbError> {
    let mut conn = dbs.order.read().await?;
    let Some(order) = orders::get(&mut conn, order_id).await? else { return Ok(None) };
    let items = orders::items(&mut conn, &[order_id]).await?.remove(&order_id).unwrap_or_default();
    let lines = items.into_iter().map(|item| (item.sku, item.quantity)).collect();
    Ok(Some(order.synced(order.version, order.updated_at, Some(lines))))
}

/// An order that the search shows otherwise, or not at all.
pub(super) async fn plan(dbs: &RoleDbs, order_id: i64) -> Result<Plan, DbError> {
    let Some(order) = as_it_is(dbs, order_id).await? else { return Ok(Plan::Healed) };
    let shown = order_view::versions(&mut *dbs.notify.read().await?, vec![order_id]).await?.remove(&order_id);
    if shown == Some(order.version) {
        return Ok(Plan::Healed);
    }
    Ok(Plan::Mend(Action::View(order_id, shown)))
}
