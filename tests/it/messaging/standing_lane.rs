//! A lane that does not go on: its queues wait in the broker, those of the other lanes are consumed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ruyi::config::Config;
use ruyi::domain::event::Kind;
use ruyi::mq::broker::Cluster;
use ruyi::mq::health::Health;
use ruyi::mq::lanes::{self, Membership};
use ruyi::mq::local::Local;
use ruyi::mq::message::{Delay, Outgoing};
use ruyi::mq::retry::Policy;
use ruyi::mq::{Consumer, Handler};
use ruyi::shutdown::Shutdown;
use ruyi::telemetry::Metrics;

use crate::support::client_bench::EitherBroker;
use crate::support::holding_handler::HoldingHandler;
use crate::support::servers::mariadb;
use crate::support::waiting::eventually_or_show;

/// Far more than wait before a lane.
const EACH: usize = 400;
const KEYS: usize = 16;

fn messages_of(key: &str) -> Vec<Outgoing> {
    let message = |number: usize| Outgoing {
        topic: Kind::InventoryDeduct.name().to_owned(),
        tag: String::new(),
        key: key.to_owned(),
        body: "{}".into(),
        properties: vec![("eventId".to_owned(), format!("{key}-{number:04}:E"))],
        delay: Delay::None,
    };
    (0..EACH).map(message).collect()
}

/// What was handled of each key. A transaction that was held for too long is rolled back, and made again.
fn handled(handler: &HoldingHandler) -> HashMap<String, Vec<String>> {
    let mut seen = handler.seen();
    for ids in seen.values_mut() {
        let mut firsts = HashSet::new();
        ids.retain(|id| firsts.insert(id.clone()));
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_stands_holds_up_only_its_queues() {
    let Some(test) = mariadb().await else { return };
    let bench = EitherBroker::Embedded(tempfile::tempdir().unwrap()).bench(|_| ()).await;
    let topics = bench.topics(&[Kind::InventoryDeduct.name()]).await;
    let (handler, shutdown) = (HoldingHandler::new(), Shutdown::new());
    let policy = Policy::of(&Config::example().unwrap().mq.retry);
    let as_handler = Arc::clone(&handler) as Arc<dyn Handler>;
    let consumer = Consumer::new(test.db.clone(), as_handler, policy, Arc::new(Metrics::new().unwrap()));
    let health = Arc::new(Health::new(true, Duration::from_secs(60)));
    let cluster = Cluster::new(bench.mq.clone(), health, Local::standing_in(HashMap::new()));
    lanes::start_cluster(&consumer, Membership { cluster, topics, lanes: 8, batch: 8 }, &shutdown);

    bench.send(&messages_of("slow")).await;
    for key in 0..KEYS {
        bench.send(&messages_of(&key.to_string())).await;
    }
    let counts = || {
        let mut counts: Vec<usize> = handled(&handler).values().map(Vec::len).collect();
        counts.sort_unstable();
        counts
    };
    // One queue of four is held up with whatever else is in it.
    let show = || format!("{:?}", counts());
    let whole = || counts().iter().filter(|count| **count == EACH).count();
    eventually_or_show("the other queues go on", show, async || whole() > KEYS / 2).await;
    assert!(handled(&handler).get("slow").map_or(0, Vec::len) < EACH, "it is held up");

    handler.gate.close();
    eventually_or_show("all is handled", show, async || whole() == KEYS + 1).await;
    assert!(handled(&handler).values().all(|ids| ids.is_sorted()), "in their order");
    shutdown.drain(Duration::from_secs(30)).await.unwrap();
    bench.stop().await;
}
