//! What brokers say of themselves.

use std::collections::BTreeMap;

use rocketmq_client_rust::{BrokerAdmin, ConsumerAdmin};
use rocketmq_protocol::protocol::heartbeat::message_model::MessageModel;

use crate::mq::rocketmq::{MqError, RocketMq};

impl RocketMq {
    /// The name on the brokers of a topic or group of the catalogue: as configured, with its namespace.
    #[must_use]
    pub fn on_brokers(&self, name: &str) -> String {
        self.with_namespace(self.shared.names.physical(name))
    }

    /// The settings of the broker at `addr`, by name.
    ///
    /// # Errors
    /// [`MqError`] when it does not answer, or does not tell.
    pub async fn broker_settings(&self, addr: &str) -> Result<BTreeMap<String, String>, MqError> {
        let told =
            self.ask("read the broker's settings", async |admin| admin.get_broker_config(addr.into()).await).await?;
        Ok(told.into_iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    /// The figures of the broker at `addr`, by name.
    ///
    /// # Errors
    /// [`MqError`] when it does not answer, or does not tell.
    pub async fn broker_figures(&self, addr: &str) -> Result<BTreeMap<String, String>, MqError> {
        let told = self
            .ask("read the broker's figures", async |admin| admin.fetch_broker_runtime_stats(addr.into()).await)
            .await?;
        Ok(told.table.into_iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    /// True when each member of a group has every queue to itself, as far as the brokers know.
    ///
    /// # Errors
    /// [`MqError`] when no broker is there.
    pub async fn broadcasts(&self, group: &str) -> Result<bool, MqError> {
        for addr in self.master_addrs().await?.into_values() {
            let asked = self
                .ask("ask how a group consumes", async |admin| {
                    admin.examine_consumer_connection_info(group.into(), Some(addr.as_str().into())).await
                })
                .await;
            if let Ok(connections) = asked {
                return Ok(connections.get_message_model() == Some(MessageModel::Broadcasting));
            }
        }
        Ok(false)
    }
}
