//! The system that the demo runs on, in this process or elsewhere: the one place that knows how it is started and audited.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

use super::outside::Outside;
use crate::audit::{self, RoleDbs};
use crate::client::Api;
use crate::cmd::Context;
use crate::config::{ChannelKind, Config, Millis, RoleUrls, SecretUrl};
use crate::db::pace::Pace;
use crate::db::{delivery, migrate, outbox, retry};
use crate::domain::event::Role;
use crate::process::{Plan, Process, Work};

/// The configuration of the demo: everything in `data_dir`, on free ports, with short waits between attempts. Whatever
/// takes long is waited for: the machine may be busy with other work, and that is no failure of anything.
#[must_use]
pub fn config_in(data_dir: &Path, database: Option<&str>, outside: &Outside, context: &Context) -> Config {
    let mut config = context.config.clone();
    outside.configure(&mut config);
    config.data_dir = data_dir.to_owned();
    config.database.url = SecretUrl::from(database.unwrap_or_default());
    let one = || SecretUrl::from("");
    config.database.roles = RoleUrls { order: one(), payment: one(), stock: one(), notify: one() };
    config.mq.embedded.namesrv_port = 0;
    config.mq.embedded.broker_port = 0;
    config.mq.outbox.sweep_interval = Millis::new(500);
    config.mq.retry.schedule = [200, 1_000, 5_000, 30_000].map(Millis::new).to_vec();
    config.mq.retry.max_attempts = ATTEMPTS;
    config.mq.producer.timeout = SLOW;
    config.delivery.schedule = again([200, 1_000, 5_000, 30_000]);
    config.delivery.concurrency = config.delivery.concurrency.max(CALLS);
    config.delivery.per_target = config.delivery.per_target.max(CALLS / 2);
    config.delivery.timeout = SLOW;
    config.delivery.lease = Millis::new(3 * SLOW.ms());
    config.payment.query_after = Millis::new(3_000);
    for (kind, schedule) in
        [("channel_query", again([500, 1_000, 2_000, 5_000, 10_000, 30_000])), ("merchant", again([200, 1_000, 5_000]))]
    {
        let kind = config.delivery.kinds.entry(kind.to_owned()).or_default();
        kind.schedule = Some(schedule);
        kind.timeout = Some(SLOW);
    }
    config.warehouse.endpoint = String::new();
    // Nothing is paid for in earnest, and beside a channel that takes money there is no sandbox.
    config.payment.channels.retain(|_, channel| channel.kind == ChannelKind::Sandbox);
    config.sandbox.enabled = true;
    config.sandbox.warehouse.step_delay = Millis::new(20);
    config.http.all = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    // Loopback only, so no keys; the clients are of this process.
    config.http.keys = Vec::new();
    config.http.rate_limit = 0;
    config.http.request_timeout = SLOW;
    config
}

/// The longest that a slow machine may take for one request, call or send.
const SLOW: Millis = Millis::new(60_000);
/// Outgoing calls at once: the sandboxes of this process are the only targets, and take what comes.
const CALLS: usize = 512;
/// Attempts before something is given up.
const ATTEMPTS: u32 = 20;

/// `waits` between the first attempts, and the last of them between further ones.
fn again<const N: usize>(waits: [i64; N]) -> Vec<Millis> {
    let last = waits.last().copied().unwrap_or_default();
    waits.into_iter().chain(std::iter::repeat(last)).map(Millis::new).take(ATTEMPTS as usize).collect()
}

/// All roles.
pub enum System {
    /// In this process.
    Inside(Box<Process>),
    /// Where `[client]` says; the databases are read for the audit.
    Outside(RoleDbs),
}

impl System {
    /// Starts all roles, the broker and the database in this process.
    ///
    /// # Errors
    /// One of them cannot be started.
    pub async fn start(context: &Context, config: &Config) -> anyhow::Result<Self> {
        for (url, _) in config.databases(&Role::ALL) {
            if !url.expose().starts_with("sqlite:") {
                // A database named for the demo is the demo's to prepare.
                migrate::run(url.expose()).await?;
            }
        }
        let plan = Plan { clock: context.clock.clone(), ..Plan::new(&Role::ALL, Work::SERVE, Some(config.http.all)) };
        Ok(Self::Inside(Box::new(Box::pin(Process::start(config, plan)).await?)))
    }

    /// The roles that run elsewhere already.
    ///
    /// # Errors
    /// A database cannot be opened.
    pub async fn outside(context: &Context) -> anyhow::Result<Self> {
        Ok(Self::Outside(crate::cmd::audit::open(context).await?))
    }

    /// Its HTTP APIs.
    ///
    /// # Errors
    /// `[client]` cannot be used.
    pub fn api(&self, config: &Config, patience: Duration) -> anyhow::Result<Api> {
        Ok(match self {
            Self::Inside(process) => Api::at(process.base_url())?.with_patience(patience),
            Self::Outside(_) => Api::new(&config.client)?.with_patience(patience),
        })
    }

    fn databases(&self) -> anyhow::Result<RoleDbs> {
        Ok(match self {
            Self::Inside(process) => RoleDbs::each(|role| process.db_of(role).cloned().context("a role does not run"))?,
            Self::Outside(dbs) => dbs.clone(),
        })
    }

    /// Messages that are not sent, messages that wait to be tried again, and calls that are not made, of what is due.
    ///
    /// # Errors
    /// The tables cannot be read.
    pub async fn on_its_way(&self) -> anyhow::Result<i64> {
        let mut sum = 0;
        for db in self.databases()?.distinct() {
            let now_ms = db.clock().now_ms();
            let mut conn = db.read().await?;
            sum += outbox::pending(&mut conn, now_ms).await?.0;
            sum += retry::waiting(&mut conn).await?;
            sum += delivery::overdue(&mut conn, now_ms).await?.0;
        }
        Ok(sum)
    }

    /// Audits the tables once, on the running system.
    ///
    /// # Errors
    /// The tables cannot be read.
    pub async fn audit(&self, config: &Config) -> anyhow::Result<Audited> {
        let options = audit::Options {
            settle_ms: 0,
            parcel_bound_ms: config.audit.parcel_bound.ms(),
            zone: config.statistics.zone(),
            bound_ms: BOUND_MS,
            page: config.audit.page,
            evidence: EVIDENCE,
            events_kept_ms: config.retention.sent.ms(),
            data_sync: config.order.data_sync,
        };
        let report = Pace::Tool.run(audit::run(&self.databases()?, &options)).await?;
        Ok(Audited {
            checks: report.checks.len() as u64,
            violations: report.checks.iter().map(|check| check.violations).sum(),
            found: report
                .violations
                .iter()
                .map(|found| format!("{} {}: {}", found.check, found.key, found.evidence))
                .collect(),
        })
    }

    /// Stops what runs in this process, in order.
    pub async fn stop(self) {
        match self {
            Self::Inside(process) => {
                // The audit has judged what it did; what was left behind is in the log.
                let _ = process.stop().await;
            }
            Self::Outside(dbs) => dbs.close().await,
        }
    }
}

/// Every order was waited for, so all of them can be judged, and what is still on its way is stuck.
const BOUND_MS: i64 = 0;
/// Violations shown per check.
const EVIDENCE: usize = 5;

/// What the audit found.
#[derive(Clone, Debug, Serialize)]
pub struct Audited {
    /// Checks made.
    pub checks: u64,
    /// Violations found.
    pub violations: u64,
    /// The first of them, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub found: Vec<String>,
}
