//! `ruyi audit --repair`: corruptions of a shop that runs, each on an order of its own, with a database for each role.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;
use ruyi::audit::RoleDbs;
use ruyi::db::migrate;
use ruyi::domain::event::Role;
use serde_json::{Value, json};

use crate::support::operators::Operator;
use crate::support::role_books::{by_role, execute, until_only};
use crate::support::servers::{count, mariadb_url};
use crate::support::serving::Serving;

/// What kind of order a corruption needs.
#[derive(Clone, Copy, PartialEq)]
enum Needs {
    /// Through to the end.
    Signed,
    /// Paid, and on hold for an hour.
    Held,
    /// Paid, canceled, and its money back.
    Refunded,
    /// Canceled before it was paid.
    Canceled,
    /// Waiting to be paid.
    Reserved,
}

struct Case {
    name: &'static str,
    needs: Needs,
    /// The check that has to name it.
    check: &'static str,
    /// Whether a tool may mend it.
    mended: bool,
    /// What breaks it; `$` is the order.
    breaks: &'static [(Role, &'static str)],
}

/// One order has one line of two pieces of A1, and earns 119 points.
const CASES: &[Case] = &[
    Case {
        name: "lost outbox row",
        needs: Needs::Signed,
        check: "events_of_states",
        mended: true,
        breaks: &[(Role::Order, "DELETE FROM message_record WHERE event_id = '$:PAID_ORDER_SUCCESS'")],
    },
    Case {
        name: "outbox row given up",
        needs: Needs::Signed,
        check: "nothing_stuck",
        mended: true,
        breaks: &[(Role::Order, "UPDATE message_record SET status = 2 WHERE event_id = '$:INVENTORY_DEDUCT'")],
    },
    Case {
        name: "lost inbox row",
        needs: Needs::Signed,
        check: "events_consumed",
        mended: true,
        breaks: &[(
            Role::Notify,
            "DELETE FROM message_process_log WHERE consumer_group = 'notification-consumer-group' \
             AND message_id = '$:PAID_ORDER_SUCCESS'",
        )],
    },
    Case {
        name: "a message to the user is gone",
        needs: Needs::Signed,
        check: "events_consumed",
        mended: true,
        breaks: &[(Role::Notify, "DELETE FROM notification WHERE event_id = '$:PAID_ORDER_SUCCESS'")],
    },
    Case {
        name: "double points",
        needs: Needs::Signed,
        check: "points",
        mended: true,
        breaks: &[
            (Role::Notify, "UPDATE points_record SET points = 238 WHERE order_id = $"),
            (Role::Notify, "UPDATE user_points SET balance = balance + 119 WHERE user_id = 7"),
        ],
    },
    Case {
        name: "points missing",
        needs: Needs::Signed,
        check: "points",
        mended: true,
        breaks: &[
            (Role::Notify, "DELETE FROM points_record WHERE order_id = $"),
            (Role::Notify, "UPDATE user_points SET balance = balance - 119 WHERE user_id = 7"),
        ],
    },
    Case {
        name: "missing deduct",
        needs: Needs::Signed,
        check: "reservations_match_orders",
        mended: true,
        breaks: &[
            (Role::Stock, "UPDATE stock_reservation SET status = 1 WHERE order_id = $"),
            (Role::Stock, "DELETE FROM stock_ledger WHERE order_id = $ AND kind = 3"),
            (Role::Stock, "UPDATE stock SET frozen = frozen + 2, sold = sold - 2 WHERE sku = 'A1'"),
        ],
    },
    Case {
        name: "lost movement",
        needs: Needs::Signed,
        check: "stock_reservations",
        mended: true,
        breaks: &[(Role::Stock, "DELETE FROM stock_ledger WHERE order_id = $ AND kind = 3")],
    },
    Case {
        name: "double deduct",
        needs: Needs::Signed,
        check: "duplicates",
        mended: true,
        breaks: &[
            (
                Role::Stock,
                "INSERT INTO stock_ledger (id, sku, order_id, kind, d_available, d_frozen, d_sold, reason, created_at) \
                 SELECT id + 1000000000, sku, order_id, kind, d_available, d_frozen, d_sold, reason, created_at \
                 FROM stock_ledger WHERE order_id = $ AND kind = 3",
            ),
            (Role::Stock, "UPDATE stock SET frozen = frozen - 2, sold = sold + 2 WHERE sku = 'A1'"),
        ],
    },
    Case {
        name: "order paid, payment open",
        needs: Needs::Signed,
        check: "paid_orders_have_payment",
        mended: true,
        breaks: &[(
            Role::Payment,
            "UPDATE payment_record SET status = 0, transaction_no = NULL, pay_time = NULL WHERE order_id = $",
        )],
    },
    Case {
        name: "order of another payment",
        needs: Needs::Signed,
        check: "paid_orders_have_payment",
        mended: true,
        breaks: &[(Role::Order, "UPDATE orders SET payment_id = 5 WHERE id = $")],
    },
    Case {
        name: "payment of a wrong amount",
        needs: Needs::Signed,
        check: "paid_orders_have_payment",
        mended: false,
        breaks: &[(Role::Payment, "UPDATE payment_record SET amount = amount - 1 WHERE order_id = $")],
    },
    Case {
        name: "warehouse never called to the end",
        needs: Needs::Signed,
        check: "nothing_stuck",
        mended: true,
        breaks: &[
            (Role::Order, "UPDATE orders SET status = 20 WHERE id = $"),
            (Role::Order, "UPDATE delivery SET status = 2 WHERE kind = 3 AND order_id = $"),
            (Role::Order, "DELETE FROM delivery WHERE kind = 5 AND order_id = $"),
            (
                Role::Order,
                "DELETE FROM message_record WHERE msg_key = '$' AND topic IN \
                 ('ORDER_FULFILL_SUCCESS', 'ORDER_OUT_STOCK', 'ORDER_DELIVERY', 'ORDER_SIGNED')",
            ),
            (
                Role::Order,
                "DELETE FROM message_process_log WHERE msg_key = '$' AND topic IN \
                 ('ORDER_FULFILL_SUCCESS', 'ORDER_OUT_STOCK', 'ORDER_DELIVERY', 'ORDER_SIGNED')",
            ),
        ],
    },
    Case {
        name: "money came, order was restored to before",
        needs: Needs::Held,
        check: "payments_have_order",
        mended: true,
        breaks: &[
            (Role::Order, "UPDATE orders SET status = 10, payment_id = NULL, due_at = expire_time WHERE id = $"),
            (
                Role::Order,
                "DELETE FROM message_record WHERE event_id IN \
                 ('$:PAID_ORDER_SUCCESS', '$:INVENTORY_DEDUCT', '$:TRIGGER_ORDER_FULFILL')",
            ),
            (
                Role::Order,
                "DELETE FROM message_process_log WHERE message_id IN ('$:PAYMENT_SUCCESS', '$:PAID_ORDER_SUCCESS') \
                 AND consumer_group IN ('order-consumer-group', 'paid-order-success-consumer-group')",
            ),
        ],
    },
    Case {
        name: "nothing triggers the fulfilment",
        needs: Needs::Held,
        check: "events_of_states",
        mended: true,
        breaks: &[(Role::Order, "DELETE FROM message_record WHERE event_id = '$:TRIGGER_ORDER_FULFILL'")],
    },
    Case {
        name: "canceled after paying, never refunded",
        needs: Needs::Refunded,
        check: "payments_have_order",
        mended: true,
        breaks: &[
            (Role::Order, "UPDATE orders SET refund_status = 1 WHERE id = $"),
            (Role::Payment, "UPDATE payment_record SET status = 1 WHERE order_id = $"),
            (Role::Payment, "DELETE FROM refund_record WHERE order_id = $"),
            (Role::Order, "DELETE FROM order_refund WHERE order_id = $"),
            (Role::Notify, "DELETE FROM points_reversal WHERE order_id = $"),
            (Role::Payment, "DELETE FROM delivery WHERE kind = 2 AND order_id = $"),
            (Role::Payment, "DELETE FROM message_record WHERE msg_key = '$' AND topic = 'REFUND_SUCCESS'"),
            (Role::Order, "DELETE FROM message_process_log WHERE msg_key = '$' AND topic = 'REFUND_SUCCESS'"),
            (Role::Notify, "DELETE FROM message_process_log WHERE msg_key = '$' AND topic = 'REFUND_SUCCESS'"),
            (Role::Notify, "DELETE FROM notification WHERE event_id LIKE '$:REFUND_SUCCESS%'"),
            (Role::Notify, "DELETE FROM points_record WHERE order_id = $ AND kind = 2"),
            (Role::Notify, "UPDATE user_points SET balance = balance + 119 WHERE user_id = 7"),
        ],
    },
    Case {
        name: "all back in parts, and still waited for",
        needs: Needs::Refunded,
        check: "payments_have_order",
        mended: true,
        breaks: &[
            (Role::Payment, "UPDATE refund_record SET kind = 2 WHERE order_id = $"),
            (Role::Payment, "UPDATE payment_record SET status = 3 WHERE order_id = $"),
            (Role::Order, "UPDATE orders SET refund_status = 1 WHERE id = $"),
        ],
    },
    Case {
        name: "record of a refund gone",
        needs: Needs::Refunded,
        check: "payments_have_order",
        mended: false,
        breaks: &[(Role::Payment, "DELETE FROM refund_record WHERE order_id = $")],
    },
    Case {
        name: "stuck reservation of a canceled order",
        needs: Needs::Canceled,
        check: "reservations_match_orders",
        mended: true,
        breaks: &[
            (Role::Stock, "UPDATE stock_reservation SET status = 1 WHERE order_id = $"),
            (Role::Stock, "DELETE FROM stock_ledger WHERE order_id = $ AND kind = 4"),
            (Role::Stock, "UPDATE stock SET available = available - 2, frozen = frozen + 2 WHERE sku = 'A1'"),
        ],
    },
    Case {
        name: "payment of a canceled order left open",
        needs: Needs::Canceled,
        check: "payments_have_order",
        mended: true,
        breaks: &[(Role::Payment, "UPDATE payment_record SET status = 0 WHERE order_id = $")],
    },
    Case {
        name: "an order without an end",
        needs: Needs::Reserved,
        check: "nothing_stuck",
        mended: true,
        breaks: &[(Role::Order, "UPDATE orders SET due_at = NULL WHERE id = $")],
    },
    Case {
        name: "a coupon still locked",
        needs: Needs::Signed,
        check: "coupons",
        mended: true,
        breaks: &[(Role::Order, "UPDATE coupon SET state = 1 WHERE order_id = $")],
    },
    Case {
        name: "a coupon not released",
        needs: Needs::Canceled,
        check: "coupons",
        mended: true,
        breaks: &[(
            Role::Order,
            "UPDATE coupon SET state = 1, order_id = $ WHERE id = (SELECT coupon_id FROM orders WHERE id = $)",
        )],
    },
    Case {
        name: "a coupon lost on the way",
        needs: Needs::Reserved,
        check: "coupons",
        mended: true,
        breaks: &[(Role::Order, "UPDATE coupon SET state = 0, order_id = NULL WHERE order_id = $")],
    },
    Case {
        name: "a coupon event lost",
        needs: Needs::Signed,
        check: "events_of_states",
        mended: true,
        breaks: &[(Role::Order, "DELETE FROM message_record WHERE event_id = '$:COUPON_USED'")],
    },
];

/// Template of the coupons that the orders of these cases are placed with.
const WITH_COUPON: [&str; 4] =
    ["a coupon still locked", "a coupon not released", "a coupon lost on the way", "a coupon event lost"];

/// Corruptions that are of no order: (check, key, what breaks it).
const OTHERS: [(&str, &str, Role, &str); 3] = [
    ("coupons", "TENTH", Role::Order, "UPDATE coupon_template SET issued = issued + 5"),
    ("stock_ledger", "B2", Role::Stock, "UPDATE stock SET available = available + 5 WHERE sku = 'B2'"),
    ("points", "8", Role::Notify, "UPDATE user_points SET balance = balance + 7 WHERE user_id = 8"),
];

/// The order of each case, where the case wants it.
async fn orders(serving: &Serving) -> Vec<String> {
    let template = json!({"name": "n", "kind": "AMOUNT", "amountOff": 0.1, "stock": 99, "perUser": 99,
        "validUntil": "2099-01-01T00:00:00Z"});
    serving.fine(Method::PUT, "/coupons/TENTH", &template).await;
    let mut ids = Vec::new();
    for case in CASES {
        let hold = matches!(case.needs, Needs::Held | Needs::Refunded);
        let mut order = json!({"userId": "7", "items": [{"sku": "A1", "quantity": 2}],
            "holdSeconds": if hold { 3_600 } else { 0 }});
        if WITH_COUPON.contains(&case.name) {
            let issue = json!({"userId": "7"});
            let coupon = serving.fine(Method::POST, "/coupons/TENTH/issue", &issue).await;
            order["couponId"] = coupon["couponId"].clone();
        }
        let id = serving.place(&order).await;
        serving.until(&format!("/payments/{id}"), "status", "PENDING").await;
        serving.until(&format!("/orders/{id}"), "status", "RESERVED").await;
        if matches!(case.needs, Needs::Signed | Needs::Held | Needs::Refunded) {
            serving.fine(Method::POST, &format!("/payments/{id}/pay"), &json!({"method": "card"})).await;
        }
        ids.push(id);
    }
    // Somebody else, with points.
    let order = json!({"userId": "8", "items": [{"sku": "B2", "quantity": 1}]});
    let other = serving.place(&order).await;
    serving.until(&format!("/payments/{other}"), "status", "PENDING").await;
    serving.fine(Method::POST, &format!("/payments/{other}/pay"), &json!({"method": "card"})).await;
    for (case, id) in CASES.iter().zip(&ids) {
        if matches!(case.needs, Needs::Held | Needs::Refunded) {
            serving.until(&format!("/orders/{id}"), "status", "PAID").await;
        }
        if matches!(case.needs, Needs::Refunded | Needs::Canceled) {
            serving.fine(Method::POST, &format!("/orders/{id}/cancel"), &json!({"reason": "no"})).await;
        }
    }
    for (case, id) in CASES.iter().zip(&ids) {
        let outcome = match case.needs {
            Needs::Signed => "SIGNED",
            Needs::Refunded => "REFUNDED",
            Needs::Canceled => "CANCELED",
            Needs::Held | Needs::Reserved => continue,
        };
        serving.until(&format!("/orders/{id}"), "outcome", outcome).await;
    }
    serving.until(&format!("/orders/{other}"), "outcome", "SIGNED").await;
    ids
}

fn results(rows: &[Value]) -> BTreeMap<(String, String), Vec<String>> {
    let mut all: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for row in rows {
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        all.entry((text("check"), text("key"))).or_default().push(text("result"));
    }
    all
}

/// Waits until no event is on its way: the last news of an order that has ended may still be; a held one has hours.
async fn all_told(dbs: &RoleDbs) {
    let text = format!(
        "SELECT COUNT(*) FROM message_record WHERE status = 0 AND next_at < {}",
        ruyi::clock::Clock::system().now_ms() + 600_000
    );
    let text: &'static str = text.leak();
    let started = std::time::Instant::now();
    for db in dbs.distinct() {
        while count(db, text).await > 0 {
            assert!(started.elapsed() < Duration::from_secs(90), "events wait");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn corruptions_are_mended(urls: [String; 4]) {
    let databases = by_role(&urls);
    let more = [r#"mq.retry.schedule=["100ms"]"#, "mq.outbox.sweep_interval=200ms"].map(str::to_owned);
    let settings: Vec<String> = databases.iter().cloned().chain(more).collect();
    let serving = Serving::start(&settings.iter().map(String::as_str).collect::<Vec<_>>()).await;
    serving.fill().await;
    let ids = orders(&serving).await;
    let dbs = RoleDbs::each(|role| serving.process.db_of(role).cloned().ok_or(())).unwrap();
    until_only(&dbs, &[]).await;
    all_told(&dbs).await;
    let notices = count(&dbs.notify, "SELECT COUNT(*) FROM notification").await;
    for (case, id) in CASES.iter().zip(&ids) {
        for (role, text) in case.breaks {
            assert!(execute(dbs.of(*role), text.replace('$', id)).await > 0, "{}: {text}", case.name);
        }
    }
    for (_, _, role, text) in OTHERS {
        assert_eq!(execute(dbs.of(role), text.to_owned()).await, 1);
    }

    // Each is named, with evidence.
    let mut settings: Vec<&str> = databases.iter().map(String::as_str).collect();
    settings.extend(["audit.settle=0s", "audit.bound=0s"]);
    let operator = Operator::with(&settings);
    let keys = |case: &Case, id: &String| match (case.check, case.name) {
        ("events_consumed", _) => format!("{id}:PAID_ORDER_SUCCESS"),
        (_, "outbox row given up") => format!("{id}:INVENTORY_DEDUCT"),
        (_, "an order without an end") => String::new(),
        _ => id.clone(),
    };
    let (code, planned, said) = operator.items_and_code(&["audit", "--repair", "--dry-run"]).await;
    assert_eq!(code, 1, "some are left to people: {said}");
    let planned = results(&planned);
    for (case, id) in CASES.iter().zip(&ids) {
        let key = keys(case, id);
        let rows: Vec<_> = planned
            .iter()
            .filter(|((check, named), _)| *check == case.check && (*named == key || key.is_empty()))
            .flat_map(|(_, results)| results)
            .collect();
        let wanted = if case.mended { "would mend" } else { "left" };
        assert!(rows.iter().any(|result| *result == wanted), "{}: {rows:?} in {planned:#?}", case.name);
    }
    for (check, key, _, _) in OTHERS {
        assert_eq!(planned[&(check.to_owned(), key.to_owned())], ["would mend"]);
    }
    // Nobody to ask, and nobody said yes.
    let refused = operator.refuses(&["audit", "--repair"], 2).await;
    assert!(refused.contains("say --yes"), "{refused}");
    assert!(!operator.data_dir().join("journal.jsonl").exists());

    // Mended, beside the roles; what is left says why.
    let (code, rows, said) = operator.items_and_code(&["audit", "--repair", "--yes", "--reason", "a drill"]).await;
    assert_eq!(code, 1, "{said}");
    assert!(rows.iter().all(|row| row["result"] != "failed"), "{rows:#?}");
    assert!(rows.iter().filter(|row| row["result"] == "left").all(|row| row["detail"].as_str().unwrap().len() > 20));
    let journal = std::fs::read_to_string(operator.data_dir().join("journal.jsonl")).unwrap();
    assert!(journal.contains("a drill") && journal.lines().count() == 1, "{journal}");
    let left: Vec<&String> = CASES.iter().zip(&ids).filter(|(case, _)| !case.mended).map(|(_, id)| id).collect();
    until_only(&dbs, &left).await;

    // Once: a second run finds nothing to mend, nobody was told twice, nothing died on the way.
    let (code, rows, _) = operator.items_and_code(&["audit", "--repair", "--yes"]).await;
    assert_eq!(code, 1);
    assert!(rows.iter().all(|row| row["result"] == "left"), "{rows:#?}");
    assert_eq!(count(&dbs.notify, "SELECT COUNT(*) FROM notification").await, notices);
    for db in dbs.distinct() {
        assert_eq!(count(db, "SELECT COUNT(*) FROM message_process_log WHERE outcome = 3").await, 0);
    }
    let held = ids.iter().zip(CASES).filter(|(_, case)| case.needs == Needs::Held);
    for (id, case) in held {
        assert_eq!(serving.get(&format!("/orders/{id}")).await["status"], "PAID", "{}: the hold holds", case.name);
    }
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn corruptions_of_four_sqlite_files_are_mended() {
    let dir = tempfile::tempdir().unwrap();
    let url = |name: &str| format!("sqlite://{}", dir.path().join(name).display());
    corruptions_are_mended([url("order.db"), url("payment.db"), url("stock.db"), url("notify.db")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn corruptions_of_four_mariadb_databases_are_mended() {
    let mut urls = Vec::new();
    for _ in 0..4 {
        let Some(url) = mariadb_url().await else { return };
        migrate::run(&url).await.unwrap();
        urls.push(url);
    }
    corruptions_are_mended(urls.try_into().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_anything_to_mend_or_to_read() {
    let operator = Operator::with(&[]);
    let said = operator.refuses(&["audit", "--yes"], 2).await;
    assert!(said.contains("belong to --repair"), "{said}");
    let said = operator.refuses(&["audit", "--repair", "--dry-run"], 1).await;
    assert!(said.contains("there is no database file") && said.contains("`ruyi db migrate`"), "{said}");
    assert_eq!(operator.run(&["db", "migrate"]).await.status.code(), Some(0));
    assert!(operator.items(&["audit", "--repair", "--yes"]).await.is_empty());
}
