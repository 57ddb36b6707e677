//! The client against the embedded broker and against Apache RocketMQ: the same tests on both.

use std::time::{Duration, Instant};

use ruyi::mq::rocketmq::PublishError;

use crate::support::client_bench::{
    DEADLINE, EitherBroker, WAIT, assert_ordered_per_key, bodies, collect, message, next_offsets, numbered,
};

/// Makes a test for each broker out of a function that takes it.
macro_rules! on_both_brokers {
    ($($name:ident),* $(,)?) => {
        mod embedded_broker {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::EitherBroker::Embedded(tempfile::tempdir().unwrap())).await;
            })*
        }
        mod apache_broker {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(apache) = crate::support::servers::rocketmq::apache().await {
                    super::$name(super::EitherBroker::Apache(apache)).await;
                }
            })*
        }
    };
}

on_both_brokers!(
    batches_of_several_topics_arrive_in_order_per_key,
    a_group_goes_on_after_what_it_committed,
    polls_that_are_given_up_lose_nothing,
    members_of_a_group_share_its_queues,
    retry_and_dead_letter_topics_take_messages,
    a_message_that_is_too_large_is_refused_alone,
);

async fn batches_of_several_topics_arrive_in_order_per_key(which: EitherBroker) {
    let (created, physical) = (which.name("ORDER_CREATED"), which.name("order-created"));
    let (frozen, group) = (which.name("STOCK_FROZEN"), which.name("stock-consumer-group"));
    let bench = which.bench(|config| drop(config.topics.insert(created.clone(), physical))).await;
    let topics = bench.topics(&[&created, &frozen]).await;
    assert!(bench.mq.is_reachable().await);
    let mut batch = numbered(&created, 7, 60);
    batch.extend(numbered(&frozen, 7, 60));
    bench.send(&batch).await;

    let consumer = bench.mq.subscribe(&group, &topics).await.unwrap();
    let got = collect(&consumer, batch.len()).await;
    assert_eq!(got.len(), batch.len());
    assert_ordered_per_key(&got, 14, 60);
    let first = &got[0];
    assert!(topics.contains(&first.queue.topic), "{first:?}");
    assert_eq!(first.tag, first.queue.topic);
    assert_eq!(first.properties, [(String::from("eventId"), format!("{}:1", first.key))]);
    assert!(first.born_ms > 1_600_000_000_000, "{first:?}");

    consumer.commit(&next_offsets(&got)).await;
    let started = Instant::now();
    loop {
        let lag = bench.mq.lag(&group, &topics).await.unwrap();
        assert_eq!(lag.len(), 8, "{lag:?}");
        // Queues that no key chose have nothing committed, and may be unknown.
        if lag.iter().all(|(_, lag)| lag.lag().unwrap_or(0) == 0) && lag.iter().any(|(_, lag)| lag.lag() == Some(0)) {
            break;
        }
        assert!(started.elapsed() < DEADLINE, "{lag:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    consumer.shutdown().await;
    assert!(consumer.poll(1, Duration::ZERO).await.is_empty());
    bench.stop().await;
}

async fn a_group_goes_on_after_what_it_committed(which: EitherBroker) {
    let (topic, group) = (which.name("ORDER_CREATED"), which.name("g"));
    let bench = which.bench(|_| ()).await;
    let topics = bench.topics(&[&topic]).await;
    bench.send(&numbered(&topic, 1, 100)).await;

    let consumer = bench.mq.subscribe(&group, &topics).await.unwrap();
    let got = collect(&consumer, 100).await;
    // The first 40 are done, the others are not.
    let (done, open) = got.split_at(40);
    consumer.commit(&next_offsets(done)).await;
    consumer.shutdown().await;

    let consumer = bench.mq.subscribe(&group, &topics).await.unwrap();
    let again = collect(&consumer, 60).await;
    assert_eq!(again, open);
    // What was committed does not come back, what is new comes.
    bench.send(&[message(&topic, "k0", "last")]).await;
    let last = collect(&consumer, 1).await;
    assert_eq!(last.len(), 1);
    assert_eq!(&last[0].body[..], b"last");
    consumer.shutdown().await;
    bench.stop().await;
}

async fn polls_that_are_given_up_lose_nothing(which: EitherBroker) {
    let (topic, group) = (which.name("T"), which.name("g"));
    let bench = which.bench(|_| ()).await;
    let topics = bench.topics(&[&topic]).await;
    let consumer = bench.mq.subscribe(&group, &topics).await.unwrap();
    let batch = numbered(&topic, 20, 50);
    let started = Instant::now();
    let mut got = Vec::new();
    let mut sent = batch.chunks(100);
    while got.len() < batch.len() {
        assert!(started.elapsed() < DEADLINE, "{} of {} messages came", got.len(), batch.len());
        if let Some(chunk) = sent.next() {
            bench.send(chunk).await;
        }
        // Most of these are dropped while they wait.
        let poll = consumer.poll(7, Duration::from_millis(50));
        if let Ok(messages) = tokio::time::timeout(Duration::from_millis(1), poll).await {
            assert!(messages.len() <= 7);
            got.extend(messages);
        }
    }
    assert_ordered_per_key(&got, 20, 50);
    consumer.shutdown().await;
    bench.stop().await;
}

async fn members_of_a_group_share_its_queues(which: EitherBroker) {
    let (topic, group) = (which.name("T"), which.name("g"));
    let bench = which.bench(|_| ()).await;
    let topics = bench.topics(&[&topic]).await;
    let first = bench.mq.subscribe(&group, &topics).await.unwrap();
    let second = bench.mq.subscribe(&group, &topics).await.unwrap();
    let started = Instant::now();
    loop {
        let (a, b) = (first.assignment().await.unwrap(), second.assignment().await.unwrap());
        if a.len() == 2 && b.len() == 2 && a.iter().all(|queue| !b.contains(queue)) {
            break;
        }
        assert!(started.elapsed() < DEADLINE, "{a:?} {b:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let batch = numbered(&topic, 40, 5);
    bench.send(&batch).await;
    let (mut a, mut b) = (Vec::new(), Vec::new());
    while a.len() + b.len() < batch.len() {
        assert!(started.elapsed() < DEADLINE, "{} and {} of {}", a.len(), b.len(), batch.len());
        a.extend(first.poll(64, WAIT).await);
        b.extend(second.poll(64, WAIT).await);
    }
    assert!(!a.is_empty() && !b.is_empty());
    first.commit(&next_offsets(&a)).await;
    second.commit(&next_offsets(&b)).await;
    // Who stays takes over where the first stopped. The embedded broker tells members of one that joins, but not of one
    // that leaves (they would see it at their next look, every 20 s).
    first.shutdown().await;
    let third = bench.mq.subscribe(&group, &topics).await.unwrap();
    let more = numbered(&topic, 40, 6).split_off(40 * 5);
    bench.send(&more).await;
    let mut taken = Vec::new();
    // Queues may pass through the second one, uncommitted, on their way to the third: then they come twice.
    while bodies(&taken).len() < more.len() {
        assert!(started.elapsed() < DEADLINE, "{} of {}", taken.len(), more.len());
        taken.extend(second.poll(64, WAIT).await);
        taken.extend(third.poll(64, WAIT).await);
    }
    assert!(taken.iter().all(|message| &message.body[..] == b"5"));
    third.shutdown().await;
    second.shutdown().await;
    bench.stop().await;
}

async fn retry_and_dead_letter_topics_take_messages(which: EitherBroker) {
    let is_embedded = matches!(which, EitherBroker::Embedded(_));
    let (group, operator) = (which.name("stock-consumer-group"), which.name("operator"));
    let (dead, again) = (format!("%DLQ%{group}"), format!("%RETRY%{group}"));
    let bench = which.bench(|_| ()).await;
    let batch = [message(&dead, "k1", "dead"), message(&dead, "k2", "dead too"), message(&again, "k3", "again")];
    bench.send(&batch).await;
    let topics = vec![batch[0].topic.clone(), batch[2].topic.clone()];
    let consumer = bench.mq.subscribe(&operator, &topics).await.unwrap();
    let got = collect(&consumer, 3).await;
    assert_eq!(got.len(), 3);
    for sent in &batch {
        let same = got.iter().find(|message| message.body == sent.body).unwrap();
        assert_eq!((&same.key, &same.tag, &same.properties), (&sent.key, &sent.tag, &sent.properties));
        // The embedded broker takes every group for an ordered one, and those get no retry: it stores what is sent to
        // %RETRY% in %DLQ% (Apache RocketMQ does not).
        assert_eq!(same.queue.topic, if is_embedded { &dead } else { &sent.topic }.as_str());
    }
    consumer.shutdown().await;
    bench.stop().await;
}

async fn a_message_that_is_too_large_is_refused_alone(which: EitherBroker) {
    let (topic, group) = (which.name("T"), which.name("g"));
    let bench = which.bench(|config| config.max_message_bytes = 100_000).await;
    let topics = bench.topics(&[&topic]).await;
    let large = "x".repeat(90_000);
    let batch = [
        message(&topic, "k", "before"),
        message(&topic, "k", &large),
        message(&topic, "k", &"y".repeat(100_000)),
        message(&topic, "k", "after"),
    ];
    let results = bench.mq.publish(&batch).await;
    assert!(matches!(results[2], Err(PublishError::TooLarge { max_bytes: 100_000, .. })), "{results:?}");
    assert!(results.iter().enumerate().all(|(index, result)| index == 2 || result.is_ok()), "{results:?}");
    let consumer = bench.mq.subscribe(&group, &topics).await.unwrap();
    let got = collect(&consumer, 3).await;
    let bodies: Vec<_> = got.iter().map(|message| message.body.clone()).collect();
    assert_eq!(bodies, ["before", large.as_str(), "after"]);
    consumer.shutdown().await;
    bench.stop().await;
}
