//! One time for all processes of a database: that of its server. Leases, walks and the time to pay of an order compare
//! times that different machines have written, and a machine whose clock is wrong would take what is not due.

use std::time::Instant;

use super::{Db, DbError, look};

/// What the question itself may cost, and what clocks that are kept right differ by: no reason for a correction, ms.
const AGREE_MS: i64 = 1_000;

impl Db {
    /// Corrects the clock of this handle by that of the server, and tells when the machine's clock is wrong; by how much it
    /// is corrected, ms. SQLite has no server, and a manual clock is never wrong.
    ///
    /// # Errors
    /// The database's: the correction stays as it was.
    pub async fn follow_server(&self) -> Result<i64, DbError> {
        let clock = self.clock();
        if clock.is_manual() {
            return Ok(0);
        }
        let mut conn = self.read().await?;
        let (asked, before_ms) = (Instant::now(), clock.now_ms() - clock.correction_ms());
        let Some(server_ms) = look::now_ms(&mut conn).await? else { return Ok(0) };
        let took_ms = i64::try_from(asked.elapsed().as_millis()).unwrap_or(i64::MAX);

        // The server was asked somewhere in between.
        let skew_ms = server_ms - (before_ms + took_ms / 2);
        let correction_ms = if skew_ms.abs() <= AGREE_MS.saturating_add(took_ms) { 0 } else { skew_ms };
        let known_ms = clock.correction_ms();
        if (correction_ms - known_ms).abs() > AGREE_MS.saturating_add(took_ms) || correction_ms == 0 {
            clock.correct(correction_ms);
            match (known_ms, correction_ms) {
                (0, 0) => {}
                (_, 0) => tracing::info!("the clock of this machine agrees with that of the database again"),
                _ => tracing::error!(
                    skew_ms,
                    "the clock of this machine is not that of the database, whose time counts: run a time service"
                ),
            }
        }
        Ok(clock.correction_ms())
    }
}
