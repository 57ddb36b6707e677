//! Some of the dead letters of a group: those of one cause, or those that are named; and one file put there twice.

use serde_json::json;

use crate::support::dead_letters::{exported, import, letter};
use crate::support::operators::Operator;
use crate::support::servers::rocketmq::apache;
use crate::support::servers::unique;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_of_one_cause_or_id_are_replayed() {
    let Some(apache) = apache().await else { return };
    let operator = Operator::new(&apache.namesrv());
    let group = unique("picked-group");
    let unlike = letter(&group, 4, "four").replace("user 4 is unknown", "no such order");
    import(
        &operator,
        &[letter(&group, 1, "one"), letter(&group, 2, "two"), letter(&group, 3, "three"), unlike].concat(),
    )
    .await;
    let replay = async |more: &[&str]| {
        let args = ["mq", "dlq", "replay", &group, "--yes", "--watch", "0s", "--ramp", "0s"];
        operator.items(&[&args[..], more].concat()).await.remove(0)
    };

    let groups = operator.items(&["mq", "dlq", "group", &group]).await;
    let cause = groups.iter().find(|cause| cause["count"] == 1).unwrap();
    assert_eq!(cause["reason"], "no such order", "{groups:?}");
    let one = replay(&["--fingerprint", cause["fingerprint"].as_str().unwrap()]).await;
    assert_eq!((&one["matched"], &one["sent"]), (&json!(1), &json!(1)), "{one}");

    // One of those that are left, by the id that `browse` prints, and no second time.
    let browsed = operator.items(&["mq", "dlq", "browse", &group]).await;
    assert_eq!(browsed.len(), 3, "{browsed:?}");
    let id = browsed[0]["id"].as_str().unwrap();
    let named = replay(&["--id", id]).await;
    assert_eq!((&named["matched"], &named["sent"]), (&json!(1), &json!(1)), "{named}");
    let again = replay(&["--id", id]).await;
    assert_eq!((&again["already"], &again["sent"]), (&json!(1), &json!(0)), "{again}");
    let left = operator.items(&["mq", "dlq", "browse", &group]).await;
    assert_eq!((left.len(), left.iter().all(|letter| letter["id"] != id)), (2, true), "{left:?}");
    let none = replay(&["--fingerprint", "00000000"]).await;
    assert_eq!(none["matched"], 0, "{none}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_imported_once_unless_told_again() {
    let Some(apache) = apache().await else { return };
    let operator = Operator::new(&apache.namesrv());
    let group = unique("twice-group");
    let file = operator.dir().join("letters.jsonl");
    std::fs::write(&file, [letter(&group, 1, "one"), letter(&group, 2, "two")].concat()).unwrap();
    let import = ["mq", "dlq", "import", file.to_str().unwrap(), "--yes"];
    for (more, already, sent, depth) in [(&[][..], 0, 2, 2), (&[][..], 2, 0, 2), (&["--again"][..], 0, 2, 4)] {
        let imported = operator.items(&[&import[..], more].concat()).await;
        assert_eq!(imported, [json!({"read": 2, "already": already, "sent": sent, "failed": 0})], "{more:?}");
        assert_eq!(exported(&operator, &group).await.len(), depth);
    }
    // What would be done is told beforehand, and since when it is so.
    let dry = ["mq", "dlq", "import", file.to_str().unwrap(), "--dry-run"];
    let (code, planned, stderr) = operator.items_and_code(&dry).await;
    assert_eq!((code, planned), (0, vec![json!({"read": 2, "already": 2, "sent": 0, "failed": 0})]));
    assert!(stderr.contains("2 of 2 were put there by an earlier run with this file, the last one at 20"), "{stderr}");
}
