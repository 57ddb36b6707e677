//! What was sent, handled and parked, over HTTP, on every role.

use reqwest::{Method, StatusCode};
use ruyi::config::{Config, Sources};
use ruyi::db::sql;
use ruyi::domain::event::{Group, Role};
use ruyi::process::{Plan, Process, Work};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::serving::Serving;

fn texts<'a>(page: &'a Value, field: &str) -> Vec<&'a str> {
    page["items"].as_array().unwrap().iter().map(|item| item[field].as_str().unwrap()).collect()
}

/// All rows behind `path`, page by page.
async fn walk(serving: &Serving, path: &str, size: i64) -> Vec<Value> {
    let (mut all, mut before) = (Vec::new(), String::new());
    loop {
        let page = serving.get(&format!("{path}size={size}{before}")).await;
        let items = page["items"].as_array().unwrap();
        assert!(i64::try_from(items.len()).unwrap() <= size);
        all.extend(items.iter().cloned());
        let Some(next) = page["next"].as_str() else { return all };
        before = format!("&before={}", next.replace('/', "%2F").replace(':', "%3A"));
        assert!(all.len() < 10_000, "{next}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_story_of_an_order_is_read() {
    let serving = Serving::start(&[]).await;
    serving.fill().await;
    let order = json!({"userId": "7", "items": [{"sku": "A1", "quantity": 1}]});
    let ids = [serving.place(&order).await, serving.place(&order).await];
    for id in &ids {
        serving.until(&format!("/payments/{id}"), "status", "PENDING").await;
        serving.fine(Method::POST, &format!("/payments/{id}/pay"), &json!({"method": "card"})).await;
        serving.until(&format!("/orders/{id}"), "status", "SIGNED").await;
    }
    serving.settled().await;

    let sent = serving.get(&format!("/message/send-records?key={}&size=100", ids[0])).await;
    assert_eq!((&sent["page"], &sent["size"], &sent["next"]), (&json!(1), &json!(100), &json!(null)));
    let topics = texts(&sent, "topic");
    // The steps of a parcel may be reported at the same time.
    assert_eq!((topics.contains(&"ORDER_SIGNED"), topics.last()), (true, Some(&"ORDER_CREATED")));
    assert!(texts(&sent, "status").iter().all(|status| *status == "SENT"));
    let created = serving.get("/message/send-records?topic=ORDER_CREATED&status=sent&page=2&size=1").await;
    assert_eq!(texts(&created, "key"), [&ids[0]]);
    assert_eq!(created["next"], json!(null));

    // Page by page or at once, it is the same.
    for path in ["/message/send-records?", "/message/consume-records?"] {
        let (all, walked) = (walk(&serving, path, 200).await, walk(&serving, path, 7).await);
        assert!(all.len() > 20, "{}", all.len());
        assert_eq!(all, walked, "{path}");
        let third = serving.get(&format!("{path}page=3&size=7")).await;
        assert_eq!(third["items"].as_array().unwrap()[..], all[14..21], "{path}");
    }
    let path = format!("/message/consume-records?consumerGroup={}&key={}", Group::Order.name(), ids[1]);
    let handled = serving.get(&path).await;
    assert_eq!(texts(&handled, "topic").len(), 6, "{handled}");
    assert!(texts(&handled, "consumerGroup").iter().all(|group| *group == Group::Order.name()));
    let none = serving.get("/message/consume-records?status=DEAD").await;
    assert_eq!((none["items"].as_array().unwrap().len(), &none["next"]), (0, &json!(null)));
    assert!(serving.get("/message/retry-records").await["items"].as_array().unwrap().is_empty());

    for wrong in ["page=0", "size=201", "size=x", "status=LOST", "before=x", "page=600", "other=1"] {
        let (status, kind, body) =
            serving.reply(serving.request(Method::GET, &format!("/message/send-records?{wrong}"))).await;
        assert_eq!((status, kind.as_str()), (StatusCode::BAD_REQUEST, "application/problem+json"), "{wrong}: {body}");
    }
    let unknown = serving.request(Method::GET, "/message/retry-records?consumerGroup=nobody");
    assert_eq!(serving.reply(unknown).await.0, StatusCode::BAD_REQUEST);
    serving.stop().await;
}

/// Parks the freeze of an order that is not there yet: the payment of order 5 came before it.
async fn park(serving: &Serving) -> String {
    let done = serving.db().write("test", |tx| {
        Box::pin(async move {
            let text = "INSERT INTO message_record (id, event_id, topic, tag, msg_key, body, properties, status, \
                        attempts, next_at, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, ?, ?)";
            let (now_ms, topic) = (tx.now_ms(), "ORDER_AUTO_CANCEL");
            let properties = r#"[["eventId","5:ORDER_AUTO_CANCEL"],["eventType","ORDER_AUTO_CANCEL"]]"#;
            let body = br#"{"orderId":"5","reason":"risk"}"#.to_vec();
            let id = tx.next_id();
            let vals = ruyi::vals![id, "5:ORDER_AUTO_CANCEL", topic, topic, "5", body, properties, now_ms, now_ms];
            sql::execute(tx, text, vals).await
        })
    });
    done.await.unwrap();
    let look = async {
        loop {
            let page = serving.get("/message/retry-records?status=WAITING").await;
            if let Some(row) = page["items"].as_array().unwrap().first() {
                return row["retryId"].as_str().unwrap().to_owned();
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), look).await.expect("it is parked")
}

/// Looks until the retry record stands so, with so many attempts.
async fn stands(serving: &Serving, id: &str, status: &str, attempts: i64) {
    let look = async {
        loop {
            let page = serving.get("/message/retry-records").await;
            let row = page["items"].as_array().unwrap().iter().find(|row| row["retryId"] == id).unwrap().clone();
            if row["status"] == status && row["attempts"] == attempts && row["running"] == false {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let wait = tokio::time::timeout(std::time::Duration::from_secs(60), look);
    wait.await.unwrap_or_else(|_| panic!("{id} never is {status} after {attempts}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_parked_or_given_up_is_tried_again() {
    let settings =
        ["mq.retry.schedule=[\"1h\"]", "mq.retry.max_attempts=1", "mq.retry.jitter=0", "mq.outbox.sweep_interval=50ms"];
    let serving = Serving::start(&settings).await;
    let id = park(&serving).await;
    let again = async || serving.send(Method::POST, &format!("/message/retry/{id}"), &json!({})).await;
    // It would wait for an hour; now it fails at once, and for the last time.
    let (status, _, row) = again().await;
    assert_eq!((status, &row["retryId"], &row["status"]), (StatusCode::OK, &json!(id), &json!("WAITING")));
    stands(&serving, &id, "DEAD", 2).await;
    assert_eq!(
        serving.number("SELECT outcome FROM message_process_log WHERE message_id = '5:ORDER_AUTO_CANCEL'").await,
        3
    );
    // Given up, it begins anew, and waits again.
    let (status, _, row) = again().await;
    assert_eq!((status, &row["status"], &row["attempts"]), (StatusCode::OK, &json!("WAITING"), &json!(0)));
    stands(&serving, &id, "WAITING", 1).await;
    // The order is there now.
    let place = "INSERT INTO orders (id, order_no, user_id, status, version, total_amount, currency, merchant_id, \
        channel_id, remark, address, hold_ms, expire_time, handed_over, refund_status, created_at, updated_at) \
        VALUES (5, 'RY5', 7, 0, 1, 100, 'CNY', 1, 'sandbox', '', '', 0, 4000000000000, 0, 0, 1, 1)";
    let done = serving.db().write("test", move |tx| Box::pin(async move { sql::execute(tx, place, vec![]).await }));
    done.await.unwrap();
    assert_eq!(again().await.0, StatusCode::OK);
    serving.until("/orders/5", "status", "CANCELED").await;
    stands(&serving, &id, "DONE", 2).await;
    let (status, kind, body) = again().await;
    assert_eq!((status, kind.as_str()), (StatusCode::CONFLICT, "application/problem+json"), "{body}");
    for unknown in ["1", "0", "-4", "x", "99999999999999999999"] {
        let (status, kind, body) = serving.send(Method::POST, &format!("/message/retry/{unknown}"), &json!({})).await;
        assert_eq!((status, kind.as_str()), (StatusCode::NOT_FOUND, "application/problem+json"), "{unknown}: {body}");
    }
    serving.stop().await;
}

/// A process of its own for one role: it serves the lists of its database, to those who may see them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_role_has_them_with_scopes() {
    let dir = tempfile::tempdir().unwrap();
    let hash = |key: &str| hex::encode(Sha256::digest(key));
    let key = |name: &str, scope: &str| format!(r#"{{name="{name}",sha256="{}",scopes=["{scope}"]}}"#, hash(name));
    let keys = [("reader", "message:read"), ("writer", "message:write"), ("shop", "order:write"), ("boss", "admin")];
    let keys = keys.map(|(name, scope)| key(name, scope)).join(",");
    // Nobody answers there: a role starts without a broker all the same.
    let sets = vec![
        format!("data_dir={}", dir.path().display()),
        format!("http.keys=[{keys}]"),
        "mq.namesrv=127.0.0.1:1".to_owned(),
    ];
    let config = Config::load(&Sources { sets, ..Sources::default() }).unwrap();
    for role in Role::ALL {
        let plan = Plan::new(&[role], Work::SERVE, Some("127.0.0.1:0".parse().unwrap()));
        let process = Process::start(&config, plan).await.unwrap();
        let client = reqwest::Client::new();
        let ask = async |method: Method, path: &str, key: &str| {
            let request = client.request(method, format!("{}{path}", process.base_url())).bearer_auth(key);
            request.send().await.unwrap().status().as_u16()
        };
        for path in ["/message/send-records", "/message/consume-records", "/message/retry-records"] {
            for (key, status) in [("reader", 200), ("boss", 200), ("writer", 403), ("shop", 403), ("nobody", 401)] {
                assert_eq!(ask(Method::GET, path, key).await, status, "{path} of {} for {key}", role.name());
            }
        }
        for (key, status) in [("writer", 404), ("boss", 404), ("reader", 403), ("shop", 403), ("nobody", 401)] {
            assert_eq!(ask(Method::POST, "/message/retry/1", key).await, status, "{} for {key}", role.name());
        }
        process.stop().await.unwrap();
    }
}
