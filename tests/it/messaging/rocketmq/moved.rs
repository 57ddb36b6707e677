//! A group whose offsets somebody else sets while it runs, and whose members nobody tells.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ruyi::clock::Clock;
use ruyi::db::sql::{self, Columns};
use ruyi::db::{Db, Options};
use ruyi::domain::event::{Group, Kind};
use ruyi::fault::Faults;
use ruyi::mq::message::Outgoing;
use ruyi::mq::operate::Committed;
use serde_json::json;

use crate::support::client_bench::{ClientBench, EitherBroker, WAIT, collect, message, next_offsets, numbered};
use crate::support::holding_handler::HoldingHandler;
use crate::support::lanes_bench::start_lanes;
use crate::support::operators::Operator;
use crate::support::servers::rocketmq::apache;
use crate::support::servers::{sqlite, write_tx};
use crate::support::waiting::eventually_or_show;

const TOPIC: &str = Kind::InventoryDeduct.name();
const MESSAGES: usize = 40;
/// Each member looks within ten seconds.
const A_LOOK: Duration = Duration::from_secs(13);

async fn committed(bench: &ClientBench) -> Vec<Committed> {
    let named = |name| bench.mq.with_namespace(name);
    bench.mq.committed(&named(Group::Stock.name()), &named(TOPIC)).await.unwrap()
}

fn consumed(queues: &[Committed]) -> i64 {
    queues.iter().filter_map(|queue| queue.consumer_offset).sum()
}

async fn until_consumed(bench: &ClientBench, count: i64, what: &str) -> Vec<Committed> {
    let seen = std::sync::Mutex::new(Vec::new());
    let show = || format!("{:?}", seen.lock().unwrap());
    eventually_or_show(what, show, async || {
        let queues = committed(bench).await;
        *seen.lock().unwrap() = queues.clone();
        consumed(&queues) >= count
    })
    .await;
    seen.into_inner().unwrap()
}

async fn set(bench: &ClientBench, offset_of: impl Fn(&Committed) -> i64) {
    for queue in committed(bench).await {
        bench
            .mq
            .set_offset(&bench.mq.with_namespace(Group::Stock.name()), &queue.queue, offset_of(&queue))
            .await
            .unwrap();
    }
}

/// Their broker tells members nothing of an offset that is written, and the message of a reset may get lost. (The embedded
/// broker takes an offset back only for an operator's reset.)
async fn goes_back(bench: ClientBench) {
    let test = sqlite().await;
    let (topics, handler) = (bench.topics(&[TOPIC]).await, HoldingHandler::new());
    let shutdown = start_lanes(&bench, &test.db, &handler, topics, 2);
    bench.send(&numbered(TOPIC, MESSAGES / 4, 4)).await;
    let all = i64::try_from(MESSAGES).unwrap();
    until_consumed(&bench, all, "all is consumed").await;

    let handled = || handler.seen().values().map(Vec::len).sum::<usize>();
    // What comes again would have no effect, and could not be seen.
    write_tx!(test.db, [], |tx| { sql::execute(tx, "DELETE FROM message_process_log", vec![]).await }).unwrap();
    set(&bench, |_| 0).await;
    let once = handled();
    eventually_or_show("the group follows", || handled().to_string(), async || handled() == 2 * once).await;
    until_consumed(&bench, all, "it has come again to where it was").await;

    shutdown.drain(Duration::from_secs(30)).await.unwrap();
    bench.stop().await;
}

/// What the client holds of what the group was moved past is not handled.
async fn goes_on(bench: ClientBench) {
    let topics = bench.topics(&[TOPIC]).await;
    bench.send(&numbered(TOPIC, MESSAGES / 4, 4)).await;
    let member = bench.mq.subscribe(Group::Stock.name(), &topics).await.unwrap();
    let mut queues = BTreeSet::new();
    while queues.len() < 4 {
        let first = member.poll(1, WAIT).await;
        queues.extend(first.iter().map(|message| message.queue.queue));
        member.commit(&next_offsets(&first)).await;
    }
    set(&bench, |queue| queue.broker_offset).await;
    let looks = tokio::time::timeout(A_LOOK, member.keep_place());
    looks.await.unwrap_err();

    let rest = tokio::time::timeout(A_LOOK, async {
        loop {
            let more = member.poll(MESSAGES, WAIT).await;
            assert_eq!(more, [], "it was skipped");
        }
    });
    rest.await.unwrap_err();
    bench.send(&numbered(TOPIC, 4, 1)).await;
    assert_eq!(collect(&member, 4).await.len(), 4, "it goes on with what comes now");
    member.shutdown().await;
    bench.stop().await;
}

/// Two lanes that commit at the same time: neither takes the other's word back.
async fn commits_at_once(bench: ClientBench) {
    const ROUNDS: i64 = 300;
    let topics = bench.topics(&[TOPIC]).await;
    let each = usize::try_from(ROUNDS).unwrap();
    bench.send(&numbered(TOPIC, 16, each / 2)).await;
    let member = bench.mq.subscribe(Group::Stock.name(), &topics).await.unwrap();
    collect(&member, 8 * each).await;
    let queues: Vec<_> = committed(&bench).await.into_iter().filter(|queue| queue.broker_offset >= ROUNDS).collect();
    assert!(queues.len() > 1, "{queues:?}");
    let own = member.assignment().await.unwrap();
    let own: Vec<_> = own.iter().filter(|one| queues.iter().any(|queue| queue.queue.queue == one.queue)).collect();
    let commits = own.iter().map(|queue| async {
        for offset in 1..=ROUNDS {
            member.commit(&[((*queue).clone(), offset)]).await;
        }
    });
    futures_util::future::join_all(commits).await;
    let all = ROUNDS * i64::try_from(own.len()).unwrap();
    until_consumed(&bench, all, "each has its last offset").await;
    member.shutdown().await;
    bench.stop().await;
}

fn event_id(number: usize) -> String {
    format!("k-{number:04}:E")
}

/// An operator skips what cannot be handled while a lane has it in hand and repeats it: the lane lets it go.
async fn is_skipped(bench: ClientBench) {
    const SKIPPED: usize = 10;
    let test = sqlite().await;
    let fails = Arc::new(AtomicBool::new(true));
    let is_failing = Arc::clone(&fails);
    let faults = Faults::plan(Box::new(move |name, _| name == "consume" && is_failing.load(Ordering::SeqCst)));
    let options = Options { url: test.url.clone(), max_connections: 4, clock: Clock::system(), faults };
    let db = Db::open(&options).await.unwrap();
    let (topics, handler) = (bench.topics(&[TOPIC]).await, HoldingHandler::new());
    // All of them in one queue.
    let known_as = |number| vec![("eventId".to_owned(), event_id(number))];
    let of = |number| Outgoing { properties: known_as(number), ..message(TOPIC, "k", "{}") };
    bench.send(&(0..MESSAGES).map(of).collect::<Vec<_>>()).await;
    let shutdown = start_lanes(&bench, &db, &handler, topics, 2);
    let seen = || handler.seen().remove("k").unwrap_or_default();
    let show = || format!("{:?}", seen());
    let repeats = || seen().iter().filter(|id| **id == event_id(0)).count() > 1;
    eventually_or_show("the lane repeats", show, async || repeats()).await;

    let queues = committed(&bench).await;
    let queue = &queues.iter().find(|queue| queue.broker_offset > 0).unwrap().queue;
    let place = format!("{}:{}", queue.broker, queue.queue);
    let [group, topic] = [Group::Stock.name(), TOPIC].map(|name| bench.mq.with_namespace(name));
    let operator = Operator::new(&bench.mq.config().namesrv);
    let count = SKIPPED.to_string();
    let skip = ["mq", "offsets", "skip", &group, "--topic", &topic, "--queue", &place, "--count", &count, "--yes"];
    let moves = operator.items(&skip).await;
    assert_eq!((&moves[0]["after"], &moves[0]["done"]), (&json!(SKIPPED), &json!(true)), "{moves:?}");

    // What follows the last that was skipped is the first of what the lane tries now.
    let (last, first) = (event_id(SKIPPED - 1), event_id(SKIPPED));
    let goes_on = || seen().windows(2).any(|pair| pair[1] == first && pair[0] != last);
    eventually_or_show("the lane lets it go", show, async || goes_on()).await;
    fails.store(false, Ordering::SeqCst);
    until_consumed(&bench, i64::try_from(MESSAGES).unwrap(), "the rest is consumed").await;
    let ids = "SELECT message_id FROM message_process_log ORDER BY message_id";
    let rows = sql::fetch(&mut test.db.read().await.unwrap(), ids, vec![]).await.unwrap();
    let handled: Vec<String> = rows.iter().map(|row| row.text(0).unwrap()).collect();
    assert_eq!(handled, (SKIPPED..MESSAGES).map(event_id).collect::<Vec<_>>());

    shutdown.drain(Duration::from_secs(30)).await.unwrap();
    bench.stop().await;
}

async fn embedded() -> ClientBench {
    EitherBroker::Embedded(tempfile::tempdir().unwrap()).bench(|_| ()).await
}

async fn shared(name: &str) -> Option<ClientBench> {
    let namespace = format!("{name}-{}", std::process::id());
    Some(EitherBroker::Apache(apache().await?).bench(|config| config.namespace = Some(namespace)).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_follows_back_on_rocketmq() {
    let Some(bench) = shared("back").await else { return };
    goes_back(bench).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_follows_on_embedded() {
    goes_on(embedded().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_follows_on_on_rocketmq() {
    let Some(bench) = shared("on").await else { return };
    goes_on(bench).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lane_takes_the_commits_of_others_back() {
    commits_at_once(embedded().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_skip_reaches_lanes_that_repeat() {
    is_skipped(embedded().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_skip_reaches_lanes_that_repeat_on_rocketmq() {
    let Some(bench) = shared("skip").await else { return };
    is_skipped(bench).await;
}
