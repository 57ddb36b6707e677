//! The broker of a process: none, an outside cluster, or the one embedded here.

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, TryLockError};
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::{Plan, StartError};
use crate::config::{self, Config};
use crate::domain::event::{Group, Kind};
use crate::http::ReadyCheck;
use crate::mq::broker::Cluster;
use crate::mq::health::{self, Health};
use crate::mq::lanes::Membership;
use crate::mq::local::{self, Local};
use crate::mq::rocketmq::{MqError, RocketMq, RocketMqConfig, Tls};
use crate::mq::runtime::MqRuntime;
use crate::mq::{Broker, Consumer, lanes};
use crate::shutdown::Shutdown;

/// An embedded broker that refuses every message for so long, on a disk with room, will take none any more: its store
/// does not come back from every full disk.
#[cfg(feature = "embedded")]
const HOPELESS: Duration = Duration::from_secs(60);
/// How long the broker's threads may take to end.
const STOP: Duration = Duration::from_secs(10);

/// The broker of a running process.
pub(super) struct Running {
    pub broker: Broker,
    pub namesrv: Option<String>,
    cluster: Option<(RocketMq, MqRuntime)>,
    #[cfg(feature = "embedded")]
    embedded: Option<crate::mq::embedded::EmbeddedBroker>,
    addr_file: Option<std::path::PathBuf>,
}

impl Running {
    /// The embedded broker, where it is here: alive unless only a new process makes it take messages again.
    pub fn is_alive(&self, config: &Config) -> Option<ReadyCheck> {
        #[cfg(feature = "embedded")]
        if let (Some(_), Broker::Cluster(cluster)) = (&self.embedded, &self.broker) {
            let (health, dir) = (Arc::clone(cluster.health()), broker_dir(config));
            let room_since = std::sync::Mutex::<Option<std::time::Instant>>::default();
            return Some(ReadyCheck::new("broker", move || {
                // A store that was full comes back within seconds of the room: only then it is known not to.
                let mut since = room_since.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                *since = crate::mq::embedded::has_room(&dir).then(|| since.unwrap_or_else(std::time::Instant::now));
                let had_room = since.is_some_and(|since| since.elapsed() >= HOPELESS);
                let why = "the embedded broker refuses every message, and its disk has room: start the process again";
                let is_hopeless = had_room && health.refusing_for() >= HOPELESS;
                std::future::ready(if is_hopeless { Err(why.to_owned()) } else { Ok(()) })
            }));
        }
        let _ = config;
        None
    }
}

/// Where the embedded broker keeps its messages, which may be a disk of its own.
#[cfg(feature = "embedded")]
fn broker_dir(config: &Config) -> std::path::PathBuf {
    config.data_dir.join("broker")
}

/// Keeps a second process off the data directory; the lock ends with the process, however it ends.
pub(super) fn lock(config: &Config) -> Result<File, StartError> {
    let dir = config.data_dir.display().to_string();
    let failed = |source| StartError::DataDir { path: dir.clone(), source };
    std::fs::create_dir_all(&config.data_dir).map_err(failed)?;
    let file = File::create(config.data_dir.join("ruyi.lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::Locked(dir)),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Connects consumers to the broker that the configuration names.
pub(super) async fn start(
    config: &Config,
    plan: &Plan,
    consumers: &[Consumer],
    shutdown: &Shutdown,
) -> Result<Running, StartError> {
    if config.mq.enabled {
        start_cluster(config, plan, consumers, shutdown).await
    } else {
        Ok(start_local(config, consumers, shutdown))
    }
}

/// Lanes that are fed from the outbox.
fn local_lanes(config: &Config, consumers: &[Consumer], shutdown: &Shutdown) -> HashMap<Group, local::Lanes> {
    let groups = consumers.iter().map(|consumer| {
        let group = consumer.handler().group();
        let settings = config.consumers.group(group.name());
        (group, lanes::start_local(consumer, settings.lanes, settings.batch, shutdown))
    });
    groups.collect()
}

fn start_local(config: &Config, consumers: &[Consumer], shutdown: &Shutdown) -> Running {
    Running {
        broker: Broker::Local(Local::new(local_lanes(config, consumers, shutdown))),
        namesrv: None,
        cluster: None,
        #[cfg(feature = "embedded")]
        embedded: None,
        addr_file: None,
    }
}

async fn start_cluster(
    config: &Config,
    plan: &Plan,
    consumers: &[Consumer],
    shutdown: &Shutdown,
) -> Result<Running, StartError> {
    let runtime = MqRuntime::start("ruyi-mq")?;
    #[cfg(feature = "embedded")]
    let (mut addr_file, mut embedded) = (None, None);
    #[cfg(not(feature = "embedded"))]
    let addr_file = None;
    let namesrv = if !config.mq.namesrv.is_empty() {
        config.mq.namesrv.clone()
    } else if plan.embed_broker {
        #[cfg(feature = "embedded")]
        {
            let broker = start_embedded(config, &runtime).await?;
            let namesrv = broker.namesrv_addr();
            addr_file = Some(write_addr(config, &namesrv)?);
            embedded = Some(broker);
            namesrv
        }
        #[cfg(not(feature = "embedded"))]
        return Err(StartError::NoBroker(
            "this ruyi was built without the embedded broker: set mq.namesrv to the name servers of a cluster, \
             or mq.enabled=false"
                .to_owned(),
        ));
    } else {
        found_embedded(config)?
    };
    let mq = RocketMq::connect(client_config(config, &namesrv), &runtime).await?;
    let cluster = join(config, mq.clone(), consumers, shutdown).await;
    Ok(Running {
        broker: Broker::Cluster(cluster),
        namesrv: Some(namesrv),
        cluster: Some((mq, runtime)),
        #[cfg(feature = "embedded")]
        embedded,
        addr_file,
    })
}

/// Starts what watches the cluster, consumes from it, and stands in for it. The cluster may be away.
async fn join(config: &Config, mq: RocketMq, consumers: &[Consumer], shutdown: &Shutdown) -> Cluster {
    let topics: Vec<String> = Kind::ALL.iter().map(|kind| kind.name().to_owned()).collect();
    let queues = i32::try_from(config.mq.queues).unwrap_or(4);
    let reachable = mq.is_reachable().await;
    let mut too_early = false;
    if !reachable {
        tracing::warn!("no broker answers: what is to be sent waits");
    } else if let Err(error) = mq.ensure_topics(&topics, queues).await {
        // The cluster may not let us: it then has the topics, or the sends say so.
        too_early = !matches!(error, MqError::Denied { .. });
        tracing::warn!(%error, "topics could not be checked");
    }
    let degrade_after = Duration::from_millis(config.mq.degrade_after.ms().unsigned_abs());
    let health = Arc::new(Health::new(reachable, degrade_after));
    let token = shutdown.token.clone();
    let watching = health::watch_over(Arc::clone(&health), mq.clone(), (topics, queues), too_early, token);
    shutdown.run("broker watch", watching);
    let stand_in = Local::standing_in(local_lanes(config, consumers, shutdown));
    let cluster = Cluster::new(mq, health, stand_in);
    for consumer in consumers {
        let group = consumer.handler().group();
        // Beside its events, what operators send to this group alone.
        let retry = std::iter::once(format!("%RETRY%{}", group.name()));
        let topics: BTreeSet<String> = group.events().map(|kind| kind.name().to_owned()).chain(retry).collect();
        let settings = config.consumers.group(group.name());
        let membership = Membership {
            cluster: cluster.clone(),
            topics: topics.into_iter().collect(),
            lanes: settings.lanes,
            batch: settings.batch,
        };
        lanes::start_cluster(consumer, membership, shutdown);
    }
    cluster
}

/// The address that the process with the embedded broker left behind.
fn found_embedded(config: &Config) -> Result<String, StartError> {
    let file = config.broker_addr_file();
    std::fs::read_to_string(&file).map(|text| text.trim().to_owned()).map_err(|_| {
        StartError::NoBroker(format!(
            "no broker: mq.namesrv is empty, and no `ruyi serve all` or `ruyi mq broker` runs on {} (there is no {}); \
             start one, set mq.namesrv, or set mq.enabled=false",
            config.data_dir.display(),
            file.display()
        ))
    })
}

/// Starts the broker on the data directory.
#[cfg(feature = "embedded")]
async fn start_embedded(
    config: &Config,
    runtime: &MqRuntime,
) -> Result<crate::mq::embedded::EmbeddedBroker, StartError> {
    let settings = &config.mq.embedded;
    let host = settings
        .host
        .parse()
        .map_err(|_| StartError::Other(format!("mq.embedded.host must be an IP address; got {:?}", settings.host)))?;
    let embedded = crate::mq::embedded::EmbeddedConfig {
        data_dir: broker_dir(config),
        host,
        namesrv_port: settings.namesrv_port,
        broker_port: settings.broker_port,
        queues_per_topic: config.mq.queues,
        sync_flush: false,
    };
    Ok(crate::mq::embedded::EmbeddedBroker::start(&embedded, runtime).await?)
}

/// The embedded name server and broker alone, for roles in other processes.
#[cfg(feature = "embedded")]
pub struct BrokerProcess {
    broker: crate::mq::embedded::EmbeddedBroker,
    runtime: MqRuntime,
    addr_file: std::path::PathBuf,
    _lock: File,
}

#[cfg(feature = "embedded")]
impl BrokerProcess {
    /// Starts both on the data directory, and leaves their address there for the others.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        let lock = lock(config)?;
        let runtime = MqRuntime::start("ruyi-mq")?;
        let broker = start_embedded(config, &runtime).await?;
        let addr_file = write_addr(config, &broker.namesrv_addr())?;
        Ok(Self { broker, runtime, addr_file, _lock: lock })
    }

    /// Where its name server is.
    #[must_use]
    pub fn namesrv(&self) -> String {
        self.broker.namesrv_addr()
    }

    /// Stops both.
    pub async fn stop(self) {
        self.broker.shutdown().await;
        self.runtime.shutdown(STOP).await;
        forget_addr(&self.addr_file);
    }
}

#[cfg(feature = "embedded")]
fn write_addr(config: &Config, namesrv: &str) -> Result<std::path::PathBuf, StartError> {
    let file = config.broker_addr_file();
    std::fs::write(&file, namesrv)
        .map_err(|source| StartError::DataDir { path: file.display().to_string(), source })?;
    Ok(file)
}

fn forget_addr(file: &std::path::Path) {
    if let Err(error) = std::fs::remove_file(file) {
        tracing::debug!(%error, file = %file.display(), "not removed");
    }
}

/// How to reach the cluster that the configuration names, or the embedded broker that runs on its data directory.
///
/// # Errors
/// [`StartError::NoBroker`] when it names none and none runs.
pub fn cluster_config(config: &Config) -> Result<RocketMqConfig, StartError> {
    let namesrv = if config.mq.namesrv.is_empty() { found_embedded(config)? } else { config.mq.namesrv.clone() };
    Ok(client_config(config, &namesrv))
}

/// The client's settings.
fn client_config(config: &Config, namesrv: &str) -> RocketMqConfig {
    let mq = &config.mq;
    let access_key = mq.access_key.expose_secret();
    let fits = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    RocketMqConfig {
        namesrv: namesrv.to_owned(),
        brokers: mq.brokers.clone(),
        access_key: (!access_key.is_empty()).then(|| access_key.to_owned()),
        secret_key: (!access_key.is_empty()).then(|| mq.secret_key.clone()),
        namespace: (!mq.namespace.is_empty()).then(|| mq.namespace.clone()),
        tls: mq.tls.then(|| tls(mq)),
        trace: mq.trace,
        send_timeout_ms: fits(mq.producer.timeout.ms().unsigned_abs()),
        retries: mq.producer.retries,
        max_message_bytes: mq.producer.max_message.as_usize(),
        batch_max_messages: mq.producer.batch_messages,
        batch_max_bytes: mq.producer.batch_bytes.as_usize(),
        compress_over_bytes: fits(mq.producer.compress_over.bytes()),
        queues_per_topic: i32::try_from(mq.queues).unwrap_or(4),
        topics: mq.topics.clone().into_iter().collect(),
        ..RocketMqConfig::default()
    }
}

fn tls(mq: &config::Mq) -> Tls {
    let file = |path: &std::path::Path| (!path.as_os_str().is_empty()).then(|| path.to_owned());
    Tls { ca: file(&mq.tls_ca), identity: file(&mq.tls_cert).zip(file(&mq.tls_key)), verify: mq.tls_verify }
}

impl Running {
    /// Stops what was started here.
    pub async fn stop(self) {
        if let Some((cluster, runtime)) = self.cluster {
            cluster.shutdown().await;
            #[cfg(feature = "embedded")]
            if let Some(embedded) = self.embedded {
                embedded.shutdown().await;
            }
            runtime.shutdown(STOP).await;
        }
        if let Some(file) = self.addr_file {
            forget_addr(&file);
        }
    }
}
