//! More callers than a process can serve: 3,000 who wait two seconds each, and 250 who ask and never read.
//!
//! Both are parts of `scripts/test soak`, since they want the machine for themselves; they print what they measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::Client;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::callers::{Probes, Told, audit_finds_nothing, in_their_own_process, recovery, stock_up, stored};
use crate::support::clustered_roles::{ROLES, RoleCluster, RolePlan, database_of};
use crate::support::waiting::eventually;

/// A crowd, and how long it stays.
const CALLERS: usize = 3_000;
const CROWDED: Duration = Duration::from_secs(20);
/// Callers whom the process can serve; what it does for them is its capacity.
const FEW: usize = 64;
/// Of its capacity a crowd leaves so much.
const GOODPUT: f64 = 0.9;
/// Of the orders of a crowd one in so many at most was stored for somebody who had left.
const NOBODYS: usize = 10;
/// Callers who never read, and beside them some who do.
const GLUTTONS: usize = 250;
const READERS: usize = 4;
/// What is left to those of what they get alone.
const BESIDE: f64 = 0.5;

/// Which server has the tables.
#[derive(Clone, Copy, Debug)]
enum Tables {
    Sqlite,
    MariaDb,
}

/// One process of each role on `tables`, with as many pieces as anybody may want.
struct Shop {
    roles: RoleCluster,
    /// Of an order process.
    url: String,
    /// Of its database.
    database: String,
    _files: tempfile::TempDir,
}

impl Shop {
    async fn on(tables: Tables, settings: String) -> Option<Self> {
        sqlx::any::install_default_drivers();
        let files = tempfile::tempdir().unwrap();
        let file = |role: &str| format!("sqlite://{}", files.path().join(format!("{role}.db")).display());
        let plan = match tables {
            Tables::Sqlite => RolePlan::on(ROLES.map(file).to_vec()),
            Tables::MariaDb => RolePlan::on_mariadb().await?,
        };
        let roles = RoleCluster::start(RolePlan { settings, ..plan }).await?;
        let database = match tables {
            Tables::Sqlite => file("order"),
            Tables::MariaDb => roles.mariadb().url(&database_of("order")),
        };
        let url = roles.urls("order").remove(0);
        stock_up(&url, &roles.urls("stock")[0]).await;
        Some(Self { roles, url, database, _files: files })
    }

    /// Each order that was accepted is there once, and all are where they belong; the keys of those that nobody was
    /// told of.
    async fn keys_of_nobody(&self, told: &Told) -> Vec<String> {
        let stored = stored(&self.database).await;
        let nobodys = told.nobodys(&stored).into_iter().map(str::to_owned).collect();
        audit_finds_nothing(&self.roles).await;
        nobodys
    }
}

async fn crowd(tables: Tables) {
    let Some(shop) = Shop::on(tables, String::new()).await else { return };
    let (before, mut told) = in_their_own_process("before", FEW, &shop.url, CROWDED / 2).await;

    let probes = Probes::start(&shop.url);
    let (goodput, crowd) = in_their_own_process("crowd", CALLERS, &shop.url, CROWDED).await;
    let probed = probes.stop().await;
    let recovery = recovery("as-before", &shop.url, &mut told).await;
    // The tables have grown meanwhile, and there is more to do behind them.
    let (after, few) = in_their_own_process("after", FEW, &shop.url, CROWDED / 2).await;
    let capacity = f64::midpoint(before, after);

    let (accepted, refused, left, otherwise) =
        (crowd.accepted.len(), crowd.refused, crowd.left, crowd.otherwise.clone());
    told.extend(few);
    told.extend(crowd);
    let nobodys = shop.keys_of_nobody(&told).await.into_iter().filter(|key| key.starts_with("crowd-")).count();
    eprintln!(
        "{tables:?}: {before:.0} orders/s of {FEW} callers, and {after:.0}/s afterwards; of {CALLERS} callers \
         {goodput:.0}/s, {:.0} % of that; {refused} refused, {left} left, {} otherwise; {nobodys} of {} stored orders \
         are nobody's; the slowest probe took {:.1?}; as before after {recovery:.1?}; nothing lost or doubled, audit 0",
        100.0 * goodput / capacity,
        otherwise.len(),
        accepted + nobodys,
        probed.slowest,
    );
    assert!(probed.wrong.is_empty(), "{:?}", probed.wrong);
    assert!(otherwise.is_empty(), "{} were told neither 201 nor 503: {:?}", otherwise.len(), otherwise.first());
    assert!(
        nobodys * NOBODYS < accepted + nobodys,
        "{nobodys} of {} belong to callers who had left",
        accepted + nobodys
    );
    assert!(goodput >= capacity * GOODPUT, "{goodput:.0} of {capacity:.0} orders/s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "wants the machine for itself: a part of scripts/test soak"]
async fn three_thousand_callers_on_sqlite() {
    crowd(Tables::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "wants the machine for itself: a part of scripts/test soak"]
async fn three_thousand_callers_on_mariadb() {
    crowd(Tables::MariaDb).await;
}

/// Each asks for much, again and again, and takes nothing; those who were given up come back.
async fn never_read(url: String, stop: Arc<AtomicBool>) {
    let addr = url.trim_start_matches("http://").to_owned();
    let asked = "GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(64);
    while !stop.load(Ordering::SeqCst) {
        let Ok(mut stream) = TcpStream::connect(&addr).await else { continue };
        let writes = async { while stream.write_all(asked.as_bytes()).await.is_ok() {} };
        let _ = tokio::time::timeout(CROWDED, writes).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "wants the machine for itself: a part of scripts/test soak"]
async fn two_hundred_fifty_who_never_read() {
    // As many as they are have a place, and no more.
    let places = format!("\n[http]\nconnections = {}\n", GLUTTONS + READERS);
    let Some(shop) = Shop::on(Tables::Sqlite, places).await else { return };
    let (alone, mut told) = in_their_own_process("alone", READERS, &shop.url, CROWDED / 2).await;
    let before = shop.roles.orders().await.unwrap();

    let (probes, stop) = (Probes::start(&shop.url), Arc::new(AtomicBool::new(false)));
    let gluttons = async {
        // Those who read are there first: nobody is put out of a place for them.
        eventually("the readers order", async || shop.roles.orders().await.unwrap() > before).await;
        let glutton = |_| tokio::spawn(never_read(shop.url.clone(), Arc::clone(&stop)));
        (0..GLUTTONS).map(glutton).collect::<Vec<_>>()
    };
    let ((beside, readers), gluttons) =
        tokio::join!(in_their_own_process("beside", READERS, &shop.url, CROWDED), gluttons);
    let probed = probes.stop().await;
    stop.store(true, Ordering::SeqCst);
    let recovery = recovery("as-before", &shop.url, &mut told).await;
    for glutton in gluttons {
        glutton.abort();
    }

    let (refused, left, otherwise) = (readers.refused, readers.left, readers.otherwise.clone());
    told.extend(readers);
    let nobodys = shop.keys_of_nobody(&told).await;
    eprintln!(
        "{READERS} callers get {alone:.0} orders/s alone, and {beside:.0}/s beside {GLUTTONS} who never read; \
         {refused} refused, {left} left, {} otherwise, {} orders of nobody; the slowest probe took {:.1?}; as before \
         after {recovery:.1?}; nothing lost or doubled, audit 0",
        otherwise.len(),
        nobodys.len(),
        probed.slowest,
    );
    assert!(probed.wrong.is_empty(), "{:?}", probed.wrong);
    assert!(otherwise.is_empty(), "{otherwise:?}");
    assert!(beside >= alone * BESIDE, "{beside:.0} of {alone:.0} orders/s");
    let ready: Value = Client::new().get(format!("{}/readyz", shop.url)).send().await.unwrap().json().await.unwrap();
    assert_eq!(ready["status"], "ready", "{ready}");
}
