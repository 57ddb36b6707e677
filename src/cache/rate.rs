//! One rate limit for all processes of a role: the generic cell rate algorithm in Redis, by Redis's own clock.

use std::fmt;
use std::sync::{Arc, LazyLock};

use redis::Script;

use super::remote::Remote;

/// KEYS: the limit. ARGV: microseconds between two requests. 1: granted. One second's worth may come at once.
static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local time = redis.call('TIME')
         local now, step = time[1] * 1000000 + time[2], tonumber(ARGV[1])
         local known = redis.pcall('GET', KEYS[1])
         local next = type(known) == 'string' and tonumber(known) or now
         -- More than a second ahead is not from here.
         if next < now or next > now + 1000000 + step then next = now end
         if next - now > 1000000 - step then return 0 end
         redis.call('SET', KEYS[1], string.format('%.0f', next + step), 'PX', 2000)
         return 1",
    )
});

/// A rate limit that several processes share.
#[derive(Clone)]
pub struct SharedRate {
    remote: Arc<Remote>,
    key: String,
    step_us: u64,
}

impl fmt::Debug for SharedRate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("SharedRate").field(&self.key).finish()
    }
}

impl SharedRate {
    pub(super) fn new(remote: Arc<Remote>, name: &str, per_second: u32) -> Self {
        let key = remote.key("rate", name);
        Self { remote, key, step_us: 1_000_000 / u64::from(per_second.max(1)) }
    }

    /// The limit of one caller.
    #[must_use]
    pub fn of(&self, caller: &str) -> Self {
        Self { key: format!("{}:{caller}", self.key), ..self.clone() }
    }

    /// Whether a request may pass; `None` when Redis does not say, and the caller has to decide by itself.
    pub async fn take(&self) -> Option<bool> {
        let mut call = TAKE.prepare_invoke();
        call.key(&self.key).arg(self.step_us);
        Some(self.remote.run::<i64>(&call).await? == 1)
    }
}
