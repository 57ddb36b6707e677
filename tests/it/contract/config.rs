//! Layers, precedence, nearest keys, masking, units.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ruyi::config::{ByteSize, Config, ConfigError, Consumer, EXAMPLE, Millis, NOTICES_EXAMPLE, SecretUrl, Sources};
use secrecy::ExposeSecret;

use crate::support::sources::sources;

fn file(text: &str) -> (tempfile::TempDir, Sources) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ruyi.toml");
    std::fs::write(&path, text).unwrap();
    (dir, Sources { file: Some(path), ..Sources::default() })
}

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn sets(items: &[&str]) -> Sources {
    Sources { sets: items.iter().map(|item| (*item).to_owned()).collect(), ..Sources::default() }
}

fn keys(table: &toml::Table, prefix: &str, out: &mut BTreeSet<String>) {
    for (name, value) in table {
        let path = format!("{prefix}{name}");
        match value {
            toml::Value::Table(inner) => keys(inner, &format!("{path}."), out),
            _ => {
                out.insert(path);
            }
        }
    }
}

#[test]
fn the_example_sets_every_key_and_nothing_else() {
    let config = Config::example().unwrap();
    let (mut written, mut known) = (BTreeSet::new(), BTreeSet::new());
    for example in [EXAMPLE, NOTICES_EXAMPLE] {
        keys(&example.parse().unwrap(), "", &mut written);
    }
    keys(&toml::Table::try_from(&config).unwrap(), "", &mut known);
    assert_eq!(written, known);
}

/// A setting that nobody reads does nothing: outside of the checks of the configuration each name is read at least as
/// often as there are keys of it.
#[test]
fn every_key_of_the_example_is_read() {
    let sources = sources().into_iter().filter(|(path, _)| path != "config/check.rs");
    let code: String = sources.map(|(_, text)| text.split("#[cfg(test)]").next().unwrap().to_owned()).collect();
    let mut written = BTreeSet::new();
    keys(&EXAMPLE.parse().unwrap(), "", &mut written);
    let mut by_name: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for path in &written {
        by_name.entry(path.rsplit('.').next().unwrap()).or_default().push(path);
    }
    for (name, paths) in by_name {
        let is_whole = |rest: &&str| !rest.starts_with(|next: char| next.is_alphanumeric() || "_(".contains(next));
        let field = format!(".{name}");
        let reads = code.split(field.as_str()).skip(1).filter(is_whole).count();
        assert!(reads >= paths.len(), "read {reads} times: {paths:?}");
    }
}

#[test]
fn what_is_shown_is_what_was_written() {
    let shown = toml::Table::try_from(Config::example().unwrap()).unwrap();
    let mut written: toml::Table = EXAMPLE.parse().unwrap();
    let texts: toml::Table = NOTICES_EXAMPLE.parse().unwrap();
    let notices = written["notices"].as_table_mut().unwrap();
    notices.insert("templates".to_owned(), texts["notices"]["templates"].clone());
    written["warehouse"]["secret"] = "********".into();
    written["payment"]["channels"]["sandbox"]["secret"] = "********".into();
    // 60s is one minute, 300s are five: the canonical spelling.
    written["mq"]["retry"]["schedule"] = vec!["10s", "30s", "1m", "5m"].into();
    assert_eq!(shown, written);
}

#[test]
fn later_layers_win() {
    let (_dir, mut sources) = file("[mq]\nqueues = 5\nnamespace = 'file'\n[order]\nmax_lines = 7\n");
    assert_eq!(Config::load(&sources).unwrap().mq.queues, 5);
    sources.env = env(&[("RUYI_MQ__QUEUES", "6"), ("RUYI_MQ__NAMESPACE", "env"), ("HOME", "/")]);
    let config = Config::load(&sources).unwrap();
    assert_eq!((config.mq.queues, config.mq.namespace.as_str(), config.order.max_lines), (6, "env", 7));
    sources.sets = vec!["mq.queues=7".into(), "mq.queues=8".into()];
    let config = Config::load(&sources).unwrap();
    assert_eq!((config.mq.queues, config.mq.namespace.as_str()), (8, "env"));
    assert_eq!(config.mq.retry.max_attempts, 3, "the rest keeps its default");
}

#[test]
fn missing_file_is_refused_only_when_it_was_named() {
    let missing = PathBuf::from("/nonexistent/ruyi.toml");
    let sources = Sources { fallback_file: Some(missing.clone()), ..Sources::default() };
    assert!(Config::load(&sources).is_ok());
    let error = Config::load(&Sources { file: Some(missing), ..Sources::default() }).unwrap_err();
    assert!(matches!(error, ConfigError::Unreadable { .. }), "{error}");
}

#[test]
fn text_from_the_environment_stays_text() {
    let sources = Sources {
        env: env(&[
            ("RUYI_MQ__ACCESS_KEY", "12345"),
            ("RUYI_MQ__SECRET_KEY", "true"),
            ("RUYI_MQ__RETRY__SCHEDULE", "1s, 2s"),
            ("RUYI_MQ__TOPICS__ORDER_CREATED", "order-created"),
            ("RUYI_CONSUMERS__DEFAULT__LANES", "9"),
            ("RUYI_PAYMENT__CHANNELS__ALI__KIND", "sandbox"),
            ("RUYI_PAYMENT__CHANNELS__ALI__SECRET", "007"),
            ("RUYI_CONFIG", "ignored here"),
            ("RUYI_TEST_REQUIRE", "all"),
        ]),
        ..Sources::default()
    };
    let config = Config::load(&sources).unwrap();
    assert_eq!(config.mq.access_key.expose_secret(), "12345");
    assert_eq!(config.mq.secret_key.expose_secret(), "true");
    assert_eq!(config.mq.retry.schedule, [Millis::new(1_000), Millis::new(2_000)]);
    assert_eq!(config.mq.physical_topic("ORDER_CREATED"), "order-created");
    assert_eq!(config.mq.physical_topic("STOCK_FROZEN"), "STOCK_FROZEN");
    assert_eq!(config.consumers.group("any"), Consumer { lanes: 9, batch: 256 });
    assert_eq!(config.payment.channels["ALI".to_lowercase().as_str()].secret.expose_secret(), "007");
}

#[test]
fn a_group_overrides_what_it_names() {
    let config = Config::load(&sets(&["consumers.stock-consumer-group.lanes=8"])).unwrap();
    assert_eq!(config.consumers.group("stock-consumer-group"), Consumer { lanes: 8, batch: 256 });
    assert_eq!(config.consumers.group("order-consumer-group"), Consumer { lanes: 2, batch: 256 });
}

#[test]
fn keys_can_be_given_as_toml() {
    let hash = "a".repeat(64);
    let set = format!("http.keys=[{{name='shop', sha256='{hash}', scopes=['order:write']}}]");
    let config = Config::load(&sets(&[&set])).unwrap();
    assert_eq!(config.http.keys[0].name, "shop");
}

fn unknown(sources: &Sources) -> (String, String) {
    let error = Config::load(sources).unwrap_err();
    assert!(matches!(error, ConfigError::UnknownKey { .. }), "{error}");
    (error.to_string(), error.help().unwrap_or_default())
}

#[test]
fn an_unknown_key_names_the_nearest_and_its_origin() {
    let (dir, sources) = file("data_dir = 'x'\n\n[mq]\nnamesvr = 'a:1'\n");
    let path = dir.path().join("ruyi.toml");
    let (text, help) = unknown(&sources);
    assert_eq!(text, format!("unknown key `mq.namesvr` in {} line 4", path.display()));
    assert_eq!(help, "did you mean `mq.namesrv`?");

    for (name, nearest) in [
        ("RUYI_MQ__NAMESVR", "RUYI_MQ__NAMESRV"),
        ("RUYI_MQ_NAMESRV", "RUYI_MQ__NAMESRV"),
        ("RUYI_HTTP__BODYLIMIT", "RUYI_HTTP__BODY_LIMIT"),
        ("RUYI_DATABASE_URL", "RUYI_DATABASE__URL"),
    ] {
        let (text, help) = unknown(&Sources { env: env(&[(name, "1")]), ..Sources::default() });
        assert!(text.ends_with(&format!("in environment variable {name}")), "{text}");
        assert_eq!(help, format!("did you mean `{nearest}`?"));
    }

    for (set, nearest) in [
        ("order.timeout.afer=1s", "order.timeout.after"),
        ("namesrv=a:1", "mq.namesrv"),
        ("databse.url=x", "database.url"),
        ("consumers.g.lane=1", "consumers.g.lanes"),
        ("payment.channels.ali.secrt=1", "payment.channels.ali.secret"),
        ("order.max_line=1", "order.max_lines"),
    ] {
        let (text, help) = unknown(&sets(&[set]));
        let key = set.split_once('=').unwrap().0;
        assert_eq!(text, format!("unknown key `{}` in --set {key}", key.split(".url").next().unwrap()));
        assert!(help.contains(nearest.split(".url").next().unwrap()), "{set}: {help}");
    }
}

fn fault(sources: &Sources) -> String {
    let error = Config::load(sources).unwrap_err();
    assert!(matches!(error, ConfigError::Invalid(_)), "{error}");
    format!("{error} | {}", error.help().unwrap_or_default())
}

#[test]
fn wrong_values_say_what_where_and_what_to_do() {
    let (dir, sources) = file("[order]\nmax_lines = 'many'\n");
    let expected = format!(
        "`order.max_lines` in {} line 2: expected a whole number that is not negative, found string \"many\" | ",
        dir.path().join("ruyi.toml").display()
    );
    assert_eq!(fault(&sources), expected);

    let text = fault(&sets(&["order.timeout.after=30"]));
    assert!(text.starts_with("`order.timeout.after` in --set order.timeout.after: \"30\" is not a duration"), "{text}");
    let text = fault(&sets(&["order.timeout.via=databse"]));
    assert!(text.contains("did you mean \"database\"?"), "{text}");
    let text = fault(&sets(&["mq.retry.jitter=1.5", "mq.queues=0", "database.url=postgres://x"]));
    for part in ["mq.retry.jitter", "mq.queues", "database.url", "use 1 or more", "mysql://user:password@host"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let text = fault(&sets(&["mq.access_key=only"]));
    assert!(text.contains("access_key and secret_key go together"), "{text}");
    let text = fault(&sets(&["http.keys=[{name='a', sha256='12', scopes=[]}]"]));
    assert!(text.contains("64 hex digits") && text.contains("no scopes"), "{text}");
}

/// Merchant 1 is the shop, of which a merchant's key sees nothing.
#[test]
fn no_key_belongs_to_the_shop_as_merchant() {
    let key = |merchant: &str| {
        let hash = "a".repeat(64);
        sets(&[&format!("http.keys=[{{name='till', sha256='{hash}', scopes=['payment:read'], merchant={merchant}}}]")])
    };
    for shop in ["'1'", "1"] {
        let text = fault(&key(shop));
        for part in ["http.keys", "\"till\"", "the shop itself", "leave merchant out"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
    assert!(Config::load(&key("'7'")).is_ok());
}

#[test]
fn an_unknown_field_of_a_key_is_named_too() {
    let error = Config::load(&sets(&["http.keys=[{name='a', sha='x', scopes=[]}]"])).unwrap_err();
    assert_eq!(error.to_string(), "unknown key `http.keys.0.sha` in --set http.keys");
    assert_eq!(error.help().unwrap(), "did you mean `http.keys.0.sha256`?");
    let text = fault(&sets(&["mq=5"]));
    assert!(text.contains("`mq` in --set mq: expected a table of settings"), "{text}");
}

#[test]
fn errors_do_not_repeat_secrets() {
    let (_dir, sources) = file("[warehouse]\nsecret = 424242\n");
    assert!(!fault(&sources).contains("424242"));
    let (_dir, sources) = file("[warehouse]\nsecret = hunter2\n");
    let error = Config::load(&sources).unwrap_err().to_string();
    assert!(error.contains("line 2, column") && !error.contains("hunter2"), "{error}");
    let set = Config::load(&sets(&["mq.secret_kye=hunter2"])).unwrap_err();
    assert!(!set.to_string().contains("hunter2"), "{set}");
}

#[test]
fn secrets_are_masked_wherever_a_config_is_printed() {
    let config = Config::load(&sets(&[
        "mq.access_key=AKIA1",
        "mq.secret_key=hunter2",
        "warehouse.secret=hunter3",
        "payment.channels.sandbox.secret=hunter4",
        "client.key=hunter5",
        "database.url=mysql://shop:hunter6@db:3306/ruyi?ssl-mode=REQUIRED",
        "cache.url=redis://:hunter7@cache:6379",
    ]))
    .unwrap();
    for text in [toml::to_string(&config).unwrap(), serde_json::to_string(&config).unwrap(), format!("{config:?}")] {
        assert!(!text.contains("hunter") && !text.contains("AKIA"), "{text}");
        assert!(text.contains("db:3306") && text.contains("ssl-mode=REQUIRED"), "{text}");
    }
    assert!(config.database.url.expose().contains("hunter6"));
    assert_eq!(SecretUrl::from("mysql://a:b@[bad").masked(), "mysql://********");
    assert_eq!(SecretUrl::from("sqlite://data/ruyi.db").masked(), "sqlite://data/ruyi.db");
}

#[test]
fn durations_and_sizes() {
    for (text, ms) in
        [("0s", 0), ("200ms", 200), ("30s", 30_000), ("10m", 600_000), ("1h30m", 5_400_000), ("7d", 604_800_000)]
    {
        let value: Millis = text.parse().unwrap();
        assert_eq!((value.ms(), value.to_string().as_str()), (ms, text));
    }
    for text in ["", "30", "s", "-1s", "1.5s", "1 s", "1y", "99999999999999999999s", "9223372036854775807d"] {
        assert!(text.parse::<Millis>().is_err(), "{text}");
    }
    for (text, bytes) in [("512B", 512), ("4KiB", 4096), ("1MiB", 1_048_576), ("2GiB", 2_147_483_648)] {
        let value: ByteSize = text.parse().unwrap();
        assert_eq!((value.bytes(), value.to_string().as_str()), (bytes, text));
    }
    for text in ["", "12", "1MB", "MiB", "-1B", "99999999999GiB"] {
        assert!(text.parse::<ByteSize>().is_err(), "{text}");
    }
}

#[test]
fn the_database_is_in_the_data_directory_unless_set() {
    let config = Config::load(&sets(&["data_dir=/var/lib/ruyi"])).unwrap();
    assert_eq!(config.database_url().expose(), "sqlite:///var/lib/ruyi/ruyi.db");
    assert_eq!(config.broker_addr_file(), PathBuf::from("/var/lib/ruyi/broker.addr"));
}

#[test]
fn only_loopback_without_keys_or_with_public_secrets() {
    let addr = "0.0.0.0:8080".parse().unwrap();
    let hash = "a".repeat(64);
    let key = format!("http.keys=[{{name='a', sha256='{hash}', scopes=['admin']}}]");
    let refusal = |items: &[&str]| Config::load(&sets(items)).unwrap().check_exposed(addr).err().map(|e| e.to_string());
    assert!(refusal(&[]).unwrap().contains("no API keys"));
    assert!(refusal(&[&key]).unwrap().contains("payment.channels.sandbox.secret"));
    assert!(refusal(&[&key, "payment.channels.sandbox.secret=x"]).unwrap().contains("warehouse.secret"));
    assert_eq!(refusal(&[&key, "payment.channels.sandbox.secret=x", "warehouse.secret=y"]), None);
    assert!(Config::example().unwrap().check_exposed("[::1]:0".parse().unwrap()).is_ok());
}

/// A password that is not percent-encoded ends early, and its rest is read as a host, a path or a name.
#[test]
fn no_part_of_an_unencoded_password_is_shown() {
    for url in [
        "mysql://shop:hun@ter#two@db/ruyi",
        "mysql://shop:hun/ter@db/ruyi",
        "mysql://shop:hun?ter@db/ruyi",
        "mysql://shop:77/hunter@db/ruyi",
        "mysql://shop:77?hunter@db/ruyi",
        "mysql://shop:77#hunter@db/ruyi",
        "mysql://hun#ter",
        "mysql://shop:hunter",
        "shop:hunter@db/ruyi",
        "hunter://shop@[db/ruyi",
    ] {
        let shown = SecretUrl::from(url).masked();
        let shown_part = ["hun", "ter", "77"].into_iter().find(|part| shown.replace("hunter://", "").contains(part));
        assert_eq!(shown_part, None, "{url} is shown as {shown}");
        for key in ["database.url", "database.roles.stock", "cache.url"] {
            let scheme = if key == "cache.url" { url.replace("mysql:", "redis:") } else { url.to_owned() };
            let text = fault(&sets(&[&format!("{key}={scheme}")]));
            assert!(text.contains(key) && !text.contains("ter"), "{text}");
        }
    }
    let text = fault(&sets(&["database.url=mysql://shop:hun#ter@db/ruyi"]));
    assert!(text.contains("percent-encode") && text.contains("# is %23"), "{text}");

    let encoded = "mysql://shop:hun%40ter%23@db/ruyi";
    assert_eq!(SecretUrl::from(encoded).masked(), "mysql://shop:********@db/ruyi");
    assert_eq!(Config::load(&sets(&[&format!("database.url={encoded}")])).unwrap().database.url.expose(), encoded);
    let file = "sqlite:///data/a@b#c.db";
    assert_eq!(SecretUrl::from(file).masked(), file);
}

#[test]
fn passwords_in_urls_of_others_are_masked() {
    let keys = ["warehouse.endpoint", "backlog.hook_url", "notices.sms.endpoint", "client.order"];
    for key in keys.into_iter().chain(["payment.channels.sandbox.endpoint"]) {
        let config = Config::load(&sets(&[&format!("{key}=https://me:hunter2@host.example/a")])).unwrap();
        let text = toml::to_string(&config).unwrap();
        assert!(!text.contains("hunter2") && text.contains("https://me:********@host.example/a"), "{key}: {text}");
        let text = fault(&sets(&[&format!("{key}=ftp://me:hunter2@host.example/a")]));
        assert!(!text.contains("hunter2"), "{text}");
    }
}

/// What comes is told by its topic, and brokers keep some for themselves.
#[test]
fn an_event_has_a_topic_of_its_own() {
    for (topic, why) in [
        ("PAYMENT_SUCCESS", "the topic of PAYMENT_SUCCESS already"),
        ("PAYMENT_SUCCESS:created", "the topic of PAYMENT_SUCCESS already"),
        ("%RETRY%stock-consumer-group", "a topic of the brokers' own"),
        ("%DLQ%stock-consumer-group", "a topic of the brokers' own"),
        ("RMQ_SYS_TRANS_HALF_TOPIC", "a topic of the brokers' own"),
    ] {
        let error = Config::load(&sets(&[&format!("mq.topics.ORDER_CREATED={topic}")])).unwrap_err().to_string();
        assert!(error.contains("mq.topics.ORDER_CREATED") && error.contains(why), "{topic}: {error}");
    }
    // Names may be exchanged, and a namespace may be a part of one.
    let exchanged = sets(&["mq.topics.ORDER_CREATED=PAYMENT_SUCCESS", "mq.topics.PAYMENT_SUCCESS=shop%ORDER_CREATED"]);
    assert!(Config::load(&exchanged).is_ok());
}

#[test]
fn no_time_is_longer_than_a_century() {
    assert!(Config::load(&sets(&["cache.ttl=36500d"])).is_ok());
    let error = Config::load(&sets(&["cache.ttl=365001d"])).unwrap_err().to_string();
    assert!(error.contains("cache.ttl") && error.contains("at most 36500d"), "{error}");
}
