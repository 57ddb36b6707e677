//! The sandbox channel and warehouse, through real calls there and back.

use std::time::Duration;

use ruyi::config::{Config, Sources};
use ruyi::db::delivery::{Kind, Status};
use ruyi::delivery::sign::{self, SignatureError};
use ruyi::delivery::{Engine, no_effects};
use ruyi::roles::sandbox::{Sandbox, channel_router, warehouse_router};
use serde_json::{Value, json};

use crate::support::outbound::{OutboundCalls, OutboundServer, START_MS, Seen, secret};

struct Shop {
    calls: OutboundCalls,
    base: String,
    /// Where the calls back arrive.
    ours: OutboundServer,
    engine: Engine,
    client: reqwest::Client,
}

impl Shop {
    async fn open() -> Self {
        let (calls, ours) = (OutboundCalls::new().await, OutboundServer::unbound());
        let config = Config::load(&Sources::default()).unwrap();
        let (sandbox, writer) = Sandbox::new(&calls.db, &config, calls.targets.clone());
        tokio::spawn(writer);
        let api = channel_router(sandbox.clone(), &ruyi::http::Auth::new(&config.http, None).unwrap())
            .merge(warehouse_router(sandbox));
        let (router, description) = api.split_for_parts();
        assert_eq!(description.paths.paths.len(), 5);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let router = router.fallback_service(ours.routes());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        calls.targets.set_own(&base);
        let engine = calls.engine(no_effects());
        Self { calls, base, ours, engine, client: reqwest::Client::new() }
    }

    /// Submits payment 9 of order 7 under this reference.
    async fn pay(&mut self, reference: &str, behaviour: Value) {
        let body = json!({
            "paymentId": "9", "orderId": "7", "orderNo": "R7", "amount": 59.8, "currency": "CNY", "merchantId": "1",
            "channelId": "sandbox", "method": "card", "sandbox": behaviour,
        });
        self.calls.insert(Kind::ChannelSubmit, reference, "/sandbox/channel/pay", &body.to_string()).await;
        self.engine.drain().await.unwrap();
        assert_eq!(self.calls.status(Kind::ChannelSubmit, reference).await, Status::Done as i64);
    }

    async fn post(&self, path: &str, signed: Option<&str>) -> reqwest::Response {
        let mut request = self.client.post(format!("{}{path}", self.base));
        if let Some(body) = signed {
            let timestamp_s = START_MS / 1000;
            request = request
                .header(sign::TIMESTAMP_HEADER, timestamp_s)
                .header(sign::SIGNATURE_HEADER, sign::sign(&secret(), timestamp_s, body.as_bytes()))
                .body(body.to_owned());
        }
        request.send().await.unwrap()
    }

    fn callbacks(&self) -> Vec<(Value, Result<(), SignatureError>)> {
        let now_ms = self.calls.clock.now_ms();
        let read = |seen: &Seen| {
            let verdict = sign::verify(&secret(), &seen.headers, seen.body.as_bytes(), now_ms, 300_000);
            (serde_json::from_str(&seen.body).unwrap(), verdict)
        };
        self.ours.seen().iter().map(read).collect()
    }
}

fn callback(amount: f64) -> Value {
    json!({
        "paymentId": "9", "orderId": "7", "transactionNo": "SBX9", "amount": amount, "currency": "CNY",
        "merchantId": "1", "method": "card", "payTime": START_MS,
    })
}

#[tokio::test]
async fn pays_once_however_often_it_is_asked() {
    let mut shop = Shop::open().await;
    shop.pay("first", Value::Null).await;
    shop.pay("again", json!({})).await;
    assert_eq!(shop.callbacks(), [(callback(59.8), Ok(()))]);
    let seen = shop.ours.only();
    assert_eq!((seen.path.as_str(), seen.header("idempotency-key")), ("/payments/callback/sandbox", "9:SBX9:1"));
}

#[tokio::test]
async fn repeats_with_a_wrong_amount() {
    let mut shop = Shop::open().await;
    shop.pay("9", json!({"repeat": 3, "amountDelta": -970})).await;
    assert_eq!(shop.callbacks(), vec![(callback(50.1), Ok(())); 3]);
}

#[tokio::test]
async fn signs_wrongly() {
    let mut shop = Shop::open().await;
    shop.pay("9", json!({"badSignature": true})).await;
    assert_eq!(shop.callbacks(), [(callback(59.8), Err(SignatureError::Mismatch))]);
}

#[tokio::test]
async fn waits_and_keeps_silent_until_it_is_asked() {
    let mut shop = Shop::open().await;
    shop.pay("silent", json!({"silent": true, "transactionNo": "T1"})).await;
    shop.pay("later", json!({"delayMs": 5000, "transactionNo": "T2"})).await;
    assert_eq!(shop.callbacks(), []);
    shop.calls.clock.advance_ms(5000);
    assert_eq!(shop.engine.drain().await.unwrap(), 1);
    assert_eq!(shop.callbacks()[0].0["transactionNo"], "T2");
    let path = "/sandbox/channel/payments/9/callback";
    assert_eq!(shop.post(path, None).await.json::<Value>().await.unwrap(), json!({"callbacks": 1}));
    assert_eq!(shop.engine.drain().await.unwrap(), 1);
    assert_eq!(shop.callbacks()[1].0["transactionNo"], "T1");
    assert_eq!(shop.post(path, None).await.status(), 404);
    assert_eq!(shop.post("/sandbox/channel/payments/90/callback", None).await.status(), 404);
}

#[tokio::test]
async fn refuses_what_is_not_signed_or_not_a_payment() {
    let shop = Shop::open().await;
    for path in ["/sandbox/channel/pay", "/sandbox/channel/refund", "/sandbox/warehouse/orders"] {
        assert_eq!(shop.post(path, None).await.status(), 401, "{path}");
        assert_eq!(shop.post(path, Some("{}")).await.status(), 422, "{path}");
        assert_eq!(shop.post(path, Some(r#"{"channelId":"other"}"#)).await.status().as_u16() / 100, 4, "{path}");
    }
    let refund = r#"{"refundId":"5","paymentId":"9","transactionNo":"SBX9","amount":59.8,"reason":"late"}"#;
    for _ in 0..2 {
        let answer = shop.post("/sandbox/channel/refund", Some(refund)).await;
        assert_eq!(answer.json::<Value>().await.unwrap(), json!({"refunded": true}));
    }
}

#[tokio::test]
async fn the_warehouse_reports_each_step() {
    let mut shop = Shop::open().await;
    let body = json!({"orderId": "7", "userId": "3", "lines": [{"sku": "A", "quantity": 2}], "address": "here"});
    for reference in ["7", "7-again"] {
        shop.calls.insert(Kind::Warehouse, reference, "/sandbox/warehouse/orders", &body.to_string()).await;
    }
    shop.engine.drain().await.unwrap();
    let step = Duration::from_secs(1).as_millis() as i64;
    let events = ["ORDER_FULFILL_SUCCESS", "ORDER_OUT_STOCK", "ORDER_DELIVERY", "ORDER_SIGNED"];
    for (n, event) in events.into_iter().enumerate() {
        shop.calls.clock.advance_ms(step);
        assert_eq!(shop.engine.drain().await.unwrap(), 1, "{event}");
        let expected = json!({
            "orderId": "7", "event": event, "occurredAt": shop.calls.clock.now_ms(), "carrier": "RUYI-EXPRESS",
            "trackingNo": "RY7",
        });
        assert_eq!(shop.callbacks()[n], (expected, Ok(())));
        assert_eq!(shop.ours.seen()[n].path, "/fulfil/callback");
    }
    assert_eq!(shop.callbacks().len(), 4);
}

#[tokio::test]
async fn says_where_a_payment_stands() {
    let question = json!({"paymentId": "9", "channelId": "sandbox"}).to_string();
    for (behaviour, status) in [
        (None, "UNKNOWN"),
        (Some(json!({"silent": true})), "SUCCESS"),
        (Some(json!({"delayMs": 60_000})), "PENDING"),
        (Some(json!({})), "SUCCESS"),
        (Some(json!({"badSignature": true})), "SUCCESS"),
    ] {
        let mut shop = Shop::open().await;
        if let Some(behaviour) = &behaviour {
            shop.pay("9", behaviour.clone()).await;
        }
        assert_eq!(shop.post("/sandbox/channel/query", None).await.status(), 401);
        let reply = shop.post("/sandbox/channel/query", Some(&question)).await;
        let headers = reply.headers().clone();
        let text = reply.text().await.unwrap();
        let verdict = sign::verify(&secret(), &headers, text.as_bytes(), START_MS, 300_000);
        let badly = behaviour.as_ref().is_some_and(|one| one["badSignature"] == true);
        assert_eq!(verdict.is_err(), badly, "{behaviour:?}: {verdict:?}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["status"], status, "{behaviour:?}");
        if status == "SUCCESS" {
            let wanted = [json!("9"), json!("SBX9"), json!(59.8)];
            assert_eq!([&answer["paymentId"], &answer["transactionNo"], &answer["amount"]].map(Clone::clone), wanted);
        }
    }
}
