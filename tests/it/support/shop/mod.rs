//! A whole shop in one process, stepped by hand: no background task moves anything, and time stands still until it is
//! moved. Requests and calls go through the real routers, without a network; messages through the real consumers,
//! without a broker.

mod calls;
mod unreliable;
mod view;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use ruyi::clock::Clock;
use ruyi::config::{Config, Millis, Sources};
use ruyi::db::delivery::Kind as Call;
use ruyi::db::outbox::{self, OutboxRow};
use ruyi::db::sql::{self, Columns};
use ruyi::db::{Db, DbError, Options, delivery, migrate};
use ruyi::delivery::{Engine, EngineConfig, Targets, no_effects};
use ruyi::domain::event::{Group, Kind, Role};
use ruyi::fault::Faults;
use ruyi::http::Auth;
use ruyi::mq::message::{Delay, Incoming, QueueId};
use ruyi::mq::reader::Reader;
use ruyi::mq::relay::outgoing;
use ruyi::mq::retry::{Policy, RetryLane};
use ruyi::mq::{Consumer, Handler};
use ruyi::process;
use ruyi::progress::Progress;
use ruyi::roles::order::timeout::Timeouts;
use ruyi::roles::stock::sync::StockSync;
use ruyi::roles::{notify, order, payment, sandbox, stock};
use ruyi::telemetry::Metrics;
use tokio::sync::{Notify, OnceCell};

pub use unreliable::{Fault, Trouble, Unreliable};
pub use view::STRICT;

use crate::support::servers::START_MS;

/// The longest that a shop is driven: whatever has not come to rest by then never will.
const TURNS: usize = 20_000;
/// A claim on outbox rows and calls holds for so long.
const LEASE_MS: i64 = 30_000;
/// Longer than every time to pay and every wait of a sandbox call.
const FOREVER_MS: i64 = 20 * 86_400_000;

/// Puts something around a handler.
pub type Wrap = Box<dyn Fn(Arc<dyn Handler>) -> Arc<dyn Handler>>;

/// How a shop is made.
pub struct Setup {
    /// Where; `None`: a SQLite file of its own.
    pub url: Option<String>,
    /// Its time; `None`: a clock of its own that begins at [`START_MS`].
    pub clock: Option<Clock>,
    /// Failures of transactions.
    pub faults: Faults,
    /// Changes of the default configuration.
    pub change: fn(&mut Config),
    /// As with `--set`.
    pub settings: Vec<String>,
    /// Done to every handler.
    pub wrap: Wrap,
    /// Told when whoever called a handler is to give it up.
    pub given_up: Arc<Notify>,
}

impl Default for Setup {
    fn default() -> Self {
        let settings = Vec::new();
        let wrap: Wrap = Box::new(|handler| handler);
        let given_up = Arc::default();
        Self { url: None, clock: None, faults: Faults::none(), change: |_| {}, settings, wrap, given_up }
    }
}

/// How messages reach their groups.
#[derive(Clone, Debug)]
pub struct Manner {
    /// Each message comes so many times.
    pub times: usize,
    /// The messages of a topic come in reverse.
    pub reversed: bool,
    /// Messages of one batch at most.
    pub batch: usize,
}

impl Default for Manner {
    fn default() -> Self {
        Self { times: 1, reversed: false, batch: 256 }
    }
}

/// Something that falls due.
enum Due {
    Timeout,
    Retry(Group),
    Call,
    Outbox,
    Sync,
    Timer,
}

/// The shop.
pub struct Shop {
    pub db: Db,
    pub clock: Clock,
    pub manner: Manner,
    config: Config,
    router: axum::Router,
    targets: Targets,
    consumers: BTreeMap<Group, Consumer>,
    timeouts: Timeouts,
    sync: StockSync,
    /// What the relay is told after each commit.
    committed: Arc<Mutex<Vec<OutboxRow>>>,
    /// The broker: what each group has not acknowledged yet.
    queues: BTreeMap<Group, Vec<Incoming>>,
    /// The broker's timer: when, for whom, what.
    timer: Vec<(i64, Group, Incoming)>,
    /// Whatever chance decides.
    pub chance: StdRng,
    offset: i64,
    /// What merchants were told: the call's reference and body.
    pub news: Mutex<Vec<(String, serde_json::Value)>>,
    given_up: Arc<Notify>,
    _dir: tempfile::TempDir,
}

/// A folder in memory where there is one: what is tested here are transactions, not disks.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir()
        && let Ok(dir) = tempfile::tempdir_in(memory)
    {
        return dir;
    }
    tempfile::tempdir().unwrap()
}

/// A migrated SQLite file, to be copied.
async fn template() -> &'static [u8] {
    static TEMPLATE: OnceCell<Vec<u8>> = OnceCell::const_new();
    let made = TEMPLATE.get_or_init(|| async {
        let dir = folder();
        let path = dir.path().join("template.db");
        migrate::run(&format!("sqlite://{}", path.display())).await.unwrap();
        let wal: PathBuf = dir.path().join("template.db-wal");
        assert!(!std::fs::metadata(wal).is_ok_and(|wal| wal.len() > 0), "the template is not in one file");
        std::fs::read(path).unwrap()
    });
    made.await
}

fn metrics() -> Arc<Metrics> {
    static METRICS: std::sync::OnceLock<Arc<Metrics>> = std::sync::OnceLock::new();
    Arc::clone(METRICS.get_or_init(|| Arc::new(Metrics::new().unwrap())))
}

impl Shop {
    /// On SQLite, without any trouble.
    pub async fn open() -> Self {
        Self::with(Setup::default(), 0).await
    }

    pub async fn with(setup: Setup, seed: u64) -> Self {
        let dir = folder();
        let url = match setup.url {
            Some(url) => {
                migrate::run(&url).await.unwrap();
                url
            }
            None => {
                let path = dir.path().join("ruyi.db");
                std::fs::write(&path, template().await).unwrap();
                format!("sqlite://{}", path.display())
            }
        };
        let mut config = Config::load(&Sources { sets: setup.settings, ..Sources::default() }).unwrap();
        config.mq.retry.jitter = 0.0;
        (setup.change)(&mut config);
        let clock = setup.clock.unwrap_or_else(|| Clock::manual(START_MS));
        let options = Options { url, max_connections: 1, clock: clock.clone(), faults: setup.faults };
        let db = Db::open(&options).await.unwrap();
        if !config.order.data_sync {
            db.leave_out(&[Kind::OrderDataSync]);
        }
        let committed: Arc<Mutex<Vec<OutboxRow>>> = Arc::default();
        let told = Arc::clone(&committed);
        db.on_commit(Box::new(move |rows| told.lock().unwrap().extend(rows)));
        let policy = Policy::of(&config.mq.retry);
        let consumer = |handler| {
            let handler: Arc<dyn Handler> = (setup.wrap)(handler);
            (
                handler.group(),
                Consumer::new(db.clone(), handler, policy.clone(), metrics()).reading(Reader::of(&config)),
            )
        };
        let consumers = process::handlers(&config, &Role::ALL).into_iter().map(consumer).collect();
        let targets = Targets::from_config(&config);
        Self {
            router: router(&db, &config, &targets),
            timeouts: Timeouts::new(db.clone(), &config),
            sync: StockSync::new(db.clone(), config.stock.sync_interval.ms()),
            queues: BTreeMap::new(),
            timer: Vec::new(),
            manner: Manner::default(),
            chance: StdRng::seed_from_u64(seed),
            offset: 0,
            news: Mutex::default(),
            given_up: setup.given_up,
            _dir: dir,
            db,
            clock,
            config,
            targets,
            consumers,
            committed,
        }
    }

    /// An engine for the messages to users, which this shop does not carry itself: they go to real servers.
    pub fn notices(&self, timeout: Option<Millis>) -> Engine {
        let kinds = [Call::Sms, Call::Email];
        let mut config = EngineConfig::new(&self.config.delivery, &kinds);
        for kind in kinds.iter().filter(|_| timeout.is_some()) {
            config.delivery.kinds.entry(kind.name().to_owned()).or_default().timeout = timeout;
        }
        Engine::new(self.db.clone(), config, self.targets.clone(), no_effects(), metrics()).unwrap()
    }

    pub fn consumer(&self, group: Group) -> &Consumer {
        &self.consumers[&group]
    }

    pub fn lane(&self, group: Group) -> RetryLane {
        RetryLane::new(self.consumer(group).clone())
    }

    pub fn groups(&self) -> Vec<Group> {
        self.consumers.keys().copied().collect()
    }

    /// Messages that a group has not acknowledged.
    pub fn queue(&mut self, group: Group) -> &mut Vec<Incoming> {
        self.queues.entry(group).or_default()
    }

    /// The stock role tells of what has changed.
    pub async fn sync(&mut self) {
        while self.sync.step().await.unwrap() != Progress::Idle {}
    }

    /// What the broker's timer holds: until when, for whom, what.
    pub fn timer(&mut self) -> &mut Vec<(i64, Group, Incoming)> {
        &mut self.timer
    }

    /// Publishes what was committed since the last time; how many rows. Each is lost on the way with this
    /// probability, and left to the sweep.
    pub async fn relay(&mut self, lost: f64) -> usize {
        let rows: Vec<OutboxRow> = std::mem::take(&mut *self.committed.lock().unwrap());
        let rows: Vec<OutboxRow> = rows.into_iter().filter(|_| lost == 0.0 || !self.chance.random_bool(lost)).collect();
        self.publish(rows).await
    }

    /// Publishes what the relay has left behind and what waited for its time.
    pub async fn sweep(&mut self) -> Result<usize, DbError> {
        let claim = self.db.write("outbox_claim", |tx| Box::pin(outbox::claim(tx, 256, LEASE_MS)));
        let rows = claim.await?;
        Ok(self.publish(rows).await)
    }

    async fn publish(&mut self, rows: Vec<OutboxRow>) -> usize {
        for row in &rows {
            // Dead letters have no reader here.
            let Some(kind) = Kind::from_name(&row.topic) else { continue };
            let delay = outgoing(row, self.clock.now_ms()).delay;
            for group in kind.groups() {
                let message = self.incoming(row);
                match delay {
                    Delay::None => self.queue(*group).push(message),
                    Delay::Until(at) => {
                        let limit = self.config.mq.producer.max_delay.ms();
                        assert!(at - self.clock.now_ms() <= limit, "the broker would refuse {}", row.event_id);
                        self.timer.push((at, *group, message));
                    }
                    Delay::Level(level) => panic!("{} is delayed by level {}", row.event_id, level.name()),
                }
            }
        }
        let count = rows.len();
        if count > 0 && self.db.fault("relay", "published").is_ok() {
            let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
            let mark = self.db.write("outbox_mark", move |tx| {
                let ids = ids.clone();
                Box::pin(async move {
                    let now_ms = tx.now_ms();
                    outbox::mark_sent(tx, &ids, now_ms).await
                })
            });
            // What is not marked is published a second time by the sweep.
            let _ = mark.await;
        }
        count
    }

    fn incoming(&mut self, row: &OutboxRow) -> Incoming {
        let message = outgoing(row, self.clock.now_ms());
        self.offset += 1;
        Incoming {
            queue: QueueId { topic: message.topic, broker: "shop".to_owned(), queue: 0 },
            offset: self.offset,
            tag: message.tag,
            key: message.key,
            body: message.body,
            unreadable: None,
            properties: message.properties,
            born_ms: self.clock.now_ms(),
            stored_ms: self.clock.now_ms(),
        }
    }

    /// The broker's timer: what it held until now goes to its groups.
    fn ring(&mut self) -> usize {
        let now_ms = self.clock.now_ms();
        let due: Vec<_> = self.timer.extract_if(.., |(at, ..)| *at <= now_ms).collect();
        let count = due.len();
        for (_, group, message) in due {
            self.queue(group).push(message);
        }
        count
    }

    /// Hands up to `limit` waiting messages to a group, in the shop's manner; how many were acknowledged.
    pub async fn deliver(&mut self, group: Group, limit: usize) -> usize {
        let manner = self.manner.clone();
        let queue = self.queue(group);
        if manner.reversed {
            reverse_topics(queue);
        }
        let part: Vec<Incoming> = queue.drain(..limit.min(queue.len())).collect();
        let count = part.len();
        for batch in part.chunks(manner.batch.max(1)) {
            let repeated: Vec<Incoming> = (0..manner.times).flat_map(|_| batch.to_vec()).collect();
            let handled = self.unless_given_up(self.consumer(group).process(repeated)).await;
            if handled.is_none_or(|handled| handled.is_err()) || self.db.fault("consume", "acknowledge").is_err() {
                // Not acknowledged: it comes again, before everything else.
                self.queue(group).splice(0..0, batch.to_vec());
            }
        }
        count
    }

    async fn retry(&self, group: Group) -> Result<usize, DbError> {
        let lane = self.lane(group);
        self.unless_given_up(lane.step()).await.map_or(Ok(0), |step| step.map(|_| 0))
    }

    /// Waits for work unless it is to be given up; what has begun goes on without anybody who waits for it.
    async fn unless_given_up<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.given_up.notified() => None,
        }
    }

    /// Everything that can be done at this moment, once, in a fixed order; false when there was nothing.
    pub async fn turn(&mut self) -> bool {
        let mut did = self.relay(0.0).await > 0;
        for group in self.groups() {
            let waiting = self.queue(group).len();
            did |= self.deliver(group, waiting).await > 0;
        }
        // Looking is cheaper than a transaction that finds nothing.
        let now_ms = self.clock.now_ms();
        let due: Vec<Due> = self.due().await.into_iter().filter(|(_, at)| *at <= now_ms).map(|(due, _)| due).collect();
        for due in due {
            did = true;
            // What fails here is due again later.
            let _ = match due {
                Due::Timeout => self.timeouts.step().await.map(|_| 0),
                Due::Retry(group) => self.retry(group).await,
                Due::Call => self.make_calls(64).await,
                Due::Outbox => self.sweep().await,
                Due::Sync => self.sync.step().await.map(|_| 0),
                Due::Timer => Ok(self.ring()),
            };
        }
        did
    }

    /// One thing that can be done at this moment, chosen by chance.
    pub async fn chance_turn(&mut self) {
        let groups = self.groups();
        match self.chance.random_range(0..12) {
            0..3 => {
                self.relay(0.1).await;
            }
            3..7 => {
                let group = groups[self.chance.random_range(0..groups.len())];
                if self.chance.random_bool(0.3) {
                    let Self { queues, chance, .. } = self;
                    queues.entry(group).or_default().shuffle(chance);
                }
                let limit = self.chance.random_range(1..=8);
                self.deliver(group, limit).await;
            }
            7..9 => {
                let limit = self.chance.random_range(1..=4);
                let _ = self.make_calls(limit).await;
            }
            9 => {
                let group = groups[self.chance.random_range(0..groups.len())];
                let _ = self.retry(group).await;
            }
            10 => {
                let _ = self.timeouts.step().await;
                let _ = self.sweep().await;
                let _ = self.sync.step().await;
                self.ring();
            }
            _ => self.clock.advance_ms(self.chance.random_range(1..4_000)),
        }
    }

    /// Goes on until nothing is due within `limit_ms` from now, moving the clock from one thing due to the next.
    pub async fn settle_within(&mut self, limit_ms: i64) {
        let until = self.clock.now_ms() + limit_ms;
        for _ in 0..TURNS {
            if self.turn().await {
                continue;
            }
            match self.next_due().await {
                Some(due) if due <= until => self.clock.advance_ms((due - self.clock.now_ms()).max(0)),
                _ => return,
            }
        }
        panic!("the shop does not come to rest: next due {:?}, now {}", self.next_due().await, self.clock.now_ms());
    }

    /// Goes on until nothing is due any more, ever: every order is at an end.
    pub async fn settle(&mut self) {
        self.settle_within(FOREVER_MS).await;
    }

    /// What falls due next, and when.
    async fn due(&self) -> Vec<(Due, i64)> {
        let mut all = vec![(Due::Timeout, self.timeouts.next_due().await.unwrap())];
        let mut conn = self.db.read().await.unwrap();
        let text = "SELECT consumer_group, MIN(next_at) FROM message_retry_log WHERE next_at IS NOT NULL \
                    GROUP BY consumer_group ORDER BY consumer_group";
        for row in sql::fetch(&mut conn, text, vec![]).await.unwrap() {
            let group = Group::from_name(&row.text(0).unwrap()).unwrap();
            all.push((Due::Retry(group), row.maybe_int(1).unwrap()));
        }
        all.push((Due::Call, delivery::next_due(&mut conn, &calls::carried()).await.unwrap()));
        all.push((Due::Outbox, outbox::next_due(&mut conn).await.unwrap()));
        all.push((Due::Timer, self.timer.iter().map(|(at, ..)| *at).min()));
        drop(conn);
        all.push((Due::Sync, self.sync.next_due().await.unwrap()));
        all.into_iter().filter_map(|(due, at)| at.map(|at| (due, at))).collect()
    }

    async fn next_due(&self) -> Option<i64> {
        self.due().await.into_iter().map(|(_, at)| at).min()
    }
}

/// The real routes of every role and of the sandbox.
fn router(db: &Db, config: &Config, targets: &Targets) -> axum::Router {
    let auth = Auth::new(&config.http, None).unwrap();
    let (sandbox, writer) = sandbox::Sandbox::new(db, config, targets.clone());
    tokio::spawn(writer);
    let (orders, of_orders) = order::api::State::new(db, config);
    let (payments, of_payments) = payment::api::State::new(db, config, targets, payment::transaction::Publish::Outbox);
    for writer in of_orders.into_iter().chain(of_payments) {
        tokio::spawn(writer);
    }
    let api = order::api::router(orders, &auth)
        .merge(payment::api::router(payments, &auth))
        .merge(stock::api::router(db.clone(), &auth))
        .merge(notify::api::router(db.clone(), targets, &auth))
        .merge(sandbox::channel_router(sandbox.clone(), &auth))
        .merge(sandbox::warehouse_router(sandbox));
    api.split_for_parts().0
}

/// Reverses the messages of each topic, and leaves the topics where they are.
fn reverse_topics(queue: &mut [Incoming]) {
    let mut places: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (place, message) in queue.iter().enumerate() {
        places.entry(message.queue.topic.clone()).or_default().push(place);
    }
    for places in places.values() {
        for (first, last) in places.iter().zip(places.iter().rev()).take(places.len() / 2) {
            queue.swap(*first, *last);
        }
    }
}
