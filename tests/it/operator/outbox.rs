//! `ruyi mq outbox`: the send log, and sending again from it.

use ruyi::clock::Clock;
use ruyi::db::outbox::{self, Failure, OutboxRow};
use ruyi::domain::event::Kind;
use ruyi::domain::id::first_id_of;
use serde_json::Value;
use tokio::io::AsyncReadExt;

use crate::support::operators::{Operator, masked};
use crate::support::servers::{TestDb, sqlite, write_tx};
use crate::support::waiting::eventually;

/// ORDER_CREATED of order `number`, written ten minutes ago.
fn row(number: i64, now_ms: i64) -> OutboxRow {
    let kind = Kind::OrderCreated;
    OutboxRow {
        id: first_id_of(now_ms - 600_000 + number, 1),
        event_id: kind.event_id(number),
        topic: kind.name().into(),
        tag: kind.name().into(),
        key: number.to_string(),
        body: "{}".into(),
        properties: outbox::properties(&kind.event_id(number), kind.name(), None),
        deliver_at_ms: 0,
        attempts: 0,
    }
}

/// 600 rows that were sent; then one given up, one pending, one taken back.
async fn filled(now_ms: i64) -> TestDb {
    let test = sqlite().await;
    let rows: Vec<OutboxRow> = (1..=603).map(|number| row(number, now_ms)).collect();
    let done = write_tx!(test.db, [rows], |tx| {
        outbox::insert(tx, &rows, now_ms - 600_000).await?;
        let sent: Vec<i64> = rows[..600].iter().map(|row| row.id).collect();
        outbox::mark_sent(tx, &sent, now_ms - 590_000).await?;
        let failure = Failure { id: rows[600].id, attempts: 9, next_at: None, error: "refused".to_owned() };
        outbox::mark_failed(tx, vec![failure]).await?;
        outbox::cancel(tx, vec![rows[602].event_id.clone()]).await
    });
    done.unwrap();
    test
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn send_log_is_listed_and_stopped_redrive_goes_on() {
    let test = filled(Clock::system().now_ms()).await;
    let operator = Operator::with(&[&format!("database.url={}", test.url)]);
    let of = async |more: &[&str]| operator.items(&[&["mq", "outbox", "list"], more].concat()).await;
    let listed = operator.run(&["mq", "outbox", "list", "--output", "jsonl"]).await;
    assert_eq!(listed.stdout.iter().filter(|byte| **byte == b'\n').count(), 100);
    assert!(String::from_utf8_lossy(&listed.stderr).contains("more than 100"));
    let all = of(&["--limit", "1000"]).await;
    let statuses: Vec<&str> = all.iter().take(4).map(|item| item["status"].as_str().unwrap()).collect();
    assert_eq!((all.len(), statuses), (603, vec!["canceled", "pending", "failed", "sent"]), "newest first");
    assert_eq!(of(&["--key", "17"]).await[0]["eventId"], "17:ORDER_CREATED");
    assert!(of(&["--since", "5m"]).await.is_empty());
    assert_eq!(of(&["--since", "@-1h", "--role", "stock", "--event", "ORDER_CREATED", "--limit", "7"]).await.len(), 7);
    let failed = of(&["--status", "failed"]).await;
    assert_eq!(failed.len(), 1);
    insta::assert_json_snapshot!("outbox_list", masked(failed[0].clone(), &["created"]));
    let near = operator.refuses(&["mq", "outbox", "list", "--event", "ORDER_CREATE"], 2).await;
    assert!(near.contains("ORDER_CREATED"), "{near}");

    let redrive = ["mq", "outbox", "redrive", "--since", "1h"];
    operator.refuses(&redrive, 2).await;
    operator.refuses(&["mq", "outbox", "redrive", "--yes"], 2).await;
    operator.refuses(&["mq", "outbox", "redrive", "--since", "1s", "--yes"], 2).await;
    let planned = operator.items(&[&redrive[..], &["--dry-run"]].concat()).await;
    insta::assert_json_snapshot!("outbox_redrive", masked(planned[0].clone(), &["oldest", "newest"]));
    let only = operator.items(&[&redrive[..], &["--dry-run", "--status", "failed"]].concat()).await;
    assert_eq!(only[0]["rows"], 1);
    assert!(!operator.data_dir().join("journal.jsonl").exists(), "nothing was changed");

    // Stopped after its first batch; the same command does the rest.
    let args = [&redrive[..], &["--yes", "--output", "json"]].concat();
    let mut child = operator.command(&[&args[..], &["--rps", "20"]].concat()).spawn().unwrap();
    let pending = "SELECT COUNT(*) FROM message_record WHERE status = 0";
    eventually("rows are due again", async || count(&test, pending).await > 1).await;
    assert!(
        std::process::Command::new("kill").args(["-INT", &child.id().unwrap().to_string()]).status().unwrap().success()
    );
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).await.unwrap();
    assert_eq!(child.wait().await.unwrap().code(), Some(1), "{stderr}");
    assert!(stderr.contains("the same command goes on"), "{stderr}");
    let part = count(&test, pending).await;
    assert!((2..602).contains(&part), "{part}");
    let output = operator.run(&args).await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(0) && stderr.contains("going on"), "{stderr}");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["items"][0]["done"], 602 - part, "what was left: {document}");
    assert_eq!(count(&test, pending).await, 602);
    let untouched = "SELECT COUNT(*) FROM message_record WHERE status = 3 OR (status = 0 AND attempts <> 0)";
    assert_eq!(count(&test, untouched).await, 1, "what was taken back stays so");
    let journal = std::fs::read_to_string(operator.data_dir().join("journal.jsonl")).unwrap();
    assert_eq!(journal.matches("\"command\":\"mq outbox redrive\"").count(), 2, "{journal}");
    // It is done: the same again is a new one, with nothing to do.
    let (code, items, stderr) = operator.items_and_code(&[&redrive[..], &["--yes"]].concat()).await;
    assert!(code == 0 && items.is_empty() && stderr.contains("nothing is to be sent"), "{stderr}");

    let ids = ["mq", "outbox", "redrive", "--ids", "603:ORDER_CREATED,1:ORDER_CREATED,none", "--yes"];
    let (code, _, stderr) = operator.items_and_code(&ids).await;
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("603:ORDER_CREATED: was taken back"), "{stderr}");
    assert!(stderr.contains("1:ORDER_CREATED: waits to be sent anyway"), "{stderr}");
    assert!(stderr.contains("none: no outbox has this event"), "{stderr}");
    let away = Operator::with(&["database.url=mysql://127.0.0.1:1/x"]).refuses(&["mq", "outbox", "list"], 1).await;
    assert!(away.contains("127.0.0.1:1"), "{away}");
}

/// What was asked for weeks ago is not what the same words mean today.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_stopped_redrive_is_not_gone_on_unasked() {
    let test = filled(Clock::system().now_ms()).await;
    let operator = Operator::with(&[&format!("database.url={}", test.url)]);
    let file = operator.data_dir().join("outbox-redrive.json");
    let absolute = ["--since", "@2024-01-15T08:00", "--until", "@2099-01-01T00:00"];
    let run = async |more: &[&str]| {
        operator.items_and_code(&[&["mq", "outbox", "redrive", "--since", "1h"], more].concat()).await
    };
    // As a run leaves it that was stopped after its second row, `weeks` ago.
    let left = |asked: &str, weeks: i64| {
        let saved_ms = Clock::system().now_ms() - weeks * 7 * 86_400_000;
        let (since_ms, before_ms) = (saved_ms - 3_600_000, saved_ms - 30_000);
        let progress = serde_json::json!({
            "asked": asked, "sinceMs": since_ms, "beforeMs": before_ms, "after": {}, "savedMs": saved_ms,
        });
        std::fs::create_dir_all(operator.data_dir()).unwrap();
        std::fs::write(&file, progress.to_string()).unwrap();
    };
    let (none, hour) = ("None [] None None None None false", "Some(Ago(3600000))");

    for way in ["--yes", "--dry-run"] {
        left(&format!("{hour} {none}"), 3);
        let (code, items, stderr) = run(&[way]).await;
        assert!(code == 2 && items.is_empty(), "{way}: {stderr}");
        assert!(stderr.contains("--continue") && stderr.contains("--anew") && stderr.contains("from 20"), "{stderr}");
    }
    let (code, items, stderr) = run(&["--anew", "--dry-run"]).await;
    assert!(code == 0 && items[0]["rows"] == 601 && file.exists(), "{stderr}");
    // Nothing is left of the old span, and that was the end of it.
    let (code, items, stderr) = run(&["--continue", "--yes"]).await;
    assert!(code == 0 && items.is_empty() && stderr.contains("going on") && !file.exists(), "{stderr}");
    let (code, _, stderr) = run(&["--continue", "--yes"]).await;
    assert!(code == 2 && stderr.contains("no run"), "{stderr}");
    // Of a run of an earlier version nobody knows when it was.
    left(&format!("{hour} {none}"), 3);
    let without = std::fs::read_to_string(&file).unwrap().replace("savedMs", "other");
    std::fs::write(&file, without).unwrap();
    assert_eq!(run(&["--yes"]).await.0, 2);
    let (code, items, stderr) = run(&["--anew", "--status", "failed", "--yes"]).await;
    assert!(code == 0 && items[0]["done"] == 1 && stderr.contains("dropped"), "{stderr}");
    left(&format!("{hour} {none}"), 3);
    let (code, items, stderr) = run(&["--anew", "--yes"]).await;
    assert!(code == 0 && items[0]["done"] == 600 && !file.exists(), "{stderr}");

    // Times that stay what they are need no such choice.
    let args = [&["mq", "outbox", "redrive"], &absolute[..], &["--dry-run"]].concat();
    let (since, until) = (operator_ms("2024-01-15T08:00"), operator_ms("2099-01-01T00:00"));
    left(&format!("Some(At({since})) Some(At({until})) [] None None None None false"), 3);
    let (code, _, stderr) = operator.items_and_code(&args).await;
    assert!(code == 0 && stderr.contains("going on"), "{stderr}");
}

/// Local time, as the commands read it.
fn operator_ms(text: &str) -> i64 {
    let local: jiff::civil::DateTime = text.parse().unwrap();
    local.to_zoned(jiff::tz::TimeZone::system()).unwrap().timestamp().as_millisecond()
}

/// Ten minutes ago, and sent: an event of points, and the dead letter that its group made of another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_and_single_roles_are_sent_again() {
    let now_ms = Clock::system().now_ms();
    let (points, others) = (sqlite().await, sqlite().await);
    for (number, test) in [(1, &points), (2, &others)] {
        let letter = OutboxRow {
            topic: "%DLQ%points-consumer-group".into(),
            event_id: format!("{number}:dead"),
            ..row(number + 10, now_ms)
        };
        let rows = vec![row(number, now_ms), letter];
        let done = write_tx!(test.db, [rows], |tx| {
            outbox::insert(tx, &rows, now_ms - 600_000).await?;
            outbox::mark_sent(tx, &[rows[0].id, rows[1].id], now_ms - 590_000).await
        });
        done.unwrap();
    }
    let settings = [&format!("database.url={}", others.url), &format!("database.roles.notify={}", points.url)];
    let operator = Operator::with(&settings.map(String::as_str));
    let redrive = async |more: &[&str]| {
        let items = operator.items(&[&["mq", "outbox", "redrive", "--since", "1h"], more].concat()).await;
        let mut events: Vec<String> = items.iter().map(|item| item["event"].as_str().unwrap().to_owned()).collect();
        events.sort();
        events
    };
    let pending = "SELECT COUNT(*) FROM message_record WHERE status = 0";

    let (event, letter) = ("ORDER_CREATED".to_owned(), "%DLQ%points-consumer-group".to_owned());
    assert_eq!(redrive(&["--dry-run"]).await, [&event[..]; 2]);
    assert_eq!(redrive(&["--dry-run", "--dead-letters"]).await, [&letter[..], &letter, &event, &event]);
    assert_eq!(redrive(&["--role", "notify", "--yes"]).await, [&event[..]]);
    assert_eq!((count(&points, pending).await, count(&others, pending).await), (1, 0));
    assert_eq!(redrive(&["--role", "notify", "--dead-letters", "--yes"]).await, [&letter[..]]);
    assert_eq!((count(&points, pending).await, count(&others, pending).await), (2, 0));
    assert_eq!(redrive(&["--dead-letters", "--yes"]).await, [letter, event]);
    assert_eq!((count(&points, pending).await, count(&others, pending).await), (2, 2));
}

async fn count(test: &TestDb, text: &'static str) -> i64 {
    use ruyi::db::sql::{self, Columns};
    let mut conn = test.db.read().await.unwrap();
    sql::fetch_one(&mut conn, text, vec![]).await.unwrap().unwrap().int(0).unwrap()
}
