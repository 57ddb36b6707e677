//! `request_key`: requests that were answered before, by their `Idempotency-Key`. For changes by a step, of which a
//! repetition is a second one unless somebody remembers the first.

use sha2::{Digest, Sha256};

use super::sql::{self, Columns, Val};
use super::{DbError, Tx};
use crate::vals;

/// How long a key is remembered.
const KEPT_MS: i64 = 30 * 86_400_000;

/// Keys that are forgotten with each new one at most: more than one, so that the table does not grow for ever.
const FORGOTTEN_AT_ONCE: i64 = 16;

/// The key of a request, with what it asks for.
#[derive(Clone, Debug)]
pub struct RequestKey {
    id: String,
    request_hash: String,
}

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing: it belongs to this request from now on.
    New,
    /// It belongs to this request, which was answered so.
    Answered(String),
    /// It belongs to another request.
    Other,
}

impl RequestKey {
    /// The `key` of a `caller` for what `action` does; `request` is all that it asks for.
    #[must_use]
    pub fn new(action: &str, caller: &str, key: &str, request: &str) -> Self {
        let mut hasher = Sha256::new();
        // With their lengths, so that no two of them are the same text.
        for part in [action, caller, key] {
            hasher.update(format!("{}:{part};", part.len()));
        }
        Self { id: hex::encode(hasher.finalize()), request_hash: hex::encode(Sha256::digest(request)) }
    }
}

/// Claims a key for this request: of two at once, one waits for the other's commit.
///
/// # Errors
/// The database's.
pub async fn claim(tx: &mut Tx, key: &RequestKey) -> Result<Known, DbError> {
    let now_ms = tx.now_ms();
    let row = vals![&key.id, &key.request_hash, "", now_ms];
    if sql::insert_ignore(tx, "request_key (id, request_hash, answer, created_at)", vec![row]).await?.is_all() {
        forget(tx, now_ms - KEPT_MS).await?;
        return Ok(Known::New);
    }
    let text = "SELECT request_hash, answer FROM request_key WHERE id = ?";
    match sql::fetch_one(tx, text, vals![&key.id]).await? {
        Some(row) if row.text(0)? == key.request_hash => Ok(Known::Answered(row.text(1)?)),
        Some(_) => Ok(Known::Other),
        None => Err(DbError::Row { table: "request_key", key: key.id.clone(), what: "it is gone again".to_owned() }),
    }
}

/// Remembers the answer, of at most 500 characters, to a request whose key was claimed in this transaction.
///
/// # Errors
/// The database's.
pub async fn answer(tx: &mut Tx, key: &RequestKey, answer: &str) -> Result<(), DbError> {
    sql::execute(tx, "UPDATE request_key SET answer = ? WHERE id = ?", vals![answer, &key.id]).await.map(|_| ())
}

/// Gives a key back that was claimed in this transaction, of a request that changed nothing.
///
/// # Errors
/// The database's.
pub async fn give_back(tx: &mut Tx, key: &RequestKey) -> Result<(), DbError> {
    sql::execute(tx, "DELETE FROM request_key WHERE id = ?", vals![&key.id]).await.map(|_| ())
}

async fn forget(tx: &mut Tx, before_ms: i64) -> Result<(), DbError> {
    let text = "SELECT id FROM request_key WHERE created_at < ? ORDER BY created_at LIMIT ?";
    let rows = sql::fetch(tx, text, vals![before_ms, FORGOTTEN_AT_ONCE]).await?;
    let mut ids = rows.iter().map(|row| row.text(0)).collect::<Result<Vec<_>, _>>()?;
    if ids.is_empty() {
        return Ok(());
    }
    ids.sort_unstable();
    let ids = ids.into_iter().map(Val::Text).collect();
    sql::execute_in(tx, "DELETE FROM request_key WHERE id", "", &[], ids).await.map(|_| ())
}
