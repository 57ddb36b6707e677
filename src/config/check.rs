//! Values that parse but cannot work: found at start, all of them at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use jiff::tz::TimeZone;
use secrecy::ExposeSecret;
use url::Url;

use super::error::Fault;
use super::{ChannelKind, Config, MASK, Millis, PublishVia, SmtpTls, secret, texts};
use crate::domain::call::Kind;
use crate::domain::event::{self, Role};
use crate::domain::id::{MerchantId, Quantity, Sku};

/// The secret of the sandbox in the example file: known to everyone.
const PUBLIC_SECRET: &str = "sandbox";

/// What the column of a call's URL holds.
const URL_MAX: usize = 500;

/// Fits the largest event of an order with the default limits.
const LEAST_MESSAGE: i64 = 16 << 10;

/// RocketMQ's own limit for names of topics.
const TOPIC_NAME_MAX: usize = 127;

/// Why this process may not listen at an address that other machines reach.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("refusing to listen on {addr}, which other machines can reach: {reason}")]
pub struct NotExposable {
    /// The address asked for.
    pub addr: SocketAddr,
    /// What is missing.
    pub reason: String,
    /// What to do.
    pub help: String,
}

impl Config {
    /// Refuses addresses beyond loopback while anyone could call or forge a callback.
    ///
    /// # Errors
    /// [`NotExposable`] without API keys, or with the sandbox secret of the example file still in use.
    pub fn check_exposed(&self, addr: SocketAddr) -> Result<(), NotExposable> {
        if addr.ip().is_loopback() {
            return Ok(());
        }
        let refuse = |reason: &str, help: &str| Err(NotExposable { addr, reason: reason.into(), help: help.into() });
        if self.http.keys.is_empty() {
            return refuse(
                "no API keys are configured",
                "add [[http.keys]] (name, sha256, scopes) to the configuration, or listen on 127.0.0.1",
            );
        }
        if let Some(id) =
            self.payment.channels.iter().find(|(_, c)| c.secret.expose_secret() == PUBLIC_SECRET).map(|(id, _)| id)
        {
            return refuse(
                &format!(
                    "payment.channels.{id}.secret is the one of the example file, so anyone could sign a callback"
                ),
                &format!("set payment.channels.{id}.secret"),
            );
        }
        if self.warehouse.secret.expose_secret() == PUBLIC_SECRET {
            return refuse(
                "warehouse.secret is the one of the example file, so anyone could sign a callback",
                "set warehouse.secret",
            );
        }
        Ok(())
    }

    /// Everything that cannot work.
    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        self.check_database(&mut faults);
        self.check_mq(&mut faults);
        self.check_consumers(&mut faults);
        self.check_business(&mut faults);
        self.check_operation(&mut faults);
        self.check_http(&mut faults);
        self.check_masked(&mut faults);
        faults.0
    }

    /// The output of `config show`, used as a file, must not make the mask a secret that anyone can guess.
    fn check_masked(&self, faults: &mut Faults) {
        let mut secrets = vec![
            ("mq.access_key".to_owned(), self.mq.access_key.expose_secret()),
            ("mq.secret_key".to_owned(), self.mq.secret_key.expose_secret()),
            ("warehouse.secret".to_owned(), self.warehouse.secret.expose_secret()),
            ("alerts.webhook".to_owned(), self.alerts.webhook.expose_secret()),
            ("alerts.secret".to_owned(), self.alerts.secret.expose_secret()),
            ("notices.sms.secret".to_owned(), self.notices.sms.secret.expose_secret()),
            ("notices.email.password".to_owned(), self.notices.email.password.expose_secret()),
            ("client.key".to_owned(), self.client.key.expose_secret()),
            ("database.url".to_owned(), self.database.url.expose()),
            ("cache.url".to_owned(), self.cache.url.expose()),
        ];
        let roles = Role::ALL.map(|role| (format!("database.roles.{}", role.name()), self.database.roles.of(role)));
        secrets.extend(roles.into_iter().map(|(key, url)| (key, url.expose())));
        let channels = self.payment.channels.iter();
        secrets.extend(channels.flat_map(|(id, channel)| {
            [("secret", &channel.secret), ("old_secret", &channel.old_secret)]
                .map(|(key, secret)| (format!("payment.channels.{id}.{key}"), secret.expose_secret()))
        }));
        for (key, _) in secrets.iter().filter(|(_, secret)| secret.contains(MASK)) {
            faults.add(key, "this is the mask of `config show`, not a secret", "put the real value here");
        }
    }

    fn check_database(&self, faults: &mut Faults) {
        let database = &self.database;
        let roles = Role::ALL.map(|role| (format!("database.roles.{}", role.name()), database.roles.of(role)));
        for (key, url) in [("database.url".to_owned(), &database.url)].into_iter().chain(roles) {
            if !url.is_empty() && !matches!(url.scheme(), Some("sqlite" | "mysql")) {
                faults.add(
                    &key,
                    "neither a sqlite:// nor a mysql:// URL",
                    "\"sqlite://data/ruyi.db\" or \"mysql://user:password@host:3306/ruyi\"",
                );
            }
        }
        let urls = [("database.url".to_owned(), &database.url), ("cache.url".to_owned(), &self.cache.url)];
        let roles = Role::ALL.map(|role| (format!("database.roles.{}", role.name()), database.roles.of(role)));
        for (key, url) in urls.into_iter().chain(roles) {
            if !url.is_readable() {
                faults.add(
                    &key,
                    "cannot be read as a URL",
                    "percent-encode what the user name and the password have of : / ? # @ % (# is %23, @ is %40)",
                );
            }
        }
        if !self.cache.url.is_empty() && !matches!(self.cache.url.scheme(), Some("redis" | "rediss")) {
            faults.add(
                "cache.url",
                "neither a redis:// nor a rediss:// URL",
                "\"redis://host:6379\", or \"\" for a cache in the process",
            );
        }
        faults.positive("cache.timeout", self.cache.timeout);
        faults.at_least("database.max_connections", database.max_connections.into(), 1);
        faults.at_least("database.writers", database.writers.into(), 1);
        if database.writers > database.max_connections {
            faults.add("database.writers", "more writers than max_connections", "raise database.max_connections");
        }
    }

    fn check_mq(&self, faults: &mut Faults) {
        let mq = &self.mq;
        let bad = mq.namesrv.split(';').map(str::trim).find(|addr| !is_host_port(addr));
        if let Some(bad) = bad.filter(|_| !mq.namesrv.is_empty()) {
            faults.add("mq.namesrv", &format!("{bad:?} is not host:port"), "\"host:9876\" or \"a:9876;b:9876\"");
        }
        if mq.access_key.expose_secret().is_empty() != mq.secret_key.expose_secret().is_empty() {
            faults.add("mq.access_key", "access_key and secret_key go together", "set both or none");
        }
        if mq.tls_cert.as_os_str().is_empty() != mq.tls_key.as_os_str().is_empty() {
            faults.add("mq.tls_cert", "tls_cert and tls_key go together", "set both or none");
        }
        for (key, file) in [("mq.tls_ca", &mq.tls_ca), ("mq.tls_cert", &mq.tls_cert), ("mq.tls_key", &mq.tls_key)] {
            if mq.tls && !file.as_os_str().is_empty() && !file.is_file() {
                faults.add(key, &format!("there is no file {}", file.display()), "the path of a PEM file");
            }
        }
        for (event, topic) in &mq.topics {
            let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '%' | '|');
            let (name, tag) = topic.split_once(':').map_or((topic.as_str(), None), |(name, tag)| (name, Some(tag)));
            if name.is_empty() || name.len() > TOPIC_NAME_MAX || !name.chars().all(legal) {
                faults.add(
                    &format!("mq.topics.{event}"),
                    &format!("{name:?} is not a legal RocketMQ topic name"),
                    "letters, digits, _ - % |, at most 127",
                );
            }
            // A consumer's filter would read more into others: * is every tag, | is an or.
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            if let Some(tag) = tag.filter(|tag| tag.is_empty() || !tag.chars().all(plain)) {
                let what = format!("{tag:?} cannot be the tag of a topic");
                faults.add(&format!("mq.topics.{event}"), &what, "topic:tag, the tag of letters, digits, _ - .");
            }
        }
        self.check_topics_apart(faults);
        for (name, zone) in &mq.zones {
            let key = format!("mq.zones.{name}");
            if name != "default" && event::Kind::from_name(name).is_none() {
                faults.add(
                    &key,
                    "no event of this name is in the catalogue",
                    "\"default\", or a name of docs/events.md",
                );
            }
            if TimeZone::get(zone).is_err() {
                faults.add(&key, "no such time zone", "an IANA name: \"UTC\" or \"Asia/Shanghai\"");
            }
        }
        faults.at_least("mq.queues", mq.queues.into(), 1);
        faults.positive("mq.producer.timeout", mq.producer.timeout);
        if mq.producer.max_delay < Millis::new(1_000) {
            faults.add("mq.producer.max_delay", "shorter than what the brokers' timer can tell apart", "\"3d\"");
        }
        faults.at_least("mq.producer.batch_messages", as_i64(mq.producer.batch_messages), 1);
        faults.at_least("mq.producer.max_message", as_i64(mq.producer.max_message.as_usize()), LEAST_MESSAGE);
        faults.at_least("mq.producer.batch_bytes", as_i64(mq.producer.batch_bytes.as_usize()), 1);
        faults.at_least("mq.outbox.max_attempts", mq.outbox.max_attempts.into(), 1);
        faults.at_least("mq.outbox.shards", mq.outbox.shards.into(), 1);
        faults.positive("mq.outbox.sweep_interval", mq.outbox.sweep_interval);
        if mq.outbox.lease <= mq.producer.timeout {
            faults.add(
                "mq.outbox.lease",
                "a claim must outlive one send (mq.producer.timeout)",
                "raise mq.outbox.lease",
            );
        }
        faults.schedule("mq.retry.schedule", &mq.retry.schedule);
        faults.share("mq.retry.jitter", mq.retry.jitter);
    }

    fn check_consumers(&self, faults: &mut Faults) {
        for (group, consumer) in &self.consumers.0 {
            for (name, value) in [("lanes", consumer.lanes), ("batch", consumer.batch)] {
                let key = format!("consumers.{group}.{name}");
                match value {
                    Some(value) => faults.at_least(&key, as_i64(value), 1),
                    None if group == "default" => {
                        faults.add(&key, "missing", "set it, or leave out [consumers.default]")
                    }
                    None => {}
                }
            }
        }
    }

    fn check_business(&self, faults: &mut Faults) {
        faults.at_least("order.max_lines", as_i64(self.order.max_lines), 1);
        faults.at_least("order.max_quantity", self.order.max_quantity, 1);
        if self.order.max_quantity > Quantity::MAX {
            let what = format!("{} is more than any line may have", self.order.max_quantity);
            faults.add("order.max_quantity", &what, &format!("use {} or less", Quantity::MAX));
        }
        faults.at_least("order.batch", as_i64(self.order.batch), 1);
        for sku in self.order.hot_skus.iter().filter(|sku| sku.parse::<Sku>().is_err()) {
            faults.add("order.hot_skus", &format!("{sku:?} cannot be a SKU"), "the SKUs as in the product table");
        }
        faults.positive("order.timeout.after", self.order.timeout.after);
        if self.payment.publish == PublishVia::Transaction && !self.mq.enabled {
            faults.add(
                "payment.publish",
                "transaction messages need a broker, and mq.enabled is false",
                "\"outbox\", or mq.enabled=true",
            );
        }
        faults.positive("stock.sync_interval", self.stock.sync_interval);
        faults.positive("payment.callback_tolerance", self.payment.callback_tolerance);
        if (1..1_000).contains(&self.payment.query_after.ms()) {
            // A submission has to be written by then.
            faults.add("payment.query_after", "is too short", "0s for never, or at least \"1s\"");
        }
        for (id, channel) in &self.payment.channels {
            faults.endpoint(&format!("payment.channels.{id}.endpoint"), &channel.endpoint);
            if channel.kind == ChannelKind::Http && channel.endpoint.is_empty() {
                faults.add(
                    &format!("payment.channels.{id}.endpoint"),
                    "empty: only the sandbox is served by ruyi itself",
                    "the base URL of the channel",
                );
            }
            if channel.secret.expose_secret().is_empty() {
                faults.add(
                    &format!("payment.channels.{id}.secret"),
                    "empty: its callbacks could not be told from forged ones",
                    "set it",
                );
            }
        }
        if self.statistics.known_zone().is_none() {
            faults.add("statistics.time_zone", "no such time zone", "an IANA name: \"UTC\" or \"Asia/Shanghai\"");
        }
        faults.endpoint("warehouse.endpoint", &self.warehouse.endpoint);
        if self.warehouse.secret.expose_secret().is_empty() {
            faults.add("warehouse.secret", "empty: its callbacks could not be told from forged ones", "set it");
        }
        self.check_outgoing(faults);
        self.check_notices(faults);
        faults.positive("audit.parcel_bound", self.audit.parcel_bound);
        faults.at_least("audit.page", self.audit.page, 1);
    }

    fn check_operation(&self, faults: &mut Faults) {
        if let Some(url) = self.alerts.webhook() {
            // Without the text: it may carry a token.
            let fine = Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
            if !fine || url.len() > URL_MAX {
                let problem = "not an http:// or https:// URL of at most 500 characters";
                faults.add("alerts.webhook", problem, "for example \"https://alerts.example.com/ruyi\"");
            }
        }
        let backlog = &self.backlog;
        faults.positive("backlog.interval", backlog.interval);
        faults.positive("backlog.hook_timeout", backlog.hook_timeout);
        faults.endpoint("backlog.hook_url", &backlog.hook_url);
        for (group, limit) in &backlog.groups {
            for (name, value, least) in [
                ("threshold", limit.threshold, 0),
                ("per_replica", limit.per_replica, 1),
                ("max_replicas", limit.max_replicas, 1),
            ] {
                let key = format!("backlog.groups.{group}.{name}");
                match value {
                    Some(value) => faults.at_least(&key, value, least),
                    None if group == "default" => faults.add(&key, "missing", "set it"),
                    None => {}
                }
            }
        }
    }

    fn check_outgoing(&self, faults: &mut Faults) {
        let delivery = &self.delivery;
        faults.at_least("delivery.concurrency", as_i64(delivery.concurrency), 1);
        faults.at_least("delivery.per_target", as_i64(delivery.per_target), 1);
        faults.positive("delivery.timeout", delivery.timeout);
        faults.schedule("delivery.schedule", &delivery.schedule);
        faults.share("delivery.jitter", delivery.jitter);
        faults.positive("delivery.give_up_after", delivery.give_up_after);
        faults.positive("delivery.breaker.open_for", delivery.breaker.open_for);
        for (name, kind) in &delivery.kinds {
            let key = format!("delivery.kinds.{name}");
            if Kind::from_name(name).is_none() {
                let known = Kind::ALL.map(Kind::name).join(", ");
                faults.add(&key, "there is no such kind of call", &format!("one of {known}"));
            }
            if let Some(schedule) = &kind.schedule {
                faults.schedule(&format!("{key}.schedule"), schedule);
            }
            if let Some(timeout) = kind.timeout {
                faults.positive(&format!("{key}.timeout"), timeout);
            }
        }
        if delivery.lease <= delivery.timeout {
            faults.add("delivery.lease", "a claim must outlive one call (delivery.timeout)", "raise delivery.lease");
        }
    }

    fn check_notices(&self, faults: &mut Faults) {
        texts::check(&self.notices, faults);
        let (sms, email) = (&self.notices.sms, &self.notices.email);
        faults.endpoint("notices.sms.endpoint", &sms.endpoint);
        if sms.endpoint.len() > URL_MAX {
            faults.add("notices.sms.endpoint", "longer than 500 characters", "shorten it");
        }
        if email.host.is_empty() {
            return;
        }
        if email.from.parse::<lettre::message::Mailbox>().is_err() {
            let problem = format!("{:?} is no e-mail address", email.from);
            faults.add("notices.email.from", &problem, "for example \"Tea shop <shop@example.com>\"");
        }
        if !is_host_port(&format!("{}:{}", email.host, email.port)) || email.host.contains([':', '/', '@']) {
            faults.add("notices.email.host", "not the name of a host", "for example \"smtp.example.com\"");
        }
        // It is a part of a line of the conversation.
        if !email.hello.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '[' | ']' | ':')) {
            faults.add("notices.email.hello", "not the name of a host", "for example \"mail.example.com\", or \"\"");
        }
        if email.user.is_empty() != email.password.expose_secret().is_empty() {
            faults.add("notices.email.user", "user and password go together", "set both or none");
        }
        let local = email.host == "localhost" || email.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if email.tls == SmtpTls::None && !email.user.is_empty() && !local {
            faults.add("notices.email.tls", "the password would travel in the clear", "\"starttls\" or \"tls\"");
        }
        let file = Path::new(&email.ca_file);
        if !email.ca_file.is_empty() && !file.is_file() {
            faults.add(
                "notices.email.ca_file",
                &format!("there is no file {}", file.display()),
                "the path of a PEM file",
            );
        }
    }

    /// A topic of the brokers' own is none for events, and of each event there is one: what comes is told by its topic.
    fn check_topics_apart(&self, faults: &mut Faults) {
        const SYSTEM: [&str; 8] = [
            "%RETRY%",
            "%DLQ%",
            "RMQ_SYS_",
            "SCHEDULE_TOPIC_",
            "TBW102",
            "SELF_TEST_TOPIC",
            "OFFSET_MOVED_EVENT",
            "rmq_sys_",
        ];
        let mut known: BTreeMap<&str, &str> = BTreeMap::new();
        // Those that keep their names come first, so that the setting is what is at fault.
        let mut kinds: Vec<&str> = event::Kind::ALL.into_iter().map(event::Kind::name).collect();
        kinds.sort_by_key(|event| self.mq.topics.contains_key(*event));
        for event in kinds {
            let (key, topic) = (format!("mq.topics.{event}"), self.mq.physical_topic(event));
            if let Some(system) = SYSTEM.iter().find(|system| topic.starts_with(**system)) {
                let what = format!("{topic:?} is a topic of the brokers' own ({system}...)");
                faults.add(&key, &what, "a topic that only this event has");
            }
            if let Some(other) = known.insert(topic, event) {
                let what = format!("{topic:?} is the topic of {other} already");
                faults.add(&key, &what, "a topic that only this event has");
            }
        }
    }

    fn check_http(&self, faults: &mut Faults) {
        faults.at_least("http.concurrency", as_i64(self.http.concurrency), 1);
        faults.at_least("http.body_limit", as_i64(self.http.body_limit.as_usize()), 1);
        faults.positive("http.request_timeout", self.http.request_timeout);
        faults.positive("http.queue_wait", self.http.queue_wait);
        faults.at_least("http.connections", as_i64(self.http.connections), 1);
        faults.positive("http.idle_timeout", self.http.idle_timeout);
        faults.positive("http.head_timeout", self.http.head_timeout);
        faults.positive("http.write_timeout", self.http.write_timeout);
        let mut names = BTreeSet::new();
        for key in &self.http.keys {
            if !matches!(hex::decode(&key.sha256), Ok(bytes) if bytes.len() == 32) {
                faults.add(
                    "http.keys",
                    &format!("sha256 of {:?} is not 64 hex digits", key.name),
                    "printf %s \"$KEY\" | sha256sum",
                );
            }
            if key.scopes.is_empty() {
                faults.add("http.keys", &format!("{:?} has no scopes", key.name), "give it scopes, or remove it");
            }
            if key.merchant == Some(MerchantId::SHOP) {
                let what = format!(
                    "{:?} has merchant = \"1\", which is the shop itself: it would read the payments of all orders",
                    key.name
                );
                faults.add(
                    "http.keys",
                    &what,
                    "leave merchant out and give it only the scopes that it needs, or name a merchant of the gateway",
                );
            }
            if !names.insert(key.name.as_str()) {
                faults.add(
                    "http.keys",
                    &format!("two keys are named {:?}", key.name),
                    "names appear in logs: make them unique",
                );
            }
        }
        let client = &self.client;
        for (role, url) in [
            ("order", &client.order),
            ("payment", &client.payment),
            ("stock", &client.stock),
            ("notify", &client.notify),
        ] {
            for one in url.split(',') {
                faults.endpoint(&format!("client.{role}"), one.trim());
            }
        }
    }
}

#[derive(Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn add(&mut self, key: &str, problem: &str, help: &str) {
        let help = if help.is_empty() { String::new() } else { format!("{key}: {help}") };
        self.0.push(Fault { key: key.to_owned(), origin: String::new(), problem: problem.to_owned(), help });
    }

    fn at_least(&mut self, key: &str, value: i64, least: i64) {
        if value < least {
            self.add(key, &format!("{value} is too small"), &format!("use {least} or more"));
        }
    }

    fn positive(&mut self, key: &str, value: Millis) {
        if value.is_zero() {
            self.add(key, "must be longer than nothing", "for example \"10s\"");
        }
    }

    fn share(&mut self, key: &str, value: f64) {
        if !(0.0..=1.0).contains(&value) {
            self.add(key, &format!("{value} is not between 0 and 1"), "0.2 is up to 20 % more or less");
        }
    }

    fn schedule(&mut self, key: &str, schedule: &[Millis]) {
        if schedule.is_empty() {
            self.add(key, "empty", "for example [\"10s\", \"60s\"]");
        }
    }

    fn endpoint(&mut self, key: &str, text: &str) {
        let fine = text.is_empty() || Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        if !fine {
            self.add(
                key,
                &format!("{:?} is not an http:// or https:// URL", secret::shown_url(text)),
                "for example \"http://127.0.0.1:8080\", or \"\" for the default",
            );
        }
    }
}

fn as_i64(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// True for `host:port`.
#[must_use]
pub fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}
