//! The databases of a process: each one once, with the roles that share it.

use std::time::{Duration, Instant};

use super::{Plan, StartError, lease};
use crate::config::{Config, SecretUrl};
use crate::db::{self, Db, migrate, node};
use crate::domain::event::{Kind, Role};
use crate::shutdown::Shutdown;

/// How often a server that is not there is looked for, and how often that is told.
const LOOK: Duration = Duration::from_millis(500);
const TELL: Duration = Duration::from_secs(10);

/// A database, and the roles of this process that have their tables in it.
pub(super) struct Database {
    pub roles: Vec<Role>,
    pub db: Db,
    owner: String,
}

/// Opens the databases of the plan's roles, and takes a node number in each.
pub(super) async fn open(config: &Config, plan: &Plan, shutdown: &Shutdown) -> Result<Vec<Database>, StartError> {
    let mut all = Vec::new();
    for (url, roles) in config.databases(&plan.roles) {
        let (owner, first) = (lease::owner(plan.clock.now_ms()), lease::first_number(&roles));
        let db = open_when_there(config, plan, &url, (&owner, first)).await?;
        // It ends first: what is left of the lease then is longer than a stop may take.
        shutdown.run("node lease", lease::keep(db.clone(), owner.clone(), first, shutdown.token.clone()));
        all.push(Database { roles, db, owner });
    }
    Ok(all)
}

/// Opens a database and takes a node number in it. A server that is not there is waited for, as a broker is: roles and
/// servers may start in any order.
async fn open_when_there(
    config: &Config,
    plan: &Plan,
    url: &SecretUrl,
    (owner, first): (&str, i64),
) -> Result<Db, StartError> {
    let (started, limit) = (Instant::now(), config.database.wait.duration());
    let mut told: Option<Instant> = None;
    loop {
        let opened = async {
            let db = open_one(config, plan, url.expose()).await?;
            node::lease(&db, owner, first).await?;
            Ok::<_, StartError>(db)
        };
        let error = match opened.await {
            Err(StartError::Db(error)) if error.is_absence() && url.scheme() != Some("sqlite") => error,
            done => return done,
        };
        let waited = started.elapsed();
        if waited >= limit {
            return Err(StartError::NoDatabase { shown: url.masked(), waited, source: error });
        }
        if told.is_none_or(|at| at.elapsed() >= TELL) {
            told = Some(Instant::now());
            let left_s = (limit - waited).as_secs();
            tracing::warn!(database = url.masked(), %error, left_s, "the database is not there: waiting for it");
        }
        tokio::time::sleep(LOOK.min(limit - waited)).await;
    }
}

/// SQLite is migrated by whoever starts; a server's schema is changed on purpose only.
async fn open_one(config: &Config, plan: &Plan, url: &str) -> Result<Db, StartError> {
    if url.starts_with("sqlite:") {
        std::fs::create_dir_all(&config.data_dir)
            .map_err(|source| StartError::DataDir { path: config.data_dir.display().to_string(), source })?;
        migrate::run(url).await?;
    } else {
        let missing = migrate::pending(url).await?.len();
        if missing > 0 {
            return Err(StartError::NotMigrated(missing));
        }
    }
    let options = db::Options {
        url: url.to_owned(),
        max_connections: config.database.max_connections,
        clock: plan.clock.clone(),
        faults: plan.faults.clone(),
    };
    let db = Db::open(&options).await?;
    db.follow_server().await?;
    if let Some(webhook) = config.alerts.webhook() {
        db.alert_by(webhook);
    }
    db.limit_messages(config.mq.producer.max_message.as_usize());
    if !config.order.data_sync {
        db.leave_out(&[Kind::OrderDataSync]);
    }
    Ok(db)
}

impl Database {
    /// Gives the node number back and closes the database.
    pub async fn close(self) {
        if let Err(error) = node::release(&self.db, &self.owner).await {
            tracing::debug!(%error, "the node number is given back by time");
        }
        self.db.close().await;
    }
}
