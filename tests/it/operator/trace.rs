//! `ruyi trace`: stories of the orders of `outbox.rs`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::operators::{Operator, masked};
use crate::support::waiting::eventually;

fn of<'a>(items: &'a [Value], source: &str) -> Vec<&'a Value> {
    items.iter().filter(|item| item["source"] == source && item["missing"] == false).collect()
}

/// An order whose first event nobody has handled.
pub async fn tells_what_is_missing(operator: &Operator, id: &str) {
    let mut items = Vec::new();
    // While a deleted topic is made anew the brokers may not answer, and trace says that it does not know.
    eventually("the brokers could be asked", async || {
        let (code, told, stderr) = operator.items_and_code(&["trace", "order", id]).await;
        assert_eq!(code, 0, "{stderr}");
        items = told;
        !stderr.contains("is not known")
    })
    .await;
    let missing: Vec<&Value> = items.iter().filter(|item| item["missing"] == true).collect();
    let who: Vec<&str> = missing.iter().map(|item| item["who"].as_str().unwrap()).collect();
    assert_eq!(who, ["stock-consumer-group", "brokers"], "{items:?}");
    assert!(missing[1]["what"].as_str().unwrap().contains("ruyi mq outbox redrive --ids"), "{missing:?}");
    assert_eq!((&missing[0]["who"], &missing[0]["source"]), (&"stock-consumer-group".into(), &"inbox".into()));
    assert!(missing[0]["what"].as_str().unwrap().contains(&format!("has not handled {id}:ORDER_CREATED")));
    assert!(of(&items, "broker").is_empty(), "its copy is lost: {items:?}");
    let table = operator.run(&["trace", "order", id, "--output", "table"]).await;
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("missing:") && table.contains("CREATED"), "{table}");
}

/// An order that was signed.
pub async fn tells_all(operator: &Operator, id: &str, payment: &str) {
    let items = operator.items(&["trace", "order", id]).await;
    assert!(items.iter().all(|item| item["missing"] == false), "{items:?}");
    let sources: BTreeSet<&str> = items.iter().map(|item| item["source"].as_str().unwrap()).collect();
    let expected = ["broker", "call", "inbox", "notice", "order", "outbox", "payment", "points", "stock"];
    assert_eq!(sources, BTreeSet::from(expected), "{items:?}");
    assert!(items.is_sorted_by_key(|item| item["at"].as_str().unwrap().to_owned()));
    let longest: Vec<&Value> = items.iter().filter(|item| item["longest"] == true).collect();
    let most = items.iter().filter_map(|item| item["afterMs"].as_i64()).max();
    assert_eq!((longest.len(), longest[0]["afterMs"].as_i64()), (1, most));
    let sold: Vec<&str> = of(&items, "stock").iter().map(|item| item["what"].as_str().unwrap()).collect();
    assert_eq!(sold, ["freezes 2 x A1", "sells 2 x A1"]);
    insta::assert_json_snapshot!("trace", masked(of(&items, "stock")[0].clone(), &["at", "afterMs", "longest"]));

    // Each event that was sent has its copy, where it is said to lie.
    let event = format!("{id}:PAYMENT_SUCCESS");
    let written: BTreeSet<&str> = of(&items, "outbox").iter().map(|item| item["event"].as_str().unwrap()).collect();
    let copies: BTreeSet<&str> = of(&items, "broker").iter().map(|item| item["event"].as_str().unwrap()).collect();
    assert_eq!(copies, written);
    let copy = of(&items, "broker").into_iter().find(|item| item["event"] == event.as_str()).unwrap();
    let (topic, place) = copy["place"].as_str().unwrap().split_once(' ').unwrap();
    assert_eq!(operator.items(&["mq", "messages", "get", topic, place]).await[0]["eventId"], event.as_str());

    assert_eq!(operator.items(&["trace", "payment", payment]).await.len(), items.len());
    let one = operator.items(&["trace", "event", &event]).await;
    let told: BTreeSet<&str> = one.iter().map(|item| item["source"].as_str().unwrap()).collect();
    assert_eq!(told, BTreeSet::from(["outbox", "broker", "inbox"]));
    let table = operator.run(&["trace", "order", id, "--output", "table"]).await;
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.starts_with(&format!("order {id}")) && table.contains("<- longest wait"), "{table}");
    assert!(!table.contains("missing:"), "{table}");

    for (args, code) in [(["order", "1"], 1), (["payment", "1"], 1), (["event", "1:NONE"], 1), (["order", "x"], 2)] {
        let said = operator.refuses(&[&["trace"], &args[..]].concat(), code).await;
        assert!(code == 2 || said.contains("help: "), "{said}");
    }
}

/// The rest is told all the same.
pub async fn does_without_a_broker(database: &str, id: &str) {
    let operator = Operator::with(&["mq.namesrv=127.0.0.1:1", database]);
    let (code, items, stderr) = operator.items_and_code(&["trace", "order", id]).await;
    assert!(code == 0 && stderr.contains("on the brokers is not known"), "{code} {stderr}");
    assert!(of(&items, "broker").is_empty() && !of(&items, "outbox").is_empty());
    let (code, _, stderr) = operator.items_and_code(&["trace", "order", id, "--no-broker"]).await;
    assert_eq!((code, stderr.as_str()), (0, ""));
}
