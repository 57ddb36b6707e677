//! Outgoing calls over HTTP: /deliveries of a role's process.

use ruyi::config::{Config, Sources};
use ruyi::db::delivery::{self, Delivery, Kind};
use ruyi::domain::event::Role;
use ruyi::process::{Plan, Process, Work};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::outbound::OutboundServer;
use crate::support::waiting::eventually;

async fn record(process: &Process, kind: Kind, reference: &str, url: &str, wait_ms: i64) -> String {
    let db = process.db_of(Role::Order).unwrap();
    let id = db.ids().next();
    let call = Delivery {
        id,
        kind,
        reference: reference.to_owned(),
        order_id: 7,
        url: url.to_owned(),
        body: r#"{"orderId":"7","token":"t0p"}"#.to_owned(),
        attempts: 0,
        next_at: db.clock().now_ms() + wait_ms,
        trace: None,
    };
    let write = db.write("delivery_again", move |tx| {
        let call = call.clone();
        Box::pin(async move { delivery::insert(tx, &[call]).await?.all() })
    });
    write.await.unwrap();
    id.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_read_repeated_and_taken_back_by_scope() {
    let (dir, server) = (tempfile::tempdir().unwrap(), OutboundServer::start().await);
    let hash = |key: &str| hex::encode(Sha256::digest(key));
    let key = |(name, scope): (&str, &str)| format!(r#"{{name="{name}",sha256="{}",scopes=["{scope}"]}}"#, hash(name));
    let keys = [
        ("reader", "order:read"),
        ("writer", "order:write"),
        ("payer", "payment:write"),
        ("sender", "delivery:write"),
        ("boss", "admin"),
    ];
    let sets = vec![
        format!("data_dir={}", dir.path().display()),
        format!("http.keys=[{}]", keys.map(key).join(",")),
        "mq.enabled=false".to_owned(),
        // The scopes of the roles count as well.
        "http.wide_scopes=true".to_owned(),
    ];
    let config = Config::load(&Sources { sets, ..Sources::default() }).unwrap();
    let plan = Plan::new(&Role::ALL, Work::SERVE, Some("127.0.0.1:0".parse().unwrap()));
    let process = Process::start(&config, plan).await.unwrap();
    let hour = 3_600_000;
    let waiting = record(&process, Kind::Warehouse, "w1", &server.url("/n?key=t0p"), hour).await;
    let refund = record(&process, Kind::ChannelSubmit, "p1", &server.url("/n"), hour).await;
    let client = reqwest::Client::new();
    let ask = async |method: &str, path: &str, key: &str| {
        let method = method.parse::<reqwest::Method>().unwrap();
        let request = client.request(method, format!("{}{path}", process.base_url())).bearer_auth(key);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    // Everyone sees the calls of the roles that the key may read.
    let (_, all) = ask("GET", "/deliveries?limit=1", "boss").await;
    assert_eq!((&all["items"][0]["id"], &all["next"]), (&refund.as_str().into(), &refund.as_str().into()));
    let (_, rest) = ask("GET", &format!("/deliveries?limit=1&before={refund}"), "boss").await;
    assert_eq!(rest["items"][0]["id"], waiting.as_str());
    let (_, orders) = ask("GET", "/deliveries?state=pending&orderId=7", "reader").await;
    assert_eq!((orders["items"].as_array().unwrap().len(), &orders["next"]), (1, &Value::Null));
    assert_eq!(ask("GET", "/deliveries", "nobody").await.0, 401);
    assert_eq!(ask("GET", "/deliveries", "payer").await.0, 403);
    assert_eq!(ask("GET", "/deliveries?state=lost", "boss").await.0, 400);
    assert_eq!(ask("GET", &format!("/deliveries/{refund}"), "reader").await.0, 404, "not of this role");
    let again = format!("/deliveries/{waiting}/resend");
    assert_eq!(ask("POST", &again, "reader").await.0, 403);
    assert_eq!(ask("POST", &again, "payer").await.0, 404);
    assert!(server.seen().is_empty());

    assert_eq!(ask("POST", &again, "writer").await.0, 200);
    let path = format!("/deliveries/{waiting}");
    eventually("it is made at once", async || ask("GET", &path, "reader").await.1["state"] == "done").await;
    let (_, whole) = ask("GET", &path, "reader").await;
    assert_eq!((&whole["tried"][0]["httpStatus"], &whole["attempts"]), (&200.into(), &1.into()));
    assert!(!whole.to_string().contains("t0p"), "{whole}");
    // What was delivered is sent once more with the same key, and can no longer be taken back.
    // Whoever holds the scope of calls need not hold that of a role.
    assert_eq!(ask("POST", &again, "sender").await.0, 200);
    eventually("made once more", async || server.seen().len() == 2).await;
    assert!(server.seen().iter().all(|seen| seen.header("idempotency-key") == "w1"));
    eventually("recorded", async || ask("GET", &path, "reader").await.1["state"] == "done").await;
    assert_eq!(ask("POST", &format!("{path}/cancel"), "writer").await.0, 409);
    let (status, taken) = ask("POST", &format!("/deliveries/{refund}/cancel"), "payer").await;
    assert_eq!((status, &taken["state"]), (200, &"canceled".into()), "{taken}");
    process.stop().await.unwrap();
}
