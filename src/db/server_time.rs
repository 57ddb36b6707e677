//! One time for all processes of a database: that of its server. Leases, walks and the time to pay of an order compare
//! times that different machines have written, and a machine whose clock is wrong would take what is not due.

use std::time::Instant;

use sqlx::AnyConnection;

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
        if self.clock().is_manual() {
            return Ok(0);
        }
        let mut conn = self.read().await?;
        self.ask_time(&mut conn).await
    }

    /// Asks for the time before anything is written where the machine's clock was set since it was asked for last: with
    /// a wrong time whatever is open would be due, or what is written would be due at once.
    pub(super) async fn mind_a_set_clock(&self, conn: &mut AnyConnection) -> Result<(), DbError> {
        if !self.clock().was_set() {
            return Ok(());
        }
        tracing::warn!("the clock of this machine was set, or the machine slept");
        self.ask_time(conn).await.map(|_| ())
    }

    async fn ask_time(&self, conn: &mut AnyConnection) -> Result<i64, DbError> {
        let clock = self.clock();
        let (asked, machine_ms) = (Instant::now(), clock.machine_ms());
        let answer = look::now_ms(conn).await?;
        clock.compared(machine_ms, asked);
        let Some(server_ms) = answer else { return Ok(0) };
        let took_ms = i64::try_from(asked.elapsed().as_millis()).unwrap_or(i64::MAX);

        // The server was asked somewhere in between.
        let skew_ms = server_ms - (machine_ms + took_ms / 2);
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
