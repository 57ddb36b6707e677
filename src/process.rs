//! A running process: some roles on one database and one broker, behind one HTTP address.
//!
//! Start order: lock, schema, database, broker, consumers, relay, background loops, HTTP. Stop order: no new requests,
//! what is in hand is finished and its offsets are committed, then the broker and the database are closed.

mod broker;

#[cfg(feature = "embedded")]
pub use broker::BrokerProcess;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use utoipa_axum::router::OpenApiRouter;

use crate::clock::Clock;
use crate::config::{Config, PublishVia, TimeoutVia};
use crate::db::delivery::Kind as Call;
use crate::db::{self, Db, DbError, migrate, node, outbox, retry};
use crate::delivery::{Effects, Engine, EngineConfig, Targets, Verdict};
use crate::domain::event::Role;
use crate::fault::Faults;
use crate::http::{self, App, Auth, Limits, ReadyCheck};
use crate::mq::relay::Relay;
use crate::mq::retry::{Policy, RetryLane};
use crate::mq::rocketmq::MqError;
use crate::mq::sweep::Sweep;
use crate::mq::{Consumer, Handler};
use crate::roles::order::timeout::Timeouts;
use crate::roles::payment::channels::Channels;
use crate::roles::{notify, order, payment, sandbox, stock};
use crate::shutdown::Shutdown;
use crate::telemetry::Metrics;

/// How long an orderly stop may take.
const DRAIN: Duration = Duration::from_secs(20);
/// How often the gauges are read from the database.
const GAUGES: Duration = Duration::from_secs(10);

/// Why a process does not start. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process works on the same data directory.
    #[error("another ruyi process uses the data directory {0}: stop it, or choose another with --set data_dir=...")]
    Locked(String),
    /// The data directory cannot be used.
    #[error("cannot use the data directory {path}: {source}")]
    DataDir {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The schema is older than this program.
    #[error("the database misses {0} migrations: run `ruyi db migrate` first")]
    NotMigrated(usize),
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The broker.
    #[error(transparent)]
    Mq(#[from] MqError),
    /// There is no broker to be found.
    #[error("{0}")]
    NoBroker(String),
    /// The HTTP address.
    #[error(transparent)]
    Listen(#[from] http::ListenError),
    /// Anything else that does not start.
    #[error("{0}")]
    Other(String),
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which roles.
    pub roles: Vec<Role>,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Start the broker inside this process where no outside one is configured.
    pub embed_broker: bool,
    /// Planned failures.
    pub faults: Faults,
    /// Source of "now".
    pub clock: Clock,
}

/// A running process.
pub struct Process {
    db: Db,
    base_url: String,
    shutdown: Shutdown,
    broker: broker::Running,
    lease: Option<(i64, String)>,
    _lock: Option<std::fs::File>,
}

impl Process {
    /// Starts everything.
    ///
    /// # Errors
    /// [`StartError`]; what was started until then is stopped with the runtime.
    pub async fn start(config: &Config, plan: Plan) -> Result<Self, StartError> {
        refuse_unbuilt(config)?;
        let lock = if plan.embed_broker { Some(broker::lock(config)?) } else { None };
        let db = open_database(config, &plan).await?;
        let owner = format!("{}:{}", std::process::id(), plan.clock.now_ms());
        let number = node::lease(&db, &owner).await?;
        let shutdown = Shutdown::new();
        let metrics = Arc::new(Metrics::new().map_err(|error| StartError::Other(error.to_string()))?);
        shutdown.run("node lease", keep_lease(db.clone(), number, owner.clone(), shutdown.token.clone()));

        let policy = Policy::of(&config.mq.retry);
        let consumers: Vec<Consumer> = handlers(config, &plan.roles)
            .into_iter()
            .map(|handler| Consumer::new(db.clone(), handler, policy.clone(), Arc::clone(&metrics)))
            .collect();
        let broker = broker::start(config, &plan, &consumers, &shutdown).await?;
        let relay = Relay::new(db.clone(), broker.broker.clone(), Arc::clone(&metrics));
        relay.start(config.mq.outbox.shards as usize, config.mq.outbox.memory_limit, &shutdown);
        shutdown.run("outbox sweep", Sweep::new(relay, &config.mq.outbox).run(shutdown.token.clone()));
        for consumer in consumers {
            shutdown.run("retry lane", RetryLane::new(consumer).run(shutdown.token.clone()));
        }
        if plan.roles.contains(&Role::Order) {
            shutdown.run("timeouts", Timeouts::new(db.clone()).run(shutdown.token.clone()));
        }
        shutdown.run("gauges", gauges(db.clone(), Arc::clone(&metrics), shutdown.clone()));

        let targets = Targets::from_config(config);
        let bound = http::bind(plan.listen, config).await?;
        let base_url = format!("http://{}", bound.addr());
        targets.set_own(&base_url);
        start_deliveries(config, &plan, &db, &targets, &metrics, &shutdown)?;
        let app = app(config, &plan, &db, targets, metrics, &shutdown)?;
        let serving = shutdown.clone();
        shutdown.run("http", async move { bound.serve(app, &serving).await });
        Ok(Self { db, base_url, shutdown, broker, lease: Some((number, owner)), _lock: lock })
    }

    /// Where its HTTP API is.
    #[must_use]
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// Its database.
    #[must_use]
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// Its shutdown: signals can be connected to it, and it can be waited for.
    #[must_use]
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Name servers of its broker, if it has one.
    #[must_use]
    pub fn namesrv(&self) -> Option<&str> {
        self.broker.namesrv.as_deref()
    }

    /// Stops everything in order; false when a part had panicked, or something had to be left behind.
    pub async fn stop(self) -> bool {
        let broken = self.shutdown.clone();
        let drained = self.shutdown.drain(DRAIN).await && !broken.is_broken();
        if !drained {
            tracing::warn!("some tasks did not end in time; what they held is done at the next start");
        }
        self.broker.stop().await;
        if let Some((number, owner)) = self.lease
            && let Err(error) = node::release(&self.db, number, &owner).await
        {
            tracing::debug!(%error, "the node number is given back by time");
        }
        self.db.close().await;
        drained
    }
}

/// Settings that this version knows but cannot honour yet are refused: they must not look as if they worked.
fn refuse_unbuilt(config: &Config) -> Result<(), StartError> {
    let unbuilt = [
        (config.payment.publish != PublishVia::Outbox, "payment.publish = \"transaction\"", "\"outbox\""),
        (config.order.timeout.via != TimeoutVia::Database, "order.timeout.via = \"broker\"", "\"database\""),
        (!config.cache.url.expose().is_empty(), "cache.url", "\"\""),
    ];
    match unbuilt.iter().find(|(asked, ..)| *asked) {
        Some((_, setting, instead)) => {
            Err(StartError::Other(format!("{setting} is not available in this version: set it to {instead}")))
        }
        None => Ok(()),
    }
}

/// SQLite is migrated by whoever starts; a server's schema is changed on purpose only.
async fn open_database(config: &Config, plan: &Plan) -> Result<Db, StartError> {
    let url = config.database_url().expose().to_owned();
    if url.starts_with("sqlite:") {
        std::fs::create_dir_all(&config.data_dir)
            .map_err(|source| StartError::DataDir { path: config.data_dir.display().to_string(), source })?;
        migrate::run(&url).await?;
    } else {
        let missing = migrate::pending(&url).await?.len();
        if missing > 0 {
            return Err(StartError::NotMigrated(missing));
        }
    }
    let options = db::Options {
        url,
        max_connections: config.database.max_connections,
        clock: plan.clock.clone(),
        faults: plan.faults.clone(),
    };
    Ok(Db::open(&options).await?)
}

/// The handlers of the consumer groups of `roles`.
#[must_use]
pub fn handlers(config: &Config, roles: &[Role]) -> Vec<Arc<dyn Handler>> {
    let channels = Channels::new(config.payment.channels.clone());
    let warehouse_url = match config.warehouse.endpoint.trim_end_matches('/') {
        "" => "/sandbox/warehouse/orders".to_owned(),
        endpoint => format!("{endpoint}/orders"),
    };
    let mut all: Vec<Arc<dyn Handler>> = Vec::new();
    for role in roles {
        match role {
            Role::Order => {
                all.push(Arc::new(order::events::OrderEvents));
                all.push(Arc::new(order::events::PaidOrders { cool_off_ms: config.order.fulfil.after.ms() }));
                all.push(Arc::new(order::events::Fulfilments { warehouse_url: warehouse_url.clone() }));
            }
            Role::Payment => {
                all.push(Arc::new(payment::events::PaymentEvents { channels: channels.clone() }));
                all.push(Arc::new(payment::events::CallbackSubmits { channels: channels.clone() }));
            }
            Role::Stock => all.push(Arc::new(stock::events::StockEvents)),
            Role::Notify => {
                all.push(Arc::new(notify::events::PointsEvents));
                all.push(Arc::new(notify::events::NotificationEvents));
            }
        }
    }
    all
}

/// What follows from outgoing calls: refunds are settled by the channel's answer.
#[must_use]
pub fn effects() -> Effects {
    Arc::new(|tx, settled| {
        Box::pin(async move {
            let refunds = |delivered: bool| {
                settled
                    .iter()
                    .filter(|one| one.delivery.kind == Call::ChannelRefund)
                    .filter(|one| (one.verdict == Verdict::Delivered) == delivered)
                    .filter_map(|one| one.delivery.reference.parse().ok())
                    .collect::<Vec<i64>>()
            };
            let (done, failed) = (refunds(true), refunds(false));
            if !done.is_empty() {
                payment::refund::settle(tx, done).await?;
            }
            if !failed.is_empty() {
                payment::refund::give_up(tx, &failed).await?;
            }
            Ok(())
        })
    })
}

/// The kinds of calls that `roles` make.
#[must_use]
pub fn calls(roles: &[Role]) -> Vec<Call> {
    let mut all = Vec::new();
    if roles.contains(&Role::Order) {
        all.extend([Call::Warehouse, Call::SandboxFulfilment]);
    }
    if roles.contains(&Role::Payment) {
        all.extend([Call::ChannelSubmit, Call::ChannelRefund, Call::SandboxPayment]);
    }
    all
}

fn start_deliveries(
    config: &Config,
    plan: &Plan,
    db: &Db,
    targets: &Targets,
    metrics: &Arc<Metrics>,
    shutdown: &Shutdown,
) -> Result<(), StartError> {
    let kinds = calls(&plan.roles);
    if kinds.is_empty() {
        return Ok(());
    }
    let engine_config = EngineConfig::new(&config.delivery, &kinds);
    let engine = Engine::new(db.clone(), engine_config, targets.clone(), effects(), Arc::clone(metrics))
        .map_err(|error| StartError::Other(error.to_string()))?;
    shutdown.run("deliveries", engine.run(shutdown.token.clone()));
    Ok(())
}

fn app(
    config: &Config,
    plan: &Plan,
    db: &Db,
    targets: Targets,
    metrics: Arc<Metrics>,
    shutdown: &Shutdown,
) -> Result<App, StartError> {
    let auth = Auth::new(&config.http.keys).map_err(|error| StartError::Other(error.to_string()))?;
    let (sandbox, writer) = sandbox::Sandbox::new(db, config, targets);
    if config.sandbox.enabled {
        shutdown.run("writer", writer);
    }
    let mut api = OpenApiRouter::new();
    for role in &plan.roles {
        api = match role {
            Role::Order => {
                let (state, writers) = order::api::State::new(db, config);
                for writer in writers {
                    shutdown.run("writer", writer);
                }
                let api = api.merge(order::api::router(state, &auth));
                if config.sandbox.enabled { api.merge(sandbox::warehouse_router(sandbox.clone())) } else { api }
            }
            Role::Payment => {
                let (state, writers) = payment::api::State::new(db, config);
                for writer in writers {
                    shutdown.run("writer", writer);
                }
                let api = api.merge(payment::api::router(state, &auth));
                if config.sandbox.enabled { api.merge(sandbox::channel_router(sandbox.clone(), &auth)) } else { api }
            }
            Role::Stock => api.merge(stock::api::router(db.clone(), &auth)),
            Role::Notify => api.merge(notify::api::router(db.clone(), &auth)),
        };
    }
    let checked = db.clone();
    let database = ReadyCheck::new("database", move || {
        let db = checked.clone();
        async move { db.ping().await.map_err(|error| error.to_string()) }
    });
    let names: Vec<&str> = plan.roles.iter().map(|role| role.name()).collect();
    Ok(App {
        title: format!("ruyi {}", names.join(", ")),
        api,
        checks: vec![database],
        metrics,
        limits: Limits::from(&config.http),
    })
}

async fn keep_lease(db: Db, number: i64, owner: String, token: tokio_util::sync::CancellationToken) {
    let pause = Duration::from_millis(node::LEASE_MS.unsigned_abs() / 3);
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        match node::renew(&db, number, &owner).await {
            Ok(true) => {}
            // Somebody has it now: another number, so that no id is given out twice.
            Ok(false) => {
                if let Err(error) = node::lease(&db, &owner).await {
                    tracing::error!(%error, "this process has no node number of its own");
                }
            }
            Err(error) => tracing::warn!(%error, "the node number could not be renewed"),
        }
    }
}

async fn gauges(db: Db, metrics: Arc<Metrics>, shutdown: Shutdown) {
    loop {
        let read = async {
            let now_ms = db.clock().now_ms();
            let mut conn = db.read().await?;
            let (pending, oldest) = outbox::pending(&mut conn, now_ms).await?;
            let waiting = retry::waiting(&mut conn).await?;
            metrics.outbox(pending, oldest.map_or(0, |at| (now_ms - at).max(0)));
            metrics.retry_pending(waiting);
            Ok::<(), DbError>(())
        };
        if let Err(error) = read.await {
            tracing::debug!(%error, "gauges not read");
        }
        tokio::select! {
            () = shutdown.token.cancelled() => return,
            () = tokio::time::sleep(GAUGES) => {}
        }
    }
}
