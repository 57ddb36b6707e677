//! Products and stock from CSV files, through the real program and a real API; and stock by hand, with its ledger.

use std::process::Output;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::program;
use crate::support::serving::Serving;

async fn ruyi(serving: &Serving, args: &[&str], input: &str) -> Output {
    program::ruyi(serving.process.base_url(), args, input).await
}

/// (exit code, the summary, what stderr says).
fn told(output: &Output) -> (i32, Value, String) {
    let summary = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap(), summary, String::from_utf8(output.stderr.clone()).unwrap())
}

fn summary(lines: u64, changed: u64, unchanged: u64, failed: u64) -> Value {
    json!({"lines": lines, "changed": changed, "unchanged": unchanged, "failed": failed, "dryRun": false})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn products_are_imported_once() {
    let serving = Serving::start(&[]).await;
    let mut file = String::from("\u{feff}SKU,name,price,active\r\n");
    for number in 0..450 {
        file.push_str(&format!("P{number:03},\"Tea, no. {number}\",{number}.30,\n"));
    }
    let dry = told(&ruyi(&serving, &["product", "import", "-", "--dry-run"], &file).await);
    assert_eq!((dry.0, &dry.1["changed"], &dry.1["dryRun"]), (0, &json!(450), &json!(true)), "{}", dry.2);
    assert_eq!(serving.number("SELECT COUNT(*) FROM product").await, 0);
    let first = told(&ruyi(&serving, &["product", "import", "-"], &file).await);
    assert_eq!(first, (0, summary(450, 450, 0, 0), String::new()));
    let again = told(&ruyi(&serving, &["product", "import", "-"], &file).await);
    assert_eq!(again, (0, summary(450, 0, 450, 0), String::new()));
    assert_eq!(serving.number("SELECT COUNT(*) FROM product WHERE version = 1").await, 450);
    let one = serving.get("/products/P007").await;
    assert_eq!((&one["name"], &one["price"]), (&json!("Tea, no. 7"), &json!(7.3)));

    // Lines that are wrong are named, the others are written.
    let file = "sku,name,price,active\nP001,Tea,1.30,true\nP002,,1,yes\nP003,Tea,1.234,yes\nP004,Tea,4,maybe\n\
                P 5,Tea,5,no\nP001,Tea,2,no\nP006,Tea\nP007,Tea,7,no\n";
    let (code, summed, err) = told(&ruyi(&serving, &["product", "import", "-"], file).await);
    assert_eq!((code, &summed), (1, &summary(8, 2, 0, 6)), "{err}");
    for line in 3..=8 {
        assert_eq!(err.matches(&format!("error: line {line}: ")).count(), 1, "{err}");
    }
    assert!(err.contains("P001 stands in line 2 already"), "{err}");
    assert_eq!(serving.get("/products/P007").await["active"], false);

    for head in ["sku,name\nA,B\n", "sku,name,price,colour\nA,B,1,red\n", "sku,sku,name,price\n", ""] {
        let (code, _, err) = told(&ruyi(&serving, &["product", "import", "-"], head).await);
        assert_eq!(code, 1, "{head}: {err}");
    }
    assert_eq!(told(&ruyi(&serving, &["product", "import", "/nowhere.csv"], "").await).0, 1);
    serving.stop().await;
}

/// A file of spreadsheets of any kind, in which a quote holds a line break: the lines are those of an editor.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_of_imports_are_an_editors_with_every_end() {
    let serving = Serving::start(&[]).await;
    let products = ["sku,name,price", "P1,\"Tea", "of two lines\",1.30", "P2,,1", "", "P3,Tea,1.234", "P4,Tea,4"];
    let stock = ["sku,available", "\"P1", "\",5", "P2,x", "", "P3,-1", "P4,4"];
    let of_stock = ["stock", "import", "-", "--reason", "stocktaking"];
    for end in ["\n", "\r\n", "\r"] {
        for (args, lines) in [(&["product", "import", "-"][..], products), (&of_stock[..], stock)] {
            let (code, summed, err) = told(&ruyi(&serving, args, &(lines.join(end) + end)).await);
            let counts = (code, &summed["lines"], &summed["failed"]);
            assert_eq!(counts, (1, &json!(4), &json!(2)), "{args:?} {end:?}: {err}");
            for number in [4, 6] {
                assert_eq!(err.matches(&format!("error: line {number}: ")).count(), 1, "{args:?} {end:?}: {err}");
            }
        }
        assert_eq!(serving.get("/products/P1").await["name"], "Tea\nof two lines");
        assert_eq!(serving.get("/stock/P1").await["available"], 5);
    }
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_without_end_are_not_imported() {
    let stock = ["stock", "import", "/dev/zero", "--reason", "stocktaking"];
    for args in [&["product", "import", "/dev/zero"][..], &stock] {
        // Nobody has to be there: it is read before anything is sent.
        let mut command = tokio::process::Command::from(program::command("http://127.0.0.1:1", args));
        let ended = command.kill_on_drop(true).output();
        let output = tokio::time::timeout(std::time::Duration::from_secs(120), ended).await.expect("it ends").unwrap();
        let (code, _, err) = told(&output);
        assert_eq!(code, 1, "{err}");
        assert!(err.contains("the head of /dev/zero cannot be read") && err.contains("line 1: it has no end"), "{err}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stock_is_imported_with_its_reason() {
    let serving = Serving::start(&["stock.sync_interval=1h"]).await;
    let mut file = String::from("available,sku\n");
    for number in 0..450 {
        file.push_str(&format!("{number},S{number:03}\n"));
    }
    let args = ["stock", "import", "-", "--reason", "stocktaking"];
    assert_eq!(told(&ruyi(&serving, &args, &file).await), (0, summary(450, 449, 1, 0), String::new()));
    assert_eq!(told(&ruyi(&serving, &args, &file).await), (0, summary(450, 0, 450, 0), String::new()));
    let file = "sku,available\nS001,x\nS002,-1\nS003,33\nS004,44\n";
    let (code, summed, err) = told(&ruyi(&serving, &args, file).await);
    assert_eq!((code, &summed), (1, &summary(4, 2, 0, 2)), "{err}");
    // However often it changed: the other roles are told of a SKU at most once in the interval.
    let most = "SELECT COALESCE(MAX(n), 0) FROM (SELECT COUNT(*) AS n FROM message_record \
                WHERE topic = 'INVENTORY_SYNC' GROUP BY msg_key) x";
    assert!(serving.number(most).await <= 1);

    // By hand.
    let adjusted = told(&ruyi(&serving, &["stock", "adjust", "S003", "-3", "--reason", "broken"], "").await);
    assert_eq!((adjusted.0, &adjusted.1["available"]), (0, &json!(30)), "{}", adjusted.2);
    let too_many = told(&ruyi(&serving, &["stock", "adjust", "S003", "-31", "--reason", "broken"], "").await);
    assert_eq!(too_many.0, 1);
    let page = serving.get("/stock/S003/ledger?limit=2").await;
    let rows = page["items"].as_array().unwrap();
    let seen: Vec<_> = rows.iter().map(|row| (row["available"].clone(), row["reason"].clone())).collect();
    assert_eq!(seen, [(json!(-3), json!("broken")), (json!(30), json!("stocktaking"))]);
    assert_eq!(
        (&rows[0]["kind"], &rows[0]["actor"], &rows[0]["orderId"]),
        (&json!("SET"), &json!("local"), &json!(null))
    );
    let next = page["next"].as_str().unwrap();
    let page = serving.get(&format!("/stock/S003/ledger?limit=2&before={next}")).await;
    assert_eq!((page["items"].as_array().unwrap().len(), &page["next"]), (1, &Value::Null));
    let listed = ruyi(&serving, &["stock", "ledger", "S003"], "").await;
    assert_eq!(String::from_utf8(listed.stdout).unwrap().lines().count(), 3);

    let wrong = [
        json!({"items": [], "reason": "x"}),
        json!({"items": [{"sku": "S001", "available": 1}], "reason": " "}),
        json!({"items": [{"sku": "S001", "available": 1}]}),
        json!({"items": [{"sku": "S001", "available": 1}, {"sku": "S001", "available": 2}], "reason": "x"}),
        json!({"items": [{"sku": "S001", "available": -1}], "reason": "x"}),
        json!({"items": vec![json!({"sku": "S001", "available": 1}); 501], "reason": "x"}),
    ];
    for body in wrong {
        assert_eq!(serving.send(Method::PUT, "/stock", &body).await.0, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    }
    let twice = json!({"items": vec![json!({"sku": "P", "name": "Tea", "price": 1}); 2]});
    assert_eq!(serving.send(Method::PUT, "/products", &twice).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(serving.get("/stock/S001").await["available"], 1);
    serving.stop().await;
}
