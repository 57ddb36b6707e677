//! An embedded broker with a client of ruyi's beside it, in this process.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ruyi::mq::embedded::{EmbeddedBroker, EmbeddedConfig};
use ruyi::mq::message::{Delay, Incoming, Outgoing};
use ruyi::mq::rocketmq::{GroupConsumer, RocketMq, RocketMqConfig};
use ruyi::mq::runtime::MqRuntime;

pub const DEADLINE: Duration = Duration::from_secs(90);
const WAIT: Duration = Duration::from_millis(200);

/// A broker, if it is the embedded one, and a client at it.
pub struct BrokerBench {
    runtime: MqRuntime,
    broker: Option<EmbeddedBroker>,
    pub mq: RocketMq,
    pub namesrv: String,
    _dir: tempfile::TempDir,
}

impl BrokerBench {
    pub async fn embedded() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = MqRuntime::start("bench").unwrap();
        let config = EmbeddedConfig {
            data_dir: dir.path().to_owned(),
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            namesrv_port: 0,
            broker_port: 0,
            queues_per_topic: 4,
            sync_flush: false,
        };
        let broker = EmbeddedBroker::start(&config, &runtime).await.unwrap();
        let namesrv = broker.namesrv_addr();
        Self::with(runtime, Some(broker), namesrv, dir).await
    }

    /// The client alone, at somebody's cluster.
    pub async fn at(namesrv: String) -> Self {
        Self::with(MqRuntime::start("bench").unwrap(), None, namesrv, tempfile::tempdir().unwrap()).await
    }

    async fn with(runtime: MqRuntime, broker: Option<EmbeddedBroker>, namesrv: String, dir: tempfile::TempDir) -> Self {
        // Idle consumers look again after a second.
        let config = RocketMqConfig { namesrv: namesrv.clone(), long_poll_ms: 1_000, ..RocketMqConfig::default() };
        let mq = RocketMq::connect(config, &runtime).await.unwrap();
        Self { runtime, broker, mq, namesrv, _dir: dir }
    }

    /// `count` messages with the keys `<prefix>-0` and on.
    pub async fn send(&self, topic: &str, prefix: &str, count: usize) {
        let messages: Vec<Outgoing> = (0..count)
            .map(|number| Outgoing {
                topic: topic.to_owned(),
                tag: "A".to_owned(),
                key: format!("{prefix}-{number}"),
                body: format!("{prefix}-{number}").into(),
                properties: Vec::new(),
                delay: Delay::None,
            })
            .collect();
        for result in self.mq.publish(&messages).await {
            result.unwrap();
        }
    }

    /// Waits for `count` messages, and commits them, as a member that follows its group.
    pub async fn take(&self, consumer: &GroupConsumer, count: usize) -> Vec<Incoming> {
        let mut got: Vec<Incoming> = Vec::new();
        let taken = async {
            while got.len() < count {
                let more = consumer.poll(256, WAIT).await;
                let next: Vec<_> = more.iter().map(|message| (message.queue.clone(), message.offset + 1)).collect();
                consumer.commit(&next).await;
                got.extend(more);
            }
        };
        tokio::select! {
            () = taken => {}
            () = consumer.keep_place() => {}
            () = tokio::time::sleep(DEADLINE) => {}
        }
        assert!(got.len() >= count, "{} of {count}", got.len());
        got
    }

    pub async fn stop(self) {
        self.mq.shutdown().await;
        if let Some(broker) = self.broker {
            broker.shutdown().await;
        }
        self.runtime.shutdown(Duration::from_secs(10)).await;
    }
}
