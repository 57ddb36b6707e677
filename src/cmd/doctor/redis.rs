//! Redis: advisory, so nothing about it is an error; but whoever configured it wants it to work.

use std::time::Duration;

use super::{Finding, Findings};
use crate::cache::{self, Look};
use crate::config;

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
            let evidence = format!("{:#}", anyhow::Error::new(error));
            let fix = "check cache.url (host, password, database number) and cache.ca_file, and that Redis runs";
            findings.add(Finding::warning("redis.connect", subject, message).seen(evidence).fix(fix));
            return;
        }
    };
    for finding in judge(&subject, config, &look) {
        findings.add(finding);
    }
}

fn judge(subject: &str, config: &config::Cache, look: &Look) -> Vec<Finding> {
    let mut found = Vec::new();
    let took = format!("{:.1} ms", look.round_trip.as_secs_f64() * 1000.0);
    if look.round_trip > config.timeout.duration() {
        let message = format!("an answer took {took}, and cache.timeout is {}", config.timeout);
        let fix = "use a Redis that is nearer, or raise cache.timeout";
        found.push(Finding::warning("redis.slow", subject, message).fix(fix));
    } else {
        let message = format!("Redis {} answers in {took}", look.version);
        found.push(Finding::ok("redis.connect", subject, message));
    }
    if !look.is_master {
        let fix = "name its master in cache.url";
        found.push(Finding::warning("redis.replica", subject, "it is a replica, and takes no writes").fix(fix));
    }
    if let Some(refused) = &look.refuses {
        let fix = format!("allow its user scripts (EVAL, EVALSHA) and GET, SET on ~{}*", config.prefix);
        let message = "its user may not do what the cache does";
        found.push(Finding::warning("redis.permission", subject, message).seen(refused.clone()).fix(fix));
    }
    if look.max_memory > 0 && look.policy == "noeviction" {
        let message = "it refuses writes when it is full";
        let seen = format!("maxmemory {} bytes, maxmemory-policy noeviction", look.max_memory);
        let fix = "CONFIG SET maxmemory-policy allkeys-lru: everything that ruyi keeps there may be lost";
        found.push(Finding::warning("redis.eviction", subject, message).seen(seen).fix(fix));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Sources};

    #[test]
    fn an_answer_that_comes_too_late_is_none() {
        let config = Config::load(&Sources::default()).unwrap().cache;
        let look = Look {
            round_trip: Duration::from_millis(51),
            version: "7".into(),
            is_master: true,
            policy: "noeviction".into(),
            max_memory: 0,
            refuses: None,
        };
        let kinds: Vec<&str> = judge("r", &config, &look).iter().map(|finding| finding.check).collect();
        assert_eq!(kinds, ["redis.slow"]);
    }
}
