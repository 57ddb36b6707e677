//! Puts orders through their cases over HTTP, many at once, and notes how each one ended.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::stream::{self, FuturesUnordered, StreamExt};
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cases::{Case, Cases, CouponTemplate, End, Kind, Product};
use super::outside::Outside;
use super::pace::Pace;
use super::pulse::Pulse;
use crate::client::{Api, CallError, OrderView, Watch, WatchError};
use crate::cmd::payment::pay_when_open;
use crate::domain::id::OrderId;
use crate::domain::order::{Outcome, Status};

/// Unmet expectations that are kept with their details; the others are only counted.
const FAILURES_KEPT: usize = 100;
/// Between two looks.
pub(super) const PAUSE: Duration = Duration::from_millis(100);
const SETUP_CONCURRENCY: usize = 8;

/// How to drive.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Orders to feed.
    pub count: u64,
    /// Orders in work at once, at most.
    pub concurrency: usize,
}

/// What came out for a number of orders alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Group {
    /// What they were put through.
    pub case: Kind,
    /// How they ended.
    pub ended: End,
    /// Why: who canceled, or what the refusal was.
    pub why: String,
    /// It is how they should have ended.
    pub expected: bool,
}

/// An expectation that was not met.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// Place of the order in the run, from 1.
    pub number: u64,
    /// What it was put through.
    pub case: Kind,
    /// How it should have ended.
    pub expected: End,
    /// How it ended.
    pub ended: End,
    /// The order, if it became one.
    pub order_id: Option<OrderId>,
    /// What went wrong.
    pub why: String,
}

/// The result of a run.
#[derive(Debug, Default)]
pub struct Driven {
    /// How many there were of each group.
    pub groups: BTreeMap<Group, u64>,
    /// Unmet expectations, the first ones in detail.
    pub failures: Vec<Failure>,
    /// How many there were.
    pub unexpected: u64,
    /// An order that went all the way, to show.
    pub sample: Option<OrderId>,
    /// From the first request to the last end.
    pub elapsed: Duration,
}

impl Driven {
    /// How many orders ended like this.
    #[must_use]
    pub fn ended(&self, end: End) -> u64 {
        self.groups.iter().filter(|(group, _)| group.ended == end).map(|(_, count)| count).sum()
    }

    /// All orders; a line that repeats another one is none.
    #[must_use]
    pub fn orders(&self) -> u64 {
        self.groups.iter().filter(|(group, _)| group.ended != End::Duplicate).map(|(_, count)| count).sum()
    }

    fn note(&mut self, case: &Case, done: Done) {
        let met = done.ended == End::Duplicate || done.ended == case.expect;
        let expected = met && done.failure.is_none();
        if !expected {
            self.unexpected += 1;
            if self.failures.len() < FAILURES_KEPT {
                self.failures.push(Failure {
                    number: case.number,
                    case: case.kind,
                    expected: case.expect,
                    ended: done.ended,
                    order_id: done.order_id,
                    why: done.failure.unwrap_or_else(|| done.why.clone()),
                });
            }
        }
        if case.kind == Kind::Normal && done.ended == End::Signed && self.sample.is_none() {
            self.sample = done.order_id;
        }
        *self.groups.entry(Group { case: case.kind, ended: done.ended, why: done.why, expected }).or_insert(0) += 1;
    }
}

pub(super) struct Done {
    pub ended: End,
    pub order_id: Option<OrderId>,
    pub why: String,
    pub failure: Option<String>,
}

/// Sets products and their stock; `rounds` times the pieces, so that a repeated file does not run out.
///
/// # Errors
/// A role refuses or does not answer.
pub async fn set_up(api: &Api, products: &[Product], rounds: u64) -> anyhow::Result<()> {
    let rounds = i64::try_from(rounds).unwrap_or(i64::MAX);
    let mut all = stream::iter(products)
        .map(|product| async move {
            let available = product.available.saturating_mul(rounds);
            api.put_product(&product.sku, serde_json::to_vec(&product.body)?).await?;
            api.put_stock(&product.sku, serde_json::to_vec(&json!({"available": available}))?).await?;
            anyhow::Ok(())
        })
        .buffer_unordered(SETUP_CONCURRENCY);
    while let Some(result) = all.next().await {
        result?;
    }
    Ok(())
}

/// Sets the coupon templates.
///
/// # Errors
/// The order role refuses or does not answer.
pub async fn set_up_coupons(api: &Api, templates: &[CouponTemplate]) -> anyhow::Result<()> {
    for one in templates {
        api.put_template(&one.template, serde_json::to_vec(&one.body)?).await?;
    }
    Ok(())
}

/// Drives `options.count` orders, or fewer when `stop` is cancelled; `progress` is called for each one that ended.
pub async fn drive(
    api: &Api,
    outside: Option<&Outside>,
    pulse: &Pulse,
    cases: &Cases,
    options: Options,
    stop: &CancellationToken,
    progress: impl Fn(End),
) -> Driven {
    let driver = &Driver { api, outside, watch: Watch::start(api.clone()), pulse, placed: Mutex::default() };
    let started = Instant::now();
    let mut pace = Pace::up_to(options.concurrency, started);
    let mut waiting = (0..options.count).map_while(|n| cases.nth(n));
    let mut in_work = FuturesUnordered::new();
    let mut driven = Driven::default();

    loop {
        while in_work.len() < pace.window()
            && let Some(case) = waiting.next()
        {
            in_work.push(async move {
                let done = driver.one(&case).await;
                (case, done)
            });
        }
        let (case, done) = tokio::select! {
            ended = in_work.next() => match ended {
                Some(ended) => ended,
                None => break,
            },
            () = stop.cancelled() => break,
        };

        pulse.beat();
        pace.ended(Instant::now());
        progress(done.ended);
        driven.note(&case, done);
    }

    driven.elapsed = started.elapsed();
    driven
}

pub(super) struct Driver<'a> {
    pub(super) api: &'a Api,
    /// Who is told, where that is of this process.
    pub(super) outside: Option<&'a Outside>,
    watch: Watch,
    pub(super) pulse: &'a Pulse,
    /// The order that each key led to.
    placed: Mutex<HashMap<String, OrderId>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Created {
    order_id: OrderId,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Paid {
    payment_id: String,
}

#[derive(Deserialize)]
struct Payment {
    refunds: Vec<Value>,
}

/// What went back of an order's money; amounts as they stand in the answer.
#[derive(Deserialize)]
struct Money {
    #[serde(rename = "refundedAmount")]
    refunded: serde_json::Number,
    #[serde(rename = "totalAmount")]
    total: serde_json::Number,
}

impl Driver<'_> {
    async fn one(&self, case: &Case) -> Done {
        if case.kind.is_gateway() {
            return self.gateway(case).await;
        }
        let body = match self.body(case).await {
            Ok(body) => body,
            Err(error) => return failed(None, End::Open, "no coupon", &error),
        };
        if case.kind == Kind::TextMessages
            && let Err(error) = self.reach_user(case).await
        {
            return failed(None, End::Open, "no contact", &error);
        }
        let created = match self.place(case, body).await {
            Ok(reply) => serde_json::from_str::<Created>(reply.get()),
            Err(CallError::Refused(problem)) if problem.status_code().is_client_error() => {
                let why = format!("{} {}", problem.status, problem.kind.rsplit(':').next().unwrap_or_default());
                return Done { ended: End::Rejected, order_id: None, why, failure: None };
            }
            Err(error @ CallError::Refused(_)) => return failed(None, End::Refused, "not placed", &error.into()),
            Err(error) => return failed(None, End::Open, "not placed", &error.into()),
        };
        let id = match created {
            Ok(created) => created.order_id,
            Err(error) => return failed(None, End::Open, "not placed", &error.into()),
        };
        match self.first_with_key(&case.key, id) {
            Ok(true) => {}
            Ok(false) => {
                return Done { ended: End::Duplicate, order_id: Some(id), why: "same order".to_owned(), failure: None };
            }
            Err(error) => return failed(Some(id), End::Open, "two orders with one key", &error),
        }
        let result = match self.put_through(case.kind, id).await {
            Ok(()) => self.until(id, OrderView::is_over).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(view) => {
                let failure = self.check(case.kind, &view).await.err().map(|error| format!("{error:#}"));
                let why = view.cancel_type.map_or("", |by| by.name()).to_owned();
                Done { ended: view.outcome.into(), order_id: Some(id), why, failure }
            }
            Err(error) => failed(Some(id), End::Open, "gave up", &error),
        }
    }

    /// Whether this is the first line with its key.
    fn first_with_key(&self, key: &str, id: OrderId) -> anyhow::Result<bool> {
        let mut placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        match placed.get(key) {
            None => {
                placed.insert(key.to_owned(), id);
                Ok(true)
            }
            Some(first) if *first == id => Ok(false),
            Some(first) => bail!("the key of order {first} placed order {id} as well"),
        }
    }

    /// Everything that happens to the order from outside; afterwards it only has to end.
    async fn put_through(&self, kind: Kind, id: OrderId) -> anyhow::Result<()> {
        match kind {
            Kind::Normal
            | Kind::DuplicateKey
            | Kind::CouponUsed
            | Kind::CouponTwice
            | Kind::TextMessages
            | Kind::WarehouseRefused
            | Kind::WarehouseRefusedLater => self.pay(id, &json!({})).await.map(drop),
            Kind::CallbackLost => self.pay(id, &json!({"silent": true})).await.map(drop),
            Kind::AddressChanged => {
                // Before it is paid, so that the warehouse cannot have it yet. Where it was to go, it would be refused.
                let body = serde_json::to_vec(&json!({"address": "杭州市西湖区北山街 37 号"}))?;
                self.api.put_address(id, body).await.context("address")?;
                self.pay(id, &json!({})).await.map(drop)
            }
            Kind::CallbackRepeated => self.pay(id, &json!({"repeat": 3})).await.map(drop),
            Kind::WrongAmount => self.pay_in_vain(id, &json!({"amountDelta": -1})).await,
            Kind::BadSignature => self.pay_in_vain(id, &json!({"badSignature": true})).await,
            Kind::SoldOut | Kind::NeverPaid => Ok(()),
            Kind::CanceledAtOnce => self.cancel(id).await,
            Kind::CanceledBeforePaying | Kind::CouponCanceled => {
                self.until(id, |order| order.status != Status::Created).await?;
                self.cancel(id).await
            }
            Kind::CanceledAfterPaying | Kind::CouponRefunded => {
                self.pay(id, &json!({})).await?;
                self.until(id, |order| order.status >= Status::Paid).await?;
                self.cancel(id).await
            }
            Kind::TwoTransactions => {
                // Delayed, so that the second one is submitted before the first one is reported.
                let transaction = |n: u8| json!({"transactionNo": format!("demo-{id}-{n}"), "delayMs": 250});
                self.pay(id, &transaction(1)).await?;
                self.pay(id, &transaction(2)).await.map(drop)
            }
            Kind::PartlyRefunded => {
                self.give_back(id, &[json!({"amount": 1.1}), json!({"amount": 1.1}), json!({"amount": 0.2})]).await
            }
            Kind::RefundedInParts => self.give_back(id, &[json!({"amount": 0.01}), json!({})]).await,
            Kind::PaidAfterCancel => {
                let paid = self.pay(id, &json!({"silent": true})).await?;
                self.cancel(id).await?;
                self.until(id, |order| order.status == Status::Canceled).await?;
                self.call_back(&paid.payment_id).await?;
                self.until(id, |order| order.outcome == Outcome::Refunded).await.map(drop)
            }
            // These are orders by mistake: they end sooner when they are canceled.
            Kind::UnknownSku
            | Kind::Malformed
            | Kind::QuantityZero
            | Kind::QuantityOver
            | Kind::TooManyLines
            | Kind::CouponTooSmall
            | Kind::WrongType => self.cancel(id).await,
            // None of these is an order.
            Kind::GatewayPaid
            | Kind::GatewayTwice
            | Kind::GatewayRefunded
            | Kind::GatewayClosed
            | Kind::GatewayTooMuch
            | Kind::GatewayUnknown => Ok(()),
        }
    }

    /// What must hold beside the end itself.
    async fn check(&self, kind: Kind, order: &OrderView) -> anyhow::Result<()> {
        if let (Some(expected), Some(by)) = (kind.canceled_by(), order.cancel_type)
            && expected != by
        {
            bail!("canceled by {}, not by {}", by.name(), expected.name());
        }
        match kind {
            Kind::TwoTransactions => self.extra_refunded(order.order_id).await,
            Kind::PartlyRefunded => self.money_back(order.order_id, |money| money.refunded.to_string() == "2.4").await,
            Kind::RefundedInParts => self.money_back(order.order_id, |money| money.refunded == money.total).await,
            Kind::TextMessages => self.user_is_told(order).await,
            Kind::CallbackRepeated => {
                let refunds = self.refunds(order.order_id).await?;
                anyhow::ensure!(refunds == 0, "a repeated report of one payment led to {refunds} refunds");
                Ok(())
            }
            _ => self.check_coupon(kind, order).await,
        }
    }

    /// Pays, and asks for parts of the money when the goods are signed for; each part twice, as if an answer were lost.
    async fn give_back(&self, id: OrderId, parts: &[Value]) -> anyhow::Result<()> {
        self.pay(id, &json!({})).await?;
        self.until(id, |order| order.status == Status::Signed).await?;
        for (number, part) in parts.iter().enumerate() {
            let body = serde_json::to_vec(part)?;
            for _ in 0..2 {
                self.api.refund(id, body.clone(), &format!("demo-{number}")).await.context("refund")?;
            }
        }
        Ok(())
    }

    async fn money_back(&self, id: OrderId, is_back: impl Fn(&Money) -> bool) -> anyhow::Result<()> {
        self.pulse
            .look_for(PAUSE, async || {
                let reply = self.api.refunds(id).await?;
                let money: Money = serde_json::from_str(reply.get())?;
                let (back, total) = (&money.refunded, &money.total);
                let seen = || format!("{back} of {total} went back, which is not what was asked for");
                Ok(if is_back(&money) { Ok(()) } else { Err(seen()) })
            })
            .await
    }

    async fn extra_refunded(&self, id: OrderId) -> anyhow::Result<()> {
        let seen = || "the second payment was not given back".to_owned();
        self.pulse.look_for(PAUSE, async || Ok(if self.refunds(id).await? > 0 { Ok(()) } else { Err(seen()) })).await
    }

    async fn refunds(&self, id: OrderId) -> anyhow::Result<usize> {
        let reply = self.api.payment(id).await?;
        Ok(serde_json::from_str::<Payment>(reply.get())?.refunds.len())
    }

    async fn pay(&self, id: OrderId, sandbox: &Value) -> anyhow::Result<Paid> {
        // One question about all orders is cheaper than each one trying to pay until it can.
        self.until(id, |order| order.status != Status::Created).await?;
        let body = serde_json::to_vec(&json!({"method": "card", "sandbox": sandbox}))?;
        let reply = pay_when_open(self.api, id, &body, || !self.pulse.is_still()).await.context("pay")?;
        self.pulse.beat();
        Ok(serde_json::from_str(reply.get())?)
    }

    /// A payment that does not count. It may come too late: the order then has the end that it is to have.
    async fn pay_in_vain(&self, id: OrderId, sandbox: &Value) -> anyhow::Result<()> {
        let Err(error) = self.pay(id, sandbox).await else { return Ok(()) };
        let late = self.until(id, |order| order.status == Status::Canceled);
        // Whatever else is wrong, the end of the order will tell.
        if late.await.is_ok() { Ok(()) } else { Err(error) }
    }

    /// Makes the channel report the payment, as soon as the payment has reached it.
    async fn call_back(&self, payment_id: &str) -> anyhow::Result<()> {
        let looking = self.pulse.look_for(PAUSE, async || match self.api.sandbox_callback(payment_id).await {
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(Err(error.to_string())),
            other => Ok(Ok(other.map(drop)?)),
        });
        looking.await.context("call back")
    }

    async fn cancel(&self, id: OrderId) -> anyhow::Result<()> {
        let body = serde_json::to_vec(&json!({"reason": "changed my mind"}))?;
        self.api.cancel(id, body).await.context("cancel")?;
        Ok(())
    }

    async fn until(
        &self,
        id: OrderId,
        accept: impl Fn(&OrderView) -> bool,
    ) -> anyhow::Result<std::sync::Arc<OrderView>> {
        loop {
            match self.watch.until(id, self.pulse.patience(), &accept).await {
                // It takes long, as everything else does.
                Err(WatchError::Timeout { .. }) if !self.pulse.is_still() => {}
                seen => {
                    self.pulse.beat();
                    return Ok(seen?);
                }
            }
        }
    }
}

pub(super) fn failed(order_id: Option<OrderId>, ended: End, why: &str, error: &anyhow::Error) -> Done {
    Done { ended, order_id, why: why.to_owned(), failure: Some(format!("{error:#}")) }
}
