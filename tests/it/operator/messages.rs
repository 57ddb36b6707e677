//! `ruyi mq messages`.

use super::Operator;
use crate::servers::java::Java;
use crate::servers::rocketmq::apache;
use crate::servers::unique;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_from_stdin_reaches_a_java_consumer() {
    let (Some(java), Some(apache)) = (Java::compile(), apache().await) else { return };
    let (topic, group) = (unique("SENT_BY_HAND"), unique("java-reads"));
    let mut services = java.start("Operate", &[&apache.namesrv()]);
    services.give(&[format!("topic {topic} 2"), format!("consume {group} {topic} B")]);
    services.until(&format!("up {group}")).await;
    let operator = Operator::new(&apache.namesrv());
    let send = ["mq", "messages", "send", &topic, "--stdin", "--tag", "B", "--key", "order-7", "--yes"];
    let output = operator.run_with(&send, b"first\nsecond\n").await;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let got = services.until(&format!("got {group} {topic} 0 1")).await;
    let mut bodies: Vec<&str> =
        got.iter().filter_map(|line| line.split_once(" order-7 ")).map(|(_, body)| body).collect();
    bodies.sort_unstable();
    assert_eq!(bodies, ["first", "second"], "{got:?}");
}
