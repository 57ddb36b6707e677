//! A disk that is full, is freed, and is full again, under load: that of SQLite and the embedded broker, that of the
//! embedded broker alone, and MariaDB's.
//!
//! All are parts of `scripts/test soak`, since they want the machine for themselves; they print what they measured.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reqwest::{Client, StatusCode};
use serde_json::Value;
use sqlx::{AnyConnection, Connection, Row};
use tokio::time::sleep;

use super::callers::{
    Callers, Probed, Probes, RECOVERY, Told, audit_finds_nothing, key_of, place, recovery, stock_up, stored,
};
use crate::support::clustered_roles::{RoleCluster, RolePlan, database_of};
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

/// Where the broker alone has no room orders are accepted, and so its disk must take what has waited in the end.
const BROKER_MEGABYTES: usize = 800;
/// Between two orders of a caller there.
const BROKER_PAUSE: Duration = Duration::from_millis(50);
/// The store of the embedded broker looks at its disk every ten seconds, and a broker may refuse for ten more before
/// that is told.
const BROKER_TOLD: Duration = Duration::from_secs(30);
/// Its disk stays full for so long the last time: longer than a broker may refuse before a new process is wanted, which
/// no process could mend then.
const BROKER_LONG: Duration = Duration::from_secs(70);
/// Once there is room its store sees that in ten seconds at most.
const BROKER_RECOVERY: Duration = Duration::from_secs(10 + RECOVERY.as_secs());
/// A store that does not come back is told within so long after there was room.
const BROKER_HOPELESS: Duration = Duration::from_secs(75);

/// Runs a command, and again whenever the file that is named first is there. One that ends by itself stays away.
const AGAIN: &str = r#"
file=$1; shift
while :; do
    "$@" &
    server=$!
    while kill -0 "$server" 2>/dev/null && [ ! -e "$file" ]; do sleep 0.2; done
    kill "$server" 2>/dev/null
    wait "$server"
    rm -f "$file"
done
"#;

fn client() -> Client {
    Client::builder().timeout(Duration::from_secs(10)).no_proxy().build().unwrap()
}

async fn readiness(client: &Client, url: &str) -> StatusCode {
    client.get(format!("{url}/readyz")).send().await.unwrap().status()
}

/// How long it takes from `freed` until an order has its pieces, behind all that have waited.
async fn reserved(client: &Client, url: &str, key: &str, told: &mut Told, freed: Instant) -> Duration {
    let order = place(client, url, key).await.expect("it is accepted");
    told.accepted.insert(key.to_owned(), order.clone());
    loop {
        let answer = client.get(format!("{url}/orders/{order}")).send().await.unwrap();
        let seen: Value = answer.json().await.unwrap();
        if seen["status"] == "RESERVED" {
            return freed.elapsed();
        }
        assert!(freed.elapsed() < FLOWS, "there is room again, and an order is {}", seen["status"]);
        sleep(Duration::from_millis(50)).await;
    }
}

/// Fills the disk and frees it under load; what callers were told in all.
async fn full_and_freed(what: &str, url: &str, disk: &SmallDisk) -> Told {
    let client = client();
    let mut told = Told::default();
    for round in 1..=ROUNDS {
        let callers = Callers::start(&format!("round-{round}"), CALLERS, url);
        sleep(LOAD).await;
        let before = callers.accepted();

        disk.fill();
        // What there is room for in files that exist is taken still.
        eventually("it says that nothing can be written", async || {
            readiness(&client, url).await == StatusCode::SERVICE_UNAVAILABLE
        })
        .await;
        sleep(LOAD).await;
        let callers = callers.stop().await;

        disk.free();
        let freed = Instant::now();
        let accepts_after = recovery(&format!("freed-{round}"), url, &mut told).await;
        while readiness(&client, url).await != StatusCode::OK {
            assert!(freed.elapsed() < RECOVERY, "there is room again, and it is not ready");
            sleep(Duration::from_millis(20)).await;
        }
        let ready_after = freed.elapsed();
        let reserved_after = reserved(&client, url, &format!("reserved-{round}"), &mut told, freed).await;
        eprintln!(
            "{what}, round {round}: {:.0} orders/s before; {} more until nothing could be written, {} refused, {} \
             left; accepts {accepts_after:.1?}, ready {ready_after:.1?} and reserves {reserved_after:.1?} after there \
             was room",
            before as f64 / LOAD.as_secs_f64(),
            callers.accepted.len() - before,
            callers.refused,
            callers.left,
        );
        assert!(callers.refused > 0, "who comes while there is no room is told to come again");
        assert!(callers.otherwise.is_empty(), "round {round}: nobody is told otherwise: {:?}", callers.otherwise);
        told.extend(callers);
    }
    told
}

/// All roles and the embedded broker in one process, some of whose data is on a small disk.
struct AllInOne {
    server: ChildProcess,
    url: String,
    data: PathBuf,
    /// The process is started again where this file is.
    again: PathBuf,
    disk: SmallDisk,
}

impl AllInOne {
    /// `place` of its data directory is the disk of so many megabytes; `None` where there cannot be one.
    async fn start(megabytes: usize, place: impl FnOnce(&Path) -> PathBuf) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap().keep();
        let (data, again) = (dir.join("data"), dir.join("again"));
        let (place, url) = (place(&data), format!("http://127.0.0.1:{}", free_port()));
        let listen = format!("http.all={}", &url["http://".len()..]);
        let ports = ["mq.embedded.namesrv_port=0", "mq.embedded.broker_port=0", "log.filter=warn"];

        let mut command: Vec<OsString> = ["sh", "-c", AGAIN, "again"].map(OsString::from).to_vec();
        command.push(again.clone().into());
        command.extend(plain_environment());
        command.extend([program(), "serve".into(), "all".into(), "--set".into(), data_dir(&data).into()]);
        for setting in std::iter::once(listen.as_str()).chain(ports) {
            command.extend(["--set".into(), setting.into()]);
        }
        let server = ChildProcess::start("all", dir, on_small_disk(megabytes, &place, command)?);
        let disk = SmallDisk::of(&server, place);
        let all = Self { server, url, data, again, disk };
        all.ready().await;
        stock_up(&all.url, &all.url).await;
        Some(all)
    }

    async fn ready(&self) {
        let url = format!("{}/readyz", self.url);
        self.server.until(async || reqwest::get(&url).await.is_ok_and(|reply| reply.status().is_success())).await;
    }

    /// As whatever looks after processes does with one that is not alive.
    async fn start_again(&self) {
        std::fs::write(&self.again, "").unwrap();
        eventually("the process has ended", async || !self.again.exists()).await;
        self.ready().await;
    }

    /// What a check of this name says at `path`; nothing where it is not told.
    async fn check(&self, client: &Client, path: &str, name: &str) -> String {
        let told: Value = client.get(format!("{}{path}", self.url)).send().await.unwrap().json().await.unwrap();
        told["checks"][name].as_str().unwrap_or_default().to_owned()
    }

    /// All orders, with the keys that callers gave them: seen from where the disk is.
    fn stored(&self) -> Vec<(String, String)> {
        let orders = "import json, sqlite3, sys; orders = sqlite3.connect(sys.argv[1]).execute('SELECT id, \
                      idempotency_key FROM orders'); print(json.dumps({str(id): key for id, key in orders}))";
        let seen = self.disk.see(&["python3", "-c", orders, &self.data.join("ruyi.db").display().to_string()]);
        let keys: BTreeMap<String, Option<String>> = serde_json::from_slice(&seen.stdout).unwrap();
        keys.into_iter().map(|(order, key)| (key_of(key), order)).collect()
    }

    /// Each accepted order is there once, and all are where they belong.
    async fn has_lost_nothing(&self, told: &Told) {
        let stored = self.stored();
        let nobodys = told.nobodys(&stored).len();
        let (program, data) = (program().to_string_lossy().into_owned(), data_dir(&self.data));
        let audit = [program.as_str(), "audit", "--settle", "0s", "--output", "json", "--set", data.as_str()];
        eventually("the audit finds nothing", async || {
            let report: Value = serde_json::from_slice(&self.disk.see(&audit).stdout).unwrap_or_default();
            report["ok"] == true
        })
        .await;
        eprintln!("{} accepted, {nobodys} more stored that nobody was told of, audit 0", told.accepted.len());
    }
}

fn data_dir(data: &Path) -> String {
    format!("data_dir={}", data.display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "wants the machine for itself: a part of scripts/test soak"]
async fn full_disk_of_sqlite_and_the_embedded_broker() {
    let Some(all) = AllInOne::start(MEGABYTES, Path::to_path_buf).await else { return };
    let told = full_and_freed("SQLite and the embedded broker", &all.url, &all.disk).await;
    all.has_lost_nothing(&told).await;
}

/// Events that wait in the outbox, but for those that wait for their time.
async fn unsent(all: &AllInOne) -> i64 {
    sqlx::any::install_default_drivers();
    let mut conn = AnyConnection::connect(&format!("sqlite://{}", all.data.join("ruyi.db").display())).await.unwrap();
    let text = "SELECT COUNT(*) FROM message_record WHERE status = 0 AND topic <> 'PAY_TIMEOUT_DELAY'";
    let count: i64 = sqlx::query(text).fetch_one(&mut conn).await.unwrap().get(0);
    conn.close().await.unwrap();
    count
}

/// Waits until no event waits any more.
async fn all_are_sent(all: &AllInOne, freed: Instant) {
    loop {
        let waiting = unsent(all).await;
        if waiting == 0 {
            return;
        }
        assert!(freed.elapsed() < BROKER_HOPELESS + FLOWS, "{waiting} events are not sent:\n{}", all.server.log());
        sleep(Duration::from_millis(50)).await;
    }
}

/// How a broker comes back that has room again.
#[derive(Debug)]
enum Return {
    ByItself,
    /// Its process was told to be beyond help, and was started again.
    Restarted,
}

/// Waits until the broker takes messages again, or until its process says that only a new one will.
async fn goes_on(all: &AllInOne, client: &Client, freed: Instant) -> Return {
    loop {
        if all.check(client, "/readyz", "broker").await == "ok" {
            return Return::ByItself;
        }
        // As an orchestrator asks, which does not wait for the broker first.
        let told = all.check(client, "/healthz", "broker").await;
        if freed.elapsed() > BROKER_RECOVERY && !["", "ok"].contains(&told.as_str()) {
            all.start_again().await;
            return Return::Restarted;
        }
        let waited = freed.elapsed();
        assert!(waited < BROKER_HOPELESS, "there is room, and the broker takes nothing:\n{}", all.server.log());
        sleep(Duration::from_millis(200)).await;
    }
}

/// What a broker without room was to others.
struct Spell {
    /// How long it took until `/readyz` told of it.
    told_after: Duration,
    /// Orders that were accepted after that.
    meanwhile: usize,
    callers: Told,
    probed: Probed,
}

/// The disk of the broker is full for some seconds, or for longer than a broker may refuse.
async fn without_room(all: &AllInOne, client: &Client, round: usize) -> Spell {
    let probes = Probes::start(&all.url);
    let callers = Callers::unhurried(&format!("round-{round}"), CALLERS, &all.url, BROKER_PAUSE);
    sleep(LOAD).await;

    all.disk.fill();
    let full = Instant::now();
    while all.check(client, "/readyz", "broker").await == "ok" {
        assert!(full.elapsed() < BROKER_TOLD, "round {round}: nobody says that the broker has no room");
        sleep(Duration::from_millis(200)).await;
    }
    let told_after = full.elapsed();

    let before = callers.accepted();
    sleep(LOAD).await;
    let meanwhile = callers.accepted() - before;
    let callers = callers.stop().await;
    if round == ROUNDS {
        sleep(BROKER_LONG).await;
    }
    Spell { told_after, meanwhile, callers, probed: probes.stop().await }
}

/// Orders are taken as ever; `/readyz` tells, and nobody is to start the process anew while that would not help.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "wants the machine for itself: a part of scripts/test soak"]
async fn full_disk_of_the_embedded_broker_alone() {
    let Some(all) = AllInOne::start(BROKER_MEGABYTES, |data| data.join("broker")).await else { return };
    let (client, mut told) = (client(), Told::default());
    for round in 1..=ROUNDS {
        let Spell { told_after, meanwhile, callers, probed } = without_room(&all, &client, round).await;
        let waiting = unsent(&all).await;

        all.disk.free();
        let freed = Instant::now();
        let how = goes_on(&all, &client, freed).await;
        let takes_after = freed.elapsed();
        all_are_sent(&all, freed).await;
        let sent_after = freed.elapsed();
        let reserved_after = reserved(&client, &all.url, &format!("reserved-{round}"), &mut told, Instant::now()).await;

        eprintln!(
            "the embedded broker alone, round {round}: told {told_after:.1?} after its disk was full; {meanwhile} \
             orders accepted in {LOAD:?} then, {} left; of {waiting} events the first is taken {takes_after:.1?} \
             ({how:?}) and the last {sent_after:.1?} after there was room; then an order is reserved in \
             {reserved_after:.1?}",
            callers.left,
        );
        assert!(probed.wrong.is_empty(), "round {round}: a full broker stops no process: {:?}", probed.wrong);
        assert!(meanwhile > 0, "round {round}: orders are accepted without a broker");
        assert_eq!(callers.refused, 0, "round {round}: the database has room");
        assert!(callers.otherwise.is_empty(), "round {round}: nobody is told otherwise: {:?}", callers.otherwise);
        let is_soon = takes_after < BROKER_RECOVERY;
        assert!(is_soon || matches!(how, Return::Restarted), "round {round}: it takes messages after {takes_after:?}");
        told.extend(callers);
    }
    all.has_lost_nothing(&told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "wants the machine for itself: a part of scripts/test soak"]
async fn full_disk_of_mariadb() {
    let Some((mariadb, disk)) = MariaDb::start_on_small_disk(MEGABYTES) else { return };
    let Some(roles) = RoleCluster::start(RolePlan::with(mariadb).await).await else { return };
    let url = roles.urls("order").remove(0);
    stock_up(&url, &roles.urls("stock")[0]).await;

    let told = full_and_freed("MariaDB", &url, &disk).await;

    let stored = stored(&roles.mariadb().url(&database_of("order"))).await;
    let nobodys = told.nobodys(&stored).len();
    audit_finds_nothing(&roles).await;
    eprintln!("{} accepted, {nobodys} more stored that nobody was told of, audit 0", told.accepted.len());
}
