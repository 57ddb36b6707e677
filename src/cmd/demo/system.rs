//! The embedded system that the demo runs on: the one place that knows how it is started and audited.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::bail;
use serde::Serialize;

use crate::cmd::Context;
use crate::config::{Config, Millis, SecretUrl};

/// The configuration of the demo: everything in `data_dir`, on free ports, with short waits.
#[must_use]
pub fn config_in(data_dir: &Path, database: Option<&str>, context: &Context) -> Config {
    let mut config = context.config.clone();
    config.data_dir = data_dir.to_owned();
    config.database.url = SecretUrl::from(database.unwrap_or_default());
    config.mq.embedded.namesrv_port = 0;
    config.mq.embedded.broker_port = 0;
    config.mq.outbox.sweep_interval = Millis::new(500);
    config.mq.retry.schedule = [200, 1_000, 5_000, 30_000].map(Millis::new).to_vec();
    config.delivery.schedule = [200, 1_000, 5_000, 30_000].map(Millis::new).to_vec();
    config.warehouse.endpoint = String::new();
    config.sandbox.enabled = true;
    config.sandbox.warehouse.step_delay = Millis::new(20);
    config.http.all = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    // Loopback only, so no keys; the clients are of this process.
    config.http.keys = Vec::new();
    config.http.rate_limit = 0;
    // Every order has been waited for: all of them can be judged.
    config.audit.settle = Millis::new(0);
    config
}

/// All roles in this process.
#[derive(Debug)]
pub struct System {
    base_url: String,
}

impl System {
    /// Starts all roles, the broker and the database.
    ///
    /// # Errors
    /// One of them cannot be started.
    pub async fn start(_context: &Context, _config: Config) -> anyhow::Result<Self> {
        // INTEGRATION: `crate::cmd::serve::start_all(context, config).await?`, kept in `self`.
        bail!("this build has no `ruyi serve all` yet, which the demo runs on")
    }

    /// Where the roles listen.
    #[must_use]
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// Stops everything in order.
    ///
    /// # Errors
    /// It did not stop cleanly.
    pub async fn stop(self) -> anyhow::Result<()> {
        // INTEGRATION: `running.stop().await`.
        Ok(())
    }
}

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

/// Audits the tables once. `None`: this build has no audit.
///
/// # Errors
/// The tables cannot be read.
pub async fn audit(_context: &Context, _config: &Config) -> anyhow::Result<Option<Audited>> {
    // INTEGRATION: `crate::audit::run` on `config.database_url()` → `Audited`. The caller repeats it while there are
    // violations, for effects that trail the end of an order (points, notifications).
    Ok(None)
}
