//! A grant and a refund of one order that are handled at the same moment, by two processes on MariaDB: neither sees a row
//! of the other when it looks, and nothing locks a row that is not there.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use ruyi::config::{Config, Sources};
use ruyi::db::{DbError, Tx};
use ruyi::domain::event::{Group, Kind, Role};
use ruyi::mq::message::{Incoming, QueueId};
use ruyi::mq::retry::Policy;
use ruyi::mq::{Consumer, Event, Handler, Outcome};
use ruyi::process;
use ruyi::telemetry::Metrics;
use serde_json::{Value, json};
use tokio::sync::Barrier;

use crate::support::servers::{TestDb, count, mariadb};

/// Pairs of a grant and a refund; without the second look one in a few of them goes wrong.
const ORDERS: i64 = 60;

/// A handler whose first transaction begins when that of the other side does.
struct Meeting {
    handler: Arc<dyn Handler>,
    place: Mutex<Option<Arc<Barrier>>>,
}

impl Handler for Meeting {
    fn group(&self) -> Group {
        self.handler.group()
    }

    fn handle<'a>(&'a self, tx: &'a mut Tx, events: &'a [Event]) -> BoxFuture<'a, Result<Vec<Outcome>, DbError>> {
        let place = self.place.lock().unwrap().take();
        Box::pin(async move {
            if let Some(place) = place {
                place.wait().await;
            }
            self.handler.handle(tx, events).await
        })
    }
}

fn message(kind: Kind, order_id: i64, body: &Value) -> Incoming {
    Incoming {
        queue: QueueId { topic: kind.name().to_owned(), broker: "a".to_owned(), queue: 0 },
        offset: order_id,
        tag: String::new(),
        key: order_id.to_string(),
        body: Bytes::from(body.to_string()),
        unreadable: None,
        properties: vec![("eventId".to_owned(), format!("{order_id}:{}", kind.name()))],
        born_ms: 0,
    }
}

/// Handles one message, beginning with whoever else waits at this place.
async fn handled(test: &TestDb, place: &Arc<Barrier>, message: Incoming) {
    let config = Config::load(&Sources::default()).unwrap();
    let handlers = process::handlers(&config, &[Role::Notify]);
    let handler = handlers.into_iter().find(|handler| handler.group() == Group::Points).unwrap();
    let meeting = Meeting { handler, place: Mutex::new(Some(Arc::clone(place))) };
    let metrics = Arc::new(Metrics::new().unwrap());
    let consumer = Consumer::new(test.db.clone(), Arc::new(meeting), Policy::of(&config.mq.retry), metrics);
    consumer.process(vec![message]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_and_its_refund_see_each_other() {
    let Some(test) = mariadb().await else { return };
    for order_id in 1..=ORDERS {
        let grant = json!({"orderId": order_id, "userId": 7, "payAmount": 59.8, "payTime": 1});
        let refund = json!({"refundId": order_id, "orderId": order_id, "amount": 59.8, "paidAmount": 59.8,
            "userId": 7});
        let place = Arc::new(Barrier::new(2));
        tokio::join!(
            handled(&test, &place, message(Kind::PaidOrderSuccess, order_id, &grant)),
            handled(&test, &place, message(Kind::RefundSuccess, order_id, &refund)),
        );
    }

    // A grant after its refund is nothing to be done.
    let handled = "SELECT COUNT(*) FROM message_process_log WHERE outcome IN (0, 1)";
    assert_eq!(count(&test.db, handled).await, 2 * ORDERS);
    let open = "SELECT COUNT(*) FROM (SELECT order_id FROM points_record GROUP BY order_id HAVING SUM(points) <> 0) o";
    assert_eq!(count(&test.db, open).await, 0, "orders whose points were granted and not taken back");
}
