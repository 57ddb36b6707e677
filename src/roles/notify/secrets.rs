//! The secrets that sign what merchants are told: a new one, beside those that were promised to sign for a while.

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::db::merchants::{self, Merchant, OldSecret};
use crate::db::requests::{self, Known, RequestKey};
use crate::db::{DbError, Tx};

/// Secrets beside the present one at most: each is a signature in a header of every call.
pub const MOST_OLD: usize = 8;

/// A wish for a new secret.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// Merchant.
    pub merchant_id: i64,
    /// The new one.
    pub secret: SecretString,
    /// How long the present one signs as well.
    pub keep_ms: i64,
    /// Of the request, where it has one.
    pub key: Option<RequestKey>,
}

/// What became of it.
#[derive(Debug)]
pub enum Rotated {
    /// The merchant with its new secret.
    Done(Box<Merchant>),
    /// The new secret of an earlier request with the same key.
    Replayed(Box<Merchant>),
    /// The key belongs to another request.
    KeyReused,
    /// An earlier request with the same key made a secret that is not the present one any more.
    Replaced,
    /// So many earlier ones still sign that there is no room for another.
    TooMany,
    /// There is no such merchant.
    Unknown,
}

/// Gives a merchant a new secret. Those before it sign for as long as was said when they were replaced.
///
/// # Errors
/// The database's.
pub async fn rotate(tx: &mut Tx, rotation: Rotation) -> Result<Rotated, DbError> {
    let Rotation { merchant_id, secret, keep_ms, key } = rotation;
    let Some(known) = merchants::lock(tx, vec![merchant_id]).await?.remove(&merchant_id) else {
        return Ok(Rotated::Unknown);
    };
    if let Some(key) = &key {
        match requests::claim(tx, key).await? {
            Known::New => {}
            Known::Answered(made) if made == digest(&known.secret) => return Ok(Rotated::Replayed(Box::new(known))),
            Known::Answered(_) => return Ok(Rotated::Replaced),
            Known::Other => return Ok(Rotated::KeyReused),
        }
    }
    let now_ms = tx.now_ms();
    let present = OldSecret { secret: known.secret.clone(), until: now_ms + keep_ms };
    let old: Vec<OldSecret> =
        [&present].into_iter().chain(&known.old).filter(|old| now_ms < old.until).cloned().collect();
    if old.len() > MOST_OLD {
        if let Some(key) = &key {
            requests::give_back(tx, key).await?;
        }
        return Ok(Rotated::TooMany);
    }

    let merchant = Merchant { secret, old, updated_at: now_ms, ..known };
    merchants::put(tx, &merchant).await?;
    if let Some(key) = &key {
        requests::answer(tx, key, &digest(&merchant.secret)).await?;
    }
    Ok(Rotated::Done(Box::new(merchant)))
}

/// What is remembered of a secret: enough to know it again.
fn digest(secret: &SecretString) -> String {
    hex::encode(Sha256::digest(secret.expose_secret()))
}
