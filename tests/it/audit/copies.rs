//! Copies that are ahead of their source, as after a restored backup: `ruyi audit` names them, and `--repair` has them
//! told anew.

use std::collections::BTreeMap;

use reqwest::Method;
use ruyi::audit::{self, RoleDbs};
use ruyi::db::migrate;
use ruyi::domain::event::Role;
use serde_json::{Value, json};

use crate::support::operators::Operator;
use crate::support::role_books::{STRICT, by_role, execute, found as named, until_only};
use crate::support::servers::{count, mariadb_url};
use crate::support::serving::Serving;
use crate::support::waiting::eventually;

fn merchant(active: bool) -> Value {
    json!({"name": "Tea House", "active": active, "accepts": [{"productId": "h5", "channelId": "sandbox"}]})
}

/// What became of each violation of the check, once nothing else is named: the bounds are 0, so an event that is on its
/// way to its group is a violation too.
async fn repaired(dbs: &RoleDbs, operator: &Operator, args: &[&str]) -> BTreeMap<String, String> {
    eventually("nothing is on its way", async || named(dbs).await.iter().all(|(check, _)| check == "copies")).await;
    let (_, rows, said) = operator.items_and_code(&[&["audit", "--repair"], args].concat()).await;
    assert!(rows.iter().all(|row| row["check"] == "copies"), "{rows:#?} {said}");
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    rows.iter().map(|row| (text(row, "key"), text(row, "result"))).collect()
}

fn wanted(results: &[(&str, &str)]) -> BTreeMap<String, String> {
    results.iter().map(|(key, result)| ((*key).to_owned(), (*result).to_owned())).collect()
}

async fn copies_are_told_anew(databases: &[String]) {
    let settings: Vec<&str> = databases.iter().map(String::as_str).chain(["mq.outbox.sweep_interval=200ms"]).collect();
    let serving = Serving::start(&settings).await;
    serving.fill().await;
    for id in [9, 10, 11, 12] {
        serving.fine(Method::PUT, &format!("/merchants/{id}"), &merchant(true)).await;
    }
    let dbs = RoleDbs::each(|role| serving.process.db_of(role).cloned().ok_or(())).unwrap();
    let known = "SELECT COUNT(*) FROM merchant_account";
    eventually("four merchants are known", async || count(&dbs.payment, known).await == 4).await;
    let told = "SELECT COUNT(*) FROM sku_availability WHERE available = 1000";
    eventually("two SKUs are known", async || count(&dbs.order, told).await == 2).await;
    until_only(&dbs, &[]).await;

    // What both roles were told after the backup: A1 is sold out, Z9 and merchant 12 are new, merchant 11 is locked
    // out.
    for (role, text) in [
        (Role::Order, "UPDATE sku_availability SET version = version + 9, available = 0 WHERE sku = 'A1'"),
        (Role::Order, "UPDATE sku_availability SET available = 7 WHERE sku = 'B2'"),
        (
            Role::Order,
            "INSERT INTO sku_availability (sku, available, frozen, sold, version, updated_at) \
             VALUES ('Z9', 5, 0, 0, 4, 1)",
        ),
        (Role::Payment, "UPDATE merchant_account SET version = version + 9"),
        (Role::Payment, "UPDATE merchant_account SET active = 0 WHERE merchant_id = 11"),
        (Role::Notify, "DELETE FROM merchant WHERE id = 12"),
        (Role::Notify, "DELETE FROM message_record WHERE event_id = '12:MERCHANT_CHANGED:1'"),
    ] {
        assert!(execute(dbs.of(role), text.to_owned()).await > 0, "{text}");
    }
    // The payment role takes no notice of whoever is locked out now.
    serving.fine(Method::PUT, "/merchants/10", &merchant(false)).await;
    let locked_out = "SELECT COUNT(*) FROM merchant_account WHERE merchant_id = 10 AND active = 0";
    eventually("the news is handled", async || {
        let handled = "SELECT COUNT(*) FROM message_process_log WHERE message_id = '10:MERCHANT_CHANGED:2'";
        count(&dbs.payment, handled).await == 1
    })
    .await;
    assert_eq!(count(&dbs.payment, locked_out).await, 0);
    let report = audit::run(&dbs, &STRICT).await.unwrap();
    let evidence = |key: &str| report.violations.iter().find(|one| one.key == key).map_or("", |one| &one.evidence);
    assert!(evidence("Z9").contains("there is no such SKU"), "{report:#?}");
    assert!(evidence("9").contains("which says the same"), "{report:#?}");
    assert!(evidence("11").contains("with other active"), "{report:#?}");

    let mut settings: Vec<&str> = databases.iter().map(String::as_str).collect();
    settings.extend(["audit.settle=0s", "audit.bound=0s"]);
    let operator = Operator::with(&settings);
    let results = |done: &'static str| {
        let left = "left";
        wanted(&[("A1", done), ("B2", done), ("Z9", left), ("9", done), ("10", done), ("11", left), ("12", left)])
    };
    assert_eq!(repaired(&dbs, &operator, &["--dry-run"]).await, results("would mend"));
    assert_eq!(repaired(&dbs, &operator, &["--yes"]).await, results("mended"));
    eventually("the order role knows the levels", async || count(&dbs.order, told).await == 2).await;
    eventually("merchant 10 is locked out", async || count(&dbs.payment, locked_out).await == 1).await;

    // What was left is mended once somebody has done what the reasons say.
    serving.fine(Method::PUT, "/stock/Z9", &json!({"available": 3})).await;
    serving.fine(Method::PUT, "/merchants/11", &merchant(false)).await;
    serving.fine(Method::PUT, "/merchants/12", &merchant(true)).await;
    assert_eq!(
        repaired(&dbs, &operator, &["--yes"]).await,
        wanted(&[("Z9", "mended"), ("11", "mended"), ("12", "mended")])
    );
    serving.fine(Method::PUT, "/merchants/11", &merchant(true)).await;
    let known = "SELECT COUNT(*) FROM sku_availability WHERE sku = 'Z9' AND available = 3 AND version = 5";
    eventually("the order role knows what was counted", async || count(&dbs.order, known).await == 1).await;
    let goes_on = "SELECT COUNT(*) FROM merchant_account WHERE merchant_id = 11 AND active = 1";
    eventually("merchant 11 goes on", async || count(&dbs.payment, goes_on).await == 1).await;
    until_only(&dbs, &[]).await;
    assert!(repaired(&dbs, &operator, &["--yes"]).await.is_empty());
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_in_four_sqlite_files_are_told_anew() {
    let dir = tempfile::tempdir().unwrap();
    let url = |name: &str| format!("sqlite://{}", dir.path().join(name).display());
    copies_are_told_anew(&by_role(&[url("order.db"), url("payment.db"), url("stock.db"), url("notify.db")])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_in_four_mariadb_databases_are_told_anew() {
    let mut urls = Vec::new();
    for _ in 0..4 {
        let Some(url) = mariadb_url().await else { return };
        migrate::run(&url).await.unwrap();
        urls.push(url);
    }
    copies_are_told_anew(&by_role(&urls)).await;
}
