//! A broker that answers slowly: what is on its way to it is sent once.

use std::collections::HashMap;
use std::sync::Arc;

use ruyi::db::outbox::{self, HEAD_START_MS};
use ruyi::db::tx::Draft;
use ruyi::domain::event::Kind;
use ruyi::mq::Broker;
use ruyi::mq::local::{Handed, Local};
use ruyi::mq::relay::Relay;
use ruyi::shutdown::Shutdown;
use ruyi::telemetry::Metrics;
use tokio::sync::mpsc;

use crate::support::servers::{START_MS, TestDb, count, sqlite, write_tx};
use crate::support::waiting::eventually;

async fn emit(test: &TestDb, key: i64) {
    write_tx!(test.db, [], |tx| {
        let body = serde_json::json!({});
        tx.emit(&Draft::new(Kind::OrderCreated, key, &body, None))
    })
    .unwrap();
}

/// Rows that the sweep would take later than at `at_ms`.
async fn kept_beyond(test: &TestDb, at_ms: i64) -> i64 {
    let mut conn = test.db.read().await.unwrap();
    let text = "SELECT COUNT(*) FROM message_record WHERE next_at > ?";
    let row = ruyi::db::sql::fetch_one(&mut conn, text, ruyi::vals![at_ms]).await.unwrap().unwrap();
    ruyi::db::sql::Columns::int(&row, 0).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_on_their_way_are_not_swept() {
    let test = sqlite().await;
    let (lanes, mut handed): (Vec<_>, Vec<mpsc::Receiver<Handed>>) = Kind::OrderCreated
        .groups()
        .iter()
        .map(|group| {
            let (sender, handed) = mpsc::channel(8);
            ((*group, vec![sender]), handed)
        })
        .unzip();
    let broker = Broker::Local(Local::new(lanes.into_iter().collect::<HashMap<_, _>>()));
    let relay = Relay::new(test.db.clone(), broker, Arc::new(Metrics::new().unwrap()));
    let shutdown = Shutdown::new();
    relay.start(1, 100, &shutdown);
    emit(&test, 1).await;
    let mut first = Vec::new();
    for lane in &mut handed {
        first.push(lane.recv().await.unwrap());
    }
    // It waits behind the first, which nobody answers for.
    emit(&test, 2).await;

    let claim = async || write_tx!(test.db, [], |tx| { outbox::claim(tx, 10, 600_000).await }).unwrap();
    for round in 1..=3 {
        test.clock.advance_ms(HEAD_START_MS - 1_000);
        let soon = START_MS + (round + 1) * (HEAD_START_MS - 1_000);
        eventually("the rows are held on to", async || kept_beyond(&test, soon).await == 2).await;
        assert!(claim().await.is_empty(), "the sweep takes what nobody has in hand");
    }

    for one in first {
        one.handled.send(true).unwrap();
    }
    for lane in &mut handed {
        let second = lane.recv().await.unwrap();
        assert_eq!(second.messages.iter().map(|message| message.key.as_str()).collect::<Vec<_>>(), ["2"]);
        second.handled.send(true).unwrap();
    }
    let sent = "SELECT COUNT(*) FROM message_record WHERE status = 1";
    eventually("both are marked", async || count(&test.db, sent).await == 2).await;
    assert!(handed.iter_mut().all(|lane| lane.try_recv().is_err()), "each came once");
    shutdown.cancel();
}
