//! A channel's own statement of a day against the payments and refunds on record: every difference, by name.

use std::collections::HashSet;

use crate::db::payments::{self, PaymentRow, RefundRow, RefundStatus};
use crate::db::{Db, DbError};
use crate::domain::event::RefundKind;
use crate::domain::money::Money;

/// Rows looked up at once.
const BATCH: usize = 500;

/// What a line of a statement is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// Money that the channel took.
    Payment,
    /// Money that it gave back.
    Refund,
}

/// A line of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Where it stands, from 1.
    pub number: u64,
    /// What it is about.
    pub what: What,
    /// The channel's number of the transaction.
    pub transaction_no: String,
    /// Our payment.
    pub payment_id: i64,
    /// Our refund, of a refund.
    pub refund_id: i64,
    /// How much.
    pub amount: Money,
    /// ISO 4217.
    pub currency: String,
}

/// How a line and our record differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The statement has what no record has.
    Unknown,
    /// The statement has money that our payment is still without: its callback did not come.
    NotPaid,
    /// Our payment has its money from another transaction, and this one does not go back.
    OtherTransaction,
    /// Of another amount.
    Amount,
    /// In another currency.
    Currency,
    /// The money went back, and our refund does not say so.
    NotRefunded,
    /// The same money twice.
    Repeated,
    /// On record, and not in the statement.
    Missing,
}

impl Kind {
    /// For people and programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::NotPaid => "not_paid",
            Self::OtherTransaction => "other_transaction",
            Self::Amount => "amount",
            Self::Currency => "currency",
            Self::NotRefunded => "not_refunded",
            Self::Repeated => "repeated",
            Self::Missing => "missing",
        }
    }
}

/// A difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What it is.
    pub kind: Kind,
    /// Line of the statement; none for what is missing there.
    pub number: Option<u64>,
    /// A payment, or a refund.
    pub what: What,
    /// Our payment.
    pub payment_id: i64,
    /// Our refund; 0 of a payment.
    pub refund_id: i64,
    /// The channel's number.
    pub transaction_no: String,
    /// What the statement says.
    pub statement: String,
    /// What is on record.
    pub record: String,
}

/// Which payments a statement should have.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Channel.
    pub channel_id: String,
    /// Begin of the day, epoch ms.
    pub from_ms: i64,
    /// End of the day, epoch ms.
    pub to_ms: i64,
}

/// A statement that is being compared, line by line.
pub struct Comparison<'a> {
    db: &'a Db,
    scope: Scope,
    seen: HashSet<(What, i64, String)>,
    /// Found so far.
    pub differences: Vec<Difference>,
    /// Lines that fit.
    pub matched: u64,
}

impl<'a> Comparison<'a> {
    /// Of the payment role's database.
    #[must_use]
    pub fn new(db: &'a Db, scope: Scope) -> Self {
        Self { db, scope, seen: HashSet::new(), differences: Vec::new(), matched: 0 }
    }

    /// Compares some more lines.
    ///
    /// # Errors
    /// The database's.
    pub async fn lines(&mut self, lines: &[Line]) -> Result<(), DbError> {
        for batch in lines.chunks(BATCH) {
            let mut conn = self.db.read().await?;
            let found = payments::find(&mut conn, batch.iter().map(|line| line.payment_id).collect()).await?;
            let orders = found.values().map(|payment| payment.order_id).collect();
            let refunds = payments::refunds_of_orders(&mut conn, orders).await?;
            drop(conn);
            for line in batch {
                let payment = found.get(&line.payment_id);
                let refunds = refunds.get(&line.payment_id).map_or(&[][..], Vec::as_slice);
                let key = (line.what, if line.what == What::Refund { line.refund_id } else { line.payment_id });
                let is_new = self.seen.insert((key.0, key.1, line.transaction_no.clone()));
                let wrong = if is_new { differs(&self.scope, line, payment, refunds) } else { Some(Kind::Repeated) };
                match wrong {
                    None => self.matched += 1,
                    Some(kind) => self.differences.push(Difference {
                        kind,
                        number: Some(line.number),
                        what: line.what,
                        payment_id: line.payment_id,
                        refund_id: line.refund_id,
                        transaction_no: line.transaction_no.clone(),
                        statement: format!("{} {}", line.amount, line.currency),
                        record: record(line, payment, refunds),
                    }),
                }
            }
        }
        Ok(())
    }

    /// Adds what is on record of the day, and was in no line.
    ///
    /// # Errors
    /// The database's.
    pub async fn missing(&mut self) -> Result<(), DbError> {
        let mut after = 0;
        loop {
            let mut conn = self.db.read().await?;
            let scope = &self.scope;
            let page = payments::paid_within(&mut conn, &scope.channel_id, (scope.from_ms, scope.to_ms), after).await?;
            drop(conn);
            let Some(last) = page.last() else { return Ok(()) };
            after = last.id;
            for payment in page {
                let transaction_no = payment.state.transaction_no.clone().unwrap_or_default();
                if self.seen.contains(&(What::Payment, payment.id, transaction_no.clone())) {
                    continue;
                }
                self.differences.push(Difference {
                    kind: Kind::Missing,
                    number: None,
                    what: What::Payment,
                    payment_id: payment.id,
                    refund_id: 0,
                    transaction_no,
                    statement: String::new(),
                    record: show(&payment),
                });
            }
        }
    }
}

fn differs(scope: &Scope, line: &Line, payment: Option<&PaymentRow>, refunds: &[RefundRow]) -> Option<Kind> {
    let Some(payment) = payment.filter(|payment| payment.channel_id == scope.channel_id) else {
        return Some(Kind::Unknown);
    };
    if line.currency != payment.state.currency {
        return Some(Kind::Currency);
    }
    match line.what {
        What::Payment if line.amount != payment.state.amount => Some(Kind::Amount),
        What::Payment if payment.state.transaction_no.as_deref() == Some(line.transaction_no.as_str()) => None,
        What::Payment if !payment.state.status.has_money() => Some(Kind::NotPaid),
        What::Payment => {
            let extra = |one: &RefundRow| one.kind == RefundKind::Extra && one.transaction_no == line.transaction_no;
            (!refunds.iter().any(extra)).then_some(Kind::OtherTransaction)
        }
        What::Refund => match refunds.iter().find(|refund| refund.id == line.refund_id) {
            None => Some(Kind::Unknown),
            Some(refund) if refund.amount != line.amount => Some(Kind::Amount),
            Some(refund) => (refund.status != RefundStatus::Success).then_some(Kind::NotRefunded),
        },
    }
}

fn show(payment: &PaymentRow) -> String {
    let state = &payment.state;
    let number = state.transaction_no.as_deref().unwrap_or("no transaction");
    format!("{} {} {} {number} ({})", state.status.name(), state.amount, state.currency, payment.channel_id)
}

fn record(line: &Line, payment: Option<&PaymentRow>, refunds: &[RefundRow]) -> String {
    let refund = refunds.iter().find(|refund| line.what == What::Refund && refund.id == line.refund_id);
    match (payment, refund) {
        (None, _) => "none".to_owned(),
        (Some(payment), None) => show(payment),
        (Some(payment), Some(refund)) => {
            format!("refund {} {} {}", refund.status.name(), refund.amount, payment.state.currency)
        }
    }
}
