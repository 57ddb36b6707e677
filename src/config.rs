//! The configuration: one typed tree, whose defaults are `config.example.toml`, compiled in.
//!
//! Layers, later ones win: example < file < environment (`RUYI_MQ__NAMESRV`) < `--set mq.namesrv=...`.

mod check;
mod error;
mod load;
mod notices;
mod operate;
mod outgoing;
mod payment;
mod schema;
mod secret;
mod texts;
mod units;
mod web;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::domain::event::Role;

pub use check::{NotExposable, is_host_port};
pub use error::{ConfigError, Fault};
pub use load::{ENV_PREFIX, Sources};
pub use notices::{Email, NOTICES_EXAMPLE, Notices, Sms, SmtpTls, Template, Text};
pub use operate::{Alerts, Backlog, BacklogOverride, Limit};
pub use outgoing::{Breaker, Delivery, DeliveryKind};
pub use payment::{Channel, ChannelKind, LeftOut, Payment, PublishVia, Statistics, SubmitWhen};
pub use secret::{MASK, SecretUrl};
pub use texts::{Filled, Texts};
pub use units::{ByteSize, Millis, UnitError};
pub use web::{ApiKey, Client, Http, Scope};

/// The example file: documentation of every key, and the defaults.
pub const EXAMPLE: &str = include_str!("../config.example.toml");

/// Everything that can be set. Serializing it masks the secrets.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Directory of the SQLite file and the embedded broker.
    pub data_dir: PathBuf,
    /// Where the tables are.
    pub database: Database,
    /// Advisory cache.
    pub cache: Cache,
    /// Broker, topics, outbox and retry.
    pub mq: Mq,
    /// Lanes and batches per consumer group.
    pub consumers: Consumers,
    /// Order role.
    pub order: Order,
    /// Stock role.
    pub stock: Stock,
    /// Payment role.
    pub payment: Payment,
    /// Counting payments by day.
    pub statistics: Statistics,
    /// The warehouse that fulfils.
    pub warehouse: Warehouse,
    /// Built-in stand-ins for a payment channel and a warehouse.
    pub sandbox: Sandbox,
    /// Outgoing calls.
    pub delivery: Delivery,
    /// SMS and e-mail to users.
    pub notices: Notices,
    /// Where alerts go.
    pub alerts: Alerts,
    /// `ruyi worker backlog`.
    pub backlog: Backlog,
    /// HTTP servers of the roles.
    pub http: Http,
    /// HTTP client of `ruyi order|payment|stock`.
    pub client: Client,
    /// How long rows are kept.
    pub retention: Retention,
    /// Logs.
    pub log: Log,
    /// `ruyi audit`.
    pub audit: Audit,
}

/// Connection settings of the tables.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// `sqlite://` or `mysql://` URL; empty is `<data_dir>/ruyi.db` (see [`Config::database_url`]).
    pub url: SecretUrl,
    /// Pool size; on SQLite the readers, beside the one writer.
    pub max_connections: u32,
    /// How long a role that starts waits for a server that is not there.
    pub wait: Millis,
    /// Writer tasks for queued orders.
    pub writers: u32,
    /// Databases of single roles.
    pub roles: RoleUrls,
}

/// A database for each role that has one of its own; empty is [`Database::url`].
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RoleUrls {
    /// Orders, products.
    pub order: SecretUrl,
    /// Payments, refunds.
    pub payment: SecretUrl,
    /// Stock.
    pub stock: SecretUrl,
    /// Points, notices.
    pub notify: SecretUrl,
}

impl RoleUrls {
    /// As set, perhaps empty.
    #[must_use]
    pub fn of(&self, role: Role) -> &SecretUrl {
        match role {
            Role::Order => &self.order,
            Role::Payment => &self.payment,
            Role::Stock => &self.stock,
            Role::Notify => &self.notify,
        }
    }
}

/// Cache settings.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    /// `redis://` or `rediss://` URL; empty keeps the cache in the process.
    pub url: SecretUrl,
    /// PEM file with the certificates that `rediss://` trusts; empty: the public ones.
    pub ca_file: String,
    /// What every key begins with.
    pub prefix: String,
    /// Longest wait for one answer of Redis.
    pub timeout: Millis,
    /// Longest age of a cached read; nothing: reads are not cached.
    pub ttl: Millis,
}

/// Messaging.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Mq {
    /// False: no broker at all, rows go straight to the handlers of this process.
    pub enabled: bool,
    /// `host:port;host:port`; empty is the embedded broker of this data directory (see [`Config::broker_addr_file`]).
    pub namesrv: String,
    /// Names of the cluster's brokers, so that one that is gone is missed; empty: whoever the name servers know.
    pub brokers: Vec<String>,
    /// ACL access key; empty for none.
    #[serde(serialize_with = "secret::masked")]
    pub access_key: SecretString,
    /// ACL secret key; empty for none.
    #[serde(serialize_with = "secret::masked")]
    pub secret_key: SecretString,
    /// RocketMQ namespace; empty for none.
    pub namespace: String,
    /// TLS to name servers and brokers.
    pub tls: bool,
    /// PEM file of the authorities to trust; empty: those of the machine.
    pub tls_ca: PathBuf,
    /// PEM file of our certificate; empty for none.
    pub tls_cert: PathBuf,
    /// PEM file of its key; empty for none.
    pub tls_key: PathBuf,
    /// Check the servers' certificates.
    pub tls_verify: bool,
    /// Write RocketMQ's message trace.
    pub trace: bool,
    /// Queues of a topic that ruyi creates.
    pub queues: u32,
    /// How long a broker may be unreachable before it is bypassed.
    pub degrade_after: Millis,
    /// Embedded name server and broker.
    pub embedded: EmbeddedBroker,
    /// Catalogue name → physical topic, for those that differ (see [`Mq::physical_topic`]).
    pub topics: BTreeMap<String, String>,
    /// Catalogue name → IANA name of the zone of times without one in its bodies; `default`: of all others.
    pub zones: BTreeMap<String, String>,
    /// Sending.
    pub producer: Producer,
    /// Publishing what transactions wrote.
    pub outbox: Outbox,
    /// Retry lane.
    pub retry: Retry,
}

impl Mq {
    /// The topic on the broker for a topic of the catalogue, without a tag; names that are not in the map stand for
    /// themselves.
    #[must_use]
    pub fn physical_topic<'a>(&'a self, catalogue: &'a str) -> &'a str {
        let topic = self.topics.get(catalogue).map_or(catalogue, String::as_str);
        topic.split_once(':').map_or(topic, |(topic, _)| topic)
    }
}

/// The broker inside the process.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddedBroker {
    /// Address to listen on and to announce.
    pub host: String,
    /// Name server port; 0 takes any free one.
    pub namesrv_port: u16,
    /// Broker port; 0 takes any free one.
    pub broker_port: u16,
}

/// Sending to the broker.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Producer {
    /// One send.
    pub timeout: Millis,
    /// Further tries of one send, on another broker.
    pub retries: u32,
    /// Largest body.
    pub max_message: ByteSize,
    /// Messages in one batch request.
    pub batch_messages: usize,
    /// Bytes in one batch request.
    pub batch_bytes: ByteSize,
    /// Bodies over this size are compressed.
    pub compress_over: ByteSize,
    /// How far ahead the brokers' timer takes a message.
    pub max_delay: Millis,
}

/// The outbox relay and its sweep.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Outbox {
    /// Failed sends after which a row is given up.
    pub max_attempts: u32,
    /// Pause between two sweeps that found nothing.
    pub sweep_interval: Millis,
    /// How long a claim on rows holds.
    pub lease: Millis,
    /// Rows handed over in memory at most.
    pub memory_limit: usize,
    /// Parts that sweeping processes share.
    pub shards: u32,
}

/// Retries of messages that a handler could not apply yet.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Waits before each retry; the last one repeats. Never empty.
    pub schedule: Vec<Millis>,
    /// Retries before a message is a dead letter.
    pub max_attempts: u32,
    /// Random share of a wait, 0 to 1.
    pub jitter: f64,
}

/// Settings per consumer group, over `default`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Consumers(BTreeMap<String, ConsumerOverride>);

/// What a group may set.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ConsumerOverride {
    #[serde(skip_serializing_if = "Option::is_none")]
    lanes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<usize>,
}

/// The effective settings of one consumer group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// Lanes that work in parallel, at least 1.
    pub lanes: usize,
    /// Messages in one transaction at most, at least 1.
    pub batch: usize,
}

impl Consumers {
    /// The settings of a group: its own where it has them, else those of `default`.
    #[must_use]
    pub fn group(&self, group: &str) -> Consumer {
        let pick = |get: fn(&ConsumerOverride) -> Option<usize>| {
            [group, "default"].into_iter().find_map(|name| self.0.get(name).and_then(get)).unwrap_or(1)
        };
        Consumer { lanes: pick(|c| c.lanes), batch: pick(|c| c.batch) }
    }
}

/// The order role.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Lines of one order.
    pub max_lines: usize,
    /// Quantity of one line.
    pub max_quantity: i64,
    /// SKUs that the sold-out gate watches.
    pub hot_skus: Vec<String>,
    /// Orders in one writer transaction.
    pub batch: usize,
    /// Publish ORDER_DATA_SYNC.
    pub data_sync: bool,
    /// Orders that nobody pays.
    pub timeout: OrderTimeout,
    /// Fulfilment.
    pub fulfil: Fulfil,
}

/// When and how an unpaid order is canceled.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OrderTimeout {
    /// Time to pay.
    pub after: Millis,
    /// What notices that it has passed.
    pub via: TimeoutVia,
}

/// What notices that an order timed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeoutVia {
    /// A walk over the expiry index.
    Database,
    /// A delayed message, with the walk as a safety net.
    Broker,
}

/// Fulfilment of paid orders.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Fulfil {
    /// Wait after the payment.
    pub after: Millis,
}

/// The stock role.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Stock {
    /// The level of a SKU is told to the other roles at most once in this time.
    pub sync_interval: Millis,
}

/// The warehouse.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Warehouse {
    /// Base URL; empty is the sandbox of this process.
    #[serde(serialize_with = "secret::shown")]
    pub endpoint: String,
    /// Key of the HMAC-SHA256 signatures on calls and callbacks.
    #[serde(serialize_with = "secret::masked")]
    pub secret: SecretString,
}

impl Warehouse {
    /// Where it takes orders; none: it is the sandbox of this process.
    #[must_use]
    pub fn url(&self) -> Option<String> {
        let endpoint = self.endpoint.trim_end_matches('/');
        (!endpoint.is_empty()).then(|| format!("{endpoint}/orders"))
    }
}

/// Built-in stand-ins.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Sandbox {
    /// Serve them.
    pub enabled: bool,
    /// Serve them also where other machines reach the process.
    pub exposed: bool,
    /// Serve the channel also where a channel that takes money is configured.
    pub beside_channels: bool,
    /// The warehouse stand-in.
    pub warehouse: SandboxWarehouse,
}

/// The warehouse stand-in.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxWarehouse {
    /// Time between two steps of a parcel.
    pub step_delay: Millis,
}

/// How long rows are kept.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Sent outbox rows.
    pub sent: Millis,
    /// Inbox rows: how long a duplicate is known as one.
    pub inbox: Millis,
}

/// Logs.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Shape of a line.
    pub format: LogFormat,
    /// Directives as in `RUST_LOG`.
    pub filter: String,
}

/// Shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Human on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

/// `ruyi audit`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// Nothing younger is judged.
    pub settle: Millis,
    /// What is still open after this is a violation.
    pub bound: Millis,
    /// Orders that wait for the warehouse or the carrier for longer are a warning.
    pub parcel_bound: Millis,
    /// Rows read at once.
    pub page: i64,
}

impl Config {
    /// The database URL to connect to: as set, or the SQLite file of the data directory.
    #[must_use]
    pub fn database_url(&self) -> SecretUrl {
        if self.database.url.is_empty() {
            SecretUrl::from(format!("sqlite://{}", self.data_dir.join("ruyi.db").display()).as_str())
        } else {
            self.database.url.clone()
        }
    }

    /// The database of a role: its own, or [`Config::database_url`].
    #[must_use]
    pub fn database_url_of(&self, role: Role) -> SecretUrl {
        let own = self.database.roles.of(role);
        if own.is_empty() { self.database_url() } else { own.clone() }
    }

    /// As it counts for a process that listens at `listen`. The sandbox pays and delivers whatever it is asked to, so
    /// beyond this machine it is there only where `sandbox.exposed` says so; and without it its channels are none. Where
    /// there is a channel that takes money, goods for no money have to be wished for: by `sandbox.beside_channels`.
    #[must_use]
    pub fn effective(&self, listen: Option<SocketAddr>) -> Self {
        let mut config = self.clone();
        let is_exposed = listen.is_some_and(|addr| !addr.ip().is_loopback());
        config.sandbox.enabled &= !is_exposed || self.sandbox.exposed;

        let missing: Vec<&str> = [
            ("sandbox.enabled = true", self.sandbox.enabled),
            ("sandbox.exposed = true", self.sandbox.exposed || !is_exposed),
            ("sandbox.beside_channels = true", self.sandbox.beside_channels || !self.payment.has_real_channel()),
        ]
        .into_iter()
        .filter_map(|(setting, is_met)| (!is_met).then_some(setting))
        .collect();
        if !missing.is_empty() {
            config.payment.leave_out_sandboxes(&missing.join(" and "));
        }
        config
    }

    /// The databases of `roles`, each once, with the roles that share it.
    #[must_use]
    pub fn databases(&self, roles: &[Role]) -> Vec<(SecretUrl, Vec<Role>)> {
        let mut all: Vec<(SecretUrl, Vec<Role>)> = Vec::new();
        for role in roles {
            let url = self.database_url_of(*role);
            match all.iter_mut().find(|(known, _)| known.expose() == url.expose()) {
                Some((_, sharing)) => sharing.push(*role),
                None => all.push((url, vec![*role])),
            }
        }
        all
    }

    /// Where the process that runs the embedded broker writes its name server address for the others.
    #[must_use]
    pub fn broker_addr_file(&self) -> PathBuf {
        self.data_dir.join("broker.addr")
    }
}
