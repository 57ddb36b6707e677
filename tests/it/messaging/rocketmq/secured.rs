//! A cluster with access control, with TLS, with namespaces, with other names for its topics, and its message trace.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ruyi::db::migrate;
use ruyi::mq::message::{Incoming, Outgoing};
use ruyi::mq::rocketmq::{GroupConsumer, MqError, PublishError, RocketMq, RocketMqConfig, Tls};
use ruyi::mq::runtime::MqRuntime;
use secrecy::SecretString;

use crate::support::servers::mariadb::MariaDb;
use crate::support::servers::rocketmq::{ACL, Cluster, ClusterPlan, apache};
use crate::support::servers::unique;

const DEADLINE: Duration = Duration::from_secs(60);
const WAIT: Duration = Duration::from_millis(200);

struct Client {
    mq: RocketMq,
    runtime: MqRuntime,
}

impl Client {
    async fn connect(namesrv: String, change: impl FnOnce(&mut RocketMqConfig)) -> Self {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let runtime = MqRuntime::start("secured-test").unwrap();
        let mut config = RocketMqConfig { namesrv, send_timeout_ms: 3_000, retries: 1, ..RocketMqConfig::default() };
        change(&mut config);
        let mq = RocketMq::connect(config, &runtime).await.unwrap();
        Self { mq, runtime }
    }

    async fn stop(self) {
        self.mq.shutdown().await;
        self.runtime.shutdown(Duration::from_secs(10)).await;
    }

    async fn send(&self, message: Outgoing) -> Result<(), PublishError> {
        self.mq.publish(&[message]).await.remove(0)
    }

    /// Sends one message and gets it back.
    async fn works(&self, topic: &str) -> Incoming {
        let topics = [topic.to_owned()];
        self.mq.ensure_topics(&topics, 2).await.unwrap();
        self.send(message(topic, "k1")).await.unwrap();
        let consumer = self.mq.subscribe(&unique("secured-group"), &topics).await.unwrap();
        let got = one(&consumer).await;
        consumer.shutdown().await;
        got
    }
}

fn message(topic: &str, key: &str) -> Outgoing {
    Outgoing {
        topic: topic.to_owned(),
        tag: topic.to_owned(),
        key: key.to_owned(),
        body: format!("body of {key}").into(),
        properties: vec![("eventId".to_owned(), format!("{key}:{topic}"))],
        delay: ruyi::mq::message::Delay::None,
    }
}

async fn one(consumer: &GroupConsumer) -> Incoming {
    let started = Instant::now();
    loop {
        if let Some(message) = consumer.poll(1, WAIT).await.pop() {
            return message;
        }
        assert!(started.elapsed() < DEADLINE, "nothing came");
    }
}

fn keys(config: &mut RocketMqConfig, user: &str, secret: &str) {
    config.access_key = Some(user.to_owned());
    config.secret_key = Some(SecretString::from(secret));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_takes_right_keys_and_refuses_others_plainly() {
    let Some(cluster) = Cluster::start(ClusterPlan::default().broker_conf(ACL)).await else { return };
    let right = Client::connect(cluster.namesrv(), |config| keys(config, "ruyi", "right-secret")).await;
    let got = right.works("ORDER_CREATED").await;
    assert_eq!(&got.body[..], b"body of k1");
    let lag = right.mq.lag("some-group", &["ORDER_CREATED".to_owned()]).await.unwrap();
    assert_eq!(lag.len(), 2);

    let none = Client::connect(cluster.namesrv(), |_| ()).await;
    let wrong = Client::connect(cluster.namesrv(), |config| keys(config, "ruyi", "wrong-secret")).await;
    let nobody = Client::connect(cluster.namesrv(), |config| keys(config, "nobody", "right-secret")).await;
    for client in [none, wrong, nobody] {
        // It is there, though it does not let us in: waiting for it would be of no use.
        assert!(client.mq.is_reachable().await);
        let refused = client.send(message("ORDER_CREATED", "k2")).await.unwrap_err();
        println!("{refused}");
        assert!(matches!(refused, PublishError::Refused { .. }) && refused.counts(), "{refused:?}");
        assert!(refused.to_string().contains("mq.access_key"), "{refused}");
        let refused = client.mq.ensure_topics(&["STOCK_FROZEN".to_owned()], 2).await.unwrap_err();
        println!("{refused}");
        assert!(matches!(refused, MqError::Denied { .. }), "{refused:?}");
        assert!(refused.to_string().contains("mq.access_key"), "{refused}");
        client.stop().await;
    }
    right.stop().await;
}

/// An authority, and a certificate of it for 127.0.0.1.
fn certificates(dir: &Path) {
    let script = r#"
set -e
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-authority -keyout ca.key -out ca.pem \
  -addext basicConstraints=critical,CA:TRUE
openssl req -newkey rsa:2048 -nodes -subj /CN=broker -keyout server.key -out server.csr
printf 'subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' > ext
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.pem
chmod 644 server.key
"#;
    let output = Command::new("sh").args(["-c", script]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_speaks_tls_only() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let file = |name: &str| dir.path().join(name);
    let show = |name: &str| file(name).display().to_string();
    let java = vec![
        "-Dtls.server.mode=enforcing".to_owned(),
        "-Dtls.test.mode.enable=false".to_owned(),
        format!("-Dtls.server.keyPath={}", show("server.key")),
        format!("-Dtls.server.certPath={}", show("server.pem")),
        // The broker speaks it to the name server, too.
        "-Dtls.enable=true".to_owned(),
        "-Dtls.client.authServer=true".to_owned(),
        format!("-Dtls.client.trustCertPath={}", show("ca.pem")),
    ];
    let Some(cluster) = Cluster::start(ClusterPlan { java, ..ClusterPlan::default() }).await else { return };
    let tls = |ca: Option<PathBuf>, verify| Some(Tls { ca, identity: None, verify });
    for (ca, verify) in [(Some(file("ca.pem")), true), (None, false)] {
        let client = Client::connect(cluster.namesrv(), |config| config.tls = tls(ca, verify)).await;
        // The broker may need a second try to reach the name server.
        let started = Instant::now();
        while !client.mq.is_reachable().await {
            assert!(started.elapsed() < DEADLINE, "no broker answers over TLS");
            tokio::time::sleep(WAIT).await;
        }
        let got = client.works("ORDER_CREATED").await;
        assert_eq!(got.key, "k1");
        client.stop().await;
    }
    // Nobody vouches for this authority; and without TLS nobody answers.
    for not_enough in [tls(None, true), None] {
        let client = Client::connect(cluster.namesrv(), |config| config.tls = not_enough).await;
        assert!(!client.mq.is_reachable().await);
        assert!(client.send(message("ORDER_CREATED", "k1")).await.is_err());
        client.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_share_a_cluster_and_nothing_else() {
    let Some(apache) = apache().await else { return };
    let (topic, group) = (unique("ORDER_CREATED"), unique("stock-group"));
    let mut got = Vec::new();
    let spaces = [Some(unique("north")), Some(unique("south")), None];
    for (number, space) in spaces.iter().enumerate() {
        let client = Client::connect(apache.namesrv(), |config| config.namespace.clone_from(space)).await;
        let topics = vec![topic.clone(), format!("%RETRY%{group}")];
        client.mq.ensure_topics(&topics[..1], 2).await.unwrap();
        let consumer = client.mq.subscribe(&group, &topics).await.unwrap();
        client.send(message(&topic, &format!("k{number}"))).await.unwrap();
        let taken = one(&consumer).await;
        // The queue has its own name again, without the namespace; commits and lag find it.
        assert_eq!(taken.queue.topic, topic);
        consumer.commit(&[(taken.queue.clone(), taken.offset + 1)]).await;
        let started = Instant::now();
        loop {
            let lag = client.mq.lag(&group, &topics[..1]).await.unwrap();
            if lag.iter().any(|(queue, lag)| *queue == taken.queue && lag.lag() == Some(0)) {
                break;
            }
            assert!(started.elapsed() < DEADLINE, "{lag:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        client.send(message(&format!("%DLQ%{group}"), &format!("dead{number}"))).await.unwrap();
        let undertaker = client.mq.subscribe(&unique("undertaker"), &[format!("%DLQ%{group}")]).await.unwrap();
        let dead = one(&undertaker).await;
        assert_eq!((dead.key.as_str(), dead.queue.topic), (format!("dead{number}").as_str(), format!("%DLQ%{group}")));
        assert!(undertaker.poll(1, WAIT).await.is_empty());
        undertaker.shutdown().await;
        // What an operator sends to the group alone reaches this one alone.
        client.send(message(&format!("%RETRY%{group}"), &format!("again{number}"))).await.unwrap();
        let again = one(&consumer).await;
        assert_eq!(again.key, format!("again{number}"));
        assert!(consumer.poll(1, WAIT).await.is_empty());
        consumer.shutdown().await;
        client.stop().await;
        got.push(taken.key);
    }
    assert_eq!(got, ["k0", "k1", "k2"]);
    let topics = apache.mqadmin(&["topicList"]).await;
    for space in spaces.iter().flatten() {
        assert!(topics.lines().any(|line| line.trim() == format!("{space}%{topic}")), "{topics}");
        assert!(topics.lines().any(|line| line.trim() == format!("%DLQ%{space}%{group}")), "{topics}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_may_have_the_names_that_other_services_use() {
    let Some(apache) = apache().await else { return };
    let aliases = [
        ("ORDER_CREATED", "order-created"),
        ("PAYMENT_SUCCESS", "payment_success_topic"),
        ("STOCK_FREEZE_FAILED", "stock-freeze-failed"),
        ("CALLBACK_SUBMIT", "callback-submit"),
        ("ORDER_NOTIFY", "order-notify"),
        ("DAY_STATISTICS", "day-statistics"),
    ];
    let prefix = unique("alias");
    let physical = |alias: &str| format!("{prefix}-{alias}");
    let ours = Client::connect(apache.namesrv(), |config| {
        config.topics = aliases.iter().map(|(name, alias)| ((*name).to_owned(), physical(alias))).collect();
    })
    .await;
    let theirs = Client::connect(apache.namesrv(), |_| ()).await;
    let names: Vec<String> = aliases.iter().map(|(name, _)| (*name).to_owned()).collect();
    ours.mq.ensure_topics(&names, 2).await.unwrap();
    for (name, alias) in aliases {
        // Out: they find ours under their name.
        ours.send(message(name, "ours")).await.unwrap();
        let reader = theirs.mq.subscribe(&unique("theirs"), &[physical(alias)]).await.unwrap();
        let got = one(&reader).await;
        assert_eq!((got.queue.topic, got.key.as_str()), (physical(alias), "ours"));
        reader.shutdown().await;
        // In: theirs is an event of the catalogue, whatever its tag.
        let reader = ours.mq.subscribe(&unique("ours"), &[name.to_owned()]).await.unwrap();
        assert_eq!(one(&reader).await.key, "ours");
        theirs.send(Outgoing { tag: "pay".to_owned(), ..message(&physical(alias), "theirs") }).await.unwrap();
        let got = one(&reader).await;
        assert_eq!((got.queue.topic.as_str(), got.tag.as_str(), got.key.as_str()), (name, "pay", "theirs"));
        reader.shutdown().await;
    }
    ours.stop().await;
    theirs.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_message_trace_shows_in_the_tools_of_rocketmq() {
    let plan = ClusterPlan::default().broker_conf("traceTopicEnable=true\n");
    let Some(cluster) = Cluster::start(plan).await else { return };
    let client = Client::connect(cluster.namesrv(), |config| config.trace = true).await;
    let got = client.works("ORDER_CREATED").await;
    assert_eq!(got.key, "k1");
    let found = cluster.mqadmin(&["queryMsgByKey", "-t", "ORDER_CREATED", "-k", "k1"]).await;
    let row = found.lines().last().unwrap_or_default();
    let id = row.split_whitespace().next().unwrap_or_default().to_owned();
    let started = Instant::now();
    loop {
        let shown = cluster.mqadmin(&["queryMsgTraceById", "-i", &id]).await;
        if shown.contains("Pub") {
            assert!(shown.contains("success"), "{shown}");
            break;
        }
        assert!(started.elapsed() < DEADLINE, "{shown}");
    }
    client.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_over_tls() {
    let (dir, stranger) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    certificates(dir.path());
    certificates(stranger.path());
    let file = |dir: &tempfile::TempDir, name: &str| dir.path().join(name).display().to_string();
    let options = format!(
        "--ssl-ca={} --ssl-cert={} --ssl-key={} --require-secure-transport=ON",
        file(&dir, "ca.pem"),
        file(&dir, "server.pem"),
        file(&dir, "server.key")
    );
    let Some(server) = MariaDb::start_with(&options) else { return };
    let url = server.create("ruyi").await;
    let checked = |ca: String| format!("{url}?ssl-mode=VERIFY_IDENTITY&ssl-ca={ca}");
    let good = checked(file(&dir, "ca.pem"));
    migrate::run(&good).await.unwrap();
    assert_eq!(migrate::pending(&good).await.unwrap().len(), 0);
    for bad in [checked(file(&stranger, "ca.pem")), format!("{url}?ssl-mode=DISABLED")] {
        assert!(migrate::pending(&bad).await.is_err(), "{bad}");
    }
}
