//! Two processes' caches on one Redis: versions.

use bytes::Bytes;
use ruyi::cache::Cache;
use ruyi::config::{Config, Sources};
use ruyi::domain::event::{CacheInvalidate, CacheKind};

use crate::support::servers::redis::{Redis, redis};

const KIND: CacheKind = CacheKind::Order;

/// The cache of one more process.
fn cache(redis: &Redis) -> Cache {
    let sets = vec![format!("cache.url={}", redis.url()), "cache.ttl=1h".to_owned(), "cache.timeout=10s".to_owned()];
    Cache::new(&Config::load(&Sources { sets, ..Sources::default() }).unwrap().cache).unwrap()
}

/// What `cache` shows, when the database has this.
async fn read(cache: &Cache, version: i64, body: &'static str) -> String {
    let load = async { Ok::<_, ()>(Some((version, Bytes::from_static(body.as_bytes())))) };
    let shown = cache.read(KIND, "1", load).await.unwrap().unwrap();
    String::from_utf8(shown.to_vec()).unwrap()
}

fn change(version: i64) -> Vec<CacheInvalidate> {
    vec![CacheInvalidate { kind: KIND, key: "1".to_owned(), version }]
}

/// What was to be stored in the background is stored: on one thread it was sent before the second of these.
async fn stored(cache: &Cache) {
    for _ in 0..2 {
        cache.forget(vec![CacheInvalidate { kind: KIND, key: "other".to_owned(), version: 1 }]).await;
    }
}

#[tokio::test]
async fn an_older_version_never_replaces_a_newer_one() {
    let Some(redis) = redis().await else { return };
    let (one, two) = (cache(&redis), cache(&redis));
    assert_eq!(read(&one, 1, "one").await, "one");
    stored(&one).await;
    assert_eq!(read(&two, 7, "not asked for").await, "one", "from Redis");
    one.changed(change(2));
    assert_eq!(one.forget(change(2)).await, change(2), "somebody may have it");
    assert_eq!(one.forget(change(2)).await, [], "nobody has read it since");
    // A read that began before the change.
    let late = cache(&redis);
    assert_eq!(read(&late, 1, "one").await, "one");
    stored(&late).await;
    assert_eq!(read(&cache(&redis), 2, "two").await, "two", "Redis does not have the old one again");
    assert_eq!(read(&one, 2, "two").await, "two");
    stored(&one).await;
    assert_eq!(read(&cache(&redis), 7, "not asked for").await, "two");
    assert_eq!(read(&two, 7, "not asked for").await, "one", "not told yet");
    two.heard(&change(2));
    assert_eq!(read(&two, 7, "not asked for").await, "two");
    two.heard(&change(1));
    assert_eq!(read(&two, 7, "not asked for").await, "two", "late news");
}

#[tokio::test]
async fn what_is_not_from_here_is_not_shown() {
    let Some(redis) = redis().await else { return };
    let one = cache(&redis);
    read(&one, 1, "one").await;
    stored(&one).await;
    for lie in [
        "HSET ruyi:order:1 b two",
        "HSET ruyi:order:1 v 2",
        "PERSIST ruyi:order:1",
        "HDEL ruyi:order:1 v",
        "SET ruyi:order:1 two",
    ] {
        assert!(!redis.ask(lie).await.unwrap().starts_with('-'), "{lie}");
        assert_eq!(read(&cache(&redis), 1, "true").await, "true", "{lie}");
        redis.flush().await;
        let again = cache(&redis);
        assert_eq!(read(&again, 1, "one").await, "one");
        stored(&again).await;
    }
}
