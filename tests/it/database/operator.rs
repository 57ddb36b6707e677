//! What operators read of the tables, and what they send again.

use bytes::Bytes;
use ruyi::db::outbox::log::{self, Again, Filter, Logged};
use ruyi::db::outbox::{self, Failure, OutboxRow, Status, TIMER_PROPERTY};
use ruyi::db::sql;
use ruyi::db::trace::{self, By};
use ruyi::domain::id::first_id_of;
use ruyi::vals;

use crate::support::servers::{START_MS, TestDb, write_tx};

const MINUTE: i64 = 60_000;

/// The event `<number>:E` of key `k<number % 3>`, written so many minutes after the start.
fn row(number: i64) -> OutboxRow {
    let mut properties = outbox::properties(&format!("{number}:E"), "E", None);
    if number == 5 {
        properties.push((TIMER_PROPERTY.to_owned(), "77".to_owned()));
    }
    OutboxRow {
        id: first_id_of(START_MS + number * MINUTE, 7),
        event_id: format!("{number}:E"),
        topic: if number % 2 == 0 { "EVEN".into() } else { "ODD".into() },
        tag: "E".into(),
        key: format!("k{}", number % 3),
        body: Bytes::from_static(b"{}"),
        properties,
        deliver_at_ms: 0,
        attempts: 0,
    }
}

/// Nine rows: 1 to 6 sent a minute after they were written, 7 given up, 8 pending, 9 taken back.
async fn nine(test: &TestDb) {
    for number in 1..=9 {
        let (row, at) = (row(number), START_MS + number * MINUTE);
        let done = write_tx!(test.db, [row], |tx| {
            outbox::insert(tx, std::slice::from_ref(&row), at).await?;
            match number {
                1..=6 => outbox::mark_sent(tx, &[row.id], at + MINUTE).await,
                7 => {
                    let failure = Failure { id: row.id, attempts: 3, next_at: None, error: "refused".to_owned() };
                    outbox::mark_failed(tx, vec![failure]).await
                }
                9 => outbox::cancel(tx, vec![row.event_id]).await.map(|_| ()),
                _ => Ok(()),
            }
        });
        done.unwrap();
    }
}

fn ids(rows: &[Logged]) -> Vec<&str> {
    rows.iter().map(|row| row.event_id.strip_suffix(":E").unwrap()).collect()
}

pub(super) async fn the_send_log_is_read_page_by_page(test: TestDb) {
    nine(&test).await;
    let mut conn = test.db.read().await.unwrap();
    let all = Filter::default();
    let first = log::newest(&mut conn, &all, i64::MAX, 4).await.unwrap();
    assert_eq!(ids(&first), ["9", "8", "7", "6"]);
    let rest = log::newest(&mut conn, &all, first[3].id, 9).await.unwrap();
    assert_eq!(ids(&rest), ["5", "4", "3", "2", "1"]);
    let statuses: Vec<&str> = first.iter().chain(&rest).map(|row| row.status.name()).collect();
    assert_eq!(statuses[..4], ["canceled", "pending", "failed", "sent"]);
    assert_eq!((first[2].attempts, first[2].last_error.as_deref()), (3, Some("refused")));
    assert_eq!((rest[0].timer_at, rest[0].sent_at), (Some(77), Some(START_MS + 6 * MINUTE)));
    let mut of = async |filter: &Filter| {
        let rows = log::newest(&mut conn, filter, i64::MAX, 100).await.unwrap();
        ids(&rows).join(" ")
    };
    assert_eq!(of(&Filter { status: Some(Status::Sent), ..all.clone() }).await, "6 5 4 3 2 1");
    assert_eq!(of(&Filter { since_ms: Some(START_MS + 7 * MINUTE), ..all.clone() }).await, "9 8 7");
    assert_eq!(of(&Filter { topic: Some("EVEN".into()), ..all.clone() }).await, "8 6 4 2");
    let both = Filter { key: Some("k1".into()), topic: Some("ODD".into()), ..all };
    assert_eq!(of(&both).await, "7 1");
    assert_eq!(ids(&log::of_key(&mut conn, "k0").await.unwrap()), ["3", "6", "9"]);
    let named = ["7:E", "none", "2:E"].map(str::to_owned).to_vec();
    assert_eq!(ids(&log::of_events(&mut conn, named).await.unwrap()), ["2", "7"]);
}

pub(super) async fn what_was_sent_or_given_up_is_sent_again(test: TestDb) {
    nine(&test).await;
    let again = Again { since_ms: START_MS + 4 * MINUTE, before_ms: START_MS + 7 * MINUTE + 1, ..Again::default() };
    let mut conn = test.db.read().await.unwrap();
    // Sent from the fourth minute on: 3 to 6; given up: 7.
    let shares = log::shares(&mut conn, &again).await.unwrap();
    let told: Vec<_> = shares.iter().map(|share| (share.topic.as_str(), share.rows)).collect();
    assert_eq!(told, [("EVEN", 2), ("ODD", 3)]);
    assert_eq!((shares[1].oldest_ms, shares[1].newest_ms), (START_MS + 3 * MINUTE, START_MS + 7 * MINUTE));
    let page = log::next_again(&mut conn, &again, 0, 3).await.unwrap();
    assert_eq!(page, [row(3).id, row(4).id, row(5).id]);
    let rest = log::next_again(&mut conn, &again, page[2], 9).await.unwrap();
    assert_eq!(rest, [row(6).id, row(7).id]);
    let failed = Again { status: Some(Status::Failed), ..again.clone() };
    assert_eq!(log::next_again(&mut conn, &failed, 0, 9).await.unwrap(), [row(7).id]);
    let of_key = Again { key: Some("k0".into()), topic: Some("EVEN".into()), ..again.clone() };
    assert_eq!(log::next_again(&mut conn, &of_key, 0, 9).await.unwrap(), [row(6).id]);
    drop(conn);

    // Dead letters are left out, unless they are wanted.
    let topic = async |topic: &'static str| {
        let text = "UPDATE message_record SET topic = ? WHERE event_id = '4:E'";
        write_tx!(test.db, [], |tx| { sql::execute(tx, text, vals![topic]).await }).unwrap();
    };
    topic("%DLQ%g").await;
    let mut conn = test.db.read().await.unwrap();
    assert_eq!(log::next_again(&mut conn, &again, 0, 2).await.unwrap(), [row(3).id, row(5).id]);
    let with_dead = Again { dead_letters: true, ..again.clone() };
    assert_eq!(log::next_again(&mut conn, &with_dead, 0, 2).await.unwrap(), [row(3).id, row(4).id]);
    drop(conn);
    topic("EVEN").await;

    // What is pending or taken back stays so, and what was sent too late does; rows are due in their order.
    let all: Vec<i64> = (1..=9).rev().map(|number| row(number).id).collect();
    let before_ms = START_MS + 6 * MINUTE + 1;
    let send = async || write_tx!(test.db, [all], |tx| { log::send_again(tx, &all, before_ms).await }).unwrap();
    assert_eq!(send().await, [("EVEN".to_owned(), 2), ("ODD".to_owned(), 4)]);
    assert!(send().await.is_empty(), "they are pending now");
    test.clock.advance_ms(outbox::HEAD_START_MS);
    let claimed = write_tx!(test.db, [], |tx| { outbox::claim(tx, 100, 1_000).await }).unwrap();
    let claimed: Vec<&str> = claimed.iter().map(|row| row.event_id.as_str()).collect();
    assert_eq!(claimed, ["1:E", "2:E", "3:E", "4:E", "5:E", "7:E"]);
    let mut conn = test.db.read().await.unwrap();
    let six = log::of_events(&mut conn, vec!["6:E".into(), "9:E".into()]).await.unwrap();
    assert_eq!((six[0].status, six[1].status), (Status::Sent, Status::Canceled));
}

pub(super) async fn the_story_of_an_order_is_read(test: TestDb) {
    let inserts = [
        "INSERT INTO message_process_log (consumer_group, message_id, batch_id, topic, msg_key, outcome, reason, \
         consumed_at) VALUES ('g', '7:E', 1, 'E', '7', 1, 'late', 50), ('h', '7:E', 1, 'E', '7', 2, NULL, 40), \
         ('h', '8:E', 1, 'E', '8', 0, NULL, 40)",
        "INSERT INTO message_retry_log (id, consumer_group, message_id, topic, tag, msg_key, body, properties, status, \
         blocks, attempts, next_at, open_key, first_failed_at, last_error, updated_at) \
         VALUES (1, 'h', '7:E', 'E', 'E', '7', '', '[]', 0, 1, 2, 99, '7', 41, 'away', 60)",
        "INSERT INTO delivery (id, kind, ref, order_id, url, body, status, attempts, next_at, last_error, created_at, \
         updated_at) VALUES (1, 3, '7', 7, 'http://w', '{}', 0, 2, 90, 'HTTP 500', 42, 43), \
         (2, 3, '8', 8, 'http://w', '{}', 1, 1, NULL, NULL, 42, 43)",
        "INSERT INTO delivery_attempt (delivery_id, attempt, started_at, duration_ms, http_status, error) \
         VALUES (1, 2, 46, 5, NULL, 'closed'), (1, 1, 44, 3, 500, 'HTTP 500'), (2, 1, 44, 3, 200, NULL)",
        "INSERT INTO payment_record (id, kind, order_id, order_no, user_id, merchant_id, channel_id, amount, currency, \
         status, version, expire_time, transaction_no, payment_method, pay_time, created_at, updated_at) \
         VALUES (70, 1, 7, 'n', 1, 1, 'c', 1200, 'CNY', 1, 2, 0, 't', 'card', 48, 45, 49)",
        "INSERT INTO refund_record (id, refund_key, payment_id, order_id, kind, amount, reason, status, \
         transaction_no, created_at, updated_at) VALUES (71, 'k', 70, 7, 1, 1200, 'no', 1, 't', 51, 52)",
        "INSERT INTO stock_ledger (id, sku, order_id, kind, d_available, d_frozen, d_sold, reason, created_at) \
         VALUES (1, 'A', 7, 2, -3, 3, 0, '', 46), (2, 'A', 7, 3, 0, -3, 3, '', 47), (3, 'A', 8, 2, -1, 1, 0, '', 46)",
        "INSERT INTO points_record (order_id, kind, user_id, points, created_at) VALUES (7, 2, 1, -12, 54), \
         (7, 1, 1, 12, 53)",
        "INSERT INTO notification (id, event_id, user_id, order_id, template, params, created_at) \
         VALUES (1, '7:E', 1, 7, 'T', '{}', 55)",
        "INSERT INTO message_tx_state (tx_id, event_id, msg_key, state, created_at) VALUES ('7#2', '7:P', '7', 1, 49), \
         ('7#1', '7:P', '7', 2, 48)",
    ];
    let done = write_tx!(test.db, [], |tx| {
        for text in inserts {
            sql::execute(tx, text, vals![]).await?;
        }
        Ok(())
    });
    done.unwrap();
    let mut conn = test.db.read().await.unwrap();
    let handled = trace::handled_of_key(&mut conn, "7").await.unwrap();
    let told: Vec<_> = handled.iter().map(|one| (one.group.as_str(), one.outcome, one.at)).collect();
    assert_eq!(told, [("h", 2, 40), ("g", 1, 50)]);
    assert_eq!((handled[1].reason.as_deref(), handled[1].key.as_str()), (Some("late"), "7"));
    let of_event = trace::handled_of_event(&mut conn, &["g", "h", "i"], "7:E").await.unwrap();
    assert_eq!(of_event.len(), 2);
    let failing = trace::failing(&mut conn, "h", vec!["7:E".into(), "8:E".into()]).await.unwrap();
    assert_eq!(failing.len(), 1);
    let one = &failing[0];
    assert_eq!((one.attempts, one.next_at, one.first_failed_at, one.last_error.as_str()), (2, Some(99), 41, "away"));
    let calls = trace::calls(&mut conn, 7).await.unwrap();
    assert_eq!((calls.len(), calls[0].kind, calls[0].last_error.as_deref()), (1, 3, Some("HTTP 500")));
    let tries = trace::tries(&mut conn, vec![calls[0].id]).await.unwrap();
    let told: Vec<_> = tries.iter().map(|one| (one.number, one.at, one.duration_ms, one.http_status)).collect();
    assert_eq!(told, [(1, 44, 3, Some(500)), (2, 46, 5, None)]);
    let payment = trace::payment(&mut conn, By::Order(7)).await.unwrap().unwrap();
    assert_eq!(trace::payment(&mut conn, By::Id(70)).await.unwrap(), Some(payment.clone()));
    assert_eq!((payment.order_id, payment.amount, payment.pay_time), (7, 1200, Some(48)));
    assert_eq!(trace::payment(&mut conn, By::Id(7)).await.unwrap(), None);
    let refunds = trace::refunds(&mut conn, 7).await.unwrap();
    assert_eq!((refunds.len(), refunds[0].id, refunds[0].status), (1, 71, 1));
    let movements = trace::movements(&mut conn, 7).await.unwrap();
    let told: Vec<_> = movements.iter().map(|one| (one.on.as_str(), one.kind, one.count)).collect();
    assert_eq!(told, [("A", 2, 3), ("A", 3, 3)]);
    let points = trace::points(&mut conn, 7).await.unwrap();
    assert_eq!(points.iter().map(|one| one.count).collect::<Vec<_>>(), [12, -12]);
    let notices = trace::notices(&mut conn, 7).await.unwrap();
    assert_eq!(notices, [(55, "T".to_owned(), "7:E".to_owned())]);
    let decided = trace::transactions(&mut conn, vec!["7:P".into()]).await.unwrap();
    assert_eq!(decided, [("7:P".to_owned(), false, 48), ("7:P".to_owned(), true, 49)]);
}
