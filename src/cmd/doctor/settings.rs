//! Settings that are legal, and dangerous together.

use std::net::SocketAddr;

use secrecy::ExposeSecret;
use url::{Host, Url};

use super::{Finding, Findings};
use crate::config::{Config, Millis, TimeoutVia};
use crate::domain::event::Role;

/// The secret of the example file.
const PUBLIC_SECRET: &str = "sandbox";

pub(super) fn look(config: &Config, findings: &Findings) {
    let mut found = Vec::new();
    found.extend(secrets(config));
    found.extend(exposure(config));
    found.extend(plain_text(config));
    found.extend(plain_calls(config));
    found.extend(operation(config));
    if found.is_empty() {
        found.push(Finding::ok("config.all", "configuration", "no setting is dangerous"));
    }
    for finding in found {
        findings.add(finding);
    }
}

/// It runs against servers of its own accord: what is handy on a laptop is a danger here.
fn is_production(config: &Config) -> bool {
    let roles = &config.database.roles;
    let urls = [&config.database.url, &roles.order, &roles.payment, &roles.stock, &roles.notify];
    !config.mq.namesrv.is_empty() || urls.iter().any(|url| url.scheme() == Some("mysql"))
}

fn listeners(config: &Config) -> [(&'static str, SocketAddr); 5] {
    let http = &config.http;
    [
        ("http.order", http.order),
        ("http.payment", http.payment),
        ("http.stock", http.stock),
        ("http.notify", http.notify),
        ("http.all", http.all),
    ]
}

fn secrets(config: &Config) -> Vec<Finding> {
    let mut found = Vec::new();
    let channels = config.payment.channels.iter();
    let mut signed: Vec<(String, &str, &str)> = channels
        .map(|(id, c)| (format!("payment.channels.{id}.secret"), c.secret.expose_secret(), c.endpoint.as_str()))
        .collect();
    signed.push(("warehouse.secret".into(), config.warehouse.secret.expose_secret(), &config.warehouse.endpoint));
    for (key, secret, endpoint) in signed {
        let message = "it is the one of the example file: anyone can sign a callback with it";
        let fix = format!("set {key} to a secret of your own");
        match (secret == PUBLIC_SECRET, endpoint.is_empty()) {
            (true, false) => {
                let seen = format!("its endpoint is {endpoint}");
                found.push(Finding::error("config.secret", &key, message).seen(seen).fix(fix));
            }
            (true, true) if is_production(config) => {
                found.push(Finding::warning("config.secret", &key, message).fix(fix));
            }
            _ => {}
        }
    }
    if config.sandbox.enabled && is_production(config) {
        let message = "the sandbox pays and delivers whatever it is asked to, beside servers of production";
        let fix = "set sandbox.enabled = false, and the endpoints of the channels and the warehouse";
        found.push(Finding::warning("config.sandbox", "sandbox.enabled", message).fix(fix));
    }
    if config.sandbox.enabled && config.sandbox.beside_channels && config.payment.has_real_channel() {
        let message = "whoever names the sandbox as the channel of an order gets goods for no money";
        let fix = "set sandbox.beside_channels = false";
        found.push(Finding::warning("config.sandbox", "sandbox.beside_channels", message).fix(fix));
    }
    if config.alerts.webhook().is_none() && is_production(config) {
        let message = "alerts (dead letters, events that were given up) are lines of the log only";
        let fix = "set alerts.webhook, or watch the log and `ruyi check`";
        found.push(Finding::info("config.alerts", "alerts.webhook", message).fix(fix));
    }
    found
}

fn exposure(config: &Config) -> Vec<Finding> {
    let mut found = Vec::new();
    for (key, addr) in listeners(config) {
        if addr.ip().is_loopback() {
            continue;
        }
        match config.effective(Some(addr)).check_exposed(addr) {
            Err(refused) => {
                let message = format!("what listens there does not start: {}", refused.reason);
                found.push(Finding::error("config.exposed", key, message).seen(addr.to_string()).fix(refused.help));
            }
            Ok(()) => {
                let message = "API keys travel in plain text unless something in front of it speaks TLS";
                let fix = "put a proxy that ends TLS before it, or listen on 127.0.0.1";
                found.push(Finding::info("config.exposed", key, message).seen(addr.to_string()).fix(fix));
            }
        }
    }
    found
}

/// True for a host that only this machine reaches.
fn is_here(host: Option<Host<&str>>) -> bool {
    match host {
        None => true,
        Some(Host::Domain(name)) => name == "localhost" || name.is_empty(),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
    }
}

/// True when `url` has this scheme and leads to another machine.
fn leaves(url: &str, scheme: &str) -> bool {
    Url::parse(url).is_ok_and(|url| url.scheme() == scheme && !is_here(url.host()))
}

fn plain_text(config: &Config) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut warn = |key: &str, message: &str, fix: &str| {
        found.push(Finding::warning("config.plaintext", key, message).fix(fix));
    };
    let mq = &config.mq;
    if mq.tls && !mq.tls_verify {
        warn(
            "mq.tls_verify",
            "any certificate will do: anybody in between reads and changes all",
            "set it to true, and tls_ca",
        );
    }
    let far = |addr: &str| !addr.starts_with("127.") && !addr.starts_with("localhost:") && !addr.starts_with("[::1]");
    if !mq.tls && mq.namesrv.split(';').any(|addr| !addr.trim().is_empty() && far(addr.trim())) {
        let keys = !mq.access_key.expose_secret().is_empty();
        let message = if keys {
            "orders and payments reach the brokers in plain text; requests are signed, and can be read"
        } else {
            "orders and payments reach the brokers in plain text, and without keys: anyone in the network can send them"
        };
        warn("mq.tls", message, "set mq.tls = true, mq.access_key and mq.secret_key, or use a network of its own");
    }
    let roles = &config.database.roles;
    let databases = [
        ("database.url", &config.database.url),
        ("database.roles.order", &roles.order),
        ("database.roles.payment", &roles.payment),
        ("database.roles.stock", &roles.stock),
        ("database.roles.notify", &roles.notify),
    ];
    for (key, url) in databases {
        let strict = ["REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"];
        let asks = url.expose().to_uppercase();
        if leaves(url.expose(), "mysql") && !strict.iter().any(|mode| asks.contains(&format!("SSL-MODE={mode}"))) {
            warn(
                key,
                "the server may be spoken to without TLS",
                "add ?ssl-mode=VERIFY_IDENTITY (or REQUIRED) to the URL",
            );
        }
    }
    if leaves(config.cache.url.expose(), "redis") {
        warn("cache.url", "reads of orders reach Redis in plain text", "use rediss:// and cache.ca_file");
    }
    found
}

/// Calls that leave in plain text.
fn plain_calls(config: &Config) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut warn = |key: &str, message: &str| {
        found.push(Finding::warning("config.plaintext", key, message).fix("use https://"));
    };
    let channels =
        config.payment.channels.iter().map(|(id, c)| (format!("payment.channels.{id}.endpoint"), &*c.endpoint));
    let mut endpoints: Vec<(String, &str)> = channels.collect();
    endpoints.push(("warehouse.endpoint".into(), &config.warehouse.endpoint));
    endpoints.push(("alerts.webhook".into(), config.alerts.webhook.expose_secret()));
    endpoints.push(("backlog.hook_url".into(), &config.backlog.hook_url));
    for (key, url) in endpoints {
        if leaves(url, "http") {
            warn(&key, "it is called in plain text: what is paid and delivered can be read and changed");
        }
    }
    let client = &config.client;
    let has_key = !client.key.expose_secret().is_empty();
    let clients = [
        ("client.order", &client.order),
        ("client.payment", &client.payment),
        ("client.stock", &client.stock),
        ("client.notify", &client.notify),
    ];
    for (key, urls) in clients {
        if has_key && urls.split(',').any(|url| leaves(url.trim(), "http")) {
            warn(key, "client.key is sent in plain text");
        }
    }
    found
}

fn operation(config: &Config) -> Vec<Finding> {
    let mut found = Vec::new();
    if !config.mq.enabled {
        let message = "there is no broker: an event reaches only the groups of the process that wrote it";
        let make = if is_production(config) { Finding::warning } else { Finding::info };
        found.push(
            make("config.broker", "mq.enabled", message.to_owned()).fix("set mq.enabled = true where roles run apart"),
        );
    }
    if !config.mq.namesrv.is_empty() {
        for (url, roles) in config.databases(&Role::ALL).into_iter().filter(|(url, _)| url.scheme() == Some("sqlite")) {
            let message = "a cluster for many hosts, and a database file that only this one has";
            let fix = "set its URL to a mysql:// server, unless every role runs here";
            let roles = roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(", ");
            let seen = format!("{} of {roles}", url.masked());
            found.push(Finding::info("config.database", "database.url", message).seen(seen).fix(fix));
        }
    }
    found
}

/// A message may come again for as long as it is retried and then lies as a dead letter; until then the inbox has to
/// know it. `kept_hours`: how long the brokers keep messages, where they say so.
pub(super) fn retention(config: &Config, kept_hours: Option<i64>) -> Finding {
    let retry_ms = retry_window_ms(config);
    let kept_ms = kept_hours.unwrap_or(72).saturating_mul(3_600_000);
    let inbox_ms = config.retention.inbox.ms();
    let needed_ms = retry_ms.saturating_add(kept_ms);
    let kept = if kept_hours.is_some() { "the brokers keep messages" } else { "brokers keep messages by default" };
    let seen = format!(
        "retries take {}, {kept} for {}, retention.inbox is {}",
        Millis::new(retry_ms),
        Millis::new(kept_ms),
        config.retention.inbox
    );
    let (check, key) = ("config.retention", "retention.inbox");
    if inbox_ms > needed_ms {
        return Finding::ok(check, key, "duplicates are known for longer than they can come").seen(seen);
    }
    let message =
        "a dead letter can be replayed when nobody knows any more that it was handled: its effect happens twice";
    let fix = format!("set retention.inbox to more than {}", Millis::new(needed_ms));
    Finding::error(check, key, message).seen(seen).fix(fix)
}

/// From the first failure to the dead letter, at most.
fn retry_window_ms(config: &Config) -> i64 {
    let retry = &config.mq.retry;
    let last = retry.schedule.last().copied().unwrap_or(Millis::new(0));
    let count = usize::try_from(retry.max_attempts).unwrap_or(usize::MAX);
    let listed: i64 = retry.schedule.iter().take(count).map(|wait| wait.ms()).sum();
    let repeated = i64::try_from(count.saturating_sub(retry.schedule.len())).unwrap_or(i64::MAX);
    let waits = listed.saturating_add(last.ms().saturating_mul(repeated));
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "milliseconds of waits")]
    let with_jitter = (waits as f64 * (1.0 + retry.jitter)) as i64;
    with_jitter
}

/// What a broker's timer takes, against what is asked of it.
pub(super) fn delays(config: &Config, broker: &str, told: &std::collections::BTreeMap<String, String>) -> Vec<Finding> {
    const LEVELS: &str = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h";
    let mut found = Vec::new();
    let by_broker = config.order.timeout.via == TimeoutVia::Broker;
    let make = if by_broker { Finding::error } else { Finding::info };
    let wanted_s = config.mq.producer.max_delay.ms() / 1_000;
    let hop_s = wanted_s.min(config.order.timeout.after.ms() / 1_000);
    if told.get("timerWheelEnable").is_some_and(|enabled| enabled == "false") {
        let message = "its timer is off: a message with a time of delivery is refused, or comes at once";
        let fix = "set timerWheelEnable=true in its configuration, or order.timeout.via = \"database\"";
        found.push(make("broker.delay", broker.to_owned(), message.to_owned()).seen("timerWheelEnable=false").fix(fix));
    } else if let Some(most_s) = told.get("timerMaxDelaySec").and_then(|text| text.parse::<i64>().ok())
        && most_s < wanted_s
    {
        let make = if by_broker && most_s < hop_s { Finding::error } else { Finding::warning };
        let message = "its timer refuses delays that mq.producer.max_delay allows".to_owned();
        let seen = format!(
            "timerMaxDelaySec {most_s}, mq.producer.max_delay {}, order.timeout.after {}",
            config.mq.producer.max_delay, config.order.timeout.after
        );
        let fix = format!("set mq.producer.max_delay = \"{most_s}s\", or raise timerMaxDelaySec");
        found.push(make("broker.delay", broker.to_owned(), message).seen(seen).fix(fix));
    }
    if let Some(levels) = told.get("messageDelayLevel").filter(|levels| levels.trim() != LEVELS) {
        let message = "its delay levels are not RocketMQ's own: a level means another time here".to_owned();
        let fix = "give times of delivery instead of levels, or set messageDelayLevel to what it is by default";
        found.push(Finding::warning("broker.levels", broker, message).seen(levels.clone()).fix(fix));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Severity;
    use super::*;
    use crate::config::Sources;

    fn config(sets: &[&str]) -> Config {
        let sets = sets.iter().map(|set| (*set).to_owned()).collect();
        Config::load(&Sources { sets, ..Sources::default() }).unwrap()
    }

    #[test]
    fn retries_end_before_their_duplicates_are_forgotten() {
        assert_eq!(retry_window_ms(&config(&[])), 120_000);
        assert_eq!(retry_window_ms(&config(&["mq.retry.max_attempts=6", "mq.retry.jitter=0"])), 1_000_000);
        assert_eq!(retention(&config(&[]), Some(72)).severity, Severity::Ok);
        assert_eq!(retention(&config(&[]), Some(720)).severity, Severity::Error);
        assert_eq!(retention(&config(&["retention.inbox=2d"]), None).severity, Severity::Error);
    }

    #[test]
    fn a_timer_has_to_take_what_it_is_given() {
        let told = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let severities = |sets: &[&str], pairs: &[(&str, &str)]| -> Vec<Severity> {
            delays(&config(sets), "a", &told(pairs)).iter().map(|finding| finding.severity).collect()
        };
        let broker = "order.timeout.via=broker";
        assert!(severities(&[broker], &[("timerWheelEnable", "true"), ("timerMaxDelaySec", "259200")]).is_empty());
        assert_eq!(severities(&[broker], &[("timerWheelEnable", "false")]), [Severity::Error]);
        assert_eq!(severities(&[], &[("timerWheelEnable", "false")]), [Severity::Info]);
        assert_eq!(severities(&[broker], &[("timerMaxDelaySec", "60")]), [Severity::Error]);
        assert_eq!(severities(&[broker], &[("timerMaxDelaySec", "3600")]), [Severity::Warning]);
        assert_eq!(severities(&[], &[("messageDelayLevel", "1s 2s")]), [Severity::Warning]);
    }
}
