//! Where even the record of a failure cannot be written: the others of its batch go on, and as much is kept of the
//! message as can be.

use ruyi::db::sql;
use ruyi::domain::event::Group;
use ruyi::mq::message::{Incoming, QueueId};
use serde_json::json;
use sqlx::Connection;

use crate::support::failing_handler::{FailingHandler, inbox, open};
use crate::support::servers::mariadb::MariaDb;
use crate::support::shop::{Fault, Setup, Shop};

fn grant(key: &str, offset: i64) -> Incoming {
    Incoming {
        queue: QueueId { topic: "POINTS_GRANT".to_owned(), broker: "outside".to_owned(), queue: 3 },
        offset,
        tag: String::new(),
        key: key.to_owned(),
        body: json!({ "userId": "1001", "points": 5, "note": "x".repeat(2_000) }).to_string().into(),
        unreadable: None,
        properties: vec![],
        born_ms: 0,
        stored_ms: 0,
    }
}

/// From now on a table takes no row of which this is true.
async fn forbid(shop: &Shop, table: &str, which: &str) {
    let text = format!(
        "CREATE TRIGGER no_{table} BEFORE INSERT ON {table} WHEN {which} BEGIN SELECT RAISE(ABORT, 'not this one'); END"
    );
    sql::execute(&mut shop.db.read().await.unwrap(), text, vec![]).await.unwrap();
}

/// A shop whose points group cannot handle the message with the key `bad`, which is between two others.
async fn batch() -> (Shop, Vec<Incoming>) {
    let bad = FailingHandler::default();
    let shop = open(bad.setup()).await;
    bad.set(Group::Points, "bad", Fault::Error);
    (shop, vec![grant("before", 16), grant("bad", 17), grant("after", 18)])
}

/// The outcomes of a batch in the inbox.
async fn outcomes(shop: &Shop) -> Vec<Vec<i64>> {
    let mut all = Vec::new();
    for key in ["before", "bad", "after"] {
        all.push(inbox(shop, Group::Points, key).await.into_iter().map(|(_, outcome)| outcome).collect());
    }
    all
}

/// What the dead letters hold: body and properties.
async fn letters(shop: &Shop) -> Vec<Vec<String>> {
    shop.rows("SELECT CAST(body AS CHAR), CAST(properties AS CHAR) FROM message_record WHERE topic LIKE '%DLQ%'").await
}

#[tokio::test]
async fn what_cannot_be_parked_is_a_letter_without_body() {
    let (shop, batch) = batch().await;
    forbid(&shop, "message_retry_log", "NEW.msg_key = 'bad'").await;
    shop.consumer(Group::Points).process(batch).await.unwrap();
    assert_eq!(outcomes(&shop).await, [[0], [3], [0]]);
    let letters = letters(&shop).await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    let body: serde_json::Value = serde_json::from_str(&letters[0][0]).unwrap();
    assert_eq!((&body["broker"], &body["queue"], &body["offset"]), (&json!("outside"), &json!(3), &json!(17)));
    assert_eq!((&body["topic"], body["sha256"].as_str().map(str::len)), (&json!("POINTS_GRANT"), Some(64)));
    assert!(letters[0][1].contains("bad:POINTS_GRANT") && letters[0][1].contains("not this one"), "{letters:?}");
}

#[tokio::test]
async fn what_cannot_be_refused_is_a_letter_without_body() {
    let (shop, mut batch) = batch().await;
    forbid(&shop, "message_record", "LENGTH(NEW.body) > 1000 AND NEW.topic LIKE '%DLQ%'").await;
    batch[1].properties.push(("eventId".to_owned(), "e".repeat(97)));
    shop.consumer(Group::Points).process(batch).await.unwrap();
    assert_eq!((outcomes(&shop).await, shop.dead_letters().await), (vec![vec![0], vec![], vec![0]], 1));
    let dead = "SELECT COUNT(*) FROM message_process_log WHERE outcome = 3";
    assert_eq!(shop.count(dead).await, 1);
}

#[tokio::test]
async fn where_no_letter_is_taken_the_inbox_tells() {
    let (shop, batch) = batch().await;
    shop.db.alert_by("https://example.com/alerts");
    forbid(&shop, "message_retry_log", "NEW.msg_key = 'bad'").await;
    forbid(&shop, "message_record", "NEW.topic LIKE '%DLQ%'").await;
    shop.consumer(Group::Points).process(batch).await.unwrap();
    assert_eq!((outcomes(&shop).await, letters(&shop).await.len()), (vec![vec![0], vec![3], vec![0]], 0));
    let reason = shop.rows("SELECT reason FROM message_process_log WHERE outcome = 3").await.remove(0).remove(0);
    assert!(reason.contains("outside:3:17 of POINTS_GRANT") && reason.contains("SHA-256"), "{reason}");
    let alert = shop.rows("SELECT CAST(body AS CHAR) FROM delivery").await.remove(0).remove(0);
    assert!(alert.contains("DEAD_LETTER") && alert.contains("outside:3:17 of POINTS_GRANT"), "{alert}");
}

#[tokio::test]
async fn where_its_row_is_refused_others_are_handled() {
    let (shop, batch) = batch().await;
    forbid(&shop, "message_process_log", "NEW.message_id = 'bad:POINTS_GRANT'").await;
    shop.consumer(Group::Points).process(batch).await.unwrap();
    assert_eq!(outcomes(&shop).await, [vec![0], vec![], vec![0]]);
}

/// A database that takes no row of anybody is no fault of a message: nothing is acknowledged.
#[tokio::test]
async fn where_no_row_at_all_is_taken_nothing_counts() {
    let (shop, batch) = batch().await;
    forbid(&shop, "message_process_log", "1 = 1").await;
    let error = shop.consumer(Group::Points).process(batch).await.unwrap_err();
    assert!(error.to_string().contains("not this one"), "{error}");
}

/// Another process is at the same message: it is waited for, and what does not need its row goes on, in the order of its
/// key.
#[tokio::test]
async fn a_locked_inbox_row_holds_up_its_key_alone() {
    let Some(server) = MariaDb::start() else { return };
    let url = server.create("ruyi").await;
    let shop = Shop::with(Setup { url: Some(url), ..Setup::default() }, 0).await;
    let mut holder = server.connect("ruyi").await;
    sqlx::raw_sql(
        "BEGIN; INSERT INTO message_process_log \
         (consumer_group, message_id, batch_id, topic, msg_key, outcome, consumed_at) \
         VALUES ('points-consumer-group', 'first', 1, 'POINTS_GRANT', 'K', 0, 1)",
    )
    .execute(&mut holder)
    .await
    .unwrap();
    let known_as = |id: &str, key: &str, offset| {
        let mut message = grant(key, offset);
        message.properties.push(("eventId".to_owned(), id.to_owned()));
        message
    };
    let batch = vec![known_as("first", "K", 1), known_as("other", "L", 2), known_as("second", "K", 3)];
    let ids = "SELECT message_id FROM message_process_log WHERE outcome = 0 ORDER BY batch_id";
    let error = shop.consumer(Group::Points).process(batch.clone()).await.unwrap_err();
    assert_eq!((error.is_locked(), shop.rows(ids).await), (true, vec![vec!["other".to_owned()]]));

    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    holder.close().await.unwrap();
    shop.consumer(Group::Points).process(batch).await.unwrap();
    assert_eq!(shop.count("SELECT COUNT(*) FROM message_process_log WHERE outcome = 0").await, 3);
}
