//! A grant and a refund of one order that are handled at the same moment, by two processes on MariaDB: neither would see a
//! row of the other when it looks, and nothing locks a row that is not there.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ruyi::domain::event::{Group, Kind};
use ruyi::mq::message::Incoming;
use serde_json::json;
use sqlx::{AnyConnection, AssertSqlSafe, Connection};
use tokio::sync::Barrier;

use crate::support::meeting::{handled, message};
use crate::support::servers::{TestDb, count, mariadb};

/// Pairs of a grant and a refund; where neither waits for the other, one in a few of them goes wrong.
const ORDERS: i64 = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_and_its_refund_see_each_other() {
    let Some(test) = mariadb().await else { return };
    for order_id in 1..=ORDERS {
        let grant = json!({"orderId": order_id, "userId": 7, "payAmount": 59.8, "payTime": 1});
        let refund = json!({"refundId": order_id, "orderId": order_id, "amount": 59.8, "paidAmount": 59.8,
            "userId": 7});
        let place = Arc::new(Barrier::new(2));
        tokio::join!(
            handled(&test, Group::Points, &place, message(Kind::PaidOrderSuccess, order_id, &grant)),
            handled(&test, Group::Points, &place, message(Kind::RefundSuccess, order_id, &refund)),
        );
    }

    // A grant after its refund is nothing to be done.
    let handled = "SELECT COUNT(*) FROM message_process_log WHERE outcome IN (0, 1)";
    assert_eq!(count(&test.db, handled).await, 2 * ORDERS);
    let open = "SELECT COUNT(*) FROM (SELECT order_id FROM points_record GROUP BY order_id HAVING SUM(points) <> 0) o";
    assert_eq!(count(&test.db, open).await, 0, "orders whose points were granted and not taken back");
}

/// How many sessions on this database wait for a row.
const WAITING: &str = "SELECT COUNT(*) FROM information_schema.INNODB_TRX t \
    JOIN information_schema.PROCESSLIST p ON p.ID = t.trx_mysql_thread_id \
    WHERE t.trx_state = 'LOCK WAIT' AND p.DB = DATABASE()";

/// Between two looks: the server repeats what it has said, unless nobody has asked for a tenth of a second.
const LOOK: Duration = Duration::from_millis(150);

/// Handles `message` while a session beside it has taken its order, and has written `done` by the time it lets go.
async fn handled_behind(test: &TestDb, message: Incoming, done: &[String]) {
    let mut holder = AnyConnection::connect(&test.url).await.unwrap();
    let taken = format!("INSERT INTO points_order (order_id, taken) VALUES ({}, 1)", message.key);
    let run = async |holder: &mut AnyConnection, text: &str| {
        sqlx::raw_sql(AssertSqlSafe(text)).execute(holder).await.unwrap();
    };
    run(&mut holder, "BEGIN").await;
    run(&mut holder, &taken).await;

    let place = Arc::new(Barrier::new(1));
    let mut handling = pin!(handled(test, Group::Points, &place, message));
    let waits = async {
        while count(&test.db, WAITING).await == 0 {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        () = &mut handling => panic!("it does not wait for the order"),
        () = waits => {}
    }
    for text in done {
        run(&mut holder, text).await;
    }
    run(&mut holder, "COMMIT").await;
    handling.await;
    holder.close().await.unwrap();
}

/// Whatever a database makes of a range in which nothing is yet: both sides take the order before they look at it, and so
/// each sees all that the other has done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_take_the_order_before_they_look() {
    let Some(test) = mariadb().await else { return };
    let record = |order_id: i64, kind: i64, points: i64| {
        format!("INSERT INTO points_record VALUES ({order_id}, {kind}, 7, {points}, 1)")
    };
    let refunded = "INSERT INTO points_reversal VALUES (1, 1, 5980, 5980, 1)".to_owned();
    let grant = json!({"orderId": 1, "userId": 7, "payAmount": 59.8, "payTime": 1});
    handled_behind(&test, message(Kind::PaidOrderSuccess, 1, &grant), &[record(1, 2, 0), refunded]).await;
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM points_record WHERE order_id = 1 AND kind = 1").await, 0);

    let granted = "INSERT INTO user_points (user_id, balance, shortfall, updated_at) VALUES (7, 59, 0, 1)".to_owned();
    let refund = json!({"refundId": 2, "orderId": 2, "amount": 59.8, "paidAmount": 59.8, "userId": 7});
    handled_behind(&test, message(Kind::RefundSuccess, 2, &refund), &[record(2, 1, 59), granted]).await;
    assert_eq!(count(&test.db, "SELECT points FROM points_record WHERE order_id = 2 AND kind = 2").await, -59);
    assert_eq!(count(&test.db, "SELECT balance FROM user_points WHERE user_id = 7").await, 0);
}
