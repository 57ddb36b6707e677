//! Walks over keys: a page of keys, a judgement, and a second look at what seemed wrong.

use super::{
    About, Auditor, Check, Suspect, copies, coupons, events, gateway, orders, payments, points, progress, stock, trust,
    view,
};
use crate::db::DbError;
use crate::db::audit::{self as facts, Ids, Orphans};
use crate::domain::event::Role;

/// A rule about single keys: it reads all that it needs for a page of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    RowOfOrder,
    Reservations,
    ReservationOfOrder,
    OrderOfReservation,
    PaymentOfOrder,
    RefundOfOrder,
    OrderOfPayment,
    GatewayPayments,
    ProgressOfOrder,
    PointsOfOrder,
    PointsOfUser,
    CouponOfOrder,
    OrderOfCoupon,
    EventsOfOrder,
    ViewOfOrder,
    MerchantCopies,
    RepeatedMovements,
    RepeatedNotices,
}

impl Rule {
    pub const ALL: [Self; 18] = [
        Self::RowOfOrder,
        Self::Reservations,
        Self::ReservationOfOrder,
        Self::OrderOfReservation,
        Self::PaymentOfOrder,
        Self::RefundOfOrder,
        Self::OrderOfPayment,
        Self::GatewayPayments,
        Self::ProgressOfOrder,
        Self::PointsOfOrder,
        Self::PointsOfUser,
        Self::CouponOfOrder,
        Self::OrderOfCoupon,
        Self::EventsOfOrder,
        Self::ViewOfOrder,
        Self::MerchantCopies,
        Self::RepeatedMovements,
        Self::RepeatedNotices,
    ];

    fn check(self) -> Check {
        match self {
            Self::RowOfOrder => Check::OrderRows,
            Self::Reservations => Check::StockReservations,
            Self::ReservationOfOrder | Self::OrderOfReservation => Check::ReservationsMatchOrders,
            Self::PaymentOfOrder => Check::PaidOrdersHavePayment,
            Self::RefundOfOrder | Self::OrderOfPayment => Check::PaymentsHaveOrder,
            Self::GatewayPayments => Check::GatewayPayments,
            Self::ProgressOfOrder => Check::NothingStuck,
            Self::PointsOfOrder | Self::PointsOfUser => Check::Points,
            Self::CouponOfOrder | Self::OrderOfCoupon => Check::Coupons,
            Self::EventsOfOrder => Check::EventsOfStates,
            Self::ViewOfOrder => Check::OrderView,
            Self::MerchantCopies => Check::Copies,
            Self::RepeatedMovements | Self::RepeatedNotices => Check::Duplicates,
        }
    }

    fn keys(self) -> (Role, Ids) {
        match self {
            Self::Reservations | Self::OrderOfReservation => (Role::Stock, Ids::Reservations),
            Self::RowOfOrder
            | Self::ReservationOfOrder
            | Self::PaymentOfOrder
            | Self::RefundOfOrder
            | Self::PointsOfOrder
            | Self::CouponOfOrder
            | Self::EventsOfOrder
            | Self::ViewOfOrder => (Role::Order, Ids::Orders),
            Self::OrderOfCoupon => (Role::Order, Ids::Coupons),
            Self::ProgressOfOrder => (Role::Order, Ids::OpenOrders),
            Self::OrderOfPayment => (Role::Payment, Ids::Payments),
            Self::GatewayPayments => (Role::Payment, Ids::GatewayPayments),
            Self::MerchantCopies => (Role::Payment, Ids::MerchantCopies),
            Self::PointsOfUser => (Role::Notify, Ids::PointsUsers),
            Self::RepeatedMovements => (Role::Stock, Ids::LedgerOrders),
            Self::RepeatedNotices => (Role::Notify, Ids::NotifiedOrders),
        }
    }

    async fn judge(self, auditor: &Auditor<'_>, ids: &[i64]) -> Result<Vec<Suspect<i64>>, DbError> {
        match self {
            Self::RowOfOrder => trust::check(auditor, ids).await,
            Self::Reservations => stock::reservations(auditor, ids).await,
            Self::ReservationOfOrder => orders::reservations(auditor, ids).await,
            Self::OrderOfReservation => orders::unknown(auditor, ids).await,
            Self::PaymentOfOrder => orders::payments(auditor, ids).await,
            Self::RefundOfOrder => {
                let mut suspects = payments::refunds_of_orders(auditor, ids).await?;
                suspects.extend(payments::parts_of_orders(auditor, ids).await?);
                Ok(suspects)
            }
            Self::OrderOfPayment => payments::orders_of_payments(auditor, ids).await,
            Self::GatewayPayments => gateway::payments(auditor, ids).await,
            Self::ProgressOfOrder => progress::halted(auditor, ids).await,
            Self::PointsOfOrder => points::of_orders(auditor, ids).await,
            Self::PointsOfUser => points::balances(auditor, ids).await,
            Self::CouponOfOrder => coupons::of_orders(auditor, ids).await,
            Self::OrderOfCoupon => coupons::of_coupons(auditor, ids).await,
            Self::EventsOfOrder => events::of_states(auditor, ids).await,
            Self::ViewOfOrder => view::check(auditor, ids).await,
            Self::MerchantCopies => copies::merchants(auditor, ids).await,
            Self::RepeatedMovements => {
                let mut conn = auditor.dbs.stock.read().await?;
                Ok(repeated("stock moved", facts::repeated_movements(&mut conn, ids).await?))
            }
            Self::RepeatedNotices => {
                let mut conn = auditor.dbs.notify.read().await?;
                Ok(repeated("user told", facts::repeated_notices(&mut conn, ids).await?))
            }
        }
    }
}

fn repeated(what: &str, found: Vec<(i64, String, i64)>) -> Vec<Suspect<i64>> {
    found.into_iter().map(|(id, which, rows)| Suspect::of(id, format!("{what} {rows} times: {which}"))).collect()
}

/// Judges every key of a rule.
pub(super) async fn walk(auditor: &mut Auditor<'_>, rule: Rule) -> Result<(), DbError> {
    let (role, which) = rule.keys();
    let mut after = 0;
    loop {
        let ids = {
            let mut conn = auditor.dbs.of(role).read().await?;
            facts::ids(&mut conn, which, after, auditor.options.page.max(1)).await?
        };
        let Some(last) = ids.last().copied() else { return Ok(()) };
        after = last;
        auditor.checked(rule.check(), ids.len());
        let mut suspects = rule.judge(auditor, &ids).await?;
        if !suspects.is_empty() {
            let mut again: Vec<i64> = suspects.iter().map(|suspect| suspect.id).collect();
            again.dedup();
            suspects = rule.judge(auditor, &again).await?;
        }
        auditor.found(rule.check(), suspects);
    }
}

/// A rule about single SKUs.
#[derive(Clone, Copy)]
pub(super) enum SkuRule {
    Level,
    Copy,
}

impl SkuRule {
    fn check(self) -> Check {
        match self {
            Self::Level => Check::StockLedger,
            Self::Copy => Check::Copies,
        }
    }

    /// The next SKUs after `after` that it is about.
    async fn keys(self, auditor: &Auditor<'_>, after: &str) -> Result<Vec<String>, DbError> {
        let limit = auditor.options.page.max(1);
        match self {
            Self::Level => facts::skus(&mut *auditor.dbs.stock.read().await?, after, limit).await,
            Self::Copy => facts::copied_skus(&mut *auditor.dbs.order.read().await?, after, limit).await,
        }
    }

    async fn judge(self, auditor: &Auditor<'_>, skus: &[String]) -> Result<Vec<Suspect<String>>, DbError> {
        match self {
            Self::Level => stock::levels(auditor, skus).await,
            Self::Copy => copies::skus(auditor, skus).await,
        }
    }
}

/// Judges every SKU of a rule.
pub(super) async fn walk_skus(auditor: &mut Auditor<'_>, rule: SkuRule) -> Result<(), DbError> {
    let mut after = String::new();
    loop {
        let skus = rule.keys(auditor, &after).await?;
        let Some(last) = skus.last() else { return Ok(()) };
        after.clone_from(last);
        auditor.checked(rule.check(), skus.len());
        let mut suspects = rule.judge(auditor, &skus).await?;
        if !suspects.is_empty() {
            let again: Vec<String> = suspects.iter().map(|suspect| suspect.id.clone()).collect();
            suspects = rule.judge(auditor, &again).await?;
        }
        auditor.found(rule.check(), suspects);
    }
}

/// Rows that belong to nothing. A row and what it belongs to are written together, and read in one statement.
pub(super) async fn orphans(auditor: &mut Auditor<'_>) -> Result<(), DbError> {
    let all = [
        (Role::Stock, Orphans::LedgerSkus, Check::StockLedger, "ledger rows, but no such SKU"),
        (Role::Stock, Orphans::LedgerOrders, Check::StockReservations, "ledger rows, but no reservation of the order"),
        (Role::Notify, Orphans::PointsUsers, Check::Points, "points records, but no balance of the user"),
        (Role::Notify, Orphans::PointsSources, Check::Points, "source of points, but no record"),
        (Role::Payment, Orphans::Refunds, Check::PaymentsHaveOrder, "refunds, but no such payment"),
    ];
    for (role, which, check, what) in all {
        let mut conn = auditor.dbs.of(role).read().await?;
        let found = facts::orphans(&mut conn, which, auditor.options.page.max(1)).await?;
        drop(conn);
        let about = |key: &str| match which {
            Orphans::LedgerSkus => About::Sku(key.to_owned()),
            Orphans::PointsUsers => key.parse().map_or(About::Orphan, About::User),
            Orphans::LedgerOrders | Orphans::PointsSources | Orphans::Refunds => About::Orphan,
        };
        let suspect = |(key, rows): (String, i64)| {
            let about = about(&key);
            Suspect { id: (), key, evidence: format!("{rows} {what}"), about }
        };
        auditor.found(check, found.into_iter().map(suspect).collect());
    }
    Ok(())
}
