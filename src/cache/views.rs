//! Reads that are kept: each with the version that it shows. A newer version is never replaced by an older one, in
//! memory or in Redis, whoever is late.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use moka::ops::compute::Op;
use moka::sync::Cache;
use redis::Script;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::remote::Remote;
use crate::domain::event::{CacheInvalidate, CacheKind};

/// Bytes of bodies and keys kept in memory at most.
const MEMORY_BYTES: u64 = 16 * 1024 * 1024;
/// What an entry costs besides.
const OVERHEAD_BYTES: usize = 128;
/// Of the digest in front of a body in Redis.
const DIGEST_BYTES: usize = 16;
/// Keys of one call to Redis.
const AT_ONCE: usize = 256;

/// KEYS: entries. ARGV: how long they live in ms, then version and body of each (empty: it has changed, and the body is
/// not known). For each 1 where somebody had put a body, else 0. What has another type is not from here, and goes.
static PUT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local had = {}
         for i, key in ipairs(KEYS) do
           local version, body = ARGV[2 * i], ARGV[2 * i + 1]
           local entry = redis.pcall('HMGET', key, 'v', 'b')
           if entry.err then entry = {false, false} end
           local known = entry[1] and tonumber(entry[1])
           had[i] = (entry[2] and entry[2] ~= '') and 1 or 0
           if not known or tonumber(version) > known or (tonumber(version) == known and body ~= '') then
             redis.call('DEL', key)
             redis.call('HSET', key, 'v', version, 'b', body)
             redis.call('PEXPIRE', key, ARGV[1])
           end
         end
         return had",
    )
});

/// KEYS: entry. Its version, body, and how long it lives in ms.
static GET: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local entry = redis.call('HMGET', KEYS[1], 'v', 'b')
         if not entry[1] or not entry[2] or entry[2] == '' then return false end
         return {entry[1], entry[2], redis.call('PTTL', KEYS[1])}",
    )
});

/// What is in memory, by kind and key.
pub(super) struct Views {
    entries: Cache<(CacheKind, String), Entry>,
}

#[derive(Clone)]
struct Entry {
    version: i64,
    /// `None`: something older was forgotten.
    body: Option<Bytes>,
    until: Instant,
}

/// What memory says.
pub(super) enum Found {
    /// This.
    Body(Bytes),
    /// Nothing; nothing older than this version may be shown.
    Stale {
        /// 0: anything may.
        since: i64,
    },
}

/// A read that was kept in Redis.
pub(super) struct View {
    pub version: i64,
    pub body: Bytes,
    pub left: Duration,
}

impl Views {
    pub(super) fn new(ttl: Duration) -> Self {
        let weigh = |key: &(CacheKind, String), entry: &Entry| {
            let body = entry.body.as_ref().map_or(0, Bytes::len);
            u32::try_from(key.1.len() + body + OVERHEAD_BYTES).unwrap_or(u32::MAX)
        };
        let entries = Cache::builder().max_capacity(MEMORY_BYTES).weigher(weigh).time_to_live(ttl).build();
        Self { entries }
    }

    pub(super) fn get(&self, kind: CacheKind, key: &str, now: Instant) -> Found {
        match self.entries.get(&(kind, key.to_owned())) {
            Some(entry) if entry.until > now => match entry.body {
                Some(body) => Found::Body(body),
                None => Found::Stale { since: entry.version },
            },
            _ => Found::Stale { since: 0 },
        }
    }

    /// `until`: it may be shown so long.
    pub(super) fn put(&self, kind: CacheKind, key: &str, version: i64, body: Option<Bytes>, until: Instant) {
        let new = Entry { version, body, until };
        self.entries.entry((kind, key.to_owned())).and_compute_with(|old| {
            let stays = old.is_some_and(|old| {
                let old = old.into_value();
                old.version > new.version || (old.version == new.version && new.body.is_none())
            });
            if stays { Op::Nop } else { Op::Put(new) }
        });
    }
}

fn key_of(remote: &Remote, kind: CacheKind, key: &str) -> String {
    remote.key(kind.name(), key)
}

/// The first bytes of what is kept in Redis: what somebody else put there is not taken for ours.
fn digest(key: &str, version: i64, body: &[u8]) -> [u8; DIGEST_BYTES] {
    let all = Sha256::new().chain_update(key).chain_update([0]).chain_update(version.to_be_bytes()).chain_update(body);
    let mut short = [0; DIGEST_BYTES];
    short.copy_from_slice(&all.finalize()[..DIGEST_BYTES]);
    short
}

/// From Redis.
pub(super) async fn fetch(remote: &Remote, kind: CacheKind, key: &str, ttl: Duration) -> Option<View> {
    let mut call = GET.prepare_invoke();
    let key = key_of(remote, kind, key);
    call.key(&key);
    let (version, kept, left_ms): (i64, Vec<u8>, i64) = remote.run::<Option<(i64, Vec<u8>, i64)>>(&call).await??;
    let (_, body) = kept.split_first_chunk().filter(|(sign, body)| **sign == digest(&key, version, body))?;
    let body = Bytes::copy_from_slice(body);
    let left = Duration::from_millis(u64::try_from(left_ms).ok()?);
    // Something without an end, or with one too far away, is not from here.
    (left <= ttl).then_some(View { version, body, left })
}

/// To Redis, in the background.
pub(super) fn store(remote: Arc<Remote>, kind: CacheKind, key: &str, version: i64, body: Bytes, left: Duration) {
    let key = key_of(&remote, kind, key);
    tokio::spawn(async move {
        let kept = [&digest(&key, version, &body)[..], &body].concat();
        let mut call = PUT.prepare_invoke();
        call.key(key).arg(ms(left)).arg(version).arg(kept);
        remote.run::<Vec<i64>>(&call).await;
    });
}

/// In Redis, as it was. Those that somebody may have read since they were last forgotten.
pub(super) async fn forget(remote: &Remote, changes: Vec<CacheInvalidate>, ttl: Duration) -> Vec<CacheInvalidate> {
    let mut read = Vec::new();
    for some in changes.chunks(AT_ONCE) {
        let mut call = PUT.prepare_invoke();
        call.arg(ms(ttl));
        for change in some {
            call.key(key_of(remote, change.kind, &change.key)).arg(change.version).arg("");
        }
        let had = remote.run::<Vec<i64>>(&call).await.unwrap_or_default();
        let known = some.iter().enumerate().filter(|(index, _)| had.get(*index) != Some(&0));
        read.extend(known.map(|(_, change)| change.clone()));
    }
    read
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: CacheKind = CacheKind::Order;
    const TTL: Duration = Duration::from_secs(2);

    fn body(views: &Views, now: Instant) -> Option<String> {
        match views.get(KIND, "1", now) {
            Found::Body(body) => Some(String::from_utf8(body.to_vec()).unwrap()),
            Found::Stale { .. } => None,
        }
    }

    #[test]
    fn older_never_replaces_newer() {
        let (views, now) = (Views::new(TTL), Instant::now());
        let put = |version, body: Option<&'static str>| {
            views.put(KIND, "1", version, body.map(|body| Bytes::from_static(body.as_bytes())), now + TTL);
        };
        put(1, Some("one"));
        assert_eq!(body(&views, now).as_deref(), Some("one"));
        put(2, None);
        assert_eq!(body(&views, now), None, "changed since");
        put(1, Some("one"));
        assert_eq!(body(&views, now), None, "a read from before the change");
        assert!(matches!(views.get(KIND, "1", now), Found::Stale { since: 2 }));
        put(2, Some("two"));
        put(2, None);
        put(1, None);
        assert_eq!(body(&views, now).as_deref(), Some("two"), "news of what it shows already");
        put(3, None);
        assert_eq!(body(&views, now), None);
    }

    #[test]
    fn nothing_is_shown_longer_than_it_may() {
        let (views, now) = (Views::new(TTL), Instant::now());
        let until = now + Duration::from_millis(500);
        views.put(KIND, "1", 1, Some(Bytes::from_static(b"one")), until);
        assert!(body(&views, now).is_some());
        assert_eq!(body(&views, until), None);
    }
}
