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
    pub async fn pass<T>(&self, connection: impl Future<Output = Result<T, DbError>>) -> Result<T, DbError> {
        let _probe = if !self.away.load(Ordering::Acquire) {
            None
        } else if self.probing.swap(true, Ordering::AcqRel) {
            return Err(DbError::Away);
        } else {
            Some(Probe(&self.probing))
        };
        let got = connection.await;
        match &got {
            Ok(_) if self.away.swap(false, Ordering::AcqRel) => tracing::info!("the database answers again"),
            // That many wait for connections does not mean that the server is away.
            Err(error)
                if error.is_outage() && !matches!(error, DbError::Busy) && !self.away.swap(true, Ordering::AcqRel) =>
            {
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

    const LIMIT: std::time::Duration = std::time::Duration::from_secs(4);

    #[tokio::test]
    async fn one_at_a_time_waits_for_a_server_that_is_away() {
        let gate = Gate::default();
        let failed = gate.pass(async { Err::<(), _>(DbError::Silent(LIMIT)) }).await;
        assert!(matches!(failed, Err(DbError::Silent(_))));
        let (answer, wait) = tokio::sync::oneshot::channel();
        let probe = gate.pass(async { wait.await.map_err(|_| DbError::Silent(LIMIT)) });
        let other = async {
            let refused = gate.pass(async { Ok(2) }).await.unwrap_err();
            assert!(matches!(refused, DbError::Away) && refused.is_outage());
            answer.send(1).unwrap();
        };
        let (probed, ()) = tokio::join!(probe, other);
        assert_eq!(probed.unwrap(), 1);
        assert_eq!(gate.pass(async { Ok(3) }).await.unwrap(), 3);

        // A server that answers is not away, however many wait for its connections.
        assert!(matches!(gate.pass(async { Err::<(), _>(DbError::Busy) }).await, Err(DbError::Busy)));
        assert!(matches!(gate.pass(async { Err::<(), _>(DbError::Busy) }).await, Err(DbError::Busy)));

        // A probe that is given up half-way leaves the place to the next.
        let _ = gate.pass(async { Err::<(), _>(DbError::Silent(LIMIT)) }).await;
        let stuck = gate.pass(std::future::pending::<Result<(), DbError>>());
        assert!(tokio::time::timeout(std::time::Duration::from_millis(1), stuck).await.is_err());
        assert_eq!(gate.pass(async { Ok(4) }).await.unwrap(), 4);
    }
}
