//! Payments of merchants: their money is kept or went back, and their merchants are told.

use super::payments::sum;
use super::{About, Auditor, Moment, Suspect, amount};
use crate::clock::rfc3339;
use crate::db::audit::{self as facts, GatewayFact, RefundFact};
use crate::db::payments::{PaymentRow, RefundStatus};
use crate::db::{DbError, outbox};
use crate::domain::event::Kind;
use crate::domain::payment::Status;

/// Every payment of the gateway.
pub(super) async fn payments(auditor: &Auditor<'_>, ids: &[i64]) -> Result<Vec<Suspect<i64>>, DbError> {
    let moment = auditor.moment();
    let mut conn = auditor.dbs.payment.read().await?;
    let mut found = facts::gateway_payments(&mut conn, ids).await?;
    found.retain(|payment| moment.settled(payment.updated_at));
    let keys: Vec<i64> = found.iter().map(|payment| PaymentRow::without_order(payment.id)).collect();
    let refunds = facts::refunds(&mut conn, &keys).await?;
    let told = |payment: &GatewayFact| format!("{}:PAID", Kind::OrderNotify.event_id(payment.id));
    let wanted = found.iter().filter(|payment| wants_to_know(moment, payment));
    let written = outbox::existing(&mut conn, wanted.map(told).collect()).await?;
    drop(conn);
    let mut suspects = Vec::new();
    for payment in &found {
        let refunds = refunds.get(&PaymentRow::without_order(payment.id)).map_or(&[][..], Vec::as_slice);
        let untold = wants_to_know(moment, payment) && !written.contains(&told(payment));
        let wrong = of_money(payment, refunds)
            .or_else(|| untold.then(|| format!("paid since {}, its merchant not told", rfc3339(payment.updated_at))));
        suspects.extend(wrong.map(|text| {
            let evidence = format!("payment {}: {text}", payment.id);
            Suspect { about: About::Orphan, ..Suspect::of(payment.id, evidence) }
        }));
    }
    Ok(suspects)
}

/// Its money is there, and not for longer than events are kept. That the event was handled is another check.
fn wants_to_know(moment: Moment, payment: &GatewayFact) -> bool {
    let url = payment.notify_url.as_deref().is_some_and(|url| !url.is_empty());
    url && payment.status == Status::Success.code() && payment.updated_at >= moment.events_since
}

fn of_money(payment: &GatewayFact, refunds: &[RefundFact]) -> Option<String> {
    let Some(status) = Status::from_code(payment.status) else {
        return Some(format!("unknown state {}", payment.status));
    };
    if payment.notify_url.is_none() {
        return Some("its merchant and number are gone".to_owned());
    }
    let money = |minor| amount(minor, &payment.currency);
    let back = sum(refunds.iter(), |refund| refund.status == RefundStatus::Success as i64);
    let promised = sum(refunds.iter(), |refund| refund.status != RefundStatus::Failed as i64);
    let text = |text: &str| Some(format!("{}, {text}", status.name()));
    if promised > payment.amount {
        return text(&format!("but {} of {} goes back", money(promised), money(payment.amount)));
    }
    match status {
        Status::Pending | Status::Closed if promised > 0 => text("but money goes back that never came"),
        Status::Success if back == payment.amount => text("but all of its money went back"),
        Status::Refunding if promised < payment.amount && refunds.is_empty() => text("but no refund"),
        Status::Refunded if back != payment.amount => {
            text(&format!("but {} of {} went back", money(back), money(payment.amount)))
        }
        _ => None,
    }
}
