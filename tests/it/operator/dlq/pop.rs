//! Dead letters of a group whose members pop, as those do that speak gRPC: they read a retry topic for each topic.

use ruyi::mq::operate::{Permission, TopicSpec};
use serde_json::json;

use crate::support::broker_bench::BrokerBench;
use crate::support::dead_letters::{exported, import, letter};
use crate::support::operators::Operator;
use crate::support::servers::rocketmq::apache;
use crate::support::servers::unique;
use crate::support::waiting::eventually;

/// The letter, with the property by which a broker remembers where it was taken at last.
fn with_retry_topic(line: &str, retry_topic: &str) -> String {
    let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
    let properties = line["properties"].as_array_mut().unwrap();
    properties.retain(|pair| pair[0] != "dlqOriginTopic");
    properties.push(json!(["RETRY_TOPIC", retry_topic]));
    format!("{line}\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_of_pop_go_where_it_looks() {
    let Some(apache) = apache().await else { return };
    let bench = BrokerBench::at(apache.namesrv()).await;
    let operator = Operator::new(&apache.namesrv());
    let (group, topic) = (unique("pop-group"), unique("POP_ORDERS"));
    let (plain, second) = (format!("%RETRY%{group}_{topic}"), format!("%RETRY%{group}+{topic}"));
    for addr in bench.mq.master_addrs().await.unwrap().values() {
        for name in [&topic, &plain] {
            let name = name.clone();
            let spec = TopicSpec { name, queues: 1, permission: Permission::ReadWrite, message_type: None };
            bench.mq.put_topic(addr, &spec).await.unwrap();
        }
    }

    let of = |number: usize, retry_topic: &str| with_retry_topic(&letter(&group, number, "one"), retry_topic);
    import(&operator, &[of(1, &plain), of(2, &second), of(3, &topic)].concat()).await;
    let letters = exported(&operator, &group).await;
    assert_eq!(letters.len(), 3);
    for letter in &letters {
        let id = letter["id"].as_str().unwrap();
        let shown = operator.items(&["mq", "dlq", "show", &group, id]).await;
        assert_eq!(shown[0]["originTopic"], topic.as_str(), "{shown:?}");
    }

    let replay = ["mq", "dlq", "replay", &group, "--yes", "--watch", "0s"];
    let output = operator.run(&[&replay[..], &["--output", "json"]].concat()).await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("behind a proxy"), "{stderr}");
    // No client may send to the form with `+`, and brokers that have it read the other one as well. One that died at its
    // first attempt was in no retry topic, and goes to the one that is there.
    eventually("the letters are where pop looks", async || {
        let (ranges, _) = bench.mq.queue_ranges(&plain).await.unwrap();
        ranges.iter().map(|range| range.max).sum::<i64>() == 3
    })
    .await;
    let wrong = bench.mq.topic(&format!("%RETRY%{group}")).await.unwrap();
    assert!(wrong.is_empty(), "nothing was sent to where nobody looks: {wrong:?}");

    // By the topic of origin they go as well.
    let by_topic = ["--via", "topic", "--dry-run"];
    let other = Operator::new(&apache.namesrv());
    let planned = other.items(&[&["mq", "dlq", "replay", &group], &by_topic[..]].concat()).await;
    assert_eq!((&planned[0]["due"], &planned[0]["refusedOrigin"]), (&json!(3), &json!(0)));
}
