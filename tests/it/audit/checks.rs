//! The audit: silent on a world in order, and loud about exactly what was broken.

use ruyi::audit::{self, RoleDbs};
use ruyi::clock::Clock;
use ruyi::db::{Db, sql};
use ruyi::domain::event::{Group, Kind, Producer, Role};
use ruyi::vals;

use crate::support::servers::{mariadb, sqlite};
use crate::support::small_shop::{CASES, audit, execute, options, small_shop};

/// What is broken, and the one check that has to see it.
const BROKEN: [(&str, &[&str]); 56] = [
    ("stock_ledger", &["UPDATE stock SET available = available - 1 WHERE sku = 'A'"]),
    (
        "stock_ledger",
        &["UPDATE stock_ledger SET sku = 'B' WHERE order_id = 0", "UPDATE stock SET available = -4 WHERE sku = 'A'"],
    ),
    ("stock_reservations", &["UPDATE stock_reservation SET items = '{\"A\":3}' WHERE order_id = 4"]),
    ("stock_reservations", &["UPDATE stock_reservation SET items = 'x' WHERE order_id = 5"]),
    ("order_rows reservations_match_orders", &["UPDATE orders SET status = 0 WHERE id = 4"]),
    (
        "reservations_match_orders",
        &[
            "UPDATE stock_reservation SET status = 3 WHERE order_id = 1",
            "DELETE FROM stock_ledger WHERE order_id = 1",
            "UPDATE stock SET available = available + 2, sold = sold - 2 WHERE sku = 'A'",
        ],
    ),
    (
        "reservations_match_orders",
        &[
            "UPDATE stock_reservation SET status = 1 WHERE order_id = 5",
            "DELETE FROM stock_ledger WHERE order_id = 5 AND kind = 4",
            "UPDATE stock SET available = available - 2, frozen = frozen + 2 WHERE sku = 'A'",
        ],
    ),
    ("paid_orders_have_payment statistics", &["UPDATE payment_record SET amount = amount - 1 WHERE order_id = 1"]),
    ("paid_orders_have_payment", &["UPDATE payment_record SET currency = 'USD' WHERE order_id = 1"]),
    ("paid_orders_have_payment", &["UPDATE orders SET payment_id = 5 WHERE id = 1"]),
    ("payments_have_order", &["UPDATE payment_record SET status = 0 WHERE order_id = 5"]),
    ("payments_have_order", &["UPDATE orders SET refund_status = 1 WHERE id = 3"]),
    ("payments_have_order", &["UPDATE refund_record SET amount = amount + 1 WHERE order_id = 3"]),
    ("payments_have_order", &["DELETE FROM refund_record WHERE order_id = 3"]),
    ("points", &["UPDATE user_points SET balance = balance + 1"]),
    (
        "points",
        &[
            "UPDATE points_record SET points = points + 5 WHERE order_id = 1",
            "UPDATE user_points SET balance = balance + 5",
        ],
    ),
    ("points", &["UPDATE user_points SET balance = balance + 1, shortfall = shortfall + 1"]),
    ("points", &["INSERT INTO points_source (record_id, source, reason) VALUES (1, 's', '')"]),
    ("events_of_states", &["DELETE FROM message_record WHERE event_id = '1:PAID_ORDER_SUCCESS'"]),
    ("events_of_states", &["DELETE FROM message_record WHERE event_id = '2:STOCK_FREEZE_FAILED'"]),
    ("events_of_states", &["DELETE FROM message_record WHERE event_id = '1:PAYMENT_SUCCESS'"]),
    (
        "events_of_states",
        &[
            "DELETE FROM message_record WHERE event_id = '3:PAYMENT_SUCCESS'",
            "INSERT INTO message_tx_state (tx_id, event_id, msg_key, state, created_at) \
             VALUES ('3:PAYMENT_SUCCESS#1', '3:PAYMENT_SUCCESS', '3', 2, 1)",
        ],
    ),
    ("coupons", &["UPDATE coupon SET state = 1 WHERE order_id = 1"]),
    ("coupons", &["UPDATE coupon SET state = 0, order_id = NULL WHERE order_id = 4"]),
    ("coupons", &["UPDATE coupon SET state = 1, order_id = 3 WHERE id = (SELECT coupon_id FROM orders WHERE id = 3)"]),
    ("coupons", &["UPDATE coupon SET state = 2 WHERE order_id = 4"]),
    ("coupons", &["DELETE FROM coupon WHERE order_id = 4"]),
    ("coupons", &["UPDATE orders SET coupon_id = (SELECT id FROM coupon WHERE order_id = 1) WHERE id = 4"]),
    ("coupons", &["UPDATE orders SET discount = discount + 1 WHERE id = 1"]),
    ("coupons", &["UPDATE coupon SET state = 1, order_id = 2 WHERE id = (SELECT coupon_id FROM orders WHERE id = 3)"]),
    ("coupons", &["UPDATE coupon_template SET issued = issued + 1"]),
    ("coupons", &["UPDATE coupon_template SET stock = 2"]),
    ("gateway_payments", &["UPDATE payment_record SET status = 4 WHERE id = 109"]),
    ("statistics", &["UPDATE day_statistics SET submit_count = 5 WHERE submit_count = 4"]),
    ("statistics", &["DELETE FROM day_statistics WHERE product_id = 'h5' AND success_count = 1"]),
    ("events_of_states", &["DELETE FROM message_record WHERE event_id = '1:COUPON_USED'"]),
    ("events_of_states", &["DELETE FROM message_record WHERE event_id = '3:COUPON_RELEASED'"]),
    ("events_consumed", &["DELETE FROM message_process_log WHERE message_id = '1:ORDER_CREATED'"]),
    ("events_consumed", &["DELETE FROM notification WHERE event_id = '1:ORDER_SIGNED'"]),
    ("events_consumed", &["UPDATE message_process_log SET outcome = 3 WHERE message_id = '1:ORDER_CREATED'"]),
    ("deliveries", &["DELETE FROM delivery WHERE kind = 7"]),
    ("order_view", &["DELETE FROM order_view WHERE id = 1"]),
    ("order_view", &["UPDATE order_view SET version = version - 1 WHERE id = 3"]),
    ("order_view", &["UPDATE order_view SET version = version + 1 WHERE id = 3"]),
    ("copies", &["UPDATE sku_availability SET version = 2 WHERE sku = 'A'"]),
    ("copies", &["UPDATE sku_availability SET available = 5 WHERE sku = 'D'"]),
    ("copies", &["UPDATE sku_availability SET sku = 'E' WHERE sku = 'C'"]),
    ("copies", &["UPDATE merchant_account SET version = 5 WHERE merchant_id = 9"]),
    ("copies", &["UPDATE merchant_account SET active = 0 WHERE merchant_id = 7"]),
    ("copies", &["UPDATE merchant_account SET accepts = 'x' WHERE merchant_id = 7"]),
    ("copies", &["DELETE FROM merchant WHERE id = 9"]),
    ("nothing_stuck", &["UPDATE message_record SET status = 0, next_at = 1 WHERE event_id = '1:ORDER_CREATED'"]),
    ("nothing_stuck", &["UPDATE orders SET due_at = 1 WHERE id = 4"]),
    ("nothing_stuck", &["UPDATE orders SET due_at = NULL WHERE id = 4"]),
    ("nothing_stuck", &["UPDATE message_record SET status = 2 WHERE event_id = '1:ORDER_CREATED'"]),
    (
        "duplicates",
        &["INSERT INTO stock_ledger (id, sku, order_id, kind, d_available, d_frozen, d_sold, reason, created_at) \
            SELECT id + 1000000, sku, order_id, kind, 0, 0, 0, reason, created_at FROM stock_ledger \
            WHERE order_id = 4"],
    ),
];

#[tokio::test]
async fn sound_books_are_clean_each_corruption_names_its_check() {
    let test = sqlite().await;
    small_shop(&test).await;
    let report = audit(&test.db).await;
    assert!(report.is_clean(), "{report:#?}");
    assert!(report.checks.iter().all(|check| check.checked > 0 || check.name == "nothing_stuck"), "{report:#?}");
    assert!(report.warnings.is_empty(), "{report:#?}");
    test.db.close().await;
    for (number, (check, statements)) in BROKEN.iter().enumerate() {
        let file = test.dir.path().join(format!("{number}.db"));
        std::fs::copy(test.dir.path().join("ruyi.db"), &file).unwrap();
        let db = reopen(&file, &test.clock).await;
        execute(&db, statements).await;
        let report = audit(&db).await;
        let seen: Vec<_> = report.checks.iter().filter(|one| one.violations > 0).map(|one| one.name).collect();
        assert_eq!(seen.join(" "), *check, "{statements:?}: {:#?}", report.violations);
        assert!(report.violations.iter().all(|one| !one.evidence.is_empty()));
        db.close().await;
    }
}

/// `payment.publish = "transaction"`: the event is in no outbox, and the committed attempt stands for it.
#[tokio::test]
async fn a_committed_transaction_message_is_an_event() {
    let test = sqlite().await;
    small_shop(&test).await;
    execute(&test.db, &["DELETE FROM message_record WHERE event_id = '1:PAYMENT_SUCCESS'"]).await;
    assert!(!audit(&test.db).await.is_clean());
    let insert = "INSERT INTO message_tx_state (tx_id, event_id, msg_key, state, created_at) \
                  VALUES ('1:PAYMENT_SUCCESS#1', '1:PAYMENT_SUCCESS', '1', 1, 1)";
    execute(&test.db, &[insert]).await;
    let report = audit(&test.db).await;
    assert!(report.is_clean(), "{report:#?}");
}

async fn reopen(file: &std::path::Path, clock: &Clock) -> Db {
    let url = format!("sqlite://{}", file.display());
    let faults = ruyi::fault::Faults::none();
    let options = ruyi::db::Options { url, max_connections: 2, clock: clock.clone(), faults };
    Db::open(&options).await.unwrap()
}

/// Takes away what is not a role's own.
async fn keep_only(db: &Db, role: Role) {
    let tables: [(Role, &[&str]); 4] = [
        (Role::Order, &["orders", "order_item", "coupon", "coupon_template", "sku_availability"]),
        (Role::Payment, &["payment_record", "refund_record", "merchant_account"]),
        (Role::Stock, &["stock", "stock_reservation", "stock_ledger"]),
        (Role::Notify, &["user_points", "points_record", "points_source", "order_view", "merchant"]),
    ];
    let mut conn = db.read().await.unwrap();
    for table in tables.iter().filter(|(owner, _)| *owner != role).flat_map(|(_, tables)| *tables) {
        sql::execute(&mut conn, format!("DELETE FROM {table}"), vec![]).await.unwrap();
    }
    for kind in Kind::ALL.into_iter().filter(|kind| kind.producer() != Producer::Role(role)) {
        sql::execute(&mut conn, "DELETE FROM message_record WHERE topic = ?", vals![kind.name()]).await.unwrap();
    }
    for group in Group::ALL.into_iter().filter(|group| group.role() != role) {
        let text = "DELETE FROM message_process_log WHERE consumer_group = ?";
        sql::execute(&mut conn, text, vals![group.name()]).await.unwrap();
    }
}

#[tokio::test]
async fn corruptions_are_seen_over_four_databases() {
    let test = sqlite().await;
    small_shop(&test).await;
    test.db.close().await;
    let mut all = Vec::new();
    for role in Role::ALL {
        let file = test.dir.path().join(format!("{}.db", role.name()));
        std::fs::copy(test.dir.path().join("ruyi.db"), &file).unwrap();
        let db = reopen(&file, &test.clock).await;
        keep_only(&db, role).await;
        all.push(db);
    }
    let [order, payment, stock, notify] = <[Db; 4]>::try_from(all).unwrap();
    let dbs = RoleDbs { order, payment, stock, notify };
    let report = audit::run(&dbs, &options()).await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
    execute(&dbs.payment, &["DELETE FROM message_process_log WHERE message_id = '4:STOCK_FROZEN'"]).await;
    let report = audit::run(&dbs, &options()).await.unwrap();
    assert_eq!(report.violations.len(), 1, "{report:#?}");
    assert!(report.violations[0].evidence.contains("payment-consumer-group"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn corruptions_are_seen_on_mariadb() {
    let Some(test) = mariadb().await else { return };
    small_shop(&test).await;
    let report = audit(&test.db).await;
    assert!(report.is_clean(), "{report:#?}");
    for (check, statements) in BROKEN {
        execute(&test.db, statements).await;
        let report = audit(&test.db).await;
        assert!(
            report.violations.iter().any(|one| check.split(' ').any(|name| one.check == name)),
            "{statements:?}: {report:#?}"
        );
    }
}

#[tokio::test]
async fn recent_changes_are_not_judged_abandoned_events_warn() {
    let test = sqlite().await;
    small_shop(&test).await;
    let mut conn = test.db.read().await.unwrap();
    let now_ms = test.clock.now_ms();
    sql::execute(&mut conn, "UPDATE orders SET status = 0, updated_at = ? WHERE id = 4", vals![now_ms]).await.unwrap();
    let text = "INSERT INTO delivery (id, kind, ref, order_id, url, body, status, attempts, created_at, updated_at) \
                VALUES (1, 6, 'alert', 0, 'u', 'b', 2, 3, 1, 1)";
    sql::execute(&mut conn, text, vec![]).await.unwrap();
    // Its time has come, but not long ago.
    let text = "UPDATE message_record SET status = 0, next_at = ? WHERE event_id = '1:ORDER_CREATED'";
    sql::execute(&mut conn, text, vals![now_ms - 1_000]).await.unwrap();
    drop(conn);
    let report = audit(&test.db).await;
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!(report.warnings.iter().map(|one| one.count).collect::<Vec<_>>(), [1]);
    test.clock.advance_ms(400_000);
    let report = audit(&test.db).await;
    let seen: Vec<_> = report.violations.iter().map(|one| (one.check, one.key.as_str())).collect();
    assert_eq!(seen, [("order_rows", "4"), ("reservations_match_orders", "4"), ("nothing_stuck", "1:ORDER_CREATED")]);
}

#[tokio::test]
async fn evidence_is_bounded_and_all_is_counted() {
    let test = sqlite().await;
    small_shop(&test).await;
    execute(&test.db, &["DELETE FROM message_process_log"]).await;
    let report = audit(&test.db).await;
    let slot = report.checks.iter().find(|one| one.name == "events_consumed").unwrap();
    let expected: usize = CASES.iter().flat_map(|case| case.events).map(|kind| kind.groups().len()).sum();
    // And the event of the merchant's own payment.
    assert_eq!(slot.violations, expected as u64 + 1);
    assert_eq!(report.violations.len(), options().evidence);
}

#[test]
fn the_command_prints_and_exits_by_what_it_finds() {
    let dir = tempfile::tempdir().unwrap();
    let ruyi = |args: &[&str]| {
        let mut command = assert_cmd::cargo::cargo_bin_cmd!("ruyi");
        command.current_dir(&dir).args(args);
        command.assert()
    };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let refused = ruyi(&["audit"]).code(1);
    let said = text(&refused.get_output().stderr);
    assert!(said.contains("there is no database file") && said.contains("`ruyi db migrate`"), "{said}");
    ruyi(&["db", "migrate"]).code(0);
    let clean = ruyi(&["audit", "--output", "json", "--settle", "0s", "--bound", "1s"]).code(0);
    let shown: serde_json::Value = serde_json::from_slice(&clean.get_output().stdout).unwrap();
    assert_eq!((shown["version"].as_i64(), shown["ok"].as_bool()), (Some(1), Some(true)));
    assert_eq!(shown["checks"].as_array().unwrap().len(), audit::Check::ALL.len());
    let url = format!("sqlite://{}", dir.path().join("data/ruyi.db").display());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        sqlx::any::install_default_drivers();
        let mut conn = <sqlx::AnyConnection as sqlx::Connection>::connect(&url).await.unwrap();
        let text = "INSERT INTO stock (sku, available, frozen, sold, version, updated_at) VALUES ('A', 1, 0, 0, 1, 1)";
        sql::execute(&mut conn, text, vec![]).await.unwrap();
    });
    let broken = ruyi(&["audit", "--output", "table"]).code(1);
    let shown = text(&broken.get_output().stdout);
    assert!(shown.contains("level available 1 frozen 0 sold 0, ledger available 0"), "{shown}");
}
