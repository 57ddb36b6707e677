//! Claims: of all who have read that a row is due, one gets it.
//!
//! A claim compares. It changes only rows whose `next_at` is still the one that was read, and what it has changed is its
//! own, whatever the locks are worth: TiDB takes the words SKIP LOCKED and locks nothing. The lock clause of the read
//! only spares claimants the wait for each other.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use futures_util::future::BoxFuture;
use sqlx::any::AnyRow;

use super::sql::{self, Columns, Val};
use super::{DbError, Dialect, Tx};

tokio::task_local! {
    /// What a test does between the read and the change of a claim.
    static MEANWHILE: RefCell<Option<BoxFuture<'static, ()>>>;
}

/// For tests: runs `claim` as on a server where the read locks nothing, and `meanwhile` between its read and its change.
pub async fn unlocked<T>(meanwhile: BoxFuture<'static, ()>, claim: impl Future<Output = T>) -> T {
    MEANWHILE.scope(RefCell::new(Some(meanwhile)), claim).await
}

/// Bytes of the bodies of one claim at most, unless its first row has more.
pub const MAX_BYTES: usize = 16 << 20;

/// Of rows that are due, read as (id, `next_at`, bytes, ...), in their order: as many as one claim may hold, as (id,
/// `next_at`).
pub(super) fn affordable(due: &[AnyRow]) -> Result<Vec<(i64, i64)>, DbError> {
    let (mut held, mut bytes) = (Vec::with_capacity(due.len()), 0_usize);
    for row in due {
        bytes = bytes.saturating_add(usize::try_from(row.int(2)?).unwrap_or(usize::MAX));
        if !held.is_empty() && bytes > MAX_BYTES {
            break;
        }
        held.push((row.int(0)?, row.int(1)?));
    }
    Ok(held)
}

/// The rows of a claim in the order in which they fell due, each after the time at which it did.
pub(super) fn as_due<Row>(
    due: Vec<(i64, i64)>,
    claimed: Vec<Row>,
    id: impl Fn(&Row) -> i64,
) -> impl Iterator<Item = (i64, Row)> {
    let mut claimed: HashMap<i64, Row> = claimed.into_iter().map(|row| (id(&row), row)).collect();
    due.into_iter().filter_map(move |(id, was)| Some((was, claimed.remove(&id)?)))
}

/// The end of the read of a claim: it leaves out what others are about to take.
pub(super) fn lock_clause(dialect: Dialect) -> &'static str {
    if MEANWHILE.try_with(|_| ()).is_ok() { "" } else { dialect.skip_locked() }
}

/// Of the rows that a claim has read, those that it has taken.
pub(super) fn of_us<'r>(rows: &'r [AnyRow], taken: &HashSet<i64>) -> impl Iterator<Item = &'r AnyRow> {
    rows.iter().filter(|row| row.int(0).is_ok_and(|id| taken.contains(&id)))
}

/// What is claimed, and what a claim changes besides `next_at`. Its key is `id`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    /// Table.
    pub table: &'static str,
    /// Columns that take the end of the lease; `next_at` is the first.
    pub until: &'static [&'static str],
    /// Columns that are emptied.
    pub emptied: &'static [&'static str],
    /// A column that counts claims, and the one whose number it begins with.
    pub counted: Option<(&'static str, &'static str)>,
}

/// A number that no other claim has, whichever process makes it and whatever node number that has.
#[expect(clippy::disallowed_methods, reason = "a number that nobody else has")]
fn draw() -> i64 {
    i64::from_ne_bytes(rand::random())
}

/// Takes rows until `until_ms`: of `read`, as (id, `next_at` as it was read), those that nobody has taken or moved
/// since.
///
/// # Errors
/// The database's.
pub(super) async fn take(
    tx: &mut Tx,
    claim: Claim,
    mut read: Vec<(i64, i64)>,
    until_ms: i64,
) -> Result<HashSet<i64>, DbError> {
    if let Ok(Some(meanwhile)) = MEANWHILE.try_with(RefCell::take) {
        meanwhile.await;
    }
    let claim_id = draw();
    // Whoever waits for whom: always in the same order.
    read.sort_unstable();
    let mut taken = HashSet::with_capacity(read.len());
    let mut rest = read.as_slice();
    while !rest.is_empty() {
        let (rows, others) = rest.split_at(sql::chunk_of(rest.len()));
        rest = others;

        let mut vals: Vec<Val> = rows.iter().flat_map(|(id, was)| [Val::Int(*id), Val::Int(*was)]).collect();
        vals.push(Val::Int(claim_id));
        vals.extend(vec![Val::Int(until_ms); claim.until.len()]);
        let text = tx.dialect().claim_rows(&claim, rows.len());
        let changed = sql::execute(tx, text, vals).await?;

        let ids = rows.iter().map(|(id, _)| *id);
        if changed == rows.len() as u64 {
            taken.extend(ids);
        } else if changed > 0 {
            let before = format!("SELECT id FROM {} WHERE claim_id = ? AND id", claim.table);
            let ours = sql::select_in(tx, &before, "", &[Val::Int(claim_id)], ids.map(Val::Int).collect()).await?;
            for row in &ours {
                taken.insert(row.int(0)?);
            }
        }
    }
    Ok(taken)
}
