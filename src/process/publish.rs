//! How a process publishes successful payments.

use std::sync::Arc;

use super::databases::Database;
use super::{Plan, StartError};
use crate::config::{Config, PublishVia};
use crate::domain::event::Role;
use crate::mq::Broker;
use crate::roles::payment::transaction::{Publish, Transactional};
use crate::telemetry::Metrics;

/// Joins the producer group of the payment role where it sends transaction messages: check-backs, also those about
/// other processes' messages, are answered from here on.
pub(super) async fn start(
    config: &Config,
    plan: &Plan,
    databases: &[Database],
    broker: &Broker,
    metrics: &Arc<Metrics>,
) -> Result<Publish, StartError> {
    let database = databases.iter().find(|database| database.roles.contains(&Role::Payment));
    match (broker, database) {
        (Broker::Cluster(cluster), Some(database))
            if plan.work.api && config.payment.publish == PublishVia::Transaction =>
        {
            Ok(Publish::Transaction(Transactional::join(cluster, &database.db, Arc::clone(metrics)).await?))
        }
        _ => Ok(Publish::Outbox),
    }
}

/// Leaves the producer group.
pub(super) async fn stop(publish: &Publish) {
    if let Publish::Transaction(payments) = publish {
        payments.shutdown().await;
    }
}
