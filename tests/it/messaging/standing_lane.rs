//! A lane that does not go on: its queues wait in the broker, those of the other lanes are consumed.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use ruyi::domain::event::Kind;
use ruyi::mq::message::{Delay, Outgoing};

use crate::support::client_bench::EitherBroker;
use crate::support::holding_handler::HoldingHandler;
use crate::support::lanes_bench::start_lanes;
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
    let handler = HoldingHandler::new();
    let shutdown = start_lanes(&bench, &test.db, &handler, topics, 8);

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
