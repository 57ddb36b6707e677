//! Knows whether the server answers: while it does not, one caller at a time waits for it, and the others are told at
//! once. So an outage fills no queues, and its end is noticed as soon as it comes.

use std::sync::atomic::{AtomicBool, Ordering};

use super::DbError;

/// The way to the connections of one database.
#[derive(Debug, Default)]
pub(super) struct Gate {
    away: AtomicBool,
    probing: AtomicBool,
}

/// Lets the next one probe, also when this one is dropped half-way.
struct Probe<'a>(&'a AtomicBool);

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Gate {
    /// Waits for `connection`, unless it is known to be in vain.
    pub async fn pass<T>(&self, connection: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, DbError> {
        let _probe = if !self.away.load(Ordering::Acquire) {
            None
        } else if self.probing.swap(true, Ordering::AcqRel) {
            return Err(DbError::Away);
        } else {
            Some(Probe(&self.probing))
        };
        let got = connection.await.map_err(DbError::from);
        match &got {
            Ok(_) if self.away.swap(false, Ordering::AcqRel) => tracing::info!("the database answers again"),
            Err(error) if error.is_outage() && !self.away.swap(true, Ordering::AcqRel) => {
                tracing::warn!(%error, "the database does not answer");
            }
            _ => {}
        }
        got
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_waits_for_a_server_that_is_away() {
        let gate = Gate::default();
        let failed = gate.pass(async { Err::<(), _>(sqlx::Error::PoolTimedOut) }).await;
        assert!(matches!(failed, Err(DbError::Sql(_))));
        let (answer, wait) = tokio::sync::oneshot::channel();
        let probe = gate.pass(async { wait.await.map_err(|_| sqlx::Error::PoolTimedOut) });
        let other = async {
            let refused = gate.pass(async { Ok(2) }).await.unwrap_err();
            assert!(matches!(refused, DbError::Away) && refused.is_outage());
            answer.send(1).unwrap();
        };
        let (probed, ()) = tokio::join!(probe, other);
        assert_eq!(probed.unwrap(), 1);
        assert_eq!(gate.pass(async { Ok(3) }).await.unwrap(), 3);

        // A probe that is given up half-way leaves the place to the next.
        let _ = gate.pass(async { Err::<(), _>(sqlx::Error::PoolTimedOut) }).await;
        let stuck = gate.pass(std::future::pending::<Result<(), sqlx::Error>>());
        assert!(tokio::time::timeout(std::time::Duration::from_millis(1), stuck).await.is_err());
        assert_eq!(gate.pass(async { Ok(4) }).await.unwrap(), 4);
    }
}
