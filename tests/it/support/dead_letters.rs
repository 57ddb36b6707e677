//! Dead letters as `ruyi mq dlq` takes and gives them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::operators::Operator;

/// A line that `import` takes: the dead letter of a points-consumer-group, or of a group that is called otherwise.
pub fn letter(group: &str, number: usize, body: &str) -> String {
    let order = 1_000_000 + number;
    let properties = [
        ("dlqAttempts", "4".to_owned()),
        ("dlqOriginTopic", "PAID_ORDER_SUCCESS".to_owned()),
        ("dlqReason", format!("user {number} is unknown")),
        ("eventId", format!("{order}:PAID_ORDER_SUCCESS")),
        ("eventType", "PAID_ORDER_SUCCESS".to_owned()),
    ];
    let line = json!({
        "group": group, "id": "a:0:0", "tag": "PAID_ORDER_SUCCESS", "key": order.to_string(), "properties": properties,
        "bornMs": ruyi::clock::Clock::system().now_ms() - 60_000, "storedMs": 0, "body": body,
    });
    format!("{line}\n")
}

/// The body of a PAID_ORDER_SUCCESS that is worth one point.
pub fn paid(number: usize) -> String {
    let order = (1_000_000 + number).to_string();
    let id = format!("{order}:PAID_ORDER_SUCCESS");
    json!({"eventId": id, "timestamp": 1, "orderId": order, "userId": "7", "payAmount": 1, "payTime": 1}).to_string()
}

/// Puts `lines` into the dead letters of their group.
pub async fn import(operator: &Operator, lines: &str) {
    let output = operator.run_with(&["mq", "dlq", "import", "-", "--yes", "--rps", "5000"], lines.as_bytes()).await;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

pub async fn exported(operator: &Operator, group: &str) -> Vec<Value> {
    let output = operator.run(&["mq", "dlq", "export", group, "--all"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub fn keys(items: &[Value]) -> Vec<String> {
    let mut keys: Vec<String> = items.iter().map(|item| item["key"].as_str().unwrap().to_owned()).collect();
    keys.sort();
    keys
}

/// The journal, line by line.
pub fn journal(operator: &Operator) -> Vec<Value> {
    let text = std::fs::read_to_string(operator.data_dir().join("journal.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The properties of an exported letter.
pub fn properties(letter: &Value) -> BTreeMap<String, String> {
    let all: Vec<(String, String)> = serde_json::from_value(letter["properties"].clone()).unwrap();
    all.into_iter().collect()
}
