//! The node number of a process in one database: taken at the start, renewed, and given back.

use std::time::Duration;

use rand::RngExt;
use tokio_util::sync::CancellationToken;

use crate::db::{Db, DbError, node};
use crate::domain::event::Role;
use crate::domain::id::NODES;

/// Between two renewals.
const RENEW: Duration = Duration::from_millis(node::LEASE_MS.unsigned_abs() / 3);
/// Between two tries while it cannot be renewed.
const AGAIN: Duration = Duration::from_secs(1);

/// A name for this process that no other one has, on whichever machine: process ids repeat between containers.
#[expect(clippy::disallowed_methods, reason = "a name that nobody else has")]
pub(super) fn owner(now_ms: i64) -> String {
    format!("{}:{now_ms}:{:016x}", std::process::id(), rand::rng().random::<u64>())
}

/// Where the numbers for `roles` begin: roles with databases of their own then have numbers of their own as well, and
/// so ids that differ from each other's.
pub(super) fn first_number(roles: &[Role]) -> i64 {
    let place = roles.first().and_then(|role| Role::ALL.iter().position(|one| one == role)).unwrap_or(0);
    i64::try_from(place).unwrap_or(0) * (NODES / 4)
}

/// Renews the number of `db` until `token` is cancelled, by the time of the server. One that was lost is replaced;
/// meanwhile no ids are given out.
pub(super) async fn keep(db: Db, owner: String, first: i64, token: CancellationToken) {
    let mut pause = RENEW;
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            // The machine slept, so that time went on without us.
            () = db.ids().refused(), if pause == RENEW => {}
            // To renew is to write: when that succeeds, so does whatever else is to be written.
            () = soon_after_failure(&db), if pause == RENEW => {}
        }
        pause = match renew(&db, &owner, first).await {
            Ok(()) => {
                db.can_write();
                RENEW
            }
            Err(error) => {
                tracing::warn!(%error, "the node number could not be renewed");
                AGAIN
            }
        };
    }
}

/// Not at once, so that many failures are one renewal.
async fn soon_after_failure(db: &Db) {
    db.until_writes_fail().await;
    tokio::time::sleep(AGAIN).await;
}

async fn renew(db: &Db, owner: &str, first: i64) -> Result<(), DbError> {
    db.follow_server().await?;
    if !node::renew(db, owner).await? {
        let number = node::lease(db, owner, first).await?;
        tracing::warn!(number, "another process has our node number: took another one");
    }
    Ok(())
}
