//! The demo's merchant, whose payments pass the gateway, and the users who are told by text message.

use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::StatusCode;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::cases::{Case, End, Kind};
use super::drive::{Done, Driver, PAUSE, failed};
use super::outside::Outside;
use super::pulse::Pulse;
use crate::client::{Api, CallError, OrderView};

/// The demo's merchant.
const MERCHANT: i64 = 9001;
/// Between two looks at a payment, each of which is a request.
const LOOK: Duration = Duration::from_millis(300);
/// The same wish at once, where it is made more than once.
const AT_ONCE: usize = 8;

#[derive(Deserialize)]
struct Payment {
    status: String,
}

#[derive(Deserialize)]
struct Secret {
    secret: SecretString,
}

/// Makes the merchant known to all who have to know it. It is told of its payments where `outside` listens.
///
/// # Errors
/// A role refuses or does not answer, or the merchant does not become known.
pub async fn set_up(api: &Api, outside: Option<&Outside>, pulse: &Pulse) -> anyhow::Result<()> {
    let merchant = json!({
        "name": "演示商户", "tenantId": "demo", "notifyUrl": outside.map(Outside::notify_url).unwrap_or_default(),
        "accepts": [{"productId": "h5", "channelId": "sandbox", "minAmount": 1, "maxAmount": 5_000}],
    });
    api.put_merchant(MERCHANT, serde_json::to_vec(&merchant)?).await?;
    if let Some(outside) = outside {
        let reply = api.rotate_secret(MERCHANT, serde_json::to_vec(&json!({"keepOldForSeconds": 0}))?).await?;
        outside.set_secret(&serde_json::from_str::<Secret>(reply.get())?.secret)?;
    }
    // The payment role hears of it by a message: until then it knows no such merchant, and then it refuses this wish.
    let too_much = serde_json::to_vec(&json!({"merchantId": MERCHANT.to_string(), "outOrderNo": "demo-set-up",
        "amount": 5_001, "productId": "h5", "channelId": "sandbox"}))?;
    pulse
        .look_for(PAUSE, async || match api.open_payment(too_much.clone()).await {
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(Err(error.to_string())),
            Err(error) if error.status() == Some(StatusCode::UNPROCESSABLE_ENTITY) => Ok(Ok(())),
            Err(error) => Err(error.into()),
            Ok(_) => bail!("merchant {MERCHANT} may open payments of any amount"),
        })
        .await
}

impl Driver<'_> {
    /// A payment of the merchant's own order.
    pub(super) async fn gateway(&self, case: &Case) -> Done {
        let number = case.key.as_str();
        let opened = match self.open(case).await {
            Ok(opened) => opened,
            Err(error) => return failed(None, End::Open, "not opened", &error),
        };
        if let Err(refused) = opened {
            let why = format!("{} {}", refused.status, refused.kind.rsplit(':').next().unwrap_or_default());
            return Done { ended: End::Rejected, order_id: None, why, failure: None };
        }
        let ended = match self.put_payment_through(case.kind, number).await {
            Ok(ended) => ended,
            Err(error) => return failed(None, End::Open, "gave up", &error),
        };
        let failure = self.merchant_is_told(case.kind, number).await.err().map(|error| format!("{error:#}"));
        Done { ended, order_id: None, why: String::new(), failure }
    }

    async fn open(&self, case: &Case) -> anyhow::Result<Result<(), Box<crate::http::Problem>>> {
        let mut fields: Map<String, Value> = serde_json::from_slice(&case.body)?;
        fields.insert("outOrderNo".to_owned(), json!(case.key));
        let body = serde_json::to_vec(&fields)?;
        let times = if case.kind == Kind::GatewayTwice { AT_ONCE } else { 1 };
        let wishes = (0..times).map(|_| self.api.open_payment(body.clone()));
        let mut ids = Vec::new();
        for opened in futures_util::future::join_all(wishes).await {
            match opened {
                Ok(reply) => ids.push(serde_json::from_str::<Value>(reply.get())?["paymentId"].clone()),
                Err(CallError::Refused(problem)) if problem.status_code().is_client_error() => return Ok(Err(problem)),
                Err(error) => return Err(error.into()),
            }
        }
        ids.dedup();
        anyhow::ensure!(ids.len() == 1, "one number opened the payments {ids:?}");
        Ok(Ok(()))
    }

    async fn put_payment_through(&self, kind: Kind, number: &str) -> anyhow::Result<End> {
        match kind {
            Kind::GatewayRefunded => {
                self.payment_until(number, "SUCCESS").await?;
                // Each twice, as if an answer were lost.
                for (key, body) in [("part", json!({"amount": 0.3})), ("rest", json!({}))] {
                    let body = serde_json::to_vec(&body)?;
                    for _ in 0..2 {
                        self.api.refund_payment(MERCHANT, number, body.clone(), key).await.context("refund")?;
                    }
                }
            }
            Kind::GatewayClosed => {
                self.payment_until(number, "SUCCESS").await?;
                match self.api.close_payment(MERCHANT, number).await {
                    Err(error) if error.status() == Some(StatusCode::CONFLICT) => {}
                    Err(error) => return Err(error).context("close"),
                    Ok(_) => bail!("payment {number} was closed although it is paid"),
                }
                self.api.refund_payment(MERCHANT, number, &b"{}"[..], "closed").await.context("refund")?;
            }
            _ => {
                self.payment_until(number, "SUCCESS").await?;
                return Ok(End::Paid);
            }
        }
        self.payment_until(number, "REFUNDED").await?;
        Ok(End::Refunded)
    }

    async fn payment_until(&self, number: &str, status: &str) -> anyhow::Result<()> {
        self.pulse
            .look_for(LOOK, async || {
                let reply = self.api.gateway_payment(MERCHANT, number).await?;
                let Payment { status: seen } = serde_json::from_str(reply.get())?;
                Ok(if seen == status { Ok(()) } else { Err(format!("payment {number} is {seen}, not {status}")) })
            })
            .await
    }

    async fn merchant_is_told(&self, kind: Kind, number: &str) -> anyhow::Result<()> {
        let wanted: &[&str] = match kind {
            Kind::GatewayPaid | Kind::GatewayTwice => &["PAID"],
            Kind::GatewayRefunded => &["PAID", "PART_REFUNDED", "REFUNDED"],
            _ => &["PAID", "REFUNDED"],
        };
        let Some(outside) = self.outside else { return Ok(()) };
        self.told(wanted, || outside.news(number)).await.context("the merchant")
    }

    /// The user of an order was told all of it by text message, and once.
    pub(super) async fn user_is_told(&self, order: &OrderView) -> anyhow::Result<()> {
        let Some(outside) = self.outside else { return Ok(()) };
        let id = order.order_id.to_string();
        let wanted = ["ORDER_DELIVERY", "ORDER_PAY_SUCCESS", "ORDER_SIGNED"];
        self.told(&wanted, || outside.texts(&id)).await.context("the user")
    }

    async fn told(&self, wanted: &[&str], seen: impl Fn() -> Vec<String>) -> anyhow::Result<()> {
        self.pulse
            .look_for(PAUSE, async || {
                let seen = seen();
                Ok(if seen == wanted { Ok(()) } else { Err(format!("was told {seen:?}, not {wanted:?}")) })
            })
            .await
    }

    /// The user of an order that is told by text message has a phone, where somebody is there to send the message.
    pub(super) async fn reach_user(&self, case: &Case) -> anyhow::Result<()> {
        if self.outside.is_none() {
            return Ok(());
        }
        let fields: Map<String, Value> = serde_json::from_slice(&case.body)?;
        let user = fields.get("userId").and_then(Value::as_str).context("the order has no user")?;
        let contact = json!({"phone": format!("+86138{user:0>8}"), "language": "zh"});
        self.api.put_contact(user, serde_json::to_vec(&contact)?).await.map(drop).context("contact")
    }
}
