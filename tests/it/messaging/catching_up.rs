//! New rows while the sweep still sends what an outage has left: they wait in memory, and leave behind it, once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ruyi::config::Config;
use ruyi::db::outbox::{self, HEAD_START_MS, OutboxRow};
use ruyi::db::sql::{self, Columns};
use ruyi::db::tx::Draft;
use ruyi::domain::event::Kind;
use ruyi::mq::Broker;
use ruyi::mq::broker::Cluster;
use ruyi::mq::health::Health;
use ruyi::mq::local::Local;
use ruyi::mq::relay::Relay;
use ruyi::mq::sweep::Sweep;
use ruyi::shutdown::Shutdown;
use ruyi::telemetry::Metrics;
use ruyi::vals;
use serde_json::{Value, json};

use crate::support::broker_bench::BrokerBench;
use crate::support::message_rows::outbox_row;
use crate::support::servers::{TestDb, count, sqlite, write_tx};
use crate::support::waiting::eventually;

const KEYS: i64 = 30;
/// Rows of each key that the outage has left: more than the sweep takes in two steps.
const LEFT: i64 = 100;

/// The next event of each key.
async fn emit(test: &TestDb, number: i64) {
    let emitted = write_tx!(test.db, [], |tx| {
        let (body, discriminator) = (json!({ "number": number }), number.to_string());
        for key in 1..=KEYS {
            let draft = Draft::new(Kind::OrderCreated, key, &body, None);
            tx.emit(&Draft { discriminator: &discriminator, ..draft })?;
        }
        Ok(())
    });
    emitted.unwrap();
}

/// Rows of a process that is gone, due at once.
async fn left_by_another(test: &TestDb) {
    let row = |place: usize| {
        let id = test.db.ids().next();
        let (topic, key) = (Kind::OrderCreated.name().to_owned(), format!("other-{place}"));
        OutboxRow { event_id: format!("other-{id}"), topic, key, ..outbox_row(id) }
    };
    let rows: Vec<OutboxRow> = (0..5).map(row).collect();
    write_tx!(test.db, [rows], |tx| { outbox::insert(tx, &rows, 0).await }).unwrap();
}

/// Rows of the keys that are sent, of those behind row `id`.
async fn sent_behind(test: &TestDb, id: i64) -> i64 {
    let text = "SELECT COUNT(*) FROM message_record WHERE status = 1 AND id > ? AND event_id NOT LIKE 'other%'";
    let mut conn = test.db.read().await.unwrap();
    sql::fetch_one(&mut conn, text, vals![id]).await.unwrap().unwrap().int(0).unwrap()
}

/// Rows that the relay could not send.
fn tried_in_vain(metrics: &Metrics) -> i64 {
    let text = metrics.encode().unwrap();
    let is_wanted = |line: &&str| line.starts_with("rocketmq_producer_send_total") && line.contains("\"error\"");
    text.lines().filter(is_wanted).map(|line| line.rsplit(' ').next().unwrap().parse::<i64>().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_rows_wait_while_the_sweep_catches_up() {
    let (test, bench) = (sqlite().await, BrokerBench::embedded().await);
    let topic = Kind::OrderCreated.name().to_owned();
    bench.mq.ensure_topics(std::slice::from_ref(&topic), 4).await.unwrap();
    let health = Arc::new(Health::new(false, Duration::from_secs(3_600)));
    let cluster = Cluster::new(bench.mq.clone(), Arc::clone(&health), Local::standing_in(HashMap::new()));
    let metrics = Arc::new(Metrics::new().unwrap());
    let relay = Relay::new(test.db.clone(), Broker::Cluster(cluster), Arc::clone(&metrics));
    let shutdown = Shutdown::new();
    relay.start(2, 100_000, &shutdown);
    let sweep = Sweep::new(relay, &Config::example().unwrap().mq.outbox);

    // The broker is away while the relay tries them, and then it is there.
    for number in 0..LEFT {
        emit(&test, number).await;
    }
    eventually("all are left for the sweep", async || tried_in_vain(&metrics) == KEYS * LEFT).await;
    test.clock.advance_ms(HEAD_START_MS);
    let last_left = test.db.ids().next();
    health.saw(true);

    // Something is due at every step.
    let mut number = LEFT;
    eventually("new rows are sent", async || {
        emit(&test, number).await;
        number += 1;
        left_by_another(&test).await;
        sweep.step().await.unwrap();
        sent_behind(&test, last_left).await > 0
    })
    .await;
    let unsent = "SELECT COUNT(*) FROM message_record WHERE status = 0";
    eventually("all rows are sent", async || {
        sweep.step().await.unwrap();
        count(&test.db, unsent).await == 0
    })
    .await;
    shutdown.cancel();

    // Each came once, and those of a key in their order.
    let rows = usize::try_from(count(&test.db, "SELECT COUNT(*) FROM message_record").await).unwrap();
    let consumer = bench.mq.subscribe("reader", &[topic]).await.unwrap();
    let came = bench.take(&consumer, rows).await;
    let more = consumer.poll(256, Duration::from_secs(1)).await;
    consumer.shutdown().await;
    assert_eq!((came.len(), more.len()), (rows, 0));
    let mut numbers: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for message in came.iter().filter(|message| !message.key.starts_with("other")) {
        let body: Value = serde_json::from_slice(&message.body).unwrap();
        numbers.entry(&message.key).or_default().push(body["number"].as_i64().unwrap());
    }
    assert_eq!(numbers.len(), usize::try_from(KEYS).unwrap());
    for (key, of_key) in &numbers {
        assert!(of_key.iter().copied().eq(0..number), "{key}: {of_key:?}");
    }
    bench.stop().await;
}
