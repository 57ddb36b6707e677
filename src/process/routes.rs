//! What a process answers over HTTP.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use utoipa_axum::router::OpenApiRouter;

use super::databases::Database;
use super::wiring::effects;
use super::{Plan, StartError, gauges, standing};
use crate::config::Config;
use crate::db::Db;
use crate::delivery::{Providers, Targets};
use crate::domain::event::Role;
use crate::http::{App, Auth, Limits, ReadyCheck};
use crate::mq::Broker;
use crate::mq::health::Reach;
use crate::roles::payment::transaction::Publish;
use crate::roles::search::{self, View};
use crate::roles::{deliveries, messages, notify, order, payment, sandbox, stock};
use crate::shutdown::Shutdown;
use crate::telemetry::Metrics;

/// A database that has not answered for so long does not. It is less than a check of `/readyz` may take, so that the
/// answer says whose database it is.
const ANSWER: Duration = Duration::from_millis(1_800);

/// The routes of the plan's roles (where it serves them), probes and metrics.
pub(super) fn app(
    config: &Config,
    plan: &Plan,
    databases: &[Database],
    targets: &Targets,
    metrics: Arc<Metrics>,
    publish: &Publish,
    shutdown: &Shutdown,
) -> Result<App, StartError> {
    let names: Vec<&str> = plan.roles.iter().map(|role| role.name()).collect();
    let cache = databases.first().and_then(|database| database.db.cache());
    let rate = cache.and_then(|cache| cache.rate(&names.join("+"), config.http.rate_limit));
    let auth = Auth::new(&config.http, rate.as_ref()).map_err(|error| StartError::Other(error.to_string()))?;
    let mut api = OpenApiRouter::new();
    if plan.work.api {
        let view = view(config, databases);
        for database in databases {
            api = api.merge(of_database(config, database, targets, &auth, publish, shutdown, view.as_ref()));
        }
        if let Some(view) = view.filter(|_| !plan.roles.contains(&Role::Order)) {
            api = api.merge(search::router(view, &auth));
        }
        let all = databases.iter().map(|database| database.db.clone()).collect();
        api = api.merge(messages::router(all, &auth));
    }
    if plan.work.api {
        let databases = databases.iter().map(|database| (database.db.clone(), database.roles.clone())).collect();
        let providers = Providers::of(config);
        let state = deliveries::State { databases, effects: effects(config), providers };
        api = api.merge(deliveries::router(state, &auth));
    }
    Ok(App {
        title: format!("ruyi {}", names.join(", ")),
        api,
        checks: vec![
            databases_answer(databases),
            standing::parts_go_forward(standing::watchdogs(databases)),
            clocks_tell(databases),
        ],
        live: vec![standing::what_is_begun_ends(standing::watchdogs(databases))],
        metrics,
        scale: None,
        limits: Limits::from(&config.http),
    })
}

/// The view of orders that is searched, where the process has it.
fn view(config: &Config, databases: &[Database]) -> Option<View> {
    let found = databases.iter().find(|database| database.roles.contains(&Role::Notify))?;
    Some(View { db: found.db.clone(), fed: config.order.data_sync })
}

fn of_database(
    config: &Config,
    database: &Database,
    targets: &Targets,
    auth: &Auth,
    publish: &Publish,
    shutdown: &Shutdown,
    view: Option<&View>,
) -> OpenApiRouter {
    let db = &database.db;
    let (sandbox, writer) = sandbox::Sandbox::new(db, config, targets.clone());
    if config.sandbox.enabled {
        shutdown.run("writer", writer);
    }
    let mut api = OpenApiRouter::new();
    for role in &database.roles {
        api = match role {
            Role::Order => {
                let (state, writers) = order::api::State::new(db, config);
                let state = state.with_view(view.cloned());
                for writer in writers {
                    shutdown.run("writer", writer);
                }
                if let Some(gate) = state.gate() {
                    shutdown.run("hot SKUs", gate.run(shutdown.token.clone()));
                }
                let api = api.merge(order::api::router(state, auth));
                if config.sandbox.enabled { api.merge(sandbox::warehouse_router(sandbox.clone())) } else { api }
            }
            Role::Payment => {
                let (state, writers) = payment::api::State::new(db, config, targets, publish.clone());
                for writer in writers {
                    shutdown.run("writer", writer);
                }
                let api = api.merge(payment::api::router(state, auth));
                if config.sandbox.enabled { api.merge(sandbox::channel_router(sandbox.clone(), auth)) } else { api }
            }
            Role::Stock => api.merge(stock::api::router(db.clone(), auth)),
            Role::Notify => api.merge(notify::api::router(db.clone(), targets, auth)),
        };
    }
    api
}

/// Orders are taken without a broker too, so this process stays ready: it only tells.
pub(super) fn broker_tells(broker: &Broker) -> ReadyCheck {
    let broker = broker.clone();
    ReadyCheck::telling("broker", move || {
        let told = match (&broker, broker.state().reach) {
            (Broker::Local(_), _) => "none: events go straight to the handlers of this process",
            (_, Reach::Up) => "ok",
            (_, Reach::Refusing) => "refuses every message: what is to be sent waits in the outbox",
            (_, Reach::Away) => "away: what is to be sent waits in the outbox",
            (_, Reach::Degraded) => "away: degraded, the handlers of this process are fed from the outbox",
        };
        told.to_owned()
    })
}

/// The time of the database counts, so a process on a machine whose clock is wrong works as well: it only tells.
fn clocks_tell(databases: &[Database]) -> ReadyCheck {
    let dbs: Vec<_> = databases.iter().map(|database| database.db.clone()).collect();
    ReadyCheck::telling("clock", move || match gauges::skew_ms(&dbs) {
        0 => "ok".to_owned(),
        skew_ms => format!("the machine's clock is off by {} s: the time of the database counts", -skew_ms / 1_000),
    })
}

/// Ready when every database answers, and what is to be written is written; otherwise whose do not.
fn databases_answer(databases: &[Database]) -> ReadyCheck {
    let checked: Arc<Vec<_>> =
        Arc::new(databases.iter().map(|database| (database.roles.clone(), database.db.clone())).collect());
    ReadyCheck::new("database", move || {
        let checked = Arc::clone(&checked);
        async move {
            let wrong = whose_do_not(&checked).await;
            if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
        }
    })
}

/// Whose databases do not answer, or are not written to, and why. They are asked at the same time, so that one that
/// hangs does not hide another.
async fn whose_do_not(databases: &[(Vec<Role>, Db)]) -> Vec<String> {
    let asked = databases.iter().map(|(roles, db)| async move {
        let wrong = what_is_wrong(db).await?;
        let names: Vec<&str> = roles.iter().map(|role| role.name()).collect();
        Some(format!("{}: {wrong}", names.join(", ")))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

async fn what_is_wrong(db: &Db) -> Option<String> {
    match tokio::time::timeout(ANSWER, db.ping()).await {
        Ok(Ok(())) => db.writes_fail(),
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("the database has not answered for {:.1} s", ANSWER.as_secs_f32())),
    }
}
