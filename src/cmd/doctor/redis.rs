//! Redis: advisory, so nothing about it is an error; but whoever configured it wants it to work.

use std::time::Duration;

use super::{Finding, Findings};
use crate::{cache, config};

const LIMIT: Duration = Duration::from_secs(5);

pub(super) async fn look(config: &config::Cache, findings: &Findings) {
    if config.url.is_empty() {
        findings.add(Finding::info("redis.none", "cache.url", "no Redis: each process has a cache of its own"));
        return;
    }
    let subject = config.url.masked();
    let look = match cache::look(config, LIMIT).await {
        Ok(look) => look,
        Err(error) => {
            let message = "Redis cannot be used: every read goes to the database until it can";
            let evidence = super::cluster::chain(&anyhow::Error::new(error));
            let fix = "check cache.url (host, password, database number) and cache.ca_file, and that Redis runs";
            findings.add(Finding::warning("redis.connect", subject, message).seen(evidence).fix(fix));
            return;
        }
    };
    let took = format!("{:.1} ms", look.round_trip.as_secs_f64() * 1000.0);
    if look.round_trip > config.timeout.duration() {
        let message = format!("an answer took {took}, and cache.timeout is {}", config.timeout);
        let fix = "use a Redis that is nearer, or raise cache.timeout";
        findings.add(Finding::warning("redis.slow", &subject, message).fix(fix));
    } else {
        let message = format!("Redis {} answers in {took}", look.version);
        findings.add(Finding::ok("redis.connect", &subject, message));
    }
    if !look.is_master {
        let fix = "name its master in cache.url";
        findings.add(Finding::warning("redis.replica", &subject, "it is a replica, and takes no writes").fix(fix));
    }
    if let Some(refused) = look.refuses {
        let fix = format!("allow its user scripts (EVAL, EVALSHA) and GET, SET on ~{}*", config.prefix);
        let message = "its user may not do what the cache does";
        findings.add(Finding::warning("redis.permission", &subject, message).seen(refused).fix(fix));
    }
    if look.max_memory > 0 && look.policy == "noeviction" {
        let message = "it refuses writes when it is full";
        let seen = format!("maxmemory {} bytes, maxmemory-policy noeviction", look.max_memory);
        let fix = "CONFIG SET maxmemory-policy allkeys-lru: everything that ruyi keeps there may be lost";
        findings.add(Finding::warning("redis.eviction", &subject, message).seen(seen).fix(fix));
    }
}
