//! RocketMQ's client as ruyi uses it, against the embedded broker and against Apache RocketMQ.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ruyi::mq::embedded::{EmbeddedBroker, EmbeddedConfig};
use ruyi::mq::message::{Delay, Incoming, Outgoing, QueueId};
use ruyi::mq::rocketmq::{GroupConsumer, RocketMq, RocketMqConfig};
use ruyi::mq::runtime::MqRuntime;

use crate::support::servers::rocketmq::Cluster;
use crate::support::servers::unique;

/// Far more than anything here takes: only a hang reaches it.
pub const DEADLINE: Duration = Duration::from_secs(60);

pub const WAIT: Duration = Duration::from_millis(200);

/// The broker of a test.
pub enum EitherBroker {
    /// One of its own, with this directory.
    Embedded(tempfile::TempDir),
    /// The shared one: names on it are made unique.
    Apache(Arc<Cluster>),
}

impl EitherBroker {
    /// A topic or group that nobody else uses.
    pub fn name(&self, name: &str) -> String {
        match self {
            Self::Embedded(_) => name.to_owned(),
            Self::Apache(_) => unique(name),
        }
    }

    pub async fn bench(self, change: impl FnOnce(&mut RocketMqConfig)) -> ClientBench {
        match self {
            Self::Embedded(dir) => {
                let bench = ClientBench::start_on(&embedded(dir.path()), change).await;
                ClientBench { _dir: Some(dir), ..bench }
            }
            Self::Apache(apache) => ClientBench::connect(runtime(), None, apache.namesrv(), change).await,
        }
    }
}

/// A client and, if it is the embedded one, its broker, in one process on their own ports.
pub struct ClientBench {
    pub runtime: MqRuntime,
    pub broker: Option<EmbeddedBroker>,
    pub mq: RocketMq,
    _dir: Option<tempfile::TempDir>,
}

pub fn runtime() -> MqRuntime {
    // RUST_LOG shows what the broker says.
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    MqRuntime::start("mq-test").unwrap()
}

pub fn embedded(dir: &Path) -> EmbeddedConfig {
    EmbeddedConfig {
        data_dir: dir.to_owned(),
        host: IpAddr::V4(Ipv4Addr::LOCALHOST),
        namesrv_port: 0,
        broker_port: 0,
        queues_per_topic: 4,
        sync_flush: false,
    }
}

/// What it takes to start a stopped broker again where its clients look for it.
pub fn on_ports_of(broker: &EmbeddedBroker, dir: &Path) -> EmbeddedConfig {
    let namesrv: SocketAddr = broker.namesrv_addr().parse().unwrap();
    EmbeddedConfig { namesrv_port: namesrv.port(), broker_port: broker.broker_addr().port(), ..embedded(dir) }
}

pub fn client(namesrv: String) -> RocketMqConfig {
    RocketMqConfig { namesrv, ..RocketMqConfig::default() }
}

impl ClientBench {
    pub async fn start(dir: &Path) -> Self {
        Self::start_on(&embedded(dir), |_| ()).await
    }

    pub async fn start_on(embedded: &EmbeddedConfig, change: impl FnOnce(&mut RocketMqConfig)) -> Self {
        let runtime = runtime();
        let broker = EmbeddedBroker::start(embedded, &runtime).await.unwrap();
        let namesrv = broker.namesrv_addr();
        Self::connect(runtime, Some(broker), namesrv, change).await
    }

    pub async fn connect(
        runtime: MqRuntime,
        broker: Option<EmbeddedBroker>,
        namesrv: String,
        change: impl FnOnce(&mut RocketMqConfig),
    ) -> Self {
        let mut config = client(namesrv);
        change(&mut config);
        let mq = RocketMq::connect(config, &runtime).await.unwrap();
        Self { runtime, broker, mq, _dir: None }
    }

    pub async fn stop(self) {
        self.mq.shutdown().await;
        if let Some(broker) = self.broker {
            broker.shutdown().await;
        }
        self.runtime.shutdown(Duration::from_secs(10)).await;
    }

    pub async fn topics(&self, topics: &[&str]) -> Vec<String> {
        let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
        self.mq.ensure_topics(&topics, 4).await.unwrap();
        topics
    }

    pub async fn send(&self, batch: &[Outgoing]) {
        for result in self.mq.publish(batch).await {
            result.unwrap();
        }
    }
}

pub fn message(topic: &str, key: &str, body: &str) -> Outgoing {
    Outgoing {
        topic: topic.to_owned(),
        tag: topic.to_owned(),
        key: key.to_owned(),
        body: body.to_owned().into(),
        properties: vec![(String::from("eventId"), format!("{key}:{}", body.len()))],
        delay: Delay::None,
    }
}

pub fn numbered(topic: &str, keys: usize, each: usize) -> Vec<Outgoing> {
    (0..each).flat_map(|n| (0..keys).map(move |key| message(topic, &format!("k{key}"), &n.to_string()))).collect()
}

/// Polls until `count` messages are there.
pub async fn collect(consumer: &GroupConsumer, count: usize) -> Vec<Incoming> {
    let started = Instant::now();
    let mut all = Vec::new();
    while all.len() < count {
        assert!(started.elapsed() < DEADLINE, "{} of {count} messages came", all.len());
        all.extend(consumer.poll(256, WAIT).await);
    }
    all
}

/// The offsets to commit after `messages`.
pub fn next_offsets(messages: &[Incoming]) -> Vec<(QueueId, i64)> {
    let mut next: HashMap<QueueId, i64> = HashMap::new();
    for message in messages {
        let offset = next.entry(message.queue.clone()).or_default();
        *offset = (*offset).max(message.offset + 1);
    }
    next.into_iter().collect()
}

pub fn assert_ordered_per_key(messages: &[Incoming], keys: usize, each: usize) {
    let mut seen: HashMap<(&str, &str), Vec<usize>> = HashMap::new();
    for message in messages {
        let number = std::str::from_utf8(&message.body).unwrap().parse().unwrap();
        seen.entry((&message.queue.topic, &message.key)).or_default().push(number);
    }
    for (key, numbers) in &seen {
        assert!(numbers.iter().copied().eq(0..each), "{key:?}: {numbers:?}");
    }
    assert_eq!(seen.len(), keys);
}

pub fn bodies(messages: &[Incoming]) -> HashSet<(String, String)> {
    messages.iter().map(|m| (m.key.clone(), String::from_utf8(m.body.to_vec()).unwrap())).collect()
}
