//! A shop with one handler that fails as it is told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ruyi::domain::event::Group;
use ruyi::mq::Event;
use serde_json::json;

use crate::support::shop::{Fault, Setup, Shop, Unreliable};

/// A group whose handler fails for one key for as long as it is told to.
#[derive(Clone, Default)]
pub struct FailingHandler {
    key: Arc<std::sync::Mutex<Option<(Group, String, Fault)>>>,
    calls: Arc<AtomicU64>,
}

impl FailingHandler {
    pub fn set(&self, group: Group, key: &str, fault: Fault) {
        *self.key.lock().unwrap() = Some((group, key.to_owned(), fault));
    }

    pub fn heal(&self) {
        *self.key.lock().unwrap() = None;
    }

    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    pub fn setup(&self) -> Setup {
        let bad = self.clone();
        let wrap = move |handler: Arc<dyn ruyi::mq::Handler>| {
            let (bad, group) = (bad.clone(), handler.group());
            Unreliable::around(handler, move |event: &Event| {
                let key = bad.key.lock().unwrap();
                let (_, _, fault) = key.as_ref().filter(|(one, key, _)| *one == group && *key == event.key)?;
                bad.calls.fetch_add(1, Ordering::SeqCst);
                Some(*fault)
            })
        };
        Setup { wrap: Box::new(wrap), ..Setup::default() }
    }
}

pub async fn open(setup: Setup) -> Shop {
    let shop = Shop::with(setup, 0).await;
    shop.sell("TEA", 1_000, 1_000).await;
    shop
}

pub async fn order(shop: &Shop) -> String {
    shop.place_order(1, &[("TEA", 1)], json!({})).await
}

/// (topic, outcome) of the messages of a key in a group's inbox, in the order in which they came.
pub async fn inbox(shop: &Shop, group: Group, key: &str) -> Vec<(String, i64)> {
    let text =
        "SELECT consumer_group, msg_key, topic, CAST(outcome AS CHAR) FROM message_process_log ORDER BY batch_id";
    let rows = shop.rows(text).await;
    let of_key = rows.iter().filter(|row| row[0] == group.name() && row[1] == key);
    of_key.map(|row| (row[2].clone(), row[3].parse().unwrap())).collect()
}

/// Everything that is due now, without moving the clock.
pub async fn now(shop: &mut Shop) {
    shop.settle_within(0).await;
}
