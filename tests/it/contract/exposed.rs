//! A shop that takes money, or that other machines reach: nobody buys there without paying, unless it was asked for by
//! name.

use reqwest::{Method, StatusCode};
use ruyi::config::{Config, Sources};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::serving::{Serving, order_of};

const BANK: &str = r#"payment.channels.bank={kind="http",secret="b",endpoint="http://127.0.0.1:1"}"#;
const KEY: &str = "the key of the shop";

fn config(items: &[&str]) -> Config {
    let sets = items.iter().map(|item| (*item).to_owned()).collect();
    Config::load(&Sources { sets, ..Sources::default() }).unwrap()
}

#[test]
fn the_sandbox_is_the_default_only_alone() {
    let default = |items: &[&str]| config(items).payment.default_channel().map(str::to_owned);
    assert_eq!(default(&[]).as_deref(), Some("sandbox"));
    assert_eq!(default(&[r#"payment.channels.other={kind="sandbox",secret="o"}"#]).as_deref(), Some("sandbox"));
    assert_eq!(default(&[BANK]), None);
}

#[test]
fn the_sandbox_is_not_served_beyond_this_machine() {
    let channels = |items: &[&str], listen: Option<&str>| {
        let effective = config(items).effective(listen.map(|addr| addr.parse().unwrap()));
        let names: Vec<String> = effective.payment.channels.keys().cloned().collect();
        (names.join(","), effective.sandbox.enabled)
    };
    let (here, beyond) = (Some("127.0.0.1:80"), Some("0.0.0.0:80"));
    let beside = "sandbox.beside_channels=true";
    for (items, listen, wanted, served) in [
        (&[beside, BANK][..], here, "bank,sandbox", true),
        (&[beside, BANK], None, "bank,sandbox", true),
        (&[beside, BANK], Some("[::1]:80"), "bank,sandbox", true),
        (&[beside, BANK], beyond, "bank", false),
        (&[beside, BANK], Some("192.168.1.7:80"), "bank", false),
        (&[beside, BANK, "sandbox.exposed=true"], beyond, "bank,sandbox", true),
        (&[beside, BANK, "sandbox.enabled=false"], here, "bank", false),
        // The warehouse is played all the same: nobody gets anything there without an order.
        (&[BANK], here, "bank", true),
        (&[BANK], None, "bank", true),
        (&[BANK], beyond, "bank", false),
        (&[BANK, "sandbox.exposed=true"], beyond, "bank", true),
        (&[BANK, r#"payment.channels.play={kind="sandbox",secret="p"}"#], here, "bank", true),
        (&[], here, "sandbox", true),
        (&[BANK, "sandbox.enabled=false", "sandbox.exposed=true"], beyond, "bank", false),
        // Another process plays that one: it was given an address.
        (&["payment.channels.far={kind=\"sandbox\",secret=\"f\",endpoint=\"http://sandbox\"}"], beyond, "far", false),
    ] {
        assert_eq!(channels(items, listen), (wanted.to_owned(), served), "{items:?} {listen:?}");
    }
}

/// With a channel that takes money, "sandbox" is no way to get goods for none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bank_ends_payments_by_the_sandbox() {
    for beside in [false, true] {
        let by_name = format!("sandbox.beside_channels={beside}");
        let shop = Serving::start(&[BANK, &by_name]).await;
        shop.fill().await;
        let accepts = json!([{ "productId": "h5", "channelId": "sandbox" }]);
        shop.fine(Method::PUT, "/merchants/9", &json!({ "name": "M", "accepts": accepts })).await;
        shop.settled().await;

        let mut order = order_of("A1", 1);
        order["channelId"] = json!("sandbox");
        let wish = json!({ "merchantId": "9", "outOrderNo": "M-1", "amount": 5, "productId": "h5",
            "channelId": "sandbox" });
        for (path, body) in [("/orders", &order), ("/payments", &wish)] {
            let (status, _, answer) = shop.send(Method::POST, path, body).await;
            assert_eq!(status == StatusCode::CREATED, beside, "{path}: {status} {answer}");
            let is_named = answer["detail"].as_str().is_some_and(|why| why.contains("sandbox.beside_channels = true"));
            assert_eq!(is_named, !beside, "{path}: {answer}");
        }
        shop.settled().await;
        shop.stop().await;
    }
}

async fn send(shop: &Serving, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
    let (status, _, answer) = shop.reply(shop.request(method, path).bearer_auth(KEY).json(body)).await;
    (status, answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_others_reach_sells_nothing_for_nothing() {
    let hash = hex::encode(Sha256::digest(KEY));
    let key = format!("http.keys=[{{name='shop', sha256='{hash}', scopes=['admin']}}]");
    let own = ["payment.channels.sandbox.secret=x", "warehouse.secret=y"];
    for exposed in [false, true] {
        let by_name = format!("sandbox.exposed={exposed}");
        let settings: [&str; 6] = [&key, own[0], own[1], BANK, &by_name, "sandbox.beside_channels=true"];
        let shop = Serving::listening("0.0.0.0:0", &settings).await;
        let product = json!({ "name": "Tea", "price": 59.8 });
        assert!(send(&shop, Method::PUT, "/products/A1", &product).await.0.is_success());

        // There is a real channel: none is chosen for whoever names none.
        let (status, answer) = send(&shop, Method::POST, "/orders", &order_of("A1", 1)).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
        assert!(answer["detail"].as_str().unwrap().contains("channelId must be one of bank"), "{answer}");
        let mut order = order_of("A1", 1);
        for (channel, wanted) in [("bank", true), ("sandbox", exposed)] {
            order["channelId"] = json!(channel);
            let (status, answer) = send(&shop, Method::POST, "/orders", &order).await;
            assert_eq!(status == StatusCode::CREATED, wanted, "{channel}: {status} {answer}");
        }
        for path in ["/sandbox/channel/pay", "/sandbox/warehouse/orders"] {
            let (status, _) = send(&shop, Method::POST, path, &json!({})).await;
            assert_eq!(status != StatusCode::NOT_FOUND, exposed, "{path}: {status}");
        }
        shop.stop().await;
    }
}
