//! The orders of the demo: what each one is put through, and how it must end.

use std::collections::HashMap;
use std::fmt;

use anyhow::Context as _;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::domain::id::Sku;
use crate::domain::order::{CancelType, Outcome};

/// Fields of a line that are the demo's own and no part of the request.
const OWN_FIELDS: [&str; 4] = ["case", "expect", "idempotencyKey", "coupon"];

/// What an order is put through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Placed, paid, delivered.
    Normal,
    /// One of its lines has no stock.
    SoldOut,
    /// One of its lines is no product.
    UnknownSku,
    /// Not even JSON.
    Malformed,
    /// Nobody pays it in time.
    NeverPaid,
    /// Canceled while its stock is being frozen.
    CanceledAtOnce,
    /// Canceled when it could be paid.
    CanceledBeforePaying,
    /// Canceled when it was paid, before the warehouse had it.
    CanceledAfterPaying,
    /// The channel reports its payment three times.
    CallbackRepeated,
    /// Paid twice: the second time, with another transaction, too much.
    TwoTransactions,
    /// The channel reports its payment after it was canceled.
    PaidAfterCancel,
    /// Parts of its money go back once it is signed for.
    PartlyRefunded,
    /// All of its money goes back once it is signed for, in parts.
    RefundedInParts,
    /// The channel reports another amount.
    WrongAmount,
    /// The channel's report is not signed as it should be.
    BadSignature,
    /// A line of no pieces.
    QuantityZero,
    /// A line of more pieces than are allowed.
    QuantityOver,
    /// More lines than are allowed.
    TooManyLines,
    /// A field is not of its type.
    WrongType,
    /// The same line, with the same key, twice.
    DuplicateKey,
    /// Placed with a coupon, paid, delivered.
    CouponUsed,
    /// Placed with a coupon, canceled when it could be paid.
    CouponCanceled,
    /// Placed with a coupon, canceled when it was paid.
    CouponRefunded,
    /// Two orders at once for one coupon: one of them is delivered.
    CouponTwice,
    /// Costs less than its coupon asks for.
    CouponTooSmall,
    /// Paid, and refused by the warehouse when it is told.
    WarehouseRefused,
    /// Paid, taken by the warehouse, and refused before it was taken over.
    WarehouseRefusedLater,
    /// Paid, and sent elsewhere before the warehouse was told.
    AddressChanged,
    /// Paid at a channel that does not say so until it is asked.
    CallbackLost,
    /// Delivered to a user who is told by text message.
    TextMessages,
    /// A payment of a merchant's own order, paid.
    GatewayPaid,
    /// The same, opened several times at once.
    GatewayTwice,
    /// The same, whose money goes back in two parts.
    GatewayRefunded,
    /// The same, closed too late: all of its money goes back instead.
    GatewayClosed,
    /// The same, over the merchant's limit.
    GatewayTooMuch,
    /// The same, of a merchant that nobody knows.
    GatewayUnknown,
}

impl Kind {
    /// How such an order must end, if the line does not say.
    #[must_use]
    pub fn end(self) -> End {
        match self {
            Self::Normal
            | Self::CallbackRepeated
            | Self::TwoTransactions
            | Self::PartlyRefunded
            | Self::RefundedInParts
            | Self::DuplicateKey
            | Self::CouponUsed
            | Self::AddressChanged
            | Self::CallbackLost
            | Self::TextMessages
            | Self::CouponTwice => End::Signed,
            Self::GatewayPaid | Self::GatewayTwice => End::Paid,
            Self::SoldOut
            | Self::NeverPaid
            | Self::CanceledAtOnce
            | Self::CanceledBeforePaying
            | Self::CouponCanceled
            | Self::WrongAmount
            | Self::BadSignature => End::Canceled,
            Self::CanceledAfterPaying
            | Self::PaidAfterCancel
            | Self::CouponRefunded
            | Self::WarehouseRefused
            | Self::GatewayRefunded
            | Self::GatewayClosed
            | Self::WarehouseRefusedLater => End::Refunded,
            Self::UnknownSku
            | Self::Malformed
            | Self::QuantityZero
            | Self::QuantityOver
            | Self::TooManyLines
            | Self::CouponTooSmall
            | Self::GatewayTooMuch
            | Self::GatewayUnknown
            | Self::WrongType => End::Rejected,
        }
    }

    /// It is a payment of a merchant's own order, and none of the shop.
    #[must_use]
    pub fn is_gateway(self) -> bool {
        matches!(
            self,
            Self::GatewayPaid
                | Self::GatewayTwice
                | Self::GatewayRefunded
                | Self::GatewayClosed
                | Self::GatewayTooMuch
                | Self::GatewayUnknown
        )
    }

    /// Who must have canceled such an order.
    #[must_use]
    pub fn canceled_by(self) -> Option<CancelType> {
        match self {
            Self::SoldOut => Some(CancelType::Stock),
            Self::WarehouseRefused | Self::WarehouseRefusedLater => Some(CancelType::Warehouse),
            Self::NeverPaid | Self::WrongAmount | Self::BadSignature => Some(CancelType::Timeout),
            Self::CanceledAtOnce
            | Self::CanceledBeforePaying
            | Self::CanceledAfterPaying
            | Self::PaidAfterCancel
            | Self::CouponCanceled
            | Self::CouponRefunded => Some(CancelType::User),
            _ => None,
        }
    }
}

/// How a line ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum End {
    /// Signed for.
    Signed,
    /// Paid, and nothing to be delivered.
    Paid,
    /// Canceled, nothing was paid.
    Canceled,
    /// Canceled, and the money is back.
    Refunded,
    /// Never became an order.
    Rejected,
    /// Answered 5xx to the end, as often as it was tried.
    Refused,
    /// The answer was an order that another line had placed.
    Duplicate,
    /// Not at an end when the driver gave up.
    Open,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Signed => "SIGNED",
            Self::Paid => "PAID",
            Self::Canceled => "CANCELED",
            Self::Refunded => "REFUNDED",
            Self::Rejected => "REJECTED",
            Self::Refused => "REFUSED",
            Self::Duplicate => "DUPLICATE",
            Self::Open => "OPEN",
        })
    }
}

impl From<Outcome> for End {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Open => Self::Open,
            Outcome::Signed => Self::Signed,
            Outcome::Canceled => Self::Canceled,
            Outcome::Refunded => Self::Refunded,
        }
    }
}

/// One line to feed.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its place in the run, from 1.
    pub number: u64,
    /// What it is put through.
    pub kind: Kind,
    /// How it must end.
    pub expect: End,
    /// Its idempotency key in this run.
    pub key: String,
    /// The body of POST /orders, without a coupon; of a merchant's payment that of POST /payments, without its number.
    pub body: Bytes,
    /// Template of the coupon that its user is given for it.
    pub coupon: Option<String>,
}

/// A file of orders, repeated as often as needed.
#[derive(Debug)]
pub struct Cases {
    templates: Vec<Template>,
    /// Part of every key, so that a second run places new orders.
    run_id: String,
}

#[derive(Debug)]
struct Template {
    kind: Kind,
    expect: End,
    key: String,
    body: Bytes,
    coupon: Option<String>,
}

impl Cases {
    /// Reads a file of orders. A line that is no JSON object is a case, too: it must be refused.
    ///
    /// # Errors
    /// `case` or `expect` of a line is unknown, or there are no lines.
    pub fn parse(text: &str, run_id: &str) -> anyhow::Result<Self> {
        let lines = (1_u64..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
        let templates = lines
            .map(|(number, line)| template(number, line).with_context(|| format!("line {number} of the orders")))
            .collect::<anyhow::Result<Vec<_>>>()?;
        anyhow::ensure!(!templates.is_empty(), "there are no orders in the file");
        Ok(Self { templates, run_id: run_id.to_owned() })
    }

    /// Lines in the file.
    #[must_use]
    pub fn lines(&self) -> u64 {
        u64::try_from(self.templates.len()).unwrap_or(u64::MAX)
    }

    /// How often the file is gone through for `count` orders, at least once.
    #[must_use]
    pub fn rounds(&self, count: u64) -> u64 {
        count.div_ceil(self.lines()).max(1)
    }

    /// The `n`th order of the run, from 0; each round through the file has keys of its own.
    #[must_use]
    pub fn nth(&self, n: u64) -> Option<Case> {
        let template = self.templates.get(usize::try_from(n % self.lines()).ok()?)?;
        Some(Case {
            number: n + 1,
            kind: template.kind,
            expect: template.expect,
            key: format!("{}-{}-{}", self.run_id, n / self.lines(), template.key),
            body: template.body.clone(),
            coupon: template.coupon.clone(),
        })
    }
}

fn template(number: u64, line: &str) -> anyhow::Result<Template> {
    let Ok(mut fields) = serde_json::from_str::<Map<String, Value>>(line) else {
        let body = Bytes::copy_from_slice(line.as_bytes());
        let key = format!("line-{number}");
        return Ok(Template { kind: Kind::Malformed, expect: End::Rejected, key, body, coupon: None });
    };
    let kind = fields.get("case").map_or(Ok(Kind::Normal), Kind::deserialize).context("case")?;
    let expect = fields.get("expect").map_or_else(|| Ok(kind.end()), End::deserialize).context("expect")?;
    let key = fields.get("idempotencyKey").and_then(Value::as_str);
    let key = key.map_or_else(|| format!("line-{number}"), str::to_owned);
    let coupon = fields.get("coupon").and_then(Value::as_str).map(str::to_owned);
    fields.retain(|name, _| !OWN_FIELDS.contains(&name.as_str()));
    Ok(Template { kind, expect, key, body: serde_json::to_vec(&fields)?.into(), coupon })
}

/// A product of the demo.
#[derive(Clone, Debug, Deserialize)]
pub struct Product {
    /// Its SKU.
    pub sku: Sku,
    /// Pieces at the start.
    pub available: i64,
    /// Name, price: the body of PUT /products/{sku}, after the two above.
    #[serde(flatten)]
    pub body: HashMap<String, Value>,
}

/// Reads a file of products.
///
/// # Errors
/// A line is not a product.
pub fn products(text: &str) -> anyhow::Result<Vec<Product>> {
    each_line(text, "products")
}

/// A coupon template of the demo.
#[derive(Clone, Debug, Deserialize)]
pub struct CouponTemplate {
    /// Its name.
    pub template: String,
    /// The body of PUT /coupons/{template}.
    #[serde(flatten)]
    pub body: HashMap<String, Value>,
}

/// Reads a file of coupon templates.
///
/// # Errors
/// A line is not a template.
pub fn coupons(text: &str) -> anyhow::Result<Vec<CouponTemplate>> {
    each_line(text, "coupons")
}

fn each_line<T: serde::de::DeserializeOwned>(text: &str, what: &str) -> anyhow::Result<Vec<T>> {
    (1..)
        .zip(text.lines())
        .map(|(number, line)| serde_json::from_str(line).with_context(|| format!("line {number} of the {what}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::demo::{COUPONS, ORDERS, PRODUCTS};

    #[test]
    fn the_example_is_large_enough_and_expects_what_its_cases_mean() {
        let cases = Cases::parse(ORDERS, "test").unwrap();
        assert!(cases.lines() >= 1000);
        let mut seen = HashMap::new();
        for n in 0..cases.lines() {
            let case = cases.nth(n).unwrap();
            assert_eq!(case.expect, case.kind.end(), "{case:?}");
            assert!(case.coupon.is_none_or(|name| coupons(COUPONS).unwrap().iter().any(|one| one.template == name)));
            *seen.entry(case.kind).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 36, "every kind is there: {seen:?}");
        assert!(seen[&Kind::Normal] * 3 > cases.lines() * 2);
        assert_eq!(products(PRODUCTS).unwrap().len(), 50);
    }

    #[test]
    fn each_round_has_its_own_keys_and_the_same_bodies() {
        let cases = Cases::parse("{\"userId\":\"1\"}\nnonsense\n", "r").unwrap();
        let keys: Vec<_> = (0..4).map(|n| cases.nth(n).unwrap().key).collect();
        assert_eq!(keys, ["r-0-line-1", "r-0-line-2", "r-1-line-1", "r-1-line-2"]);
        assert_eq!(cases.nth(0).unwrap().body, cases.nth(2).unwrap().body);
        assert_eq!((cases.rounds(0), cases.rounds(2), cases.rounds(3)), (1, 1, 2));
    }
}
