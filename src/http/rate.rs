//! Requests per second, of each API key: what one caller does too much, the others do not feel.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::problem::{Problem, RETRY_AFTER_SECONDS};
use crate::cache::SharedRate;

/// The limit of one key: of all processes of the role while Redis answers, else of this one.
#[derive(Clone, Debug)]
pub(super) struct Rate {
    shared: Option<SharedRate>,
    own: Arc<Bucket>,
}

impl Rate {
    pub fn new(per_second: u32, shared: Option<SharedRate>) -> Self {
        Self { shared, own: Arc::new(Bucket::new(per_second)) }
    }

    /// Takes one request of what is granted.
    ///
    /// # Errors
    /// 429 when there is none.
    pub async fn take(&self) -> Result<(), Problem> {
        let granted = match &self.shared {
            Some(shared) => shared.take().await,
            None => None,
        };
        if granted.unwrap_or_else(|| self.own.take(Instant::now())) {
            return Ok(());
        }
        let detail = "more requests per second with this API key than allowed (http.rate_limit)";
        Err(Problem::too_many(detail, RETRY_AFTER_SECONDS))
    }
}

/// A token bucket that holds one second's worth.
#[derive(Debug)]
struct Bucket {
    per_second: f64,
    state: Mutex<(f64, Option<Instant>)>,
}

impl Bucket {
    fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second);
        Self { per_second, state: Mutex::new((per_second, None)) }
    }

    fn take(&self, now: Instant) -> bool {
        // The two numbers are always a valid state, also after a panic elsewhere.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let since = state.1.map_or(0.0, |then| now.saturating_duration_since(then).as_secs_f64());
        let tokens = (state.0 + since * self.per_second).min(self.per_second);
        let granted = tokens >= 1.0;
        *state = (if granted { tokens - 1.0 } else { tokens }, Some(now));
        granted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_holds_one_second() {
        let (bucket, start) = (Bucket::new(2), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert!(bucket.take(at(0)) && bucket.take(at(0)) && !bucket.take(at(0)));
        assert!(!bucket.take(at(400)) && bucket.take(at(500)) && !bucket.take(at(500)));
        assert!(
            bucket.take(at(9_000)) && bucket.take(at(9_000)) && !bucket.take(at(9_000)),
            "not more than one second"
        );
        assert!(!bucket.take(at(0)), "time that runs backwards grants nothing");
    }
}
