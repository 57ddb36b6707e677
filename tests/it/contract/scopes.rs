//! Who may call what.

use std::fmt::Write as _;

use reqwest::{Method, StatusCode};
use ruyi::config::Scope;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::docs::same_part;
use crate::support::serving::Serving;

/// A route: its method, its path, the scopes of which one is needed, and whether keys of merchants will do. Without
/// scopes it wants a signature.
struct Route {
    method: Method,
    path: String,
    scopes: Vec<String>,
    of_merchants: bool,
}

async fn routes(serving: &Serving) -> Vec<Route> {
    let response = serving.request(Method::GET, "/openapi.json").send().await.unwrap();
    let api: Value = response.json().await.unwrap();
    let mut routes = Vec::new();
    for (path, methods) in api["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let ways = operation["security"].as_array().unwrap();
            let of_way = |way: &Value| way["bearer"].as_array().cloned().unwrap_or_default();
            let names: Vec<Value> = ways.iter().flat_map(of_way).collect();
            let scopes = names.iter().filter(|name| **name != "merchant").map(|name| name.as_str().unwrap().to_owned());
            routes.push(Route {
                method: method.to_uppercase().parse().unwrap(),
                path: path.clone(),
                scopes: scopes.collect(),
                of_merchants: names.iter().any(|name| name == "merchant"),
            });
        }
    }
    assert!(routes.len() > 45, "{}", routes.len());
    routes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_matrix_of_routes_is_documented() {
    let serving = Serving::start(&[]).await;
    let mut table = "| route | one of these scopes | a key of a merchant |\n|---|---|---|\n".to_owned();
    for route in routes(&serving).await {
        let needs = if route.scopes.is_empty() { "a signature".to_owned() } else { route.scopes.join(", ") };
        let merchants = if route.of_merchants { "its own" } else { "" };
        writeln!(table, "| {} {} | {needs} | {merchants} |", route.method, route.path).unwrap();
    }
    same_part("security.md", "routes", &table);
    serving.stop().await;
}

/// The path with something for each of its parameters.
fn filled(path: &str) -> String {
    path.replace("{channel}", "sandbox").replace(['{', '}'], "")
}

/// A key that is called as it is.
fn key(name: &str, scopes: &[&str], more: &str) -> String {
    let hash = hex::encode(Sha256::digest(name));
    format!(r#"{{name="{name}",sha256="{hash}",scopes={scopes:?}{more}}}"#)
}

async fn serving_with(keys: &[String], more: &[&str]) -> Serving {
    let keys = format!("http.keys=[{}]", keys.join(","));
    let mut settings = vec![keys.as_str()];
    settings.extend(more);
    Serving::start(&settings).await
}

async fn status(serving: &Serving, key: &str, method: &Method, path: &str, body: &Value) -> u16 {
    let request = serving.request(method.clone(), path).bearer_auth(key).json(body);
    serving.reply(request).await.0.as_u16()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_route_takes_its_own_scopes_only() {
    let names: Vec<&str> = Scope::ALL.iter().map(|scope| scope.as_str()).collect();
    let keys: Vec<String> = names.iter().map(|name| key(name, &[name], "")).collect();
    let serving = serving_with(&keys, &[]).await;
    for route in routes(&serving).await {
        let path = filled(&route.path);
        let asked = format!("{} {path}", route.method);
        for name in &names {
            let found = status(&serving, name, &route.method, &path, &json!({})).await;
            if route.scopes.is_empty() {
                assert_eq!(found, 401, "{asked} with {name}: a signature");
                continue;
            }
            let may = *name == "admin" || route.scopes.iter().any(|scope| scope == name);
            assert_eq!(found != 403, may, "{asked} with {name}: {found}");
            assert!(found != 401 && found < 500, "{asked} with {name}: {found}");
        }
        if !route.scopes.is_empty() {
            assert_eq!(status(&serving, "unknown", &route.method, &path, &json!({})).await, 401, "{asked}");
        }
    }
    serving.stop().await;
}

/// What `order:write` and the others meant before some of it had scopes of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wide_scopes_mean_what_they_meant_before() {
    let keys = [key("orders", &["order:write"], ""), key("money", &["payment:write"], "")];
    let cases = [
        ("orders", Method::PUT, "/products/A1", json!({"name": "Tea", "price": 3})),
        ("orders", Method::PUT, "/coupons/T", json!({})),
        ("orders", Method::POST, "/coupons/T/issue", json!({"userId": "1"})),
        ("orders", Method::POST, "/orders/5/refund", json!({})),
        ("money", Method::POST, "/merchants/5/payments/N/refund", json!({})),
    ];
    let narrow = serving_with(&keys, &[]).await;
    let wide = serving_with(&keys, &["http.wide_scopes=true"]).await;
    for (name, method, path, body) in cases {
        assert_eq!(status(&narrow, name, &method, path, &body).await, 403, "{path}");
        assert_ne!(status(&wide, name, &method, path, &body).await, 403, "{path}");
        let other = if name == "money" { "orders" } else { "money" };
        assert_eq!(status(&wide, other, &method, path, &body).await, 403, "{path}");
    }
    narrow.stop().await;
    wide.stop().await;
}

/// What a merchant may have.
fn shop(channel: &str) -> Value {
    json!({"name": "Tea", "accepts": [{"productId": "h5", "channelId": channel}]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_a_merchant_is_blind_to_others() {
    let scopes: Vec<&str> = Scope::ALL.iter().map(|scope| scope.as_str()).filter(|name| *name != "admin").collect();
    let keys = [
        key("boss", &["admin"], ""),
        key("seven", &scopes, ",merchant=\"7\""),
        key("root7", &["admin"], ",merchant=7"),
    ];
    let serving = serving_with(&keys, &[]).await;
    let ask = async |key: &str, method: Method, path: &str, body: &Value| {
        let (status, _, answer) = serving.reply(serving.request(method, path).bearer_auth(key).json(body)).await;
        (status, answer)
    };
    for id in [7, 8] {
        let (status, made) = ask("boss", Method::PUT, &format!("/merchants/{id}"), &shop("sandbox")).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
    }
    let open = |id: i64| json!({"merchantId": id.to_string(), "outOrderNo": "N1", "amount": 5, "productId": "h5", "channelId": "sandbox"});
    crate::support::waiting::eventually("the payment role knows both", async || {
        let of_7 = ask("boss", Method::POST, "/payments", &open(7)).await.0;
        let of_8 = ask("boss", Method::POST, "/payments", &open(8)).await.0;
        of_7 == StatusCode::CREATED && of_8 == StatusCode::CREATED
    })
    .await;

    for name in ["seven", "root7"] {
        // Its own, but not what it may take.
        for path in ["/merchants/7", "/merchants/7/payments/N1"] {
            assert_eq!(ask(name, Method::GET, path, &json!({})).await.0, StatusCode::OK, "{path}");
        }
        // Whether it is paid by now does not matter.
        let (status, closed) = ask(name, Method::POST, "/merchants/7/payments/N1/close", &json!({})).await;
        assert!(matches!(status, StatusCode::OK | StatusCode::CONFLICT), "{closed}");
        assert_eq!(ask(name, Method::POST, "/payments", &open(7)).await.0, StatusCode::CREATED);
        assert_eq!(ask(name, Method::POST, "/merchants/7/secret", &json!({})).await.0, StatusCode::OK);
        assert_eq!(ask(name, Method::PUT, "/merchants/7", &shop("other")).await.0, StatusCode::FORBIDDEN);
        let (_, page) = ask(name, Method::GET, "/merchants", &json!({})).await;
        assert_eq!((page["items"].as_array().unwrap().len(), &page["items"][0]["merchantId"]), (1, &json!("7")));
        assert_eq!(ask(name, Method::GET, "/merchants?after=7", &json!({})).await.1["items"], json!([]));

        // Nothing of another one, by whatever way it is named.
        let (status, refused) = ask(name, Method::POST, "/payments", &open(8)).await;
        assert_eq!(
            (status, refused["detail"].as_str()),
            (StatusCode::FORBIDDEN, Some("this API key acts for merchant 7 only"))
        );
        for (method, path) in [
            (Method::GET, "/merchants/8"),
            (Method::GET, "/merchants/%38"),
            (Method::GET, "/merchants/8/payments/N1"),
            (Method::POST, "/merchants/8/payments/N1/close"),
            (Method::POST, "/merchants/8/payments/N1/refund"),
            (Method::POST, "/merchants/8/secret"),
        ] {
            assert_eq!(ask(name, method, path, &json!({})).await.0, StatusCode::FORBIDDEN, "{path}");
        }

        // Nothing of the shop.
        for route in routes(&serving).await.into_iter().filter(|route| !route.of_merchants && !route.scopes.is_empty())
        {
            let path = filled(&route.path);
            let (status, _) = ask(name, route.method.clone(), &path, &json!({})).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{} {path}", route.method);
        }
        assert_eq!(ask(name, Method::GET, "/payments/5", &json!({})).await.0, StatusCode::NOT_FOUND);
    }
    let (_, other) = ask("boss", Method::GET, "/merchants/8/payments/N1", &json!({})).await;
    assert_eq!(other["refunds"], json!([]), "{other}");
    serving.stop().await;
}

/// The body of a callback that nobody has signed is not waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsigned_callbacks_are_refused_before_their_body() {
    let serving = Serving::start(&["http.request_timeout=1h"]).await;
    let addr = serving.process.base_url().trim_start_matches("http://").to_owned();
    let paths = ["/payments/callback/sandbox", "/fulfil/callback", "/sandbox/channel/pay", "/sandbox/warehouse/orders"];
    let old = "x-ruyi-timestamp: 1000\r\nx-ruyi-signature: 00\r\n";
    for (path, head) in paths.into_iter().flat_map(|path| [(path, ""), (path, old)]) {
        let mut stream = TcpStream::connect(&addr).await.unwrap();
        let request = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n{head}content-length: 100000\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 401", "{path} {head:?}");
    }
    serving.stop().await;
}
