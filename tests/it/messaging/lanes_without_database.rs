//! Lanes whose database is away tell why they wait, and are no reason to start the process anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ruyi::clock::Clock;
use ruyi::db::{Db, Options};
use ruyi::domain::event::{Group, Kind};
use ruyi::fault::Faults;

use crate::support::client_bench::{EitherBroker, numbered};
use crate::support::holding_handler::HoldingHandler;
use crate::support::lanes_bench::start_lanes;
use crate::support::servers::sqlite;
use crate::support::waiting::eventually;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_the_database_stands_with_its_reason() {
    let test = sqlite().await;
    let away = Arc::new(AtomicBool::new(true));
    let is_away = Arc::clone(&away);
    let faults = Faults::plan(Box::new(move |name, _| name == "consume" && is_away.load(Ordering::SeqCst)));
    let options = Options { url: test.url.clone(), max_connections: 4, clock: Clock::system(), faults };
    let db = Db::open(&options).await.unwrap();
    let bench = EitherBroker::Embedded(tempfile::tempdir().unwrap()).bench(|_| ()).await;
    let topic = Kind::InventoryDeduct.name();
    let (topics, handler) = (bench.topics(&[topic]).await, HoldingHandler::new());
    let shutdown = start_lanes(&bench, &db, &handler, topics, 2);
    bench.send(&numbered(topic, 1, 1)).await;

    let reasons = || {
        let standing = db.watchdog().standing(Duration::ZERO).into_iter();
        standing.filter(|found| found.part == Group::Stock.name()).filter_map(|found| found.wrong).collect::<Vec<_>>()
    };
    eventually("the lane tells why", async || reasons().iter().any(|why| why.contains("consume"))).await;
    away.store(false, Ordering::SeqCst);
    eventually("it goes on", async || reasons().is_empty() && !handler.seen().is_empty()).await;
    shutdown.drain(Duration::from_secs(30)).await.unwrap();
    bench.stop().await;
}
