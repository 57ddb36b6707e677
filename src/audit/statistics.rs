//! Statistics of days against the payments that they count.

use std::collections::BTreeMap;

use super::{About, Auditor, Check, Suspect, amount};
use crate::db::DbError;
use crate::db::audit::{self as facts, CountedPayment};
use crate::db::statistics::{self, Key, Sum};
use crate::domain::payment::Status;
use crate::domain::statistics::{Type, day_of};

/// What a line must at least say (payments that have not changed for so long that they must have been counted), and at
/// most (all of them).
#[derive(Default)]
struct Bounds {
    least: Sum,
    most: Sum,
}

/// Every line of the statistics whose product, channel and tenant have payments here, from the first day on that was
/// counted. Lines that only other systems count are theirs.
pub(super) async fn check(auditor: &mut Auditor<'_>) -> Result<(), DbError> {
    let mut wrong = look(auditor).await?;
    if !wrong.is_empty() {
        // What was on its way has arrived by now, or is late.
        wrong = look(auditor).await?;
    }
    auditor.found(Check::Statistics, wrong);
    Ok(())
}

async fn look(auditor: &mut Auditor<'_>) -> Result<Vec<Suspect<i64>>, DbError> {
    // The lines first: whatever they count is in the payments that are read after them.
    let lines = statistics::all(&mut *auditor.dbs.notify.read().await?).await?;
    let Some(first) = lines.keys().next().map(|key| key.date.clone()) else { return Ok(Vec::new()) };
    let bounds = recount(auditor).await?;
    let none = Sum::default();
    let mut wrong = Vec::new();
    let mut judged = 0;
    for (key, Bounds { least, most }) in bounds.iter().filter(|(key, _)| key.date >= first) {
        judged += 1;
        let line = lines.get(key).unwrap_or(&none);
        let count = (least.count..=most.count).contains(&line.count);
        if count && (least.money..=most.money).contains(&line.money) {
            continue;
        }
        let show = |sum: &Sum| match key.kind {
            Type::Submit => sum.count.to_string(),
            Type::Success => format!("{} of {}", sum.count, amount(sum.money, "")),
        };
        let name = [&key.date, &key.product_id, &key.channel_id, &key.tenant_id].map(String::as_str).join(" ");
        let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
        let evidence = format!("{}: counted {}, payments {}", key.kind.name(), show(line), show(most));
        wrong.push(Suspect { id: 0, key: name, evidence, about: About::Orphan });
    }
    auditor.checked(Check::Statistics, judged);
    Ok(wrong)
}

async fn recount(auditor: &Auditor<'_>) -> Result<BTreeMap<Key, Bounds>, DbError> {
    let moment = auditor.moment();
    let mut bounds: BTreeMap<Key, Bounds> = BTreeMap::new();
    let mut after = 0;
    loop {
        let mut conn = auditor.dbs.payment.read().await?;
        let page = facts::counted_payments(&mut conn, after, auditor.options.page.max(1)).await?;
        drop(conn);
        let Some(last) = page.last() else { return Ok(bounds) };
        after = last.id;
        for payment in &page {
            let mut add = |kind, at_ms, overdue| {
                let of = bounds.entry(key(auditor, payment, kind, at_ms)).or_default();
                of.most.add(kind, payment.amount, "");
                if overdue {
                    of.least.add(kind, payment.amount, "");
                }
            };
            add(Type::Submit, payment.created_at, moment.overdue(payment.created_at));
            if Status::from_code(payment.status).is_some_and(Status::has_money) {
                add(Type::Success, payment.pay_time.unwrap_or(0), moment.overdue(payment.updated_at));
            }
        }
    }
}

fn key(auditor: &Auditor<'_>, payment: &CountedPayment, kind: Type, at_ms: i64) -> Key {
    Key {
        date: day_of(at_ms, &auditor.options.zone),
        product_id: payment.product_id.clone(),
        channel_id: payment.channel_id.clone(),
        tenant_id: payment.tenant_id.clone(),
        kind,
    }
}
