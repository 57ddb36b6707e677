//! What this process has changed is forgotten by Redis, and by the memory of other processes: CACHE_INVALIDATE, sent
//! one-way to all that listen. All of it may be lost: what was read is shown for `cache.ttl` at most.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Plan;
use crate::cache::Cache;
use crate::clock::Clock;
use crate::config::Config;
use crate::db::outbox;
use crate::db::tx::Draft;
use crate::domain::event::{CacheInvalidate, Kind, Role};
use crate::mq::Broker;
use crate::mq::broker::Cluster;
use crate::mq::health::Reach;
use crate::mq::message::{Delay, Outgoing};
use crate::mq::rocketmq::GroupConsumer;
use crate::shutdown::Shutdown;

/// What the cluster knows listeners by.
pub const LISTENERS: &str = "ruyi-cache-listeners";
/// Lists of changes taken at once, and messages per poll.
const AT_ONCE: usize = 256;
/// Messages per second at most: without Redis nobody knows what was read, and the broker has better things to do.
const PER_SECOND: usize = 200;
/// Between two looks at the queues of the topic, and before a listener that could not start tries again.
const LOOK: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_secs(5);
/// One wait for messages.
const WAIT: Duration = Duration::from_secs(10);

/// Starts to tell and to listen, as far as there is somebody else.
pub(super) fn start(config: &Config, plan: &Plan, cache: &Cache, broker: &Broker, shutdown: &Shutdown) {
    let Some(changes) = cache.to_tell().filter(|_| config.cache.ttl.ms() > 0) else { return };
    // Whoever brings the broker and runs everything is most likely alone.
    let alone = config.mq.namesrv.is_empty()
        && config.cache.url.is_empty()
        && plan.embed_broker
        && Role::ALL.iter().all(|role| plan.roles.contains(role));
    let cluster = match broker {
        Broker::Cluster(cluster) if !alone => Some(cluster.clone()),
        _ => None,
    };
    if let Some(cluster) = cluster.clone().filter(|_| plan.work.api) {
        shutdown.run("cache listener", listen(cache.clone(), cluster, shutdown.token.clone()));
    }
    let to = (cluster.map(Broker::Cluster), plan.clock.clone());
    shutdown.run("cache", tell(cache.clone(), changes, to, shutdown.token.clone()));
}

/// Until `token` is cancelled.
async fn tell(
    cache: Cache,
    mut changes: Receiver<Vec<CacheInvalidate>>,
    (broker, clock): (Option<Broker>, Clock),
    token: CancellationToken,
) {
    let mut lists = Vec::new();
    let (mut second, mut sent) = (Instant::now(), 0);
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            got = changes.recv_many(&mut lists, AT_ONCE) => if got == 0 { return },
        }
        let mut newest = HashMap::new();
        for change in lists.drain(..).flatten() {
            let version: &mut i64 = newest.entry((change.kind, change.key)).or_default();
            *version = change.version.max(*version);
        }
        let all = newest.into_iter().map(|((kind, key), version)| CacheInvalidate { kind, key, version }).collect();
        let read = cache.forget(all).await;
        let Some(broker) = broker.as_ref().filter(|broker| broker.state().reach == Reach::Up) else { continue };
        if second.elapsed() >= Duration::from_secs(1) {
            (second, sent) = (Instant::now(), 0);
        }
        for change in read.iter().take(PER_SECOND - sent) {
            sent += 1;
            let Some(message) = message(change, clock.now_ms()) else { continue };
            if let Err(error) = broker.send_one_way(&message).await {
                tracing::debug!(%error, "other processes are not told what has changed");
                break;
            }
        }
    }
}

fn message(change: &CacheInvalidate, now_ms: i64) -> Option<Outgoing> {
    let name = Kind::CacheInvalidate.name();
    let version = change.version.to_string();
    let mut draft = Draft::new(Kind::CacheInvalidate, &change.key, change, None);
    draft.discriminator = &version;
    let (event_id, body) = draft.encode(now_ms).ok()?;
    Some(Outgoing {
        topic: name.to_owned(),
        tag: name.to_owned(),
        key: change.key.clone(),
        body: body.into(),
        properties: outbox::properties(&event_id, name, None),
        delay: Delay::None,
    })
}

/// Until `token` is cancelled, whatever becomes of the brokers.
async fn listen(cache: Cache, cluster: Cluster, token: CancellationToken) {
    loop {
        match cluster.mq().listen_in(LISTENERS, Kind::CacheInvalidate.name()).await {
            Ok(listener) => {
                hear(&cache, &listener, &token).await;
                listener.shutdown().await;
            }
            Err(error) => tracing::debug!(%error, "what other processes change is not heard"),
        }
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

async fn hear(cache: &Cache, listener: &GroupConsumer, token: &CancellationToken) {
    let mut looked = Instant::now();
    loop {
        let messages = tokio::select! {
            () = token.cancelled() => return,
            messages = listener.poll(AT_ONCE, WAIT) => messages,
        };
        let changes: Vec<CacheInvalidate> =
            messages.iter().filter_map(|message| serde_json::from_slice(&message.body).ok()).collect();
        cache.heard(&changes);
        if looked.elapsed() >= LOOK {
            looked = Instant::now();
            if let Err(error) = listener.follow(Kind::CacheInvalidate.name()).await {
                tracing::debug!(%error, "the queues of CACHE_INVALIDATE");
            }
        }
    }
}
