//! News on its way to a group of a shop, taken off it for a while.

use axum::http::StatusCode;
use ruyi::domain::event::{Group, Kind};
use ruyi::mq::message::Incoming;
use serde_json::json;

use crate::support::shop::Shop;

/// The news of the money of every order, taken off its way.
fn hold_back(shop: &mut Shop, held: &mut Vec<Incoming>) {
    let queue = shop.queue(Group::Order);
    held.extend(queue.extract_if(.., |message| message.queue.topic == Kind::PaymentSuccess.name()));
}

/// The payment has its money, and the order does not know; what was held back.
pub async fn paid_in_silence(shop: &mut Shop, order: &str) -> Vec<Incoming> {
    assert_eq!(shop.pay(order, json!({})).await, StatusCode::ACCEPTED);
    let mut held = Vec::new();
    while held.is_empty() {
        shop.relay(0.0).await;
        hold_back(shop, &mut held);
        if held.is_empty() && !shop.turn().await {
            shop.clock.advance_ms(100);
        }
    }
    assert_eq!(shop.payment(order).await.unwrap()["status"], "SUCCESS");
    assert_eq!(shop.status(order).await, "RESERVED");
    held
}

/// A broker that nobody reaches: what is sent comes to nobody until it is back.
#[derive(Default)]
pub struct AwayBroker(Vec<(Group, Incoming)>);

impl AwayBroker {
    /// Everything that works without it, once; false when there was nothing.
    pub async fn turn(&mut self, shop: &mut Shop) -> bool {
        self.hold(shop).await;
        shop.turn().await
    }

    /// It is back: all that was sent comes, in this order or in reverse.
    pub async fn returns(mut self, shop: &mut Shop, reversed: bool) {
        self.hold(shop).await;
        if reversed {
            self.0.reverse();
        }
        for (group, message) in self.0 {
            shop.queue(group).push(message);
        }
    }

    /// How many messages of this kind wait in it.
    pub fn waiting(&self, kind: Kind) -> usize {
        self.0.iter().filter(|(_, message)| message.queue.topic == kind.name()).count()
    }

    async fn hold(&mut self, shop: &mut Shop) {
        shop.relay(0.0).await;
        for group in shop.groups() {
            self.0.extend(shop.queue(group).drain(..).map(|message| (group, message)));
        }
    }
}
