//! `ruyi delivery`: outgoing calls listed, shown, made once more and taken back.

use ruyi::clock::Clock;
use ruyi::db::delivery::{self, Attempt, Delivery, Kind, Status};
use ruyi::domain::id::first_id_of;
use serde_json::Value;

use crate::support::operators::Operator;
use crate::support::servers::{TestDb, sqlite, write_tx};

/// Calls 0 to 4, newest last: dead, done, pending, refused, pending.
async fn filled(now_ms: i64) -> (TestDb, Vec<String>) {
    let test = sqlite().await;
    let ids: Vec<i64> = (0..5).map(|n| first_id_of(now_ms - 60_000 + n, 1)).collect();
    let calls: Vec<Delivery> = (0..5_usize)
        .map(|n| Delivery {
            id: ids[n],
            kind: if n == 4 { Kind::ChannelSubmit } else { Kind::Warehouse },
            reference: format!("r{n}"),
            order_id: 70 + i64::try_from(n).unwrap(),
            url: format!("https://shop.example{}/n?key=t0p", if n == 3 { ":8443" } else { "" }),
            body: r#"{"orderId":"7","phone":"t0p"}"#.into(),
            attempts: 0,
            next_at: now_ms + 3_600_000,
            trace: None,
        })
        .collect();
    let attempt = |id, status, http_status| Attempt {
        delivery_id: id,
        attempt: 1,
        started_at: now_ms,
        duration_ms: 12,
        http_status: Some(http_status),
        error: (http_status != 200).then(|| format!("HTTP {http_status}")),
        request: Some("POST https://shop.example/n\nwebhook-signature: ***\n\n{}".into()),
        answer: Some(format!("{http_status}\n\nno")),
        status,
        next_at: None,
        unanswered: 0,
    };
    let attempts =
        [attempt(ids[0], Status::Dead, 500), attempt(ids[1], Status::Done, 200), attempt(ids[3], Status::Refused, 404)];
    let done = write_tx!(test.db, [calls, attempts], |tx| {
        delivery::insert(tx, &calls).await?.all()?;
        delivery::record(tx, &attempts).await
    });
    done.unwrap();
    (test, ids.iter().map(ToString::to_string).collect())
}

fn column(items: &[serde_json::Value], name: &str) -> Vec<String> {
    items.iter().map(|item| item[name].as_str().map_or_else(|| item[name].to_string(), str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_listed_and_shown_without_secrets() {
    let (test, ids) = filled(Clock::system().now_ms()).await;
    let operator = Operator::with(&[&format!("database.url={}", test.url)]);
    let of = async |more: &[&str]| operator.items(&[&["delivery", "list"], more].concat()).await;
    let all = of(&[]).await;
    assert_eq!(column(&all, "state"), ["pending", "refused", "pending", "done", "dead"]);
    assert_eq!(column(&of(&["--limit", "2"]).await, "reference"), ["r4", "r3"]);
    assert_eq!(column(&of(&["--limit", "2", "--before", &ids[3]]).await, "reference"), ["r2", "r1"], "goes on");
    assert_eq!(column(&of(&["--state", "dead"]).await, "reference"), ["r0"]);
    assert_eq!(column(&of(&["--kind", "channel_submit"]).await, "reference"), ["r4"]);
    assert_eq!(column(&of(&["--order", "71"]).await, "reference"), ["r1"]);
    assert_eq!(column(&of(&["--target", "shop.example:8443"]).await, "reference"), ["r3"]);
    assert_eq!(of(&["--target", "shop.example"]).await.len(), 5);
    assert_eq!((of(&["--target", "shop.exampl"]).await.len(), of(&["--since", "1h"]).await.len()), (0, 5));
    operator.refuses(&["delivery", "list", "--kind", "merchants"], 2).await;
    operator.refuses(&["delivery", "list", "--target", "http://shop.example"], 2).await;
    let shown = operator.items(&["delivery", "show", &ids[0]]).await;
    assert_eq!((&shown[0]["reference"], &shown[0]["tried"][0]["status"]), (&"r0".into(), &500.into()));
    assert_eq!(shown[0]["url"], "https://shop.example/n?key=***");
    assert_eq!(shown[0]["tried"][0]["target"], "shop.example:443");
    assert!(!format!("{all:?}{shown:?}").contains("t0p"), "{shown:?}");
    operator.refuses(&["delivery", "show", "17"], 1).await;
}

/// The row of a message to a user has the server of the time at which it was recorded; it goes to the one of today.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_shown_where_they_go_now() {
    let (now_ms, test) = (Clock::system().now_ms(), sqlite().await);
    let calls = [(Kind::Email, "smtp://old.example:25"), (Kind::Sms, "https://old.example/sms?key=t0p")];
    let mut ids = Vec::new();
    for (n, (kind, url)) in (0..).zip(calls) {
        let call = Delivery {
            id: first_id_of(now_ms - 60_000 + n, 1),
            kind,
            reference: format!("r{n}"),
            order_id: 7,
            url: url.to_owned(),
            body: "{}".into(),
            attempts: 0,
            next_at: now_ms + 3_600_000,
            trace: None,
        };
        let attempt = Attempt {
            delivery_id: call.id,
            attempt: 1,
            started_at: now_ms,
            duration_ms: 12,
            http_status: None,
            error: Some("timeout".into()),
            request: (n == 0).then(|| format!("MAIL {url}\nmessage-id: <1>\nto: ***\n***")),
            answer: None,
            status: Status::Pending,
            next_at: Some(now_ms + 3_600_000),
            unanswered: 0,
        };
        ids.push(call.id.to_string());
        let (calls, attempts) = ([call], [attempt]);
        let done = write_tx!(test.db, [calls, attempts], |tx| {
            delivery::insert(tx, &calls).await?.all()?;
            delivery::record(tx, &attempts).await
        });
        done.unwrap();
    }
    let database = format!("database.url={}", test.url);
    let before = Operator::with(&[&database]);
    let after = Operator::with(&[
        &database,
        "notices.email.host=new.example",
        "notices.email.port=587",
        "notices.email.from=shop@tea.example",
        "notices.sms.endpoint=https://sms.example/v2?key=t0p",
    ]);

    let targets = async |operator: &Operator| column(&operator.items(&["delivery", "list"]).await, "target");
    assert_eq!(targets(&before).await, ["old.example:443", "old.example:25"], "nothing else is known");
    assert_eq!(targets(&after).await, ["sms.example:443", "new.example:587"]);
    let to = async |target: &str| column(&after.items(&["delivery", "list", "--target", target]).await, "reference");
    assert_eq!((to("new.example").await, to("new.example:587").await), (vec!["r0".to_owned()], vec!["r0".to_owned()]));
    assert_eq!((to("sms.example").await, to("old.example").await), (vec!["r1".to_owned()], vec![]));
    let planned = after.items(&["delivery", "cancel", "--target", "new.example", "--dry-run"]).await;
    assert_eq!(column(&planned, "reference"), ["r0"]);
    let mail = &after.items(&["delivery", "show", &ids[0]]).await[0];
    assert_eq!(
        (&mail["url"], &mail["tried"][0]["target"]),
        (&"smtp://new.example:587".into(), &"old.example:25".into())
    );
    let sms = &after.items(&["delivery", "show", &ids[1]]).await[0];
    assert_eq!((&sms["url"], &sms["tried"][0]["target"]), (&"https://sms.example/v2?key=***".into(), &Value::Null));
}

/// Whoever recorded these calls knew neither the channel nor the warehouse.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_and_goods_are_shown_where_they_go() {
    let (now_ms, test) = (Clock::system().now_ms(), sqlite().await);
    let calls: Vec<Delivery> = [
        (Kind::ChannelRefund, "/sandbox/channel/refund", r#"{"channelId":"bank"}"#),
        (Kind::RefundQuery, "channel://gone/query", r#"{"channelId":"gone"}"#),
        (Kind::ChannelSubmit, "/sandbox/channel/pay", r#"{"channelId":"sandbox"}"#),
        (Kind::Warehouse, "/sandbox/warehouse/orders", "{}"),
    ]
    .into_iter()
    .zip(0..)
    .map(|((kind, url, body), n)| Delivery {
        id: first_id_of(now_ms - 60_000 + n, 1),
        kind,
        reference: format!("r{n}"),
        order_id: 7,
        url: url.to_owned(),
        body: body.to_owned(),
        attempts: 0,
        next_at: now_ms + 3_600_000,
        trace: None,
    })
    .collect();
    let first = calls[0].id.to_string();
    write_tx!(test.db, [calls], |tx| { delivery::insert(tx, &calls).await?.all() }).unwrap();
    let operator = Operator::with(&[
        &format!("database.url={}", test.url),
        r#"payment.channels.bank={kind="http",secret="b",endpoint="https://bank.example/v1"}"#,
        "warehouse.endpoint=https://goods.example",
    ]);

    let targets = column(&operator.items(&["delivery", "list"]).await, "target");
    assert_eq!(targets, ["goods.example:443", "own", "gone:0", "bank.example:443"]);
    assert_eq!(operator.items(&["delivery", "show", &first]).await[0]["url"], "https://bank.example/v1/refund");
    for (target, wanted) in [("bank.example", "r0"), ("own", "r2"), ("goods.example:443", "r3")] {
        let found = operator.items(&["delivery", "list", "--target", target]).await;
        assert_eq!(column(&found, "reference"), [wanted], "{target}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_made_once_more_and_taken_back() {
    let (test, ids) = filled(Clock::system().now_ms()).await;
    let operator = Operator::with(&[&format!("database.url={}", test.url)]);
    let states = async || column(&operator.items(&["delivery", "list"]).await, "state");
    let before = states().await;
    operator.refuses(&["delivery", "resend", "--state", "dead"], 2).await;
    operator.refuses(&["delivery", "resend", "--yes"], 2).await;
    operator.refuses(&["delivery", "cancel", &ids[2], "--kind", "warehouse", "--yes"], 2).await;
    let planned = operator.items(&["delivery", "resend", "--target", "shop.example", "--dry-run"]).await;
    assert_eq!(
        (column(&planned, "was"), column(&planned, "done")),
        (vec!["refused".to_owned(), "dead".to_owned()], vec!["false".to_owned(), "false".to_owned()])
    );
    assert_eq!(states().await, before);
    assert!(!operator.data_dir().join("journal.jsonl").exists(), "nothing was changed");
    let done = operator.items(&["delivery", "resend", "--kind", "warehouse", "--reason", "back", "--yes"]).await;
    assert_eq!(column(&done, "done"), ["true", "true"]);
    assert_eq!(states().await, ["pending", "pending", "pending", "done", "pending"]);
    // By name also what was delivered; what is not there fails.
    let (code, items, stderr) = operator.items_and_code(&["delivery", "resend", &ids[1], "17", "--yes"]).await;
    assert_eq!((code, column(&items, "was")), (1, vec!["done".to_owned()]));
    assert!(stderr.contains("17: there is no such call"), "{stderr}");
    let taken = ["delivery", "cancel", "--order", "74", "--reason", "paid by hand", "--yes"];
    assert_eq!(column(&operator.items(&taken).await, "done"), ["true"]);
    assert_eq!(states().await, ["canceled", "pending", "pending", "pending", "pending"]);
    let (code, _, stderr) = operator.items_and_code(&["delivery", "cancel", &ids[4], "--yes"]).await;
    assert!(code == 1 && stderr.contains("is canceled"), "{stderr}");
    let journal = std::fs::read_to_string(operator.data_dir().join("journal.jsonl")).unwrap();
    assert_eq!(journal.matches("\"command\":\"delivery resend\"").count(), 2, "{journal}");
    assert!(journal.contains("paid by hand") && journal.contains("delivery cancel"), "{journal}");
}
