//! The RocketMQ client: the only files that know its crate.
//!
//! [`RocketMq`] is one connection to a cluster (producer and administration); [`GroupConsumer`] is one member of a
//! consumer group. Everything is at least once: a send that failed may have been stored, a message that was polled
//! comes again until its offset is committed.

mod admin;
mod answers;
mod consume;
mod error;
mod frames;
mod holes;
mod operate;
mod publish;
mod send;
mod stuck;
pub mod transaction;

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rocketmq_client_rust::{
    AclClientRPCHook, ClientConfig, ClientError, ClientRuntime, ClientRuntimeConfig, DefaultMQAdminExt,
    DefaultMQProducer, MQBrokerException, MQClientException, SessionCredentials,
};
use rocketmq_observability::TelemetryRuntimeGuard;
use rocketmq_runtime::ChildServiceContext;
use rocketmq_transport::api::{RPCHook, TlsConfig};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use super::operate::RUYI_INSTANCE;
use super::runtime::MqRuntime;
use answers::Answers;
pub use consume::GroupConsumer;
pub use error::{MqError, PublishError};
use holes::Holes;
pub use publish::is_reserved_property;
pub use rocketmq_model::topic::is_system_topic;
pub use send::Sending;
pub use stuck::StuckHalf;

/// Tracing targets that report, at WARN or ERROR and once per queue and second, what ruyi reports once itself: a
/// broker that is away, a connection that a shutdown closes. Switch them off unless somebody debugs the client.
pub const NOISY_TARGETS: &[&str] = &[
    "rocketmq_client_rust",
    "rocketmq_transport",
    "rocketmq_broker",
    "rocketmq_namesrv",
    "rocketmq_store",
    "rocketmq_store_local",
    "rocketmq_runtime",
    "rocketmq_model",
    "rocketmq_auth",
    "rocketmq_observability",
];

/// Topics that a consumer group owns besides its subscriptions.
pub const RETRY_PREFIX: &str = "%RETRY%";
/// See [`RETRY_PREFIX`].
pub const DLQ_PREFIX: &str = "%DLQ%";
/// Response code of a cluster that does not know us, or does not let us.
const NO_PERMISSION: i32 = 16;
const PRODUCER_GROUP: &str = "ruyi-producer";
/// The client refuses shorter intervals between route reads and between heartbeats.
const MIN_INTERVAL_MS: u32 = 10_000;
/// A producer that fails is replaced when it has sent nothing for this long.
const RENEW_AFTER: Duration = Duration::from_secs(2);
/// How long one administration call may take.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may take to start or to stop.
const LIFECYCLE_TIMEOUT: Duration = Duration::from_secs(15);

/// How to reach a RocketMQ cluster and how to speak to it.
#[derive(Clone, Debug)]
pub struct RocketMqConfig {
    /// Name servers, `host:port` separated by `;`.
    pub namesrv: String,
    /// Names of brokers that belong to the cluster, whether the name servers know them or not.
    pub brokers: Vec<String>,
    /// ACL user; needs `secret_key`.
    pub access_key: Option<String>,
    /// ACL secret of `access_key`.
    pub secret_key: Option<SecretString>,
    /// Namespace in front of every topic and group.
    pub namespace: Option<String>,
    /// TLS to name servers and brokers.
    pub tls: Option<Tls>,
    /// Tell RocketMQ's own message trace (`RMQ_SYS_TRACE_TOPIC`) of each message sent and taken.
    pub trace: bool,
    /// One attempt to send, to the broker's answer.
    pub send_timeout_ms: u32,
    /// Further attempts after a failed one, on another broker if there is one.
    pub retries: u32,
    /// Largest message, body and properties as encoded; not of what was on a broker before, as dead letters were.
    pub max_message_bytes: usize,
    /// Messages per broker request.
    pub batch_max_messages: usize,
    /// Bytes per broker request, bodies and properties as encoded.
    pub batch_max_bytes: usize,
    /// Larger bodies are compressed; such a message travels alone, since batches are not compressed.
    pub compress_over_bytes: u32,
    /// Queues of a topic that has to be created.
    pub queues_per_topic: i32,
    /// How often consumers read routes again: bounds how long they miss a moved or restarted broker. The client takes
    /// no less than 10 s, nor for heartbeats.
    pub poll_name_server_interval_ms: u32,
    /// Heartbeats to every broker.
    pub heartbeat_interval_ms: u32,
    /// How long a broker may keep a pull of an empty queue waiting: longer costs less CPU while idle.
    pub long_poll_ms: u64,
    /// Catalogue topic → topic on the broker, for those that differ; `topic:tag` where a tag other than the event's name
    /// is its sign.
    pub topics: HashMap<String, String>,
}

/// Whom to trust, and who we are.
#[derive(Clone, Debug)]
pub struct Tls {
    /// PEM file of the authorities that sign the servers' certificates; none: those of the machine.
    pub ca: Option<PathBuf>,
    /// PEM files of our own certificate and its key, where the servers want one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// False: any certificate will do, so anybody in between can read and change everything.
    pub verify: bool,
}

impl Default for RocketMqConfig {
    fn default() -> Self {
        Self {
            namesrv: String::from("127.0.0.1:9876"),
            brokers: Vec::new(),
            access_key: None,
            secret_key: None,
            namespace: None,
            tls: None,
            trace: false,
            send_timeout_ms: 3000,
            retries: 2,
            max_message_bytes: 4 << 20,
            batch_max_messages: 100,
            batch_max_bytes: 1 << 20,
            compress_over_bytes: 4096,
            queues_per_topic: 4,
            poll_name_server_interval_ms: MIN_INTERVAL_MS,
            heartbeat_interval_ms: MIN_INTERVAL_MS,
            long_poll_ms: 20_000,
            topics: HashMap::new(),
        }
    }
}

/// Catalogue topic names on our side, physical ones on the broker's.
#[derive(Debug)]
struct TopicNames {
    physical: HashMap<String, String>,
    logical: HashMap<String, String>,
    /// Of the catalogue topics that have one of their own.
    tags: HashMap<String, String>,
}

impl TopicNames {
    fn new(topics: &HashMap<String, String>) -> Result<Self, MqError> {
        let mut names = Self { physical: HashMap::new(), logical: HashMap::new(), tags: HashMap::new() };
        for (name, topic) in topics {
            let (topic, tag) = topic.split_once(':').unwrap_or((topic, ""));
            if let Some(other) = names.logical.insert(topic.to_owned(), name.clone()) {
                return Err(MqError::Config(format!("{name} and {other} are both mapped to topic {topic}")));
            }
            names.physical.insert(name.clone(), topic.to_owned());
            if !tag.is_empty() {
                names.tags.insert(name.clone(), tag.to_owned());
            }
        }
        Ok(names)
    }

    /// The tag that is an event's sign on its topic; `None`: every message of the topic is this event.
    fn tag(&self, topic: &str) -> Option<&str> {
        self.tags.get(topic).map(String::as_str)
    }

    fn physical<'a>(&'a self, topic: &'a str) -> &'a str {
        self.physical.get(topic).map_or(topic, String::as_str)
    }

    fn logical<'a>(&'a self, topic: &'a str) -> &'a str {
        self.logical.get(topic).map_or(topic, String::as_str)
    }
}

/// One connection to a RocketMQ cluster. Cheap to clone.
#[derive(Clone)]
pub struct RocketMq {
    shared: Arc<Shared>,
}

struct Shared {
    config: RocketMqConfig,
    names: TopicNames,
    client_runtime: Arc<ClientRuntime>,
    /// Each producer and each consumer gets a client runtime of its own below this, so that it can be stopped by itself.
    clients: ChildServiceContext,
    hook: Arc<dyn RPCHook>,
    holes: Arc<Holes>,
    sender: RwLock<Arc<Sender>>,
    admin: Mutex<Option<DefaultMQAdminExt>>,
    /// Held by the one member that looks where its group is.
    looks: Mutex<()>,
    routes: publish::Routes,
    /// The addresses of the master brokers, as they were last heard of.
    known_masters: std::sync::Mutex<BTreeSet<String>>,
    /// Addresses of masters that an operator's commands do without.
    left_out: std::sync::Mutex<BTreeSet<String>>,
    /// Slots of [`RocketMq::send_async`].
    in_flight: Arc<Semaphore>,
    /// Tells this process's clients from those of other processes on the same host.
    instance: String,
    clients_made: AtomicU64,
}

/// A producer and what it runs on.
struct Sender {
    producer: DefaultMQProducer,
    runtime: Arc<ClientRuntime>,
    /// When it last sent something, at first when it was made.
    worked: RwLock<Instant>,
}

impl RocketMq {
    /// Starts a producer for the cluster. The cluster need not be up: it is reached when something is sent.
    ///
    /// # Errors
    /// [`MqError::Config`] for a configuration that can not work, [`MqError::Client`] when the client does not start.
    pub async fn connect(config: RocketMqConfig, runtime: &MqRuntime) -> Result<Self, MqError> {
        let names = TopicNames::new(&config.topics)?;
        let holes = Arc::new(Holes::default());
        let hook: Arc<dyn RPCHook> = Arc::new(Answers { inner: acl_hook(&config)?, holes: Arc::clone(&holes) });
        let client_runtime = client_runtime(runtime.component("client"))?;
        let instance =
            format!("{RUYI_INSTANCE}{}-{:x}", std::process::id(), RandomState::new().build_hasher().finish());
        let clients = runtime.component("clients");
        let sender = Sender::start(&config, &clients, hook.clone(), &instance).await?;
        Ok(Self {
            shared: Arc::new(Shared {
                config,
                names,
                client_runtime,
                clients,
                hook,
                holes,
                sender: RwLock::new(Arc::new(sender)),
                admin: Mutex::new(None),
                routes: publish::Routes::default(),
                known_masters: std::sync::Mutex::default(),
                looks: Mutex::default(),
                left_out: std::sync::Mutex::default(),
                in_flight: Arc::new(Semaphore::new(send::ASYNC_IN_FLIGHT)),
                instance,
                clients_made: AtomicU64::new(0),
            }),
        })
    }

    /// Stops producer and administration, waiting at most some 45 s for what they have in flight. Consumers are shut
    /// down by their owners, before.
    pub async fn shutdown(&self) {
        if let Some(mut admin) = self.shared.admin.lock().await.take() {
            let _ = tokio::time::timeout(LIFECYCLE_TIMEOUT, admin.shutdown()).await;
        }
        self.shared.sender().stop().await;
        self.shared.client_runtime.shutdown().await;
    }

    /// The configuration it was made with.
    #[must_use]
    pub fn config(&self) -> &RocketMqConfig {
        &self.shared.config
    }
}

impl Shared {
    fn client_config(&self, instance: &str) -> ClientConfig {
        client_config(&self.config, instance)
    }

    fn next_instance(&self) -> String {
        let number = self.clients_made.fetch_add(1, Ordering::Relaxed);
        format!("{}-{number}", self.instance)
    }

    fn sender(&self) -> Arc<Sender> {
        Arc::clone(&self.sender.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a new producer in the place of `failed`: a client that could not connect five times refuses to try for the
    /// next 30 s, also when the broker is back.
    async fn renew_sender(&self, failed: &Arc<Sender>) {
        if failed.idle() < RENEW_AFTER || !Arc::ptr_eq(failed, &self.sender()) {
            return;
        }
        let fresh = Sender::start(&self.config, &self.clients, self.hook.clone(), &self.next_instance()).await;
        let unused = match fresh {
            Ok(fresh) => {
                let fresh = Arc::new(fresh);
                let mut current = self.sender.write().unwrap_or_else(PoisonError::into_inner);
                // Somebody else may have been faster.
                if Arc::ptr_eq(failed, &current) { std::mem::replace(&mut *current, fresh) } else { fresh }
            }
            Err(error) => {
                tracing::debug!(%error, "could not renew the producer");
                return;
            }
        };
        // Others may still be waiting for answers through it: they get errors and try again.
        tokio::spawn(async move { unused.stop().await });
    }
}

impl Sender {
    async fn start(
        config: &RocketMqConfig,
        clients: &ChildServiceContext,
        hook: Arc<dyn RPCHook>,
        instance: &str,
    ) -> Result<Self, MqError> {
        let runtime = client_runtime(clients.component("producer"))?;
        let mut producer = build_producer(config, &runtime, hook, instance)?;
        within("start the producer", LIFECYCLE_TIMEOUT, Box::pin(producer.start())).await?;
        Ok(Self { producer, runtime, worked: RwLock::new(Instant::now()) })
    }

    fn note_success(&self) {
        *self.worked.write().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How long it has not sent anything.
    fn idle(&self) -> Duration {
        self.worked.read().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    async fn stop(&self) {
        let mut producer = self.producer.clone();
        let _ = tokio::time::timeout(LIFECYCLE_TIMEOUT, producer.shutdown()).await;
        self.runtime.shutdown().await;
    }
}

fn client_runtime(context: ChildServiceContext) -> Result<Arc<ClientRuntime>, MqError> {
    let config = ClientRuntimeConfig { shutdown_timeout: LIFECYCLE_TIMEOUT, ..ClientRuntimeConfig::default() };
    ClientRuntime::try_new(context, config, TelemetryRuntimeGuard::noop().handle())
        .map_err(client_error("start a messaging client"))
}

fn client_config(config: &RocketMqConfig, instance: &str) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set_namesrv_addr(config.namesrv.as_str().into());
    client.set_instance_name(instance.into());
    if let Some(namespace) = &config.namespace {
        client.set_namespace(namespace.as_str().into());
    }
    client.set_poll_name_server_interval(config.poll_name_server_interval_ms.max(MIN_INTERVAL_MS));
    client.set_heartbeat_broker_interval(config.heartbeat_interval_ms.max(MIN_INTERVAL_MS));
    client.set_vip_channel_enabled(false);
    client.set_use_tls(config.tls.is_some());
    if let Some(tls) = &config.tls {
        client.set_tls_config(tls_config(tls));
    }
    client.set_enable_trace(config.trace);
    client
}

fn tls_config(tls: &Tls) -> TlsConfig {
    let path = |path: &PathBuf| path.to_string_lossy().into_owned();
    let mut config = TlsConfig {
        // A file that happens to be on the machine must not change what is configured here.
        config_file: String::new(),
        ..TlsConfig::default()
    };
    config.client.auth_server = tls.verify;
    config.client.trust_cert_path = tls.ca.as_ref().map(path);
    config.client.cert_path = tls.identity.as_ref().map(|(cert, _)| path(cert));
    config.client.key_path = tls.identity.as_ref().map(|(_, key)| path(key));
    config
}

fn acl_hook(config: &RocketMqConfig) -> Result<Option<Arc<dyn RPCHook>>, MqError> {
    match (&config.access_key, &config.secret_key) {
        (Some(access), Some(secret)) => {
            let credentials = SessionCredentials::with_keys(access.as_str(), secret.expose_secret());
            Ok(Some(Arc::new(AclClientRPCHook::new(credentials))))
        }
        (None, None) => Ok(None),
        _ => Err(MqError::Config(String::from("access_key and secret_key come together"))),
    }
}

fn build_producer(
    config: &RocketMqConfig,
    runtime: &Arc<ClientRuntime>,
    hook: Arc<dyn RPCHook>,
    instance: &str,
) -> Result<DefaultMQProducer, MqError> {
    if u32::try_from(config.max_message_bytes).is_err() {
        return Err(MqError::Config(String::from("max_message_bytes is over 4 GiB")));
    }
    let builder = DefaultMQProducer::builder(Arc::clone(runtime))
        .client_config(client_config(config, instance))
        .producer_group(PRODUCER_GROUP)
        .send_msg_timeout(config.send_timeout_ms)
        .compress_msg_body_over_howmuch(config.compress_over_bytes)
        // What has a limit of ours is checked before (`publish::check`).
        .max_message_size(u32::MAX)
        .rpc_hook(hook);
    Ok(builder.build())
}

/// An error with its causes: the client keeps what is of interest in these.
fn explain(error: &ClientError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&**error.shared_error());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What a server answered, if this is an answer: its response code and its words. Codes from 10,000 on are the client's.
fn answer(error: &ClientError) -> Option<(i32, String)> {
    let said = |text: Option<&str>| text.unwrap_or("no reason given").trim().to_owned();
    let by_broker = error.source_ref::<MQBrokerException>().map(|e| (e.response_code(), said(e.error_message())));
    let by_client = error.source_ref::<MQClientException>().map(|e| (e.response_code(), said(e.error_message())));
    let coded = error.broker_response_code().map(|code| (code, explain(error)));
    by_broker.or(by_client).or(coded).filter(|(code, _)| (1..10_000).contains(code))
}

/// An error in one line: a server's words, or why none spoke.
fn said(error: &ClientError) -> String {
    answer(error).map_or_else(|| explain(error), |(code, words)| format!("refused ({code}): {words}"))
}

fn client_error(operation: &'static str) -> impl FnOnce(ClientError) -> MqError {
    move |source| match answer(&source) {
        Some((NO_PERMISSION, said)) => MqError::Denied { operation, reason: denied(&said) },
        _ => MqError::Client { operation, source: Box::new(source) },
    }
}

/// What a cluster that does not let us in said, and what to do.
fn denied(said: &str) -> String {
    format!(
        "the cluster denies it ({said}): check mq.access_key and mq.secret_key, what it allows this user, and the \
             topic's permission (`ruyi mq topics show`)"
    )
}

async fn within<T>(
    operation: &'static str,
    timeout: Duration,
    call: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, MqError> {
    match tokio::time::timeout(timeout, call).await {
        Ok(result) => result.map_err(client_error(operation)),
        Err(_) => Err(MqError::Timeout { operation, timeout_ms: timeout.as_millis() }),
    }
}
