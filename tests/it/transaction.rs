//! PAYMENT_SUCCESS as a transaction message.

mod broker;
mod crash;
mod local;

/// A broker that lives through the crashes of its clients.
#[cfg(feature = "embedded")]
struct Embedded {
    broker: ruyi::mq::embedded::EmbeddedBroker,
    runtime: ruyi::mq::runtime::MqRuntime,
    _dir: tempfile::TempDir,
}

#[cfg(feature = "embedded")]
impl Embedded {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = ruyi::mq::runtime::MqRuntime::start("broker").unwrap();
        let config = ruyi::mq::embedded::EmbeddedConfig {
            data_dir: dir.path().to_owned(),
            host: std::net::Ipv4Addr::LOCALHOST.into(),
            namesrv_port: 0,
            broker_port: 0,
            queues_per_topic: 4,
            sync_flush: false,
        };
        let broker = ruyi::mq::embedded::EmbeddedBroker::start(&config, &runtime).await.unwrap();
        Self { broker, runtime, _dir: dir }
    }

    fn namesrv(&self) -> String {
        self.broker.namesrv_addr()
    }

    async fn stop(self) {
        self.broker.shutdown().await;
        self.runtime.shutdown(std::time::Duration::from_secs(10)).await;
    }
}
