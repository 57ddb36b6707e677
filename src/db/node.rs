//! `node_lease`: which process has which node number. The number is part of every id, so two processes must not have
//! the same at the same time.

use std::collections::HashSet;

use super::sql::{self, Columns};
use super::{Db, DbError, Tx};
use crate::domain::id::NODES;
use crate::vals;

/// How long a lease holds; it is renewed each third of this.
pub const LEASE_MS: i64 = 60_000;

/// Numbers that can be leased.
const LEASED: i64 = NODES - 1;

/// Takes a free node number for `owner`, who must be unique: the first one from `first` on. It is that of [`Db::ids`]
/// from now on.
///
/// # Errors
/// The database's; [`DbError::Config`] when all numbers are taken.
pub async fn lease(db: &Db, owner: &str, first: i64) -> Result<i64, DbError> {
    // A number that is in no row cannot be locked: of two who want it one fails on the key, and looks again. Each time
    // somebody else has got one, so it ends.
    for _ in 1..LEASED {
        match lease_once(db, owner, first).await {
            Err(error) if error.is_unique_violation() => {}
            done => return done,
        }
    }
    lease_once(db, owner, first).await
}

async fn lease_once(db: &Db, owner: &str, first: i64) -> Result<i64, DbError> {
    let owner = owner.to_owned();
    let (node, from_ms) = db
        .write("node", move |tx| {
            let owner = owner.clone();
            Box::pin(async move { take(tx, &owner, first).await })
        })
        .await?;
    db.ids().set(node, from_ms, from_ms + LEASE_MS);
    Ok(node)
}

async fn take(tx: &mut Tx, owner: &str, first: i64) -> Result<(i64, i64), DbError> {
    let now_ms = tx.now_ms();
    let text = format!("SELECT node, lease_until FROM node_lease ORDER BY node{}", tx.dialect().for_update());
    let mut taken = HashSet::new();
    for row in &sql::fetch(tx, text, vec![]).await? {
        let (node, until) = (row.int(0)?, row.int(1)?);
        if until > now_ms {
            taken.insert(node);
        }
    }
    let first = first.rem_euclid(LEASED);
    let free = (first..LEASED).chain(0..first).find(|node| !taken.contains(node));
    let Some(node) = free else {
        return Err(DbError::Config(format!("all {LEASED} node numbers are leased: stop some processes")));
    };
    // Only one that has run out: since the SELECT another process may have taken a number that was in no row.
    let text = "UPDATE node_lease SET owner = ?, lease_until = ? WHERE node = ? AND lease_until <= ?";
    if sql::execute(tx, text, vals![owner, now_ms + LEASE_MS, node, now_ms]).await? == 0 {
        let text = "INSERT INTO node_lease (node, owner, lease_until) VALUES (?, ?, ?)";
        sql::execute(tx, text, vals![node, owner, now_ms + LEASE_MS]).await?;
    }
    Ok((node, now_ms))
}

/// Renews a lease: binds its end, the number and the owner.
pub(super) const RENEW: &str = "UPDATE node_lease SET lease_until = ? WHERE node = ? AND owner = ?";

/// Renews the lease; false when it was lost to another owner.
///
/// # Errors
/// The database's.
pub async fn renew(db: &Db, owner: &str) -> Result<bool, DbError> {
    let owner = owner.to_owned();
    let (node, until_ms) = db.ids().lease();
    let renewed = db
        .write("node", move |tx| {
            let owner = owner.clone();
            Box::pin(async move {
                // Never earlier than before, whatever the clock does: ids up to then may have been given out.
                let until_ms = until_ms.max(tx.now_ms() + LEASE_MS);
                Ok((sql::execute(tx, RENEW, vals![until_ms, node, owner]).await? == 1).then_some(until_ms))
            })
        })
        .await?;
    if let Some(until_ms) = renewed {
        db.ids().extend(until_ms);
    }
    Ok(renewed.is_some())
}

/// Gives the number back; no more ids are given out.
///
/// # Errors
/// The database's.
pub async fn release(db: &Db, owner: &str) -> Result<(), DbError> {
    let owner = owner.to_owned();
    let (node, _) = db.ids().lease();
    let end_ms = db.ids().end();
    db.write("node", move |tx| {
        let owner = owner.clone();
        Box::pin(async move {
            // The row stays: under load or with a fast clock, ids may lie ahead of the clock of who comes next.
            let text = "UPDATE node_lease SET owner = '', lease_until = ? WHERE node = ? AND owner = ?";
            sql::execute(tx, text, vals![end_ms, node, owner]).await.map(|_| ())
        })
    })
    .await
}
