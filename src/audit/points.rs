//! Points against orders, balances against records.

use super::{About, Auditor, Moment, Suspect, orders, payments};
use crate::db::DbError;
use crate::db::audit::{self as facts, OrderFact};
use crate::db::payments::RefundStatus;
use crate::domain::money::Money;
use crate::domain::order::RefundState;
use crate::domain::points::{Kind, Standing, earned};
use crate::domain::refund::points_back;

/// Each paid order earned its points once; a refunded one none.
pub(super) async fn of_orders(auditor: &Auditor<'_>, ids: &[i64]) -> Result<Vec<Suspect<i64>>, DbError> {
    let moment = auditor.moment();
    let mut orders = orders::settled(auditor, moment, ids).await?;
    orders.retain(|_, order| orders::is_paid(order) || order.refund == RefundState::Done.code());
    let keys: Vec<i64> = orders.keys().copied().collect();
    let mut conn = auditor.dbs.notify.read().await?;
    let records = facts::points(&mut conn, &keys).await?;
    drop(conn);
    let refunds = facts::refunds(&mut *auditor.dbs.payment.read().await?, &keys).await?;
    let judge = |order: &OrderFact| {
        let refunds = refunds.get(&order.id).map_or(&[][..], Vec::as_slice);
        // The news of a refund may be on its way.
        let told = refunds.iter().all(|refund| moment.overdue(refund.updated_at));
        let back = payments::sum(refunds.iter(), |refund| refund.status == RefundStatus::Success as i64);
        let records = records.get(&order.id).map_or(&[][..], Vec::as_slice);
        told.then(|| wrong(moment, order, back, records)).flatten()
    };
    Ok(orders.values().filter_map(|order| judge(order).map(|text| Suspect::of(order.id, text))).collect())
}

fn wrong(moment: Moment, order: &OrderFact, back: i64, records: &[(i64, i64, i64)]) -> Option<String> {
    let sum: i64 = records.iter().map(|(_, _, points)| points).sum();
    let late = moment.overdue(order.updated_at);
    if order.refund == RefundState::Done.code() {
        return (late && sum != 0).then(|| format!("refunded, but {sum} points are left"));
    }
    let granted = Money::from_minor(order.total).map_or(0, earned);
    let due = granted - points_back(granted, back, order.total);
    if back > 0 && sum == due && records.iter().all(|(_, user, _)| *user == order.user_id) {
        return None;
    }
    match records {
        // On its way, or nothing to grant.
        [] => (late && due > 0).then(|| format!("paid, but its {due} points were not granted")),
        [(kind, user, points)] if *kind == Kind::Grant.code() => (*points != due || *user != order.user_id)
            .then(|| format!("user {user} got {points} points instead of {due} for user {}", order.user_id)),
        // Corrected by hand, to what is due.
        _ if sum == due
            && records.iter().any(|(kind, ..)| *kind == Kind::Correct.code())
            && records.iter().all(|(_, user, _)| *user == order.user_id) =>
        {
            None
        }
        _ => Some(format!("paid, but its points (kind, user, points) are {records:?}")),
    }
}

/// The balance of each user, without its shortfall, is the sum of its records. Read in one statement, and so at one moment.
pub(super) async fn balances(auditor: &Auditor<'_>, users: &[i64]) -> Result<Vec<Suspect<i64>>, DbError> {
    let mut conn = auditor.dbs.notify.read().await?;
    let found = facts::points_balances(&mut conn, users).await?;
    let wrong = found.into_iter().filter(|(_, standing, sum)| *standing != Standing::of(*sum));
    let suspect = |(user, standing, sum): (i64, Standing, i64)| {
        let evidence = format!("balance {}, shortfall {}, records {sum}", standing.balance, standing.shortfall);
        Suspect { about: About::User(user), ..Suspect::of(user, evidence) }
    };
    Ok(wrong.map(suspect).collect())
}
