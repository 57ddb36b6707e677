//! `ruyi db prune`.

use crate::support::operators::{Operator, masked};

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
    assert_eq!(items.len(), 5);
    assert!(!journal.exists());
    let items = operator.items(&["db", "prune", "--table", "message_record", "--older-than", "7d", "--yes"]).await;
    insta::assert_json_snapshot!("prune", masked(items[0].clone(), &["before", "database", "tookMs"]));
    assert!(std::fs::read_to_string(journal).unwrap().contains("message_record older than 7d"));
}
