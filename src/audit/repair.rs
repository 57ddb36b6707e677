//! Mending what the audit found.
//!
//! Each violation is planned from what is in the databases now, not from what the audit read, and each action is one
//! transaction that looks again under the locks of the rows that it changes. So what has healed meanwhile is left
//! alone, and an action that runs twice, or beside the roles, has its effect once. Events keep their ids: whoever has
//! handled one drops the copy. What a tool cannot know (what a channel took, what lies on a shelf) is left to a person.

mod apply;
mod copies;
mod coupons;
mod events;
mod plan;
mod stock;
mod view;

use std::collections::{HashMap, HashSet};

use crate::db::DbError;
use crate::db::audit::MerchantFact;
use crate::db::outbox::OutboxRow;
use crate::db::stock::Stocked;
use crate::domain::event::{Group, Kind};
use crate::domain::id::PaymentId;

use super::{Check, Options, RoleDbs, Violation, trust};

/// What can be done about a violation.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send an outbox row, in the database of this place, that was given up or has no time to be sent.
    Redrive(usize, i64),
    /// Write an event again that the state of an order proves, with its own id.
    Rewrite(i64, Kind),
    /// Hand an event to one group, by its retry lane. With `anew`: also when the group has handled it before, because
    /// its effects are not there; the handler decides by the state that it finds.
    Redeliver {
        /// Whose.
        group: Group,
        /// The event.
        event: Box<OutboxRow>,
        /// Whatever the inbox says.
        anew: bool,
    },
    /// Give the stock of a canceled order back.
    Release(i64),
    /// Give the stock back that is held for an order that nobody knows.
    ReleaseUnknown(i64),
    /// Turn the frozen stock of a paid order into sold stock.
    Deduct(i64),
    /// Write the movements of an order that its reservation says, and take back those that happened twice.
    Movements(i64),
    /// Make the level of a SKU the sum of its ledger.
    Level(String),
    /// Correct the points of an order by one row, to so many in all; it had so many rows.
    Points(i64, i64, usize),
    /// Make the balance of a user the sum of its records.
    Balance(i64),
    /// A payment whose success was told: write it.
    Paid(i64),
    /// The payment of an order whose money all went back in parts: it is refunded.
    AllBack(i64),
    /// The payment that an order names: the one that paid it.
    PaymentOf(i64, PaymentId),
    /// Ask the channel again to give the money of a refund back, with the same number.
    Refund(i64),
    /// Make a call to the warehouse again, with the same number.
    Call(i64),
    /// A parked message behind nothing, in the database of this place: try it.
    Wake(usize, i64),
    /// Show an order in the search as it is, instead of this version.
    View(i64, Option<i64>),
    /// Have a SKU told as a later version than this, which the order role knows.
    TellStock(String, Stocked),
    /// Have a merchant told as a later version than this, which the payment role knows.
    TellMerchant(i64, Box<MerchantFact>),
    /// An order without a time to pay: its own.
    Expire(i64),
    /// Make the coupon of an order what the order says.
    Coupon(i64),
    /// Give a coupon that no order names back to its user.
    FreeCoupon(i64),
    /// Make the number of issued coupons of a template that of the rows.
    Issued(String),
}

impl Action {
    /// For people.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Redrive(..) => "send the outbox row, with the same event id".to_owned(),
            Self::Rewrite(order_id, kind) => format!("write {} again, from the state", kind.event_id(order_id)),
            Self::Redeliver { group, event, .. } => {
                format!("hand {} to {} again, by its retry lane", event.event_id, group.name())
            }
            Self::Release(order_id) => format!("give the stock of order {order_id} back"),
            Self::ReleaseUnknown(order_id) => {
                format!("give the stock back that is held for order {order_id}, which nobody knows")
            }
            Self::Deduct(order_id) => format!("turn the frozen stock of order {order_id} into sold stock"),
            Self::Movements(order_id) => {
                format!("write the missing movements of order {order_id}, and take back those that happened twice")
            }
            Self::Level(sku) => format!("make the level of {sku} the sum of its ledger"),
            Self::Points(order_id, sum, _) => {
                format!("correct the points of order {order_id} to {sum} by one more row")
            }
            Self::Balance(user_id) => format!("make the balance of user {user_id} the sum of its records"),
            Self::Paid(order_id) => format!("mark the payment of order {order_id} as successful, as its event says"),
            Self::AllBack(order_id) => {
                format!("mark the payment of order {order_id} as refunded: all of it went back in parts")
            }
            Self::PaymentOf(order_id, payment) => format!("let order {order_id} name its payment {}", payment.0),
            Self::Refund(id) => format!("ask the channel for refund {id} again, with the same number"),
            Self::Call(id) => format!("make call {id} to the warehouse again, with the same number"),
            Self::Wake(_, id) => format!("try parked message {id} now"),
            Self::Coupon(order_id) => format!("lock, use or release the coupon of order {order_id}, as the order says"),
            Self::FreeCoupon(id) => format!("give coupon {id}, which no order names, back to its user"),
            Self::Issued(name) => format!("make the number of issued coupons of {name} that of its coupons"),
            Self::View(order_id, _) => format!("show order {order_id} in the search as it is"),
            Self::TellStock(sku, copy) => {
                format!("tell the level of {sku} anew, as a version after {}", copy.version)
            }
            Self::TellMerchant(id, copy) => format!("tell of merchant {id} anew, as a version after {}", copy.version),
            Self::Expire(id) => format!("let order {id} time out at its own time"),
        }
    }
}

/// What is to become of a violation.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// This mends it.
    Mend(Action),
    /// A tool must not: why, and what a person should do.
    Leave(String),
    /// It is not there any more, or on its way.
    Healed,
}

/// What became of a violation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mended {
    /// Done; what in particular.
    Done(String),
    /// It had healed.
    Healed,
    /// Seen from close by, it is a person's: why.
    Left(String),
}

/// Plans and mends.
pub struct Repair<'a> {
    dbs: &'a RoleDbs,
    /// Events of orders before this may have been deleted.
    events_since: i64,
    /// Orders whose row is not to be believed, and why: for all of this run, whatever it does.
    distrusted: HashMap<i64, String>,
    /// SKUs whose ledger is in doubt, because movements of an order are left to a person.
    doubtful: HashSet<String>,
}

impl<'a> Repair<'a> {
    /// On these databases, after an audit with these options.
    #[must_use]
    pub fn new(dbs: &'a RoleDbs, options: &Options) -> Self {
        let events_since = dbs.order.clock().now_ms().saturating_sub(options.events_kept_ms);
        Self { dbs, events_since, distrusted: HashMap::new(), doubtful: HashSet::new() }
    }

    /// Why nothing is to be done that follows from the row of this order.
    async fn distrust(&mut self, order_id: i64) -> Result<Option<String>, DbError> {
        if !self.distrusted.contains_key(&order_id)
            && let Some(why) = trust::doubt_of(self.dbs, self.events_since, order_id).await?
        {
            self.distrusted.insert(order_id, why);
        }
        Ok(self.distrusted.get(&order_id).map(|why| {
            format!(
                "the row of order {order_id} contradicts what else is known of it ({why}), so nothing that would follow \
                 from it is done: find out with `ruyi trace order {order_id}` what is right, correct it by hand, and run \
                 again"
            )
        }))
    }

    /// The order in which violations are to be mended: an order's own movements before the sums over all of them.
    pub fn sort(violations: &mut [Violation]) {
        let rank = |violation: &Violation| match violation.check {
            name if name == Check::StockReservations.name() || name == Check::Duplicates.name() => 0,
            name if name == Check::StockLedger.name() => 1,
            name if name == Check::EventsOfStates.name() => 3,
            // What changes a level tells it, too.
            name if name == Check::Copies.name() => 5,
            name if name == Check::EventsConsumed.name() || name == Check::Deliveries.name() => 4,
            _ => 2,
        };
        violations.sort_by_key(rank);
    }

    /// What to do about a violation, as things are now.
    ///
    /// # Errors
    /// The database's.
    pub async fn plan(&mut self, violation: &Violation) -> Result<Plan, DbError> {
        match plan::plan(self, violation).await {
            // One row that cannot be read must not keep the others from being mended.
            Err(error @ DbError::Row { .. }) => Ok(Plan::Leave(format!(
                "a row cannot be read ({error}): nothing says what it should be; correct it by hand, or restore it from \
                 a backup"
            ))),
            planned => planned,
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// The database's; nothing was changed then.
    pub async fn apply(&self, action: &Action) -> Result<Mended, DbError> {
        apply::apply(self.dbs, action).await
    }
}
