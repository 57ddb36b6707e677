//! The client's commands as README and the documents show them, through the real program and real roles.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::program;
use crate::support::serving::Serving;

/// What it printed as JSON, one value a line; it ended with 0.
async fn ruyi(serving: &Serving, args: &[&str], input: &str) -> Vec<Value> {
    let output = program::ruyi(serving.process.base_url(), args, input).await;
    let (text, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(0), "{args:?}: {text}{error}");
    let value = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{args:?}: {error}: {line}"));
    text.lines().map(value).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn products_and_stock_come_from_named_files() {
    let serving = Serving::start(&[]).await;
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let products = file("products.csv", "sku,name,price\nTEA-1,Longjing tea,59.80\nTEA-2,Oolong,12\n");
    ruyi(&serving, &["product", "import", &products], "").await;
    let shown = ruyi(&serving, &["product", "get", "TEA-1", "TEA-2"], "").await;
    assert_eq!((&shown[0]["price"], &shown[1]["name"]), (&json!(59.8), &json!("Oolong")));

    let counted = file("counted.csv", "sku,available\nTEA-1,1000\n");
    ruyi(&serving, &["stock", "import", &counted, "--reason", "stocktaking"], "").await;
    let stock = ruyi(&serving, &["stock", "get", "TEA-1"], "").await;
    assert_eq!(stock[0]["available"], 1000);
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_with_coupon_is_shown_moved_and_found() {
    let serving = Serving::start(&[]).await;
    serving.fill().await;
    let template = json!({"name": "Five off", "kind": "AMOUNT", "amountOff": 5, "stock": 10,
        "validUntil": "2099-01-01T00:00:00Z"});
    serving.fine(Method::PUT, "/coupons/FIVE", &template).await;
    let coupon =
        serving.fine(Method::POST, "/coupons/FIVE/issue", &json!({"userId": "1001"})).await["couponId"].clone();

    // A line of a file says the same as the body of a request.
    let line = json!({"userId": "1001", "items": [{"sku": "A1", "quantity": 2}], "couponId": coupon,
        "remark": "please ring", "holdSeconds": 3_600});
    let placed = ruyi(&serving, &["order", "create", "-"], &format!("{line}\n")).await;
    let id = placed[0]["orderId"].as_str().unwrap().to_owned();
    let shown = ruyi(&serving, &["order", "get", &id], "").await;
    assert_eq!((&shown[0]["couponId"], &shown[0]["totalAmount"]), (&coupon, &json!(114.6)));

    ruyi(&serving, &["order", "address", &id, "1 West Lake Road"], "").await;
    serving.until(&format!("/orders/{id}"), "status", "RESERVED").await;
    assert_eq!(serving.get(&format!("/orders/{id}")).await["address"], "1 West Lake Road");
    let payment = ruyi(&serving, &["payment", "get", &id], "").await;
    assert_eq!((&payment[0]["orderId"], &payment[0]["amount"]), (&json!(id), &json!(114.6)));

    serving.settled().await;
    let found = ruyi(&serving, &["order", "search", "please", "-o", "jsonl"], "").await;
    assert_eq!(found.iter().map(|order| &order["orderId"]).collect::<Vec<_>>(), [&json!(id)]);
    serving.stop().await;
}

/// All of it in one process, as the first command of the README does it, with fewer orders.
#[cfg(feature = "embedded")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demo_in_one_process_ends_as_expected() {
    let output = program::ruyi("", &["demo", "--orders", "60", "--output", "json"], "").await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{}{error}", String::from_utf8_lossy(&output.stdout));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["unexpected"], &report["audit"]["violations"]), (&json!(0), &json!(0)), "{report}");
    // Nothing is said but how far it is.
    let is_progress = |line: &str| line == "feeding 60 orders" || line.contains(" of 60 orders, about ");
    assert!(error.lines().all(is_progress), "{error}");
}
