//! The coupons of the demo's orders.

use anyhow::{Context as _, bail};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::cases::{Case, Kind};
use super::drive::{Driver, PAUSE};
use crate::client::{CallError, OrderView, Reply};
use crate::domain::id::{CouponId, OrderId};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Coupon {
    coupon_id: CouponId,
    state: String,
    #[serde(default)]
    order_id: Option<OrderId>,
}

#[derive(Deserialize)]
struct Coupons {
    items: Vec<Coupon>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reduced {
    user_id: String,
    coupon_id: Option<CouponId>,
}

/// It is refused because another order has the coupon.
fn is_taken(refused: &CallError) -> bool {
    matches!(refused, CallError::Refused(problem) if problem.status == 409 && problem.kind.ends_with(":coupon-taken"))
}

impl Driver<'_> {
    /// The body of an order, with the coupon that its user is given for it.
    pub(super) async fn body(&self, case: &Case) -> anyhow::Result<Bytes> {
        let Some(template) = &case.coupon else { return Ok(case.body.clone()) };
        let mut fields: Map<String, Value> = serde_json::from_slice(&case.body)?;
        let user = serde_json::to_vec(&json!({"userId": fields.get("userId")}))?;
        let reply = self.api.issue_coupon(template, user, &format!("{}-coupon", case.key)).await?;
        let coupon: Coupon = serde_json::from_str(reply.get())?;
        fields.insert("couponId".to_owned(), json!(coupon.coupon_id));
        Ok(serde_json::to_vec(&fields)?.into())
    }

    /// Places an order; where two are to want one coupon, both at once, and one of them must be refused.
    pub(super) async fn place(&self, case: &Case, body: Bytes) -> Result<Reply, CallError> {
        if case.kind != Kind::CouponTwice {
            return self.api.create_order(body, &case.key).await;
        }
        let again = format!("{}-again", case.key);
        let both = (self.api.create_order(body.clone(), &case.key), self.api.create_order(body, &again));
        match tokio::join!(both.0, both.1) {
            (Ok(_), Ok(_)) => Err(CallError::Setup("two orders have one coupon".to_owned())),
            (Ok(placed), Err(error)) | (Err(error), Ok(placed)) => {
                if is_taken(&error) {
                    Ok(placed)
                } else {
                    Err(error)
                }
            }
            (Err(error), Err(_)) => Err(error),
        }
    }

    /// The coupon of an order that is over is used up, or its user's again.
    pub(super) async fn check_coupon(&self, kind: Kind, order: &OrderView) -> anyhow::Result<()> {
        let used = match kind {
            Kind::CouponUsed | Kind::CouponTwice => true,
            Kind::CouponCanceled | Kind::CouponRefunded => false,
            _ => return Ok(()),
        };
        let raw = self.api.order(order.order_id).await?;
        let reduced: Reduced = serde_json::from_str(raw.get())?;
        let id = reduced.coupon_id.context("the order has no coupon")?;
        let wanted = if used { ("USED", Some(order.order_id)) } else { ("AVAILABLE", None) };
        // Another process may have read it before it changed.
        self.pulse
            .look_for(PAUSE, async || {
                let reply = self.api.coupon_before(&reduced.user_id, id.0.saturating_add(1)).await?;
                let found: Coupons = serde_json::from_str(reply.get())?;
                let Some(coupon) = found.items.into_iter().find(|one| one.coupon_id == id) else {
                    bail!("coupon {id} is gone")
                };
                let fits = (coupon.state.as_str(), coupon.order_id) == wanted;
                Ok(if fits { Ok(()) } else { Err(format!("coupon {id} is {}, not {}", coupon.state, wanted.0)) })
            })
            .await
    }
}
