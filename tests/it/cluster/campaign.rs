//! A campaign of faults at random on a cluster under load: kills, hangs, black holes, locks, failovers, wrong clocks.
//!
//! `RUYI_TEST_FAULTS` says how many strike (1,000 otherwise), `RUYI_TEST_SEED` which ones. Every [`STRIKES_A_ROUND`]
//! all is whole again: what was begun ends, no accepted order is missing, and the audit finds nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use sqlx::{Connection, Row};

use super::survival::{Cases, sample};
use crate::support::clustered_roles::{Ended, Instance, RoleCluster, RolePlan, database_of};
use crate::support::probe::unpaid_order;
use crate::support::proxy::{Flow, Proxy};
use crate::support::waiting::eventually_or_show;

const FAULTS: usize = 1_000;
const STRIKES_A_ROUND: usize = 25;
/// Orders that the demo has to put through while a round lasts, and how many of them at once.
const ORDERS: usize = 600;
const CONCURRENCY: &str = "4";
/// Processes of each role, and of each worker.
const INSTANCES: usize = 2;
/// Every so many strikes, on average, two things break at once.
const PAIRS: f64 = 0.2;
/// How long a fault lasts, seconds.
const LASTS: std::ops::Range<u64> = 1..13;
/// After the end of a fault all goes on within so long, or the campaign fails. A process that a busy machine starts
/// anew and a broker that comes back take most of it.
const RECOVERY: Duration = Duration::from_secs(60);
/// Between two orders of the customer.
const PAUSE: Duration = Duration::from_millis(300);

/// What breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    ProcessKilled,
    ProcessHangs,
    /// Connections to one role's database are black holes; new ones are served.
    ConnectionsFrozen,
    /// As before, and new ones are not served either.
    DatabaseFrozen,
    /// Statements arrive, and their answers do not.
    AnswersLost,
    ConnectionsCut,
    DatabaseSlow,
    DatabaseKilled,
    /// As in a failover: connections that are made meanwhile can only read for as long as they live.
    DatabaseReadOnly,
    RowLocked,
    CacheKilled,
    CacheHangs,
    CacheEmptied,
    BrokerKilled,
    BrokerHangs,
    NameServerKilled,
    ClockAhead,
    ClockBehind,
}

const KINDS: [Kind; 18] = [
    Kind::ProcessKilled,
    Kind::ProcessHangs,
    Kind::ConnectionsFrozen,
    Kind::DatabaseFrozen,
    Kind::AnswersLost,
    Kind::ConnectionsCut,
    Kind::DatabaseSlow,
    Kind::DatabaseKilled,
    Kind::DatabaseReadOnly,
    Kind::RowLocked,
    Kind::CacheKilled,
    Kind::CacheHangs,
    Kind::CacheEmptied,
    Kind::BrokerKilled,
    Kind::BrokerHangs,
    Kind::NameServerKilled,
    Kind::ClockAhead,
    Kind::ClockBehind,
];

/// What a kind breaks: two things break at once only where neither mends or needs the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Process,
    Database,
    Cache,
    RocketMq,
}

impl Kind {
    fn part(self) -> Part {
        match self {
            Self::ProcessKilled | Self::ProcessHangs | Self::ClockAhead | Self::ClockBehind => Part::Process,
            Self::CacheKilled | Self::CacheHangs | Self::CacheEmptied => Part::Cache,
            Self::BrokerKilled | Self::BrokerHangs | Self::NameServerKilled => Part::RocketMq,
            _ => Part::Database,
        }
    }
}

/// One fault: what, and which process, role, broker or name server it hits (an index, taken modulo their number).
#[derive(Clone, Copy, Debug)]
struct Fault {
    kind: Kind,
    index: usize,
}

/// The cluster, and what stands between its processes and their databases.
struct Campaign {
    roles: RoleCluster,
    proxies: Vec<Proxy>,
}

impl Campaign {
    async fn start() -> Option<Self> {
        let plan = RolePlan::on_mariadb().await?;
        let mut plan = RolePlan { instances: INSTANCES, workers: INSTANCES, clocks: true, ..plan };
        let mut proxies = Vec::new();
        for url in &mut plan.databases {
            let proxy = Proxy::to(plan.mariadb.as_ref()?.port()).await;
            *url = proxy.url(url);
            proxies.push(proxy);
        }
        Some(Self { roles: RoleCluster::start(plan).await?, proxies })
    }

    fn process(&self, fault: Fault) -> &Instance {
        &self.roles.instances[fault.index % self.roles.instances.len()]
    }

    fn proxy(&self, fault: Fault) -> &Proxy {
        &self.proxies[fault.index % self.proxies.len()]
    }

    fn broker(fault: Fault) -> &'static str {
        ["a", "b"][fault.index % 2]
    }

    /// Breaks it for `lasts`, and mends it.
    async fn strike(&self, fault: Fault, lasts: Duration) {
        let pause = tokio::time::sleep(lasts);
        match fault.kind {
            Kind::ProcessKilled => self.process(fault).kill_and_start_again(),
            Kind::ProcessHangs => {
                self.process(fault).freeze();
                pause.await;
                self.process(fault).thaw();
            }
            Kind::ConnectionsFrozen | Kind::AnswersLost => {
                let flow = if fault.kind == Kind::AnswersLost { Flow::Mute } else { Flow::Frozen };
                self.proxy(fault).set_present(flow);
                pause.await;
                // What was held back arrives late, or never.
                self.proxy(fault).set_present(if fault.index.is_multiple_of(3) { Flow::Cut } else { Flow::Open });
            }
            Kind::DatabaseFrozen | Kind::DatabaseSlow => {
                let slow = Flow::Slow(Duration::from_millis(40));
                self.proxy(fault).set_all(if fault.kind == Kind::DatabaseSlow { slow } else { Flow::Frozen });
                pause.await;
                self.proxy(fault).set_all(Flow::Open);
            }
            Kind::ConnectionsCut => {
                self.proxy(fault).set_present(Flow::Cut);
            }
            Kind::DatabaseKilled => {
                self.roles.mariadb().kill();
                pause.await;
                self.roles.mariadb().start_again().await;
            }
            Kind::DatabaseReadOnly => {
                self.read_only(true).await;
                pause.await;
                self.read_only(false).await;
            }
            Kind::RowLocked => self.lock_a_row(fault, pause).await,
            Kind::CacheKilled => {
                self.roles.redis.kill();
                pause.await;
                self.roles.redis.start_again().await;
            }
            Kind::CacheHangs => {
                self.roles.redis.freeze();
                pause.await;
                self.roles.redis.go_on();
            }
            Kind::CacheEmptied => self.roles.redis.flush().await,
            Kind::BrokerKilled => {
                self.roles.rocketmq.kill_broker(Self::broker(fault));
                pause.await;
                self.roles.rocketmq.start_broker(Self::broker(fault)).await;
            }
            Kind::BrokerHangs => {
                self.roles.rocketmq.freeze_broker(Self::broker(fault));
                pause.await;
                self.roles.rocketmq.thaw_broker(Self::broker(fault));
            }
            Kind::NameServerKilled => {
                self.roles.rocketmq.kill_namesrv(fault.index % 2);
                pause.await;
                self.roles.rocketmq.start_namesrv(fault.index % 2).await;
            }
            Kind::ClockAhead | Kind::ClockBehind => {
                let sign = if fault.kind == Kind::ClockAhead { 1 } else { -1 };
                let seconds = [2, 30, 600, 3_600][fault.index % 4];
                self.process(fault).set_clock(sign * seconds);
                pause.await;
                self.process(fault).set_clock(0);
            }
        }
    }

    /// New sessions can only read, and those that are there end; or new ones can write again.
    async fn read_only(&self, is_on: bool) {
        let mut conn = self.roles.mariadb().connect("mysql").await;
        let set = if is_on { "SET GLOBAL tx_read_only = 1" } else { "SET GLOBAL tx_read_only = 0" };
        sqlx::raw_sql(set).execute(&mut conn).await.unwrap();
        if is_on {
            let text = "SELECT CAST(ID AS SIGNED) FROM information_schema.PROCESSLIST \
                        WHERE ID <> CONNECTION_ID() AND DB LIKE 'ruyi%'";
            for row in sqlx::query(text).fetch_all(&mut conn).await.unwrap() {
                let kill = format!("KILL {}", row.get::<i64, _>(0));
                // It may have ended by itself.
                let _ = sqlx::raw_sql(sqlx::AssertSqlSafe(kill)).execute(&mut conn).await;
            }
        }
        conn.close().await.unwrap();
    }

    /// A session from outside holds the newest row of a table.
    async fn lock_a_row(&self, fault: Fault, pause: tokio::time::Sleep) {
        let (role, table, key) = [
            ("stock", "stock", "sku"),
            ("order", "orders", "id"),
            ("payment", "payment_record", "id"),
            ("stock", "stock_reservation", "order_id"),
            ("notify", "user_points", "user_id"),
        ][fault.index % 5];
        let mut conn = self.roles.mariadb().connect(&database_of(role)).await;
        let newest = format!("(SELECT MAX({key}) FROM {table})");
        let text = format!("START TRANSACTION; SELECT {key} FROM {table} WHERE {key} = {newest} FOR UPDATE");
        sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&mut conn).await.unwrap();
        pause.await;
        // Whoever kills the server meanwhile has freed it.
        let _ = sqlx::raw_sql("ROLLBACK").execute(&mut conn).await;
    }

    async fn is_known(&self, order: &str) -> bool {
        let mut conn = self.roles.mariadb().connect(&database_of("order")).await;
        let row = sqlx::query("SELECT COUNT(*) FROM orders WHERE id = ?").bind(order.parse::<i64>().unwrap());
        let count: i64 = row.fetch_one(&mut conn).await.unwrap().get(0);
        conn.close().await.unwrap();
        count == 1
    }

    /// One or two faults, and then how long it takes until every process is ready and an order is accepted.
    async fn strike_and_recover(&self, faults: &[Fault], lasts: Duration, customer: &Customer) -> Duration {
        match faults {
            [fault] => self.strike(*fault, lasts).await,
            [one, other] => drop(tokio::join!(self.strike(*one, lasts), self.strike(*other, lasts / 2))),
            _ => unreachable!("one or two"),
        }
        let mended = Instant::now();
        customer.next_accepted().await;
        self.roles.all_ready().await;
        mended.elapsed()
    }
}

/// Whoever orders all the time, is refused now and then, and is owed what was accepted.
struct Customer {
    shared: Arc<Placed>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Placed {
    stop: AtomicBool,
    accepted: Mutex<Vec<String>>,
    refused: Mutex<BTreeMap<String, usize>>,
}

impl Customer {
    fn start(name: String, urls: Vec<String>) -> Self {
        let shared = Arc::new(Placed::default());
        let task = tokio::spawn(order_on(Arc::clone(&shared), name, urls));
        Self { shared, task }
    }

    fn accepted(&self) -> usize {
        self.shared.accepted.lock().unwrap().len()
    }

    async fn next_accepted(&self) {
        let before = self.accepted();
        let show = || format!("refused {:?}", self.shared.refused.lock().unwrap());
        eventually_or_show("an order is accepted", show, async || self.accepted() > before).await;
    }

    /// The ids of what was accepted, and how often which refusal came.
    async fn stop(self) -> (Vec<String>, BTreeMap<String, usize>) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
        let placed = Arc::into_inner(self.shared).expect("its task has ended");
        (placed.accepted.into_inner().unwrap(), placed.refused.into_inner().unwrap())
    }
}

async fn order_on(placed: Arc<Placed>, name: String, urls: Vec<String>) {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(20)).no_proxy().build().unwrap();
    let body = unpaid_order();
    for number in 0_usize.. {
        if placed.stop.load(Ordering::SeqCst) {
            return;
        }
        let url = format!("{}/orders", urls[number % urls.len()]);
        let request = client.post(url).header("idempotency-key", format!("{name}-{number}")).json(&body);
        match request.send().await {
            Ok(reply) if reply.status().is_success() => {
                let order: Value = reply.json().await.unwrap_or_default();
                placed.accepted.lock().unwrap().extend(order["orderId"].as_str().map(str::to_owned));
            }
            Ok(reply) => {
                let later = reply.headers().contains_key("retry-after");
                let what = format!("{}{}", reply.status(), if later { ", later" } else { "" });
                *placed.refused.lock().unwrap().entry(what).or_default() += 1;
            }
            Err(_) => *placed.refused.lock().unwrap().entry("no answer".to_owned()).or_default() += 1,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes hours: a part of scripts/test soak"]
async fn random_faults_lose_and_double_nothing() {
    let Some(campaign) = Campaign::start().await else { return };
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let (faults, seed) = (number("RUYI_TEST_FAULTS").unwrap_or(FAULTS), number("RUYI_TEST_SEED").unwrap_or(0));
    let mut rng = StdRng::seed_from_u64(u64::try_from(seed).unwrap());
    let mut recoveries: BTreeMap<Kind, Vec<Duration>> = BTreeMap::new();
    for round in 0..faults.div_ceil(STRIKES_A_ROUND) {
        let strikes = STRIKES_A_ROUND.min(faults - round * STRIKES_A_ROUND);
        one_round(&campaign, round, strikes, &mut rng, &mut recoveries).await;
    }
    for (kind, times) in &mut recoveries {
        times.sort();
        let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
        eprintln!("{kind:?}: {} times, goes on after {median:.1?}, at the latest after {longest:.1?}", times.len());
    }
}

/// Faults under load, and then everything has ended as it must.
async fn one_round(
    campaign: &Campaign,
    round: usize,
    strikes: usize,
    rng: &mut StdRng,
    recoveries: &mut BTreeMap<Kind, Vec<Duration>>,
) {
    let (roles, started) = (&campaign.roles, Instant::now());
    roles.all_ready().await;
    let file = roles.write(&format!("round-{round}.jsonl"), &sample(ORDERS, round, Cases::NoHurry));
    let args = ["demo", "--external", "--patience", "240s", "--output", "json", "--concurrency", CONCURRENCY];
    let demo = roles.spawn(&[&args[..], &["--orders", &file]].concat());
    let customer = Customer::start(format!("round-{round}"), roles.urls("order"));
    customer.next_accepted().await;

    for strike in 0..strikes {
        let mut faults = vec![Fault { kind: *KINDS.choose(rng).unwrap(), index: rng.random_range(0..1_000) }];
        if rng.random_bool(PAIRS) {
            let others: Vec<Kind> = KINDS.into_iter().filter(|kind| kind.part() != faults[0].kind.part()).collect();
            faults.push(Fault { kind: *others.choose(rng).unwrap(), index: rng.random_range(0..1_000) });
        }
        let lasts = Duration::from_secs(rng.random_range(LASTS));
        let recovery = campaign.strike_and_recover(&faults, lasts, &customer).await;
        eprintln!("round {round}, strike {strike}: {faults:?} for {lasts:?}, goes on after {recovery:.1?}");
        assert!(recovery < RECOVERY, "{faults:?}: goes on only after {recovery:?}\n{}", roles.logs());
        if let [fault] = faults[..] {
            recoveries.entry(fault.kind).or_default().push(recovery);
        }
    }

    let (accepted, refused) = customer.stop().await;
    let ended = Ended::from(demo.wait_with_output().await.unwrap());
    assert!(ended.ok, "round {round}: {}\n{}", ended.text(), roles.logs());
    let audit = roles.ruyi(&["audit", "--output", "json"]).await;
    assert!(audit.ok && audit.json()["ok"] == true, "round {round}: {}", audit.text());
    for id in &accepted {
        assert!(campaign.is_known(id).await, "round {round}: the accepted order {id} is not there");
    }
    eprintln!(
        "round {round}: {strikes} strikes, {} orders of the demo, {} of the customer, refused {refused:?}, {} s",
        ended.json()["orders"],
        accepted.len(),
        started.elapsed().as_secs()
    );
}
