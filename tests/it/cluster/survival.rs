//! Separate processes on a RocketMQ cluster, MariaDB and Redis, each of which is broken while orders go through.
//!
//! `RUYI_TEST_CHAOS_ORDERS` sets how many orders of the example file go through each part (1260 is all of them).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::clustered_roles::{Ended, INSTANCES, ROLES, RoleCluster, RolePlan};
use crate::support::probe::Probe;

const ORDERS: &str = include_str!("../../../examples/orders.jsonl");
/// Orders of each part, unless the environment says otherwise.
const DEFAULT_ORDERS: usize = 120;
/// How long a step of an order may take while something is broken.
const PATIENCE: &str = "240s";
/// Orders in work at once, at least.
const CONCURRENCY: usize = 6;
/// How long both brokers are away.
const OUTAGE: Duration = Duration::from_secs(30);

/// Which orders go through a part.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Cases {
    All,
    /// Without those that must be paid within seconds (wrongly) to end as they should: an outage takes longer.
    NoHurry,
}

/// `count` lines of the example, among them each kind of case; different ones for each `part`.
pub(super) fn sample(count: usize, part: usize, cases: Cases) -> String {
    let kind = |line: &str| {
        let parsed: Value = serde_json::from_str(line).unwrap_or_default();
        parsed["case"].as_str().unwrap_or("malformed").to_owned()
    };
    let hurried = |line: &str| ["wrong_amount", "bad_signature"].contains(&kind(line).as_str());
    let all: Vec<&str> = ORDERS.lines().filter(|line| cases == Cases::All || !hurried(line)).collect();
    let begin = part * count % all.len();
    let mut rotated: Vec<&str> = all.iter().copied().cycle().skip(begin).take(all.len()).collect();
    // The first of each kind, then whatever comes.
    let mut seen = BTreeSet::new();
    rotated.sort_by_key(|line| !seen.insert(kind(line)));
    rotated.truncate(count);
    rotated.sort_by_key(|line| line.len() % 7);
    // Slow machines take a while to get to the (wrong) payment.
    rotated.join("\n").replace("\"payWithinSeconds\":3", "\"payWithinSeconds\":25")
}

/// Starts to put the orders of a file through the system.
fn demo(roles: &RoleCluster, file: &str, orders: usize) -> tokio::process::Child {
    // Not all at once: some must still be to come when the last thing breaks.
    let concurrency = (orders / 20).max(CONCURRENCY).to_string();
    let fixed = ["demo", "--external", "--patience", PATIENCE, "--output", "json"];
    roles.spawn(&[&fixed[..], &["--orders", file, "--concurrency", &concurrency]].concat())
}

/// One run of the orders through the system.
struct Run<'a> {
    roles: &'a RoleCluster,
    name: &'static str,
    before: i64,
    orders: usize,
    file: String,
    demo: tokio::process::Child,
    probe: Probe,
    started: Instant,
}

impl<'a> Run<'a> {
    async fn start(roles: &'a RoleCluster, name: &'static str, part: usize, cases: Cases) -> Self {
        let wanted = std::env::var("RUYI_TEST_CHAOS_ORDERS").ok().and_then(|text| text.parse().ok());
        let orders: usize = wanted.unwrap_or(DEFAULT_ORDERS);
        roles.all_ready().await;
        let file = roles.write(&format!("{name}.jsonl"), &sample(orders, part, cases));
        let before = roles.orders().await.unwrap();
        let demo = demo(roles, &file, orders);
        // The first order shows that the demo has put its products on sale.
        roles.until_orders(before + 1).await;
        let probe = Probe::start(name, roles.urls("order"));
        Self { roles, name, before, orders, file, demo, probe, started: Instant::now() }
    }

    /// Waits until so many orders have been placed, those of the probe among them, and more are on their way.
    async fn until(&mut self, percent: usize) {
        let count = i64::try_from(self.orders * percent / 100).unwrap();
        self.roles.until_orders(self.before + count).await;
        if self.demo.try_wait().unwrap().is_some() {
            // On a fast machine it is over before everything has been broken: it goes on with new orders.
            let next = demo(self.roles, &self.file, self.orders);
            let ended = Ended::from(std::mem::replace(&mut self.demo, next).wait_with_output().await.unwrap());
            assert!(ended.ok, "{}: {}\n{}", self.name, ended.text(), self.roles.logs());
            let orders = self.roles.orders().await.unwrap();
            self.roles.until_orders(orders + i64::try_from(CONCURRENCY).unwrap()).await;
        }
    }

    /// Everything has ended as it should; returns what the demo reports, and what the probe was refused.
    async fn end(self) -> (Value, u64) {
        let Self { roles, name, demo, probe, started, .. } = self;
        let broken = started.elapsed();
        let (accepted, refused) = probe.stop().await;
        let ended = Ended::from(demo.wait_with_output().await.unwrap());
        assert!(ended.ok, "{name}: {}\n{}", ended.text(), roles.logs());
        // Each order of the probe has ended by now, too, or the demo's audit had found it.
        let audit = roles.ruyi(&["audit", "--settle", "0s", "--output", "json"]).await;
        assert!(audit.ok && audit.json()["ok"] == true, "{name}: {}", audit.text());
        let report = ended.json();
        eprintln!(
            "{name}: {} orders, {accepted} of the probe, {refused} refused while the database was away; broken for \
             {} s, ended after {} s",
            report["orders"],
            broken.as_secs(),
            started.elapsed().as_secs()
        );
        (report, refused)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_of_processes_survives_whatever_breaks() {
    let Some(plan) = RolePlan::on_mariadb().await else { return };
    let Some(roles) = RoleCluster::start(RolePlan { instances: INSTANCES, ..plan }).await else { return };
    // A part by itself, for whoever looks for a fault.
    let only = std::env::var("RUYI_TEST_CHAOS_PART").ok();
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    if wanted("undisturbed") {
        undisturbed(&roles).await;
    }
    if wanted("processes") {
        every_process_is_killed(&roles).await;
    }
    if wanted("broker") {
        broker_and_name_server_are_killed(&roles).await;
    }
    if wanted("database") {
        database_and_cache_go_and_come(&roles).await;
    }
    if wanted("outage") {
        no_broker_for_a_while(&roles).await;
    }
}

async fn undisturbed(roles: &RoleCluster) {
    let run = Run::start(roles, "undisturbed", 0, Cases::All).await;
    let (report, refused) = run.end().await;
    assert_eq!((&report["unexpected"], refused), (&Value::from(0), 0), "{report}");
}

async fn every_process_is_killed(roles: &RoleCluster) {
    let mut run = Run::start(roles, "killed-processes", 1, Cases::All).await;
    for number in 1..=INSTANCES {
        run.until(number * 20).await;
        // One of each role and a worker; the others of the role go on meanwhile.
        let names = ROLES.map(|role| format!("{role}-{number}"));
        let worker = format!("worker-{number}");
        for name in names.iter().chain([&worker]) {
            roles.instance(name).kill_and_start_again();
        }
        roles.all_ready().await;
    }
    run.end().await;
}

async fn broker_and_name_server_are_killed(roles: &RoleCluster) {
    let mut run = Run::start(roles, "killed-broker", 2, Cases::NoHurry).await;
    run.until(10).await;
    roles.rocketmq.kill_broker("a");
    run.until(20).await;
    roles.rocketmq.kill_namesrv(0);
    roles.rocketmq.start_broker("a").await;
    run.until(40).await;
    roles.rocketmq.start_namesrv(0).await;
    run.end().await;
}

async fn database_and_cache_go_and_come(roles: &RoleCluster) {
    let mut run = Run::start(roles, "killed-database", 3, Cases::NoHurry).await;
    run.until(10).await;
    roles.redis.flush().await;
    run.probe.database_goes();
    roles.mariadb().stop();
    run.probe.until_refused(1).await;
    roles.mariadb().start_again().await;
    roles.all_ready().await;
    run.probe.database_is_back();
    run.until(30).await;
    roles.redis.kill();
    run.until(40).await;
    run.probe.database_goes();
    roles.mariadb().kill();
    roles.mariadb().start_again().await;
    roles.all_ready().await;
    run.probe.database_is_back();
    run.until(60).await;
    roles.redis.start_again().await;
    run.end().await;
}

async fn no_broker_for_a_while(roles: &RoleCluster) {
    let mut run = Run::start(roles, "no-broker", 4, Cases::NoHurry).await;
    run.until(10).await;
    roles.rocketmq.kill_broker("a");
    roles.rocketmq.kill_broker("b");
    // The length of the outage is what is tested.
    tokio::time::sleep(OUTAGE).await;
    roles.rocketmq.start_broker("b").await;
    roles.rocketmq.start_broker("a").await;
    run.end().await;
}
