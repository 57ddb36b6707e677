//! Refunds of two payments of one millisecond that are decided at the same moment, on MariaDB, and whose first number is
//! the same: neither sees the row of the other when it looks whether the number is free.

use std::collections::BTreeMap;
use std::sync::Arc;

use ruyi::db::gateway::{self, GatewayRow};
use ruyi::db::payments::{self, PaymentRow};
use ruyi::domain::event::{Group, Kind};
use ruyi::domain::id::first_id_of;
use ruyi::domain::money::Money;
use ruyi::domain::payment::{PaymentState, Status};
use ruyi::roles::payment::channels::Channels;
use ruyi::roles::payment::gateway::{Act, Acted, act};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::Barrier;

use crate::support::meeting::{handled, message};
use crate::support::servers::{START_MS, TestDb, count, mariadb, write_tx};

/// Pairs of payments; where a number that was taken meanwhile is not noticed, most of them lose a refund.
const PAIRS: i64 = 20;

const MERCHANT: i64 = 9;

/// A payment of the `pair`th millisecond that has its money.
fn payment(pair: i64, node: i64, is_gateway: bool, transaction_no: &str) -> PaymentRow {
    let id = first_id_of(START_MS + pair, node);
    PaymentRow {
        id,
        order_id: if is_gateway { PaymentRow::without_order(id) } else { 2 * pair + node },
        order_no: String::new(),
        user_id: 7,
        state: PaymentState {
            status: Status::Success,
            amount: Money::from_minor(5_980).unwrap(),
            currency: "CNY".to_owned(),
            merchant_id: MERCHANT,
            transaction_no: Some(transaction_no.to_owned()),
        },
        channel_id: "sandbox".to_owned(),
        expire_time: 0,
        payment_method: None,
        pay_time: Some(START_MS),
        trace: None,
    }
}

/// The last 12 bits of the number that a refund takes first: its payment and its cause make it.
fn number(payment: &PaymentRow, cause: &str) -> u16 {
    let digest = Sha256::digest(format!("{}:{cause}", payment.id));
    u16::from_be_bytes([digest[0], digest[1]]) & 0xfff
}

/// The key of a merchant's refund, as a cause.
fn cause(payment: &PaymentRow, key: &str) -> String {
    format!("{}:k:{}", payment.id, hex::encode(Sha256::digest(key)))
}

async fn write(test: &TestDb, rows: &[PaymentRow; 2]) {
    let rows = rows.clone();
    let done = write_tx!(test.db, [rows], |tx| {
        payments::insert(tx, &rows).await?;
        payments::update(tx, &[&rows[0], &rows[1]]).await?;
        let of_merchant = rows.iter().filter(|row| row.is_gateway()).map(|row| GatewayRow {
            payment_id: row.id,
            merchant_id: MERCHANT,
            out_order_no: row.id.to_string(),
            product_id: "h5".to_owned(),
            tenant_id: String::new(),
            notify_url: String::new(),
            extra_arg: String::new(),
        });
        gateway::take(tx, &of_merchant.collect::<Vec<_>>()).await?.all()
    });
    done.unwrap();
}

/// Each refund has a row and a call of its own.
async fn are_all_there(test: &TestDb) {
    let wanted = 2 * PAIRS;
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM refund_record WHERE status = 0").await, wanted);
    assert_eq!(count(&test.db, "SELECT COUNT(DISTINCT payment_id) FROM refund_record").await, wanted);
    let called = "SELECT COUNT(*) FROM refund_record r JOIN delivery d ON d.kind = 2 AND d.ref = CAST(r.id AS CHAR) \
                  AND d.body LIKE CONCAT('%', r.payment_id, '%')";
    assert_eq!(count(&test.db, called).await, wanted);
    // They wanted the same: the second of a pair took the next number.
    let beside = "SELECT COUNT(*) FROM refund_record a JOIN refund_record b ON b.id = a.id + 1";
    assert_eq!(count(&test.db, beside).await, PAIRS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn canceled_siblings_get_their_money_back_each() {
    let Some(test) = mariadb().await else { return };
    for pair in 0..PAIRS {
        let first = payment(pair, 1, false, "T");
        let wanted = number(&first, "T");
        let same = |no: &String| number(&payment(pair, 2, false, no), no) == wanted;
        let no = (0..).map(|count: u32| format!("T{count}")).find(same).unwrap();
        let both = [first, payment(pair, 2, false, &no)];
        write(&test, &both).await;

        let place = Arc::new(Barrier::new(2));
        let [one, other] = both.map(|row| {
            let body = json!({"orderId": row.order_id, "userId": 7, "cancelType": "USER"});
            handled(&test, Group::Payment, &place, message(Kind::OrderCanceled, row.order_id, &body))
        });
        tokio::join!(one, other);
    }
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM payment_record WHERE status <> 3").await, 0);
    are_all_there(&test).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refunds_of_a_merchant_are_no_less_than_answered() {
    let Some(test) = mariadb().await else { return };
    let channels = Channels::new(BTreeMap::new());
    for pair in 0..PAIRS {
        let [first, second] = [1, 2].map(|node| payment(pair, node, true, "T"));
        let wanted = number(&first, &cause(&first, "k"));
        let same = |key: &String| number(&second, &cause(&second, key)) == wanted;
        let key = (0..).map(|count: u32| format!("k{count}")).find(same).unwrap();
        write(&test, &[first.clone(), second.clone()]).await;

        let refund = |row: &PaymentRow, key: &str| {
            let wish = Act::Refund { amount: None, reason: "cold".to_owned(), key: key.to_owned() };
            act(&test.db, &channels, (MERCHANT, row.id.to_string()), wish)
        };
        let (one, other) = tokio::join!(refund(&first, "k"), refund(&second, &key));
        for answer in [one.unwrap(), other.unwrap()] {
            assert!(matches!(&answer, Acted::Done(_, refunds) if refunds.len() == 1), "{answer:?}");
        }
    }
    are_all_there(&test).await;
}
