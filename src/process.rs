//! A running process: some roles on their databases and one broker, behind one HTTP address; or a worker for them.
//!
//! Start order: lock, schema, databases, broker, consumers, relays, background loops, HTTP. Stop order: no new requests,
//! what is in hand is finished and its offsets are committed, then the broker and the databases are closed.

mod broker;
mod databases;
mod gauges;
mod invalidate;
mod lease;
mod plan;
mod publish;
mod routes;
mod scale;
mod standing;
mod wiring;
mod work;

use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "embedded")]
pub use broker::BrokerProcess;
pub use broker::cluster_config;
pub use invalidate::LISTENERS;
pub use plan::{Plan, StartError, Work};
pub use scale::Scaling;
pub use wiring::{calls, effects, handlers};

use crate::cache::Cache;
use crate::config::Config;
use crate::db::Db;
use crate::delivery::Targets;
use crate::domain::event::{Group, Role};
use crate::http;
use crate::mq::Consumer;
use crate::mq::reader::Reader;
use crate::mq::retry::Policy;
use crate::roles::payment::transaction::Publish;
use crate::shutdown::{Disorder, Shutdown};
use crate::telemetry::Metrics;
use databases::Database;

/// How long an orderly stop may take.
const DRAIN: Duration = Duration::from_secs(20);

/// A running process.
pub struct Process {
    databases: Vec<Database>,
    base_url: String,
    shutdown: Shutdown,
    broker: broker::Running,
    publish: Publish,
    _lock: Option<std::fs::File>,
}

impl Process {
    /// Starts everything.
    ///
    /// # Errors
    /// [`StartError`]; what was started until then is stopped with the runtime.
    pub async fn start(config: &Config, plan: Plan) -> Result<Self, StartError> {
        let config = &effective(config, &plan);
        refuse_alone(config, &plan)?;
        let lock = if plan.embed_broker { Some(broker::lock(config)?) } else { None };
        let shutdown = Shutdown::new();
        let metrics = Arc::new(Metrics::new().map_err(|error| StartError::Other(error.to_string()))?);
        let databases = databases::open(config, &plan, &shutdown).await?;
        let cache = Cache::new(&config.cache).map_err(|error| StartError::Other(text_of(&error)))?;
        databases.iter().for_each(|database| database.db.set_cache(cache.clone()));
        let consumers: Vec<Vec<Consumer>> =
            databases.iter().map(|database| consumers(config, database, &metrics)).collect();
        let consuming = if plan.work.consume { consumers.concat() } else { Vec::new() };
        let broker = broker::start(config, &plan, &consuming, &shutdown).await?;
        invalidate::start(config, &plan, &cache, &broker.broker, &shutdown);
        let targets = Targets::from_config(config);
        let bound = match plan.listen {
            Some(addr) if plan.work.api => Some(http::bind(addr, config).await?),
            Some(addr) => Some(http::bind_probes(addr).await?),
            None => None,
        };
        let base_url = bound.as_ref().map(|bound| format!("http://{}", bound.addr())).unwrap_or_default();
        if bound.is_some() {
            targets.set_own(&base_url);
        }
        let shared = work::Shared {
            config,
            plan: &plan,
            broker: &broker.broker,
            targets: &targets,
            metrics: &metrics,
            shutdown: &shutdown,
        };
        for (database, consumers) in databases.iter().zip(consumers) {
            work::start(&shared, database, consumers)?;
        }
        let dbs = databases.iter().map(|database| database.db.clone()).collect();
        shutdown.run("gauges", gauges::run(dbs, broker.broker.clone(), Arc::clone(&metrics), shutdown.token.clone()));
        let watchdogs = standing::watchdogs(&databases);
        shutdown.run("standing", standing::tell(watchdogs, Arc::clone(&metrics), shutdown.token.clone()));
        let publish = publish::start(config, &plan, &databases, &broker.broker, &metrics).await?;
        if let Some(bound) = bound {
            let watched = Group::ALL.into_iter().filter(|group| plan.roles.contains(&group.role()));
            let watched = watched.map(|group| group.name().to_owned()).collect();
            let scaling = Scaling::on(&broker.broker, watched, config.backlog.clone(), Arc::clone(&metrics));
            shutdown.run("lag", Arc::clone(&scaling).run(shutdown.token.clone()));
            let mut app = routes::app(config, &plan, &databases, &targets, metrics, &publish, &shutdown)?;
            app.scale = Some(scaling.answer());
            app.checks.push(routes::broker_tells(&broker.broker));
            app.live.extend(broker.is_alive(config));
            let serving = shutdown.clone();
            shutdown.run("http", async move { bound.serve(app, &serving).await });
        }
        Ok(Self { databases, base_url, shutdown, broker, publish, _lock: lock })
    }

    /// Where its HTTP API is; empty when it has none.
    #[must_use]
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// The database of one of its roles.
    #[must_use]
    pub fn db_of(&self, role: Role) -> Option<&Db> {
        self.databases.iter().find(|database| database.roles.contains(&role)).map(|database| &database.db)
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

    /// Stops everything in order.
    ///
    /// # Errors
    /// [`Disorder`]: a part had panicked, or something had to be left behind.
    pub async fn stop(self) -> Result<(), Disorder> {
        let drained = self.shutdown.drain(DRAIN).await;
        publish::stop(&self.publish).await;
        self.broker.stop().await;
        for database in self.databases {
            database.close().await;
        }
        drained
    }
}

/// The configuration as it counts where the plan listens, with a line of the log where that leaves something out.
fn effective(config: &Config, plan: &Plan) -> Config {
    let effective = config.effective(plan.listen);
    if config.sandbox.enabled && !effective.sandbox.enabled {
        tracing::warn!(
            channels = effective.payment.channels.len(),
            warehouse = effective.warehouse.endpoint,
            "the sandbox is not served beyond this machine: payments and parcels need a channel and a warehouse of your \
             own (or sandbox.exposed = true, for tests)"
        );
    } else if config.payment.channels.len() > effective.payment.channels.len() && config.sandbox.enabled {
        tracing::info!(
            channels = effective.payment.channels.len(),
            "the sandbox takes no payments beside a channel that takes money (but with sandbox.beside_channels = true, \
             for tests)"
        );
    }
    effective
}

/// An error and what caused it.
fn text_of(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

/// Without a broker, events reach only what runs in the same process: a part of the roles would lose the others'.
fn refuse_alone(config: &Config, plan: &Plan) -> Result<(), StartError> {
    let complete = plan.work.consume && Role::ALL.iter().all(|role| plan.roles.contains(role));
    if config.mq.enabled || complete {
        return Ok(());
    }
    let text = "mq.enabled=false: without a broker all roles must be in one process; use `ruyi serve all`, which also \
                retries and times out, or set mq.enabled=true";
    Err(StartError::Other(text.to_owned()))
}

/// The consumers of the roles of `database`, which work on it.
fn consumers(config: &Config, database: &Database, metrics: &Arc<Metrics>) -> Vec<Consumer> {
    let (policy, reader) = (Policy::of(&config.mq.retry), Reader::of(config));
    let consumer = |handler| {
        let consumer = Consumer::new(database.db.clone(), handler, policy.clone(), Arc::clone(metrics));
        consumer.reading(reader.clone())
    };
    handlers(config, &database.roles).into_iter().map(consumer).collect()
}
