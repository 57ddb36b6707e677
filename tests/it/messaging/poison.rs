//! A message that nobody can read, on a real broker: it is given up once, with its reason, and handled when somebody
//! sends it again.

use std::time::{Duration, Instant};

use ruyi::db::sql::{self, Columns};
use ruyi::mq::message::{Delay, Outgoing};
use ruyi::mq::rocketmq::{PublishError, RocketMq, RocketMqConfig};
use ruyi::mq::runtime::MqRuntime;
use ruyi::vals;

use crate::support::servers::rocketmq::{Cluster, ClusterPlan};
use crate::support::serving::Serving;

const DEADLINE: Duration = Duration::from_secs(90);
const GROUP: &str = "stock-consumer-group";
const GOOD: &str = r#"{"orderId":"77","kind":"USER"}"#;

fn message(key: &str, body: &str) -> Outgoing {
    Outgoing {
        topic: "INVENTORY_RELEASE".to_owned(),
        tag: "INVENTORY_RELEASE".to_owned(),
        key: key.to_owned(),
        body: body.to_owned().into(),
        properties: vec![("eventId".to_owned(), format!("{key}:INVENTORY_RELEASE"))],
        delay: Delay::None,
    }
}

/// How it went with the message of this key, in every group that has it.
async fn outcomes(serving: &Serving, key: &str) -> Vec<(String, i64)> {
    let text = "SELECT consumer_group, outcome FROM message_process_log WHERE message_id = ?";
    let mut conn = serving.db().read().await.unwrap();
    let rows = sql::fetch(&mut conn, text, vals![format!("{key}:INVENTORY_RELEASE")]).await.unwrap();
    rows.iter().map(|row| (row.text(0).unwrap(), row.int(1).unwrap())).collect()
}

async fn until(serving: &Serving, key: &str, outcome: i64) {
    let started = Instant::now();
    while outcomes(serving, key).await != [(GROUP.to_owned(), outcome)] {
        assert!(started.elapsed() < DEADLINE, "{key}: {:?}", outcomes(serving, key).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Publishes a message; its topic may have been made just now, and the name servers hear of it a moment later.
async fn publish(mq: &RocketMq, message: &Outgoing) {
    let started = Instant::now();
    while let Err(error) = mq.publish(std::slice::from_ref(message)).await.remove(0) {
        assert!(matches!(error, PublishError::NoRoute { .. }) && started.elapsed() < DEADLINE, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn poison(settings: &[&str], apache: Option<&Cluster>) {
    let mut sets = vec!["mq.enabled=true"];
    sets.extend(settings);
    let serving = Serving::start(&sets).await;
    let runtime = MqRuntime::start("poison").unwrap();
    let namesrv = serving.process.namesrv().unwrap().to_owned();
    let mq = RocketMq::connect(RocketMqConfig { namesrv, ..RocketMqConfig::default() }, &runtime).await.unwrap();
    // In two copies, and with a good one behind it.
    let bad = message("77", r#"{"orderId":["13800138000"]}"#);
    for message in [bad.clone(), bad, message("78", &GOOD.replace("77", "78"))] {
        publish(&mq, &message).await;
    }
    until(&serving, "77", 3).await;
    until(&serving, "78", 0).await;

    let operators = mq.subscribe("operators", &[format!("%DLQ%{GROUP}")]).await.unwrap();
    let started = Instant::now();
    let mut letters = Vec::new();
    while letters.is_empty() {
        assert!(started.elapsed() < DEADLINE);
        letters = operators.poll(16, Duration::from_millis(200)).await;
    }
    letters.extend(operators.poll(16, Duration::from_millis(500)).await);
    // A send whose answer comes late is made again: a copy of the same letter, which its readers know by its id.
    letters.dedup_by(|copy, letter| copy.property("eventId") == letter.property("eventId"));
    assert_eq!(letters.len(), 1, "{letters:?}");
    let letter = &letters[0];
    assert!(letter.property("dlqReason").unwrap().starts_with("the body of INVENTORY_RELEASE cannot be read"));
    assert_eq!(letter.property("dlqOriginTopic"), Some("INVENTORY_RELEASE"));
    assert_eq!((letter.property("dlqAttempts"), letter.key.as_str()), (Some("1"), "77"));
    operators.shutdown().await;

    match apache {
        // To the group alone, by RocketMQ's own tool, which knows nothing of ruyi's properties.
        Some(apache) => {
            let topic = format!("%RETRY%{GROUP}");
            let body = GOOD.replace('}', r#","eventId":"77:INVENTORY_RELEASE"}"#);
            let args = ["sendMessage", "-t", &topic, "-p", &body, "-k", "77", "-c", "INVENTORY_RELEASE"];
            apache.mqadmin(&args).await;
        }
        // A copy of the dead letter, repaired: this broker puts nothing on %RETRY%.
        None => {
            let again = Outgoing { properties: letter.properties.clone(), ..message("77", GOOD) };
            publish(&mq, &again).await;
        }
    }
    until(&serving, "77", 0).await;
    mq.shutdown().await;
    runtime.shutdown(Duration::from_secs(5)).await;
    serving.stop().await;
}

#[cfg(feature = "embedded")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_dies_once_and_resent_lives_on_embedded_broker() {
    poison(&["mq.embedded.namesrv_port=0", "mq.embedded.broker_port=0"], None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_dies_once_and_resent_lives_on_apache() {
    let Some(apache) = Cluster::start(ClusterPlan::default()).await else { return };
    poison(&[&format!("mq.namesrv={}", apache.namesrv())], Some(&apache)).await;
}
