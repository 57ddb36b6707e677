//! The view that is searched against the orders.

use super::{Auditor, Suspect, orders};
use crate::db::DbError;
use crate::db::order_view;

/// `order_view`: each order is shown in its version. What tells of the last one may still be on its way.
pub(super) async fn check(auditor: &Auditor<'_>, ids: &[i64]) -> Result<Vec<Suspect<i64>>, DbError> {
    let moment = auditor.moment();
    let orders = orders::settled(auditor, moment, ids).await?;
    let keys: Vec<i64> = orders.keys().copied().collect();
    let shown = order_view::versions(&mut *auditor.dbs.notify.read().await?, keys).await?;
    let mut suspects = Vec::new();
    for order in orders.values() {
        let evidence = match shown.get(&order.id) {
            _ if !moment.overdue(order.updated_at) => continue,
            None => format!("order in version {}, the search has none", order.version),
            Some(version) if *version == order.version => continue,
            Some(version) => format!("order in version {}, the search shows version {version}", order.version),
        };
        suspects.push(Suspect::of(order.id, evidence));
    }
    Ok(suspects)
}
