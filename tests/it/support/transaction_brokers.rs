//! Brokers for transaction messages.

use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::support::servers::rocketmq::{Cluster, ClusterPlan};

/// Apache RocketMQ that asks soon, and does not give up asking while a process is started again.
pub async fn apache() -> Option<Arc<Cluster>> {
    static SHARED: OnceCell<Option<Arc<Cluster>>> = OnceCell::const_new();
    // What was decided it notes within the last interval; until then it would still ask.
    let lines = "transactionTimeOut=2000\ntransactionCheckInterval=1000\ntransactionCheckMax=1000\n\
                 transactionOpBatchInterval=500\n";
    let plan = ClusterPlan::default().broker_conf(lines);
    SHARED.get_or_init(|| async { Cluster::start(plan).await.map(Arc::new) }).await.clone()
}

/// A broker that lives through the crashes of its clients.
#[cfg(feature = "embedded")]
pub struct LongLivedBroker {
    pub broker: ruyi::mq::embedded::EmbeddedBroker,
    runtime: ruyi::mq::runtime::MqRuntime,
    _dir: tempfile::TempDir,
}

#[cfg(feature = "embedded")]
impl LongLivedBroker {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = ruyi::mq::runtime::MqRuntime::start("broker").unwrap();
        let broker = Self::broker(dir.path(), &runtime, 0, 0).await;
        Self { broker, runtime, _dir: dir }
    }

    async fn broker(
        dir: &std::path::Path,
        runtime: &ruyi::mq::runtime::MqRuntime,
        namesrv_port: u16,
        broker_port: u16,
    ) -> ruyi::mq::embedded::EmbeddedBroker {
        let config = ruyi::mq::embedded::EmbeddedConfig {
            data_dir: dir.to_owned(),
            host: std::net::Ipv4Addr::LOCALHOST.into(),
            namesrv_port,
            broker_port,
            queues_per_topic: 4,
            sync_flush: false,
        };
        ruyi::mq::embedded::EmbeddedBroker::start(&config, runtime).await.unwrap()
    }

    /// Stops it, and starts it again where it was after `meanwhile`.
    pub async fn away_during(mut self, meanwhile: impl Future<Output = ()>) -> Self {
        let namesrv: std::net::SocketAddr = self.namesrv().parse().unwrap();
        let port = self.broker.broker_addr().port();
        self.broker.shutdown().await;
        meanwhile.await;
        self.broker = Self::broker(self._dir.path(), &self.runtime, namesrv.port(), port).await;
        self
    }

    pub fn namesrv(&self) -> String {
        self.broker.namesrv_addr()
    }

    pub async fn stop(self) {
        self.broker.shutdown().await;
        self.runtime.shutdown(std::time::Duration::from_secs(10)).await;
    }
}
