//! A channel's own statement of a day against the payments and refunds on record, both ways: every difference, by name.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::db::payments::statement::{self, Refunded};
use crate::db::payments::{self, PaymentRow, RefundRow, RefundStatus};
use crate::db::{Db, DbError};
use crate::domain::event::RefundKind;
use crate::domain::money::Money;

/// Rows looked up at once.
const BATCH: usize = 500;

/// What a line of a statement is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum What {
    /// Money that the channel took.
    Payment,
    /// Money that it gave back.
    Refund,
    /// Both together, of a statement's own totals.
    Total,
}

/// A line of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Where it stands, from 1.
    pub number: u64,
    /// What it is about; never a total.
    pub what: What,
    /// The channel's number of the transaction.
    pub transaction_no: String,
    /// The payment, as the statement names it: our id, if it is one of ours.
    pub payment: String,
    /// The refund, of a refund, as the statement names it.
    pub refund: String,
    /// How much.
    pub amount: Money,
    /// ISO 4217.
    pub currency: String,
    /// The channel has done it; else it is still at it.
    pub is_done: bool,
}

impl Line {
    fn payment_id(&self) -> i64 {
        id_of(&self.payment)
    }

    fn refund_id(&self) -> i64 {
        id_of(&self.refund)
    }
}

/// 0, which nothing has, for what is none of our ids.
fn id_of(text: &str) -> i64 {
    text.parse().unwrap_or(0)
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
    /// The statement's own totals are not those of its lines: lines of it are missing, or there are more.
    Totals,
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
            Self::Totals => "totals",
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
    /// A payment, a refund, or a total.
    pub what: What,
    /// The payment: our id, or whatever the statement has in its place.
    pub payment: String,
    /// The refund; empty of a payment.
    pub refund: String,
    /// The channel's number.
    pub transaction_no: String,
    /// What the statement says.
    pub statement: String,
    /// What is on record.
    pub record: String,
}

/// How many lines or rows there are, and their sum in minor units, by what they are about and by currency.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums(BTreeMap<(What, String), (u64, i64)>);

impl Sums {
    /// One more.
    pub fn add(&mut self, what: What, currency: &str, amount: Money) {
        let (count, minor) = self.0.entry((what, currency.to_owned())).or_default();
        *count += 1;
        *minor = minor.saturating_add(amount.minor());
    }
}

/// `2 payments 59.80 CNY, 1 refund 1.00 CNY`.
impl std::fmt::Display for Sums {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = self.0.iter().map(|((what, currency), (count, minor))| {
            let noun = if *what == What::Refund { "refund" } else { "payment" };
            let plural = if *count == 1 { "" } else { "s" };
            format!("{count} {noun}{plural} {}.{:02} {currency}", minor / 100, minor % 100)
        });
        let parts: Vec<String> = parts.collect();
        f.write_str(if parts.is_empty() { "nothing" } else { "" })?;
        f.write_str(&parts.join(", "))
    }
}

/// Which payments and refunds a statement should have.
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
    seen_payments: HashSet<(i64, String)>,
    seen_refunds: HashSet<i64>,
    /// Found so far.
    pub differences: Vec<Difference>,
    /// Lines that fit.
    pub matched: u64,
    /// What is on record of the day, after [`Comparison::missing`].
    pub on_record: Sums,
}

impl<'a> Comparison<'a> {
    /// Of the payment role's database.
    #[must_use]
    pub fn new(db: &'a Db, scope: Scope) -> Self {
        let (seen_payments, seen_refunds) = (HashSet::new(), HashSet::new());
        let (differences, on_record) = (Vec::new(), Sums::default());
        Self { db, scope, seen_payments, seen_refunds, differences, matched: 0, on_record }
    }

    /// Compares some more lines.
    ///
    /// # Errors
    /// The database's.
    pub async fn lines(&mut self, lines: &[Line]) -> Result<(), DbError> {
        for batch in lines.chunks(BATCH) {
            let mut conn = self.db.read().await?;
            let payments = payments::find(&mut conn, batch.iter().map(Line::payment_id).collect()).await?;
            let orders = payments.values().map(|payment| payment.order_id).collect();
            let refunds = payments::refunds_of_orders(&mut conn, orders).await?;
            drop(conn);

            for line in batch {
                let payment = payments.get(&line.payment_id());
                let refunds_of_payment = refunds.get(&line.payment_id()).map_or(&[][..], Vec::as_slice);
                let is_known = payment.is_some_and(|payment| payment.channel_id == self.scope.channel_id);
                let difference = match payment.filter(|_| is_known) {
                    None => Some(Kind::Unknown),
                    Some(_) if !self.is_new(line, refunds_of_payment) => Some(Kind::Repeated),
                    Some(payment) => differs(line, payment, refunds_of_payment),
                };
                match difference {
                    None => self.matched += 1,
                    Some(kind) => self.differences.push(Difference {
                        kind,
                        number: Some(line.number),
                        what: line.what,
                        payment: line.payment.clone(),
                        refund: line.refund.clone(),
                        transaction_no: line.transaction_no.clone(),
                        statement: format!("{} {}", line.amount, line.currency),
                        record: record(line, payment, refunds_of_payment),
                    }),
                }
            }
        }
        Ok(())
    }

    /// A refund goes back once, whatever number the channel gave it; a payment may have several transactions.
    fn is_new(&mut self, line: &Line, refunds: &[RefundRow]) -> bool {
        match line.what {
            What::Refund => {
                let is_ours = refunds.iter().any(|refund| refund.id == line.refund_id());
                !is_ours || self.seen_refunds.insert(line.refund_id())
            }
            What::Payment | What::Total => self.seen_payments.insert((line.payment_id(), line.transaction_no.clone())),
        }
    }

    /// Adds what is on record of the day, and was in no line.
    ///
    /// # Errors
    /// The database's.
    pub async fn missing(&mut self) -> Result<(), DbError> {
        self.missing_payments().await?;
        self.missing_refunds().await
    }

    async fn missing_payments(&mut self) -> Result<(), DbError> {
        let day = (self.scope.from_ms, self.scope.to_ms);
        let mut after = 0;
        loop {
            let mut conn = self.db.read().await?;
            let page = statement::paid_within(&mut conn, &self.scope.channel_id, day, after).await?;
            drop(conn);
            let Some(last) = page.last() else { return Ok(()) };
            after = last.id;

            for payment in page {
                self.on_record.add(What::Payment, &payment.state.currency, payment.state.amount);
                let transaction_no = payment.state.transaction_no.clone().unwrap_or_default();
                if self.seen_payments.contains(&(payment.id, transaction_no.clone())) {
                    continue;
                }
                self.differences.push(Difference {
                    kind: Kind::Missing,
                    number: None,
                    what: What::Payment,
                    payment: payment.id.to_string(),
                    refund: String::new(),
                    transaction_no,
                    statement: String::new(),
                    record: show(&payment),
                });
            }
        }
    }

    async fn missing_refunds(&mut self) -> Result<(), DbError> {
        let day = (self.scope.from_ms, self.scope.to_ms);
        let mut after = (0, 0);
        loop {
            let mut conn = self.db.read().await?;
            let page = statement::refunded_within(&mut conn, day, after).await?;
            let payment_ids = page.iter().map(|refunded| refunded.refund.payment_id).collect();
            let payments = payments::find(&mut conn, payment_ids).await?;
            drop(conn);
            let Some(last) = page.last() else { return Ok(()) };
            after = (last.done_at, last.refund.id);

            for refunded in page {
                self.miss_refund(&refunded, &payments);
            }
        }
    }

    fn miss_refund(&mut self, refunded: &Refunded, payments: &HashMap<i64, PaymentRow>) {
        let refund = &refunded.refund;
        let payment = payments.get(&refund.payment_id);
        let Some(payment) = payment.filter(|payment| payment.channel_id == self.scope.channel_id) else { return };
        self.on_record.add(What::Refund, &payment.state.currency, refund.amount);
        if self.seen_refunds.contains(&refund.id) {
            return;
        }

        // Nobody says when the channel did it, only when it was first asked and when it had answered.
        let is_of_the_day = refunded.asked_at >= self.scope.from_ms;
        let hint =
            if is_of_the_day { "" } else { "; asked for before this day: look in the statements before as well" };
        self.differences.push(Difference {
            kind: Kind::Missing,
            number: None,
            what: What::Refund,
            payment: refund.payment_id.to_string(),
            refund: refund.id.to_string(),
            transaction_no: refund.transaction_no.clone(),
            statement: String::new(),
            record: format!("{}{hint}", show_refund(refund, payment)),
        });
    }
}

fn differs(line: &Line, payment: &PaymentRow, refunds: &[RefundRow]) -> Option<Kind> {
    if line.currency != payment.state.currency {
        return Some(Kind::Currency);
    }
    if line.what == What::Refund {
        return match refunds.iter().find(|refund| refund.id == line.refund_id()) {
            None => Some(Kind::Unknown),
            Some(refund) if refund.amount != line.amount => Some(Kind::Amount),
            Some(refund) => (line.is_done && refund.status != RefundStatus::Success).then_some(Kind::NotRefunded),
        };
    }
    if line.amount != payment.state.amount {
        return Some(Kind::Amount);
    }
    if payment.state.transaction_no.as_deref() == Some(line.transaction_no.as_str()) {
        return None;
    }
    if !payment.state.status.has_money() {
        return Some(Kind::NotPaid);
    }
    let goes_back =
        |refund: &RefundRow| refund.kind == RefundKind::Extra && refund.transaction_no == line.transaction_no;
    (!refunds.iter().any(goes_back)).then_some(Kind::OtherTransaction)
}

fn show(payment: &PaymentRow) -> String {
    let state = &payment.state;
    let number = state.transaction_no.as_deref().unwrap_or("no transaction");
    format!("{} {} {} {number} ({})", state.status.name(), state.amount, state.currency, payment.channel_id)
}

fn show_refund(refund: &RefundRow, payment: &PaymentRow) -> String {
    let status = refund.status.name();
    format!("refund {status} {} {}", refund.amount, payment.state.currency)
}

fn record(line: &Line, payment: Option<&PaymentRow>, refunds: &[RefundRow]) -> String {
    let refund = refunds.iter().find(|refund| line.what == What::Refund && refund.id == line.refund_id());
    match (payment, refund) {
        (None, _) => "none".to_owned(),
        (Some(payment), None) => show(payment),
        (Some(payment), Some(refund)) => show_refund(refund, payment),
    }
}
