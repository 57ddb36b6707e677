//! Dead letters that somebody sends again: by the group's own topic, by an inlet, as a copy of the dead letter.

use ruyi::domain::event::{Group, Kind};
use ruyi::mq::message::{Incoming, QueueId};
use serde_json::{Value, json};

use crate::support::failing_handler::{FailingHandler, inbox, now, open, order};
use crate::support::shop::{Fault, Setup, Shop};

/// A message on a topic, sent now.
fn sent(shop: &Shop, topic: &str, key: &str, body: &[u8], properties: Vec<(String, String)>) -> Incoming {
    Incoming {
        queue: QueueId { topic: topic.to_owned(), broker: "shop".to_owned(), queue: 0 },
        offset: 0,
        tag: String::new(),
        key: key.to_owned(),
        body: body.to_vec().into(),
        unreadable: None,
        properties,
        born_ms: shop.clock.now_ms(),
        stored_ms: shop.clock.now_ms(),
    }
}

fn named(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// An order whose ORDER_CREATED has died in the stock group, and that message.
async fn dead(bad: &FailingHandler) -> (Shop, String, Incoming) {
    let mut shop = open(bad.setup()).await;
    let id = order(&shop).await;
    shop.relay(0.0).await;
    let message = shop.queue(Group::Stock)[0].clone();
    bad.set(Group::Stock, &id, Fault::Retry);
    shop.settle_within(600_000).await;
    assert_eq!((shop.dead_letters().await, shop.parked().await), (1, 0));
    assert_eq!(inbox(&shop, Group::Stock, &id).await, [("ORDER_CREATED".to_owned(), 3)]);
    shop.clock.advance_ms(1);
    (shop, id, message)
}

async fn give(shop: &mut Shop, group: Group, message: &Incoming) {
    shop.queue(group).push(message.clone());
    now(shop).await;
}

/// The ways in which a message can be sent to one group again.
fn resends(shop: &Shop, first: &Incoming) -> Vec<Incoming> {
    let body = &first.body;
    let group = format!("%RETRY%{}", Group::Stock.name());
    let with = |more: &[(&str, &str)]| {
        let mut all = first.properties.clone();
        all.extend(more.iter().map(|(name, value)| named(name, value)));
        all
    };
    let only_tag = Incoming { tag: "ORDER_CREATED".to_owned(), ..sent(shop, &group, &first.key, body, vec![]) };
    vec![
        // As a broker's own retry carries it, or with nothing but what ruyi sent.
        sent(shop, &group, &first.key, body, with(&[("RETRY_TOPIC", "ORDER_CREATED")])),
        sent(shop, &group, &first.key, body, with(&[("DLQ_ORIGIN_TOPIC", "ORDER_CREATED")])),
        sent(shop, &group, &first.key, body, with(&[])),
        // A tool that keeps tag and body only.
        only_tag,
        // A copy of the dead letter, to where it came from.
        sent(shop, "ORDER_CREATED", &first.key, body, with(&[("dlqOriginTopic", "ORDER_CREATED")])),
    ]
}

#[tokio::test]
async fn dead_letter_sent_again_is_handled_once() {
    for way in 0..5 {
        let bad = FailingHandler::default();
        let (mut shop, id, first) = dead(&bad).await;
        // A copy of what died is a duplicate, whenever it comes: also one that the relay sends late.
        give(&mut shop, Group::Stock, &first).await;
        let late = Incoming { born_ms: shop.clock.now_ms(), ..first.clone() };
        give(&mut shop, Group::Stock, &late).await;
        bad.heal();
        assert_eq!(shop.stock("TEA").await, (1_000, 0, 0));
        let again = resends(&shop, &first).remove(way);
        give(&mut shop, Group::Stock, &again).await;
        assert_eq!(shop.stock("TEA").await, (999, 1, 0), "way {way}");
        assert_eq!(inbox(&shop, Group::Stock, &id).await, [("ORDER_CREATED".to_owned(), 0)]);
        // Handled: every further copy is a duplicate.
        shop.clock.advance_ms(1);
        for message in resends(&shop, &first).into_iter().chain([again, first]) {
            give(&mut shop, Group::Stock, &message).await;
        }
        assert_eq!(shop.stock("TEA").await, (999, 1, 0));
        // Only the stock group was asked.
        assert_eq!((shop.status(&id).await.as_str(), shop.dead_letters().await), ("RESERVED", 1));
    }
}

/// The clock of whoever replays is behind: when the broker stored the replay counts. Of other copies it does not.
#[tokio::test]
async fn dead_letter_replayed_by_a_clock_behind_counts() {
    let retry = format!("%RETRY%{}", Group::Stock.name());
    for topic in [retry.as_str(), "ORDER_CREATED"] {
        let bad = FailingHandler::default();
        let (mut shop, id, first) = dead(&bad).await;
        bad.heal();
        let with = |more: &[(&str, &str)]| {
            let mut all = first.properties.clone();
            all.push(named("dlqOriginTopic", "ORDER_CREATED"));
            all.extend(more.iter().map(|(name, value)| named(name, value)));
            all
        };
        let behind = shop.clock.now_ms() - 3_600_000;
        let born_behind = |message: Incoming| Incoming { born_ms: behind, ..message };
        // Not replayed, or stored before the death, it is a copy of what died.
        let copy = born_behind(sent(&shop, topic, &first.key, &first.body, with(&[])));
        let replay = born_behind(sent(&shop, topic, &first.key, &first.body, with(&[("dlqReplays", "1")])));
        let old = Incoming { stored_ms: behind, ..replay.clone() };
        for message in [copy, old] {
            give(&mut shop, Group::Stock, &message).await;
            assert_eq!(inbox(&shop, Group::Stock, &id).await, [("ORDER_CREATED".to_owned(), 3)], "{topic}");
        }
        for _ in 0..2 {
            give(&mut shop, Group::Stock, &replay).await;
            assert_eq!(inbox(&shop, Group::Stock, &id).await, [("ORDER_CREATED".to_owned(), 0)], "{topic}");
        }
        assert_eq!(shop.stock("TEA").await, (999, 1, 0));
    }
}

/// A replay that is named is handled once, and no clock is asked: both may be behind the death, or ahead of it.
#[tokio::test]
async fn named_replay_is_handled_once_whatever_the_clocks() {
    let retry = format!("%RETRY%{}", Group::Stock.name());
    for (topic, shift_ms) in [(retry.as_str(), -3_600_000), ("ORDER_CREATED", 3_600_000)] {
        let bad = FailingHandler::default();
        let (mut shop, id, first) = dead(&bad).await;
        let at_ms = shop.clock.now_ms() + shift_ms;
        let [one, two] = ["one", "two"].map(|name| {
            let noted = [("dlqOriginTopic", "ORDER_CREATED"), ("dlqReplays", "1"), ("dlqReplayId", name)];
            let mut properties = first.properties.clone();
            properties.extend(noted.map(|(name, value)| named(name, value)));
            let replay = sent(&shop, topic, &first.key, &first.body, properties);
            Incoming { born_ms: at_ms, stored_ms: at_ms, ..replay }
        });
        let before = bad.calls();
        give(&mut shop, Group::Stock, &one).await;
        shop.settle_within(600_000).await;
        assert_eq!((bad.calls() - before, shop.parked().await, shop.dead_letters().await), (4, 0, 2), "{topic}");
        // Whoever sends the second letter on as it stands does not send this replay.
        let letters = "SELECT CAST(properties AS CHAR) FROM message_record WHERE topic LIKE '%DLQ%' ORDER BY id";
        let second = shop.rows(letters).await[1][0].clone();
        assert!(second.contains("dlqReplays") && !second.contains("dlqReplayId"), "{second}");

        for copy in [&one, &first, &one] {
            give(&mut shop, Group::Stock, copy).await;
        }
        assert_eq!((bad.calls() - before, shop.parked().await, shop.dead_letters().await), (4, 0, 2), "{topic}");
        bad.heal();
        // The next replay may come with late copies in one batch.
        shop.queue(Group::Stock).extend([first.clone(), one.clone(), two.clone(), two.clone()]);
        now(&mut shop).await;
        assert_eq!(inbox(&shop, Group::Stock, &id).await, [("ORDER_CREATED".to_owned(), 0)], "{topic}");
        for copy in [&two, &one] {
            give(&mut shop, Group::Stock, copy).await;
        }
        assert_eq!((shop.stock("TEA").await, shop.dead_letters().await), ((999, 1, 0), 2), "{topic}");
    }
}

#[tokio::test]
async fn resent_message_has_all_attempts_and_may_die_again() {
    let bad = FailingHandler::default();
    let (mut shop, id, first) = dead(&bad).await;
    let before = bad.calls();
    let again = resends(&shop, &first).remove(4);
    give(&mut shop, Group::Stock, &again).await;
    assert_eq!((bad.calls() - before, shop.parked().await), (1, 1));
    // While it is parked, other copies are duplicates.
    shop.clock.advance_ms(1);
    let copy = resends(&shop, &first).remove(0);
    give(&mut shop, Group::Stock, &copy).await;
    assert_eq!((bad.calls() - before, shop.parked().await), (1, 1));
    shop.settle_within(600_000).await;
    assert_eq!((bad.calls() - before, shop.parked().await, shop.dead_letters().await), (4, 0, 2));
    // A copy of that resend is older than the second death.
    give(&mut shop, Group::Stock, &again).await;
    give(&mut shop, Group::Stock, &copy).await;
    assert_eq!((bad.calls() - before, shop.dead_letters().await), (4, 2));
    bad.heal();
    shop.clock.advance_ms(1);
    let last = resends(&shop, &first).remove(0);
    give(&mut shop, Group::Stock, &last).await;
    assert_eq!((shop.status(&id).await.as_str(), shop.stock("TEA").await), ("RESERVED", (999, 1, 0)));
}

#[tokio::test]
async fn dead_letter_keeps_its_first_failure_through_every_resend() {
    let bad = FailingHandler::default();
    let (mut shop, _, first) = dead(&bad).await;
    let dead_letters = "SELECT CAST(properties AS CHAR) FROM message_record WHERE topic LIKE '%DLQ%' ORDER BY id";
    let properties = |row: &Vec<String>| serde_json::from_str::<Vec<(String, String)>>(&row[0]).unwrap();
    let letter = properties(&shop.rows(dead_letters).await[0]);
    let again = sent(&shop, "%RETRY%stock-consumer-group", &first.key, &first.body, letter.clone());
    give(&mut shop, Group::Stock, &again).await;
    shop.settle_within(600_000).await;
    let second = properties(&shop.rows(dead_letters).await[1]);
    assert_eq!(second, letter, "the same reason, origin, first failure and attempts");
}

#[tokio::test]
async fn foreign_event_dies_once_for_each_time_sent() {
    let mut shop = open(Setup::default()).await;
    let junk = sent(&shop, "%RETRY%stock-consumer-group", "k", b"{}", vec![named("eventId", "junk")]);
    give(&mut shop, Group::Stock, &junk).await;
    give(&mut shop, Group::Stock, &junk).await;
    assert_eq!(shop.dead_letters().await, 1);
    shop.clock.advance_ms(1);
    let again = Incoming { born_ms: shop.clock.now_ms(), ..junk };
    give(&mut shop, Group::Stock, &again).await;
    assert_eq!(shop.dead_letters().await, 2);
}

#[tokio::test]
async fn foreign_event_dies_once_for_each_named_replay() {
    let mut shop = open(Setup::default()).await;
    for (name, letters) in [("one", 1), ("one", 1), ("two", 2), ("one", 2), ("two", 2)] {
        shop.clock.advance_ms(1);
        let properties = vec![named("eventId", "junk"), named("dlqReplayId", name)];
        let junk = sent(&shop, "%RETRY%stock-consumer-group", "k", b"{}", properties);
        give(&mut shop, Group::Stock, &junk).await;
        assert_eq!(shop.dead_letters().await, letters, "{name}");
    }
}

/// What the outbox holds of an event: its body, as an operator copies it.
async fn body(shop: &Shop, kind: Kind) -> String {
    let text = "SELECT topic, CAST(body AS CHAR) FROM message_record";
    let rows = shop.rows(text).await;
    rows.iter().find(|row| row[0] == kind.name()).unwrap()[1].clone()
}

#[tokio::test]
async fn inlet_runs_dead_letter_in_the_group_owning_it() {
    let inlets = [
        (Kind::PaidOrderSuccessRetry, Group::PaidOrder),
        (Kind::TriggerOrderFulfillRetry, Group::Fulfil),
        (Kind::InventoryDeductRetry, Group::Stock),
    ];
    for (inlet, group) in inlets {
        assert_eq!(inlet.groups(), [group]);
        let original = inlet.repeats().unwrap();
        for without_id in [false, true] {
            let bad = FailingHandler::default();
            let mut shop = open(bad.setup()).await;
            let id = order(&shop).await;
            now(&mut shop).await;
            bad.set(group, &id, Fault::Error);
            shop.pay(&id, json!({})).await;
            shop.settle_within(600_000).await;
            assert_eq!(shop.dead_letters().await, 1, "{inlet:?}");
            let points = shop.points(1).await;
            bad.heal();
            shop.clock.advance_ms(1);
            let mut text = body(&shop, original).await;
            if without_id {
                let mut json: Value = serde_json::from_str(&text).unwrap();
                json.as_object_mut().unwrap().remove("eventId");
                text = json.to_string();
            }
            let message = sent(&shop, inlet.name(), &id, text.as_bytes(), vec![]);
            give(&mut shop, group, &message).await;
            shop.settle().await;
            assert_eq!(shop.outcome(&id).await, "SIGNED", "{inlet:?}");
            assert_eq!((shop.stock("TEA").await, shop.points(1).await), ((999, 0, 1), points));
            // It was handled: once more is once too often.
            shop.clock.advance_ms(1);
            let message = sent(&shop, inlet.name(), &id, text.as_bytes(), vec![]);
            give(&mut shop, group, &message).await;
            shop.settle().await;
            assert_eq!((shop.stock("TEA").await, shop.dead_letters().await), ((999, 0, 1), 1));
        }
    }
}

#[tokio::test]
async fn inlet_under_its_own_id_changes_nothing_twice() {
    let mut shop = open(Setup::default()).await;
    // Held back after the payment: it is triggered, but not yet with the warehouse.
    let id = shop.place_order(1, &[("TEA", 1)], json!({"holdSeconds": 3_600})).await;
    now(&mut shop).await;
    shop.pay(&id, json!({})).await;
    shop.settle_within(60_000).await;
    for (number, inlet) in
        [Kind::PaidOrderSuccessRetry, Kind::InventoryDeductRetry, Kind::PaidOrderSuccessRetry].into_iter().enumerate()
    {
        let text = body(&shop, inlet.repeats().unwrap()).await;
        let message = sent(&shop, inlet.name(), &id, text.as_bytes(), vec![named("eventId", &format!("own-{number}"))]);
        let twice = Incoming { properties: vec![named("eventId", &format!("other-{number}"))], ..message.clone() };
        shop.queue(inlet.groups()[0]).extend([message, twice]);
    }
    shop.settle().await;
    assert_eq!((shop.outcome(&id).await.as_str(), shop.stock("TEA").await), ("SIGNED", (999, 0, 1)));
    assert_eq!(shop.count("SELECT COUNT(*) FROM delivery WHERE kind = 3").await, 1);
    shop.audit().await;
}
