//! The background work of a process on one of its databases: one line per loop.

use std::sync::Arc;

use super::databases::Database;
use super::wiring::{calls, effects};
use super::{Plan, StartError};
use crate::config::Config;
use crate::db::delivery::Kind as Call;
use crate::delivery::{Engine, EngineConfig, Targets};
use crate::domain::event::Role;
use crate::mq::relay::Relay;
use crate::mq::retry::RetryLane;
use crate::mq::sweep::Sweep;
use crate::mq::{Broker, Consumer};
use crate::roles::order::timeout::Timeouts;
use crate::roles::payment::channels::Channels;
use crate::roles::payment::unasked::Unasked;
use crate::roles::stock::sync::StockSync;
use crate::shutdown::Shutdown;
use crate::telemetry::Metrics;

/// What all databases of a process share.
pub(super) struct Shared<'a> {
    pub config: &'a Config,
    pub plan: &'a Plan,
    pub broker: &'a Broker,
    pub targets: &'a Targets,
    pub metrics: &'a Arc<Metrics>,
    pub shutdown: &'a Shutdown,
}

/// Starts what the plan asks for on `database`; `consumers` are those of its roles.
pub(super) fn start(shared: &Shared<'_>, database: &Database, consumers: Vec<Consumer>) -> Result<(), StartError> {
    let Shared { config, plan, shutdown, .. } = shared;
    let (db, token) = (&database.db, &shutdown.token);
    // Whatever writes here may write events: they leave with this process, and those left behind with the sweep.
    let relay = Relay::new(db.clone(), shared.broker.clone(), Arc::clone(shared.metrics));
    relay.start(config.mq.outbox.shards as usize, config.mq.outbox.memory_limit, shutdown);
    shutdown.run("outbox sweep", Sweep::new(relay, &config.mq.outbox).run(token.clone()));
    if plan.work.retry {
        for consumer in consumers {
            shutdown.run("retry lane", RetryLane::new(consumer).run(token.clone()));
        }
    }
    if plan.work.timeouts && database.roles.contains(&Role::Order) {
        shutdown.run("timeouts", Timeouts::new(db.clone(), config).run(token.clone()));
    }
    let channels = Channels::of(config);
    if plan.work.deliveries && channels.query_after_ms().is_some() && database.roles.contains(&Role::Payment) {
        shutdown.run("channel queries", Unasked::new(db.clone(), channels).run(token.clone()));
    }
    if plan.work.consume && database.roles.contains(&Role::Stock) {
        shutdown.run("stock sync", StockSync::new(db.clone(), config.stock.sync_interval.ms()).run(token.clone()));
    }
    deliveries(shared, database)
}

fn deliveries(shared: &Shared<'_>, database: &Database) -> Result<(), StartError> {
    let mut kinds = if shared.plan.work.deliveries { calls(&database.roles) } else { Vec::new() };
    // Whoever can find a reason for an alert sends it: nobody else may be there.
    if shared.config.alerts.webhook().is_some() {
        kinds.push(Call::Alert);
    }
    if kinds.is_empty() {
        return Ok(());
    }
    let config = EngineConfig::new(&shared.config.delivery, &kinds);
    let (db, targets) = (database.db.clone(), shared.targets.clone());
    let engine = Engine::new(db, config, targets, effects(shared.config), Arc::clone(shared.metrics))
        .map_err(|error| StartError::Other(error.to_string()))?;
    shared.shutdown.run("deliveries", engine.run(shared.shutdown.token.clone()));
    Ok(())
}
