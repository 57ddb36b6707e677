//! How much is left of hot SKUs, roughly: enough to turn hopeless orders away before they are written. What is not
//! known, not fresh or makes no sense turns nobody away; the freeze decides about every order that passes.
//!
//! An estimate is set from what the stock role last told, a newer version before an older one. It falls with each order
//! that passes and is set again from the same version after [`RESEED`], so what was taken for nothing comes back; it
//! ends by itself after [`LIFE`]. The rules are the same in memory and in Redis.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use redis::Script;
use tokio::time::Instant;

use super::remote::Remote;

/// How long an estimate is believed that nobody sets again.
pub const LIFE: Duration = Duration::from_secs(5);
/// How old it becomes before it is set again from the version that it has.
pub const RESEED: Duration = Duration::from_millis(2_500);

/// What the stock role told of a SKU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// SKU.
    pub sku: String,
    /// Pieces that may be sold.
    pub available: i64,
    /// Grows with each change of the SKU.
    pub version: i64,
}

/// What an order took from the estimates, by SKU, and from which version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken(Vec<(String, i64, i64)>);

/// Whether an order has a chance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has, or nobody knows.
    Pass(Taken),
    /// There is not enough of these SKUs.
    SoldOut(Vec<String>),
}

/// The estimates of this process, or those in Redis.
#[derive(Clone)]
pub struct Estimates {
    remote: Option<Arc<Remote>>,
    local: Arc<Mutex<HashMap<String, Estimate>>>,
}

#[derive(Clone, Copy)]
struct Estimate {
    left: i64,
    version: i64,
    set_at: Instant,
}

/// KEYS: estimates. ARGV: life in ms, then the pieces wanted of each. For each the version that they were taken from,
/// -1 where it is not known; or -2 for those of which there is not enough, and then nothing is taken.
static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local versions, short = {}, false
         for i, key in ipairs(KEYS) do
           local ttl, version, left = redis.call('PTTL', key), nil, nil
           if ttl > 0 and ttl <= tonumber(ARGV[1]) and redis.call('TYPE', key).ok == 'hash' then
             version = tonumber(redis.call('HGET', key, 'version'))
             left = tonumber(redis.call('HGET', key, 'left'))
           end
           if not version or not left then
             versions[i] = -1
           elseif left < tonumber(ARGV[i + 1]) then
             versions[i], short = -2, true
           else
             versions[i] = version
           end
         end
         if not short then
           for i, key in ipairs(KEYS) do
             if versions[i] >= 0 then redis.call('HINCRBY', key, 'left', -tonumber(ARGV[i + 1])) end
           end
         end
         return versions",
    )
});

/// KEYS: estimates. ARGV: pieces and version of each. What was taken from that version goes back.
static GIVE_BACK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "for i, key in ipairs(KEYS) do
           if redis.call('TYPE', key).ok == 'hash' and redis.call('HGET', key, 'version') == ARGV[2 * i] then
             redis.call('HINCRBY', key, 'left', ARGV[2 * i - 1])
           end
         end
         return 1",
    )
});

/// KEYS: estimates. ARGV: life and age of a reseed in ms, then pieces and version of each.
static SET: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local life, reseed = tonumber(ARGV[1]), tonumber(ARGV[2])
         for i, key in ipairs(KEYS) do
           local ttl, version = redis.call('PTTL', key), nil
           if ttl > 0 and ttl <= life and redis.call('TYPE', key).ok == 'hash' then
             version = tonumber(redis.call('HGET', key, 'version'))
           end
           local told = tonumber(ARGV[2 * i + 2])
           if not version or told > version or (told == version and life - ttl >= reseed) then
             redis.call('DEL', key)
             redis.call('HSET', key, 'left', ARGV[2 * i + 1], 'version', ARGV[2 * i + 2])
             redis.call('PEXPIRE', key, life)
           end
         end
         return 1",
    )
});

impl Estimates {
    pub(super) fn new(remote: Option<Arc<Remote>>) -> Self {
        Self { remote, local: Arc::default() }
    }

    /// Without Redis.
    #[must_use]
    pub fn in_process() -> Self {
        Self::new(None)
    }

    /// Takes the pieces of an order from the estimates, of all SKUs or of none.
    pub async fn take(&self, wanted: &[(&str, i64)]) -> Verdict {
        let versions = match &self.remote {
            None => self.take_local(wanted, Instant::now()),
            Some(remote) => {
                let mut call = TAKE.prepare_invoke();
                call.arg(millis(LIFE));
                for (sku, pieces) in wanted {
                    call.key(remote.key("left", sku)).arg(*pieces);
                }
                match remote.run::<Vec<i64>>(&call).await {
                    Some(versions) if versions.len() == wanted.len() => versions,
                    _ => return Verdict::Pass(Taken::default()),
                }
            }
        };
        let of = |what: fn(i64) -> bool| wanted.iter().zip(&versions).filter(move |(_, version)| what(**version));
        let short: Vec<String> = of(|version| version == -2).map(|((sku, _), _)| (*sku).to_owned()).collect();
        if !short.is_empty() {
            return Verdict::SoldOut(short);
        }
        let taken = of(|version| version >= 0).map(|((sku, pieces), version)| ((*sku).to_owned(), *pieces, *version));
        Verdict::Pass(Taken(taken.collect()))
    }

    /// Gives back what was taken for an order that was not written.
    pub async fn give_back(&self, taken: &Taken) {
        if taken.0.is_empty() {
            return;
        }
        let Some(remote) = &self.remote else { return self.give_back_local(taken) };
        let mut call = GIVE_BACK.prepare_invoke();
        for (sku, pieces, version) in &taken.0 {
            call.key(remote.key("left", sku)).arg(*pieces).arg(*version);
        }
        remote.run::<i64>(&call).await;
    }

    /// Sets estimates from what was told.
    pub async fn set(&self, levels: &[Level]) {
        if levels.is_empty() {
            return;
        }
        let Some(remote) = &self.remote else { return self.set_local(levels, Instant::now()) };
        let mut call = SET.prepare_invoke();
        call.arg(millis(LIFE)).arg(millis(RESEED));
        for level in levels {
            call.key(remote.key("left", &level.sku)).arg(level.available).arg(level.version);
        }
        remote.run::<i64>(&call).await;
    }

    fn take_local(&self, wanted: &[(&str, i64)], now: Instant) -> Vec<i64> {
        let mut all = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        let mut versions = Vec::with_capacity(wanted.len());
        for (sku, pieces) in wanted {
            versions.push(match all.get(*sku).filter(|known| now.duration_since(known.set_at) < LIFE) {
                None => -1,
                Some(known) if known.left < *pieces => -2,
                Some(known) => known.version,
            });
        }
        if !versions.contains(&-2) {
            for ((sku, pieces), _) in wanted.iter().zip(&versions).filter(|(_, version)| **version >= 0) {
                if let Some(known) = all.get_mut(*sku) {
                    known.left -= pieces;
                }
            }
        }
        versions
    }

    fn give_back_local(&self, taken: &Taken) {
        let mut all = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        for (sku, pieces, version) in &taken.0 {
            if let Some(known) = all.get_mut(sku).filter(|known| known.version == *version) {
                known.left += pieces;
            }
        }
    }

    fn set_local(&self, levels: &[Level], now: Instant) {
        let mut all = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        for level in levels {
            let stays = all.get(&level.sku).is_some_and(|known| {
                let age = now.duration_since(known.set_at);
                age < LIFE && (known.version > level.version || (known.version == level.version && age < RESEED))
            });
            if !stays {
                let new = Estimate { left: level.available, version: level.version, set_at: now };
                all.insert(level.sku.clone(), new);
            }
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(available: i64, version: i64) -> [Level; 1] {
        [Level { sku: "a".into(), available, version }]
    }

    fn take(estimates: &Estimates, wanted: &[(&str, i64)], now: Instant) -> Vec<i64> {
        estimates.take_local(wanted, now)
    }

    #[test]
    fn all_or_none_and_what_is_unknown_passes() {
        let (estimates, now) = (Estimates::new(None), Instant::now());
        assert_eq!(take(&estimates, &[("a", 5)], now), [-1]);
        estimates.set_local(&level(3, 1), now);
        assert_eq!(take(&estimates, &[("a", 5), ("b", 1)], now), [-2, -1]);
        assert_eq!(take(&estimates, &[("a", 2), ("b", 100)], now), [1, -1], "the refused one took nothing");
        assert_eq!(take(&estimates, &[("a", 1)], now), [1]);
        assert_eq!(take(&estimates, &[("a", 1)], now), [-2]);
        let last = Taken(vec![("a".into(), 1, 1)]);
        estimates.give_back_local(&last);
        assert_eq!(take(&estimates, &[("a", 1)], now), [1]);
        estimates.set_local(&level(1, 2), now);
        estimates.give_back_local(&last);
        assert_eq!(take(&estimates, &[("a", 1)], now), [2]);
        assert_eq!(take(&estimates, &[("a", 1)], now), [-2], "what was taken from an older version does not come back");
    }

    #[test]
    fn it_heals_and_ends_by_itself() {
        let (estimates, now) = (Estimates::new(None), Instant::now());
        estimates.set_local(&level(1, 7), now);
        assert_eq!(take(&estimates, &[("a", 1)], now), [7]);
        estimates.set_local(&level(1, 7), now);
        estimates.set_local(&level(9, 6), now);
        assert_eq!(take(&estimates, &[("a", 1)], now), [-2], "the same and an older version change nothing");
        estimates.set_local(&level(1, 7), now + RESEED);
        assert_eq!(take(&estimates, &[("a", 1)], now + RESEED), [7], "taken, but never frozen");
        estimates.set_local(&level(0, 8), now + RESEED);
        assert_eq!(take(&estimates, &[("a", 1)], now + RESEED), [-2]);
        assert_eq!(take(&estimates, &[("a", 1)], now + RESEED + LIFE), [-1], "nobody says so any more");
    }
}
