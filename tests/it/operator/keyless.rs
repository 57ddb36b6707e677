//! Events that others send without KEYS: no index of a broker knows them.

use ruyi::clock::Clock;
use ruyi::db::sql;
use ruyi::mq::message::{Delay, Outgoing};
use ruyi::vals;

use crate::support::broker_bench::BrokerBench;
use crate::support::operators::Operator;
use crate::support::servers::rocketmq::apache;
use crate::support::servers::{sqlite, unique};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_without_keys_are_found_by_identity() {
    let Some(apache) = apache().await else { return };
    let bench = BrokerBench::at(apache.namesrv()).await;
    let (topic, test) = (unique("KEYLESS"), sqlite().await);
    bench.mq.ensure_topics(std::slice::from_ref(&topic), 2).await.unwrap();
    let bodies = [r#"{"orderId":"77","eventId":"other"}"#, r#"{"orderId":77}"#, r#"{"orderId":"78"}"#];
    let messages = bodies.map(|body| Outgoing {
        topic: topic.clone(),
        tag: String::new(),
        key: String::new(),
        body: body.into(),
        properties: Vec::new(),
        delay: Delay::None,
    });
    for result in bench.mq.publish(&messages).await {
        result.unwrap();
    }

    let now_ms = Clock::system().now_ms();
    let mut conn = test.db.read().await.unwrap();
    for (id, outcome) in [("77:ORDER_AUTO_CANCEL", 0_i64), ("other", 1)] {
        let text = "INSERT INTO message_process_log (consumer_group, message_id, batch_id, topic, msg_key, outcome, consumed_at) \
                    VALUES ('order-consumer-group', ?, 1, 'ORDER_AUTO_CANCEL', '77', ?, ?)";
        sql::execute(&mut conn, text, vals![id, outcome, now_ms]).await.unwrap();
    }
    drop(conn);
    let settings = [
        format!("database.url={}", test.url),
        format!("mq.namesrv={}", apache.namesrv()),
        format!("mq.topics.ORDER_AUTO_CANCEL={topic}"),
    ];
    let operator = Operator::with(&settings.each_ref().map(String::as_str));
    for args in [["trace", "order", "77"], ["trace", "event", "77:ORDER_AUTO_CANCEL"]] {
        let items = operator.items(&args).await;
        let mut copies: Vec<&str> = items
            .iter()
            .filter(|item| item["source"] == "broker")
            .map(|item| item["event"].as_str().unwrap())
            .collect();
        copies.sort_unstable();
        let wanted: &[&str] =
            if args[1] == "order" { &["77:ORDER_AUTO_CANCEL", "other"] } else { &["77:ORDER_AUTO_CANCEL"] };
        assert_eq!(copies, wanted, "{items:?}");
    }
}
