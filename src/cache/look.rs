//! What an operator wants to know of a Redis server. Nothing is written to it.

use std::collections::HashMap;
use std::time::Duration;

use redis::{Client, Script};
use tokio::time::Instant;

use super::{CacheError, remote};
use crate::config;

/// What a server says of itself and of us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Of one call.
    pub round_trip: Duration,
    /// Its version.
    pub version: String,
    /// False for a replica: it takes no writes.
    pub is_master: bool,
    /// What it does when it is full.
    pub policy: String,
    /// Most memory that it takes, bytes; 0 is no limit.
    pub max_memory: u64,
    /// Why our scripts cannot read and write our keys, if they cannot.
    pub refuses: Option<String>,
}

/// Asks the server of `config`, and waits at most `limit` for it.
///
/// # Errors
/// [`CacheError`] when it cannot be reached or does not let us in.
pub async fn look(config: &config::Cache, limit: Duration) -> Result<Look, CacheError> {
    let asked = ask(config);
    let late = || redis::RedisError::from((redis::ErrorKind::Io, "no answer in time"));
    tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| Err(CacheError::Redis(late())))
}

async fn ask(config: &config::Cache) -> Result<Look, CacheError> {
    let client: Client = remote::client(config)?;
    let mut connection = client.get_multiplexed_async_connection().await.map_err(CacheError::Redis)?;
    redis::cmd("PING").exec_async(&mut connection).await.map_err(CacheError::Redis)?;
    let started = Instant::now();
    redis::cmd("PING").exec_async(&mut connection).await.map_err(CacheError::Redis)?;
    let round_trip = started.elapsed();
    // Where INFO is not allowed, that is no fault.
    let info: String = redis::cmd("INFO").query_async(&mut connection).await.unwrap_or_default();
    let info: HashMap<&str, &str> = info.lines().filter_map(|line| line.split_once(':')).collect();
    let text = |name: &str| info.get(name).copied().unwrap_or_default().trim().to_owned();
    // The server judges what we would be allowed, and does nothing.
    let script = Script::new(
        "for _, command in ipairs({'GET', 'SET'}) do \
           local arguments = command == 'GET' and {KEYS[1]} or {KEYS[1], '1'} \
           if redis.acl_check_cmd and not redis.acl_check_cmd(command, unpack(arguments)) then return command end \
         end \
         return ''",
    );
    let key = format!("{}doctor", config.prefix);
    let refused: Result<String, _> = script.key(key.as_str()).invoke_async(&mut connection).await;
    let refuses = match refused {
        Ok(command) if command.is_empty() => None,
        Ok(command) => Some(format!("{command} {key} is not allowed")),
        Err(error) => Some(format!("scripts: {error}")),
    };
    Ok(Look {
        round_trip,
        version: text("redis_version"),
        is_master: text("role") != "slave",
        policy: text("maxmemory_policy"),
        max_memory: text("maxmemory").parse().unwrap_or(0),
        refuses,
    })
}
