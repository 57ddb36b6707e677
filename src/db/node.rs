//! `node_lease`: which process has which node number. The number is part of every id, so two processes must not have
//! the same at the same time.

use super::sql::{self, Columns};
use super::{Db, DbError, Tx};
use crate::domain::id::NODES;
use crate::vals;

/// How long a lease holds; it is renewed each third of this.
pub const LEASE_MS: i64 = 60_000;

/// Takes the first free node number for `owner`.
///
/// # Errors
/// The database's; [`DbError::Config`] when all numbers are taken.
pub async fn lease(db: &Db, owner: &str) -> Result<i64, DbError> {
    // A number that is in no row cannot be locked: of two who want it one fails on the key, and looks again. Each time
    // somebody else has got one, so it ends.
    for _ in 1..NODES {
        match lease_once(db, owner).await {
            Err(error) if error.is_unique_violation() => {}
            done => return done,
        }
    }
    lease_once(db, owner).await
}

async fn lease_once(db: &Db, owner: &str) -> Result<i64, DbError> {
    let owner = owner.to_owned();
    let node = db
        .write("node", move |tx| {
            let owner = owner.clone();
            Box::pin(async move { take(tx, &owner).await })
        })
        .await?;
    db.ids().set_node(node);
    Ok(node)
}

async fn take(tx: &mut Tx, owner: &str) -> Result<i64, DbError> {
    let now_ms = tx.now_ms();
    let text = format!("SELECT node, lease_until FROM node_lease ORDER BY node{}", tx.dialect().for_update());
    let rows = sql::fetch(tx, text, vec![]).await?;
    let mut next = 0;
    for row in &rows {
        let (node, until) = (row.int(0)?, row.int(1)?);
        if node == next && until > now_ms {
            next += 1;
        } else {
            break;
        }
    }
    if next >= NODES {
        return Err(DbError::Config(format!("all {NODES} node numbers are leased: stop some processes")));
    }
    // Only one that has run out: since the SELECT another process may have taken a number that was in no row.
    let text = "DELETE FROM node_lease WHERE node = ? AND lease_until <= ?";
    sql::execute(tx, text, vals![next, now_ms]).await?;
    let text = "INSERT INTO node_lease (node, owner, lease_until) VALUES (?, ?, ?)";
    sql::execute(tx, text, vals![next, owner, now_ms + LEASE_MS]).await?;
    Ok(next)
}

/// Renews a lease; false when it was lost to another owner.
///
/// # Errors
/// The database's.
pub async fn renew(db: &Db, node: i64, owner: &str) -> Result<bool, DbError> {
    let owner = owner.to_owned();
    db.write("node", move |tx| {
        let owner = owner.clone();
        Box::pin(async move {
            let until = tx.now_ms() + LEASE_MS;
            let text = "UPDATE node_lease SET lease_until = ? WHERE node = ? AND owner = ?";
            Ok(sql::execute(tx, text, vals![until, node, owner]).await? == 1)
        })
    })
    .await
}

/// Gives a number back.
///
/// # Errors
/// The database's.
pub async fn release(db: &Db, node: i64, owner: &str) -> Result<(), DbError> {
    let owner = owner.to_owned();
    db.write("node", move |tx| {
        let owner = owner.clone();
        Box::pin(async move {
            let text = "DELETE FROM node_lease WHERE node = ? AND owner = ?";
            sql::execute(tx, text, vals![node, owner]).await.map(|_| ())
        })
    })
    .await
}
