//! What Redis is to us: it may be away, wiped, full, frozen or full of nonsense, and costs latency only.

use std::time::Instant;

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::servers::redis::{Redis, redis, redis_with};
use crate::support::serving::{Serving, order_of};
use crate::support::waiting::eventually;

/// What is written is shown at once by whom it was written through, and an order comes to its end.
async fn all_is_right(serving: &Serving) {
    for pieces in [700, 800] {
        serving.fine(Method::PUT, "/stock/B2", &json!({"available": pieces})).await;
        assert_eq!(serving.get("/stock/B2").await["available"], pieces);
    }
    let id = serving.place(&order_of("A1", 1)).await;
    let path = format!("/orders/{id}");
    serving.until(&path, "status", "RESERVED").await;
    serving.fine(Method::POST, &format!("{path}/cancel"), &json!({})).await;
    assert_eq!(serving.get(&path).await["status"], "CANCELED");
    serving.until(&path, "outcome", "CANCELED").await;
}

/// Puts something else under each of our keys.
async fn poison(redis: &Redis, values: &[&str]) {
    let keys = redis.ask("KEYS *").await.unwrap();
    let keys: Vec<&str> = keys.lines().filter(|line| line.starts_with("ruyi:")).collect();
    for (key, value) in keys.iter().zip(values.iter().cycle()) {
        // At once: the process may write the key anew at any moment.
        let replaced = format!("MULTI\r\nDEL {key}\r\n{}\r\nEXEC", value.replace("KEY", key));
        let answer = redis.ask(&replaced).await.unwrap();
        assert!(!answer.lines().any(|line| line.starts_with('-')), "{value}: {answer}");
    }
}

/// Redis has something of ours, again: memory alone does not ask it.
async fn used(serving: &Serving, redis: &Redis) {
    let mut pieces = 900;
    eventually("Redis is used", async || {
        let kept = redis.ask("HSTRLEN ruyi:stock:B2 b").await.is_some_and(|size| size != ":0\r\n");
        pieces += 1;
        serving.fine(Method::PUT, "/stock/B2", &json!({ "available": pieces })).await;
        serving.get("/stock/B2").await;
        kept
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_becomes_of_redis_reads_and_orders_are_right() {
    let Some(redis) = redis().await else { return };
    let url = format!("cache.url={}", redis.url());
    let serving = Serving::start(&[&url, "cache.ttl=1h", r#"order.hot_skus=["A1"]"#]).await;
    serving.fill().await;
    all_is_right(&serving).await;
    used(&serving, &redis).await;
    redis.flush().await;
    all_is_right(&serving).await;
    redis.ask("CONFIG SET maxmemory 1mb").await.unwrap();
    assert!(redis.ask("SET x y").await.unwrap().starts_with("-OOM"), "it is full");
    all_is_right(&serving).await;
    redis.ask("CONFIG SET maxmemory 0").await.unwrap();
    used(&serving, &redis).await;
    for values in [&["SET KEY junk"][..], &["RPUSH KEY a b", "HSET KEY v x b y left x version x"]] {
        poison(&redis, values).await;
        all_is_right(&serving).await;
    }
    // It answers nobody, but its connections stand.
    redis.freeze();
    all_is_right(&serving).await;
    redis.go_on();
    redis.kill();
    all_is_right(&serving).await;
    redis.start_again().await;
    all_is_right(&serving).await;
    used(&serving, &redis).await;
    serving.settled().await;
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_that_was_never_there() {
    let serving = Serving::start(&["cache.url=redis://127.0.0.1:1", "http.rate_limit=100000"]).await;
    serving.fill().await;
    all_is_right(&serving).await;
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_with_a_password_and_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-authority -keyout ca.key -out ca.pem \
  -addext basicConstraints=critical,CA:TRUE &&
openssl req -newkey rsa:2048 -nodes -subj /CN=redis -keyout server.key -out server.csr &&
printf 'subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' > ext &&
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.pem
"#;
    let made = std::process::Command::new("sh").args(["-c", script]).current_dir(dir.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let file = |name: &str| dir.path().join(name).display().to_string();
    let port = crate::support::servers::child::free_port().to_string();
    let (cert, key, ca) = (file("server.pem"), file("server.key"), file("ca.pem"));
    let settings = ["--tls-port", &port, "--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-auth-clients", "no"];
    let Some(redis) = redis_with(&settings).await else { return };
    redis.ask("CONFIG SET requirepass secret").await.unwrap();
    let (tls, ca) = (format!("127.0.0.1:{port}"), format!("cache.ca_file={ca}"));
    let plain = redis.url().replace("redis://", "");
    for (url, ca, works) in [
        (format!("redis://:secret@{plain}"), "cache.ca_file=", true),
        (format!("rediss://:secret@{tls}"), ca.as_str(), true),
        (format!("redis://:guess@{plain}"), "cache.ca_file=", false),
        (format!("rediss://:secret@{tls}"), "cache.ca_file=", false),
    ] {
        let serving = Serving::start(&[&format!("cache.url={url}"), ca, "cache.timeout=5s"]).await;
        serving.fill().await;
        all_is_right(&serving).await;
        let look = async || redis.ask("AUTH secret\r\nEXISTS ruyi:stock:B2").await.unwrap_or_default();
        if works {
            eventually("it is used", async || {
                serving.get("/stock/B2").await;
                look().await.ends_with(":1\r\n")
            })
            .await;
        } else {
            assert!(look().await.ends_with(":0\r\n"), "{url}");
        }
        serving.stop().await;
        redis.ask("AUTH secret\r\nFLUSHALL").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rate_limit_is_one_for_all_instances() {
    const RATE: usize = 10;
    let Some(redis) = redis().await else { return };
    let settings =
        [format!("cache.url={}", redis.url()), format!("http.rate_limit={RATE}"), "cache.timeout=10s".into()];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let (one, two) = (Serving::start(&settings).await, Serving::start(&settings).await);
    let ask = async |serving: &Serving, times: usize| {
        let (mut granted, mut refused) = (0, 0);
        for _ in 0..times {
            match serving.reply(serving.request(Method::GET, "/products/none")).await.0 {
                StatusCode::NOT_FOUND => granted += 1,
                StatusCode::TOO_MANY_REQUESTS => refused += 1,
                other => panic!("{other}"),
            }
        }
        (granted, refused)
    };
    let started = Instant::now();
    let ((first, _), (second, _)) = tokio::join!(ask(&one, 6 * RATE), ask(&two, 6 * RATE));
    let most = RATE + usize::try_from(started.elapsed().as_secs()).unwrap().saturating_add(1) * RATE;
    assert!((RATE..=most).contains(&(first + second)), "{first} + {second} of {most}");
    // Each for itself again.
    redis.kill();
    for serving in [&one, &two] {
        eventually("the instance limits itself", async || {
            let (granted, refused) = ask(serving, 3 * RATE).await;
            granted > 0 && refused > 0
        })
        .await;
    }
    one.stop().await;
    two.stop().await;
}
