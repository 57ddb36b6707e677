//! The points of the orders of a batch: a grant, and what refunds take back of it, end the same in any order.

use std::collections::{BTreeMap, HashMap};

use crate::db::points::{self, Record, Reversal};
use crate::db::{DbError, Tx};
use crate::domain::points::Kind;
use crate::domain::refund::points_back;
use crate::mq::Outcome;

/// One order.
#[derive(Default)]
struct Points {
    known: Vec<Record>,
    reversals: Vec<Reversal>,
}

impl Points {
    fn find(&self, kind: Kind) -> Option<&Record> {
        self.known.iter().find(|record| record.kind == kind)
    }

    /// What was granted, with what an operator corrected of it.
    fn granted(&self) -> i64 {
        self.known.iter().filter(|record| record.kind != Kind::Reverse).map(|record| record.points).sum()
    }

    /// All that its refunds take back.
    fn due_back(&self) -> i64 {
        let back: i64 = self.reversals.iter().map(|one| one.amount).sum();
        let paid = self.reversals.iter().map(|one| one.paid).max().unwrap_or(back);
        points_back(self.granted(), back, paid)
    }

    fn all_back(&self) -> bool {
        let back: i64 = self.reversals.iter().map(|one| one.amount).sum();
        self.reversals.iter().all(|one| back >= one.paid)
    }
}

/// What is to be written.
#[derive(Default)]
pub(super) struct Batch {
    orders: HashMap<i64, Points>,
    /// New rows, by order and kind.
    new: BTreeMap<(i64, i64), Record>,
    /// What is added to rows that take back.
    more: BTreeMap<i64, Record>,
    reversals: Vec<Reversal>,
}

impl Batch {
    /// Of these orders, as they are.
    pub fn new(records: HashMap<i64, Vec<Record>>, mut reversals: HashMap<i64, Vec<Reversal>>) -> Self {
        let mut orders: HashMap<i64, Points> = records
            .into_iter()
            .map(|(id, known)| (id, Points { known, reversals: reversals.remove(&id).unwrap_or_default() }))
            .collect();
        for (id, left) in reversals {
            orders.entry(id).or_default().reversals = left;
        }
        Self { orders, ..Self::default() }
    }

    /// An order earned points.
    pub fn grant(&mut self, order_id: i64, user_id: i64, points: i64) -> Outcome {
        let order = self.orders.entry(order_id).or_default();
        if order.find(Kind::Grant).is_some() {
            return Outcome::Ignored("already granted".to_owned());
        }
        if order.find(Kind::Reverse).is_some() && order.all_back() {
            return Outcome::Ignored("the money went back before".to_owned());
        }
        let record = Record { order_id, kind: Kind::Grant, user_id, points };
        order.known.push(record.clone());
        self.new.insert((order_id, record.kind.code()), record);
        if self.orders.get(&order_id).is_some_and(|order| order.find(Kind::Reverse).is_some()) {
            self.take_back(order_id);
        }
        Outcome::Done
    }

    /// Money of an order went back.
    pub fn reverse(&mut self, order_id: i64, refund: Reversal) -> Outcome {
        let order = self.orders.entry(order_id).or_default();
        let taken = order.find(Kind::Reverse).is_some();
        // Rows from before refunds were noted took everything back.
        if order.reversals.iter().any(|one| one.refund_id == refund.refund_id) || (taken && order.reversals.is_empty())
        {
            return Outcome::Ignored("already taken back".to_owned());
        }
        order.reversals.push(refund);
        self.reversals.push(refund);
        self.take_back(order_id);
        Outcome::Done
    }

    /// Makes what was taken back what is due; without a grant a row of 0 points waits for it.
    fn take_back(&mut self, order_id: i64) {
        let Some(order) = self.orders.get_mut(&order_id) else { return };
        let user_id = order.find(Kind::Grant).map_or(0, |grant| grant.user_id);
        let due = -order.due_back();
        let kind = Kind::Reverse;
        match order.known.iter_mut().find(|record| record.kind == kind) {
            None => {
                let record = Record { order_id, kind, user_id, points: due };
                order.known.push(record.clone());
                self.new.insert((order_id, kind.code()), record);
            }
            Some(known) => {
                let more = due - known.points;
                (known.points, known.user_id) = (due, user_id);
                match self.new.get_mut(&(order_id, kind.code())) {
                    Some(new) => *new = known.clone(),
                    None => {
                        let none = Record { order_id, kind, user_id, points: 0 };
                        let sum = self.more.entry(order_id).or_insert(none);
                        (sum.points, sum.user_id) = (sum.points + more, user_id);
                    }
                }
            }
        }
    }

    /// Writes it.
    ///
    /// # Errors
    /// The database's.
    pub async fn write(self, tx: &mut Tx) -> Result<(), DbError> {
        points::note_reversals(tx, &self.reversals).await?;
        let new: Vec<Record> = self.new.into_values().collect();
        points::apply(tx, &new).await?;
        // A process of the version before has not taken the order, and sees nothing of what is written here. What was
        // just written is locked, so that on MySQL this look waits for it.
        let now_there = points::records_of_orders(tx, new.iter().map(|record| record.order_id).collect()).await?;
        let as_known = |(id, found): (&i64, &Vec<Record>)| {
            self.orders.get(id).is_some_and(|order| order.known.len() == found.len())
        };
        if !now_there.iter().all(as_known) {
            return Err(DbError::Overtaken);
        }
        for more in self.more.values() {
            points::take_more(tx, more).await?;
        }
        Ok(())
    }
}
