//! A disk that is full, is freed, and is full again, under load: that of SQLite and the embedded broker, and MariaDB's.
//!
//! Both are parts of `scripts/test soak`, since they want the machine for themselves; they print what they measured.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use super::crowd::{Callers, RECOVERY, SKU, recovery, stock_up};
use crate::support::clustered_roles::{RoleCluster, RolePlan};
use crate::support::program::{plain_environment, program};
use crate::support::servers::child::{ChildProcess, free_port};
use crate::support::servers::mariadb::MariaDb;
use crate::support::servers::small_disk::{SmallDisk, on_small_disk};
use crate::support::waiting::eventually;

/// Room for the files that each of them makes first, and for some thousand orders.
const MEGABYTES: usize = 400;
const ROUNDS: usize = 3;
const CALLERS: usize = 8;
/// How long orders come before, and without, room.
const LOAD: Duration = Duration::from_secs(5);
/// What was accepted meanwhile has been reserved within so long.
const FLOWS: Duration = Duration::from_secs(120);

async fn readiness(client: &Client, url: &str) -> StatusCode {
    client.get(format!("{url}/readyz")).send().await.unwrap().status()
}

/// How long it takes from `freed` until an order has its pieces, behind all that have waited.
async fn reserved(client: &Client, url: &str, freed: Instant) -> Duration {
    let body = json!({"userId": "1", "items": [{"sku": SKU, "quantity": 1}]});
    let placed: Value = client.post(format!("{url}/orders")).json(&body).send().await.unwrap().json().await.unwrap();
    let order = format!("{url}/orders/{}", placed["orderId"].as_str().expect("it is accepted"));
    loop {
        let seen: Value = client.get(&order).send().await.unwrap().json().await.unwrap();
        if seen["status"] == "RESERVED" {
            return freed.elapsed();
        }
        assert!(freed.elapsed() < FLOWS, "there is room again, and an order is {}", seen["status"]);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Fills the disk and frees it under load; how many orders were accepted in all.
async fn full_and_freed(what: &str, url: &str, disk: &SmallDisk) -> usize {
    let client = Client::builder().timeout(Duration::from_secs(10)).no_proxy().build().unwrap();
    let mut accepted = 0;
    for round in 1..=ROUNDS {
        let callers = Callers::start(CALLERS, url);
        tokio::time::sleep(LOAD).await;
        let before = callers.told.accepted.load(Ordering::SeqCst);

        disk.fill();
        // What there is room for in files that exist is taken still.
        eventually("it says that nothing can be written", async || {
            readiness(&client, url).await == StatusCode::SERVICE_UNAVAILABLE
        })
        .await;
        tokio::time::sleep(LOAD).await;
        let told = callers.stop().await;

        disk.free();
        let freed = Instant::now();
        let accepts_after = recovery(url).await;
        while readiness(&client, url).await != StatusCode::OK {
            assert!(freed.elapsed() < RECOVERY, "there is room again, and it is not ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let ready_after = freed.elapsed();
        let reserved_after = reserved(&client, url, freed).await;
        let load = |count: &std::sync::atomic::AtomicUsize| count.load(Ordering::SeqCst);
        eprintln!(
            "{what}, round {round}: {:.0} orders/s before; {} more until nothing could be written, {} refused, {} left, \
             {} otherwise; accepts {accepts_after:.1?}, ready {ready_after:.1?} and reserves {reserved_after:.1?} after \
             there was room",
            before as f64 / LOAD.as_secs_f64(),
            load(&told.accepted) - before,
            load(&told.refused),
            load(&told.left),
            load(&told.otherwise),
        );
        assert!(load(&told.refused) > 0, "who comes while there is no room is told to come again");
        assert_eq!(load(&told.otherwise), 0, "nobody is told otherwise");
        accepted += load(&told.accepted) + 4;
    }
    accepted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "wants the machine for itself: a part of scripts/test soak"]
async fn full_disk_of_sqlite_and_the_embedded_broker() {
    let dir = tempfile::tempdir().unwrap().keep();
    let place = dir.join("disk");
    let data = format!("data_dir={}", place.display());
    let url = format!("http://127.0.0.1:{}", free_port());
    let listen = format!("http.all={}", &url["http://".len()..]);
    let ports = ["mq.embedded.namesrv_port=0", "mq.embedded.broker_port=0", "log.filter=warn"];
    let mut command = plain_environment();
    command.extend([program(), "serve".into(), "all".into()]);
    for setting in [&data, &listen].into_iter().map(String::as_str).chain(ports) {
        command.extend(["--set".into(), setting.into()]);
    }
    let Some(command) = on_small_disk(MEGABYTES, &place, command) else { return };
    let server = ChildProcess::start("all", dir, command);
    server
        .until(async || reqwest::get(format!("{url}/readyz")).await.is_ok_and(|reply| reply.status().is_success()))
        .await;
    stock_up(&url, &url).await;
    let disk = SmallDisk::of(&server, place.clone());

    let accepted = full_and_freed("SQLite and the embedded broker", &url, &disk).await;

    let count =
        "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT COUNT(*) FROM orders').fetchone()[0])";
    let stored = disk.see(&["python3", "-c", count, &place.join("ruyi.db").display().to_string()]);
    let stored: usize = String::from_utf8_lossy(&stored.stdout).trim().parse().unwrap();
    assert!(stored >= accepted, "{accepted} accepted, {stored} stored");
    eventually("the audit finds nothing", async || {
        let audit =
            disk.see(&[&program().to_string_lossy(), "audit", "--settle", "0s", "--output", "json", "--set", &data]);
        let report: Value = serde_json::from_slice(&audit.stdout).unwrap();
        report["ok"] == true
    })
    .await;
    eprintln!("{accepted} accepted, {stored} stored, audit 0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "wants the machine for itself: a part of scripts/test soak"]
async fn full_disk_of_mariadb() {
    let Some((mariadb, disk)) = MariaDb::start_on_small_disk(MEGABYTES) else { return };
    let Some(roles) = RoleCluster::start(RolePlan::with(mariadb).await).await else { return };
    let url = roles.urls("order").remove(0);
    stock_up(&url, &roles.urls("stock")[0]).await;

    let accepted = full_and_freed("MariaDB", &url, &disk).await;

    let stored = usize::try_from(roles.orders().await.unwrap()).unwrap();
    assert!(stored >= accepted, "{accepted} accepted, {stored} stored");
    eventually("the audit finds nothing", async || {
        let audit = roles.ruyi(&["audit", "--settle", "0s", "--output", "json"]).await;
        audit.ok && audit.json()["ok"] == true
    })
    .await;
    eprintln!("{accepted} accepted, {stored} stored, audit 0");
}
