//! Crashes of the real program: it dies at every named point and at random moments, is started again on what it left,
//! and in the end every order is where it belongs and the audit finds nothing.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use rand::{RngExt, SeedableRng};
use ruyi::db::walk::Walk;
use ruyi::fault;
use serde_json::json;

use crate::support::crashed_process::{CrashedProcess, LOOK, eventually};
use crate::support::number;
use crate::support::shoppers::{self, Totals, script};

/// What `kill -9` and an abort look like from outside.
const SIGKILL: i32 = 9;
const SIGABRT: i32 = 6;

/// Each start of the program, and each walk through all kinds of orders, is seconds: a run dies so often.
const CRASHES_OF_A_RUN: usize = 8;
/// A parked message is claimed for thirty seconds.
const CLAIMS: Duration = Duration::from_secs(35);

/// Settings without a broker: starting it is most of the time.
const LOCAL: &[&str] = &["mq.enabled=false"];
const EMBEDDED: &[&str] = &["mq.embedded.namesrv_port=0", "mq.embedded.broker_port=0"];

/// Dies once at each point, goes on, and ends like a run that nothing disturbed.
async fn dies_at(crash_at: &[&str], settings: &[&str], undisturbed: &Totals) {
    let process = CrashedProcess::start(settings, crash_at).await;
    let totals = script(&process).await;
    // What a parked message that was claimed by a process that died still passes, it passes after the claim's end.
    let claims_end = std::time::Instant::now() + CLAIMS;
    while !crash_at.iter().all(|point| process.has_died_at(point)) && std::time::Instant::now() < claims_end {
        tokio::time::sleep(LOOK).await;
    }
    process.audit().await;
    let exits = process.stop().await;

    let log = process.logged();
    let missed: Vec<_> = crash_at.iter().filter(|point| !process.has_died_at(point)).collect();
    assert!(missed.is_empty(), "never passed: {missed:?}; it ended {exits:?}\n{log}");
    let (last, crashes) = exits.split_last().unwrap();
    assert_eq!(crashes.len(), crash_at.len(), "{exits:?}\n{log}");
    assert!(crashes.iter().all(|exit| exit.signal() == Some(SIGABRT)), "{crash_at:?}: {exits:?}\n{log}");
    assert_eq!(last.code(), Some(0), "{crash_at:?}: {exits:?}\n{log}");
    assert_eq!(&totals, undisturbed, "{crash_at:?}");
    println!("{:?}: ok", process.died_at());
}

async fn undisturbed(settings: &[&str]) -> Totals {
    let process = CrashedProcess::start(settings, &[]).await;
    let totals = script(&process).await;
    process.audit().await;
    let exits = process.stop().await;
    assert_eq!(exits.iter().map(|exit| exit.code()).collect::<Vec<_>>(), [Some(0)]);
    totals
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dies_at_every_point() {
    let expected = undisturbed(LOCAL).await;
    let points = fault::all_points();
    let points: Vec<_> = points.iter().map(String::as_str).collect();
    // What a crash leaves is where the next one happens: both points of a transaction are passed in the same run.
    let mut runs: Vec<&[&str]> = points.chunks(CRASHES_OF_A_RUN).collect();
    // In the middle of the work as well, where much else is under way.
    let midst = ["consume.before_commit:9", "consume.after_commit:9", "relay.published:9"];
    let midst = [midst.as_slice(), &["delivery_result.before_commit:5", "outbox_mark.after_commit:5"]].concat();
    runs.extend(midst.chunks(1));
    // The quick tier does a part of them, another one each time.
    let share = usize::try_from(number("RUYI_TEST_SHARE").unwrap_or(1).max(1)).unwrap();
    let first = usize::try_from(std::process::id()).unwrap() % share;
    let runs = runs.into_iter().skip(first).step_by(share).map(|points| dies_at(points, LOCAL, &expected));
    futures_util::stream::iter(runs).buffer_unordered(4).collect::<Vec<()>>().await;
}

#[cfg(feature = "embedded")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dies_at_the_points_around_the_broker() {
    let expected = undisturbed(EMBEDDED).await;
    let points = ["consume.before_commit:3", "consume.after_commit:4", "consume.acknowledge:3", "relay.published:5"];
    let runs = points.chunks(1).map(|point| dies_at(point, EMBEDDED, &expected));
    futures_util::stream::iter(runs).buffer_unordered(2).collect::<Vec<()>>().await;
}

/// One long run, killed again and again (`RUYI_TEST_KILLS` times, 20 by default); the shoppers never notice more than a connection that breaks.
#[cfg(feature = "embedded")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dies_at_random_moments() {
    let kills = number("RUYI_TEST_KILLS").unwrap_or(20);
    let seed = number("RUYI_TEST_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("RUYI_TEST_SEED={seed}");
    let mut chance = rand::rngs::StdRng::seed_from_u64(seed);

    let process = CrashedProcess::start(EMBEDDED, &[]).await;
    shoppers::fill(&process).await;
    let (over, bought) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let shoppers: Vec<_> = (0..4)
        .map(|user| {
            let (process, over, bought) = (process.clone(), over.clone(), bought.clone());
            tokio::spawn(async move {
                let mut n = 0;
                while !over.load(Ordering::Relaxed) {
                    bought.fetch_add(shoppers::shop_at_random(&process, user, n).await, Ordering::Relaxed);
                    n += 1;
                }
                n
            })
        })
        .collect();
    for kill in 0..usize::try_from(kills).unwrap() {
        let started = std::time::Instant::now();
        process.serving().await;
        let up = started.elapsed();
        let wait_ms = chance.random_range(0..1_000);
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        process.signal("KILL");
        eventually("it is dead", || async { (process.exits() > kill).then_some(()) }).await;
        println!("kill {kill} after {wait_ms} ms; it served again after {up:?}");
    }
    over.store(true, Ordering::Relaxed);
    println!("no more kills");
    let mut rounds = 0;
    for shopper in shoppers {
        rounds += shopper.await.unwrap();
    }
    assert!(rounds >= 4, "{rounds}");
    process.audit().await;
    let stock = process.get("/stock/A1").await;
    let exits = process.stop().await;
    let killed = exits.iter().filter(|exit| exit.signal() == Some(SIGKILL)).count();
    let kills = usize::try_from(kills).unwrap();
    assert_eq!((killed, exits.len()), (kills, kills + 1), "{exits:?}");
    let bought = bought.load(Ordering::Relaxed);
    assert_eq!(stock, json!({"sku": "A1", "available": 100_000 - bought, "frozen": 0, "sold": bought}));
    println!("{rounds} rounds, {bought} pieces sold");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_is_kept_off() {
    let process = CrashedProcess::start(LOCAL, &[]).await;
    let mut second = process.command(&[]);
    let output = tokio::task::spawn_blocking(move || {
        second.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
        second.output().unwrap()
    });
    let output = output.await.unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("another ruyi process uses the data directory"), "{text}");
    assert!(output.stdout.is_empty());
    assert_eq!(process.get("/healthz").await["status"], "ok");
    assert_eq!(process.stop().await.len(), 1);
}

/// Told to stop, it stops in order; started again, it goes on with what was under way.
async fn stops_and_goes_on(settings: &[&str]) {
    let process = CrashedProcess::start(settings, &[]).await;
    shoppers::fill(&process).await;
    let mut orders = Vec::new();
    for n in 0..8 {
        orders.push(
            shoppers::place(
                &process,
                &format!("stop-{n}"),
                &json!({"userId": "7", "items": [{"sku": "A1", "quantity": 1}]}),
            )
            .await,
        );
    }
    process.signal("TERM");
    eventually("it has stopped", || async { (process.exits() == 1).then_some(()) }).await;
    for order in &orders {
        shoppers::pay(&process, order).await;
    }
    for order in &orders {
        shoppers::ends(&process, order, "SIGNED").await;
    }
    process.audit().await;
    let exits = process.stop().await;
    assert_eq!(exits.iter().map(|exit| exit.code()).collect::<Vec<_>>(), [Some(0), Some(0)], "{exits:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stops_in_order_without_a_broker() {
    stops_and_goes_on(LOCAL).await;
}

#[cfg(feature = "embedded")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stops_in_order_with_the_broker() {
    stops_and_goes_on(EMBEDDED).await;
}

/// Every transaction of the program is named in the list that the crash test walks through.
#[test]
fn every_transaction_is_a_point() {
    let mut found: std::collections::BTreeSet<String> =
        Walk::ALL.iter().map(|walk| walk.transaction().to_owned()).collect();
    for (_, text) in crate::support::sources::sources() {
        for part in text.split(".write(").skip(1) {
            if let Some(name) = part.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next()) {
                found.insert(name.to_owned());
            }
        }
    }
    let own = fault::TRANSACTIONS.iter().chain(&fault::TRANSACTIONS_OF_CHECKS);
    let all = own.chain(&fault::TRANSACTIONS_OF_TOOLS).chain(&fault::TRANSACTIONS_OF_UPGRADES);
    let listed = all.map(|name| (*name).to_owned()).collect();
    assert_eq!(found, listed);
}
