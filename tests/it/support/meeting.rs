//! Messages that are handled at the same moment, as by two processes or by two lanes of one: neither of the transactions
//! sees what the other has not committed yet.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use ruyi::config::{Config, Sources};
use ruyi::db::{DbError, Tx};
use ruyi::domain::event::{Group, Kind};
use ruyi::mq::message::{Incoming, QueueId};
use ruyi::mq::retry::Policy;
use ruyi::mq::{Consumer, Event, Handler, Outcome};
use ruyi::process;
use ruyi::telemetry::Metrics;
use serde_json::Value;
use tokio::sync::Barrier;

use crate::support::servers::TestDb;

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

/// What tells of this event of an order.
pub fn message(kind: Kind, order_id: i64, body: &Value) -> Incoming {
    Incoming {
        queue: QueueId { topic: kind.name().to_owned(), broker: "a".to_owned(), queue: 0 },
        offset: order_id,
        tag: String::new(),
        key: order_id.to_string(),
        body: Bytes::from(body.to_string()),
        unreadable: None,
        properties: vec![("eventId".to_owned(), format!("{order_id}:{}", kind.name()))],
        born_ms: 0,
        stored_ms: 0,
    }
}

/// Handles one message in its group, beginning with whoever else waits at this place.
pub async fn handled(test: &TestDb, group: Group, place: &Arc<Barrier>, message: Incoming) {
    let config = Config::load(&Sources::default()).unwrap();
    let handlers = process::handlers(&config, &[group.role()]);
    let handler = handlers.into_iter().find(|handler| handler.group() == group).unwrap();
    let meeting = Meeting { handler, place: Mutex::new(Some(Arc::clone(place))) };
    let metrics = Arc::new(Metrics::new().unwrap());
    let consumer = Consumer::new(test.db.clone(), Arc::new(meeting), Policy::of(&config.mq.retry), metrics);
    consumer.process(vec![message]).await.unwrap();
}
