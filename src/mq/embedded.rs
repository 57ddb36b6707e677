//! A name server and a broker inside the process, for running ruyi with nothing installed. They listen on real ports,
//! so that other processes reach them as they would a cluster.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rocketmq_broker::config::broker_config::BrokerConfig;
use rocketmq_broker::config::validated::ValidatedBrokerConfig;
use rocketmq_broker::{BrokerBootstrap, Running};
use rocketmq_model::common::mq_version::CURRENT_VERSION;
use rocketmq_namesrv::NamesrvConfig;
use rocketmq_observability::TelemetryRuntimeGuard;
use rocketmq_protocol::protocol::remoting_command_facade::initialize_remoting_defaults;
use rocketmq_store::{FlushDiskType, MessageStoreConfig};
use rocketmq_transport::api::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::rocketmq::MqError;
use super::runtime::MqRuntime;

const BROKER_NAME: &str = "ruyi";
const CLUSTER_NAME: &str = "ruyi";
/// How long either server may take to start or to stop.
const LIFECYCLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Starts with chosen free ports are repeated when somebody else takes a port first.
const START_ATTEMPTS: usize = 4;
/// Files are preallocated: these sizes keep the directory small. Messages are bounded to a quarter of the first.
const COMMIT_LOG_FILE_BYTES: usize = 64 << 20;
const CONSUME_QUEUE_ENTRIES: usize = 20_000;
const CONSUME_QUEUE_ENTRY_BYTES: usize = 20;
const INDEX_SLOTS: u32 = 100_000;
const INDEX_ENTRIES: u32 = 400_000;
/// Consumed or not, messages are kept this long.
const RETENTION_HOURS: usize = 7 * 24;

/// Where the embedded broker lives.
#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    /// Everything is kept below it; made when missing. The caller holds its lock file.
    pub data_dir: PathBuf,
    /// Address to listen on and to be reached at.
    pub host: IpAddr,
    /// Name server; 0 = a free one.
    pub namesrv_port: u16,
    /// Broker; 0 = a free one. It also listens on the port two below (fast remoting) and one above (replication).
    pub broker_port: u16,
    /// Queues of a topic that is created by being used.
    pub queues_per_topic: u32,
    /// Answer a send only after its fsync.
    pub sync_flush: bool,
}

/// A running name server and broker. Shut it down; dropping it leaves them to the runtime.
pub struct EmbeddedBroker {
    broker: BrokerBootstrap<Running>,
    namesrv: NameServer,
    broker_addr: SocketAddr,
}

struct NameServer {
    addr: SocketAddr,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<(), String>>,
}

impl EmbeddedBroker {
    /// Starts both servers on what `data_dir` holds; after an unclean stop the log is recovered first.
    ///
    /// # Errors
    /// [`MqError::Runtime`] when a port is taken or the directory can not be used, [`MqError::Config`] for settings
    /// that the broker refuses.
    pub async fn start(config: &EmbeddedConfig, runtime: &MqRuntime) -> Result<Self, MqError> {
        // Set once per process; a second broker finds the same value.
        initialize_remoting_defaults(CURRENT_VERSION as i32).map_err(runtime_error)?;
        std::fs::create_dir_all(&config.data_dir).map_err(runtime_error)?;
        let mut attempt = 1;
        loop {
            match Self::start_once(config, runtime).await {
                Ok(started) => return Ok(started),
                Err(MqError::Runtime(reason)) if config.broker_port == 0 && attempt < START_ATTEMPTS => {
                    tracing::debug!(reason, attempt, "embedded broker did not start, trying other ports");
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn start_once(config: &EmbeddedConfig, runtime: &MqRuntime) -> Result<Self, MqError> {
        distrust_last_stop(&config.data_dir.join("store")).map_err(runtime_error)?;
        let ports = Ports::choose(config)?;
        let namesrv = NameServer::start(config, runtime, ports.namesrv).await?;
        match start_broker(config, runtime, &ports, namesrv.addr).await {
            Ok(broker) => Ok(Self { broker, namesrv, broker_addr: SocketAddr::new(config.host, ports.broker) }),
            Err(error) => {
                namesrv.shutdown().await;
                Err(error)
            }
        }
    }

    /// What clients connect to, as `host:port`.
    #[must_use]
    pub fn namesrv_addr(&self) -> String {
        self.namesrv.addr.to_string()
    }

    /// Where the broker itself listens.
    #[must_use]
    pub const fn broker_addr(&self) -> SocketAddr {
        self.broker_addr
    }

    /// Stops the broker, which writes everything to disk, then the name server; at most some 30 s.
    pub async fn shutdown(self) {
        if tokio::time::timeout(LIFECYCLE_TIMEOUT, Box::pin(self.broker.shutdown())).await.is_err() {
            tracing::warn!("embedded broker did not stop in time");
        }
        self.namesrv.shutdown().await;
    }
}

/// Has the store recovered as after a crash, whatever it says of its last stop. It believes that it has put every message
/// into its queue before it stopped also when it has not; then it would number the next messages from too low a place,
/// and one of them, which it has acknowledged, would never be given to anybody (rocketmq-store 1.0.0).
fn distrust_last_stop(store: &Path) -> std::io::Result<()> {
    if store.join("commitlog").is_dir() {
        std::fs::write(store.join("abort"), std::process::id().to_string())?;
    }
    Ok(())
}

/// Whether the store of a broker in `dir` would take messages: it refuses them while its disk is 90 % full or more.
#[must_use]
pub fn has_room(dir: &Path) -> bool {
    const PER_CENT: u64 = 85;
    rustix::fs::statvfs(dir).is_ok_and(|disk| {
        let used = disk.f_blocks.saturating_sub(disk.f_bavail);
        used.saturating_mul(100) < disk.f_blocks.saturating_mul(PER_CENT)
    })
}

impl NameServer {
    async fn start(config: &EmbeddedConfig, runtime: &MqRuntime, port: u16) -> Result<Self, MqError> {
        let home = config.data_dir.join("namesrv");
        std::fs::create_dir_all(&home).map_err(runtime_error)?;
        let settings = NamesrvConfig {
            rocketmq_home: path(&home),
            kv_config_path: path(&home.join("kvConfig.json")),
            config_store_path: path(&home.join("namesrv.properties")),
            ..NamesrvConfig::default()
        };
        let server = ServerConfig {
            listen_port: u32::from(port),
            bind_address: config.host.to_string(),
            ..ServerConfig::default()
        };
        let bootstrap = rocketmq_namesrv::bootstrap::Builder::new(
            runtime.component("namesrv"),
            TelemetryRuntimeGuard::noop().handle(),
        )
        .set_name_server_config(settings)
        .set_server_config(server)
        .build();
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = Box::pin(bootstrap.boot_with_shutdown(async move {
            let _ = stopped.await;
        }));
        let served = tokio::spawn(async move { serve.await.map_err(|error| error.to_string()) });
        let addr = SocketAddr::new(config.host, port);
        let server = Self { addr, stop, served };
        server.wait_until_up().await
    }

    async fn wait_until_up(mut self) -> Result<Self, MqError> {
        let deadline = Instant::now() + LIFECYCLE_TIMEOUT;
        loop {
            if self.served.is_finished() {
                let reason = match (&mut self.served).await {
                    Ok(Err(reason)) => reason,
                    Ok(Ok(())) => String::from("it stopped by itself"),
                    Err(error) => error.to_string(),
                };
                return Err(MqError::Runtime(format!("name server: {reason}")));
            }
            if TcpStream::connect(self.addr).await.is_ok() {
                return Ok(self);
            }
            if Instant::now() >= deadline {
                return Err(MqError::Timeout {
                    operation: "start the name server",
                    timeout_ms: LIFECYCLE_TIMEOUT.as_millis(),
                });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn shutdown(self) {
        // It may have stopped by itself, and then nobody listens.
        let _ = self.stop.send(());
        if tokio::time::timeout(LIFECYCLE_TIMEOUT, self.served).await.is_err() {
            tracing::warn!("embedded name server did not stop in time");
        }
    }
}

/// Ports that were free a moment ago.
struct Ports {
    namesrv: u16,
    broker: u16,
}

impl Ports {
    /// Free ports where none are given; those that are given must be free.
    fn choose(config: &EmbeddedConfig) -> Result<Self, MqError> {
        // Held until all are chosen, so that they differ.
        let namesrv = bind(config, config.namesrv_port)?;
        let namesrv_port = namesrv.local_addr().map_err(runtime_error)?.port();
        if config.broker_port != 0 {
            let (fast, replication) = Self::beside(config.broker_port)
                .ok_or_else(|| MqError::Config(String::from("the broker's port has no room beside it")))?;
            for port in [fast, config.broker_port, replication] {
                bind(config, port)?;
            }
            return Ok(Self { namesrv: namesrv_port, broker: config.broker_port });
        }
        for _ in 0..100 {
            let listener = bind(config, 0)?;
            let broker = listener.local_addr().map_err(runtime_error)?.port();
            if let Some((fast, replication)) = Self::beside(broker)
                && bind(config, fast).is_ok()
                && bind(config, replication).is_ok()
            {
                return Ok(Self { namesrv: namesrv_port, broker });
            }
        }
        Err(MqError::Runtime(String::from("no three free ports side by side")))
    }

    /// The broker's fast remoting and replication ports.
    fn beside(broker: u16) -> Option<(u16, u16)> {
        broker.checked_sub(2).filter(|fast| *fast > 0).zip(broker.checked_add(1))
    }
}

/// Without this a name server that is already there would be taken for ours.
fn bind(config: &EmbeddedConfig, port: u16) -> Result<TcpListener, MqError> {
    TcpListener::bind((config.host, port))
        .map_err(|error| MqError::Runtime(format!("can not listen on {}:{port}: {error}", config.host)))
}

async fn start_broker(
    config: &EmbeddedConfig,
    runtime: &MqRuntime,
    ports: &Ports,
    namesrv: SocketAddr,
) -> Result<BrokerBootstrap<Running>, MqError> {
    let settings =
        ValidatedBrokerConfig::try_from_parts(broker_config(config, ports, namesrv), store_config(config, ports))
            .map_err(|error| MqError::Config(error.to_string()))?;
    let bootstrap = rocketmq_broker::Builder::new(runtime.component("broker"), TelemetryRuntimeGuard::noop())
        .with_validated_config(settings)
        .build();
    // The broker says no more than that a part of it failed; the one reason that is the user's to mend is this.
    let refused = |error| {
        let dir = config.data_dir.display();
        MqError::Runtime(format!(
            "the embedded broker did not start ({}); it refuses to while the disk of {dir} is 90 % full or more: \
             make room, or choose another data_dir",
            chain(&error)
        ))
    };
    let start = async {
        let initialized = Box::pin(bootstrap.initialize()).await.map_err(refused)?;
        Box::pin(initialized.start()).await.map_err(refused)
    };
    match tokio::time::timeout(LIFECYCLE_TIMEOUT, start).await {
        Ok(started) => started,
        Err(_) => Err(MqError::Timeout { operation: "start the broker", timeout_ms: LIFECYCLE_TIMEOUT.as_millis() }),
    }
}

fn broker_config(config: &EmbeddedConfig, ports: &Ports, namesrv: SocketAddr) -> BrokerConfig {
    let root = config.data_dir.join("store");
    let host = config.host.to_string();
    let mut broker = BrokerConfig {
        broker_ip1: host.as_str().into(),
        broker_ip2: Some(host.as_str().into()),
        listen_port: u32::from(ports.broker),
        store_path_root_dir: path(&root).into(),
        auth_config_path: path(&root.join("auth")).into(),
        namesrv_addr: Some(namesrv.to_string().into()),
        trace_topic_enable: false,
        trace_on: false,
        // How soon after a crash the broker asks about half messages (6 s after they came, at the earliest), and how
        // often: for hours rather than for minutes, since it asks this often.
        transaction_check_interval: 10_000,
        transaction_check_max: 1_000,
        // What a crash forgets of the committed offsets.
        flush_consumer_offset_interval: 1000,
        register_name_server_period: 10_000,
        // Idle work that one broker with pulling consumers has no use for: shedding load by queue time (a look every
        // 10 ms), pop consumption, a broker group.
        broker_fast_failure_enable: false,
        revive_queue_num: 1,
        enable_lite_event_mode: false,
        sync_broker_member_group_period: 60_000,
        ..BrokerConfig::default()
    };
    broker.broker_identity.broker_name = BROKER_NAME.into();
    broker.broker_identity.broker_cluster_name = CLUSTER_NAME.into();
    broker.topic_queue_config.default_topic_queue_nums = config.queues_per_topic;
    broker.broker_server_config.listen_port = u32::from(ports.broker);
    broker.broker_server_config.bind_address = host;
    broker
}

fn store_config(config: &EmbeddedConfig, ports: &Ports) -> MessageStoreConfig {
    let root = config.data_dir.join("store");
    let flush = if config.sync_flush { FlushDiskType::SyncFlush } else { FlushDiskType::AsyncFlush };
    MessageStoreConfig {
        store_path_root_dir: path(&root).into(),
        store_path_commit_log: Some(path(&root.join("commitlog")).into()),
        mapped_file_size_commit_log: COMMIT_LOG_FILE_BYTES,
        mapped_file_size_consume_queue: CONSUME_QUEUE_ENTRIES * CONSUME_QUEUE_ENTRY_BYTES,
        max_hash_slot_num: INDEX_SLOTS,
        max_index_num: INDEX_ENTRIES,
        flush_disk_type: flush,
        file_reserved_time: RETENTION_HOURS,
        // A full disk must not cost messages that nobody has consumed. The store takes writes up to 90 %, whatever is
        // asked for beyond.
        clean_file_forcibly_enable: false,
        disk_max_used_space_ratio: 95,
        disk_space_clean_forcibly_ratio: 97,
        disk_space_warning_level_ratio: 98,
        ha_listen_address: config.host,
        ha_listen_port: usize::from(ports.broker) + 1,
        // As many per pull as the client asks for, also when they come from the disk.
        max_transfer_count_on_message_in_memory: 256,
        max_transfer_count_on_message_in_disk: 256,
        max_transfer_bytes_on_message_in_memory: 1 << 20,
        max_transfer_bytes_on_message_in_disk: 1 << 20,
        ..MessageStoreConfig::default()
    }
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn runtime_error(error: impl std::error::Error) -> MqError {
    MqError::Runtime(chain(&error))
}

/// An error and its causes, on one line: the broker's errors say what went wrong only in their sources.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
