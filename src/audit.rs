//! The proof on live data: every order, payment, piece of stock, point and event is where it belongs.
//!
//! It runs beside a working system without locking it: it only reads, page by page, judges nothing that changed within
//! the settle window, and looks a second time before it reports anything. What may still be on its way is a violation
//! only once it is older than the bound.

mod copies;
mod coupons;
mod events;
mod evidence;
mod gateway;
mod orders;
mod payments;
mod points;
mod progress;
pub mod repair;
pub mod statement;
mod statistics;
mod stock;
mod stuck;
mod trust;
mod view;
mod walk;

use jiff::tz::TimeZone;
pub use progress::{Next, next};
use serde::Serialize;

use crate::db::audit::Stuck;
use crate::db::{Db, DbError};
use crate::domain::event::{Group, Kind, Role};
use crate::domain::money::Money;

/// The databases of the roles. They may all be the same.
#[derive(Clone, Debug)]
pub struct RoleDbs {
    /// Orders, products.
    pub order: Db,
    /// Payments, refunds.
    pub payment: Db,
    /// Stock.
    pub stock: Db,
    /// Points, notices.
    pub notify: Db,
}

impl RoleDbs {
    /// All roles in one database.
    #[must_use]
    pub fn one(db: &Db) -> Self {
        Self { order: db.clone(), payment: db.clone(), stock: db.clone(), notify: db.clone() }
    }

    /// `db` says which one a role's is.
    ///
    /// # Errors
    /// Those of `db`.
    pub fn each<E>(db: impl Fn(Role) -> Result<Db, E>) -> Result<Self, E> {
        Ok(Self {
            order: db(Role::Order)?,
            payment: db(Role::Payment)?,
            stock: db(Role::Stock)?,
            notify: db(Role::Notify)?,
        })
    }

    /// Closes all of them.
    pub async fn close(&self) {
        for db in self.distinct() {
            db.close().await;
        }
    }

    /// The database of a role.
    #[must_use]
    pub fn of(&self, role: Role) -> &Db {
        match role {
            Role::Order => &self.order,
            Role::Payment => &self.payment,
            Role::Stock => &self.stock,
            Role::Notify => &self.notify,
        }
    }

    /// Each database once.
    #[must_use]
    pub fn distinct(&self) -> Vec<&Db> {
        let mut all: Vec<&Db> = Vec::new();
        for role in Role::ALL {
            let db = self.of(role);
            if !all.iter().any(|known| known.is_same(db)) {
                all.push(db);
            }
        }
        all
    }
}

/// How strict and how thorough.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nothing that changed later than this ago is judged.
    pub settle_ms: i64,
    /// What is still on its way after this is a violation. After a drained run: as small as the settle window.
    pub bound_ms: i64,
    /// Orders that wait for the warehouse or the carrier for longer are a warning.
    pub parcel_bound_ms: i64,
    /// Where the days of the statistics begin (`statistics.time_zone`).
    pub zone: TimeZone,
    /// Keys read at once.
    pub page: i64,
    /// Violations reported per check; the others are only counted.
    pub evidence: usize,
    /// Sent outbox rows are kept for so long: the events of older orders are not looked for.
    pub events_kept_ms: i64,
    /// `order.data_sync`: every order is to be found by the search.
    pub data_sync: bool,
}

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Check {
    /// Orders against all that is known of them.
    OrderRows,
    /// Levels against the ledger.
    StockLedger,
    /// Reservations against the ledger.
    StockReservations,
    /// Orders against reservations.
    ReservationsMatchOrders,
    /// Paid orders against payments.
    PaidOrdersHavePayment,
    /// Payments and refunds against orders.
    PaymentsHaveOrder,
    /// Points against orders, balances against records.
    Points,
    /// Coupons against orders, templates against coupons.
    Coupons,
    /// Payments of merchants.
    GatewayPayments,
    /// Statistics against payments.
    Statistics,
    /// States against the outbox.
    EventsOfStates,
    /// Outbox against inboxes.
    EventsConsumed,
    /// Events against the calls that follow from them.
    Deliveries,
    /// The view that is searched against orders.
    OrderView,
    /// What the order role knows of stock, and the payment role of merchants, against these.
    Copies,
    /// What is past its time.
    NothingStuck,
    /// Effects that happened twice.
    Duplicates,
}

impl Check {
    /// Every check, in report order.
    pub const ALL: [Self; 17] = [
        Self::OrderRows,
        Self::StockLedger,
        Self::StockReservations,
        Self::ReservationsMatchOrders,
        Self::PaidOrdersHavePayment,
        Self::PaymentsHaveOrder,
        Self::Points,
        Self::Coupons,
        Self::GatewayPayments,
        Self::Statistics,
        Self::EventsOfStates,
        Self::EventsConsumed,
        Self::Deliveries,
        Self::OrderView,
        Self::Copies,
        Self::NothingStuck,
        Self::Duplicates,
    ];

    /// As in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OrderRows => "order_rows",
            Self::StockLedger => "stock_ledger",
            Self::StockReservations => "stock_reservations",
            Self::ReservationsMatchOrders => "reservations_match_orders",
            Self::PaidOrdersHavePayment => "paid_orders_have_payment",
            Self::PaymentsHaveOrder => "payments_have_order",
            Self::Points => "points",
            Self::Coupons => "coupons",
            Self::GatewayPayments => "gateway_payments",
            Self::Statistics => "statistics",
            Self::EventsOfStates => "events_of_states",
            Self::EventsConsumed => "events_consumed",
            Self::Deliveries => "deliveries",
            Self::OrderView => "order_view",
            Self::Copies => "copies",
            Self::NothingStuck => "nothing_stuck",
            Self::Duplicates => "duplicates",
        }
    }

    /// What holds when it finds nothing.
    #[must_use]
    pub fn description(self) -> &'static str {
        match self {
            Self::OrderRows => "the row of each order agrees with its events, its lines and its payment",
            Self::StockLedger => "the level of each SKU is the sum of its ledger, and never negative",
            Self::StockReservations => "what is frozen and sold is what the reservations hold",
            Self::ReservationsMatchOrders => "the stock of each order is held, sold or back, as its state says",
            Self::PaidOrdersHavePayment => "each paid order has one successful payment of its amount",
            Self::PaymentsHaveOrder => "all money taken belongs to a paid order, or goes back once",
            Self::Points => "each paid order earned its points once, refunded ones none; balances add up",
            Self::Coupons => {
                "each coupon is free, or with the one order that it reduced; no more are issued than there are"
            }
            Self::GatewayPayments => "the money of each merchant's payment is kept or went back, and the merchant told",
            Self::Statistics => "what is counted by day is what the payments say",
            Self::EventsOfStates => "each state has written its events",
            Self::EventsConsumed => "each event that was sent was handled by each of its groups",
            Self::Deliveries => "each event that merchants or users are to be told by has its call",
            Self::OrderView => "the search shows each order as it is",
            Self::Copies => "what a role keeps of another one's stock or merchants is not ahead of these",
            Self::NothingStuck => "nothing is past its time",
            Self::Duplicates => "no effect happened twice",
        }
    }
}

/// How a check went.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// [`Check::name`].
    pub name: &'static str,
    /// What holds when it finds nothing.
    pub description: &'static str,
    /// Rows looked at.
    pub checked: u64,
    /// Violations found.
    pub violations: u64,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, Serialize)]
pub struct Violation {
    /// [`Check::name`].
    pub check: &'static str,
    /// What it is about: an order, a SKU, a user, an event.
    pub key: String,
    /// What was read.
    pub evidence: String,
    /// The same for whoever mends it.
    #[serde(skip)]
    pub about: About,
}

/// What a violation is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// An order, its payment, its reservation, its points.
    Order(i64),
    /// A user's balance.
    User(i64),
    /// The level of a SKU.
    Sku(String),
    /// What the order role knows of a SKU.
    SkuCopy(String),
    /// What the payment role knows of a merchant.
    MerchantCopy(i64),
    /// A coupon that a user holds.
    Coupon(i64),
    /// A coupon template.
    Template(String),
    /// An event that the state of an order proves, and that is not there.
    Missing(i64, Kind),
    /// An event that a group has not handled.
    Unhandled(Group, String),
    /// An event that a group handled, without what it leaves behind: a message to the user, or a call.
    Undone(Group, String),
    /// A row that does not move, in the database of this place in [`RoleDbs::distinct`].
    Row(Stuck, usize, i64),
    /// A row that belongs to nothing.
    Orphan,
}

/// Something an operator should look at, and no violation.
#[derive(Clone, Debug, Serialize)]
pub struct Warning {
    /// What.
    pub what: &'static str,
    /// How many.
    pub count: i64,
    /// Some of them, and what each waits for, where that is known.
    pub evidence: Option<String>,
}

/// What an audit found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// One per check.
    pub checks: Vec<CheckReport>,
    /// At most [`Options::evidence`] per check.
    pub violations: Vec<Violation>,
    /// What was given up and waits for an operator.
    pub warnings: Vec<Warning>,
}

impl Report {
    /// Nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.checks.iter().all(|check| check.violations == 0)
    }
}

/// A doubt about one key, to be looked at again.
struct Suspect<K> {
    id: K,
    key: String,
    evidence: String,
    about: About,
}

impl Suspect<i64> {
    fn of(id: i64, evidence: impl Into<String>) -> Self {
        Self { id, key: id.to_string(), evidence: evidence.into(), about: About::Order(id) }
    }
}

/// The times that decide what is judged, taken before anything is read.
#[derive(Clone, Copy)]
struct Moment {
    settled_before: i64,
    overdue_before: i64,
    events_since: i64,
}

impl Moment {
    fn at(now_ms: i64, options: &Options) -> Self {
        Self {
            settled_before: now_ms.saturating_sub(options.settle_ms),
            overdue_before: now_ms.saturating_sub(options.bound_ms.max(options.settle_ms)),
            events_since: now_ms.saturating_sub(options.events_kept_ms),
        }
    }

    fn settled(self, changed_at: i64) -> bool {
        changed_at <= self.settled_before
    }

    fn overdue(self, since: i64) -> bool {
        since <= self.overdue_before
    }
}

struct Auditor<'a> {
    dbs: &'a RoleDbs,
    options: &'a Options,
    report: Report,
}

impl Auditor<'_> {
    fn moment(&self) -> Moment {
        Moment::at(self.dbs.order.clock().now_ms(), self.options)
    }

    fn slot(&mut self, check: Check) -> Option<&mut CheckReport> {
        self.report.checks.iter_mut().find(|slot| slot.name == check.name())
    }

    fn checked(&mut self, check: Check, rows: usize) {
        if let Some(slot) = self.slot(check) {
            slot.checked += rows as u64;
        }
    }

    fn found<K>(&mut self, check: Check, suspects: Vec<Suspect<K>>) {
        let limit = self.options.evidence as u64;
        for suspect in suspects {
            let before = self.slot(check).map_or(0, |slot| {
                slot.violations += 1;
                slot.violations - 1
            });
            if before < limit {
                let Suspect { key, evidence, about, .. } = suspect;
                self.report.violations.push(Violation { check: check.name(), key, evidence, about });
            }
        }
    }
}

/// Checks everything, once.
///
/// # Errors
/// When a database cannot be read.
pub async fn run(dbs: &RoleDbs, options: &Options) -> Result<Report, DbError> {
    let checks = Check::ALL
        .into_iter()
        .map(|check| CheckReport { name: check.name(), description: check.description(), checked: 0, violations: 0 })
        .collect();
    let report = Report { checks, violations: Vec::new(), warnings: Vec::new() };
    let mut auditor = Auditor { dbs, options, report };
    walk::walk_skus(&mut auditor, walk::SkuRule::Level).await?;
    for rule in walk::Rule::ALL.into_iter().filter(|rule| options.data_sync || *rule != walk::Rule::ViewOfOrder) {
        walk::walk(&mut auditor, rule).await?;
    }
    coupons::templates(&mut auditor).await?;
    walk::walk_skus(&mut auditor, walk::SkuRule::Copy).await?;
    statistics::check(&mut auditor).await?;
    walk::orphans(&mut auditor).await?;
    events::consumed(&mut auditor).await?;
    stuck::check(&mut auditor).await?;
    progress::slow(&mut auditor).await?;
    Ok(auditor.report)
}

/// Minor units for people.
#[must_use]
pub fn amount(minor: i64, currency: &str) -> String {
    let amount = Money::from_minor(minor).map_or_else(|_| format!("{minor} minor units"), |money| money.to_string());
    format!("{amount} {currency}").trim_end().to_owned()
}

/// `name` of a stored code, or the code itself.
fn named<T>(known: Option<T>, code: i64, name: impl Fn(T) -> &'static str) -> String {
    known.map_or_else(|| format!("unknown state {code}"), |value| name(value).to_owned())
}
