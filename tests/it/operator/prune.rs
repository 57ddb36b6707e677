//! `ruyi db prune`.

use ruyi::clock::Clock;
use ruyi::db::sql::{self, Columns};
use ruyi::vals;

use crate::support::operators::{Operator, masked};
use crate::support::servers::{TestDb, sqlite};

const DAY_MS: i64 = 86_400_000;

/// What groups handled, messages that were tried again, and decided transactions: each as many days ago.
async fn done_with(test: &TestDb, days: &[(i64, i64)]) {
    let now_ms = Clock::system().now_ms();
    let mut conn = test.db.read().await.unwrap();
    let mut id = 0_i64;
    for (count, days) in days {
        let at = now_ms - days * DAY_MS;
        for _ in 0..*count {
            id += 1;
            let text = "INSERT INTO message_process_log (consumer_group, message_id, batch_id, topic, msg_key, outcome, consumed_at) \
                        VALUES ('points-consumer-group', ?, 1, 'PAID_ORDER_SUCCESS', 'k', 0, ?)";
            sql::execute(&mut conn, text, vals![format!("m{id}"), at]).await.unwrap();
        }
        let text = "INSERT INTO message_retry_log (id, consumer_group, message_id, topic, tag, msg_key, body, properties, \
                    status, blocks, attempts, first_failed_at, last_error, updated_at) \
                    VALUES (?, 'g', ?, 't', 't', 'k', 'b', '[]', 1, 1, 1, 1, '', ?)";
        sql::execute(&mut conn, text, vals![id, format!("m{id}"), at]).await.unwrap();
        let text =
            "INSERT INTO message_tx_state (tx_id, event_id, msg_key, state, created_at) VALUES (?, 'e', 'k', 1, ?)";
        sql::execute(&mut conn, text, vals![format!("t{id}"), at]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_tables_are_pruned_batch_by_batch() {
    let test = sqlite().await;
    done_with(&test, &[(1_200, 60), (7, 40)]).await;
    let operator = Operator::with(&[&format!("database.url={}", test.url)]);
    let prune = ["db", "prune", "--older-than", "45d", "--batch-size", "500", "--yes"];
    let pruned = async || -> Vec<(String, i64)> {
        let items = operator.items(&prune).await;
        let row = |item: &serde_json::Value| {
            assert_eq!(item["result"], "pruned", "{item}");
            (item["table"].as_str().unwrap().to_owned(), item["pruned"].as_i64().unwrap())
        };
        items.iter().map(row).filter(|(_, pruned)| *pruned > 0).collect()
    };

    let wanted = [("message_process_log", 1_200), ("message_retry_log", 1), ("message_tx_state", 1)];
    let mut first = pruned().await;
    first.sort();
    assert_eq!(first, wanted.map(|(table, count)| (table.to_owned(), count)));
    assert!(pruned().await.is_empty(), "what is younger stays");
    let mut conn = test.db.read().await.unwrap();
    let text = "SELECT (SELECT COUNT(*) FROM message_process_log) + (SELECT COUNT(*) FROM message_retry_log) * 100";
    assert_eq!(sql::fetch_one(&mut conn, text, vec![]).await.unwrap().unwrap().int(0).unwrap(), 107);
    let journal = std::fs::read_to_string(operator.data_dir().join("journal.jsonl")).unwrap();
    assert!(journal.contains("message_tx_state older than 45d"), "{journal}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_short_window_is_refused_pruning_wants_a_yes() {
    let operator = Operator::with(&[]);
    let said = operator.refuses(&["db", "prune", "--older-than", "7d", "--yes"], 2).await;
    assert!(said.contains("message_process_log is needed for 30d (retention.inbox"), "{said}");
    assert!(said.contains("help: say --older-than 30d"), "{said}");
    operator.refuses(&["db", "prune", "--table", "orders"], 2).await;
    operator.refuses(&["db", "prune", "--batch-size", "0"], 2).await;
    // No database there yet.
    let said = operator.refuses(&["db", "prune", "--dry-run"], 1).await;
    assert!(said.contains("there is no database file") && said.contains("`ruyi db migrate`"), "{said}");
    assert_eq!(operator.run(&["db", "migrate"]).await.status.code(), Some(0));
    let said = operator.refuses(&["db", "prune"], 2).await;
    assert!(said.contains("say --yes, or --dry-run"), "{said}");
    let journal = operator.data_dir().join("journal.jsonl");
    let items = operator.items(&["db", "prune", "--dry-run"]).await;
    assert_eq!(items.len(), 6);
    assert!(!journal.exists());
    let items = operator.items(&["db", "prune", "--table", "message_record", "--older-than", "7d", "--yes"]).await;
    insta::assert_json_snapshot!("prune", masked(items[0].clone(), &["before", "database", "tookMs"]));
    assert!(std::fs::read_to_string(journal).unwrap().contains("message_record older than 7d"));
}
