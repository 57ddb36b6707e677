//! A grant and a refund of one order that are handled at the same moment, by two processes on MariaDB: neither sees a row
//! of the other when it looks, and nothing locks a row that is not there.

use std::sync::Arc;

use ruyi::domain::event::{Group, Kind};
use serde_json::json;
use tokio::sync::Barrier;

use crate::support::meeting::{handled, message};
use crate::support::servers::{count, mariadb};

/// Pairs of a grant and a refund; without the second look one in a few of them goes wrong.
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
