//! `ruyi mq topics`.

use super::{Operator, masked};
use crate::servers::java::Java;
use crate::servers::rocketmq::apache;
use crate::servers::unique;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_of_java_services_are_listed_on_rocketmq() {
    let (Some(java), Some(apache)) = (Java::compile(), apache().await) else { return };
    let topic = unique("JAVA_TOPIC");
    let mut services = java.start("Operate", &[&apache.namesrv()]);
    services.give(&[format!("topic {topic} 3"), format!("send {topic} 5 order")]);
    services.until(&format!("sent {topic}")).await;
    let operator = Operator::new(&apache.namesrv());
    let items = operator.items(&["mq", "topics", "list"]).await;
    let own = items.into_iter().find(|item| item["topic"] == topic.as_str()).unwrap();
    insta::assert_json_snapshot!("topics_list", masked(own, &["topic", "lastStored", "perSecond"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_cluster_it_says_so() {
    let operator = Operator::new("127.0.0.1:1");
    let said = operator.refuses(&["mq", "topics", "list"], 1).await;
    assert!(said.contains("127.0.0.1:1") && said.contains("help: "), "{said}");
}
