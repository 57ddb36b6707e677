//! The process dies between the half message, the local transaction, the word to the broker and the check-back: the
//! event is delivered exactly if the payment is written.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use futures_util::StreamExt;
use ruyi::db::sql::{self, Columns};
use ruyi::db::{Db, Options};
use ruyi::mq::rocketmq::transaction::TX_ID;
use ruyi::mq::rocketmq::{RocketMq, RocketMqConfig};
use ruyi::mq::runtime::MqRuntime;
use serde_json::json;

use crate::support::crashed_process::{CrashedProcess, eventually};
use crate::support::shoppers;
use crate::support::transaction_brokers;

const SIGABRT: i32 = 6;
const TOPIC: &str = "PAYMENT_SUCCESS";

/// One order is paid while the process dies at each of `points` in turn.
async fn dies_at(namesrv: &str, points: &str, rolled_back: usize) {
    // A namespace keeps its check-backs away from those of the other runs.
    let namespace = points.replace(['.', ','], "-");
    let namesrv_set = format!("mq.namesrv={namesrv}");
    let namespace_set = format!("mq.namespace={namespace}");
    // What the channel says when it is asked would leave through the outbox.
    let asks = "payment.query_after=0s";
    let crash_at: Vec<_> = points.split(',').collect();
    let settings = ["payment.publish=transaction", asks, &namesrv_set, &namespace_set, "log.filter=warn,ruyi=info"];
    let process = CrashedProcess::start(&settings, &crash_at).await;
    shoppers::fill(&process).await;
    let order = json!({"userId": "7", "items": [{"sku": "A1", "quantity": 1}]});
    let order = shoppers::place(&process, "only", &order).await;
    shoppers::pay(&process, &order).await;
    let books = books(&process).await;
    // Most of the time goes into waiting for the broker to ask, once for each crash.
    let states = eventually("every attempt is decided", || async {
        let states = states(&books).await;
        let count = |state| states.values().filter(|one| **one == state).count();
        (count(1) == 1 && count(2) == rolled_back).then_some(states)
    })
    .await;
    shoppers::ends(&process, &order, "SIGNED").await;
    let committed: BTreeSet<String> =
        states.into_iter().filter(|(_, state)| *state == 1).map(|(tx_id, _)| tx_id).collect();
    assert_eq!(delivered(namesrv, &namespace).await, committed, "{points}\n{}", process.logged());
    process.audit().await;
    let exits = process.stop().await;
    let died = crash_at.len();
    assert_eq!(exits.len(), died + 1, "{points}: {exits:?}\n{}", process.logged());
    assert!(exits[..died].iter().all(|exit| exit.signal() == Some(SIGABRT)), "{exits:?}");
    assert_eq!(exits[died].code(), Some(0), "{points}: {exits:?}\n{}", process.logged());
    println!("{points}: ok");
}

/// The database of a process, beside it.
async fn books(process: &CrashedProcess) -> Db {
    let options = Options {
        url: format!("sqlite://{}", process.dir().join("data/ruyi.db").display()),
        max_connections: 1,
        clock: ruyi::clock::Clock::system(),
        faults: ruyi::fault::Faults::none(),
    };
    Db::open(&options).await.unwrap()
}

async fn rows(books: &Db, text: &'static str) -> Vec<sqlx::any::AnyRow> {
    sql::fetch(&mut books.read().await.unwrap(), text, vec![]).await.unwrap()
}

async fn states(books: &Db) -> BTreeMap<String, i64> {
    let rows = rows(books, "SELECT tx_id, state FROM message_tx_state").await;
    rows.iter().map(|row| (row.text(0).unwrap(), row.int(1).unwrap())).collect()
}

/// The attempts whose message consumers see.
async fn delivered(namesrv: &str, namespace: &str) -> BTreeSet<String> {
    let runtime = MqRuntime::start("mq-test").unwrap();
    let config = RocketMqConfig {
        namesrv: namesrv.to_owned(),
        namespace: Some(namespace.to_owned()),
        ..RocketMqConfig::default()
    };
    let mq = RocketMq::connect(config, &runtime).await.unwrap();
    let consumer = mq.subscribe("onlooker", &[TOPIC.to_owned()]).await.unwrap();
    let first = eventually("the event is there", || async {
        let messages = consumer.poll(32, Duration::from_millis(200)).await;
        (!messages.is_empty()).then_some(messages)
    })
    .await;
    let rest = consumer.poll(32, Duration::from_secs(2)).await;
    consumer.shutdown().await;
    mq.shutdown().await;
    runtime.shutdown(Duration::from_secs(10)).await;
    first.iter().chain(&rest).map(|message| message.property(TX_ID).unwrap().to_owned()).collect()
}

/// Each with the attempts that are rolled back before one succeeds.
const CRASHES: [(&str, usize); 6] = [
    ("transaction.prepared", 1),
    ("pay_callback.before_commit", 1),
    ("pay_callback.after_commit", 0),
    ("transaction.prepared,check_back.before_commit", 1),
    ("transaction.prepared,check_back.after_commit", 1),
    ("pay_callback.after_commit,transaction.checked", 0),
];

async fn crashes(namesrv: &str) {
    let runs = CRASHES.iter().map(|(points, rolled_back)| dies_at(namesrv, points, *rolled_back));
    futures_util::stream::iter(runs).buffer_unordered(CRASHES.len()).collect::<Vec<()>>().await;
}

#[cfg(feature = "embedded")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivered_exactly_if_written_on_the_embedded_broker() {
    let embedded = transaction_brokers::LongLivedBroker::start().await;
    crashes(&embedded.namesrv()).await;
    embedded.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivered_exactly_if_written_on_rocketmq() {
    if let Some(cluster) = transaction_brokers::apache().await {
        crashes(&cluster.namesrv()).await;
    }
}

/// While the broker is away the channel hears "try again", and nothing is written; then its next call succeeds.
#[cfg(feature = "embedded")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_broker_the_channel_is_to_call_again() {
    let embedded = transaction_brokers::LongLivedBroker::start().await;
    let namesrv = format!("mq.namesrv={}", embedded.namesrv());
    // The channel does not tire before the broker is back.
    let schedule = format!("delivery.schedule=[{}]", vec![r#""500ms""#; 200].join(","));
    let process =
        CrashedProcess::start(&["payment.publish=transaction", "payment.query_after=0s", &namesrv, &schedule], &[])
            .await;
    shoppers::fill(&process).await;
    let order = json!({"userId": "7", "items": [{"sku": "A1", "quantity": 1}]});
    let order = shoppers::place(&process, "only", &order).await;
    let payment = format!("/payments/{order}");
    eventually("the payment is open", || async {
        let (status, _) = process.request(reqwest::Method::GET, &payment, &[], None).await;
        status.is_success().then_some(())
    })
    .await;
    let books = books(&process).await;
    let embedded = embedded
        .away_during(async {
            shoppers::pay(&process, &order).await;
            let refused = "SELECT delivery_id FROM delivery_attempt WHERE http_status = 503";
            eventually("a callback is put off", || async { (!rows(&books, refused).await.is_empty()).then_some(()) })
                .await;
            assert_eq!(process.get(&payment).await["status"], "PENDING");
            assert!(states(&books).await.is_empty());
        })
        .await;
    shoppers::ends(&process, &order, "SIGNED").await;
    assert!(states(&books).await.values().filter(|state| **state == 1).eq([&1]));
    process.audit().await;
    assert_eq!(process.stop().await.len(), 1);
    embedded.stop().await;
}
