//! The lanes of the stock group on a broker, with a handler of the test's.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ruyi::config::Config;
use ruyi::db::Db;
use ruyi::mq::broker::Cluster;
use ruyi::mq::health::Health;
use ruyi::mq::lanes::{self, Membership};
use ruyi::mq::local::Local;
use ruyi::mq::retry::Policy;
use ruyi::mq::{Consumer, Handler};
use ruyi::shutdown::Shutdown;
use ruyi::telemetry::Metrics;

use super::client_bench::ClientBench;
use super::holding_handler::HoldingHandler;

/// Batches of its lanes.
const BATCH: usize = 8;

/// Starts them; what is returned stops them.
pub fn start_lanes(
    bench: &ClientBench,
    db: &Db,
    handler: &Arc<HoldingHandler>,
    topics: Vec<String>,
    lanes: usize,
) -> Shutdown {
    let shutdown = Shutdown::new();
    let policy = Policy::of(&Config::example().unwrap().mq.retry);
    let handler = Arc::clone(handler) as Arc<dyn Handler>;
    let consumer = Consumer::new(db.clone(), handler, policy, Arc::new(Metrics::new().unwrap()));
    let health = Arc::new(Health::new(true, Duration::from_secs(60)));
    let cluster = Cluster::new(bench.mq.clone(), health, Local::standing_in(HashMap::new()));
    lanes::start_cluster(&consumer, Membership { cluster, topics, lanes, batch: BATCH }, &shutdown);
    shutdown
}
