//! Threads for the RocketMQ client and the embedded broker.
//!
//! The crates below want a runtime that they can account for and drain, so they get their own; the caller's Tokio
//! runtime stays an ordinary one (`#[tokio::main]`, `#[tokio::test]`).

use std::time::Duration;

use rocketmq_runtime::{ChildServiceContext, RuntimeConfig, RuntimeOwner, ShutdownDeadline};

use super::rocketmq::MqError;

/// Owns the threads on which RocketMQ clients and the embedded broker run. Make one per process, before the first
/// connection, and shut it down last.
pub struct MqRuntime {
    owner: RuntimeOwner,
}

impl MqRuntime {
    /// Starts the threads; `name` is their prefix.
    ///
    /// # Errors
    /// [`MqError::Runtime`] when the process may not start threads.
    pub fn start(name: &str) -> Result<Self, MqError> {
        let config = RuntimeConfig { thread_name: name.to_owned(), ..RuntimeConfig::broker_default() };
        let owner = RuntimeOwner::plan(config)
            .map_err(|error| MqError::Runtime(error.to_string()))?
            .build()
            .map_err(|error| MqError::Runtime(error.to_string()))?;
        Ok(Self { owner })
    }

    /// A named scope for one client or server.
    pub(crate) fn component(&self, scope: &'static str) -> ChildServiceContext {
        self.owner.root_context().component(scope)
    }

    /// Stops what is left on the threads, at most `timeout` long, and lets go of them.
    pub async fn shutdown(self, timeout: Duration) {
        let report = self.owner.shutdown_tasks_until(ShutdownDeadline::after(timeout)).await;
        if !report.is_healthy() {
            tracing::debug!(report = %report.to_json(), "messaging threads did not drain in time");
        }
        self.owner.shutdown_background();
    }
}
